//! Stage 1, the rest: what [`parse`](super::parse::parse) does not know at a glance. VLAN tags, IPv4 options, IPv6 extension headers,
//! SCTP, fragments, ICMP, and what is damaged.
//!
//! In the XDP program this is a function of its own: the common way pays one branch for it.

use super::{
    classify, fragment, icmp,
    parse::{self, Ports, Shape, Transport, Tuple},
    ports::{Packet, Tables},
    relay,
    steer::Origin,
    verdict::{Outcome, Verdict},
};
use crate::{
    abi::{limits::MAX_EXTENSION_HEADERS, reason::Reason},
    net::{AddressWords, ethernet, ipv4, ipv6, mapped_words, protocol, vlan, word},
};

/// What came out.
#[derive(Clone, Copy, Debug)]
pub enum Unusual {
    /// A packet of a flow, which goes on as any other one.
    Transport(Transport),
    /// Passed, dropped or answered already.
    Done(Outcome),
}

impl Unusual {
    const DONE: u64 = 1 << 32;

    /// The word for a later fragment that has no ports yet.
    pub const LATER: u64 = 1 << 33;

    /// A word for what is done, 0 or [`LATER`](Self::LATER) for a packet of a flow: what a BPF function can return.
    #[must_use]
    #[inline(always)]
    pub const fn word(&self) -> u64 {
        match self {
            Self::Transport(transport) if transport.shape as u8 == Shape::LaterFragment as u8 => Self::LATER,
            Self::Transport(_) => 0,
            Self::Done(outcome) => {
                let verdict = match outcome.verdict {
                    Verdict::Pass => 0,
                    Verdict::Tx => 1,
                    Verdict::Drop | Verdict::Redirect(_) | Verdict::Arrival => 2,
                };
                Self::DONE | verdict << 16 | outcome.reason as u64
            }
        }
    }

    /// What is done by [`word`](Self::word); `None` for a packet of a flow.
    #[must_use]
    #[inline(always)]
    pub const fn done(word: u64) -> Option<Outcome> {
        if word & Self::DONE == 0 {
            return None;
        }
        let reason = Reason::from_number(word as u32 & 0xffff);
        Some(match word >> 16 & 3 {
            0 => Outcome::pass(reason),
            1 => Outcome::answer(reason),
            _ => Outcome::refuse(reason),
        })
    }
}

/// The IP header and what stands between it and its payload.
#[derive(Clone, Copy)]
pub(super) struct Ip {
    pub(super) source: AddressWords,
    pub(super) destination: AddressWords,
    /// What follows the header, or the extension headers.
    pub(super) protocol: u8,
    pub(super) is_ipv6: bool,
    pub(super) traffic_class: u8,
    /// Offset of the header.
    pub(super) at: usize,
    /// Offset of what follows it and its extension headers.
    pub(super) payload_at: usize,
    /// Offset behind the packet.
    pub(super) end: usize,
    pub(super) shape: Shape,
    /// Identification of a fragment.
    pub(super) id: u32,
}

/// Sorts out a frame that is no ordinary one. Echo requests are answered.
#[inline(always)]
pub fn sort_out<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Unusual {
    match begin(packet, tables) {
        Unusual::Transport(transport) if transport.shape == Shape::LaterFragment => {
            fragment::follow(tables, &transport)
        }
        sorted => sorted,
    }
}

/// [`sort_out`] but for its last step: a later fragment has no ports yet, and its identification in [`Transport::fragment`].
#[inline(always)]
pub fn begin<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Unusual {
    let Some((ethertype, at)) = behind_tags(packet) else {
        return Unusual::Done(Outcome::pass(Reason::PassNotIp));
    };
    let read = match ethertype {
        [0x08, 0x00] => read_ipv4(packet, at, packet.length()),
        [0x86, 0xdd] => read_ipv6(packet, at, packet.length()),
        _ => None,
    };
    let Some((ip, problem)) = read else {
        return Unusual::Done(Outcome::pass(Reason::PassNotIp));
    };
    if problem as u32 != Reason::Forwarded as u32 {
        return refuse(tables, &ip.destination, problem);
    }
    let is_icmp = ip.protocol == if ip.is_ipv6 { protocol::ICMPV6 } else { protocol::ICMP };
    match ip.protocol {
        _ if is_icmp => icmp::sort_out(packet, tables, &ip),
        protocol::TCP | protocol::UDP | protocol::SCTP if ip.shape == Shape::LaterFragment => {
            later(tables, &ip)
        }
        protocol::TCP | protocol::UDP | protocol::SCTP => match read_ports(packet, &ip) {
            Some(ports) => Unusual::Transport(transport(&ip, &ports)),
            None => refuse(tables, &ip.destination, Reason::Malformed),
        },
        other if ip.is_ipv6 && ipv6::is_extension(other) => {
            // Behind a fragment header any later fragment looks so; only the first one has the real thing.
            if ip.shape == Shape::LaterFragment {
                later(tables, &ip)
            } else {
                refuse(tables, &ip.destination, Reason::ExtensionHeader)
            }
        }
        _ => Unusual::Done(Outcome::pass(Reason::PassNotVip)),
    }
}

