//! The daemon's event journal, as `weir events -o json` prints it: what of it a timeline needs.
use anyhow::{Context, Result};
use serde::Deserialize;

/// Most events that the demo asks for.
pub(crate) const EVENTS_MAX: &str = "1000";

/// One event. Times are CLOCK_MONOTONIC in nanoseconds.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Event {
    pub(crate) monotonic_ns: u64,
    pub(crate) kind: String,
    pub(crate) subject: String,
    #[serde(default)]
    pub(crate) to: Option<String>,
    #[serde(default)]
    pub(crate) cause: String,
    #[serde(default)]
    pub(crate) evidence_ns: Option<u64>,
    #[serde(default)]
    pub(crate) decided_ns: Option<u64>,
    #[serde(default)]
    pub(crate) stored_ns: Option<u64>,
}

impl Event {
    /// Whether it says that a domain or backend came into this state.
    pub(crate) fn says(&self, subject: &str, state: &str) -> bool {
        self.subject == subject && self.to.as_deref() == Some(state)
    }

    pub(crate) fn is_of_domain(&self) -> bool {
        self.kind == "domain-state"
    }
}

/// Parses what `weir events -o json` prints.
pub(crate) fn parse(json: serde_json::Value) -> Result<Vec<Event>> {
    let mut events: Vec<Event> =
        serde_json::from_value(json).context("`weir events` printed something else")?;
    events.sort_by_key(|event| event.monotonic_ns);
    Ok(events)
}

/// The first event from `since_ns` on that says so.
pub(crate) fn first<'a>(events: &'a [Event], subject: &str, state: &str, since_ns: u64) -> Option<&'a Event> {
    events.iter().find(|event| event.monotonic_ns >= since_ns && event.says(subject, state))
}
