//! The backend side: takes off what [`encap`](super::encap) and [`gue`](super::gue) put on, and answers heartbeats.
//!
//! Untagged frames and such with one or two VLAN tags are taken alike; what is handed up or sent back has the tags that came.

use super::{
    l2,
    ports::{AgentTables, Packet},
    verdict::Verdict,
};
use crate::{
    abi::{
        agent::{AGENT_FILTER_SOURCES, AgentAddress, AgentReason, AgentRoot},
        heartbeat::{self, Heartbeat},
    },
    net::{checksum, ethernet, ipv4, ipv6, mapped_words, protocol, word, words_address},
};

/// Length of a UDP header.
const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
/// Length of a heartbeat's UDP datagram.
const HEARTBEAT_LENGTH: usize = UDP_LENGTH + size_of::<Heartbeat>();
/// Length of the header of variant 0 of generic UDP encapsulation.
const GUE_LENGTH: usize = 4;

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
        | AgentReason::OuterFragment
        | AgentReason::CongestionLost => Verdict::Drop,
    }
}

/// The outer header in a form that does not depend on its family.
struct Outer {
    source: AgentAddress,
    destination: AgentAddress,
    protocol: u8,
    /// Explicit congestion notification: the two bits of RFC 3168.
    ecn: u8,
    /// Offset of the header in the frame.
    at: usize,
    /// Offset of what follows the header in the frame.
    payload_at: usize,
    /// Length of that in bytes.
    payload_length: usize,
    is_fragment: bool,
    is_ipv6: bool,
}

/// What becomes of a frame at the end of tunnels; nothing is counted.
#[inline(always)]
pub(super) fn handle<P: Packet, T: AgentTables>(packet: &mut P, tables: &T) -> AgentReason {
    let (ethertype, at) = l2::ethertype_of(packet);
    // Every way that has no header ends here, and not in an `Option`: that would leave fields unset on ways that meet, which the
    // verifier does not take.
    let outer = match ethertype {
        [0x08, 0x00] => {
            let Some(bytes) = packet.read_far::<{ ipv4::LENGTH }>(at) else {
                return AgentReason::Passed;
            };
            let header = ipv4::Header(bytes);
            if !is_whole_v4(&header, at, packet.length()) {
                return AgentReason::Passed;
            }
            outer_v4(&header, at)
        }
        [0x86, 0xdd] => {
            let Some(bytes) = packet.read_far::<{ ipv6::LENGTH }>(at) else {
                return AgentReason::Passed;
            };
            let header = ipv6::Header(bytes);
            if header.version() != 6 || at + ipv6::LENGTH + header.payload_length() > packet.length() {
                return AgentReason::Passed;
            }
            outer_v6(&header, at)
        }
        _ => return AgentReason::Passed,
    };
    let Some(root) = tables.root() else {
        return AgentReason::Passed;
    };
    let (is_gue, is_heartbeat) = datagram(packet, &outer, root);
    let tunnelled = outer.protocol == protocol::IPV4 || outer.protocol == protocol::IPV6 || is_gue;
    if !(tunnelled || is_heartbeat) || !tables.is_local(&outer.destination) {
        return AgentReason::Passed;
    }
    if root.flags & AGENT_FILTER_SOURCES != 0 && !tables.is_allowed_source(&outer.source) {
        return AgentReason::SourceRefused;
    }
    if outer.is_fragment {
        return AgentReason::OuterFragment;
    }
    if tunnelled {
        let inner = if is_gue { gue_inner(packet, &outer) } else { ip_inner(&outer) };
        return decapsulate(packet, &outer, &inner);
    }
    match answer(packet, &outer, root.status) {
        Some(()) => AgentReason::HeartbeatAnswered,
        None => AgentReason::Passed,
    }
}

/// Whether a header is one of IPv4 whose packet lies in a frame of `length` bytes.
#[inline(always)]
const fn is_whole_v4(header: &ipv4::Header, at: usize, length: usize) -> bool {
    header.version() == 4
        && header.header_length() >= ipv4::LENGTH
        && header.total_length() >= header.header_length()
        && at + header.total_length() <= length
}

#[inline(always)]
const fn outer_v4(header: &ipv4::Header, at: usize) -> Outer {
    Outer {
        source: AgentAddress { address: words_address(&mapped_words(header.source())) },
        destination: AgentAddress { address: words_address(&mapped_words(header.destination())) },
        protocol: header.protocol(),
        ecn: header.traffic_class() & ECN,
        at,
        payload_at: at + header.header_length(),
        payload_length: header.total_length() - header.header_length(),
        is_fragment: header.is_fragment(),
        is_ipv6: false,
    }
}

