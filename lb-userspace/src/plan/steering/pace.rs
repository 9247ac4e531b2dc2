//! How shares go from where they are to where load wants them: with a bound on each second, and not to and fro.
//!
//! Shares for the target utilisation say how far flows must go out, shares for [`RETURN_BELOW`] of it how far they may come back.
//! Between the two nothing moves: what oscillates by less than that, or comes from the split of flows itself, changes nothing.

use lb_common::abi::limits::MAX_PLAN_STEPS;

use super::{Steps, share_of};

/// How much more of a plan's new flows may start beyond a step one second later.
pub const OUTWARD_PER_SECOND: f64 = 0.5;
/// How much less of them one second later.
pub const HOMEWARD_PER_SECOND: f64 = 0.05;
/// The part of the target utilisation below which flows come back.
pub const RETURN_BELOW: f64 = 0.85;

/// The cumulative shares of one plan on their way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// The part of new flows that starts at or before each step.
    upto: Steps<f64>,
}

impl Pace {
    /// Begins where the data plane is.
    #[must_use]
    pub fn new(shares: &Steps<u16>) -> Self {
        Self { upto: shares.map(|share| (f64::from(share) + 1.0) / 65_536.0) }
    }

    /// The next step: `out` and `back` are starts for the target utilisation and for [`RETURN_BELOW`] of it.
    pub fn step(&mut self, out: &Steps<f64>, back: &Steps<f64>, seconds: f64) {
        let (mut out_upto, mut back_upto) = (0.0, 0.0);
        for step in 0..MAX_PLAN_STEPS {
            out_upto += out[step];
            back_upto += back[step];
            let now = &mut self.upto[step];
            // Less room never lets more flows start here; where numbers say so, they say nothing.
            let (most, least) = (out_upto.min(1.0), back_upto.min(out_upto).min(1.0));
            if *now > most {
                *now = (*now - OUTWARD_PER_SECOND * seconds).max(most);
            } else if *now < least {
                *now = (*now + HOMEWARD_PER_SECOND * seconds).min(least);
            }
        }
    }

    /// The shares as the data plane has them.
    #[must_use]
    pub fn shares(&self) -> Steps<u16> {
        // What is whole but for rounding is whole.
        self.upto.map(|upto| if upto > 1.0 - 1e-6 { u16::MAX } else { share_of(upto) })
    }

    /// The part of new flows that does not start at the first step.
    #[must_use]
    pub fn outward(&self) -> f64 {
        (1.0 - self.upto[0]).max(0.0)
    }
}
