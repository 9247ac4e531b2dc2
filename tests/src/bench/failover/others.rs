//! What happens to those that did not fail: alarms, and flows that move. Both are to be 0; where they are not, this says what led there.
use super::traffic::Moves;
use crate::journal::Event;
use std::collections::BTreeSet;

/// Events from so long before a fault on explain what moved.
const BEFORE_NS: u64 = 3_000_000_000;

/// What was made to fail, and when.
pub(super) struct Fault<'a> {
    pub(super) victim: &'a str,
    /// The backends that it takes out.
    pub(super) dead: &'a BTreeSet<String>,
    pub(super) begin_ns: u64,
}

/// Alarms of a whole kind of faults: during each of them, and in between.
pub(super) struct Watch {
    /// What was before has been counted.
    since_ns: u64,
    alarms: usize,
}

impl Watch {
    /// From a moment on.
    pub(super) const fn new(since_ns: u64) -> Self {
        Self { since_ns, alarms: 0 }
    }

    /// Counts what came since the last time and before `until_ns`, and tells of it.
    pub(super) fn count(&mut self, events: &[Event], fault: Option<&Fault<'_>>, until_ns: u64) {
        let found = alarms(events, fault, (self.since_ns, until_ns));
        for alarm in &found {
            eprintln!(
                "  ALARM OF ANOTHER: {}",
                in_words(alarm, fault.map_or(self.since_ns, |fault| fault.begin_ns))
            );
        }
        self.alarms += found.len();
        self.since_ns = until_ns;
    }

    /// How many there were.
    pub(super) const fn alarms(&self) -> usize {
        self.alarms
    }
}

/// What was said to be SUSPECT or DOWN from one moment to another, and was well: everything but what failed, from then on.
fn alarms<'a>(
    events: &'a [Event],
    fault: Option<&Fault<'_>>,
    (since_ns, until_ns): (u64, u64),
) -> Vec<&'a Event> {
    let failed = |event: &Event| {
        fault.is_some_and(|fault| {
            let below = event.subject.strip_prefix(fault.victim);
            let is_of_it = below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            event.monotonic_ns >= fault.begin_ns && (is_of_it || fault.dead.contains(&event.subject))
        })
    };
    let is_alarm = |event: &&Event| {
        let of_state = matches!(event.kind.as_str(), "domain-state" | "backend-state");
        let bad = matches!(event.to.as_deref(), Some("SUSPECT" | "DOWN"));
        (since_ns..until_ns).contains(&event.monotonic_ns) && of_state && bad && !failed(event)
    };
    events.iter().filter(is_alarm).collect()
}

/// Says which flows moved, from where to where, and what happened from before the fault on.
pub(super) fn explain(moves: &Moves, events: &[Event], begin_ns: u64) {
    for ((from, to), moved) in moves {
        let first_ms = (moved.first_ns as f64 - begin_ns as f64) / 1e6;
        eprintln!(
            "  {} flows moved from {from} to {to}, the first one {first_ms:.3} ms after the fault",
            moved.ports.len()
        );
    }
    for event in events.iter().filter(|event| event.monotonic_ns + BEFORE_NS >= begin_ns) {
        eprintln!("  {}", in_words(event, begin_ns));
    }
}

fn in_words(event: &Event, begin_ns: u64) -> String {
    let ms = (event.monotonic_ns as f64 - begin_ns as f64) / 1e6;
    let state = |state: &Option<String>| state.clone().unwrap_or_else(|| "-".to_owned());
    format!("{ms:.3} ms: {} {} -> {}: {}", event.subject, state(&event.from), state(&event.to), event.cause)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal;
    use crate::journal::testing::event;

    #[test]
    fn alarms_are_of_what_did_not_fail_or_not_yet() {
        let events = [
            event("w/z1/r1", "domain-state", "DOWN", 10),
            event("w/z1", "domain-state", "SUSPECT", 11),
            event("a", "backend-state", "DOWN", 12),
            event("w/z1/r10", "domain-state", "SUSPECT", 13),
            event("b", "backend-state", "DOWN", 14),
            event("b", "backend-state", "UP", 15),
            event("b", "plan", "DOWN", 16),
            event("c", "backend-state", "DOWN", 9),
            event("a", "backend-state", "DOWN", 8),
            event("d", "backend-state", "DOWN", 7),
            event("e", "backend-state", "DOWN", 20),
        ];
        let events = journal::parse(serde_json::Value::from(events.to_vec())).unwrap();
        let dead = BTreeSet::from(["a".to_owned()]);
        let fault = Fault { victim: "w/z1/r1", dead: &dead, begin_ns: 10 };
        let names = |found: Vec<&Event>| found.into_iter().map(|e| e.subject.clone()).collect::<Vec<_>>();
        assert_eq!(names(alarms(&events, Some(&fault), (8, 20))), ["a", "c", "w/z1", "w/z1/r10", "b"]);
        assert_eq!(names(alarms(&events, None, (10, 13))), ["w/z1/r1", "w/z1", "a"]);
        let mut watch = Watch::new(8);
        watch.count(&events, Some(&fault), 20);
        watch.count(&events, None, 21);
        assert_eq!(watch.alarms(), 6, "each once");
    }
}
