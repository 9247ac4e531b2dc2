//! What stands before `FLOWS`: a filter that spares lookups, and a limit that spares entries.

use super::{
    ports::Tables,
    trace::{Step, Trace},
};
use crate::abi::root::Root;

/// The byte of the flow filter that speaks for a flow.
#[must_use]
#[inline(always)]
pub const fn index(mask: u32, h: u64) -> u32 {
    h as u32 & mask
}

/// What an entry that is written now leaves in the filter: never 0.
#[must_use]
#[inline(always)]
pub const fn epoch(root: &Root) -> u8 {
    let epoch = root.flow_filter_epoch as u8;
    // A root that says 0 is a fault of the daemon; the filter must not hide entries for it.
    epoch | (epoch == 0) as u8
}

/// Whether `FLOWS` may have an entry for a flow; if not, it has none.
#[inline(always)]
pub fn may_know<T: Tables>(tables: &T, root: &Root, h: u64, trace: &mut impl Trace) -> bool {
    let maybe = tables.filter(index(root.flow_filter_mask, h)) != 0;
    trace.step(Step::Filter { maybe });
    maybe
}

/// Says that `FLOWS` has an entry for a flow from now on. To be called before the entry is written: the
/// daemon clears bytes of earlier epochs.
#[inline(always)]
pub fn announce<T: Tables>(tables: &T, root: &Root, h: u64) {
    let (index, epoch) = (index(root.flow_filter_mask, h), epoch(root));
    // Most often it stands there already, and a cache line that is only read stays shared between CPUs.
    if tables.filter(index) != epoch {
        tables.set_filter(index, epoch);
    }
}

/// What one CPU may still write into the flow table in the current window of time.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Allowance {
    /// Number of the window, from 1.
    pub window: u64,
    /// Inserts left in it.
    pub left: u64,
}

/// Windows are 2^27 ns long, 134 ms: an eighth of a second, nearly, and told by a shift.
const WINDOW_SHIFT: u32 = 27;
/// Windows in a second, rounded up.
const WINDOWS_PER_SECOND: u32 = 8;

impl Allowance {
    /// Takes one insert, if one is left.
    #[inline(always)]
    pub fn spend(&mut self, now_ns: u64, per_second: u32) -> bool {
        let window = (now_ns >> WINDOW_SHIFT) + 1;
        if window != self.window {
            *self = Self { window, left: (per_second / WINDOWS_PER_SECOND) as u64 };
        }
        if self.left == 0 {
            return false;
        }
        self.left -= 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_spent_within_a_window_and_whole_again_in_the_next() {
        let mut allowance = Allowance::default();
        let now = 5 << WINDOW_SHIFT;
        let spent = (0..100).filter(|_| allowance.spend(now, 80)).count();
        assert_eq!(spent, 10);
        assert!(!allowance.spend(now + (1 << WINDOW_SHIFT) - 1, 80));
        assert!(allowance.spend(now + (1 << WINDOW_SHIFT), 80));
    }
}
