//! What the tables of flows hold.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What to list: `GET /v1/flows?filter=TEXT&limit=N&cursor=TEXT`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlowsQuery {
    /// The terms, as `weir flows list` takes them; empty for everything.
    pub filter: String,
    /// At most so many flows.
    pub limit: usize,
    /// [`FlowsPage::cursor`] of the answer before; none for the beginning.
    pub cursor: Option<String>,
}

/// Answer of `GET /v1/flows`: some flows, in no order that means anything.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct FlowsPage {
    /// The flows that match. An answer may have less of them than were asked for, and others may come after it.
    pub flows: Vec<FlowView>,
    /// Entries that were looked at for this answer.
    pub scanned: u64,
    /// What to ask with for the flows behind these; left out at the end of the tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// One flow that is remembered. Flows at home are in no table.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct FlowView {
    /// The client.
    pub src: SocketAddr,
    /// VIP and port.
    pub dst: SocketAddr,
    /// Protocol: `tcp`, `udp`, `sctp`, or its number.
    pub protocol: String,
    /// Name of the service; left out if none takes it any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The backend that it goes to.
    pub backend: String,
    /// The backend at which it would be at home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<String>,
    /// Whether the two differ: without its entry it would go elsewhere.
    pub away: bool,
    /// What was seen of it.
    pub state: FlowState,
    /// Seconds since its last packet, to about a second.
    pub idle_s: u64,
    /// Whether another region relayed it.
    #[serde(default)]
    pub relayed: bool,
}

/// What was seen of a flow.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum FlowState {
    /// The packet that opened it, and none after it.
    Opening,
    /// More than that.
    Established,
    /// The client closed it.
    Closing,
}

impl FlowState {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Opening, Self::Established, Self::Closing];

    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opening => "opening",
            Self::Established => "established",
            Self::Closing => "closing",
        }
    }
}

/// Body of `POST /v1/flows/flush`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FlushRequest {
    /// Which flows are forgotten, as in `GET /v1/flows`. Either this or `all`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub filter: String,
    /// All flows are forgotten.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub all: bool,
    /// Why.
    pub reason: String,
}

/// Answer of `POST /v1/flows/flush`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Flushed {
    /// Flows that were forgotten.
    pub removed: u64,
    /// Those of them that went elsewhere than home: their next packet goes home, where nobody knows them.
    pub away: u64,
    /// Entries that were looked at.
    pub scanned: u64,
    /// Whether both tables were gone through to the end. If not, the time for it was over: flush again.
    pub complete: bool,
    /// How long it took.
    pub took_ns: u64,
}
