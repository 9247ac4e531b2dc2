//! What does not fit once encapsulated: the sender is told which size would.
//!
//! An IPv4 packet whose sender allows fragmentation is not fragmented here but dropped as [`Reason::TooBig`]: a fragment costs the
//! backend reassembly, and every stack that opens TCP connections has set "don't fragment" for decades. Links towards
//! backends are to have room for the outer header.

use super::{
    answers, icmp,
    ports::{Packet, Tables},
};
use crate::{
    abi::reason::Reason,
    net::{checksum, ethernet, icmp as types, ipv4, ipv6, protocol, vlan, word},
};

/// A packet that does not fit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooBig {
    /// Offset of its IP header.
    pub ip_at: u16,
    /// Whether it is IPv6.
    pub is_ipv6: bool,
    /// Length of the longest packet that fits.
    pub mtu: u16,
}

impl TooBig {
    /// The same in a word.
    #[must_use]
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        self.ip_at as u64 | (self.mtu as u64) << 16 | (self.is_ipv6 as u64) << 32
    }

    /// The inverse of [`word`](Self::word).
    #[must_use]
    #[inline(always)]
    pub const fn from_word(word: u64) -> Self {
        // The verifier wants to see that an offset is small.
        Self { ip_at: word as u16 & MAX_IP_AT, mtu: (word >> 16) as u16, is_ipv6: word >> 32 != 0 }
    }
}

/// All bits that the offset of an IP header can have, behind any number of tags.
const MAX_IP_AT: u16 = (vlan::IP_AT_TWO_TAGS as u16 + 1).next_power_of_two() - 1;
/// Unit in which the quoted packet is read and cut.
const UNIT: usize = 16;
/// An ICMP error is at most this long (RFC 1812, section 4.3.2.3).
const LONGEST_V4: usize = 576;
/// An ICMPv6 error is at most this long: the least MTU of IPv6 (RFC 4443, section 2.4).
const LONGEST_V6: usize = ipv6::LEAST_MTU;
const HEADERS_V4: usize = ipv4::LENGTH + icmp::ERROR_LENGTH;
const HEADERS_V6: usize = ipv6::LENGTH + icmp::ERROR_LENGTH;
/// Bytes behind the IPv4 header that an error must quote (RFC 792).
const QUOTED_AT_LEAST: usize = 8;
/// Precedence "internetwork control" (RFC 1812, section 4.3.2.5).
const TYPE_OF_SERVICE: u8 = 0xc0;
/// Offset of the source in an IPv6 header.
const SOURCE_AT: usize = 8;
/// Offset of the destination in an IPv6 header.
const DESTINATION_AT: usize = 24;
/// Length of an IPv6 address.
const ADDRESS_LENGTH: usize = 16;
/// Least MTU of IPv4 (RFC 791).
const LEAST_MTU_V4: usize = 68;

/// Turns a packet that does not fit into the answer that says so: [`Reason::TooBigAnswered`], to be sent out where it came from.
/// With any other reason, it is to be dropped.
#[inline(always)]
pub fn answer<P: Packet, T: Tables>(packet: &mut P, tables: &T, request: &TooBig) -> Reason {
    if request.is_ipv6 { answer_ipv6(packet, tables, request) } else { answer_ipv4(packet, tables, request) }
}

/// [`answer`] to an IPv4 packet.
#[inline(always)]
pub fn answer_ipv4<P: Packet, T: Tables>(packet: &mut P, tables: &T, request: &TooBig) -> Reason {
    match answer_v4(packet, tables, request) {
        Ok(()) => Reason::TooBigAnswered,
        Err(reason) => reason,
    }
}

/// [`answer`] to an IPv6 packet.
#[inline(always)]
pub fn answer_ipv6<P: Packet, T: Tables>(packet: &mut P, tables: &T, request: &TooBig) -> Reason {
    match answer_v6(packet, tables, request) {
        Ok(()) => Reason::TooBigAnswered,
        Err(reason) => reason,
    }
}

/// RFC 1191: type 3, code 4, with the MTU.
#[inline(always)]
fn answer_v4<P: Packet, T: Tables>(packet: &mut P, tables: &T, request: &TooBig) -> Result<(), Reason> {
    let at = request.ip_at as usize;
    let h = ipv4::Header(packet.read_far::<{ ipv4::LENGTH }>(at).ok_or(Reason::TooBig)?);
    let quoted = longest(h.total_length(), LONGEST_V4 - HEADERS_V4);
    let is_due = h.is_dont_fragment()
        && h.is_beginning()
        && is_one_host_v4(h.source())
        && request.mtu as usize >= LEAST_MTU_V4
        && quoted >= h.header_length() + QUOTED_AT_LEAST;
    if !is_due {
        return Err(Reason::TooBig);
    }
    if !answers::allow(tables, answers::Budget::Senders) {
        return Err(Reason::AnswerLimited);
    }
    let sum_of_quoted = sum(packet, at, quoted).ok_or(Reason::TooBig)?;
    let length = ((HEADERS_V4 + quoted) as u16).to_be_bytes();
    let (s, d) = (h.destination().to_ne_bytes(), h.source().to_ne_bytes());
    let [flag, no_offset] = ipv4::DONT_FRAGMENT;
    let ip = [
        0x45,
        TYPE_OF_SERVICE,
        length[0],
        length[1],
        0,
        0,
        flag,
        no_offset,
        ipv4::TTL,
        protocol::ICMP,
        0,
        0,
        s[0],
        s[1],
        s[2],
        s[3],
        d[0],
        d[1],
        d[2],
        d[3],
    ];
    let header_sum = (!checksum::fold(checksum::sum(&ip))).to_ne_bytes();
    let mtu = request.mtu.to_be_bytes();
    let error = [types::UNREACHABLE_V4, types::FRAGMENTATION_NEEDED, 0, 0, 0, 0, mtu[0], mtu[1]];
    let error_sum = (!checksum::fold(checksum::sum(&error) + sum_of_quoted)).to_ne_bytes();
    grow(packet, HEADERS_V4).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at, &ip).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + 10, &header_sum).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + ipv4::LENGTH, &error).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + ipv4::LENGTH + 2, &error_sum).ok_or(Reason::NoHeadroom)?;
    packet.truncate(at + HEADERS_V4 + quoted).ok_or(Reason::NoHeadroom)
}

