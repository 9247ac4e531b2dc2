//! From believed states and operators' words to the fewest stores into the data plane.
//!
//! The planner is pure: it holds the automatic state of every backend and domain, the operators' overrides, and the
//! admission words as they were last stored. A [`Fact`] or an operator's action goes in, at most one [`Change`] comes
//! out. A word depends on nothing but its own subject's automatic state and override, so
//! - dropping a domain is one store, however much lies below it, and
//! - the words after a set of facts are the same in whatever order the facts of different subjects came.
//!
//! Between what health says and the word stands the subject's [`Breaker`]: what was down comes back as the configuration says,
//! by steps that [`Planner::tick`] takes when they are due.

use std::collections::BTreeSet;
use std::fmt;

use lb_common::abi::admission::Admission;
use lb_common::abi::limits::MAX_DOMAINS;

use crate::config::{BackendId, Config, DomainId};
use crate::plan::breaker::{self, Breaker};
use crate::plan::state::{Action, Override, State};

/// Longest reason of an operator, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// Reason of an override that was found in the data plane without its words.
pub const UNRECORDED_REASON: &str = "found in the running data plane; its reason was not recorded";

/// One admission word of the data plane.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Cell {
    /// The word in a backend's own entry.
    Backend(BackendId),
    /// The word of a region, zone or rack in the admission array.
    Domain(DomainId),
    /// The word of a pool in the admission array, by its number over all services.
    Pool(u16),
}

impl Cell {
    /// Index into the admission array; `None` for a backend, whose word lies in its own entry.
    #[must_use]
    pub const fn admission_index(self) -> Option<usize> {
        match self {
            Self::Backend(_) => None,
            Self::Domain(domain) => Some(domain.index()),
            Self::Pool(pool) => Some(MAX_DOMAINS + pool as usize),
        }
    }
}

/// Where admission words are written to: BPF memory, or a table in tests.
pub trait AdmissionStore: Send {
    /// Writes one word by one aligned 32-bit store; effective on the next packet.
    fn store(&mut self, cell: Cell, word: Admission);
    /// The word as it stands.
    fn load(&self, cell: Cell) -> Admission;
}

/// What has a state.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Subject {
    /// A backend.
    Backend(BackendId),
    /// A region, zone or rack.
    Domain(DomainId),
}

impl Subject {
    /// The word that says what the subject may take.
    #[must_use]
    pub const fn cell(self) -> Cell {
        match self {
            Self::Backend(backend) => Cell::Backend(backend),
            Self::Domain(domain) => Cell::Domain(domain),
        }
    }

    /// The backend's name or the domain's path.
    ///
    /// # Panics
    /// If the subject is not of this configuration.
    #[must_use]
    pub fn name(self, config: &Config) -> &str {
        match self {
            Self::Backend(backend) => &config[backend].name,
            Self::Domain(domain) => &config.topology[domain].path,
        }
    }
}

/// Why a state changed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// Members of a domain missed their probes together.
    Silent {
        /// Members that missed.
        missing: u32,
        /// All members that count.
        members: u32,
        /// For how many probes in a row, at least.
        rounds: u32,
    },
    /// Enough members of a domain answer again.
    Answering {
        /// Members that answer.
        answering: u32,
        /// All members that count.
        members: u32,
    },
    /// A backend missed `fall` probes in a row.
    Missed {
        /// Name of the check.
        check: String,
        /// How the last probe failed.
        how: String,
        /// Probes missed in a row.
        streak: u32,
    },
    /// A backend passed `rise` probes in a row on all its checks.
    Passed,
    /// No check covers it any more.
    Unchecked,
    /// An operator said so.
    Operator {
        /// The operator's reason.
        reason: String,
    },
    /// The word found at start was not what states and overrides say.
    Reconciled,
    /// What recovered takes a larger share of new flows.
    Recovering,
    /// Its pool cannot spare it: as much of the pool as may be is out already.
    Spared,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent { missing, members, rounds } => {
                let plural = if *rounds == 1 { "" } else { "s in a row" };
                write!(f, "{missing} of {members} backends missed {rounds} probe{plural}")
            }
            Self::Answering { answering, members } => {
                write!(f, "{answering} of {members} backends answer again")
            }
            Self::Missed { check, how, streak } => write!(f, "check {check}: {how}, {streak} in a row"),
            Self::Passed => f.write_str("all checks pass again"),
            Self::Unchecked => f.write_str("no check covers it any more: believed up"),
            Self::Operator { reason } => write!(f, "operator: {reason}"),
            Self::Reconciled => f.write_str("at start: the word in the data plane did not match"),
            Self::Spared => f.write_str("checks fail, but max_ejected leaves it in: too many others are out"),
            Self::Recovering => f.write_str("it recovered, and has kept well"),
        }
    }
}

