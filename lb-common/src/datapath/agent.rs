//! The backend side: takes off what [`encap`](super::encap) put on, and answers heartbeats.

use super::{
    ports::{AgentTables, Packet},
    verdict::Verdict,
};
use crate::{
    abi::{
        agent::{AGENT_FILTER_SOURCES, AgentAddress, AgentReason},
        heartbeat::{self, Heartbeat},
    },
    net::{checksum, ethernet, ipv4, ipv6, mapped_words, protocol, words_address},
};

/// Length of a UDP header.
const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
/// Length of a heartbeat's UDP datagram.
const HEARTBEAT_LENGTH: usize = UDP_LENGTH + size_of::<Heartbeat>();

/// Everything that the agent does with one frame, the counting included.
#[inline(always)]
pub fn process<P: Packet, T: AgentTables>(packet: &mut P, tables: &T) -> Verdict {
    let length = packet.length();
    let reason = handle(packet, tables);
    tables.count(reason, length as u64);
    match reason {
        AgentReason::Passed | AgentReason::Decapsulated => Verdict::Pass,
        AgentReason::HeartbeatAnswered => Verdict::Tx,
        AgentReason::SourceRefused
        | AgentReason::InnerMalformed
        | AgentReason::DecapsulationFailed
        | AgentReason::OuterFragment => Verdict::Drop,
    }
}

/// The outer header in a form that does not depend on its family.
struct Outer {
    source: AgentAddress,
    destination: AgentAddress,
    protocol: u8,
    /// Offset of what follows the header in the frame.
    payload_at: usize,
    /// Length of that in bytes.
    payload_length: usize,
    is_fragment: bool,
    is_ipv6: bool,
}

#[inline(always)]
fn handle<P: Packet, T: AgentTables>(packet: &mut P, tables: &T) -> AgentReason {
    let Some(frame) = packet.read::<{ ethernet::LENGTH }>(0) else {
        return AgentReason::Passed;
    };
    let outer = match ethernet::ethertype(&frame) {
        [0x08, 0x00] => outer_v4(packet),
        [0x86, 0xdd] => outer_v6(packet),
        _ => None,
    };
    let (Some(outer), Some(root)) = (outer, tables.root()) else {
        return AgentReason::Passed;
    };
    let tunnelled = outer.protocol == protocol::IPV4 || outer.protocol == protocol::IPV6;
    let heartbeat = outer.protocol == protocol::UDP
        && outer.payload_length == HEARTBEAT_LENGTH
        && is_heartbeat(packet, &outer, root.heartbeat_port);
    if !(tunnelled || heartbeat) || !tables.is_local(&outer.destination) {
        return AgentReason::Passed;
    }
    if root.flags & AGENT_FILTER_SOURCES != 0 && !tables.is_allowed_source(&outer.source) {
        return AgentReason::SourceRefused;
    }
    if outer.is_fragment {
        return AgentReason::OuterFragment;
    }
    if tunnelled {
        return decapsulate(packet, &frame, &outer);
    }
    match answer(packet, &frame, &outer, root.status) {
        Some(()) => AgentReason::HeartbeatAnswered,
        None => AgentReason::Passed,
    }
}

#[inline(always)]
fn outer_v4<P: Packet>(packet: &P) -> Option<Outer> {
    let header = ipv4::Header(packet.read::<{ ipv4::LENGTH }>(ethernet::LENGTH)?);
    let header_length = header.header_length();
    if header.version() != 4
        || header_length < ipv4::LENGTH
        || header.total_length() < header_length
        || ethernet::LENGTH + header.total_length() > packet.length()
    {
        return None;
    }
    Some(Outer {
        source: AgentAddress { address: words_address(&mapped_words(header.source())) },
        destination: AgentAddress { address: words_address(&mapped_words(header.destination())) },
        protocol: header.protocol(),
        payload_at: ethernet::LENGTH + header_length,
        payload_length: header.total_length() - header_length,
        is_fragment: header.is_fragment(),
        is_ipv6: false,
    })
}

