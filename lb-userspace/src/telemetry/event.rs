//! Events: everything that changes what the data plane does, with cause and timings.

use crate::plan::state::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One line of the event journal.
///
/// All `*_ns` fields are readings of `CLOCK_MONOTONIC` in nanoseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Event {
    /// Number of the event, from 1, without gaps, over restarts of the daemon.
    pub seq: u64,
    /// Wall-clock time at which it was recorded.
    pub time: jiff::Timestamp,
    /// The same moment on the monotonic clock.
    pub monotonic_ns: u64,
    /// What kind of thing changed.
    pub kind: EventKind,
    /// Its name: a backend's name, a domain's path, a service's name, or the node's name.
    pub subject: String,
    /// State before, for state changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<State>,
    /// State after, for state changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<State>,
    /// Why, in words: "5 of 5 backends missed round 81", "operator: replacing fans".
    pub cause: String,
    /// When the evidence that led to this was due: the moment at which the first missing answer should have come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence_ns: Option<u64>,
    /// When the decision was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_ns: Option<u64>,
    /// When the store into BPF memory was done: effective from the next packet on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_ns: Option<u64>,
}

/// See [`Event::kind`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A backend's effective state changed.
    BackendState,
    /// A domain's effective state changed.
    DomainState,
    /// An operator drained, failed or restored something, such a word ended, or what was drained is.
    Override,
    /// A domain was shifted, or its shift was extended, prolonged, cancelled, or ended.
    Shift,
    /// The canary of a service began, moved or ended.
    Canary,
    /// An emergency switch was thrown, taken back, or went off by itself.
    Emergency,
    /// The overload controller began or ended to shed new flows.
    Shed,
    /// A plan began or ended to spill or to disbelieve health, or spills more or less than before; or a backend stays in that checks
    /// would have taken out.
    Plan,
    /// An operator flushed flows from the tables of flows.
    Flows,
    /// The daemon started, adopted a running data plane, stopped, or met a condition of its own.
    Daemon,
}

/// An [`Event`] before the journal gives it a number and the wall-clock time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NewEvent {
    /// See [`Event::kind`].
    pub kind: EventKind,
    /// See [`Event::subject`].
    pub subject: String,
    /// See [`Event::from`].
    pub from: Option<State>,
    /// See [`Event::to`].
    pub to: Option<State>,
    /// See [`Event::cause`].
    pub cause: String,
    /// See [`Event::evidence_ns`].
    pub evidence_ns: Option<u64>,
    /// See [`Event::decided_ns`].
    pub decided_ns: Option<u64>,
    /// See [`Event::stored_ns`].
    pub stored_ns: Option<u64>,
    /// See [`Event::monotonic_ns`].
    pub monotonic_ns: u64,
}

impl NewEvent {
    /// An event of the daemon itself: `subject` is the node's name.
    #[must_use]
    pub const fn daemon(subject: String, cause: String, monotonic_ns: u64) -> Self {
        Self {
            kind: EventKind::Daemon,
            subject,
            from: None,
            to: None,
            cause,
            evidence_ns: None,
            decided_ns: None,
            stored_ns: None,
            monotonic_ns,
        }
    }

    /// The event as the journal records it.
    #[must_use]
    pub fn numbered(self, seq: u64, time: jiff::Timestamp) -> Event {
        Event {
            seq,
            time,
            monotonic_ns: self.monotonic_ns,
            kind: self.kind,
            subject: self.subject,
            from: self.from,
            to: self.to,
            cause: self.cause,
            evidence_ns: self.evidence_ns,
            decided_ns: self.decided_ns,
            stored_ns: self.stored_ns,
        }
    }
}

/// How the cause of a daemon's start begins.
pub const STARTED: &str = "started: ";
/// How it begins if nothing was forwarding before: then everything is believed up.
pub const STARTED_FRESH: &str = "started: nothing was forwarding before";
/// How the cause of an orderly stop begins.
pub const STOPPED: &str = "stopped; ";
/// What stands before the moment at which a daemon was last known to run, in the cause of the next one's start.
const LAST_ALIVE: &str = "; the one before was last alive at ";

/// Whether a cause tells of a daemon's start.
#[must_use]
pub fn says_started(cause: &str) -> bool {
    cause.starts_with(STARTED)
}

/// Whether a cause tells of a start without anything before it.
#[must_use]
pub fn says_fresh(cause: &str) -> bool {
    cause.starts_with(STARTED_FRESH)
}

/// Whether a cause tells of an orderly stop.
#[must_use]
pub fn says_stopped(cause: &str) -> bool {
    cause.starts_with(STOPPED)
}

/// Whether the cause of an override tells that an operator failed something.
#[must_use]
pub fn says_fail(cause: &str) -> bool {
    cause.starts_with("operator: fail")
}

/// Adds to the cause of a start when the daemon before was last known to run.
#[must_use]
pub fn with_last_alive(mut cause: String, time: Option<jiff::Timestamp>) -> String {
    if let Some(time) = time {
        cause.push_str(&format!("{LAST_ALIVE}{time}"));
    }
    cause
}

/// When the daemon before was last known to run, from the cause of a start.
#[must_use]
pub fn last_alive(cause: &str) -> Option<jiff::Timestamp> {
    let (_, rest) = cause.split_once(LAST_ALIVE)?;
    rest.split_whitespace().next()?.parse().ok()
}
