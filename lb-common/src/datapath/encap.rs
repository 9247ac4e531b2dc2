//! Stage 6: what does the packet look like on the way to the backend? IP in IP (RFC 2003, RFC 2473, RFC 4213), in all four
//! combinations of families, here; [`gue`] and [`l2`] have the other kinds of forwarding.
//!
//! DSCP and ECN are copied to the outer header, congestion experienced included (RFC 6040, section 4.1, normal mode). The
//! inner packet is not touched: its TTL is not decremented, as Weir delivers to a host that has the destination address and does
//! not forward (RFC 2003, section 3.1, asks for it only "as part of forwarding").

use super::{
    gue,
    l2::{self, Facts, Way},
    parse::Transport,
    ports::Packet,
};
use crate::{
    abi::{
        backend::{BACKEND_TAGGED, BackendEntry},
        reason::Reason,
        root::Root,
        service::{FORWARD_GUE, FORWARD_L2, ServiceEntry},
    },
    net::{address_words, checksum, ethernet, ipv4, ipv6, protocol, word},
};

/// Puts the outer headers in front of the packet. Gives the interface by which it leaves.
///
/// # Errors
/// [`Reason::NoNextHop`], [`Reason::TooBig`], [`Reason::NotOnLink`] with the packet as it was; [`Reason::NoHeadroom`] when
/// the frame could not be enlarged.
#[inline(always)]
pub fn encapsulate<P: Packet>(
    packet: &mut P,
    root: &Root,
    service: &ServiceEntry,
    backend: &BackendEntry,
    transport: &Transport,
    h: u64,
) -> Result<u32, Reason> {
    // One branch for all that is not the common way.
    let special = service.forwarding as u32
        | (transport.ip_at as u32 ^ ethernet::LENGTH as u32)
        | (backend.flags & BACKEND_TAGGED);
    if special != 0 || backend.ifindex == 0 {
        let facts = Facts::new(transport);
        let way = Way { root, service, backend, facts, h };
        if backend.ifindex == 0 {
            return l2::send_by_kernel(packet, &way).egress();
        }
        return l2::send(packet, &way).egress();
    }
    // Headers are put in front of untagged frames only.
    if transport.ip_at as usize != ethernet::LENGTH {
        return Err(Reason::NoHeadroom);
    }
    let inner = transport.ip_length as usize;
    let outer = if backend.is_outer_ipv6() { ipv6::LENGTH } else { ipv4::LENGTH };
    if inner + outer > backend.mtu as usize {
        return Err(Reason::TooBig);
    }
    let written = if backend.is_outer_ipv6() {
        packet.push_front(ipv6::LENGTH, &backend.ethernet, &outer_v6(root, backend, transport, h))
    } else {
        packet.push_front(ipv4::LENGTH, &backend.ethernet, &outer_v4(root, backend, transport, h))
    };
    if written.is_some() { Ok(backend.ifindex) } else { Err(Reason::NoHeadroom) }
}

/// Bytes by which an IP packet of a service grows on the way to a backend.
#[must_use]
#[inline(always)]
pub const fn overhead(service: &ServiceEntry, backend: &BackendEntry) -> usize {
    match (service.forwarding, backend.is_outer_ipv6()) {
        (FORWARD_L2, _) => 0,
        (FORWARD_GUE, false) => gue::OVERHEAD_V4,
        (FORWARD_GUE, true) => gue::OVERHEAD_V6,
        (_, false) => ipv4::LENGTH,
        (_, true) => ipv6::LENGTH,
    }
}

/// Protocol number of the inner packet.
#[inline(always)]
pub(super) const fn inner_protocol(is_ipv6: bool) -> u8 {
    if is_ipv6 { protocol::IPV6 } else { protocol::IPV4 }
}

/// The part of a hash that the mask lets through, as a word in network order.
#[inline(always)]
const fn entropy(h: u64, mask: [u8; 4]) -> u32 {
    (h >> 32) as u32 & u32::from_ne_bytes(mask)
}

