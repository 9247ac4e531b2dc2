//! What the API says, as types: the daemon serialises them, the command line reads them back.
//!
//! Shares run from 0 (none) to 255 (all). Fields that end in `_ns` are nanoseconds; those of moments are readings of
//! `CLOCK_MONOTONIC`. Fields that do not apply are left out.

use std::{fmt, net::IpAddr, net::SocketAddr, path::PathBuf};

use lb_common::abi::admission::Admission;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Level, OnAllDown, Protocol, XdpMode},
    plan::state::{Action, Override, State},
};

/// What an action or an override is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct SubjectName {
    /// Backend or domain.
    pub kind: SubjectKind,
    /// The backend's name or the domain's path.
    pub name: String,
}

/// See [`SubjectName::kind`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// A region, zone or rack.
    Domain,
    /// A backend.
    Backend,
}

/// Answer of `GET /v1/status`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
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
}

/// See [`Status::node`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The file.
    pub file: PathBuf,
    /// Digest of the compiled data plane, hexadecimal. Equal on hosts that place flows equally.
    pub digest: String,
}

/// See [`Status::xdp`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct XdpStatus {
    /// How the program is attached.
    pub mode: XdpMode,
    /// Where the pins are.
    pub bpffs: PathBuf,
    /// Where it is attached.
    pub interfaces: Vec<InterfaceStatus>,
}

/// See [`XdpStatus::interfaces`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct InterfaceStatus {
    /// The interface.
    pub name: String,
    /// Its index.
    pub ifindex: u32,
    /// Whether the program is attached.
    pub attached: bool,
}

/// How many subjects are in which state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct StateCounts {
    /// In [`State::Up`].
    pub up: u64,
    /// In [`State::Suspect`].
    pub suspect: u64,
    /// In [`State::Down`].
    pub down: u64,
    /// In [`State::Draining`].
    pub draining: u64,
}

impl StateCounts {
    /// Counts one more.
    pub const fn add(&mut self, state: State) {
        match state {
            State::Up => self.up += 1,
            State::Suspect => self.suspect += 1,
            State::Down => self.down += 1,
            State::Draining => self.draining += 1,
        }
    }

    /// All of them.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.up + self.suspect + self.down + self.draining
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
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TrafficStatus {
    /// Packets sent to backends.
    pub forwarded_packets: u64,
    /// Bytes of those packets as they arrived.
    pub forwarded_bytes: u64,
    /// Everything else, one entry for each reason that counted a packet, in the order of their numbers.
    pub reasons: Vec<ReasonCount>,
}

/// See [`TrafficStatus::reasons`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
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

/// What the program does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictKind {
    /// Handed to the kernel's stack.
    Pass,
    /// Dropped.
    Drop,
    /// Answered by the program itself, out of the interface it came in by.
    Answer,
    /// Encapsulated and sent to a backend.
    Forward,
}

impl VerdictKind {
    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Drop => "drop",
            Self::Answer => "answer",
            Self::Forward => "forward",
        }
    }
}

/// See [`Status::control`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ControlStatus {
    /// How the thread is scheduled: `SCHED_FIFO`, or `SCHED_OTHER` with the reason.
    pub scheduling: String,
    /// Rounds judged.
    pub rounds: u64,
    /// Rounds whose misses were not believed, because the thread itself was late.
    pub late_rounds: u64,
    /// How late a round was sent at most.
    pub max_lateness_ns: u64,
    /// Admission words stored.
    pub stores: u64,
    /// Events that found the channel to the journal full.
    pub lost_events: u64,
    /// Results of slow checks that found the channel to the thread full.
    pub lost_results: u64,
}

/// See [`Status::journal`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OverrideView {
    /// What it is about.
    #[serde(flatten)]
    pub subject: SubjectName,
    /// The word.
    #[serde(flatten)]
    pub word: Override,
    /// Whether the configuration names the subject. If it does not, the word waits until it does.
    pub active: bool,
}

/// One service: an element of `GET /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// VIP.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What happens when no pool of a plan can take a flow.
    pub on_all_down: OnAllDown,
    /// Its pools, by name.
    pub pools: Vec<PoolView>,
    /// For each client region the pools in the order in which they are tried; one plan, named `default`, if client
    /// regions make no difference.
    pub plans: Vec<PlanView>,
    /// What it forwarded and dropped.
    pub traffic: ServiceTraffic,
}

