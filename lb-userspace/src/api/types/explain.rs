//! Where a packet goes, and why.

use std::net::{IpAddr, SocketAddr};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{NextHop, VerdictKind};
use crate::config::Protocol;

/// What to explain: `GET /v1/explain?src=IP:PORT&dst=IP:PORT&protocol=tcp&opening=true&from_relay=false`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExplainQuery {
    /// The client.
    pub src: SocketAddr,
    /// VIP and port; of the same family.
    pub dst: SocketAddr,
    /// Transport protocol.
    pub protocol: Protocol,
    /// Whether the packet opens the flow (TCP SYN), as against belonging to an established one.
    pub opening: bool,
    /// Whether another region relayed the packet to this host.
    #[serde(default)]
    pub from_relay: bool,
}

/// Where a packet goes and why: what the data plane's own code decides about it with the state of this moment.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// The packet was read.
    Parse,
    /// A service was found, or none.
    Classify,
    /// The service's guard refuses the packet.
    Admit,
    /// Client region and plan.
    Plan,
    /// A pool was looked at.
    Pool,
    /// The flow table was asked.
    FlowTable,
    /// Where the flow's home was before the last change of the configuration.
    OldHome,
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
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ExplainBackend {
    /// Its name.
    pub name: String,
    /// Path of its rack.
    pub rack: String,
    /// Tunnel endpoint.
    pub address: IpAddr,
}

/// See [`Explanation::outer`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Outer {
    /// Outer source, with the flow's entropy.
    pub source: IpAddr,
    /// Outer destination.
    pub destination: IpAddr,
}
