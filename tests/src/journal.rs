//! The daemon's event journal, as `weir events -o json` prints it: what of it a timeline needs.
use anyhow::{Context, Result};
use serde::Deserialize;

/// Most events to ask for, as an argument of `weir events -n`.
pub const EVENTS_MAX: &str = "1000";

/// One event. Times are CLOCK_MONOTONIC in nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub struct Event {
    /// When it was recorded.
    pub monotonic_ns: u64,
    /// `domain-state`, `backend-state`, `override` or `daemon`.
    pub kind: String,
    /// Path of a domain, name of a backend.
    pub subject: String,
    /// State before, in capitals.
    #[serde(default)]
    pub from: Option<String>,
    /// State after, in capitals.
    #[serde(default)]
    pub to: Option<String>,
    /// In words.
    #[serde(default)]
    pub cause: String,
    /// When the first missing answer was due.
    #[serde(default)]
    pub evidence_ns: Option<u64>,
    /// When the daemon decided.
    #[serde(default)]
    pub decided_ns: Option<u64>,
    /// When the store that the data plane reads was done.
    #[serde(default)]
    pub stored_ns: Option<u64>,
}

impl Event {
    /// Whether it says that a domain or backend came into this state.
    pub fn says(&self, subject: &str, state: &str) -> bool {
        self.subject == subject && self.to.as_deref() == Some(state)
    }

    /// Whether it is about a domain's state.
    pub fn is_of_domain(&self) -> bool {
        self.kind == "domain-state"
    }
}

/// Parses what `weir events -o json` prints; in the order of time.
///
/// # Errors
/// It is no array of events.
pub fn parse(json: serde_json::Value) -> Result<Vec<Event>> {
    let mut events: Vec<Event> =
        serde_json::from_value(json).context("`weir events` printed something else")?;
    events.sort_by_key(|event| event.monotonic_ns);
    Ok(events)
}

/// The first event from `since_ns` on that says so.
pub fn first<'a>(events: &'a [Event], subject: &str, state: &str, since_ns: u64) -> Option<&'a Event> {
    events.iter().find(|event| event.monotonic_ns >= since_ns && event.says(subject, state))
}

/// The last event from `since_ns` on that says which state a backend or domain came into.
pub fn last<'a>(events: &'a [Event], subject: &str, since_ns: u64) -> Option<&'a Event> {
    let is_of_state = |event: &&Event| matches!(event.kind.as_str(), "domain-state" | "backend-state");
    let mut of_it = events.iter().filter(is_of_state).filter(|event| event.subject == subject);
    of_it.rfind(|event| event.monotonic_ns >= since_ns)
}

/// Events for tests.
#[cfg(test)]
pub(crate) mod testing {
    /// One of this kind, as `weir events` prints it, but for what nobody here asks for.
    pub(crate) fn event(subject: &str, kind: &str, to: &str, monotonic_ns: u64) -> serde_json::Value {
        serde_json::json!({ "subject": subject, "kind": kind, "to": to, "monotonic_ns": monotonic_ns })
    }
}
