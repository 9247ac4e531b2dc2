//! Reads the counters: plain loads from memory, no system call.

use std::sync::Arc;

use lb_common::abi::counter::{Counter, backend_slot, reason_slot, service_slot};
use lb_common::abi::reason::Reason;

use super::generation::Generation;

/// Counters summed over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// By reason, in the order of [`Reason::ALL`].
    pub reasons: Vec<(Reason, Counter)>,
    /// By service: first those of the configuration in the order of their ids, then one per VIP.
    pub services: Vec<Counter>,
    /// By backend in the order of their ids.
    pub backends: Vec<Counter>,
}

/// Reads counters.
#[derive(Clone, Debug)]
pub struct CounterReader {
    generation: Arc<Generation>,
}

impl CounterReader {
    pub(super) const fn new(generation: Arc<Generation>) -> Self {
        Self { generation }
    }

    /// All counters as they stand. They start at 0 with each generation, so at each change of the configuration.
    #[must_use]
    pub fn read(&self) -> Counters {
        let root = self.generation.root();
        let services = root.counter_services;
        let backends = self.generation.backends.len() as u32;
        let sum = |slot: u32| self.sum(slot, root.counter_stride, root.counter_cpus);
        Counters {
            reasons: Reason::ALL.iter().map(|&reason| (reason, sum(reason_slot(reason)))).collect(),
            services: (0..services).map(|service| sum(service_slot(service))).collect(),
            backends: (0..backends).map(|backend| sum(backend_slot(services, backend))).collect(),
        }
    }

    fn sum(&self, slot: u32, stride: u32, cpus: u32) -> Counter {
        let blocks =
            (0..cpus).filter_map(|cpu| self.generation.counters.read((cpu * stride + slot) as usize));
        blocks.fold(Counter::default(), |sum, block| Counter {
            packets: sum.packets.wrapping_add(block.packets),
            bytes: sum.bytes.wrapping_add(block.bytes),
            opening: sum.opening.wrapping_add(block.opening),
            dropped: sum.dropped.wrapping_add(block.dropped),
        })
    }
}
