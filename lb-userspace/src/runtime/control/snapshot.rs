//! The state of the failure plane at one moment, for people and programs.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::abi::admission::Admission;
use serde::Serialize;

use crate::config::{BackendId, Config, DomainId, Level};
use crate::health::prober::ProbingStatus;
use crate::health::prober::bfd::{self, BfdStatus};
use crate::health::round::Outcome;
use crate::health::target::{TargetState, Targets};
use crate::plan::breaker::Damping;
use crate::plan::shift::Shift;
use crate::plan::state::{Override, State};

/// What a check says last whose BFD session is not up, which is no evidence yet.
const AWAITED: &str = "awaited: the BFD session comes up again";

/// States of everything, as the control thread knew them at one moment.
#[derive(Clone, PartialEq, Debug, Default, Serialize)]
pub struct Snapshot {
    /// Backends, in the order of the configuration.
    pub backends: Vec<BackendStatus>,
    /// Domains, in the order of the configuration.
    pub domains: Vec<DomainStatus>,
    /// BFD sessions.
    #[serde(skip)]
    pub sessions: Vec<SessionStatus>,
    /// The thread itself.
    pub control: ControlStatus,
}

/// State of a backend or a domain.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Standing {
    /// What the data plane is told.
    pub state: State,
    /// What automation believes.
    pub automatic: State,
    /// The operator's word that stands.
    #[serde(rename = "override")]
    pub held: Option<Override>,
    /// The shift that stands, of a domain.
    pub shift: Option<Shift>,
    /// What damping remembers of its failures.
    #[serde(skip)]
    pub damping: Option<Damping>,
    /// Since when `state` is what it is; the daemon's start if it did not change since.
    pub since: jiff::Timestamp,
    /// Its admission word.
    pub admission: AdmissionStatus,
}

/// An admission word, spelled out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct AdmissionStatus {
    /// Share of new flows, 0 to 255.
    pub new: u8,
    /// Share of established flows, 0 to 255.
    pub old: u8,
    /// Nothing but (255, 255) was ever stored.
    pub clean: bool,
    /// An operator's word stands.
    pub held: bool,
}

impl From<Admission> for AdmissionStatus {
    fn from(word: Admission) -> Self {
        Self { new: word.new_share(), old: word.old_share(), clean: word.is_clean(), held: word.is_held() }
    }
}

/// A backend.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct BackendStatus {
    /// Index into the configuration's backends.
    #[serde(skip)]
    pub id: BackendId,
    /// Its name.
    pub name: String,
    /// Its state.
    #[serde(flatten)]
    pub standing: Standing,
    /// Its checks; none means that it is always believed UP.
    pub checks: Vec<CheckStatus>,
    /// Whether its checks fail, and `max_ejected` leaves it in.
    pub spared: bool,
}

/// A region, zone or rack.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct DomainStatus {
    /// Index into the topology's domains.
    #[serde(skip)]
    pub id: DomainId,
    /// Its path.
    pub path: String,
    /// What it is.
    pub level: Level,
    /// Its state.
    #[serde(flatten)]
    pub standing: Standing,
}

/// One check of one backend. Backends with the same address share the probes and so the numbers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct CheckStatus {
    /// Name of the check; of the first one if several are the same.
    pub check: String,
    /// Where probes go.
    pub address: IpAddr,
    /// And to which port.
    pub port: u16,
    /// Whether it counts as up, by fall and rise.
    pub up: bool,
    /// The last result: `unknown`, `answered`, `awaited` and what for, or how it was missed: `no answer`, `unwell`, `not sent`,
    /// `refused`, `unreachable` and so on.
    pub last: String,
    /// Round trip of the last answer, in nanoseconds.
    pub rtt_ns: Option<u64>,
    /// Misses in a row.
    pub misses: u32,
    /// Probes answered since the daemon started.
    pub answered: u64,
    /// Probes missed since the daemon started.
    pub missed: u64,
}

/// A BFD session with the names that it lacks.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SessionStatus {
    /// The backends whose state depends on it.
    pub backends: Vec<String>,
    /// Name of the check; of the first one if several are the same.
    pub check: String,
    /// The session.
    pub report: bfd::Report,
}

