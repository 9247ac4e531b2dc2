//! Lets someone watch a decision. The XDP program passes [`Silent`], which compiles to nothing.

use crate::abi::admission::Admission;

/// One step of a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The client's region was looked up.
    ClientRegion {
        /// Index of the client region, 0 for the default one.
        region: u32,
    },
    /// The plan was chosen.
    Plan {
        /// Index into the `PLANS` map.
        plan: u32,
    },
    /// The flow's home was looked at: first slot in the plan's first pool.
    Home {
        /// The member in the slot.
        backend: u32,
        /// Whether it, all domains above it and the pool are open and always were. The flow goes there without further ado
        /// then.
        open: bool,
    },
    /// A pool was looked at.
    Pool {
        /// Index into the `POOLS` map.
        pool: u32,
        /// Its admission word.
        admission: Admission,
        /// Whether this is the last resort of a service that fails open.
        ignore_health: bool,
        /// Whether the flow may enter it.
        entered: bool,
    },
    /// The flow table was asked.
    FlowTable {
        /// What it said.
        backend: Option<u32>,
    },
    /// A slot of a pool's table was tried.
    Probe {
        /// Number of the probe, from 0.
        probe: u32,
        /// The member in the slot.
        backend: u32,
        /// Its combined admission word.
        admission: Admission,
        /// Whether it took the flow.
        taken: bool,
    },
    /// The flow was written into the flow table.
    Remembered,
}

/// A watcher of decisions.
pub trait Trace {
    /// A step was taken.
    fn step(&mut self, step: Step);
}

/// Watches nothing, at no cost.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Trace for Silent {
    #[inline(always)]
    fn step(&mut self, _: Step) {}
}

#[cfg(any(test, feature = "alloc"))]
impl Trace for alloc::vec::Vec<Step> {
    fn step(&mut self, step: Step) {
        self.push(step);
    }
}
