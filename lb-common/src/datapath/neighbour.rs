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
//! More questions than [`answers`] allows are dropped and counted. What asks for another address, is malformed, or comes from beyond the link (hop limit below 255) goes on its way.

use super::{
    answers::{self, Budget},
    classify, l2,
    ports::{Packet, Tables},
};
use crate::{
    abi::{backend::ETHERTYPE_IPV6, reason::Reason, root::FEATURE_ARP, service::SERVICE_ARP},
    net::{AddressWords, checksum, ipv6, mapped_words, protocol, word},
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

/// Answers a frame that asks for a VIP, in its place: [`Reason::NeighbourAnswered`], or [`Reason::AnswerLimited`] with nothing changed.
/// `None`, with nothing changed, for any other frame.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Reason> {
    if tables.root()?.features & FEATURE_ARP == 0 {
        return None;
    }
    asked(packet, tables)
}

#[inline(always)]
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
    classify::vip(tables, &address).is_some_and(|entry| entry.flags & SERVICE_ARP != 0)
}

/// Our address on the link, if the frame is for it or for a group.
#[inline(always)]
fn own_address<P: Packet, T: Tables>(packet: &P, tables: &T) -> Option<[u8; 6]> {
    let own = tables.interface_address(packet.ingress_ifindex())?;
    let [a, b, c, d, e, f] = packet.read::<6>(0)?;
    (a & 1 != 0 || [a, b, c, d, e, f] == own).then_some(own)
}

#[inline(never)]
fn answer_arp<P: Packet, T: Tables>(packet: &mut P, tables: &T, at: usize) -> Option<Reason> {
    let h = packet.read_far::<ARP_LENGTH>(at)?;
    let is_request = [h[0], h[1], h[2], h[3]] == [0, 1, 8, 0] && [h[4], h[5], h[6], h[7]] == [6, 4, 0, 1];
    let (sender, target) = (word(&h, 14), word(&h, 24));
    let is_group = h[8] & 1 != 0;
    if !is_request || sender == target || is_group || !is_ours(tables, mapped_words(target)) {
        return None;
    }
    let o = own_address(packet, tables)?;
    if !answers::allow(tables, Budget::Neighbours) {
        return Some(Reason::AnswerLimited);
    }
    packet.write(0, &[h[8], h[9], h[10], h[11], h[12], h[13], o[0], o[1], o[2], o[3], o[4], o[5]])?;
    // A reply: our address for the target's, which becomes the sender; the sender becomes the target.
    let sender = [o[0], o[1], o[2], o[3], o[4], o[5], h[24], h[25], h[26], h[27]];
    packet.write_far(at + 6, &[0, 2])?;
    packet.write_far(at + 8, &sender)?;
    packet.write_far(at + 18, &[h[8], h[9], h[10], h[11], h[12], h[13], h[14], h[15], h[16], h[17]])?;
    Some(Reason::NeighbourAnswered)
}

/// What a solicitation asks for, in a word that fits a register.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Solicited(u32);

impl Solicited {
    const NOTHING: Self = Self(0);
    /// A VIP, from nowhere: in duplicate address detection.
    const TO_ALL: Self = Self(1);
    /// A VIP; the asker's Ethernet address is the frame's source.
    const TO_SOURCE: Self = Self(2);

    /// A VIP; the asker's Ethernet address stands in the option at this offset of the frame.
    const fn to_option(at: usize) -> Self {
        Self(at as u32)
    }
}

#[inline(always)]
fn answer_solicitation<P: Packet, T: Tables>(packet: &mut P, tables: &T, at: usize) -> Option<Reason> {
    let solicited = solicited(packet, tables, at);
    if solicited == Solicited::NOTHING {
        return None;
    }
    let own = own_address(packet, tables)?;
    if !answers::allow(tables, Budget::Neighbours) {
        return Some(Reason::AnswerLimited);
    }
    advertise(packet, at, solicited, own)?;
    Some(Reason::NeighbourAnswered)
}

/// What the IPv6 packet at offset `at` asks for (RFC 4861, section 7.1.1).
#[inline(never)]
fn solicited<P: Packet, T: Tables>(packet: &P, tables: &T, at: usize) -> Solicited {
    read_solicitation(packet, tables, at).unwrap_or(Solicited::NOTHING)
}

