//! How packets travel to backends, how clients reach a VIP, what holds UDP flows and how QUIC connections are told apart: parts of
//! the model.

use serde::{Deserialize, Serialize};

/// How a service's packets travel to its backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Forwarding {
    /// IP in IP.
    #[default]
    Ipip,
    /// Generic UDP encapsulation.
    Gue {
        /// UDP port on which backends take it; not 0.
        port: u16,
    },
    /// Only the Ethernet header is rewritten: backends are on the link.
    L2,
}

impl std::fmt::Display for Forwarding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ipip => f.write_str("ipip"),
            Self::Gue { port } => write!(f, "gue to port {port}"),
            Self::L2 => f.write_str("l2"),
        }
    }
}

/// How packets for a VIP come to this host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Reach {
    /// A router sends them here.
    #[default]
    Route,
    /// Clients are on the link, and Weir answers their ARP requests and neighbour solicitations.
    Arp,
}

impl Reach {
    /// As the file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Route => "route",
            Self::Arp => "arp",
        }
    }
}

/// What becomes of a UDP flow while its backend takes no new flows. A datagram does not say whether it opens a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Udp {
    /// Each datagram goes where a new flow would.
    #[default]
    Move,
    /// Each datagram goes where an established flow would: flows stay, and nothing keeps new ones away but what ends all.
    Stick,
}

impl Udp {
    /// As the file has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Move => "move",
            Self::Stick => "stick",
        }
    }
}

/// How a QUIC service's connection ids name backends (draft-ietf-quic-load-balancers, plaintext).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quic {
    /// The configuration in use; backends' server ids are [`Backend::quic_server_id`](super::Backend::quic_server_id).
    pub current: QuicConfig,
    /// Another one, while connections of both are alive; with
    /// [`Backend::quic_rotation_id`](super::Backend::quic_rotation_id).
    pub rotation: Option<QuicConfig>,
}

/// One configuration of connection ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuicConfig {
    /// What the first three bits of a connection id say: 0 to 6.
    pub id: u8,
    /// Bytes of the server id behind the first byte: 1 to 15.
    pub server_id_length: u8,
}