/// What automation believes of one subject, from now on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fact {
    /// Of whom.
    pub subject: Subject,
    /// The automatic state.
    pub state: State,
    /// Why.
    pub cause: Cause,
    /// When the evidence was due, by `CLOCK_MONOTONIC`; none if it took no evidence.
    pub evidence_ns: Option<u64>,
}

/// One store into the data plane.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Where.
    pub cell: Cell,
    /// What.
    pub word: Admission,
    /// Of whom.
    pub subject: Subject,
    /// The effective state before.
    pub from: State,
    /// The effective state after.
    pub to: State,
    /// Why.
    pub cause: Cause,
    /// When the evidence was due, by `CLOCK_MONOTONIC`; none for an operator's action.
    pub evidence_ns: Option<u64>,
}

/// What an operator's action came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Acted {
    /// The effective state before.
    pub from: State,
    /// The effective state after.
    pub to: State,
    /// Whether anything is different now: an override, its reason, or a word.
    pub changed: bool,
    /// The store, if the word is different.
    pub change: Option<Change>,
}

/// Why an operator's action was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Refusal {
    /// The reason is mandatory.
    #[error("a reason is required: say in a few words why, for whoever reads the events later")]
    EmptyReason,
    /// The reason is too long.
    #[error("the reason has more than {MAX_REASON_BYTES} bytes: shorten it")]
    LongReason,
    /// The subject is not of this configuration.
    #[error("no such backend or domain in the running configuration")]
    Unknown,
}

/// How the planner begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InitialHealth {
    /// A data plane that was just built: everything is believed UP.
    Fresh,
    /// A data plane that ran before: believe what its words say until evidence says otherwise.
    Adopted,
}

/// One subject's part of the planner.
#[derive(Clone, Debug)]
struct Entry {
    breaker: Breaker,
    held: Option<Override>,
    word: Admission,
    /// Its entry in [`Planner::timers`].
    timer_ns: Option<u64>,
}

impl Entry {
    fn adopt(
        word: Admission,
        initial: InitialHealth,
        held: Option<Override>,
        now: jiff::Timestamp,
        recovery: breaker::Settings,
    ) -> Self {
        let adopted = initial == InitialHealth::Adopted;
        // A word that is held without a recorded override: the daemon died between store and record. The operator's
        // word stands all the same.
        let held = held.or_else(|| {
            (adopted && word.is_held()).then(|| Override {
                action: if word.old_share() == 0 { Action::Fail } else { Action::Drain },
                reason: UNRECORDED_REASON.to_owned(),
                since: now,
            })
        });
        let automatic = if adopted && !word.is_held() { believed(word) } else { State::Up };
        Self { breaker: Breaker::new(recovery, automatic), held, word, timer_ns: None }
    }

    fn effective(&self) -> State {
        match self.held.as_ref().map(|held| held.action) {
            Some(Action::Drain) => State::Draining,
            Some(Action::Fail) => State::Down,
            Some(Action::Restore) | None => self.breaker.state(),
        }
    }

    /// The word that the entry's facts ask for; never clean.
    fn wanted(&self) -> Admission {
        if self.held.is_some() {
            return self.effective().admission().held();
        }
        let (new, old) = self.breaker.shares();
        Admission::new(new, old)
    }
}

/// The automatic state that explains a word that nobody holds.
fn believed(word: Admission) -> State {
    match (word.new_share(), word.old_share()) {
        (0, 0) => State::Down,
        (0, _) => State::Suspect,
        _ => State::Up,
    }
}

