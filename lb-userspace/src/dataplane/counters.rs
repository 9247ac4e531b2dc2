//! Reads the counters: plain loads from memory, no system call.
//!
//! Behind the blocks of the CPUs lies one more, which only the daemon writes. It holds what was counted in maps that could not be
//! handed on, and, under [`Reason::Forwarded`], what backends forwarded whose index was given up. So sums never go back.

use std::sync::Arc;

use lb_common::abi::counter::{Counter, Note, backend_slot, note_slot, reason_slot, service_slot};
use lb_common::abi::reason::Reason;

use super::generation::Generation;
use crate::plan::ids::{BackendIndex, Ids, ServiceIndex};

/// Counters summed over all CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// By reason, in the order of [`Reason::ALL`].
    pub reasons: Vec<(Reason, Counter)>,
    /// By service, in the order of their ids.
    pub services: Vec<Counter>,
    /// By backend, in the order of their ids.
    pub backends: Vec<Counter>,
    /// What was forwarded to all backends that there ever were.
    pub forwarded: Counter,
}

/// Reads counters.
#[derive(Clone, Debug)]
pub struct CounterReader {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
}

impl CounterReader {
    pub(super) const fn new(generation: Arc<Generation>, ids: Arc<Ids>) -> Self {
        Self { generation, ids }
    }

    /// All counters as they stand. They go on over changes of the configuration, restarts and crashes.
    #[must_use]
    pub fn read(&self) -> Counters {
        let reasons: Vec<_> =
            Reason::ALL.iter().map(|&reason| (reason, self.slot(reason_slot(reason)))).collect();
        let all = (0..self.generation.backends.len() as u32).map(|at| self.backend(BackendIndex(at)));
        let departed = self.slot(reason_slot(Reason::Forwarded));
        Counters {
            reasons,
            services: self.ids.services().iter().map(|&index| self.service(index)).collect(),
            backends: self.ids.backends().iter().map(|&index| self.backend(index)).collect(),
            forwarded: all.fold(departed, add),
        }
    }

    /// The counter of a backend, also of one that left the configuration.
    #[must_use]
    pub fn backend(&self, index: BackendIndex) -> Counter {
        self.slot(backend_slot(self.generation.root().counter_services, index.0))
    }

    /// The counter of a service, also of one that left the configuration.
    #[must_use]
    pub fn service(&self, index: ServiceIndex) -> Counter {
        self.slot(service_slot(index.0))
    }

    /// How often each note was taken, in the order of their numbers.
    #[must_use]
    pub fn notes(&self) -> Vec<(Note, u64)> {
        Note::ALL.iter().map(|&note| (note, self.slot(note_slot(note)).packets)).collect()
    }

    fn slot(&self, slot: u32) -> Counter {
        let root = self.generation.root();
        sum(&self.generation, slot, root.counter_stride, root.counter_cpus)
    }
}

/// A slot over all CPUs and the daemon's block.
pub(super) fn sum(generation: &Generation, slot: u32, stride: u32, cpus: u32) -> Counter {
    let blocks = (0..=cpus).filter_map(|cpu| generation.counters.read((cpu * stride + slot) as usize));
    blocks.fold(Counter::default(), add)
}

/// Both together.
pub(super) const fn add(a: Counter, b: Counter) -> Counter {
    Counter {
        packets: a.packets.wrapping_add(b.packets),
        bytes: a.bytes.wrapping_add(b.bytes),
        opening: a.opening.wrapping_add(b.opening),
        dropped: a.dropped.wrapping_add(b.dropped),
    }
}
