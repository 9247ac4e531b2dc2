//! What `weir agent` and its XDP program share.

/// UDP port of generic UDP encapsulation unless configured otherwise, as the IANA has registered it.
pub const DEFAULT_GUE_PORT: u16 = 6080;
/// Flag of [`AgentRoot`]: only packets from the source prefixes are decapsulated and answered.
pub const AGENT_FILTER_SOURCES: u32 = 1;

/// Key of the `AGENT_ADDRESSES` map: a local tunnel endpoint, IPv4 as IPv4-mapped.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct AgentAddress {
    /// The address, network order.
    pub address: [u8; 16],
}

/// The single element of the `AGENT_ROOT` map.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AgentRoot {
    /// [`ABI_VERSION`](super::ABI_VERSION).
    pub abi_version: u32,
    /// [`AGENT_FILTER_SOURCES`] or 0.
    pub flags: u32,
    /// UDP port of heartbeats, network order.
    pub heartbeat_port: [u8; 2],
    /// Status byte that heartbeat replies carry.
    pub status: u8,
    /// Zero.
    pub reserved: u8,
    /// UDP port of generic UDP encapsulation, network order; 0 for none.
    pub gue_port: [u8; 2],
    /// Zero.
    pub reserved2: [u8; 50],
}

/// What became of a packet at the agent; index into the per-CPU `AGENT_COUNTERS` array. Append-only.
#[repr(u32)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AgentReason {
    /// Neither a tunnelled packet nor a heartbeat for this agent: handed to the stack as it came.
    Passed = 0,
    /// Decapsulated, inner packet handed to the stack.
    Decapsulated = 1,
    /// Heartbeat answered.
    HeartbeatAnswered = 2,
    /// Tunnelled packet or heartbeat from a source that is not allowed: dropped.
    SourceRefused = 3,
    /// Tunnelled packet whose inner header is cut short or of an unexpected version: dropped.
    InnerMalformed = 4,
    /// The frame could not be shortened: dropped.
    DecapsulationFailed = 5,
    /// Outer packet is a fragment: dropped.
    OuterFragment = 6,
    /// The outer header says "congestion experienced", which the inner one cannot say: dropped, as RFC 6040, section 4.2,
    /// demands.
    CongestionLost = 7,
}

/// All agent reasons in the order of their numbers, with the names that the CLI and metrics use.
pub const AGENT_REASONS: [(AgentReason, &str); 8] = [
    (AgentReason::Passed, "passed"),
    (AgentReason::Decapsulated, "decapsulated"),
    (AgentReason::HeartbeatAnswered, "heartbeat_answered"),
    (AgentReason::SourceRefused, "source_refused"),
    (AgentReason::InnerMalformed, "inner_malformed"),
    (AgentReason::DecapsulationFailed, "decapsulation_failed"),
    (AgentReason::OuterFragment, "outer_fragment"),
    (AgentReason::CongestionLost, "congestion_lost"),
];
