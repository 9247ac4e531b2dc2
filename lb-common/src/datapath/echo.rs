//! Answers echo requests to a VIP, and refuses what else has no ports but is for a VIP.

use super::{
    classify,
    parse::{Portless, What},
    ports::{Packet, Tables},
    verdict::Outcome,
};
use crate::{
    abi::reason::Reason,
    net::{checksum, ethernet, icmp, ipv4, ipv6, words_address},
};

/// Answers or refuses a packet without ports if its destination is a VIP, passes it otherwise.
#[inline(always)]
pub fn answer_or_refuse<P: Packet, T: Tables>(packet: &mut P, tables: &T, portless: &Portless) -> Outcome {
    if portless.what == What::Other {
        return Outcome::pass(Reason::PassNotVip);
    }
    if !classify::is_vip(tables, portless.destination) {
        return Outcome::pass(Reason::PassNotVip);
    }
    let answered = match portless.what {
        What::EchoV4(at) => answer_v4(packet, at),
        What::EchoV6 => answer_v6(packet),
        What::Refuse(reason) => return Outcome::refuse(reason),
        What::Other => return Outcome::pass(Reason::PassNotVip),
    };
    match answered {
        Some(()) => Outcome::answer(Reason::EchoAnswered),
        None => Outcome::refuse(Reason::Malformed),
    }
}

/// Turns an echo request into its reply: addresses swapped at both layers, a fresh TTL, type 0.
#[inline(always)]
fn answer_v4<P: Packet>(packet: &mut P, at: usize) -> Option<()> {
    let frame = packet.read::<{ ethernet::LENGTH }>(0)?;
    let mut h = packet.read::<{ ipv4::LENGTH }>(ethernet::LENGTH)?;
    let mut echo = packet.read_far::<{ icmp::ECHO_LENGTH }>(at)?;
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
    packet.write(0, &ethernet::answer(&frame))?;
    packet.write(ethernet::LENGTH, &h)?;
    packet.write_far(at, &echo)
}

/// The same for ICMPv6, whose checksum also covers the addresses: swapping them changes nothing in it.
#[inline(always)]
fn answer_v6<P: Packet>(packet: &mut P) -> Option<()> {
    const AT: usize = ethernet::LENGTH + ipv6::LENGTH;
    let frame = packet.read::<{ ethernet::LENGTH }>(0)?;
    let header = ipv6::Header(packet.read::<{ ipv6::LENGTH }>(ethernet::LENGTH)?);
    let mut echo = packet.read::<{ icmp::ECHO_LENGTH }>(AT)?;
    let sum = checksum::update(
        [echo[2], echo[3]],
        [icmp::ECHO_REQUEST_V6, echo[1]],
        [icmp::ECHO_REPLY_V6, echo[1]],
    );
    echo = [icmp::ECHO_REPLY_V6, echo[1], sum[0], sum[1], echo[4], echo[5], echo[6], echo[7]];
    packet.write(0, &ethernet::answer(&frame))?;
    packet.write(ethernet::LENGTH + 7, &[ipv6::HOP_LIMIT])?;
    packet.write(ethernet::LENGTH + 8, &words_address(&header.destination()))?;
    packet.write(ethernet::LENGTH + 24, &words_address(&header.source()))?;
    packet.write(AT, &echo)
}