/// RFC 4443, section 3.2: type 2, with the MTU.
#[inline(always)]
fn answer_v6<P: Packet, T: Tables>(packet: &mut P, tables: &T, request: &TooBig) -> Result<(), Reason> {
    let at = request.ip_at as usize;
    // Read in pieces, and the addresses not kept: the stack of a BPF function is short.
    let h = packet.read_far::<8>(at).ok_or(Reason::TooBig)?;
    let source = packet.read_far::<12>(at + SOURCE_AT).ok_or(Reason::TooBig)?;
    let payload = u16::from_be_bytes([h[4], h[5]]) as usize;
    let quoted = longest(ipv6::LENGTH + payload, LONGEST_V6 - HEADERS_V6);
    // A sender takes no notice of a smaller MTU (RFC 8201, section 4): the way is none for IPv6.
    if (request.mtu as usize) < ipv6::LEAST_MTU || !is_one_host_v6(&source) {
        return Err(Reason::TooBig);
    }
    if !answers::allow(tables, answers::Budget::Senders) {
        return Err(Reason::AnswerLimited);
    }
    let sum_of_quoted = sum(packet, at, quoted).ok_or(Reason::TooBig)?;
    let length = ((icmp::ERROR_LENGTH + quoted) as u16).to_be_bytes();
    let mtu = request.mtu.to_be_bytes();
    let ip = [0x60, 0, 0, 0, length[0], length[1], protocol::ICMPV6, ipv6::HOP_LIMIT];
    let error = [types::TOO_BIG_V6, 0, 0, 0, 0, 0, mtu[0], mtu[1]];
    let pseudo = sum(packet, at + SOURCE_AT, 2 * ADDRESS_LENGTH).ok_or(Reason::TooBig)?
        + checksum::word(length)
        + checksum::word([0, protocol::ICMPV6]);
    let error_sum = (!checksum::fold(checksum::sum(&error) + pseudo + sum_of_quoted)).to_ne_bytes();
    grow(packet, HEADERS_V6).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at, &ip).ok_or(Reason::NoHeadroom)?;
    let behind = at + HEADERS_V6;
    let address = packet.read_far::<ADDRESS_LENGTH>(behind + DESTINATION_AT).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + SOURCE_AT, &address).ok_or(Reason::NoHeadroom)?;
    let address = packet.read_far::<ADDRESS_LENGTH>(behind + SOURCE_AT).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + DESTINATION_AT, &address).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + ipv6::LENGTH, &error).ok_or(Reason::NoHeadroom)?;
    packet.write_far(at + ipv6::LENGTH + 2, &error_sum).ok_or(Reason::NoHeadroom)?;
    packet.truncate(at + HEADERS_V6 + quoted).ok_or(Reason::NoHeadroom)
}

/// How much of a packet is quoted.
#[inline(always)]
const fn longest(ip_length: usize, room: usize) -> usize {
    let length = if ip_length < room { ip_length } else { room };
    length - length % UNIT
}

/// Sum of `length` bytes from offset `at`, a multiple of [`UNIT`].
#[inline(always)]
fn sum<P: Packet>(packet: &P, at: usize, length: usize) -> Option<u32> {
    let mut total = 0;
    for i in 0..LONGEST_V6 / UNIT {
        if i * UNIT >= length {
            break;
        }
        total += checksum::sum(&packet.read_far::<UNIT>(at + i * UNIT)?);
    }
    Some(total)
}

/// Makes room for the answer's headers behind the Ethernet header and the tags, and turns the frame round.
#[inline(always)]
fn grow<P: Packet>(packet: &mut P, by: usize) -> Option<()> {
    let h = packet.read::<{ ethernet::LENGTH }>(0)?;
    let tags = packet.read::<{ vlan::MAX_TAGS * vlan::TAG_LENGTH }>(ethernet::LENGTH)?;
    packet.push_front(by, &ethernet::answer(&h), &[])?;
    // Without tags, these are bytes of the IP header, which is overwritten next.
    packet.write(ethernet::LENGTH, &tags)
}

/// Whether an IPv4 source is that of one host (RFC 1122, section 3.2.2).
#[inline(always)]
const fn is_one_host_v4(source: u32) -> bool {
    let [first, ..] = source.to_ne_bytes();
    first != 0 && first != 127 && first < 224
}

/// Whether an IPv6 source, of which these are the first 12 bytes, is that of one host (RFC 4443, section 2.4 (e.6)): no multicast
/// address, and neither `::` nor `::1`.
#[inline(always)]
const fn is_one_host_v6(source: &[u8; 12]) -> bool {
    source[0] != 0xff && word(source, 0) | word(source, 4) | word(source, 8) != 0
}
