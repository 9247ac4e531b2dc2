//! Plans and pools.

use super::limits::MAX_PLAN_STEPS;

/// [`PoolEntry::flags`]: the pool consists of another region's Weir hosts. A packet that has crossed a region border
/// once never goes to such a pool.
pub const POOL_RELAY: u16 = 1;

/// [`PlanEntry::eased`]: what automation took out counts again for this plan, what an operator took out does not. All bits of both shares
/// of a word: programs use it as it is, as a mask.
pub const PLAN_PANIC: u32 = 0xffff;

/// A pool: where its table lies in the slot array, and which admission word speaks for it. 16 bytes.
#[repr(C, align(16))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolEntry {
    /// First slot of its table, counted over the whole slot array.
    pub table_base: u32,
    /// Number of slots, a prime; 0 for a pool without members.
    pub table_slots: u32,
    /// Index of the pool's word in the admission array.
    pub admission: u16,
    /// [`POOL_RELAY`] or 0.
    pub flags: u16,
    /// The pool's own index.
    pub pool: u32,
}

/// One element of the `PLANS` map: the ordered pools for one (service, client region). 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PlanEntry {
    /// The first pool, whole, so that a flow at home needs no further lookup.
    pub first: PoolEntry,
    /// Indices into the `POOLS` map, in order; `pools[0]` is `first`'s.
    pub pools: [u16; MAX_PLAN_STEPS],
    /// Cumulative share of flows that start at or before step i, in 1/65535: a flow starts at the first step whose
    /// value is at least its second hash. 65535 from the first step on while nothing spills. Changed while the program runs.
    pub shares: [u16; MAX_PLAN_STEPS],
    /// Number of pools in the plan, 1 to [`MAX_PLAN_STEPS`].
    pub steps: u32,
    /// [`PLAN_PANIC`] or 0. Changed while the program runs; looked at only with
    /// [`SERVICE_STEERED`](super::service::SERVICE_STEERED).
    pub eased: u32,
    /// For each step the share of the opening flows that the member at probe 0 of its pool refuses that go on to the next pool at
    /// once, 0 (none) to 255 (all). Changed while the program runs.
    pub leaves: [u8; MAX_PLAN_STEPS],
}
