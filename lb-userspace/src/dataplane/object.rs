//! The BPF objects that the binary embeds.

/// The edge's object: program [`EDGE_PROGRAM`] and its maps.
pub static EDGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/edge"));
/// The agent's object: program [`AGENT_PROGRAM`] and its maps.
pub static AGENT: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/agent"));
/// The object that takes the edge's place while somebody watches: program [`WATCH_PROGRAM`], maps of its own, and those of [`EDGE`].
pub static WATCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/watch"));
/// The edge's XDP program.
pub const EDGE_PROGRAM: &str = "weir_edge";
/// The agent's XDP program.
pub const AGENT_PROGRAM: &str = "weir_agent";
/// The XDP program that does what [`EDGE_PROGRAM`] does, and shows it.
pub const WATCH_PROGRAM: &str = "weir_watched";
