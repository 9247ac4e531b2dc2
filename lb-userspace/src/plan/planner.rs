//! From believed states and operators' words to the fewest stores into the data plane.
//!
//! The planner is pure: it holds the automatic state of every backend and domain, the operators' overrides, and the
//! admission words as they were last stored. A [`Fact`] or an operator's action goes in, at most one [`Change`] comes
//! out. A word depends on nothing but its own subject's automatic state and override, so
//! - dropping a domain is one store, however much lies below it, and
//! - the words after a set of facts are the same in whatever order the facts of different subjects came.
//!
//! An operator's word stands until its end; a shift of a domain limits the share of new flows besides. Both end on time by
//! [`Planner::tick`], and then the automatic state rules at once.
//!
//! Between what health says and the word stands the subject's [`Breaker`](crate::plan::breaker::Breaker): what was down comes back as the configuration says,
//! by steps that [`Planner::tick`] takes when they are due.

mod entry;

use std::collections::BTreeSet;

use lb_common::abi::admission::Admission;

use crate::config::{BackendId, Config, DomainId};
use crate::plan::breaker::Damping;
use crate::plan::capacity::{Readiness, readiness};
use crate::plan::shift::{Origin, Shift, ShiftOrder};
use crate::plan::state::{Action, Moment, Override, State};
use entry::{Entry, Standing, believed};

pub use crate::plan::facts::{
    Acted, AdmissionStore, Cause, Cell, Change, Due, Fact, MAX_REASON_BYTES, Order, Refusal, Shifted,
    Subject, Tick, UNRECORDED_REASON,
};

/// How the planner begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitialHealth {
    /// A data plane that was just built: everything is believed UP.
    Fresh,
    /// A data plane that ran before: believe what its words say until evidence says otherwise.
    Adopted,
}

/// What operators, and automation in the case of shifts, said before.
#[derive(Clone, Debug, Default)]
pub struct Words {
    /// Overrides; of several for one subject the last one stands.
    pub overrides: Vec<(Subject, Override)>,
    /// Shifts of domains.
    pub shifts: Vec<(DomainId, Shift)>,
}

/// See the [module's description](self).
#[derive(Clone, Debug)]
pub struct Planner {
    backends: Vec<Entry>,
    domains: Vec<Entry>,
    /// Weight of each backend, and its rack, zone and region.
    members: Vec<(u32, [DomainId; 3])>,
    /// Who comes back or is held for a time, by when that changes next; an entry for each of them.
    timers: BTreeSet<(u64, Subject)>,
}

impl Planner {
    /// Begins with the words that `load` finds, and with what operators said before. What ended meanwhile is due at once.
    ///
    /// The second value holds the stores that make words and facts agree; none after a clean stop.
    pub fn new(
        config: &Config,
        said: &Words,
        initial: InitialHealth,
        load: impl Fn(Cell) -> Admission,
        now: Moment,
    ) -> (Self, Vec<Change>) {
        let entry = |subject: Subject| {
            // A Restore is the absence of an override.
            let held =
                said.overrides.iter().rev().find(|(of, _)| *of == subject).map(|(_, held)| held.clone());
            let held = held.filter(|held| held.action != Action::Restore);
            let of = |&&(id, _): &&(DomainId, Shift)| Subject::Domain(id) == subject;
            let shift = said.shifts.iter().rev().find(of).map(|(_, shift)| shift.clone());
            Entry::adopt(load(subject.cell()), initial, (held, shift), now, config.recovery)
        };
        let backends = (0..config.backends.len()).filter_map(BackendId::from_index);
        let member =
            |backend: &crate::config::Backend| (backend.weight, config.topology.ancestors(backend.rack));
        let mut planner = Self {
            backends: backends.map(|id| entry(Subject::Backend(id))).collect(),
            domains: config.topology.ids().map(|id| entry(Subject::Domain(id))).collect(),
            members: config.backends.iter().map(member).collect(),
            timers: BTreeSet::new(),
        };
        let changes = planner.subjects().filter_map(|subject| planner.reconcile(subject)).collect();
        planner.subjects().for_each(|subject| planner.set_timer(subject));
        (planner, changes)
    }

