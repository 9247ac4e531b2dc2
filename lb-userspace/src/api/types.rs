//! What the API says, as types: the daemon serialises them, the command line reads them back.
//!
//! Shares run from 0 (none) to 255 (all). Fields that end in `_ns` are nanoseconds; those of moments are readings of
//! `CLOCK_MONOTONIC`. Fields that do not apply are left out.

use std::{fmt, net::IpAddr};

use lb_common::abi::admission::Admission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    config::{Level, OnAllDown, Ports, Protocol, Reach, Udp, Vip},
    plan::state::{Action, Override, State},
};

/// What a reason looks like: something in it, and nothing that steers a terminal (ECMA-262, as JSON Schema has it).
pub(crate) const REASON_PATTERN: &str =
    "^[^\\x00-\\x1f\\x7f-\\x9f]*[^\\s\\x00-\\x1f\\x7f-\\x9f][^\\x00-\\x1f\\x7f-\\x9f]*$";

mod bfd;
mod canary;
mod explain;
mod flows;
mod guard;
mod log;
mod operate;
mod plan;
mod reload;
mod stats;
mod status;
mod traffic;
mod watch;

pub use bfd::{AwaitedView, BfdCounts, BfdRemoteView, BfdSessionView, DiagnosticView};
pub use canary::{CanaryChange, CanaryRequest, CanarySetRequest, CanaryView};
pub use explain::{ExplainBackend, ExplainQuery, ExplainStep, Explanation, Outer, StepKind};
pub use flows::{FlowState, FlowView, FlowsPage, FlowsQuery, FlushRequest, Flushed};
pub use guard::{ClearRequest, GuardView, PerSourceView, SwitchView, ThrowRequest};
pub use log::{LogChange, LogRequest, LogView};
pub use operate::{
    ActionTerms, BackendActionRequest, DampingView, DomainActionRequest, DrainState, DrainView,
    ShiftCancelRequest, ShiftExtendRequest, ShiftRequest, ShiftView,
};
pub use plan::{
    SimulateRequest, SimulatedPlan, SimulatedPool, SimulatedShare, Simulation, SteeredPlan, SteeredPool,
};
pub use reload::{Changes, Differences, MemberShare, Reloaded, TableChange};
pub use stats::{Stats, StatsBy, StatsCounts, StatsRates, StatsRow};
pub use status::{
    ConfigStatus, ControlStatus, DaemonStatus, FlowsStatus, InterfaceStatus, JournalStatus, NodeStatus,
    OverrideView, ReasonCount, StateCounts, Status, TrafficStatus, XdpStatus,
};
pub use traffic::{TrafficHistory, TrafficPoint};
pub use watch::{FlowUse, PacketShape, PlacedBy, WatchLine, WatchQuery, WatchedPacket};

/// What an action or an override is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SubjectName {
    /// Backend or domain.
    pub kind: SubjectKind,
    /// The backend's name or the domain's path.
    pub name: String,
}

/// See [`SubjectName::kind`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// A region, zone or rack.
    Domain,
    /// A backend.
    Backend,
}

/// What the program does with a packet.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
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

/// One service: an element of `GET /v1/services`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// VIP: an address or a prefix.
    pub address: Vip,
    /// Port as a number, or several as text: `8000-8099`, `any`.
    pub port: Ports,
    /// Transport protocol.
    pub protocol: Protocol,
    /// What happens when no pool of a plan can take a flow.
    pub on_all_down: OnAllDown,
    /// How packets travel to its backends: `ipip`, `gue to port 6080`, `l2`.
    #[serde(default)]
    pub forwarding: String,
    /// How packets for its VIP come to this host.
    #[serde(default)]
    pub reach: Reach,
    /// What a drain does to its flows, if it is plain UDP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp: Option<Udp>,
    /// Whether its flows are told apart by QUIC's connection ids.
    #[serde(default)]
    pub quic: bool,
    /// Its pools, by name.
    pub pools: Vec<PoolView>,
    /// For each client region the pools in the order in which they are tried; one plan, named `default`, if client
    /// regions make no difference.
    pub plans: Vec<PlanView>,
    /// What it forwarded and dropped.
    pub traffic: ServiceTraffic,
}

/// See [`ServiceView::pools`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PlanView {
    /// The clients it is for.
    pub client_region: String,
    /// Names of pools, first choice first.
    pub pools: Vec<String>,
}

/// See [`ServiceView::traffic`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// Whether it is a Weir host of another region, to which packets are relayed.
    #[serde(default)]
    pub relay: bool,
    /// Whether its checks fail, and `max_ejected` leaves it in all the same: its pool cannot spare it.
    #[serde(default)]
    pub spared: bool,
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
    /// Those that may open a flow.
    #[serde(default)]
    pub opening: u64,
    /// Entries of the flow table that name it, by the last walk. Flows at home have none.
    #[serde(default)]
    pub flows: u64,
    /// Seconds for which its count of packets has stood still, as far as walks tell.
    #[serde(default)]
    pub quiet_s: u64,
    /// Whether it takes no new flows, no entry of the flow table names it, and no packet came for a minute. A flow at home that
    /// is silent for longer is known to nobody.
    #[serde(default)]
    pub drained: bool,
}

/// One domain: an element of `GET /v1/domains`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// Seconds until the operator's word ends by itself; left out if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
    /// How far what an operator drained is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain: Option<DrainView>,
    /// The shift of a domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shift: Option<ShiftView>,
    /// What damping remembers of its failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub damping: Option<DampingView>,
}

/// An admission word.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct CheckView {
    /// The check's name.
    pub name: String,
    /// Port that is probed; 0 for checks without one (`icmp`, `exec`).
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct NextHop {
    /// Egress interface.
    pub interface: String,
    /// Ethernet destination, `02:00:00:00:00:01`.
    pub mac: String,
}

/// Answer to an action.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
    /// When the word ends by itself; left out if it does not, or there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
    /// Seconds until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
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