/// See [`ServiceView::pools`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PoolView {
    /// Its name.
    pub name: String,
    /// Slots of its table.
    pub table_size: u32,
    /// Names of its sets.
    pub sets: Vec<String>,
    /// How many backends it has.
    pub backends: u64,
    /// How many of them take new flows now, their domains considered.
    pub available: u64,
    /// Its admission word.
    pub admission: AdmissionView,
}

/// See [`ServiceView::plans`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PlanView {
    /// The clients it is for.
    pub client_region: String,
    /// Names of pools, first choice first.
    pub pools: Vec<String>,
}

/// See [`ServiceView::traffic`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ServiceTraffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Their bytes as they arrived.
    pub bytes: u64,
    /// Those that may open a flow.
    pub opening: u64,
    /// Packets dropped after the service was known.
    pub dropped: u64,
}

/// One backend: an element of `GET /v1/backends`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackendView {
    /// Its name.
    pub name: String,
    /// Tunnel endpoint.
    pub address: IpAddr,
    /// Path of its rack.
    pub rack: String,
    /// Its set.
    pub set: String,
    /// Its weight.
    pub weight: u32,
    /// What the operator, or else its checks, say about itself.
    pub health: HealthView,
    /// Its own admission word.
    pub admission: AdmissionView,
    /// What it really takes: the least over its own word and those of its rack, zone and region.
    pub effective: Shares,
    /// The domain whose word lets less through than its own, if one does; the widest of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limited_by: Option<String>,
    /// Its checks; none means that it is always believed UP.
    pub checks: Vec<CheckView>,
    /// Where its packets go; left out while that is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHop>,
    /// Packets forwarded to it.
    pub packets: u64,
    /// Their bytes as they arrived.
    pub bytes: u64,
}

/// One domain: an element of `GET /v1/domains`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct DomainView {
    /// Its path.
    pub path: String,
    /// Region, zone or rack.
    pub level: Level,
    /// What the operator, or else correlation, says about it.
    pub health: HealthView,
    /// Its admission word.
    pub admission: AdmissionView,
    /// The backends in it by their own state.
    pub backends: StateCounts,
}

/// State of a backend or of a domain and where it comes from.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HealthView {
    /// The state in force: the override's if there is one, else the automatic one.
    pub state: State,
    /// What checks or correlation say.
    pub automatic: State,
    /// When the state in force began.
    pub since: jiff::Timestamp,
    /// The operator's word.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub word: Option<Override>,
}

/// An admission word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct AdmissionView {
    /// The shares.
    #[serde(flatten)]
    pub shares: Shares,
    /// Whether an operator set it.
    pub held: bool,
    /// Whether nothing ever went elsewhere because of it.
    pub clean: bool,
}

impl From<Admission> for AdmissionView {
    fn from(word: Admission) -> Self {
        Self { shares: word.into(), held: word.is_held(), clean: word.is_clean() }
    }
}

/// Shares of flows that are let through, 0 to 255.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Shares {
    /// Of new flows.
    pub new: u8,
    /// Of established flows.
    pub old: u8,
}

impl Shares {
    /// Everything.
    pub const ALL: Self = Self { new: 255, old: 255 };

    /// What passes both.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        Self { new: self.new.min(other.new), old: self.old.min(other.old) }
    }
}

impl From<Admission> for Shares {
    fn from(word: Admission) -> Self {
        Self { new: word.new_share(), old: word.old_share() }
    }
}

/// One check of one backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckView {
    /// The check's name.
    pub name: String,
    /// Port that is probed.
    pub port: u16,
    /// What it says.
    pub state: CheckState,
    /// The last result in words: `answered`, `no answer`, `refused`.
    pub last: String,
    /// Answers in time.
    pub answered: u64,
    /// Probes without an answer in time.
    pub missed: u64,
    /// Time from the last answered probe to its answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_rtt_ns: Option<u64>,
}

/// See [`CheckView::state`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CheckState {
    /// Not judged yet.
    Unknown,
    /// The last word is UP.
    Passing,
    /// The last word is DOWN.
    Failing,
}

