//! Lets someone watch a decision. The XDP program passes [`Silent`], which compiles to nothing.

use super::{flow::FlowTable, steer::Walked, verdict::Outcome};
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
        /// Whether it, all domains above it and the pool are open and always were, and the slot is not in transition. The
        /// flow goes there without further ado then.
        open: bool,
        /// Whether the slot is marked as in transition.
        marked: bool,
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
    /// A pool of another region's hosts was passed over: the packet has crossed a border already.
    NoSecondCrossing {
        /// Index into the `POOLS` map.
        pool: u32,
    },
    /// The flow filter was asked.
    Filter {
        /// Whether the tables of flows may have an entry.
        maybe: bool,
    },
    /// One of the tables of flows was asked.
    FlowTable {
        /// Which one.
        table: FlowTable,
        /// What it said.
        backend: Option<u32>,
        /// Whether that backend admits the flow still.
        admitted: bool,
    },
    /// The flow's slot is in transition: its home before the last change of the configuration was looked at.
    OldHome {
        /// The member of the slot there.
        backend: u32,
        /// Whether the flow goes there.
        taken: bool,
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
    /// The flow was written into one of the tables of flows.
    Remembered {
        /// Which one.
        table: FlowTable,
    },
    /// The flow was to be written into the flow table, but the limit of inserts was reached.
    InsertLimited,
}

/// A watcher of decisions.
pub trait Trace {
    /// A step was taken.
    fn step(&mut self, step: Step);
    /// A packet that does not go straight home was placed so far; once more when a walk placed it at last.
    #[inline(always)]
    fn placed(&mut self, walked: Walked) {
        let _ = walked;
    }
    /// This is what becomes of the packet.
    #[inline(always)]
    fn concluded(&mut self, outcome: &Outcome) {
        let _ = outcome;
    }
    /// The packet's flow was written into the table of flows that are opening.
    #[inline(always)]
    fn remembered(&mut self) {}
    /// The packet goes where its connection id says.
    #[inline(always)]
    fn by_connection_id(&mut self) {}
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
