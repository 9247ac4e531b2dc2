//! Answers "who has the VIP?" for services with `reach = "arp"`: ARP requests (RFC 826) and neighbour solicitations (RFC
//! 4861), tagged or not.
//!
//! | asked by | answered |
//! |---|---|
//! | a neighbour, by broadcast, multicast or directly | to it |
//! | ARP probe of a host that would like to have the address (RFC 5227, section 2.1.1) | to it, so that it sees the conflict |
//! | neighbour solicitation from nowhere, in duplicate address detection (RFC 4862, section 5.4) | to all nodes |
//! | ARP announcement (RFC 5227, section 2.3): sender and target are the VIP | not at all, it asks nothing |
//!
//! What asks for another address, is malformed, or comes from beyond the link (hop limit below 255) goes on its way.

use super::{
    classify::{self, Lookup},
    l2,
    ports::{Packet, Tables},
};
use crate::{
    abi::{
        backend::ETHERTYPE_IPV6,
        reason::Reason,
        root::FEATURE_ARP,
        service::SERVICE_ARP,
    },
    net::{AddressWords, checksum, ethernet, ipv6, mapped_words, protocol, word},
};

/// EtherType of ARP, as it stands in a frame.
const ETHERTYPE_ARP: [u8; 2] = [0x08, 0x06];
/// Length of an ARP message about IPv4 on Ethernet.
const ARP_LENGTH: usize = 28;
/// Length of a neighbour solicitation or advertisement without options.
const ND_LENGTH: usize = 24;
/// Length of an option with an Ethernet address.
const OPTION_LENGTH: usize = 8;
/// Hop limit by which a neighbour shows that it is one.
const ON_LINK_HOP_LIMIT: u8 = 255;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
const SOURCE_ADDRESS: u8 = 1;
const TARGET_ADDRESS: u8 = 2;

/// Answers a frame that asks for a VIP, in its place. `None`, with nothing changed, for any other frame.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Reason> {
    if tables.root()?.features & FEATURE_ARP == 0 {
        return None;
    }
    asked(packet, tables)
}

#[inline(never)]
fn asked<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Reason> {
    let (ethertype, at) = l2::ethertype_of(packet);
    match ethertype {
        ETHERTYPE_ARP => answer_arp(packet, tables, at),
        ETHERTYPE_IPV6 => answer_solicitation(packet, tables, at),
        _ => None,
    }
}

/// Whether Weir answers for an address.
#[inline(always)]
fn is_ours<T: Tables>(tables: &T, address: AddressWords) -> bool {
    let lookup = Lookup { address, port: 0, protocol: 0 };
    classify::entry(tables, &lookup).is_some_and(|entry| entry.flags & SERVICE_ARP != 0)
}

/// Our address on the link, if the frame is for it or for a group.
#[inline(always)]
fn own_address<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<[u8; 6]> {
    let own = tables.interface_address(packet.ingress_ifindex())?;
    let [a, b, c, d, e, f] = packet.read::<6>(0)?;
    (a & 1 != 0 || [a, b, c, d, e, f] == own).then_some(own)
}

#[inline(always)]
fn answer_arp<P: Packet, T: Tables>(packet: &mut P, tables: &T, at: usize) -> Option<Reason> {
    let h = packet.read_far::<ARP_LENGTH>(at)?;
    let is_request = [h[0], h[1], h[2], h[3]] == [0, 1, 8, 0] && [h[4], h[5], h[6], h[7]] == [6, 4, 0, 1];
    let (sender, target) = (word(&h, 14), word(&h, 24));
    let is_group = h[8] & 1 != 0;
    if !is_request || sender == target || is_group || !is_ours(tables, mapped_words(target)) {
        return None;
    }
    let o = own_address(packet, tables)?;
    packet.write(0, &[h[8], h[9], h[10], h[11], h[12], h[13], o[0], o[1], o[2], o[3], o[4], o[5]])?;
    // A reply: our address for the target's, which becomes the sender; the sender becomes the target.
    let sender = [o[0], o[1], o[2], o[3], o[4], o[5], h[24], h[25], h[26], h[27]];
    packet.write_far(at + 6, &[0, 2])?;
    packet.write_far(at + 8, &sender)?;
    packet.write_far(at + 18, &[h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17]])?;
    Some(Reason::NeighbourAnswered)
}