    /// Every subject, domains first.
    pub fn subjects(&self) -> impl Iterator<Item = Subject> + use<> {
        let domains = (0..self.domains.len()).filter_map(DomainId::from_index).map(Subject::Domain);
        let backends = (0..self.backends.len()).filter_map(BackendId::from_index).map(Subject::Backend);
        domains.chain(backends)
    }

    /// Takes in what automation believes at `now_ns`. A store follows unless an operator's word outranks it or nothing
    /// changed.
    ///
    /// # Panics
    /// If the subject is not of this configuration.
    pub fn observe(&mut self, fact: Fact, now_ns: u64) -> Option<Change> {
        let entry = self.entry_mut(fact.subject);
        let from = entry.effective();
        entry.breaker.observe(fact.state, now_ns);
        let change = Self::store(entry, fact.subject, from, fact.cause, fact.evidence_ns);
        self.set_timer(fact.subject);
        change
    }

    /// When [`tick`](Self::tick) has something to do; none while nothing comes back or ends.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.timers.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes the next step that is due, if there is one: what comes back takes more flows, an operator's word or a shift
    /// ends, or is prolonged because the domain is not ready for its traffic to return.
    pub fn tick(&mut self, now: Moment) -> Option<Tick> {
        let (_, subject) = self.timers.first().copied().filter(|(at_ns, _)| *at_ns <= now.ns)?;
        let is_over = |until_ns: Option<u64>| until_ns.is_some_and(|at_ns| at_ns <= now.ns);
        let entry = self.entry_mut(subject);
        let from = entry.effective();
        let (due, cause) = if let Some(ended) = entry.held.take_if(|held| is_over(held.until_ns)) {
            let cause = Cause::Expired { reason: ended.it.reason.clone() };
            (Due::OverrideEnded(ended.it), cause)
        } else if let Some(ended) = entry.shift.take_if(|shift| is_over(shift.until_ns)) {
            let cause = Cause::Expired { reason: ended.it.reason.clone() };
            (self.end_shift(subject, ended.it, now), cause)
        } else {
            entry.breaker.tick(now.ns);
            (Due::Recovered, Cause::Recovering)
        };
        let entry = self.entry_mut(subject);
        let change = Self::store(entry, subject, from, cause, None);
        let to = entry.effective();
        self.set_timer(subject);
        Some(Tick { subject, due, from, to, change })
    }

    /// Lets a shift go whose time is over, or go on for a while.
    fn end_shift(&mut self, subject: Subject, shift: Shift, now: Moment) -> Due {
        let ready = match subject {
            Subject::Domain(id) => self.readiness(id),
            Subject::Backend(_) => Readiness::default(),
        };
        if ready.is_enough() {
            return Due::ShiftEnded(shift, false);
        }
        let Some(longer) = shift.prolonged() else { return Due::ShiftEnded(shift, true) };
        // From now on, not from its end: a daemon that did not run meanwhile has not looked.
        let by_ns = longer.prolonged_by_s.saturating_mul(1_000_000_000);
        let until_ns = Some(now.ns.saturating_add(by_ns));
        let by = jiff::SignedDuration::from_secs(i64::try_from(longer.prolonged_by_s).unwrap_or(0));
        let shift = Shift { until: now.time.checked_add(by).unwrap_or(longer.until), ..longer };
        self.entry_mut(subject).shift = Some(Standing { it: shift.clone(), until_ns });
        Due::ShiftProlonged { shift, ready }
    }

    /// How much of a domain could take new flows if it were not shifted: backends that are well, in domains that are.
    ///
    /// # Panics
    /// If the domain is not of this configuration.
    #[must_use]
    pub fn readiness(&self, domain: DomainId) -> Readiness {
        let members = self.members.iter().zip(&self.backends);
        let members = members.map(|((weight, above), own)| (*weight, *above, own.is_well()));
        readiness(members, |id| self.domains[id.index()].is_well(), domain)
    }

