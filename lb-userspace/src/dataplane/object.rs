//! The BPF objects that the binary embeds.

/// The edge's object: program [`EDGE_PROGRAM`] and its maps.
pub static EDGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/edge"));
/// The agent's object: program [`AGENT_PROGRAM`] and its maps.
pub static AGENT: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/agent"));
/// The edge's XDP program.
pub const EDGE_PROGRAM: &str = "weir_edge";
/// The agent's XDP program.
pub const AGENT_PROGRAM: &str = "weir_agent";