/// A later fragment: passed, if it is not for a VIP.
#[inline(always)]
fn later<T: Tables>(tables: &T, ip: &Ip) -> Unusual {
    if classify::is_vip(tables, &ip.destination) {
        Unusual::Transport(transport(ip, &Ports::UNKNOWN))
    } else {
        Unusual::Done(Outcome::pass(Reason::PassNotVip))
    }
}

/// Drops a packet that is for a VIP, passes any other one.
#[inline(always)]
pub(super) fn refuse<T: Tables>(tables: &T, destination: &AddressWords, reason: Reason) -> Unusual {
    Unusual::Done(if classify::is_vip(tables, destination) {
        Outcome::refuse(reason)
    } else {
        Outcome::pass(Reason::PassNotVip)
    })
}

/// What becomes of a packet whose tuple is no service's: it is passed, unless it may have been relayed to this host, but for an
/// ICMP error, which is for a VIP all the same.
#[inline(always)]
pub(super) fn no_service<T: Tables>(tables: &T, transport: &Transport, origin: Origin) -> Outcome {
    match transport.shape {
        Shape::Error => Outcome::refuse(Reason::IcmpUnmatched),
        _ => relay::or_pass(tables, origin),
    }
}

/// The EtherType behind all VLAN tags, and the offset behind it.
#[inline(always)]
fn behind_tags<P: Packet>(packet: &P) -> Option<([u8; 2], usize)> {
    let header = packet.read::<{ ethernet::LENGTH }>(0)?;
    let mut ethertype = ethernet::ethertype(&header);
    let mut at = ethernet::LENGTH;
    if vlan::is_tag(ethertype) {
        let [_, _, a, b] = packet.read::<{ vlan::TAG_LENGTH }>(at)?;
        (ethertype, at) = ([a, b], vlan::IP_AT_ONE_TAG);
        if vlan::is_tag(ethertype) {
            let [_, _, a, b] = packet.read::<{ vlan::TAG_LENGTH }>(at)?;
            (ethertype, at) = ([a, b], vlan::IP_AT_TWO_TAGS);
        }
    }
    Some((ethertype, at))
}

/// Reads an IPv4 header at offset `at` of what ends at `limit`, with what is wrong with it ([`Reason::Forwarded`] if nothing is).
#[inline(always)]
pub(super) fn read_ipv4<P: Packet>(packet: &P, at: usize, limit: usize) -> Option<(Ip, Reason)> {
    let header = ipv4::Header(packet.read_far::<{ ipv4::LENGTH }>(at)?);
    let header_length = header.header_length();
    let ip_length = header.total_length();
    let shape = match (header.is_fragment(), header.is_beginning()) {
        (false, _) => Shape::Whole,
        (true, true) => Shape::FirstFragment,
        (true, false) => Shape::LaterFragment,
    };
    let good = header.version() == 4
        && header_length >= ipv4::LENGTH
        && ip_length >= header_length
        && at + ip_length <= limit;
    let ip = Ip {
        source: mapped_words(header.source()),
        destination: mapped_words(header.destination()),
        protocol: header.protocol(),
        is_ipv6: false,
        traffic_class: header.traffic_class(),
        at,
        payload_at: at + header_length,
        end: at + ip_length,
        shape,
        id: header.identification() as u32,
    };
    Some((ip, if good { Reason::Forwarded } else { Reason::Malformed }))
}

/// The same for IPv6, extension headers included.
#[inline(always)]
pub(super) fn read_ipv6<P: Packet>(packet: &P, at: usize, limit: usize) -> Option<(Ip, Reason)> {
    let header = ipv6::Header(packet.read_far::<{ ipv6::LENGTH }>(at)?);
    let ip_length = ipv6::LENGTH + header.payload_length();
    let mut ip = Ip {
        source: header.source(),
        destination: header.destination(),
        protocol: header.next_header(),
        is_ipv6: true,
        traffic_class: header.traffic_class(),
        at,
        payload_at: at + ipv6::LENGTH,
        end: at + ip_length,
        shape: Shape::Whole,
        id: 0,
    };
    if header.version() != 6 || ip_length > ipv6::MAX_PACKET || ip.end > limit {
        return Some((ip, Reason::Malformed));
    }
    let problem = skip_extensions(packet, &mut ip);
    Some((ip, problem))
}