    fn set_timer(&mut self, subject: Subject) {
        let entry = self.entry_mut(subject);
        let next_ns = entry.next_ns();
        let before_ns = std::mem::replace(&mut entry.timer_ns, next_ns);
        if let Some(before_ns) = before_ns {
            self.timers.remove(&(before_ns, subject));
        }
        if let Some(next_ns) = next_ns {
            self.timers.insert((next_ns, subject));
        }
    }

    /// Takes in an operator's order.
    ///
    /// # Errors
    /// An empty or overlong reason, an end that is not to come, or a subject that is not of this configuration; then nothing
    /// changed.
    pub fn act(&mut self, subject: Subject, order: &Order, now: Moment) -> Result<Acted, Refusal> {
        let reason = good_reason(&order.reason)?;
        if order.until.is_some_and(|until| until <= now.time) {
            return Err(Refusal::Over);
        }
        let entry = self.find_mut(subject).ok_or(Refusal::Unknown)?;
        let from = entry.effective();
        let wanted = (order.action != Action::Restore).then(|| Override {
            action: order.action,
            reason: reason.to_owned(),
            since: now.time,
            until: order.until,
            watch: order.watch,
        });
        let same = match (&entry.held, &wanted) {
            (None, None) => true,
            (Some(held), Some(wanted)) => held.it == Override { since: held.it.since, ..wanted.clone() },
            _ => false,
        };
        let forgot = order.forget_failures && entry.breaker.forget(now.ns);
        if same && !forgot {
            return Ok(Acted { from, to: from, changed: false, change: None });
        }
        // The same word again stands since it was first given, as what it is about does.
        let since =
            entry.held.as_ref().filter(|held| held.it.action == order.action).map(|held| held.it.since);
        let held = wanted.map(|held| Override { since: since.unwrap_or(held.since), ..held });
        entry.held = held.map(|held| Standing::<Override>::of(held, now));
        let cause = Cause::Operator { reason: reason.to_owned() };
        let change = Self::store(entry, subject, from, cause, None);
        let to = entry.effective();
        self.set_timer(subject);
        Ok(Acted { from, to, changed: true, change })
    }

    /// Takes in an order about the shift of a domain. An operator's outranks an automatic one; of each domain there is at most
    /// one, and another one replaces it. A shift does not change the state of what it is about.
    ///
    /// # Errors
    /// [`Refusal`]; then nothing changed.
    pub fn shift(&mut self, domain: DomainId, order: &ShiftOrder, now: Moment) -> Result<Shifted, Refusal> {
        let subject = Subject::Domain(domain);
        let entry = self.find_mut(subject).ok_or(Refusal::Unknown)?;
        let before = entry.shift.as_ref().map(|shift| shift.it.clone());
        let outranks = |origin: Origin| {
            let stands = before.as_ref().map(|shift| shift.origin);
            origin == Origin::Operator || stands != Some(Origin::Operator)
        };
        let (after, reason) = match order {
            ShiftOrder::Set { keep_percent, origin, reason, until } => {
                let reason = good_reason(reason)?;
                if !outranks(*origin) {
                    return Err(Refusal::Outranked);
                }
                if *until <= now.time {
                    return Err(Refusal::Over);
                }
                (
                    Some(Shift::new(*keep_percent, *origin, reason.to_owned(), now.time, *until)),
                    reason.to_owned(),
                )
            }
            ShiftOrder::Extend { until } => {
                let stands = before.as_ref().ok_or(Refusal::NoShift)?;
                if *until <= stands.until {
                    return Err(Refusal::Shorter);
                }
                (Some(stands.extended(*until, now.time)), stands.reason.clone())
            }
            ShiftOrder::Cancel { origin } => {
                let stands = before.as_ref().ok_or(Refusal::NoShift)?;
                if !outranks(*origin) {
                    return Err(Refusal::Outranked);
                }
                (None, stands.reason.clone())
            }
        };
        let state = entry.effective();
        entry.shift = after.clone().map(|shift| Standing::<Shift>::of(shift, now));
        let change = Self::store(entry, subject, state, Cause::Operator { reason }, None);
        self.set_timer(subject);
        Ok(Shifted { before, now: after, state, change })
    }