/// See the [module's description](self).
#[derive(Clone, Debug)]
pub struct Planner {
    backends: Vec<Entry>,
    domains: Vec<Entry>,
    /// Who comes back, by when its share changes next; an entry for each of them.
    timers: BTreeSet<(u64, Subject)>,
}

impl Planner {
    /// Begins with the words that `load` finds, and with the operators' overrides that stood before.
    ///
    /// The second value holds the stores that make words and facts agree; none after a clean stop.
    pub fn new(
        config: &Config,
        overrides: &[(Subject, Override)],
        initial: InitialHealth,
        load: impl Fn(Cell) -> Admission,
        now: jiff::Timestamp,
    ) -> (Self, Vec<Change>) {
        let entry = |subject: Subject| {
            // A Restore is the absence of an override.
            let held = overrides.iter().rev().find(|(of, _)| *of == subject).map(|(_, held)| held.clone());
            let held = held.filter(|held| held.action != Action::Restore);
            Entry::adopt(load(subject.cell()), initial, held, now, config.recovery)
        };
        let backends = (0..config.backends.len()).filter_map(BackendId::from_index);
        let mut planner = Self {
            backends: backends.map(|id| entry(Subject::Backend(id))).collect(),
            domains: config.topology.ids().map(|id| entry(Subject::Domain(id))).collect(),
            timers: BTreeSet::new(),
        };
        let changes = planner.subjects().filter_map(|subject| planner.reconcile(subject)).collect();
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

    /// When [`tick`](Self::tick) has something to do; none while nothing comes back.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.timers.first().map(|(at_ns, _)| *at_ns)
    }

    /// Takes the next step that was due at `now_ns`, if there is one, of what comes back. The change is empty where an
    /// operator's word outranks it.
    pub fn tick(&mut self, now_ns: u64) -> Option<Option<Change>> {
        let (_, subject) = self.timers.first().copied().filter(|(at_ns, _)| *at_ns <= now_ns)?;
        let entry = self.entry_mut(subject);
        let from = entry.effective();
        entry.breaker.tick(now_ns);
        let change = Self::store(entry, subject, from, Cause::Recovering, None);
        self.set_timer(subject);
        Some(change)
    }

    fn set_timer(&mut self, subject: Subject) {
        let entry = self.entry_mut(subject);
        let next_ns = entry.breaker.next_ns();
        let before_ns = std::mem::replace(&mut entry.timer_ns, next_ns);
        if let Some(before_ns) = before_ns {
            self.timers.remove(&(before_ns, subject));
        }
        if let Some(next_ns) = next_ns {
            self.timers.insert((next_ns, subject));
        }
    }

    /// Takes in an operator's action, given at `now` for `reason`.
    ///
    /// # Errors
    /// An empty or overlong reason, or a subject that is not of this configuration; then nothing changed.
    pub fn act(
        &mut self,
        subject: Subject,
        action: Action,
        reason: &str,
        now: jiff::Timestamp,
    ) -> Result<Acted, Refusal> {
        let reason = reason.trim();
        match reason.len() {
            0 => return Err(Refusal::EmptyReason),
            length if length > MAX_REASON_BYTES => return Err(Refusal::LongReason),
            _ => {}
        }
        let entry = self.find_mut(subject).ok_or(Refusal::Unknown)?;
        let from = entry.effective();
        let same = match (&entry.held, action) {
            (None, Action::Restore) => true,
            (Some(held), _) => held.action == action && held.reason == reason,
            (None, _) => false,
        };
        if same {
            return Ok(Acted { from, to: from, changed: false, change: None });
        }
        entry.held =
            (action != Action::Restore).then(|| Override { action, reason: reason.to_owned(), since: now });
        let cause = Cause::Operator { reason: reason.to_owned() };
        let change = Self::store(entry, subject, from, cause, None);
        Ok(Acted { from, to: entry.effective(), changed: true, change })
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
        self.entry(subject).held.as_ref()
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

#[cfg(test)]
#[path = "planner_tests.rs"]
mod tests;