#[inline(always)]
fn answer_solicitation<P: Packet, T: Tables>(packet: &mut P, tables: &T, at: usize) -> Option<Reason> {
    let header = ipv6::Header(packet.read_far::<{ ipv6::LENGTH }>(at)?);
    let message = at + ipv6::LENGTH;
    if header.next_header() != protocol::ICMPV6 || header.hop_limit() != ON_LINK_HOP_LIMIT {
        return None;
    }
    let h = packet.read_far::<ND_LENGTH>(message)?;
    let target = [word(&h, 8), word(&h, 12), word(&h, 16), word(&h, 20)];
    if [h[0], h[1]] != [SOLICITATION, 0] || !is_ours(tables, target) {
        return None;
    }
    let (source, destination) = (header.source(), header.destination());
    let from_nowhere = source == [0; 4];
    let to_group = destination == solicited_node(&target);
    if !to_group && (destination != target || from_nowhere) {
        return None;
    }
    let frame = packet.read::<{ ethernet::LENGTH }>(0)?;
    let mut asker = [frame[6], frame[7], frame[8], frame[9], frame[10], frame[11]];
    let pseudo = pseudo_sum(&source, &destination, header.payload_length() as u32);
    let mut sum = pseudo + bytes_sum(&h);
    // At most two options: an Ethernet address, and the nonce of RFC 7527.
    let options = match header.payload_length() {
        ND_LENGTH => 0,
        32 => 1,
        40 => 2,
        _ => return None,
    };
    let mut i = 0;
    while i < options {
        let o = packet.read_far::<OPTION_LENGTH>(message + ND_LENGTH + i * OPTION_LENGTH)?;
        sum += bytes_sum(&o);
        // Longer ones are not understood here, and one of length 0 is an error.
        if o[1] != 1 || (o[0] == SOURCE_ADDRESS && from_nowhere) {
            return None;
        }
        if o[0] == SOURCE_ADDRESS {
            asker = [o[2], o[3], o[4], o[5], o[6], o[7]];
        }
        i += 1;
    }
    if checksum::fold(sum) != 0xffff {
        return None;
    }
    let own = own_address(packet, tables)?;
    let (asker, to) = if from_nowhere { (ALL_NODES_MAC, all_nodes()) } else { (asker, source) };
    advertise(packet, at, &target, &to, from_nowhere, own, asker)?;
    Some(Reason::NeighbourAnswered)
}

/// Makes the frame an advertisement of `target` at `own`, to `asker`, which has the address `to`.
#[inline(always)]
fn advertise<P: Packet>(
    packet: &mut P,
    at: usize,
    target: &AddressWords,
    to: &AddressWords,
    to_all: bool,
    own: [u8; 6],
    asker: [u8; 6],
) -> Option<()> {
    const LENGTH: usize = ND_LENGTH + OPTION_LENGTH;
    let tags = l2::tags(packet)?;
    let by = (at + ipv6::LENGTH + LENGTH) as i32 - packet.length() as i32;
    if by != 0 {
        packet.resize_front(by)?;
    }
    let [g, h, i, j, k, l] = own;
    l2::write_ethernet(packet, &l2::mac_words(asker, own), ETHERTYPE_IPV6, at, &tags)?;
    // Solicited, unless it goes to all; override: whoever has another address for the VIP takes this one.
    let flags = u32::from_ne_bytes([if to_all { 0x20 } else { 0x60 }, 0, 0, 0]);
    let option = [u32::from_ne_bytes([TARGET_ADDRESS, 1, g, h]), u32::from_ne_bytes([i, j, k, l])];
    let kind = u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]);
    let body = words_sum(&[kind, flags, option[0], option[1]]) + words_sum(target);
    let [s, t] = (!checksum::fold(pseudo_sum(target, to, LENGTH as u32) + body)).to_ne_bytes();
    packet.write_words_far(
        at,
        &[
            u32::from_ne_bytes([0x60, 0, 0, 0]),
            u32::from_ne_bytes([0, LENGTH as u8, protocol::ICMPV6, ON_LINK_HOP_LIMIT]),
            target[0],
            target[1],
            target[2],
            target[3],
            to[0],
            to[1],
            to[2],
            to[3],
        ],
    )?;
    packet.write_words_far(
        at + ipv6::LENGTH,
        &[
            kind | u32::from_ne_bytes([0, 0, s, t]),
            flags,
            target[0],
            target[1],
            target[2],
            target[3],
            option[0],
            option[1],
        ],
    )
}

/// Ethernet address of all IPv6 nodes (RFC 2464, section 7).
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// `ff02::1`.
#[inline(always)]
const fn all_nodes() -> AddressWords {
    [0xff02_0000_u32.to_be(), 0, 0, 1_u32.to_be()]
}

/// The group in which whoever has `target` listens (RFC 4291, section 2.7.1).
#[inline(always)]
const fn solicited_node(target: &AddressWords) -> AddressWords {
    let low = 0xff00_0000_u32.to_be() | target[3];
    [0xff02_0000_u32.to_be(), 0, 1_u32.to_be(), low]
}

#[inline(always)]
fn words_sum<const N: usize>(words: &[u32; N]) -> u32 {
    let mut sum = 0;
    let mut i = 0;
    while i < N {
        sum += (words[i] & 0xffff) + (words[i] >> 16);
        i += 1;
    }
    sum
}

#[inline(always)]
fn bytes_sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    checksum::sum(bytes)
}

/// The sum of what an ICMPv6 checksum covers beside the message (RFC 8200, section 8.1).
#[inline(always)]
fn pseudo_sum(source: &AddressWords, destination: &AddressWords, length: u32) -> u32 {
    words_sum(source)
        + words_sum(destination)
        + words_sum(&[length.to_be(), u32::from_ne_bytes([0, 0, 0, protocol::ICMPV6])])
}