#[inline(always)]
fn read_solicitation<P: Packet, T: Tables>(packet: &P, tables: &T, at: usize) -> Option<Solicited> {
    let header = ipv6::Header(packet.read_far::<{ ipv6::LENGTH }>(at)?);
    let message = at + ipv6::LENGTH;
    if header.next_header() != protocol::ICMPV6 || header.hop_limit() != ON_LINK_HOP_LIMIT {
        return None;
    }
    let h = packet.read_far::<ND_LENGTH>(message)?;
    let target = address_at(&h, 8);
    if [h[0], h[1]] != [SOLICITATION, 0] || !is_ours(tables, target) {
        return None;
    }
    let (source, destination) = (header.source(), header.destination());
    let from_nowhere = source == [0; 4];
    let to_group = destination == solicited_node(&target);
    if !to_group && (destination != target || from_nowhere) {
        return None;
    }
    let length = header.payload_length();
    let mut sum = pseudo_sum(&source, &destination, length as u32) + checksum::sum(&h);
    let mut solicited = if from_nowhere { Solicited::TO_ALL } else { Solicited::TO_SOURCE };
    // At most two options: an Ethernet address, and the nonce of RFC 7527. What has more, or longer ones, is not understood.
    let at = message + ND_LENGTH;
    let options = length.wrapping_sub(ND_LENGTH);
    if options == OPTION_LENGTH {
        let first = packet.read_far::<OPTION_LENGTH>(at)?;
        sum += checksum::sum(&first);
        if !is_good(&first, 0, from_nowhere) {
            return None;
        }
        if first[0] == SOURCE_ADDRESS {
            solicited = Solicited::to_option(at);
        }
    } else if options == 2 * OPTION_LENGTH {
        let both = packet.read_far::<{ 2 * OPTION_LENGTH }>(at)?;
        sum += checksum::sum(&both);
        if !is_good(&both, 0, from_nowhere) || !is_good(&both, OPTION_LENGTH, from_nowhere) {
            return None;
        }
        if both[0] == SOURCE_ADDRESS {
            solicited = Solicited::to_option(at);
        } else if both[OPTION_LENGTH] == SOURCE_ADDRESS {
            solicited = Solicited::to_option(at + OPTION_LENGTH);
        }
    } else if options != 0 {
        return None;
    }
    (checksum::fold(sum) == 0xffff).then_some(solicited)
}

/// Whether the option at `at` is eight bytes long, and no address of somebody who has none yet.
#[inline(always)]
const fn is_good<const N: usize>(options: &[u8; N], at: usize, from_nowhere: bool) -> bool {
    options[at + 1] == 1 && !(options[at] == SOURCE_ADDRESS && from_nowhere)
}

#[inline(always)]
const fn address_at<const N: usize>(bytes: &[u8; N], at: usize) -> AddressWords {
    [word(bytes, at), word(bytes, at + 4), word(bytes, at + 8), word(bytes, at + 12)]
}

/// Makes the solicitation at offset `at` an advertisement of the VIP at `own` (RFC 4861, sections 4.4 and 7.2.4).
#[inline(never)]
fn advertise<P: Packet>(packet: &mut P, at: usize, solicited: Solicited, own: [u8; 6]) -> Option<()> {
    const LENGTH: usize = ND_LENGTH + OPTION_LENGTH;
    let target = address_at(&packet.read_far::<16>(at + ipv6::LENGTH + 8)?, 0);
    let to_all = solicited == Solicited::TO_ALL;
    let to = if to_all { all_nodes() } else { address_at(&packet.read_far::<16>(at + 8)?, 0) };
    let asker = if to_all {
        ALL_NODES_MAC
    } else if solicited == Solicited::TO_SOURCE {
        packet.read::<6>(6)?
    } else {
        packet.read_far::<6>(solicited.0 as usize + 2)?
    };
    let macs = l2::mac_words(asker, own);
    let tags = l2::tags(packet)?;
    // Where the compiler sees that 32 bits of the length are enough, it takes 32 bits of the frame's end too, which the verifier
    // then no longer knows for what it is.
    let length = core::hint::black_box(packet.length());
    let by = (at + ipv6::LENGTH + LENGTH) as i32 - length as i32;
    if by != 0 {
        packet.resize_front(by)?;
    }
    l2::write_ethernet(packet, &macs, ETHERTYPE_IPV6, at, &tags)?;
    let [g, h, i, j, k, l] = own;
    let option = [u32::from_ne_bytes([TARGET_ADDRESS, 1, g, h]), u32::from_ne_bytes([i, j, k, l])];
    // Solicited, unless it goes to all; override: whoever has another address for the VIP takes this one.
    let flags = u32::from_ne_bytes([if to_all { 0x20 } else { 0x60 }, 0, 0, 0]);
    let kind = u32::from_ne_bytes([ADVERTISEMENT, 0, 0, 0]);
    let body = words_sum(&[kind, flags, option[0], option[1]]) + words_sum(&target);
    let [s, t] = (!checksum::fold(pseudo_sum(&target, &to, LENGTH as u32) + body)).to_ne_bytes();
    let first = u32::from_ne_bytes([0x60, 0, 0, 0]);
    let second = u32::from_ne_bytes([0, LENGTH as u8, protocol::ICMPV6, ON_LINK_HOP_LIMIT]);
    packet.write_words_far(at, &[first, second])?;
    packet.write_words_far(at + 8, &target)?;
    packet.write_words_far(at + 24, &to)?;
    let message = at + ipv6::LENGTH;
    packet.write_words_far(message, &[kind | u32::from_ne_bytes([0, 0, s, t]), flags])?;
    packet.write_words_far(message + 8, &target)?;
    packet.write_words_far(message + ND_LENGTH, &option)
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

/// The sum of what an ICMPv6 checksum covers beside the message (RFC 8200, section 8.1).
#[inline(always)]
fn pseudo_sum(source: &AddressWords, destination: &AddressWords, length: u32) -> u32 {
    words_sum(source)
        + words_sum(destination)
        + words_sum(&[length.to_be(), u32::from_ne_bytes([0, 0, 0, protocol::ICMPV6])])
}
