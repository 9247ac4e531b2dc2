//! What is probed: one target for each address and way of probing, however many backends and checks share it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::{BackendId, Check, CheckKind, Config};
use crate::health::detector::Detector;
use crate::health::round::Outcome;

/// Targets that are probed in the same way at the same pace.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Name of the first check that asked for it.
    pub check: String,
    /// What is sent.
    pub kind: CheckKind,
    /// From one round to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Misses in a row until DOWN.
    pub fall: u32,
    /// Answers in a row until UP.
    pub rise: u32,
    /// Each probe is delayed by a random time of up to this share of the interval, in percent.
    pub jitter: u8,
    /// Indices into [`Targets::targets`], ascending.
    pub targets: Vec<usize>,
}

/// One address that is probed in one way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Where probes go.
    pub address: IpAddr,
    /// Index into [`Targets::groups`].
    pub group: usize,
    /// Position in [`Group::targets`].
    pub position: usize,
    /// The backends whose state depends on it.
    pub backends: Vec<BackendId>,
}

/// Everything that is probed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// Ways of probing, in the order of the checks.
    pub groups: Vec<Group>,
    /// Targets.
    pub targets: Vec<Target>,
    /// For each backend, the indices of its targets; none means that it is always believed UP.
    pub of_backend: Vec<Vec<usize>>,
}

/// What makes two checks the same way of probing: all but the name.
type Way<'a> = (&'a CheckKind, Duration, Duration, u32, u32, u8);

fn way(check: &Check) -> Way<'_> {
    (&check.kind, check.interval, check.timeout, check.fall, check.rise, check.jitter)
}

impl Group {
    /// Misses in a row that a target's detector waits for. A BFD session says itself when it is down; packets that are late
    /// before that make it suspect at most.
    #[must_use]
    pub fn detector_fall(&self) -> u32 {
        if matches!(self.kind, CheckKind::Bfd(_)) { u32::MAX } else { self.fall }
    }
}

impl Targets {
    /// The targets of a configuration's sets.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut found = Self { of_backend: vec![Vec::new(); config.backends.len()], ..Self::default() };
        let mut groups = HashMap::new();
        let mut targets = HashMap::new();
        for (index, backend) in config.backends.iter().enumerate() {
            let id = BackendId::from_index(index).expect("the number of backends is limited");
            for &check in &config[backend.set].checks {
                let check = &config[check];
                let group = *groups.entry(way(check)).or_insert_with(|| found.add_group(check));
                let target = *targets
                    .entry((group, backend.address))
                    .or_insert_with(|| found.add_target(group, backend.address));
                // Two checks of one set may be the same but for their names.
                if !found.of_backend[index].contains(&target) {
                    found.of_backend[index].push(target);
                    found.targets[target].backends.push(id);
                }
            }
        }
        found
    }

    fn add_group(&mut self, check: &Check) -> usize {
        self.groups.push(Group {
            check: check.name.clone(),
            kind: check.kind.clone(),
            interval: check.interval,
            timeout: check.timeout,
            fall: check.fall,
            rise: check.rise,
            jitter: check.jitter,
            targets: Vec::new(),
        });
        self.groups.len() - 1
    }

    fn add_target(&mut self, group: usize, address: IpAddr) -> usize {
        let target = self.targets.len();
        let position = self.groups[group].targets.len();
        self.groups[group].targets.push(target);
        self.targets.push(Target { address, group, position, backends: Vec::new() });
        target
    }
}

/// What is known of one target.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TargetState {
    /// Fall and rise.
    pub detector: Detector,
    /// The last result, [`Outcome::Unknown`] until there is one.
    pub last: Outcome,
    /// Round trip of the last answer.
    pub rtt_ns: Option<u64>,
    /// Answers since start.
    pub answered: u64,
    /// Misses since start, also those for which the host's isolation was to blame.
    pub missed: u64,
    /// When it last answered anything, be it that it is unwell.
    pub last_answer_ns: u64,
    /// The last result was a miss that is no evidence: this host was isolated then, or when the probe began.
    excused: bool,
}

impl TargetState {
    /// A target of which nothing is known but whether it is believed `up`.
    #[must_use]
    pub fn new(fall: u32, rise: u32, up: bool) -> Self {
        Self {
            detector: Detector::new(fall, rise, up),
            last: Outcome::Unknown,
            rtt_ns: None,
            answered: 0,
            missed: 0,
            last_answer_ns: 0,
            excused: false,
        }
    }

    /// Takes in a result for the record.
    pub fn record(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Unknown => return,
            Outcome::Answered { at_ns, rtt_ns } => {
                self.answered += 1;
                self.rtt_ns = (rtt_ns > 0).then_some(rtt_ns);
                self.last_answer_ns = self.last_answer_ns.max(at_ns);
            }
            Outcome::Missed { how, due_ns } => {
                self.missed += 1;
                if how.is_answer() {
                    self.last_answer_ns = self.last_answer_ns.max(due_ns);
                }
            }
        }
        self.last = outcome;
        self.excused = false;
    }

    /// The result that was just recorded is no evidence, if it is a miss.
    pub const fn excuse(&mut self) {
        self.excused = true;
    }

    /// Takes in a result for fall and rise; a miss only if it is evidence.
    pub fn detect(&mut self, outcome: Outcome, misses_count: bool) {
        match outcome {
            Outcome::Answered { .. } => self.detector.hit(),
            Outcome::Missed { .. } if self.excused || !misses_count => self.excused = true,
            Outcome::Missed { how, due_ns } if how.is_decisive() => {
                self.detector.fail(due_ns);
            }
            Outcome::Missed { due_ns, .. } => self.detector.miss(due_ns),
            Outcome::Unknown => {}
        }
    }

    /// Whether the last probe was missed, whoever is to blame.
    #[must_use]
    pub const fn is_silent(&self) -> bool {
        matches!(self.last, Outcome::Missed { .. })
    }

    /// Whether the last probe was missed, and this host was not isolated.
    #[must_use]
    pub const fn is_missing(&self) -> bool {
        self.is_silent() && !self.excused
    }

    /// Whether as many probes were missed as it takes to call it DOWN.
    #[must_use]
    pub const fn is_confirmed(&self) -> bool {
        self.is_missing() && !self.detector.is_up()
    }
}
