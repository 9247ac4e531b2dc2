//! ICMP and ICMPv6 for a VIP: echo requests are answered, errors go to the backend whose packet they quote.

use super::{
    answers, classify,
    parse::{Shape, Transport, Tuple},
    ports::{Packet, Tables},
    unusual::{self, Ip, Unusual},
    verdict::Outcome,
};
use crate::{
    abi::reason::Reason,
    net::{checksum, ethernet, icmp, ipv4, ipv6, protocol, vlan, word, words_address},
};

/// Sorts out an ICMP or ICMPv6 packet.
#[inline(always)]
pub(super) fn sort_out<P: Packet, T: Tables>(packet: &mut P, tables: &T, ip: &Ip) -> Unusual {
    if !classify::is_vip(tables, &ip.destination) {
        return Unusual::Done(Outcome::pass(Reason::PassNotVip));
    }
    if ip.shape != Shape::Whole {
        return Unusual::Done(Outcome::refuse(Reason::Fragment));
    }
    let Some(h) = unusual::inside::<P, { icmp::ECHO_LENGTH }>(packet, ip) else {
        return Unusual::Done(Outcome::refuse(Reason::Malformed));
    };
    if ip.is_ipv6 {
        match (h[0], h[1]) {
            (icmp::ECHO_REQUEST_V6, 0) if ip.payload_at != ip.at + ipv6::LENGTH => {
                // An answer would have to do what the extension headers say.
                Unusual::Done(Outcome::refuse(Reason::ExtensionHeader))
            }
            (icmp::ECHO_REQUEST_V6, 0) => Unusual::Done(echo(packet, tables, ip)),
            (kind, _) if icmp::is_error_v6(kind) => error(packet, ip),
            _ => Unusual::Done(Outcome::refuse(Reason::IcmpUnsupported)),
        }
    } else {
        match (h[0], h[1]) {
            (icmp::ECHO_REQUEST_V4, 0) => Unusual::Done(echo(packet, tables, ip)),
            (kind, _) if icmp::is_error_v4(kind) => error(packet, ip),
            _ => Unusual::Done(Outcome::refuse(Reason::IcmpUnsupported)),
        }
    }
}

#[inline(always)]
fn echo<P: Packet, T: Tables>(packet: &mut P, tables: &T, ip: &Ip) -> Outcome {
    if !answers::allow(tables, answers::Budget::Senders) {
        return Outcome::refuse(Reason::AnswerLimited);
    }
    let answered = if ip.is_ipv6 { answer_v6(packet, ip) } else { answer_v4(packet, ip) };
    match answered {
        Some(()) => Outcome::answer(Reason::EchoAnswered),
        None => Outcome::refuse(Reason::Malformed),
    }
}

/// Swaps the Ethernet addresses. Tags and EtherType stay.
#[inline(always)]
pub(super) fn turn_round<P: Packet>(packet: &mut P) -> Option<()> {
    let h = packet.read::<{ vlan::TAGS_AT }>(0)?;
    packet.write(0, &[h[6], h[7], h[8], h[9], h[10], h[11], h[0], h[1], h[2], h[3], h[4], h[5]])
}

/// Turns an echo request into its reply: addresses swapped at both layers, a fresh TTL, type 0.
#[inline(always)]
fn answer_v4<P: Packet>(packet: &mut P, ip: &Ip) -> Option<()> {
    let mut h = packet.read_far::<{ ipv4::LENGTH }>(ip.at)?;
    let mut echo = packet.read_far::<{ icmp::ECHO_LENGTH }>(ip.payload_at)?;
    let sum = checksum::update([h[10], h[11]], [h[8], h[9]], [ipv4::TTL, h[9]]);
    h = [
        h[0],
        h[1],
        h[2],
        h[3],
        h[4],
        h[5],
        h[6],
        h[7],
        ipv4::TTL,
        h[9],
        sum[0],
        sum[1], // up to the checksum
        h[16],
        h[17],
        h[18],
        h[19],
        h[12],
        h[13],
        h[14],
        h[15], // addresses swapped
    ];
    let sum = checksum::update(
        [echo[2], echo[3]],
        [icmp::ECHO_REQUEST_V4, echo[1]],
        [icmp::ECHO_REPLY_V4, echo[1]],
    );
    // A message of nothing but zeroes sums up to +0, which an update cannot tell from -0 (RFC 1624, section 3). Where the
    // sum is -0 instead, both representations verify.
    let sum = if sum == [0, 0] { [0xff, 0xff] } else { sum };
    echo = [icmp::ECHO_REPLY_V4, echo[1], sum[0], sum[1], echo[4], echo[5], echo[6], echo[7]];
    turn_round(packet)?;
    packet.write_far(ip.at, &h)?;
    packet.write_far(ip.payload_at, &echo)
}

