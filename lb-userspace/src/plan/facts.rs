//! What the planner takes in and gives out: facts, causes, changes of words, operators' orders and what came of them.

use std::fmt;

use lb_common::abi::admission::Admission;
use lb_common::abi::limits::MAX_DOMAINS;

use super::capacity::Readiness;
use super::shift::Shift;
use super::state::{Action, Override, State, Watch};
use crate::config::{BackendId, Config, DomainId};

/// Longest reason of an operator, in bytes.
pub const MAX_REASON_BYTES: usize = 1024;

/// Reason of an override or a shift that was found in the data plane without its words.
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
    /// An operator's word was for a time, which is over.
    Expired {
        /// The reason that was given for it.
        reason: String,
    },
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
            Self::Expired { reason } => write!(f, "its time is over: {reason}"),
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
    /// It would end before it began.
    #[error("its end is not after now: give it a time of at least one second")]
    Over,
    /// There is nothing to extend or to cancel.
    #[error("there is no shift of this domain")]
    NoShift,
    /// Extending must not make it shorter.
    #[error("the shift that stands ends later than that: cancel it, or shift again")]
    Shorter,
    /// Automation does not change what an operator said.
    #[error("an operator's shift of this domain stands")]
    Outranked,
}

/// An operator's order about a backend or a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Order {
    /// What to do.
    pub action: Action,
    /// Why.
    pub reason: String,
    /// When it ends by itself; none means only by [`Action::Restore`], which itself has no end.
    pub until: Option<jiff::Timestamp>,
    /// How a drain is watched.
    pub watch: Watch,
    /// Whether the failures that damping remembers are forgotten, too.
    pub forget_failures: bool,
}

impl Order {
    /// An order without an end.
    #[must_use]
    pub fn new(action: Action, reason: impl Into<String>) -> Self {
        Self { action, reason: reason.into(), until: None, watch: Watch::default(), forget_failures: false }
    }
}

/// What became due: see [`Planner::tick`](super::planner::Planner::tick).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Due {
    /// What comes back took a step.
    Recovered,
    /// An operator's word ended.
    OverrideEnded(Override),
    /// A shift ended. The second value says whether it did so although what returns is not ready, because it had been
    /// prolonged as often as it may.
    ShiftEnded(Shift, bool),
    /// A shift goes on for a while: of the domain's members too few are well.
    ShiftProlonged {
        /// The shift as it stands now.
        shift: Shift,
        /// What is well, and what there is.
        ready: Readiness,
    },
}

/// Something that became due.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tick {
    /// Of whom.
    pub subject: Subject,
    /// What.
    pub due: Due,
    /// The effective state before.
    pub from: State,
    /// The effective state after.
    pub to: State,
    /// The store, if the word is different.
    pub change: Option<Change>,
}

/// What an action on a shift came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shifted {
    /// The shift before.
    pub before: Option<Shift>,
    /// The shift now.
    pub now: Option<Shift>,
    /// The effective state, which a shift does not change.
    pub state: State,
    /// The store, if the word is different.
    pub change: Option<Change>,
}
