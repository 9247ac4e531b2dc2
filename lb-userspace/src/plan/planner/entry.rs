//! One subject's part of the planner: what automation and operators say of it, and the word that follows from both.

use lb_common::abi::admission::Admission;

use super::InitialHealth;
use crate::plan::breaker::{self, Breaker};
use crate::plan::facts::UNRECORDED_REASON;
use crate::plan::shift::{self, Origin, Shift, UNRECORDED_SHIFT_TIME};
use crate::plan::state::{Action, DEFAULT_OVERRIDE_TIME, Moment, Override, State};

/// What stands until a moment.
#[derive(Clone, Debug)]
pub(super) struct Standing<T> {
    pub(super) it: T,
    /// Its end by the monotonic clock; none if it has none.
    pub(super) until_ns: Option<u64>,
}

impl Standing<Override> {
    pub(super) fn of(it: Override, now: Moment) -> Self {
        Self { until_ns: it.until.map(|until| now.ns_at(until)), it }
    }
}

impl Standing<Shift> {
    pub(super) fn of(it: Shift, now: Moment) -> Self {
        Self { until_ns: Some(now.ns_at(it.until)), it }
    }
}

/// One subject's part of the planner.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) breaker: Breaker,
    pub(super) held: Option<Standing<Override>>,
    pub(super) shift: Option<Standing<Shift>>,
    pub(super) word: Admission,
    /// Its entry among the planner's timers.
    pub(super) timer_ns: Option<u64>,
}

impl Entry {
    pub(super) fn adopt(
        word: Admission,
        initial: InitialHealth,
        (held, shift): (Option<Override>, Option<Shift>),
        now: Moment,
        recovery: breaker::Settings,
    ) -> Self {
        let adopted = initial == InitialHealth::Adopted;
        // A word that is held without a record: the daemon died between store and record. The operator's word stands all
        // the same, for a while.
        let (held, shift) = match (held, shift) {
            (None, None) if adopted && word.is_held() => unrecorded(word, now.time),
            // No shift that keeps some leaves such a word.
            (None, Some(shift))
                if adopted && word.is_held() && word.new_share() == 0 && shift.share() > 0 =>
            {
                (unrecorded(word, now.time).0, Some(shift))
            }
            recorded => recorded,
        };
        let automatic = match (adopted, &held, &shift) {
            (false, ..) => State::Up,
            (_, Some(_), _) if word.is_held() => State::Up,
            // A shift says nothing of established flows, and leaves some new ones unless it keeps none.
            (_, None, Some(_)) if word.is_held() && word.old_share() > 0 => State::Up,
            _ => believed(word),
        };
        Self {
            breaker: Breaker::new(recovery, automatic),
            held: held.map(|held| Standing::<Override>::of(held, now)),
            shift: shift.map(|shift| Standing::<Shift>::of(shift, now)),
            word,
            timer_ns: None,
        }
    }

    pub(super) fn effective(&self) -> State {
        match self.held.as_ref().map(|held| held.it.action) {
            Some(Action::Drain) => State::Draining,
            Some(Action::Fail) => State::Down,
            Some(Action::Restore) | None => self.breaker.state(),
        }
    }

    /// The word that the entry's facts ask for; never clean.
    pub(super) fn wanted(&self) -> Admission {
        if self.held.is_some() {
            return self.effective().admission().held();
        }
        let (new, old) = self.breaker.shares();
        let Some(Standing { it: shift, .. }) = &self.shift else {
            return Admission::new(new, old);
        };
        let word = Admission::new(new.min(shift.share()), old);
        // Where automation takes out all new flows anyway, the word is automation's: in an emergency they count again, unless the
        // operator keeps none.
        let is_operators = shift.origin == Origin::Operator && (new > 0 || shift.share() == 0);
        if is_operators { word.held() } else { word }
    }

    /// Whether it could take new flows if nobody shifted it.
    pub(super) fn is_well(&self) -> bool {
        self.effective().is_well()
    }

    /// When something ends or comes back next.
    pub(super) fn next_ns(&self) -> Option<u64> {
        let held = self.held.as_ref().and_then(|held| held.until_ns);
        let shift = self.shift.as_ref().and_then(|shift| shift.until_ns);
        [held, shift, self.breaker.next_ns()].into_iter().flatten().min()
    }
}

/// What explains a word that an operator holds and that nobody recorded.
fn unrecorded(word: Admission, now: jiff::Timestamp) -> (Option<Override>, Option<Shift>) {
    let reason = UNRECORDED_REASON.to_owned();
    let after = |time| now.checked_add(time).unwrap_or(now);
    let action = match (word.new_share(), word.old_share()) {
        (_, 0) => Action::Fail,
        (0, _) => Action::Drain,
        (new, _) => {
            let keep = shift::percent(new);
            return (
                None,
                Some(Shift::new(keep, Origin::Operator, reason, now, after(UNRECORDED_SHIFT_TIME))),
            );
        }
    };
    let held = Override::new(action, reason, now);
    (Some(Override { until: Some(after(DEFAULT_OVERRIDE_TIME)), ..held }), None)
}

/// The automatic state that explains a word that nobody holds.
pub(super) fn believed(word: Admission) -> State {
    match (word.new_share(), word.old_share()) {
        (0, 0) => State::Down,
        (0, _) => State::Suspect,
        _ => State::Up,
    }
}