/// The same for ICMPv6, whose checksum also covers the addresses: swapping them changes nothing in it.
#[inline(always)]
fn answer_v6<P: Packet>(packet: &mut P, ip: &Ip) -> Option<()> {
    let mut echo = packet.read_far::<{ icmp::ECHO_LENGTH }>(ip.payload_at)?;
    let sum = checksum::update(
        [echo[2], echo[3]],
        [icmp::ECHO_REQUEST_V6, echo[1]],
        [icmp::ECHO_REPLY_V6, echo[1]],
    );
    echo = [icmp::ECHO_REPLY_V6, echo[1], sum[0], sum[1], echo[4], echo[5], echo[6], echo[7]];
    turn_round(packet)?;
    packet.write_far(ip.at + 7, &[ipv6::HOP_LIMIT])?;
    packet.write_far(ip.at + 8, &words_address(&ip.destination))?;
    packet.write_far(ip.at + 24, &words_address(&ip.source))?;
    packet.write_far(ip.payload_at, &echo)
}

/// An error goes where the packets of the flow go that it quotes a packet of. That packet was sent by the backend: its source is
/// the VIP, its destination the client.
#[inline(always)]
fn error<P: Packet>(packet: &P, ip: &Ip) -> Unusual {
    let at = ip.payload_at + icmp::ECHO_LENGTH;
    // What is quoted may be cut short, so that its length says nothing about where it ends.
    let quoted = if ip.is_ipv6 {
        unusual::read_ipv6(packet, at, usize::MAX)
    } else {
        unusual::read_ipv4(packet, at, usize::MAX)
    };
    let Some((quoted, Reason::Forwarded)) = quoted else {
        return Unusual::Done(Outcome::refuse(Reason::IcmpUnmatched));
    };
    let known = matches!(quoted.protocol, protocol::TCP | protocol::UDP | protocol::SCTP);
    if !known || quoted.shape == Shape::LaterFragment || quoted.source != ip.destination {
        return Unusual::Done(Outcome::refuse(Reason::IcmpUnmatched));
    }
    let ports = match packet.read_far::<PORTS_LENGTH>(quoted.payload_at) {
        Some(ports) if quoted.payload_at + PORTS_LENGTH <= ip.end => ports,
        _ => return Unusual::Done(Outcome::refuse(Reason::IcmpUnmatched)),
    };
    let tuple = Tuple {
        source: quoted.destination,
        destination: quoted.source,
        ports: word(&ports, 0).rotate_left(16),
        protocol: quoted.protocol,
        is_ipv6: ip.is_ipv6,
    };
    Unusual::Transport(Transport {
        tuple,
        // As the flow's own packets: each datagram is placed as if it were the first.
        opening: quoted.protocol == protocol::UDP,
        traffic_class: ip.traffic_class,
        ip_length: (ip.end - ip.at) as u16,
        ip_at: ip.at as u16,
        closing: false,
        payload_at: ip.payload_at as u16,
        shape: Shape::Error,
        fragment: 0,
    })
}

/// Both ports of TCP, UDP and SCTP.
const PORTS_LENGTH: usize = 4;

/// Length of the header of an ICMP or ICMPv6 error, behind which the packet is quoted.
pub(super) const ERROR_LENGTH: usize = icmp::ECHO_LENGTH;

const _: () = assert!(ethernet::LENGTH == vlan::TAGS_AT + 2);
