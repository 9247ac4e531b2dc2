//! The generic cell rate algorithm: a token bucket in one word.
//!
//! In its virtual scheduling form (ITU-T I.371, annex A) a bucket is the *theoretical arrival time* of its next packet. A packet that
//! comes more than the tolerance before that moment is over the limit; any other one moves it on by one interval, from now on if it has passed.
//!
//! **The clock is coarse**: up to [`CLOCK_TICK_NS`](crate::abi::guard::CLOCK_TICK_NS) behind. The tolerance has that much on top, so that a source
//! that keeps to rate and burst is never refused; in any span of `t` seconds at most `burst + rate * (t + 2 ticks)` packets pass.
//!
//! **CPUs race for a bucket**, and none waits: the check and the charge are two steps. The charge is one atomic addition, so that none is
//! lost; between the two, each other CPU may let one packet more through. Only when an idle bucket starts (its time has passed) is it a plain
//! store, and those of CPUs that start it in the same moment may count as one. So `n` CPUs let at most `n - 1` packets more through
//! for each time that a bucket was idle, and at most `n - 1` beyond the burst at the limit.

use super::ports::Tables;
use crate::abi::guard::{FINE_SHIFT, Limit};

/// The clock in the unit of buckets.
#[must_use]
#[inline(always)]
pub const fn fine(now_ns: u64) -> u64 {
    now_ns << FINE_SHIFT
}

/// Judges a packet that comes at `now` to a bucket whose theoretical arrival time is `arrival`: the bucket's next time, or `None` if the
/// packet is over the limit.
#[must_use]
#[inline(always)]
pub const fn next(arrival: u64, now: u64, limit: &Limit) -> Option<u64> {
    if arrival <= now {
        Some(now + limit.interval)
    } else if arrival - now > limit.tolerance {
        None
    } else {
        Some(arrival + limit.interval)
    }
}

/// Whether a packet at `now` (see [`fine`]) passes the limit; if so, it is charged. A bucket that is not there refuses nothing.
#[inline(always)]
pub fn take<T: Tables>(tables: &T, bucket: u32, now: u64, limit: &Limit) -> bool {
    let Some(arrival) = tables.arrival(bucket) else {
        return true;
    };
    let Some(next) = next(arrival, now, limit) else {
        return false;
    };
    charge(tables, bucket, arrival, now, next);
    true
}

/// As [`take`] for a source prefix with a place in two rows: the lesser of both times counts, and both become at least its next one (a
/// count-min sketch with conservative update: Estan, Varghese, "New directions in traffic measurement and accounting", SIGCOMM 2002). So
/// either is never less than what the prefix alone would have come to, hence no prefix gets more than its limit; and a prefix is refused
/// without having sent too much only if others did so in both of its places.
#[inline(always)]
pub fn take_either<T: Tables>(tables: &T, first: u32, second: u32, now: u64, limit: &Limit) -> bool {
    let (Some(a), Some(b)) = (tables.arrival(first), tables.arrival(second)) else {
        return true;
    };
    let least = if a < b { a } else { b };
    let Some(next) = next(least, now, limit) else {
        return false;
    };
    charge(tables, first, a, now, next);
    charge(tables, second, b, now, next);
    true
}

/// Moves a bucket on to `next`, unless it is there already.
#[inline(always)]
fn charge<T: Tables>(tables: &T, bucket: u32, arrival: u64, now: u64, next: u64) {
    if arrival <= now {
        tables.set_arrival(bucket, next);
    } else if arrival < next {
        tables.advance_arrival(bucket, next - arrival);
    }
}
