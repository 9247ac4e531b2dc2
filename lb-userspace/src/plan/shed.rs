//! The overload controller: which share of the new flows of each priority class is shed. Pure: it takes what was offered and how long that
//! took, and gives shares.
//!
//! What is offered is measured before shedding, so the share that brings the load to the capacity follows directly (feed-forward): of `d` new flows a
//! second, `1 - capacity / d` are shed. It is taken from the lowest class first, and from the next one only when that one is shed whole. What
//! moves is this one number, and so the order of the classes holds at every moment:
//!
//! - it rises by at most [`RISE_PER_SECOND`] and falls by at most [`FALL_PER_SECOND`] a second, so that one strange second neither cuts off a
//!   class nor lets a flood back in;
//! - shedding begins above the capacity and counts as over only once less than [`END`] of it is offered, so that a load around the capacity is
//!   one episode and not many.

use lb_common::abi::guard::{ALL, CLASSES};

/// How much more of everything may be shed one second later.
pub const RISE_PER_SECOND: f64 = 1.0;
/// How much less of everything may be shed one second later.
pub const FALL_PER_SECOND: f64 = 0.1;
/// What is left of what a class offered one second later, if it offers nothing more.
const MEMORY: f64 = 0.5;
/// The part of the capacity below which an episode of shedding ends.
pub const END: f64 = 0.9;

/// Shares of new flows to shed, by class, of 65,536.
pub type Shares = [u32; CLASSES];

/// The controller of one capacity.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shedder {
    /// New flows a second.
    capacity: f64,
    /// The part of all new flows that is shed now.
    part: f64,
    /// What each class offered, remembered for a while: a flood that pauses is met by the same shares when it returns.
    offered: [f64; CLASSES],
    active: bool,
}

/// What one step of the controller says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// What to shed from now on.
    pub shares: Shares,
    /// An episode began (`true`) or ended (`false`).
    pub turned: Option<bool>,
}

impl Shedder {
    /// A controller that sheds nothing yet. `capacity` in new flows a second.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self { capacity: capacity.max(1) as f64, part: 0.0, offered: [0.0; CLASSES], active: false }
    }

    /// Another capacity from now on, in new flows a second.
    pub fn set_capacity(&mut self, capacity: u64) {
        self.capacity = capacity.max(1) as f64;
    }

    /// Whether an episode of shedding is under way.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// The next step: `offered` new flows a second of each class, P0 first, before any were shed, over the last `seconds`.
    pub fn step(&mut self, offered: [f64; CLASSES], seconds: f64) -> Step {
        let total: f64 = offered.iter().sum();
        let was_active = self.active;
        if total > self.capacity {
            self.active = true;
        }
        let wanted = if total > self.capacity { 1.0 - self.capacity / total } else { 0.0 };
        let (down, up) = (self.part - FALL_PER_SECOND * seconds, self.part + RISE_PER_SECOND * seconds);
        self.part = wanted.clamp(down.max(0.0), up.min(1.0));
        let kept = MEMORY.powf(seconds);
        for (remembered, offered) in self.offered.iter_mut().zip(offered) {
            *remembered = offered.max(*remembered * kept);
        }
        if self.part == 0.0 && total < END * self.capacity {
            self.active = false;
        }
        Step {
            shares: shares(self.offered, self.part),
            turned: (was_active != self.active).then_some(self.active),
        }
    }
}

