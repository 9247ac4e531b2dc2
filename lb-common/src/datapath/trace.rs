//! Lets someone watch a decision. The XDP program passes [`Silent`], which compiles to nothing.

use crate::abi::admission::Admission;

/// One step of a decision.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// The client region and the plan that it leads to.
    Plan {
        /// Index of the client region, 0 for the default one.
        client_region: u32,
        /// Index into the `PLANS` map.
        plan: u32,
    },
    /// A pool was looked at.
    Pool {
        /// Index into the `POOLS` map.
        pool: u32,
        /// Its admission word.
        admission: Admission,
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
    /// Every pool was down and the service fails open.
    FailOpen {
        /// The pool.
        pool: u32,
        /// The member.
        backend: u32,
    },
    /// The flow was written into the flow table.
    Remembered,
}

/// A watcher of decisions.
pub trait Trace {
    /// Whether someone watches: the short way for the common case is not taken then, so that every step is seen. It leads
    /// to the same place, which a property test shows.
    fn is_on(&self) -> bool;
    /// A step was taken.
    fn step(&mut self, step: Step);
}

/// Watches nothing, at no cost.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Trace for Silent {
    #[inline(always)]
    fn is_on(&self) -> bool {
        false
    }

    #[inline(always)]
    fn step(&mut self, _: Step) {}
}

#[cfg(any(test, feature = "std"))]
impl Trace for std::vec::Vec<Step> {
    fn is_on(&self) -> bool {
        true
    }

    fn step(&mut self, step: Step) {
        self.push(step);
    }
}
