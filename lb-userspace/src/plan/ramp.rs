//! The share of new flows while something comes back: half-open first, then step by step. Pure.

/// Steps from the half-open share to all: each is one store.
pub const RAMP_STEPS: u64 = 16;

/// How fast something comes back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pace {
    /// Share of new flows that is let in at first, 1 to 255.
    pub half_open_share: u8,
    /// How long it stays at that, in nanoseconds.
    pub half_open_ns: u64,
    /// From there to all of them, in nanoseconds.
    pub slow_start_ns: u64,
}

impl Pace {
    /// Whether what comes back is there at once.
    #[must_use]
    pub const fn is_instant(&self) -> bool {
        self.half_open_ns == 0 && self.slow_start_ns == 0
    }

    /// When all flows are let in, if it began to come back at `since_ns`.
    #[must_use]
    pub const fn end_ns(&self, since_ns: u64) -> u64 {
        since_ns.saturating_add(self.half_open_ns).saturating_add(self.slow_start_ns)
    }

    /// The share of new flows at `now_ns`, and when it is another one; 255 and no moment once it is all.
    #[must_use]
    pub fn share(&self, since_ns: u64, now_ns: u64) -> (u8, Option<u64>) {
        let open_ns = since_ns.saturating_add(self.half_open_ns);
        let least = self.half_open_share.max(1);
        if now_ns < open_ns {
            return (least, Some(open_ns));
        }
        if now_ns >= self.end_ns(since_ns) {
            return (u8::MAX, None);
        }
        // Step 1 begins at once; after the last of them, and not before, everything is open.
        let step_of = |ns: u64| u128::from(ns) * u128::from(RAMP_STEPS) / u128::from(self.slow_start_ns);
        let step = step_of(now_ns - open_ns) + 1;
        let room = u128::from(u8::MAX - least);
        // Less than 255, for a step is at most RAMP_STEPS.
        let share = least + (room * step / u128::from(RAMP_STEPS + 1)) as u8;
        let next_ns = (u128::from(self.slow_start_ns) * step).div_ceil(u128::from(RAMP_STEPS)) as u64;
        (share, Some(open_ns.saturating_add(next_ns)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn half_open_first_then_in_steps_then_all() {
        let pace = Pace { half_open_share: 15, half_open_ns: 2 * SECOND, slow_start_ns: 16 * SECOND };
        assert_eq!(pace.share(SECOND, SECOND), (15, Some(3 * SECOND)));
        assert_eq!(pace.share(SECOND, 3 * SECOND - 1), (15, Some(3 * SECOND)));
        assert_eq!(pace.share(SECOND, 3 * SECOND), (29, Some(4 * SECOND)));
        assert_eq!(pace.share(SECOND, 10 * SECOND), (127, Some(11 * SECOND)));
        assert_eq!(pace.share(SECOND, 19 * SECOND), (255, None));
        assert!(Pace::default().is_instant() && !pace.is_instant());
        assert_eq!(Pace::default().share(SECOND, SECOND), (255, None));
        let nobody = Pace { half_open_share: 0, ..pace };
        assert_eq!(nobody.share(SECOND, SECOND).0, 1, "somebody has to try it");
    }

    proptest! {
        /// The share never falls, its steps are where it says, there are no more than promised, and all of it is let in at
        /// the end.
        #[test]
        fn a_ramp_only_rises(
            least: u8, half_open_ns in 0..60 * SECOND, slow_start_ns in 0..600 * SECOND, since_ns in 0u64..1 << 60,
        ) {
            let pace = Pace { half_open_share: least, half_open_ns, slow_start_ns };
            let (mut now_ns, mut last, mut steps) = (since_ns, 0, 0);
            loop {
                let (share, next_ns) = pace.share(since_ns, now_ns);
                prop_assert!(share >= last && share >= least.max(1));
                prop_assert!(share < u8::MAX || next_ns.is_none() || least == u8::MAX, "all of it before the end");
                last = share;
                let Some(next_ns) = next_ns else { break };
                prop_assert!(next_ns > now_ns);
                prop_assert_eq!(pace.share(since_ns, next_ns - 1).0, share, "it changed before the moment it named");
                now_ns = next_ns;
                steps += 1;
                prop_assert!(steps <= RAMP_STEPS + 1);
            }
            prop_assert_eq!((last, now_ns), (u8::MAX, pace.end_ns(since_ns)));
        }
    }
}