/// Shares that shed `part` of everything that is offered, the lowest class first.
fn shares(offered: [f64; CLASSES], part: f64) -> Shares {
    let mut left = part * offered.iter().sum::<f64>();
    let mut shares = [0; CLASSES];
    for class in (0..CLASSES).rev() {
        let here = offered[class];
        let share = if here <= 0.0 { 0.0 } else { (left / here).clamp(0.0, 1.0) };
        shares[class] = (share * f64::from(ALL)).round() as u32;
        left -= share * here;
        // What is left of rounding is nothing.
        if left <= here.max(1.0) * f64::EPSILON * 16.0 {
            break;
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn offered() -> impl Strategy<Value = [f64; CLASSES]> {
        let class = || prop_oneof![Just(0.0), 0.0..1e3_f64, 0.0..1e6_f64];
        [class(), class(), class(), class()]
    }

    fn load(offered: [f64; CLASSES], shares: Shares) -> f64 {
        offered.iter().zip(shares).map(|(o, share)| o * (1.0 - f64::from(share) / f64::from(ALL))).sum()
    }

    proptest! {
        /// At every moment of any history: a class is touched only if all lower ones are shed whole (or offer nothing), and no step goes
        /// further than it may.
        #[test]
        fn lower_classes_go_first_and_steps_are_bounded(
            capacity in 1..1_000_000_u64,
            history in proptest::collection::vec((offered(), 0.05..2.0_f64), 1..50),
        ) {
            let mut shedder = Shedder::new(capacity);
            for (offered, seconds) in history {
                let before = shedder.part;
                let Step { shares, .. } = shedder.step(offered, seconds);
                for class in 0..CLASSES {
                    prop_assert!(shares[class] <= ALL);
                    if shares[class] > 0 {
                        for lower in class + 1..CLASSES {
                            prop_assert!(shares[lower] == ALL || offered[lower] == 0.0, "{shares:?} of {offered:?}");
                        }
                    }
                }
                let change = shedder.part - before;
                prop_assert!(change <= RISE_PER_SECOND * seconds + 1e-9);
                prop_assert!(change >= -FALL_PER_SECOND * seconds - 1e-9);
                prop_assert!((0.0..=1.0).contains(&shedder.part));
            }
        }

        /// Under a constant load the controller settles: at the capacity if that is exceeded, at no shedding if not.
        #[test]
        fn a_constant_load_is_brought_to_the_capacity(capacity in 1..1_000_000_u64, offered in offered(), begin in 0.0..1.0_f64) {
            let mut shedder = Shedder { part: begin, active: begin > 0.0, ..Shedder::new(capacity) };
            let mut shares = [0; CLASSES];
            for _ in 0..100 {
                shares = shedder.step(offered, 0.5).shares;
            }
            let total: f64 = offered.iter().sum();
            let expected = total.min(capacity as f64);
            prop_assert!((load(offered, shares) - expected).abs() <= total * 1e-4 + 1e-9, "{} of {total}", load(offered, shares));
            prop_assert_eq!(shares == [0; CLASSES], load(offered, shares) == total);
        }
    }

    #[test]
    fn shedding_begins_above_the_capacity_and_ends_well_below() {
        let mut shedder = Shedder::new(1_000);
        let turned = |shedder: &mut Shedder, p3: f64| shedder.step([0.0, 0.0, 0.0, p3], 1.0).turned;
        assert_eq!(turned(&mut shedder, 1_000.0), None, "at the capacity");
        assert_eq!(turned(&mut shedder, 1_001.0), Some(true));
        for _ in 0..100 {
            assert_eq!(turned(&mut shedder, 950.0), None, "below, but not well below");
            assert_eq!(turned(&mut shedder, 1_050.0), None);
        }
        assert_eq!((0..10).find_map(|_| turned(&mut shedder, 899.0)), Some(false));
        assert!(!shedder.is_active());
    }

    #[test]
    fn a_flood_of_the_lowest_class_costs_the_others_nothing() {
        let mut shedder = Shedder::new(10_000);
        let offered = [1_000.0, 2_000.0, 3_000.0, 90_000.0];
        let shares = (0..5).map(|_| shedder.step(offered, 1.0).shares).last().unwrap();
        assert_eq!(shares[..3], [0; 3]);
        assert!((load(offered, shares) - 10_000.0).abs() < 10.0);
    }

    #[test]
    fn a_flood_is_not_let_back_by_one_quiet_second() {
        let mut shedder = Shedder::new(1_000);
        let flood = [0.0, 0.0, 0.0, 100_000.0];
        (0..3).for_each(|_| {
            shedder.step(flood, 1.0);
        });
        let Step { shares: quiet, .. } = shedder.step([0.0; CLASSES], 1.0);
        assert!(load(flood, quiet) < 12_000.0, "met by {quiet:?} when it returns");
        let Step { shares, .. } = shedder.step(flood, 0.05);
        assert!(load(flood, shares) < 12_000.0, "{}", load(flood, shares));
    }
}