    /// What the data plane is told: the override if one stands, else the automatic state.
    ///
    /// # Panics
    /// If the subject is not of this configuration; so with the other readers.
    #[must_use]
    pub fn effective(&self, subject: Subject) -> State {
        self.entry(subject).effective()
    }

    /// What automation believes.
    #[must_use]
    pub fn automatic(&self, subject: Subject) -> State {
        self.entry(subject).breaker.health()
    }

    /// The operator's word that stands.
    #[must_use]
    pub fn held(&self, subject: Subject) -> Option<&Override> {
        self.entry(subject).held.as_ref().map(|held| &held.it)
    }

    /// The shift that stands.
    #[must_use]
    pub fn shift_of(&self, domain: DomainId) -> Option<&Shift> {
        self.domains[domain.index()].shift.as_ref().map(|shift| &shift.it)
    }

    /// What damping remembers of a subject's failures; none if nothing.
    #[must_use]
    pub fn damping(&self, subject: Subject, now_ns: u64) -> Option<Damping> {
        self.entry(subject).breaker.damping(now_ns)
    }

    /// The admission word as last stored.
    #[must_use]
    pub fn word(&self, subject: Subject) -> Admission {
        self.entry(subject).word
    }

    /// Takes note that a subject's word is clean again, if it is open and no operator's word stands; returns whether it is.
    ///
    /// # Panics
    /// If the subject is not of this configuration.
    pub fn make_clean(&mut self, subject: Subject) -> bool {
        let entry = self.entry_mut(subject);
        let open = entry.word.0 | Admission::CLEAN == Admission::OPEN.0;
        if open {
            entry.word = Admission::OPEN;
        }
        open
    }

    fn reconcile(&mut self, subject: Subject) -> Option<Change> {
        let entry = self.entry_mut(subject);
        let from = believed(entry.word);
        Self::store(entry, subject, from, Cause::Reconciled, None)
    }

    fn store(
        entry: &mut Entry,
        subject: Subject,
        from: State,
        cause: Cause,
        evidence_ns: Option<u64>,
    ) -> Option<Change> {
        let word = entry.wanted();
        // Compared without CLEAN: a word that was always open stays clean, and one that was ever stored over has lost
        // the bit for good.
        if word.0 == entry.word.0 & !Admission::CLEAN {
            return None;
        }
        entry.word = word;
        Some(Change { cell: subject.cell(), word, subject, from, to: entry.effective(), cause, evidence_ns })
    }

    fn entry(&self, subject: Subject) -> &Entry {
        match subject {
            Subject::Backend(id) => &self.backends[id.index()],
            Subject::Domain(id) => &self.domains[id.index()],
        }
    }

    fn entry_mut(&mut self, subject: Subject) -> &mut Entry {
        self.find_mut(subject).expect("subjects of facts are of the planner's own configuration")
    }

    fn find_mut(&mut self, subject: Subject) -> Option<&mut Entry> {
        match subject {
            Subject::Backend(id) => self.backends.get_mut(id.index()),
            Subject::Domain(id) => self.domains.get_mut(id.index()),
        }
    }
}

fn good_reason(text: &str) -> Result<&str, Refusal> {
    let reason = text.trim();
    match reason.len() {
        0 => Err(Refusal::EmptyReason),
        length if length > MAX_REASON_BYTES => Err(Refusal::LongReason),
        _ => Ok(reason),
    }
}

#[cfg(test)]
mod adopted_tests;
#[cfg(test)]
#[path = "planner_ends_tests.rs"]
mod ends_tests;
#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