/// How the control thread is doing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct ControlStatus {
    /// Nobody testifies that this host is connected: misses count for nothing, everything stays as it is.
    pub isolated: bool,
    /// `SCHED_FIFO` where allowed, else `SCHED_OTHER` with the reason.
    pub scheduling: String,
    /// Every target answered, or missed as many probes as it takes to call it DOWN.
    pub everyone_judged: bool,
    /// Heartbeats.
    pub probing: ProbingStatus,
    /// BFD packets, and why some were not taken.
    pub bfd: BfdStatus,
    /// CPUs that are asked whether they stood still, and those of them that did not answer when they were last asked.
    pub cpus: (usize, usize),
    /// Admission words stored since start.
    pub stores: u64,
    /// Events that found no room in the channel.
    pub events_lost: u64,
    /// TCP results that found no room in the channel.
    pub results_lost: u64,
}

/// A snapshot as the control thread makes it: copies, no names.
pub(super) struct Raw {
    /// Ascending.
    pub(super) spared: Vec<BackendId>,
    pub(super) backends: Vec<RawStanding>,
    pub(super) domains: Vec<RawStanding>,
    pub(super) targets: Arc<Targets>,
    pub(super) states: Vec<TargetState>,
    pub(super) sessions: Vec<bfd::Report>,
    pub(super) control: ControlStatus,
}

/// See [`Standing`].
pub(super) struct RawStanding {
    pub(super) state: State,
    pub(super) automatic: State,
    pub(super) held: Option<Override>,
    pub(super) shift: Option<Shift>,
    pub(super) damping: Option<Damping>,
    pub(super) word: Admission,
    pub(super) since: jiff::Timestamp,
}

impl Raw {
    /// Adds the names; on the asking side, so that the control thread need not.
    pub(super) fn name(self, config: &Config) -> Snapshot {
        let awaited: HashSet<usize> = self
            .sessions
            .iter()
            .filter(|report| report.awaited.is_some())
            .map(|report| report.target)
            .collect();
        let check = |&target: &usize| {
            let status = check_status(&self.targets, &self.states[target], target);
            // Its state is what it was before, for now.
            if awaited.contains(&target) {
                CheckStatus { last: AWAITED.to_owned(), ..status }
            } else {
                status
            }
        };
        let backends =
            self.backends.into_iter().zip(&config.backends).enumerate().map(|(index, (raw, backend))| {
                let id = BackendId::from_index(index).expect("the number of backends is limited");
                BackendStatus {
                    id,
                    spared: self.spared.binary_search(&id).is_ok(),
                    name: backend.name.clone(),
                    standing: raw.into(),
                    checks: self.targets.of_backend[index].iter().map(check).collect(),
                }
            });
        let domains = config.topology.ids().zip(self.domains).map(|(id, raw)| DomainStatus {
            id,
            path: config.topology[id].path.clone(),
            level: config.topology[id].level,
            standing: raw.into(),
        });
        let session = |report: &bfd::Report| {
            let target = &self.targets.targets[report.target];
            let names = target.backends.iter().map(|&id| config[id].name.clone());
            let check = self.targets.groups[target.group].check.clone();
            SessionStatus { backends: names.collect(), check, report: *report }
        };
        let sessions = self.sessions.iter().map(session).collect();
        Snapshot { backends: backends.collect(), domains: domains.collect(), sessions, control: self.control }
    }
}

impl From<RawStanding> for Standing {
    fn from(raw: RawStanding) -> Self {
        let RawStanding { state, automatic, held, shift, damping, word, since } = raw;
        Self { state, automatic, held, shift, damping, since, admission: word.into() }
    }
}

fn check_status(targets: &Targets, state: &TargetState, index: usize) -> CheckStatus {
    let target = &targets.targets[index];
    let group = &targets.groups[target.group];
    CheckStatus {
        check: group.check.clone(),
        address: target.address,
        port: group.kind.port(),
        up: state.detector.is_up(),
        last: match state.last {
            Outcome::Unknown => "unknown".to_owned(),
            Outcome::Answered { .. } => "answered".to_owned(),
            Outcome::Missed { how, .. } => how.to_string(),
        },
        rtt_ns: state.rtt_ns,
        misses: state.detector.misses(),
        answered: state.answered,
        missed: state.missed,
    }
}
