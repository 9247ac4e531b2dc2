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

use super::ports::Buckets;
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
pub fn take<B: Buckets>(buckets: &B, bucket: u32, now: u64, limit: &Limit) -> bool {
    let Some(arrival) = buckets.arrival(bucket) else {
        return true;
    };
    let Some(next) = next(arrival, now, limit) else {
        return false;
    };
    charge(buckets, bucket, arrival, now, next);
    true
}

/// As [`take`] for a source prefix with a place in two rows: the lesser of both times counts, and both become at least its next one (a
/// count-min sketch with conservative update: Estan, Varghese, "New directions in traffic measurement and accounting", SIGCOMM 2002). So
/// either is never less than what the prefix alone would have come to, hence no prefix gets more than its limit; and a prefix is refused
/// without having sent too much only if others did so in both of its places.
#[inline(always)]
pub fn take_either<B: Buckets>(buckets: &B, first: u32, second: u32, now: u64, limit: &Limit) -> bool {
    let (Some(a), Some(b)) = (buckets.arrival(first), buckets.arrival(second)) else {
        return true;
    };
    let least = if a < b { a } else { b };
    let Some(next) = next(least, now, limit) else {
        return false;
    };
    charge(buckets, first, a, now, next);
    charge(buckets, second, b, now, next);
    true
}

/// Moves a bucket on to `next`, unless it is there already.
#[inline(always)]
fn charge<B: Buckets>(buckets: &B, bucket: u32, arrival: u64, now: u64, next: u64) {
    if arrival <= now {
        buckets.set_arrival(bucket, next);
    } else if arrival < next {
        buckets.advance_arrival(bucket, next - arrival);
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::abi::guard::CLOCK_TICK_NS;
    use proptest::{collection, prelude::*};
    use std::{cell::RefCell, vec, vec::Vec};

    /// Buckets of one CPU.
    struct Words(RefCell<Vec<u64>>);

    impl Words {
        fn new(count: usize) -> Self {
            Self(RefCell::new(vec![0; count]))
        }
    }

    impl Buckets for Words {
        fn arrival(&self, bucket: u32) -> Option<u64> {
            self.0.borrow().get(bucket as usize).copied()
        }
        fn set_arrival(&self, bucket: u32, at: u64) {
            self.0.borrow_mut()[bucket as usize] = at;
        }
        fn advance_arrival(&self, bucket: u32, by: u64) {
            self.0.borrow_mut()[bucket as usize] += by;
        }
    }

    /// Some time after the start of the host.
    const BEGIN_NS: u64 = 3_600_000_000_000;

    /// What a clock says that only goes on once a tick, at its own phase.
    fn coarse(ns: u64, tick: u64, phase: u64) -> u64 {
        ns - (ns + phase) % tick
    }

    /// The most that may pass in a span of `ns`: the burst, the rate, and what the clock's lag at both ends is worth.
    fn most(rate: u64, burst: u64, ns: u64) -> u64 {
        let span = u128::from(ns + 2 * CLOCK_TICK_NS) * u128::from(rate);
        burst + span.div_ceil(1_000_000_000) as u64
    }

    fn gaps() -> impl Strategy<Value = Vec<u64>> {
        // From a flood to one in a second.
        collection::vec(prop_oneof![0..2_000_u64, 0..2_000_000_u64, 0..1_000_000_000_u64], 1..400)
    }

    proptest! {
        #[test]
        fn no_span_of_any_arrivals_exceeds_rate_and_burst(
            rate in prop_oneof![1..100_u64, 100..1_000_000_u64],
            burst in 1..200_u64,
            gaps in gaps(),
            tick in 1..=CLOCK_TICK_NS,
            phase in 0..CLOCK_TICK_NS,
        ) {
            let limit = Limit::new(rate, burst).unwrap();
            let words = Words::new(1);
            let mut now = BEGIN_NS;
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if take(&words, 0, fine(coarse(now, tick, phase)), &limit) {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let count = (j - i + 1) as u64;
                    prop_assert!(count <= most(rate, burst, to - from), "{count} in {} ns", to - from);
                }
            }
        }

        #[test]
        fn who_keeps_to_the_limit_is_never_refused(
            rate in prop_oneof![1..100_u64, 100..10_000_000_u64],
            burst in 1..200_u64,
            gaps in gaps(),
            tick in 1..=CLOCK_TICK_NS,
            phase in 0..CLOCK_TICK_NS,
        ) {
            let limit = Limit::new(rate, burst).unwrap();
            let words = Words::new(1);
            // A bucket of tokens with an exact clock decides when such a source may send next.
            let token = 1_000_000_000_f64 / rate as f64;
            let (mut tokens, mut now) = (burst as f64, BEGIN_NS);
            for gap in gaps {
                // Rounding of the interval costs a conforming source at most this.
                let wait = if tokens >= 1.0 { gap } else { gap.max((token * (1.0 - tokens)).ceil() as u64) };
                now += wait;
                tokens = (tokens + wait as f64 / (token * 1.02)).min(burst as f64);
                if tokens < 1.0 {
                    continue;
                }
                tokens -= 1.0;
                prop_assert!(take(&words, 0, fine(coarse(now, tick, phase)), &limit), "refused at {now}");
            }
        }

        /// Of two sources with a place in common, the one that floods gets its limit at most, the other one is never refused.
        #[test]
        fn a_flood_in_one_place_keeps_nobody_out_who_has_another(
            rate in 10..10_000_u64,
            burst in 1..100_u64,
            gaps in collection::vec(0..100_000_u64, 1..2_000),
        ) {
            let limit = Limit::new(rate, burst).unwrap();
            let words = Words::new(3);
            let (mut now, mut next) = (BEGIN_NS, BEGIN_NS);
            let mut passed = Vec::new();
            for gap in gaps {
                now += gap;
                if take_either(&words, 0, 1, fine(now), &limit) {
                    passed.push(now);
                }
                if now >= next {
                    next = now + 1_100_000_000 / rate;
                    prop_assert!(take_either(&words, 1, 2, fine(now), &limit), "refused at {now}");
                }
            }
            let (first, last) = (passed[0], passed[passed.len() - 1]);
            prop_assert!(passed.len() as u64 <= most(rate, burst, last - first));
        }
    }

    #[test]
    fn a_bucket_that_is_not_there_refuses_nothing() {
        let limit = Limit::new(1, 1).unwrap();
        assert!(take(&Words::new(0), 0, 1, &limit) && take_either(&Words::new(1), 0, 1, 1, &limit));
    }

    #[test]
    fn an_idle_bucket_lets_exactly_the_burst_through_at_once() {
        let limit = Limit::new(1, 7).unwrap();
        let words = Words::new(1);
        let passed = (0..100).filter(|_| take(&words, 0, fine(BEGIN_NS), &limit)).count();
        assert_eq!(passed, 7, "the tick of tolerance is worth less than a packet at this rate");
    }
}
