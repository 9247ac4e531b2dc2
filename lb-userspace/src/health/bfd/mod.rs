//! Bidirectional Forwarding Detection, asynchronous mode (RFC 5880), over one hop (RFC 5881) or several (RFC 5883). Pure.
//!
//! - [`packet`]: the control packet, byte for byte, and which ones are discarded.
//! - [`session`]: the state machine with its timers.
//!
//! What is left out, and how that shows: authentication (packets that carry some are discarded, section 6.8.6), the echo
//! function (never offered), and demand mode (never asked for; a peer that asks for it is obeyed, section 6.6).

pub mod packet;
pub mod session;

/// UDP port of single-hop sessions (RFC 5881 section 4).
pub const SINGLE_HOP_PORT: u16 = 3784;
/// UDP port of multihop sessions (RFC 5883 section 5).
pub const MULTIHOP_PORT: u16 = 4784;
/// Source ports (RFC 5881 section 4), one for each session.
pub const SOURCE_PORTS: std::ops::RangeInclusive<u16> = 49_152..=65_535;
/// TTL or hop limit of what is sent, and over a single hop of all that is taken (RFC 5881 section 5).
pub const TTL: u8 = 255;
