//! When a host's routes go, as it hears no backend, and when they come back.

use std::time::Duration;

/// For how long this host must have heard nobody, or heard somebody again, before anything is done.
pub const SURE_AFTER: Duration = Duration::from_secs(3);
/// After a step failed, time until it is tried again.
pub const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Take the routes away.
    Withdraw,
    /// Bring them back.
    Announce,
}

/// What is known of this host when its routes are looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Situation {
    /// It hears no backend.
    Isolated,
    /// It hears some.
    Connected,
    /// Nobody is to take its routes away: the configuration names no program for that, or none any more.
    Unwatched,
}

/// How the routes of this host stand, as far as is known.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Routes {
    /// They are withdrawn for sure.
    withdrawn: bool,
    /// Somebody tried to withdraw them, and nobody has brought them back since: a step that failed may have been done in part.
    touched: bool,
    /// What is wanted, and since when.
    wanted: Option<(Step, u64)>,
    /// What is wanted is not tried before this moment.
    not_before_ns: u64,
}

impl Routes {
    /// As they were left.
    #[must_use]
    pub const fn new(withdrawn: bool) -> Self {
        Self { withdrawn, touched: withdrawn, wanted: None, not_before_ns: 0 }
    }

    /// What is to be done in this situation at `now_ns`.
    ///
    /// Routes that nobody is to take away come back at once, whomever this host hears: nobody else would bring them back.
    pub fn look(&mut self, situation: Situation, now_ns: u64) -> Option<Step> {
        let (wanted, sure_after) = match situation {
            Situation::Isolated if !self.withdrawn => (Step::Withdraw, SURE_AFTER),
            Situation::Connected if self.touched => (Step::Announce, SURE_AFTER),
            Situation::Unwatched if self.touched => (Step::Announce, Duration::ZERO),
            Situation::Isolated | Situation::Connected | Situation::Unwatched => {
                self.wanted = None;
                return None;
            }
        };
        let since_ns = match self.wanted {
            Some((step, since_ns)) if step == wanted => since_ns,
            _ => {
                (self.wanted, self.not_before_ns) = (Some((wanted, now_ns)), 0);
                now_ns
            }
        };
        let is_sure = now_ns.saturating_sub(since_ns) >= as_ns(sure_after) && now_ns >= self.not_before_ns;
        is_sure.then_some(wanted)
    }

    /// What came of a step by `now_ns`.
    pub const fn done(&mut self, step: Step, succeeded: bool, now_ns: u64) {
        match (step, succeeded) {
            (Step::Withdraw, true) => *self = Self::new(true),
            (Step::Announce, true) => *self = Self::new(false),
            (_, false) => {
                (self.withdrawn, self.touched) = (false, true);
                self.not_before_ns = now_ns.saturating_add(as_ns(AGAIN_AFTER));
            }
        }
    }
}

const fn as_ns(time: Duration) -> u64 {
    time.as_nanos() as u64
}

#[cfg(test)]
mod tests {
    use super::Situation::{Connected, Isolated, Unwatched};
    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const SURE: u64 = SURE_AFTER.as_secs();

    #[test]
    fn routes_go_and_come_back_once_it_is_sure() {
        let mut routes = Routes::new(false);
        assert_eq!(routes.look(Connected, 0), None);
        assert_eq!(routes.look(Isolated, SECOND), None);
        assert_eq!(routes.look(Isolated, SURE * SECOND), None, "not yet");
        assert_eq!(routes.look(Connected, SURE * SECOND + 1), None);
        assert_eq!(routes.look(Isolated, (SURE + 1) * SECOND), None, "it begins anew");
        assert_eq!(routes.look(Isolated, (2 * SURE + 1) * SECOND), Some(Step::Withdraw));
        routes.done(Step::Withdraw, true, (2 * SURE + 1) * SECOND);
        assert_eq!(routes, Routes::new(true));
        assert_eq!(routes.look(Isolated, 20 * SECOND), None, "once");
        assert_eq!(routes.look(Connected, 21 * SECOND), None);
        assert_eq!(routes.look(Connected, (21 + SURE) * SECOND), Some(Step::Announce));
        routes.done(Step::Announce, true, (21 + SURE) * SECOND);
        assert_eq!(routes, Routes::new(false));
    }

    #[test]
    fn what_failed_is_tried_again_later() {
        let mut routes = Routes::new(false);
        routes.look(Isolated, 0);
        let now_ns = SURE * SECOND;
        assert_eq!(routes.look(Isolated, now_ns), Some(Step::Withdraw));
        routes.done(Step::Withdraw, false, now_ns);
        assert_eq!(routes.look(Isolated, now_ns + as_ns(AGAIN_AFTER) - 1), None);
        assert_eq!(routes.look(Isolated, now_ns + as_ns(AGAIN_AFTER)), Some(Step::Withdraw));
    }

    /// Whatever a step that failed did in part, the next one that is wanted undoes.
    #[test]
    fn a_step_that_failed_may_have_been_done_in_part() {
        for (step, next) in [(Step::Withdraw, Step::Announce), (Step::Announce, Step::Withdraw)] {
            let mut routes = Routes::new(step == Step::Announce);
            let (before, after) =
                if step == Step::Withdraw { (Isolated, Connected) } else { (Connected, Isolated) };
            routes.look(before, 0);
            assert_eq!(routes.look(before, SURE * SECOND), Some(step));
            routes.done(step, false, SURE * SECOND);
            assert_eq!(routes.look(after, SURE * SECOND + 1), None);
            assert_eq!(routes.look(after, 2 * SURE * SECOND + 1), Some(next), "without waiting for {step:?}");
            routes.done(next, true, 2 * SURE * SECOND + 1);
            assert_eq!(routes.look(after, 100 * SECOND), None, "done");
        }
    }

    #[test]
    fn what_nobody_is_to_withdraw_comes_back_at_once() {
        let mut routes = Routes::new(false);
        assert_eq!(routes.look(Unwatched, 0), None, "nobody withdrew them");
        routes.look(Isolated, 0);
        assert_eq!(routes.look(Isolated, SURE * SECOND), Some(Step::Withdraw));
        routes.done(Step::Withdraw, true, SURE * SECOND);
        assert_eq!(routes.look(Isolated, 20 * SECOND), None);
        assert_eq!(routes.look(Unwatched, 20 * SECOND), Some(Step::Announce));
        routes.done(Step::Announce, false, 20 * SECOND);
        assert_eq!(routes.look(Unwatched, 20 * SECOND + as_ns(AGAIN_AFTER) - 1), None, "not all the time");
        assert_eq!(routes.look(Unwatched, 20 * SECOND + as_ns(AGAIN_AFTER)), Some(Step::Announce));
        routes.done(Step::Announce, true, 40 * SECOND);
        assert_eq!(routes.look(Unwatched, 41 * SECOND), None, "done");
    }
}
