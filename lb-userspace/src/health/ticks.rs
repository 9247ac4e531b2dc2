//! When probes go out: ticks of an interval, each delayed by a random share of it. Pure.

use crate::runtime::clock::as_ns;

/// Pseudo-random numbers that spread probes over time; nothing secret hangs on them (splitmix64).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that always fall alike for the same seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number; all are equally likely.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`; 0 if that is 0.
    pub const fn below(&mut self, limit: u64) -> u64 {
        ((self.roll() as u128 * limit as u128) >> 64) as u64
    }
}

/// The ticks of one target.
///
/// A probe that takes longer than its interval is followed by the next one at once: nothing is made up for.
#[derive(Clone, Debug)]
pub struct Ticks {
    interval_ns: u64,
    jitter_ns: u64,
    /// The last tick, without its delay.
    tick_ns: u64,
}

impl Ticks {
    /// Ticks from `now_ns` on, the first of them anywhere within one interval, so that not all targets' probes go out at
    /// once; each is delayed by up to `jitter_percent` of the interval.
    #[must_use]
    pub fn new(now_ns: u64, interval: std::time::Duration, jitter_percent: u8, dice: &mut Dice) -> Self {
        let interval_ns = as_ns(interval).max(1);
        let jitter_ns = (u128::from(interval_ns) * u128::from(jitter_percent) / 100) as u64;
        // One interval back, so that the first call of `next` gives the first tick.
        let first_ns = now_ns.saturating_add(dice.below(interval_ns));
        Self { interval_ns, jitter_ns, tick_ns: first_ns.saturating_sub(interval_ns) }
    }

    /// When the next probe goes out; never before `now_ns`.
    pub fn next(&mut self, now_ns: u64, dice: &mut Dice) -> u64 {
        self.tick_ns = self.tick_ns.saturating_add(self.interval_ns);
        if self.tick_ns < now_ns.saturating_sub(self.jitter_ns) {
            self.tick_ns = now_ns;
        }
        let delayed_ns = self.tick_ns.saturating_add(dice.below(self.jitter_ns));
        delayed_ns.max(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const INTERVAL: Duration = Duration::from_millis(10);
    const INTERVAL_NS: u64 = 10_000_000;

    #[test]
    fn without_jitter_ticks_are_exact_and_do_not_drift() {
        let mut dice = Dice::new(1);
        let mut ticks = Ticks::new(1_000_000_000, INTERVAL, 0, &mut dice);
        let first = ticks.next(1_000_000_000, &mut dice);
        assert!((1_000_000_000..1_010_000_000).contains(&first));
        for round in 1..100 {
            // However long the probe took, if it was less than an interval.
            let now_ns = first + (round - 1) * INTERVAL_NS + round * 97_000;
            assert_eq!(ticks.next(now_ns, &mut dice), first + round * INTERVAL_NS);
        }
    }

    #[test]
    fn what_took_too_long_is_followed_at_once_and_not_made_up_for() {
        let mut dice = Dice::new(2);
        let mut ticks = Ticks::new(0, INTERVAL, 0, &mut dice);
        let first = ticks.next(0, &mut dice);
        let late = first + 7 * INTERVAL_NS + 5;
        assert_eq!(ticks.next(late, &mut dice), late);
        assert_eq!(ticks.next(late, &mut dice), late + INTERVAL_NS);
    }

    proptest! {
        /// Each probe is delayed by less than the jitter, from ticks that keep their pace; delays differ.
        #[test]
        fn jitter_delays_and_never_drifts(seed: u64, jitter in 1u8..=50, start in 0u64..1 << 60) {
            let mut dice = Dice::new(seed);
            let mut ticks = Ticks::new(start, INTERVAL, jitter, &mut dice);
            let mut now_ns = start;
            let mut delays = Vec::new();
            let mut first_tick = None;
            for round in 0..50u64 {
                now_ns = ticks.next(now_ns, &mut dice);
                let first_tick = *first_tick.get_or_insert(ticks.tick_ns);
                let delay = now_ns - (first_tick + round * INTERVAL_NS);
                prop_assert!(delay < INTERVAL_NS * u64::from(jitter) / 100, "{delay}");
                delays.push(delay);
            }
            delays.sort_unstable();
            delays.dedup();
            prop_assert!(delays.len() > 25, "delays repeat: {delays:?}");
        }

        /// Dice stay below their limit and reach both ends of it.
        #[test]
        fn dice_fill_their_range(seed: u64, limit in 1u64..1000) {
            let mut dice = Dice::new(seed);
            let rolls: Vec<_> = (0..20_000).map(|_| dice.below(limit)).collect();
            prop_assert!(rolls.iter().all(|&roll| roll < limit));
            prop_assert!(rolls.iter().any(|&roll| roll < limit.div_ceil(20)));
            prop_assert!(rolls.iter().any(|&roll| roll >= limit - limit.div_ceil(20)));
        }
    }
}