impl CheckState {
    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Passing => "passing",
            Self::Failing => "failing",
        }
    }
}

/// The way to a backend.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextHop {
    /// Egress interface.
    pub interface: String,
    /// Ethernet destination, `02:00:00:00:00:01`.
    pub mac: String,
}

/// Body of an action on a backend: `POST /v1/backends/{name}/{drain|fail|restore}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendActionRequest {
    /// Why.
    pub reason: String,
}

/// Body of an action on a domain: `POST /v1/domains/actions/{drain|fail|restore}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainActionRequest {
    /// Path of the domain.
    pub domain: String,
    /// Why.
    pub reason: String,
}

/// Answer to an action.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Acted {
    /// What it was about.
    #[serde(flatten)]
    pub subject: SubjectName,
    /// What was done.
    pub action: Action,
    /// State before.
    pub from: State,
    /// State now.
    pub to: State,
    /// Whether the state in force is another one than before.
    pub changed: bool,
    /// When the command was taken up.
    pub decided_ns: u64,
    /// When the word was stored: effective from the next packet on.
    pub stored_ns: u64,
}

/// What to explain: `GET /v1/explain?src=IP:PORT&dst=IP:PORT&protocol=tcp&opening=true`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainQuery {
    /// The client.
    pub src: SocketAddr,
    /// VIP and port; of the same family.
    pub dst: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether the packet opens the flow (TCP SYN), as against belonging to an established one.
    pub opening: bool,
}

/// Where a packet goes and why: what the data plane's own code decides about it with the state of this moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Explanation {
    /// What was asked.
    pub query: ExplainQuery,
    /// Keyed hash of the 5-tuple, 16 hexadecimal digits.
    pub hash: String,
    /// The service; left out if the destination is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The client region that the source belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_region: Option<String>,
    /// Names of the plan's pools, first choice first.
    pub plan: Vec<String>,
    /// Each step of the decision, in order.
    pub steps: Vec<ExplainStep>,
    /// The backend that was chosen, also when the packet was dropped after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<ExplainBackend>,
    /// Addresses of the outer packet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outer: Option<Outer>,
    /// Where the outer packet is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_hop: Option<NextHop>,
    /// What is done with the packet.
    pub verdict: VerdictKind,
    /// Name of the reason (`lb_common::abi::reason`).
    pub reason: String,
}

/// One step of a decision. Besides `kind` and `text`, a step carries what it is about.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainStep {
    /// What kind of step.
    pub kind: StepKind,
    /// The step as one line of plain English, without a full stop.
    pub text: String,
    /// Name of the pool.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Name of the backend.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// Path of the backend's rack.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rack: Option<String>,
    /// Path of the backend's zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The backend's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Number of the probe, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<u32>,
    /// Share of new flows that is let through here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_share: Option<u8>,
    /// Share of established flows that is let through here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub old_share: Option<u8>,
    /// Whether the flow was taken here: the pool was entered, the backend chosen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken: Option<bool>,
}

impl ExplainStep {
    /// A step with nothing but its text.
    #[must_use]
    pub fn new(kind: StepKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            text: text.into(),
            pool: None,
            backend: None,
            rack: None,
            zone: None,
            region: None,
            probe: None,
            new_share: None,
            old_share: None,
            taken: None,
        }
    }
}

/// Kinds of steps, in the order of the datapath's stages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The packet was read.
    Parse,
    /// A service was found, or none.
    Classify,
    /// Client region and plan.
    Plan,
    /// A pool was looked at.
    Pool,
    /// The flow table was asked.
    FlowTable,
    /// A slot of a pool's table was tried.
    Probe,
    /// Every pool was down and the service fails open.
    FailOpen,
    /// The flow was written into the flow table.
    Remembered,
    /// The outer packet was made.
    Encap,
    /// The end.
    Verdict,
}

/// See [`Explanation::backend`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ExplainBackend {
    /// Its name.
    pub name: String,
    /// Path of its rack.
    pub rack: String,
    /// Tunnel endpoint.
    pub address: IpAddr,
}

/// See [`Explanation::outer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Outer {
    /// Outer source, with the flow's entropy.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
}

impl fmt::Display for SubjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

impl SubjectKind {
    /// Name in CLI, API and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::Backend => "backend",
        }
    }
}