#[inline(always)]
const fn outer_v6(header: &ipv6::Header, at: usize) -> Outer {
    Outer {
        source: AgentAddress { address: words_address(&header.source()) },
        destination: AgentAddress { address: words_address(&header.destination()) },
        protocol: header.next_header(),
        ecn: header.traffic_class() & ECN,
        at,
        payload_at: at + ipv6::LENGTH,
        payload_length: header.payload_length(),
        is_fragment: false,
        is_ipv6: true,
    }
}

/// What a datagram is: generic UDP encapsulation, or a heartbeat request; neither of them where it is no UDP.
#[inline(always)]
fn datagram<P: Packet>(packet: &P, outer: &Outer, root: &AgentRoot) -> (bool, bool) {
    if outer.protocol != protocol::UDP {
        return (false, false);
    }
    let Some([_, _, a, b]) = packet.read_far::<4>(outer.payload_at) else {
        return (false, false);
    };
    let is_gue = root.gue_port != [0, 0] && root.gue_port == [a, b];
    let is_heartbeat = root.heartbeat_port == [a, b]
        && outer.payload_length == HEARTBEAT_LENGTH
        && is_heartbeat(packet, outer);
    (is_gue, is_heartbeat)
}

/// What lies in a tunnelled packet: an IP packet of `version`, or of either if that is 0.
struct Inner {
    at: usize,
    length: usize,
    version: u8,
}

#[inline(always)]
fn ip_inner(outer: &Outer) -> Inner {
    let version = if outer.protocol == protocol::IPV4 { 4 } else { 6 };
    Inner { at: outer.payload_at, length: outer.payload_length, version }
}

/// The packet in a GUE datagram of variant 1, where it follows the UDP header, or of variant 0 without extensions, where four
/// bytes stand between (draft-ietf-intarea-gue, sections 3 and 4). Of length 0 for anything else.
///
/// The UDP checksum is not looked at: zero is allowed for tunnels (RFC 6935), and the inner packet has its own.
#[inline(always)]
fn gue_inner<P: Packet>(packet: &P, outer: &Outer) -> Inner {
    let nothing = Inner { at: 0, length: 0, version: 0 };
    let Some(h) = packet.read_far::<{ UDP_LENGTH + GUE_LENGTH }>(outer.payload_at) else {
        return nothing;
    };
    let length = u16::from_be_bytes([h[4], h[5]]) as usize;
    if length < UDP_LENGTH + GUE_LENGTH || length > outer.payload_length {
        return nothing;
    }
    if h[8] >> 6 == 1 {
        return Inner { at: outer.payload_at + UDP_LENGTH, length: length - UDP_LENGTH, version: 0 };
    }
    let version = match [h[8], h[9], h[10], h[11]] {
        [0, protocol::IPV4, 0, 0] => 4,
        [0, protocol::IPV6, 0, 0] => 6,
        _ => return nothing,
    };
    let before = UDP_LENGTH + GUE_LENGTH;
    Inner { at: outer.payload_at + before, length: length - before, version }
}

/// Takes off the outer headers if an inner one of the promised version follows.
#[inline(always)]
fn decapsulate<P: Packet>(packet: &mut P, outer: &Outer, inner: &Inner) -> AgentReason {
    let Some([first]) = packet.read_far::<1>(inner.at) else {
        return AgentReason::InnerMalformed;
    };
    let version = first >> 4;
    let shortest = if version == 4 { ipv4::LENGTH } else { ipv6::LENGTH };
    let promised = version == inner.version || (inner.version == 0 && (version == 4 || version == 6));
    if !promised || inner.length < shortest {
        return AgentReason::InnerMalformed;
    }
    let noted = if version == 4 {
        note_congestion_v4(packet, outer.ecn, inner.at)
    } else {
        note_congestion_v6(packet, outer.ecn, inner.at)
    };
    match noted {
        Noted::Yes => {}
        Noted::Lost => return AgentReason::CongestionLost,
        Noted::CutShort => return AgentReason::InnerMalformed,
    }
    let ethertype = if version == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    match shorten(packet, outer.at, inner.at, ethertype) {
        Some(()) => AgentReason::Decapsulated,
        None => AgentReason::DecapsulationFailed,
    }
}

/// The bits of explicit congestion notification (RFC 3168, section 5).
const ECN: u8 = 3;
/// "Not ECN-capable transport".
const NOT_ECT: u8 = 0;
/// "ECN-capable transport", second codepoint.
const ECT_1: u8 = 1;
/// "ECN-capable transport", first codepoint.
const ECT_0: u8 = 2;
/// "Congestion experienced".
const CE: u8 = 3;

/// What became of the outer header's congestion notification.
enum Noted {
    /// The inner header says what it must.
    Yes,
    /// The inner header cannot say it: the packet is to be dropped.
    Lost,
    /// There is no whole inner header.
    CutShort,
}

/// The congestion notification that a packet goes on with (RFC 6040, section 4.2, figure 4): `None` where it must be
/// dropped.
#[inline(always)]
const fn onward(outer: u8, inner: u8) -> Option<u8> {
    match (outer, inner) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT_1, ECT_0) => Some(ECT_1),
        _ => Some(inner),
    }
}

