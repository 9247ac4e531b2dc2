//! What those who watch packets are told.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::VerdictKind;

/// What somebody wants to see: `GET /v1/watch?filter=TEXT&sample=N&snap=BYTES`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct WatchQuery {
    /// The terms, as `weir trace` takes them; empty for everything.
    pub filter: String,
    /// One of so many packets, at random; 1 for all of them.
    pub sample: u32,
    /// Bytes of each frame; 0 for none.
    pub snap: u32,
}

/// One line of the answer.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum WatchLine {
    /// The first line: watching has begun.
    Begin {
        /// Name of the edge host.
        node: String,
        /// What is watched for.
        query: WatchQuery,
    },
    /// A packet.
    Packet(Box<WatchedPacket>),
    /// Packets that should have been shown here, but were too many.
    Lost {
        /// How many.
        packets: u64,
    },
    /// The last line: why there will be no more.
    End {
        /// Why.
        cause: String,
    },
}

/// One packet and what became of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct WatchedPacket {
    /// When it came.
    pub time: jiff::Timestamp,
    /// The same by `CLOCK_MONOTONIC`.
    pub arrived_ns: u64,
    /// Interface by which it came.
    pub interface: String,
    /// Length of the frame as it came.
    pub length: u32,
    /// The client; left out if the frame is no IP packet. Of an ICMP error: the client of the flow that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src: Option<IpAddr>,
    /// The client's port; left out if there is none, or none to be seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub src_port: Option<u16>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst: Option<IpAddr>,
    /// Its port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dst_port: Option<u16>,
    /// Protocol: `tcp`, `udp`, `sctp`, `icmp`, `icmp6`, or its number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// What kind of packet of its flow.
    pub shape: PacketShape,
    /// Whether it may open a flow.
    pub opening: bool,
    /// Whether another region relayed it: addresses and ports are those inside the tunnel that it came in.
    #[serde(default)]
    pub relayed: bool,
    /// Name of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The client region that the source belongs to; of packets for a service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_region: Option<String>,
    /// Step of the plan that placed it, from 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u32>,
    /// Name of the pool at that step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Slots of that pool's table that were tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probes: Option<u32>,
    /// What placed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placed_by: Option<PlacedBy>,
    /// What became of the tables of flows.
    pub flow_table: FlowUse,
    /// Name of the backend, also if the packet was dropped after that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend: Option<String>,
    /// What was done with it.
    pub verdict: VerdictKind,
    /// Name of the reason.
    pub reason: String,
    /// Interface by which it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<String>,
    /// Length of the frame as it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress_length: Option<u32>,
    /// The beginning of the frame as it came, hexadecimal; left out if no bytes were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrived: Option<String>,
    /// The beginning of the frame as it left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left: Option<String>,
}

/// What kind of packet of its flow a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PacketShape {
    /// A whole one.
    Whole,
    /// The first fragment of one.
    FirstFragment,
    /// Another fragment.
    LaterFragment,
    /// An ICMP error about a packet of the flow.
    IcmpError,
}

/// What gave a packet its backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlacedBy {
    /// It is where its flow goes when everything is well.
    Home,
    /// Home does not take it: one of the next slots, or pools, of its plan did.
    Probing,
    /// No pool of its plan takes it, and its service fails open.
    FailOpen,
    /// The flow table.
    FlowTable,
    /// Where home was before the last change of the configuration.
    OldHome,
    /// Its QUIC connection id.
    ConnectionId,
    /// The first fragment of its datagram.
    FirstFragment,
}

impl PlacedBy {
    /// In words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Probing => "probing",
            Self::FailOpen => "fail-open",
            Self::FlowTable => "flow table",
            Self::OldHome => "old home",
            Self::ConnectionId => "connection id",
            Self::FirstFragment => "first fragment",
        }
    }
}

/// What a packet had to do with the tables of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FlowUse {
    /// It was placed without, and left no entry.
    Unused,
    /// The flow table knew its flow.
    Hit,
    /// The table of flows that are opening knew its flow, which was moved to the flow table.
    Moved,
    /// Its flow was written down.
    Written,
    /// Its flow was to be written down, but the limit of inserts was reached.
    Limited,
}

impl FlowUse {
    /// In words, for people.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self {
            Self::Unused => "-",
            Self::Hit => "hit",
            Self::Moved => "moved",
            Self::Written => "written",
            Self::Limited => "limited",
        }
    }
}