/// The outer source of a flow's packets to a backend, entropy included: an IPv6 address, or an IPv4 address in the first
/// four bytes.
#[must_use]
pub fn outer_source(root: &Root, backend: &BackendEntry, h: u64) -> [u8; 16] {
    let mut source = [0; 16];
    let (mask, at) = if backend.is_outer_ipv6() {
        source = root.outer_source_v6;
        (root.entropy_mask_v6, 12)
    } else {
        source[..4].copy_from_slice(&root.outer_source_v4);
        (root.entropy_mask_v4, 0)
    };
    for (byte, entropy) in source[at..].iter_mut().zip(entropy(h, mask).to_ne_bytes()) {
        *byte |= entropy;
    }
    source
}

/// Both halves of a word as two 16-bit words of a checksum.
#[inline(always)]
const fn halves(word: u32) -> u32 {
    (word & 0xffff) + (word >> 16)
}

/// The outer IPv4 header of IP in IP.
#[inline(always)]
fn outer_v4(root: &Root, backend: &BackendEntry, transport: &Transport, h: u64) -> [u32; 5] {
    let length = transport.ip_length + ipv4::LENGTH as u16;
    header_v4(root, backend, transport.traffic_class, length, inner_protocol(transport.tuple.is_ipv6), h)
}

/// An outer IPv4 header (RFC 791) in words whose bytes are in network order. `length` is that of the whole packet.
#[inline(always)]
pub(super) fn header_v4(
    root: &Root,
    backend: &BackendEntry,
    traffic_class: u8,
    length: u16,
    protocol: u8,
    h: u64,
) -> [u32; 5] {
    let first = 0x4500_0000 | (traffic_class as u32) << 16 | length as u32;
    let first = first.to_be();
    let entropy = entropy(h, root.entropy_mask_v4);
    let ttl_and_protocol = ((ipv4::TTL as u32) << 24 | (protocol as u32) << 16).to_be();
    // The source's host bits are zero, so OR and one's complement addition of the entropy agree.
    let sum = backend.outer_sum as u32 + halves(first) + halves(ttl_and_protocol) + halves(entropy);
    let checksum = !checksum::fold(sum);
    let [high, low] = checksum.to_ne_bytes();
    [
        first,
        DONT_FRAGMENT_WORD,
        ttl_and_protocol | u32::from_ne_bytes([0, 0, high, low]),
        u32::from_ne_bytes(root.outer_source_v4) | entropy,
        word(&backend.outer_destination, 0),
    ]
}

/// Second word of an outer IPv4 header: no identification (RFC 6864), "don't fragment".
const DONT_FRAGMENT_WORD: u32 = u32::from_ne_bytes([0, 0, ipv4::DONT_FRAGMENT[0], ipv4::DONT_FRAGMENT[1]]);

/// The constant part of an outer IPv4 header's sum, for [`BackendEntry::outer_sum`].
#[must_use]
pub const fn outer_sum(source: [u8; 4], destination: [u8; 4]) -> u16 {
    checksum::fold(checksum::word(ipv4::DONT_FRAGMENT) + checksum::sum(&source) + checksum::sum(&destination))
}

/// The outer IPv6 header of IP in IP.
#[inline(always)]
fn outer_v6(root: &Root, backend: &BackendEntry, transport: &Transport, h: u64) -> [u32; 10] {
    let protocol = inner_protocol(transport.tuple.is_ipv6);
    header_v6(root, backend, transport.traffic_class, transport.ip_length, protocol, h)
}

/// An outer IPv6 header (RFC 8200) in words whose bytes are in network order. `payload` is the length of what follows it.
/// Its flow label is taken from the hash, as RFC 6438 has it for tunnels.
#[inline(always)]
pub(super) fn header_v6(
    root: &Root,
    backend: &BackendEntry,
    traffic_class: u8,
    payload: u16,
    protocol: u8,
    h: u64,
) -> [u32; 10] {
    let label = h as u32 & 0x000f_ffff;
    let first = 0x6000_0000 | (traffic_class as u32) << 20 | label;
    let second = (payload as u32) << 16 | (protocol as u32) << 8 | ipv6::HOP_LIMIT as u32;
    let s = address_words(&root.outer_source_v6);
    let d = address_words(&backend.outer_destination);
    let last = s[3] | entropy(h, root.entropy_mask_v6);
    [first.to_be(), second.to_be(), s[0], s[1], s[2], last, d[0], d[1], d[2], d[3]]
}
