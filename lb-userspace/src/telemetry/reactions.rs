//! How long reactions took: histograms fed by the events. Pure.

use super::event::Event;
use crate::plan::state::State;

/// Upper bounds of the buckets in seconds: from a store (microseconds) to a slow check (seconds).
pub const BOUNDS_S: [f64; 20] = [
    0.000_002_5,
    0.000_005,
    0.000_01,
    0.000_025,
    0.000_05,
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    5.0,
    30.0,
];

/// What is timed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// From the evidence (the first answer that should have come) to the decision.
    Detect,
    /// From the decision, or the moment at which an operator's command was taken up, to the store.
    Program,
    /// From the evidence to the store.
    Total,
}

impl Phase {
    /// All phases.
    pub const ALL: [Self; 3] = [Self::Detect, Self::Program, Self::Total];

    /// Name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Detect => "detect",
            Self::Program => "program",
            Self::Total => "total",
        }
    }
}

/// Whether flows are sent away or come back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// To SUSPECT, DOWN or DRAINING.
    Out,
    /// To UP or RAMP.
    Back,
}

impl Direction {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Out, Self::Back];

    /// Name in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Out => "out",
            Self::Back => "back",
        }
    }
}

/// One histogram; buckets are not cumulative.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Histogram {
    /// What lies in each bucket, and above the last bound.
    pub counts: [u64; BOUNDS_S.len() + 1],
    /// Sum of all, in seconds.
    pub sum_s: f64,
}

impl Histogram {
    fn observe(&mut self, seconds: f64) {
        let bucket = BOUNDS_S.iter().position(|&bound| seconds <= bound).unwrap_or(BOUNDS_S.len());
        self.counts[bucket] += 1;
        self.sum_s += seconds;
    }
}

/// All histograms.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Reactions {
    histograms: [[Histogram; 2]; 3],
}

impl Reactions {
    /// Takes the times of an event, if it is a change of state that has some.
    pub fn observe(&mut self, event: &Event) {
        let Some(to) = event.to else { return };
        let direction = match to {
            State::Up | State::Ramp => Direction::Back,
            State::Suspect | State::Down | State::Draining => Direction::Out,
        };
        let Event { evidence_ns, decided_ns, stored_ns, .. } = *event;
        let times = [(evidence_ns, decided_ns), (decided_ns, stored_ns), (evidence_ns, stored_ns)];
        for (phase, (from, until)) in Phase::ALL.into_iter().zip(times) {
            if let (Some(from), Some(until)) = (from, until) {
                let seconds = until.saturating_sub(from) as f64 / 1e9;
                self.histograms[phase as usize][direction as usize].observe(seconds);
            }
        }
    }

    /// The histogram of one phase and direction.
    #[must_use]
    pub const fn get(&self, phase: Phase, direction: Direction) -> &Histogram {
        &self.histograms[phase as usize][direction as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::super::event::{EventKind, NewEvent};
    use super::*;

    fn event(to: Option<State>, times: [Option<u64>; 3]) -> Event {
        let [evidence_ns, decided_ns, stored_ns] = times;
        let (kind, subject, cause) = (EventKind::DomainState, "west".to_owned(), String::new());
        let new = NewEvent {
            kind,
            subject,
            from: None,
            to,
            cause,
            evidence_ns,
            decided_ns,
            stored_ns,
            monotonic_ns: 0,
        };
        new.numbered(1, jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn each_time_falls_into_its_bucket() {
        let mut reactions = Reactions::default();
        reactions.observe(&event(Some(State::Suspect), [Some(1_000_000), Some(4_500_000), Some(4_504_000)]));
        let bucket = |phase, direction| {
            let histogram = reactions.get(phase, direction);
            histogram.counts.iter().position(|&count| count == 1).map(|at| BOUNDS_S[at])
        };
        assert_eq!(bucket(Phase::Detect, Direction::Out), Some(0.005));
        assert_eq!(bucket(Phase::Program, Direction::Out), Some(0.000_005));
        assert_eq!(bucket(Phase::Total, Direction::Out), Some(0.005));
        assert_eq!(bucket(Phase::Total, Direction::Back), None);
        assert!((reactions.get(Phase::Detect, Direction::Out).sum_s - 0.003_5).abs() < 1e-12);
    }

    #[test]
    fn what_has_no_evidence_is_not_said_to_be_detected() {
        let mut reactions = Reactions::default();
        reactions.observe(&event(Some(State::Up), [None, Some(7), Some(60_000_000_007)]));
        reactions.observe(&event(None, [Some(1), Some(2), Some(3)]));
        assert_eq!(reactions.get(Phase::Detect, Direction::Back), &Histogram::default());
        assert_eq!(reactions.get(Phase::Total, Direction::Back), &Histogram::default());
        let program = reactions.get(Phase::Program, Direction::Back);
        assert_eq!((program.counts[BOUNDS_S.len()], program.sum_s), (1, 60.0));
        assert_eq!(reactions.get(Phase::Detect, Direction::Out), &Histogram::default());
    }
}
