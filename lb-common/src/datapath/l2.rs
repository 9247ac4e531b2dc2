//! Stage 7: the Ethernet side of the way out: VLAN tags, next hops that only the kernel knows, and L2 DSR.
//!
//! Everything here is out of line: a packet that arrives untagged and leaves untagged in IP-in-IP to a next hop that the
//! daemon keeps ready does not come by.
//!
//! | next hop | tags of the frame |
//! |---|---|
//! | behind a VLAN ([`BACKEND_TAGGED`]) | that VLAN's, whatever tags it came with |
//! | otherwise, by the interface on which it came | those it came with |
//! | otherwise, by another interface | none |

use super::{
    encap, gue,
    parse::Transport,
    ports::{FibAnswer, FibLookup, Packet},
};
use crate::{
    abi::{
        backend::{BACKEND_ON_LINK, BACKEND_TAGGED, BackendEntry, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
        reason::Reason,
        root::Root,
        service::{FORWARD_GUE, FORWARD_L2, ServiceEntry},
    },
    net::{address_words, ethernet, ipv4, ipv6, protocol, word},
};

/// What a function out of line needs to know about a packet, in one word: a [`Transport`] whose address is taken would have
/// to leave the registers for all packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Facts(u64);

impl Facts {
    /// What there is to know about a packet.
    #[must_use]
    #[inline(always)]
    pub const fn new(transport: &Transport) -> Self {
        Self(
            transport.ip_length as u64
                | (transport.ip_at as u64) << 16
                | (transport.traffic_class as u64) << 32
                | (transport.tuple.is_ipv6 as u64) << 40
                | (transport.payload_at as u64) << 48,
        )
    }

    /// Length of the IP packet in bytes.
    #[must_use]
    #[inline(always)]
    pub const fn ip_length(self) -> u16 {
        self.0 as u16
    }

    /// Offset of the IP header.
    #[must_use]
    #[inline(always)]
    pub const fn ip_at(self) -> usize {
        (self.0 >> 16) as u16 as usize
    }

    /// DSCP and ECN.
    #[must_use]
    #[inline(always)]
    pub const fn traffic_class(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether it is IPv6.
    #[must_use]
    #[inline(always)]
    pub const fn is_ipv6(self) -> bool {
        self.0 >> 40 & 1 != 0
    }

    /// Offset of what follows the IP header and its extension headers.
    #[must_use]
    #[inline(always)]
    pub const fn payload_at(self) -> usize {
        (self.0 >> 48) as usize
    }
}

/// Everything that decides how a packet leaves.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// The root.
    pub root: &'a Root,
    /// The service.
    pub service: &'a ServiceEntry,
    /// The backend.
    pub backend: &'a BackendEntry,
    /// The packet.
    pub facts: Facts,
    /// The flow's hash.
    pub h: u64,
}

/// Where a packet leaves, or why it does not, in one word, so that it fits a register where sending is a function of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent(u32);

impl Sent {
    /// No interface has so high a number: the kernel's are positive and signed.
    const REFUSED: u32 = 1 << 31;

    #[inline(always)]
    const fn by(ifindex: u32) -> Self {
        Self(ifindex)
    }

    #[inline(always)]
    const fn refused(reason: Reason) -> Self {
        Self(reason as u32 | Self::REFUSED)
    }

    /// The egress interface.
    ///
    /// # Errors
    /// Why the packet was not sent.
    #[inline(always)]
    pub const fn egress(self) -> Result<u32, Reason> {
        const REASONS: [Reason; 4] =
            [Reason::NoNextHop, Reason::TooBig, Reason::NoHeadroom, Reason::NotOnLink];
        if self.0 & Self::REFUSED == 0 {
            return Ok(self.0);
        }
        let mut i = 0;
        while i < REASONS.len() {
            if self.0 == Self::refused(REASONS[i]).0 {
                return Err(REASONS[i]);
            }
            i += 1;
        }
        Err(Reason::Inconsistent)
    }
}

/// Two Ethernet addresses in words whose bytes in memory are as in a frame.
pub(super) type MacWords = [u32; 3];

/// How a frame leaves.
#[derive(Clone, Copy)]
struct Hop {
    ifindex: u32,
    mtu: u16,
    /// Flags of the backend.
    flags: u32,
    /// The next hop's and the egress interface's address.
    addresses: MacWords,
}

/// Sends a packet whose way out is not the common one: makes the frame what it must be on the way to the backend.
#[inline(never)]
pub fn send<P: Packet>(packet: &mut P, way: &Way<'_>) -> Sent {
    let backend = way.backend;
    let e = &backend.ethernet;
    let hop = Hop {
        ifindex: backend.ifindex,
        mtu: backend.mtu,
        flags: backend.flags,
        addresses: [word(e, 0), word(e, 4), word(e, 8)],
    };
    leave(packet, way, &hop)
}

/// The same for a backend whose next hop the daemon has not found. A function beside [`send`] and not below it: the stack is
/// short.
#[inline(never)]
pub fn send_by_kernel<P: Packet>(packet: &mut P, way: &Way<'_>) -> Sent {
    let mut hop = Hop { ifindex: 0, mtu: 0, flags: 0, addresses: [0; 3] };
    ask_kernel(packet, way, &mut hop);
    if hop.ifindex == 0 {
        return Sent::refused(Reason::NoNextHop);
    }
    leave(packet, way, &hop)
}

#[inline(always)]
fn leave<P: Packet>(packet: &mut P, way: &Way<'_>, hop: &Hop) -> Sent {
    let backend = way.backend;
    if way.service.forwarding == FORWARD_L2 && hop.flags & BACKEND_ON_LINK == 0 {
        return Sent::refused(Reason::NotOnLink);
    }
    let outer = encap::overhead(way.service, backend);
    if way.facts.ip_length() as usize + outer > hop.mtu as usize {
        return Sent::refused(Reason::TooBig);
    }
    if way.facts.ip_at() > TAGGED_TWICE {
        return Sent::refused(Reason::Inconsistent);
    }
    match write(packet, way, hop, outer) {
        Some(()) => Sent::by(hop.ifindex),
        None => Sent::refused(Reason::NoHeadroom),
    }
}

/// The next hop that the kernel would take now: for backends whose next hop the daemon has not found.
/// Leaves `hop` as it is where the kernel knows none.
#[inline(always)]
fn ask_kernel<P: Packet>(packet: &P, way: &Way<'_>, hop: &mut Hop) {
    let Way { root, backend, facts, .. } = way;
    let is_ipv6 = backend.is_outer_ipv6();
    let class = facts.traffic_class();
    let asked = address_words(&backend.outer_destination);
    let length = facts.ip_length().saturating_add(encap::overhead(way.service, backend) as u16);
    let family = if is_ipv6 { FibLookup::INET6 } else { FibLookup::INET };
    let ifindex = packet.ingress_ifindex();
    let fill = |lookup: &mut FibLookup| {
        // Field by field, in place: as a whole it would be put together on the stack.
        lookup.family = family;
        lookup.protocol = 0;
        lookup.ports = [0; 2];
        lookup.length = length;
        lookup.ifindex = ifindex;
        lookup.vlan = 0;
        lookup.destination = asked;
        if is_ipv6 {
            lookup.class = ((class as u32) << 20).to_be();
            lookup.source = address_words(&root.outer_source_v6);
        } else {
            lookup.class = u32::from_ne_bytes([class, 0, 0, 0]);
            lookup.source = [u32::from_ne_bytes(root.outer_source_v4), 0, 0, 0];
        }
    };
    packet.fib(fill, |answer, lookup| {
        if let FibAnswer::Unknown = answer {
            return;
        }
        let found = &lookup.destination;
        let differs =
            (found[0] ^ asked[0]) | (found[1] ^ asked[1]) | (found[2] ^ asked[2]) | (found[3] ^ asked[3]);
        let on_link = if differs == 0 && lookup.family == family { BACKEND_ON_LINK } else { 0 };
        *hop = Hop {
            ifindex: lookup.ifindex,
            // Old kernels leave the length where they should tell the MTU.
            mtu: if let FibAnswer::TooBig = answer { 0 } else { lookup.length },
            flags: backend.flags & !(BACKEND_ON_LINK | BACKEND_TAGGED) | on_link,
            addresses: lookup.addresses(),
        };
    });
}

/// Length of one VLAN tag.
const TAG_LENGTH: usize = 4;
/// Length of an Ethernet header with one tag.
const TAGGED: usize = ethernet::LENGTH + TAG_LENGTH;
/// Length of an Ethernet header with two tags.
const TAGGED_TWICE: usize = TAGGED + TAG_LENGTH;
/// Offset of the first tag.
const TAGS_AT: usize = ethernet::LENGTH - 2;
/// Tag protocol of IEEE 802.1Q.
const CUSTOMER_TAG: [u8; 2] = [0x81, 0x00];

/// Makes the frame what it must be: Ethernet header, tags, outer headers of `outer` bytes.
#[inline(always)]
fn write<P: Packet>(packet: &mut P, way: &Way<'_>, hop: &Hop, outer: usize) -> Option<()> {
    let Way { root, service, backend, facts, h } = *way;
    let came = facts.ip_at();
    let (length, tags) = if hop.flags & BACKEND_TAGGED != 0 {
        let [a, b] = backend.vlan;
        (TAGGED, [u32::from_ne_bytes([CUSTOMER_TAG[0], CUSTOMER_TAG[1], a, b]), 0])
    } else {
        let length = if hop.ifindex == packet.ingress_ifindex() { came } else { ethernet::LENGTH };
        (length, tags(packet)?)
    };
    let by = (outer + length) as i32 - came as i32;
    if by != 0 {
        packet.resize_front(by)?;
    }
    write_ethernet(packet, &hop.addresses, ethertype(way), length, &tags)?;
    if service.forwarding == FORWARD_L2 {
        return Some(());
    }
    let is_gue = service.forwarding == FORWARD_GUE;
    let (protocol, udp) = if is_gue {
        (protocol::UDP, gue::UDP_LENGTH as u16)
    } else {
        (encap::inner_protocol(facts.is_ipv6()), 0)
    };
    let payload = facts.ip_length() + udp;
    let class = facts.traffic_class();
    let ip = if backend.is_outer_ipv6() {
        let [first, second, _, _, _, last, ..] = encap::header_v6(root, backend, class, payload, protocol, h);
        // Address by address: all ten words at once do not fit into the machine's registers.
        packet.write_words_far(length, &[first, second])?;
        packet.write_far(length + 8, &root.outer_source_v6)?;
        packet.write_words_far(length + 20, &[last])?;
        packet.write_far(length + 24, &backend.outer_destination)?;
        ipv6::LENGTH
    } else {
        let total = payload + ipv4::LENGTH as u16;
        packet.write_words_far(length, &encap::header_v4(root, backend, class, total, protocol, h))?;
        ipv4::LENGTH
    };
    if is_gue {
        packet.write_words_far(length + ip, &gue::udp(service, facts.ip_length(), h))
    } else {
        Some(())
    }
}

/// EtherType of what the frame will carry.
#[inline(always)]
const fn ethertype(way: &Way<'_>) -> [u8; 2] {
    if way.service.forwarding != FORWARD_L2 {
        let [.., high, low] = way.backend.ethernet;
        return [high, low];
    }
    if way.facts.is_ipv6() { ETHERTYPE_IPV6 } else { ETHERTYPE_IPV4 }
}

/// Writes an Ethernet header of `length` bytes, which says how many of `tags` it has.
#[inline(always)]
pub(super) fn write_ethernet<P: Packet>(
    packet: &mut P,
    addresses: &MacWords,
    ethertype: [u8; 2],
    length: usize,
    tags: &[u32; 2],
) -> Option<()> {
    packet.write_words(0, addresses)?;
    match length {
        ethernet::LENGTH => packet.write(TAGS_AT, &ethertype),
        TAGGED => {
            packet.write_words(TAGS_AT, &[tags[0]])?;
            packet.write(TAGS_AT + TAG_LENGTH, &ethertype)
        }
        _ => {
            packet.write_words(TAGS_AT, tags)?;
            packet.write(TAGS_AT + 2 * TAG_LENGTH, &ethertype)
        }
    }
}

/// What stands in the place of two tags, in words whose bytes are as in the frame: the tags of a frame that has two; behind any
/// Ethernet addresses and an IP packet there is more.
#[inline(always)]
pub(super) fn tags<P: Packet>(packet: &P) -> Option<[u32; 2]> {
    let bytes = packet.read::<{ 2 * TAG_LENGTH }>(TAGS_AT)?;
    Some([word(&bytes, 0), word(&bytes, TAG_LENGTH)])
}

/// Two addresses in words.
#[inline(always)]
pub(super) const fn mac_words(destination: [u8; 6], source: [u8; 6]) -> MacWords {
    let [a, b, c, d, e, f] = destination;
    let [g, h, i, j, k, l] = source;
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]), u32::from_ne_bytes([i, j, k, l])]
}

/// EtherType behind at most two VLAN tags, and the offset of what follows it; zeroes for a frame cut short.
#[inline(always)]
pub(super) fn ethertype_of<P: Packet>(packet: &P) -> ([u8; 2], usize) {
    let Some(frame) = packet.read::<{ ethernet::LENGTH }>(0) else {
        return ([0; 2], 0);
    };
    let ethertype = ethernet::ethertype(&frame);
    if !is_tag(ethertype) {
        return (ethertype, ethernet::LENGTH);
    }
    let Some([_, _, a, b]) = packet.read::<4>(ethernet::LENGTH) else {
        return ([0; 2], 0);
    };
    if !is_tag([a, b]) {
        return ([a, b], ethernet::LENGTH + 4);
    }
    match packet.read::<4>(ethernet::LENGTH + 4) {
        Some([_, _, a, b]) => ([a, b], ethernet::LENGTH + 8),
        None => ([0; 2], 0),
    }
}

/// Whether an EtherType is a VLAN tag's: IEEE 802.1Q or 802.1ad.
#[inline(always)]
const fn is_tag(ethertype: [u8; 2]) -> bool {
    matches!(ethertype, [0x81, 0x00] | [0x88, 0xa8])
}