#[inline(always)]
fn note_congestion_v4<P: Packet>(packet: &mut P, outer: u8, at: usize) -> Noted {
    let Some(h) = packet.read_far::<{ ipv4::LENGTH }>(at) else {
        return Noted::CutShort;
    };
    let Some(ecn) = onward(outer, h[1] & ECN) else {
        return Noted::Lost;
    };
    let tos = h[1] & !ECN | ecn;
    if tos == h[1] {
        return Noted::Yes;
    }
    let sum = checksum::update([h[10], h[11]], [h[0], h[1]], [h[0], tos]);
    let written = packet.write_far(at + 1, &[tos]).and_then(|()| packet.write_far(at + 10, &sum));
    if written.is_some() { Noted::Yes } else { Noted::CutShort }
}

#[inline(always)]
fn note_congestion_v6<P: Packet>(packet: &mut P, outer: u8, at: usize) -> Noted {
    let Some([first, second]) = packet.read_far::<2>(at) else {
        return Noted::CutShort;
    };
    // The class's lower half is the upper one of the second byte.
    let inner = second >> 4 & ECN;
    let Some(ecn) = onward(outer, inner) else {
        return Noted::Lost;
    };
    if ecn == inner {
        return Noted::Yes;
    }
    let written = packet.write_far(at, &[first, second & !(ECN << 4) | ecn << 4]);
    if written.is_some() { Noted::Yes } else { Noted::CutShort }
}

/// Takes off everything between the Ethernet header, `from` bytes long, and offset `to`, and writes the EtherType.
#[inline(always)]
fn shorten<P: Packet>(packet: &mut P, from: usize, to: usize, ethertype: [u8; 2]) -> Option<()> {
    let [e, f] = ethertype;
    let [h @ .., _, _] = packet.read::<{ ethernet::LENGTH }>(0)?;
    if from == ethernet::LENGTH {
        let [a, b, c, d, g, i, j, k, l, m, n, o] = h;
        return packet.pop_front(to - from, &[a, b, c, d, g, i, j, k, l, m, n, o, e, f]);
    }
    let tags = l2::tags(packet)?;
    packet.resize_front(from as i32 - to as i32)?;
    l2::write_ethernet(packet, &[word(&h, 0), word(&h, 4), word(&h, 8)], ethertype, from, &tags)
}

/// Whether a datagram to the port of heartbeats, of a heartbeat's length, is a request.
#[inline(always)]
fn is_heartbeat<P: Packet>(packet: &P, outer: &Outer) -> bool {
    let Some(h) = packet.read_far::<{ UDP_LENGTH + 8 }>(outer.payload_at) else {
        return false;
    };
    [h[8], h[9], h[10], h[11]] == heartbeat::MAGIC
        && h[12] == heartbeat::VERSION
        && h[13] == heartbeat::REQUEST
}

/// Turns a heartbeat request into its reply.
#[inline(always)]
fn answer<P: Packet>(packet: &mut P, outer: &Outer, status: u8) -> Option<()> {
    let at = outer.payload_at;
    let h = packet.read_far::<{ UDP_LENGTH + 8 }>(at)?;
    // Ports only change places, which leaves the sum as it is. A checksum of 0 (IPv4 only, RFC 768) says "none".
    let mut sum = [h[6], h[7]];
    if sum != [0, 0] {
        sum = checksum::update(sum, [h[12], h[13]], [heartbeat::VERSION, heartbeat::REPLY]);
        sum = checksum::update(sum, [h[14], h[15]], [status, 0]);
        if sum == [0, 0] {
            sum = [0xff, 0xff];
        }
    }
    packet.write_far(at, &[h[2], h[3], h[0], h[1], h[4], h[5], sum[0], sum[1]])?;
    packet.write_far(at + UDP_LENGTH + 4, &[heartbeat::VERSION, heartbeat::REPLY, status, 0])?;
    if outer.is_ipv6 {
        packet.write_far(outer.at + 7, &[ipv6::HOP_LIMIT])?;
        packet.write_far(outer.at + 8, &outer.destination.address)?;
        packet.write_far(outer.at + 24, &outer.source.address)?;
    } else {
        let o = packet.read_far::<{ ipv4::LENGTH }>(outer.at)?;
        let sum = checksum::update([o[10], o[11]], [o[8], o[9]], [ipv4::TTL, o[9]]);
        packet.write_far(
            outer.at + 8,
            &[ipv4::TTL, o[9], sum[0], sum[1], o[16], o[17], o[18], o[19], o[12], o[13], o[14], o[15]],
        )?;
    }
    let frame = packet.read::<{ ethernet::LENGTH }>(0)?;
    packet.write(0, &ethernet::answer(&frame))
}
