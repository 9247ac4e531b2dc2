//! Generic UDP encapsulation, variant 1: the IP packet follows the UDP header at once.
//!
//! draft-ietf-intarea-gue, section 4: the first two bits behind the UDP header are the variant, and 01 is what IPv4's and
//! IPv6's version fields begin with. So the four bytes of variant 0's header are saved; a receiver tells the two apart by these
//! bits, as Linux does (`fou` with type `gue`), and [`agent`](super::agent).
//!
//! The UDP checksum is zero: over IPv4 that means "none" (RFC 768); over IPv6 RFC 6935 allows it for tunnels whose inner
//! packets have checksums of their own, under the conditions of RFC 6936: the receiver has the zero checksum enabled for this
//! one port, and checks that the outer destination is its own, which both the agent and Linux do.
//! A checksum over the payload would cost a pass over every packet.
//!
//! The source port is from the dynamic range (RFC 6335, section 6), its lower 14 bits from the flow's hash, so that routers and
//! receive-side scaling spread flows and never a flow's packets.

use crate::{
    abi::service::ServiceEntry,
    net::{ipv4, ipv6},
};

/// Length of a UDP header.
pub(super) const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
/// Bytes in front of the inner packet with an outer IPv4 header.
pub const OVERHEAD_V4: usize = ipv4::LENGTH + UDP_LENGTH;
/// Bytes in front of the inner packet with an outer IPv6 header.
pub const OVERHEAD_V6: usize = ipv6::LENGTH + UDP_LENGTH;

/// UDP source port of a flow's packets.
#[must_use]
#[inline(always)]
pub const fn source_port(h: u64) -> u16 {
    0xc000 | ((h >> 16) & 0x3fff) as u16
}

/// The UDP header in words whose bytes are in network order.
#[inline(always)]
pub(super) const fn udp(service: &ServiceEntry, ip_length: u16, h: u64) -> [u32; 2] {
    let [a, b] = source_port(h).to_be_bytes();
    let [c, d] = service.gue_port;
    let [e, f] = (ip_length + UDP_LENGTH as u16).to_be_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, 0, 0])]
}
