//! The BPF objects that the binary embeds.

/// The edge's object: program [`EDGE_PROGRAM`] and its maps.
pub static EDGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/edge"));
/// The agent's object: program [`AGENT_PROGRAM`] and its maps.
pub static AGENT: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/agent"));
/// The edge's XDP program.
pub const EDGE_PROGRAM: &str = "weir_edge";
/// The program that the edge's goes on to with packets that may have been relayed to this host.
pub const ARRIVE_PROGRAM: &str = "weir_arrive";
/// The program for relayed packets, out of their tunnel.
pub const RELAY_PROGRAM: &str = "weir_relay";
/// The agent's XDP program.
pub const AGENT_PROGRAM: &str = "weir_agent";