/// Next headers that are stepped over, as bits.
const STEPPED_OVER: u64 = 1 << ipv6::HOP_BY_HOP | 1 << ipv6::ROUTING | 1 << ipv6::DESTINATION_OPTIONS;

/// Steps over hop-by-hop options, routing headers and destination options, [`MAX_EXTENSION_HEADERS`] at most, then over a fragment
/// header. A routing header with segments left names another node than the VIP as the packet's end. What follows the
/// fragment header must be the payload.
#[inline(always)]
fn skip_extensions<P: Packet>(packet: &P, ip: &mut Ip) -> Reason {
    // Ways that leave the loop, and one that goes on: what the verifier walks grows with the number of steps only.
    let mut segments_left = 0;
    for _ in 0..MAX_EXTENSION_HEADERS {
        if ip.protocol >= 64 || STEPPED_OVER >> ip.protocol & 1 == 0 {
            break;
        }
        let Some(h) = read_extension(packet, ip) else { return Reason::Malformed };
        let is_routing = (ip.protocol == ipv6::ROUTING) as u8;
        segments_left |= h[3] * is_routing;
        ip.payload_at += (h[1] as usize + 1) * ipv6::EXTENSION_UNIT;
        ip.protocol = h[0];
    }
    if segments_left != 0 {
        return Reason::ExtensionHeader;
    }
    if ip.protocol == ipv6::FRAGMENT {
        let Some(h) = read_extension(packet, ip) else { return Reason::Malformed };
        ip.payload_at += ipv6::EXTENSION_UNIT;
        ip.protocol = h[0];
        ip.id = word(&h, 4);
        // Offset in the upper 13 bits, "more fragments" in the lowest. Neither: an atomic fragment (RFC 6946), whole.
        let offset = u16::from_be_bytes([h[2], h[3]]) & 0xfff8;
        let more = h[3] & 1 != 0;
        ip.shape = match (offset, more) {
            (0, false) => Shape::Whole,
            (0, true) => Shape::FirstFragment,
            _ => Shape::LaterFragment,
        };
    }
    Reason::Forwarded
}

#[inline(always)]
fn read_extension<P: Packet>(packet: &P, ip: &Ip) -> Option<[u8; ipv6::EXTENSION_UNIT]> {
    if ip.payload_at + ipv6::EXTENSION_UNIT > ip.end {
        return None;
    }
    packet.read_far(ip.payload_at)
}

/// Length of an SCTP common header and the header of the first chunk (RFC 9260, section 3).
const SCTP_LENGTH: usize = 16;
const SCTP_INIT: u8 = 1;
const SCTP_ABORT: u8 = 6;
const SCTP_SHUTDOWN_COMPLETE: u8 = 14;

/// What an SCTP packet's headers say. INIT stands alone in its packet, with verification tag 0 (section 8.5.1); ABORT and
/// SHUTDOWN COMPLETE stand where the association ends.
#[inline(always)]
const fn sctp(h: &[u8; SCTP_LENGTH]) -> Ports {
    Ports {
        ports: word(h, 0),
        opening: h[12] == SCTP_INIT && word(h, 4) == 0,
        closing: matches!(h[12], SCTP_ABORT | SCTP_SHUTDOWN_COMPLETE),
    }
}

#[inline(always)]
fn read_ports<P: Packet>(packet: &P, ip: &Ip) -> Option<Ports> {
    match ip.protocol {
        protocol::TCP => inside::<P, { parse::TCP_LENGTH }>(packet, ip).map(|h| parse::tcp(&h)),
        protocol::UDP => inside::<P, { parse::UDP_LENGTH }>(packet, ip).map(|h| parse::udp(&h)),
        _ => inside::<P, SCTP_LENGTH>(packet, ip).map(|h| sctp(&h)),
    }
}

/// The first `N` bytes of an IP packet's payload.
#[inline(always)]
pub(super) fn inside<P: Packet, const N: usize>(packet: &P, ip: &Ip) -> Option<[u8; N]> {
    if ip.payload_at + N > ip.end {
        return None;
    }
    packet.read_far(ip.payload_at)
}

/// The packet of a flow that an IP header and its ports make.
#[inline(always)]
fn transport(ip: &Ip, ports: &Ports) -> Transport {
    Transport {
        tuple: Tuple {
            source: ip.source,
            destination: ip.destination,
            ports: ports.ports,
            protocol: ip.protocol,
            is_ipv6: ip.is_ipv6,
        },
        opening: ports.opening,
        traffic_class: ip.traffic_class,
        ip_length: (ip.end - ip.at) as u16,
        ip_at: ip.at as u16,
        closing: ports.closing,
        payload_at: ip.payload_at as u16,
        shape: ip.shape,
        fragment: ip.id,
    }
}
