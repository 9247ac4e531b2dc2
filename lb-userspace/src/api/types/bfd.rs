//! BFD sessions.

use std::net::IpAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::health::bfd::packet::State;

/// One BFD session (RFC 5880): an element of `GET /v1/bfd`. Intervals are in microseconds, as the protocol has them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BfdSessionView {
    /// The backends whose state depends on it, by name.
    pub backends: Vec<String>,
    /// Name of the check.
    pub check: String,
    /// The peer.
    pub address: IpAddr,
    /// Over several hops (RFC 5883) instead of one (RFC 5881).
    pub multihop: bool,
    /// Its state on this side.
    pub state: State,
    /// When it left its last state, or the session was made.
    pub since: jiff::Timestamp,
    /// While it is not up and that is no evidence yet: what is waited for. The backend keeps its state until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub awaited: Option<AwaitedView>,
    /// Why it is not up, or why it last was not; left out if it came up and stayed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
    /// Times that it was up and went down. A reload that keeps the session keeps the count.
    pub flaps: u64,
    /// What this side says of its last change.
    pub diagnostic: DiagnosticView,
    /// This side's number of the session.
    pub discriminator: u32,
    /// Packets of this side that the peer may miss.
    pub multiplier: u8,
    /// The shortest interval at which this side wants to send while the session is up.
    pub desired_min_tx_us: u32,
    /// The shortest interval at which this side takes packets.
    pub required_min_rx_us: u32,
    /// What the peer said last of itself; left out if nothing is known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<BfdRemoteView>,
    /// The interval in force at which this side sends, before jitter.
    pub tx_interval_us: u32,
    /// The interval in force at which the peer sends, before jitter.
    pub rx_interval_us: u32,
    /// How long the peer may be silent until the session is down; left out before it was heard.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detection_us: Option<u64>,
    /// How long this side may be silent until the peer takes the session down.
    pub remote_detection_us: u64,
    /// How long ago the peer was last heard; left out if it never was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub heard_ago_us: Option<u64>,
}

/// See [`BfdSessionView::awaited`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct AwaitedView {
    /// Why.
    pub why: String,
    /// Milliseconds until it is evidence, if nothing more is heard.
    pub left_ms: u64,
}

/// See [`BfdSessionView::diagnostic`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DiagnosticView {
    /// Its number (RFC 5880 section 4.1).
    pub code: u8,
    /// In words.
    pub text: String,
}

/// See [`BfdSessionView::remote`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct BfdRemoteView {
    /// Its state.
    pub state: State,
    /// What it says of its last change.
    pub diagnostic: DiagnosticView,
    /// Its number of the session.
    pub discriminator: u32,
    /// Packets of it that this side may miss.
    pub multiplier: u8,
    /// The shortest interval at which it wants to send.
    pub desired_min_tx_us: u32,
    /// The shortest interval at which it takes packets; 0 asks for none.
    pub required_min_rx_us: u32,
}

/// BFD sessions by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct BfdCounts {
    /// Both sides hear each other.
    pub up: u64,
    /// The peer is heard and does not hear this side yet.
    pub init: u64,
    /// Down.
    pub down: u64,
    /// Held down by this side.
    pub admin_down: u64,
    /// Those that are not up, which is no evidence yet.
    pub awaited: u64,
    /// Times that sessions were up and went down.
    pub flaps: u64,
}

impl BfdCounts {
    /// All sessions.
    #[must_use]
    pub const fn total(&self) -> u64 {
        self.up + self.init + self.down + self.admin_down
    }
}
