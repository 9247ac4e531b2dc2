//! Stage 6: what does the packet look like on the way to the backend? IP in IP (RFC 2003, RFC 2473, RFC 4213), in all four
//! combinations of families.

use super::{parse::Transport, ports::Packet};
use crate::{
    abi::{backend::BackendEntry, reason::Reason, root::Root},
    net::{checksum, ethernet, ipv4, ipv6, protocol},
};

/// Ethernet and IPv4 header in front of the inner packet.
const OUTER_V4: usize = ethernet::LENGTH + ipv4::LENGTH;
/// Ethernet and IPv6 header in front of the inner packet.
const OUTER_V6: usize = ethernet::LENGTH + ipv6::LENGTH;

/// Puts the outer headers in front of the packet.
///
/// # Errors
/// [`Reason::NoNextHop`], [`Reason::TooBig`] with the packet as it was; [`Reason::NoHeadroom`] when the frame could not be
/// enlarged.
#[inline(always)]
pub fn encapsulate<P: Packet>(
    packet: &mut P,
    root: &Root,
    backend: &BackendEntry,
    transport: &Transport,
    h: u64,
) -> Result<(), Reason> {
    if backend.ifindex == 0 {
        return Err(Reason::NoNextHop);
    }
    let inner = transport.ip_length as usize;
    let pushed = if backend.is_outer_ipv6() {
        if inner + ipv6::LENGTH > backend.mtu as usize {
            return Err(Reason::TooBig);
        }
        packet.push_front(ipv6::LENGTH, &outer_v6(root, backend, transport, h))
    } else {
        if inner + ipv4::LENGTH > backend.mtu as usize {
            return Err(Reason::TooBig);
        }
        packet.push_front(ipv4::LENGTH, &outer_v4(root, backend, transport, h))
    };
    pushed.ok_or(Reason::NoHeadroom)
}

/// Protocol number of the inner packet.
#[inline(always)]
const fn inner_protocol(transport: &Transport) -> u8 {
    if transport.tuple.is_ipv6 { protocol::IPV6 } else { protocol::IPV4 }
}

#[inline(always)]
fn put<const N: usize, const M: usize>(header: &mut [u8; N], at: usize, bytes: &[u8; M]) {
    header[at..at + M].copy_from_slice(bytes);
}

/// The part of a hash that the mask lets through, in network order.
#[inline(always)]
fn entropy(h: u64, mask: [u8; 4]) -> [u8; 4] {
    ((h >> 32) as u32 & u32::from_ne_bytes(mask)).to_ne_bytes()
}

#[inline(always)]
fn outer_v4(root: &Root, backend: &BackendEntry, transport: &Transport, h: u64) -> [u8; OUTER_V4] {
    let mut header = [0; OUTER_V4];
    let length = (transport.ip_length + ipv4::LENGTH as u16).to_be_bytes();
    let version_and_class = [0x45, transport.traffic_class];
    let ttl_and_protocol = [ipv4::TTL, inner_protocol(transport)];
    let entropy = entropy(h, root.entropy_mask_v4);
    let s = &backend.outer_source;
    // The source's host bits are zero, so OR and one's complement addition agree.
    let source = [s[0] | entropy[0], s[1] | entropy[1], s[2] | entropy[2], s[3] | entropy[3]];
    let sum = backend.outer_sum as u32
        + checksum::word(length)
        + checksum::word(version_and_class)
        + checksum::word(ttl_and_protocol)
        + checksum::word([entropy[0], entropy[1]])
        + checksum::word([entropy[2], entropy[3]]);
    let d = &backend.outer_destination;
    put(&mut header, 0, &backend.ethernet_destination);
    put(&mut header, 6, &backend.ethernet_source);
    put(&mut header, 12, &backend.ethertype);
    put(&mut header, 14, &version_and_class);
    put(&mut header, 16, &length);
    put(&mut header, 20, &ipv4::DONT_FRAGMENT);
    put(&mut header, 22, &ttl_and_protocol);
    put(&mut header, 24, &(!checksum::fold(sum)).to_ne_bytes());
    put(&mut header, 26, &source);
    put(&mut header, 30, &[d[0], d[1], d[2], d[3]]);
    header
}

/// The constant part of an outer IPv4 header's sum, for [`BackendEntry::outer_sum`].
#[must_use]
pub fn outer_sum(source: [u8; 4], destination: [u8; 4]) -> u16 {
    checksum::fold(
        checksum::word(ipv4::DONT_FRAGMENT) + checksum::sum(&source) + checksum::sum(&destination),
    )
}

#[inline(always)]
fn outer_v6(root: &Root, backend: &BackendEntry, transport: &Transport, h: u64) -> [u8; OUTER_V6] {
    let mut header = [0; OUTER_V6];
    let class = transport.traffic_class;
    // Flow label from the hash, as RFC 6438 has it for tunnels.
    let label = (h as u32 & 0x000f_ffff).to_be_bytes();
    let entropy = entropy(h, root.entropy_mask_v6);
    put(&mut header, 0, &backend.ethernet_destination);
    put(&mut header, 6, &backend.ethernet_source);
    put(&mut header, 12, &backend.ethertype);
    put(&mut header, 14, &[0x60 | class >> 4, class << 4 | label[1], label[2], label[3]]);
    put(&mut header, 18, &transport.ip_length.to_be_bytes());
    put(&mut header, 20, &[inner_protocol(transport), ipv6::HOP_LIMIT]);
    put(&mut header, 22, &backend.outer_source);
    let s = &backend.outer_source;
    put(
        &mut header,
        34,
        &[s[12] | entropy[0], s[13] | entropy[1], s[14] | entropy[2], s[15] | entropy[3]],
    );
    put(&mut header, 38, &backend.outer_destination);
    header
}
