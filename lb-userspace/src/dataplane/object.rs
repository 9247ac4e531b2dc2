//! The BPF objects that the binary embeds.

/// The edge's object: program [`EDGE_PROGRAM`] and its maps.
pub static EDGE: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/edge"));
/// The agent's object: program [`AGENT_PROGRAM`] and its maps.
pub static AGENT: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/agent"));
/// The object that takes the edge's place while somebody watches: program [`WATCH_PROGRAM`], maps of its own, and those of [`EDGE`].
pub static WATCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("WEIR_BPF_DIR"), "/watch"));
/// The edge's XDP program.
pub const EDGE_PROGRAM: &str = "weir_edge";
/// The program that the edge's goes on to with packets that may have been relayed to this host.
pub const ARRIVE_PROGRAM: &str = "weir_arrive";
/// The program for relayed packets, out of their tunnel.
pub const RELAY_PROGRAM: &str = "weir_relay";
/// The agent's XDP program.
pub const AGENT_PROGRAM: &str = "weir_agent";
/// The XDP program that does what [`EDGE_PROGRAM`] does, and shows it.
pub const WATCH_PROGRAM: &str = "weir_watched";
/// The same for [`ARRIVE_PROGRAM`].
pub const WATCH_ARRIVE_PROGRAM: &str = "weir_watched_arrive";
/// The same for [`RELAY_PROGRAM`].
pub const WATCH_RELAY_PROGRAM: &str = "weir_watched_relay";
