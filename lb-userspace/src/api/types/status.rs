//! How an edge host is doing.

use std::collections::BTreeMap;

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{BfdCounts, CanaryView, DrainView, ShiftView, SubjectName, VerdictKind};
use crate::{
    config::XdpMode,
    plan::state::{Override, State},
};

/// Answer of `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Status {
    /// The edge host.
    pub node: NodeStatus,
    /// The daemon.
    pub daemon: DaemonStatus,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// The XDP program.
    pub xdp: XdpStatus,
    /// How many services there are.
    pub services: u64,
    /// Backends by their own effective state.
    pub backends: StateCounts,
    /// Domains by effective state.
    pub domains: StateCounts,
    /// Whether every target is silent at once: the host itself is cut off and the last state is held.
    pub isolated: bool,
    /// The tables of flows, and transitions.
    #[serde(default)]
    pub flows: FlowsStatus,
    /// What was done with packets since the program was attached.
    pub traffic: TrafficStatus,
    /// The thread that decides.
    pub control: ControlStatus,
    /// The event journal.
    pub journal: JournalStatus,
    /// Backends that cannot be reached because their next hop is not known, by name.
    pub unresolved_next_hops: Vec<String>,
    /// Operators' words, those whose subject the configuration no longer names included.
    pub overrides: Vec<OverrideView>,
    /// Shifts of domains, those that the configuration no longer names included.
    #[serde(default)]
    pub shifts: Vec<ShiftView>,
    /// Canaries of services.
    #[serde(default)]
    pub canaries: Vec<CanaryView>,
}

/// See [`Status::node`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NodeStatus {
    /// Name of the edge host.
    pub name: String,
    /// Region it stands in.
    pub region: String,
    /// Path of the zone it stands in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
}

/// See [`Status::daemon`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DaemonStatus {
    /// Version of the program.
    pub version: String,
    /// Version of the data plane's binary interface.
    pub abi: u32,
    /// Process id.
    pub pid: u32,
    /// When it started.
    pub started: jiff::Timestamp,
    /// Seconds since then.
    pub uptime_s: u64,
    /// Whether it took over a data plane that was already forwarding.
    pub adopted: bool,
}

/// See [`Status::config`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ConfigStatus {
    /// The file.
    pub file: PathBuf,
    /// Digest of the compiled data plane, hexadecimal. Equal on hosts that place flows equally.
    pub digest: String,
    /// When it was put in force, or the daemon started with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<jiff::Timestamp>,
    /// Reloads that put another configuration in force since the daemon started.
    #[serde(default)]
    pub reloads: u64,
    /// Reloads that were refused since the daemon started.
    #[serde(default)]
    pub failed_reloads: u64,
    /// Why the last reload was refused; none if it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// See [`Status::flows`]. Counts are those of the last walk over the tables.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FlowsStatus {
    /// Established flows in the flow table: those away from home, and in transition.
    pub entries: u64,
    /// How many there can be.
    pub capacity: u64,
    /// Flows that only opened.
    pub openings: u64,
    /// Slots of tables for which the flow table is asked.
    pub marked_slots: u64,
    /// When the transition ends, if one runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub transition_ends: Option<jiff::Timestamp>,
    /// Backends that left the configuration and stay for their flows.
    pub leaving_backends: u64,
    /// Services that left the configuration and stay for their flows.
    pub leaving_services: u64,
}

/// See [`Status::xdp`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct XdpStatus {
    /// How the program is attached.
    pub mode: XdpMode,
    /// Where the pins are.
    pub bpffs: PathBuf,
    /// Where it is attached.
    pub interfaces: Vec<InterfaceStatus>,
}

/// See [`XdpStatus::interfaces`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct InterfaceStatus {
    /// The interface.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Whether the program is attached.
    pub attached: bool,
}

/// How many subjects are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StateCounts {
    /// In [`State::Up`].
    pub up: u64,
    /// In [`State::Suspect`].
    pub suspect: u64,
    /// In [`State::Down`].
    pub down: u64,
    /// In [`State::Draining`].
    pub draining: u64,
    /// In [`State::Ramp`].
    #[serde(default)]
    pub ramp: u64,
}

impl StateCounts {
    /// Counts one more.
    pub const fn add(&mut self, state: State) {
        match state {
            State::Up => self.up += 1,
            State::Suspect => self.suspect += 1,
            State::Down => self.down += 1,
            State::Draining => self.draining += 1,
            State::Ramp => self.ramp += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.up + self.suspect + self.down + self.draining + self.ramp
    }
}

impl FromIterator<State> for StateCounts {
    fn from_iter<I: IntoIterator<Item = State>>(states: I) -> Self {
        let mut counts = Self::default();
        states.into_iter().for_each(|state| counts.add(state));
        counts
    }
}

/// See [`Status::traffic`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TrafficStatus {
    /// Packets sent to backends.
    pub forwarded_packets: u64,
    /// Bytes of those packets as they arrived.
    pub forwarded_bytes: u64,
    /// Everything else, one entry for each reason that counted a packet, in the order of their numbers.
    pub reasons: Vec<ReasonCount>,
}

/// See [`TrafficStatus::reasons`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ReasonCount {
    /// Name of the reason (`lb_common::abi::reason`).
    pub reason: String,
    /// What was done with the packets.
    pub verdict: VerdictKind,
    /// How many.
    pub packets: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// See [`Status::control`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct ControlStatus {
    /// How the thread is scheduled: `SCHED_FIFO`, or `SCHED_OTHER` with the reason.
    pub scheduling: String,
    /// Rounds judged.
    pub rounds: u64,
    /// Rounds that were judged later than an interval after they were due.
    pub late_rounds: u64,
    /// Rounds in which somebody was missing while a CPU of this host stood still or the thread itself was late: answers were
    /// waited for once more.
    #[serde(default)]
    pub stalled_rounds: u64,
    /// For how long a round was held at most, until it was known that this host had not stood still.
    #[serde(default)]
    pub max_held_ns: u64,
    /// CPUs that are asked whether they stood still.
    #[serde(default)]
    pub cpus: u64,
    /// Those of them that did not answer in time when they were last asked.
    #[serde(default)]
    pub silent_cpus: u64,
    /// How late a round was sent at most.
    pub max_lateness_ns: u64,
    /// BFD packets by what became of them: `sent`, `taken`, and a reason for each that was discarded. Those that none
    /// counted are left out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bfd: BTreeMap<String, u64>,
    /// BFD sessions by state; left out if there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bfd_sessions: Option<BfdCounts>,
    /// Admission words stored.
    pub stores: u64,
    /// Events that found the channel to the journal full.
    pub lost_events: u64,
    /// Results of slow checks that found the channel to the thread full.
    pub lost_results: u64,
}

/// See [`Status::journal`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct JournalStatus {
    /// Number of the last event, 0 if there was none.
    pub last_seq: u64,
    /// Writes that failed; the events stay in memory and are written when that works again.
    pub write_errors: u64,
    /// Events that were never written: they left memory before that worked again.
    pub unwritten: u64,
    /// Lines that could not be read when the journal was opened.
    pub skipped_lines: u64,
    /// The last write error, while it lasts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// An operator's word with what it is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct OverrideView {
    /// What it is about.
    #[serde(flatten)]
    pub subject: SubjectName,
    /// The word.
    #[serde(flatten)]
    pub word: Override,
    /// Whether the configuration names the subject. If it does not, the word waits until it does.
    pub active: bool,
    /// Seconds until the word ends by itself; left out if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// How far what was drained is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
}