#[inline(always)]
fn outer_v6<P: Packet>(packet: &P) -> Option<Outer> {
    let header = ipv6::Header(packet.read::<{ ipv6::LENGTH }>(ethernet::LENGTH)?);
    let at = ethernet::LENGTH + ipv6::LENGTH;
    if header.version() != 6 || at + header.payload_length() > packet.length() {
        return None;
    }
    Some(Outer {
        source: AgentAddress { address: words_address(&header.source()) },
        destination: AgentAddress { address: words_address(&header.destination()) },
        protocol: header.next_header(),
        payload_at: at,
        payload_length: header.payload_length(),
        is_fragment: false,
        is_ipv6: true,
    })
}

/// Takes off the outer header if an inner one of the promised version follows.
#[inline(always)]
fn decapsulate<P: Packet>(packet: &mut P, frame: &[u8; ethernet::LENGTH], outer: &Outer) -> AgentReason {
    let is_inner_v4 = outer.protocol == protocol::IPV4;
    let shortest = if is_inner_v4 { ipv4::LENGTH } else { ipv6::LENGTH };
    let version = if is_inner_v4 { 4 } else { 6 };
    let read = packet.read_far::<1>(outer.payload_at);
    if outer.payload_length < shortest || read.is_none_or(|[first]| first >> 4 != version) {
        return AgentReason::InnerMalformed;
    }
    let mut header = *frame;
    [header[12], header[13]] = if is_inner_v4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    match packet.pop_front(outer.payload_at - ethernet::LENGTH, &header) {
        Some(()) => AgentReason::Decapsulated,
        None => AgentReason::DecapsulationFailed,
    }
}

/// Whether the UDP datagram is a heartbeat request to the agent's port.
#[inline(always)]
fn is_heartbeat<P: Packet>(packet: &P, outer: &Outer, port: [u8; 2]) -> bool {
    let Some(h) = packet.read_far::<{ UDP_LENGTH + 8 }>(outer.payload_at) else {
        return false;
    };
    [h[2], h[3]] == port
        && [h[8], h[9], h[10], h[11]] == heartbeat::MAGIC
        && h[12] == heartbeat::VERSION
        && h[13] == heartbeat::REQUEST
}

/// Turns a heartbeat request into its reply.
#[inline(always)]
fn answer<P: Packet>(
    packet: &mut P,
    frame: &[u8; ethernet::LENGTH],
    outer: &Outer,
    status: u8,
) -> Option<()> {
    let at = outer.payload_at;
    let mut h = packet.read_far::<{ UDP_LENGTH + 8 }>(at)?;
    // Ports only change places, which leaves the sum as it is. A checksum of 0 (IPv4 only, RFC 768) says "none".
    let mut sum = [h[6], h[7]];
    if sum != [0, 0] {
        sum = checksum::update(sum, [h[12], h[13]], [heartbeat::VERSION, heartbeat::REPLY]);
        sum = checksum::update(sum, [h[14], h[15]], [status, 0]);
        if sum == [0, 0] {
            sum = [0xff, 0xff];
        }
    }
    h = [
        h[2],
        h[3],
        h[0],
        h[1],
        h[4],
        h[5],
        sum[0],
        sum[1], // ports swapped
        h[8],
        h[9],
        h[10],
        h[11],
        heartbeat::VERSION,
        heartbeat::REPLY,
        status,
        0,
    ];
    packet.write_far(at, &h)?;
    if outer.is_ipv6 {
        packet.write(ethernet::LENGTH + 7, &[ipv6::HOP_LIMIT])?;
        packet.write(ethernet::LENGTH + 8, &outer.destination.address)?;
        packet.write(ethernet::LENGTH + 24, &outer.source.address)?;
    } else {
        let o = packet.read::<{ ipv4::LENGTH }>(ethernet::LENGTH)?;
        let sum = checksum::update([o[10], o[11]], [o[8], o[9]], [ipv4::TTL, o[9]]);
        packet.write(
            ethernet::LENGTH + 8,
            &[ipv4::TTL, o[9], sum[0], sum[1], o[16], o[17], o[18], o[19], o[12], o[13], o[14], o[15]],
        )?;
    }
    packet.write(0, &ethernet::answer(frame))
}
