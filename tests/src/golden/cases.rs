//! The golden packets.

mod flows;
mod places;
mod protect;
mod quic;
mod unusual;

use super::{Case, Change, EGRESS, Expected, MTU, NEXT_HOP, packets::*};
use lb_common::abi::{admission::Admission, reason::Reason};
use std::net::{Ipv4Addr, Ipv6Addr};

mod forward;
mod relay;

const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);
const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 7);
const VIP_4IN4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const VIP_4IN6: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
const VIP_OPEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 12);
const VIP_6IN4: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const VIP_6IN6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);
const TUNNEL: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 1);
const TUNNEL6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xff, 0, 0, 0, 0, 0, 1);
const BACKEND: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 11);
const BACKEND6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x11);

const V4: u16 = 0x0800;
const V6: u16 = 0x86dd;

fn case(name: &'static str, input: Vec<u8>, expected: Expected) -> Case {
    Case { name, changes: Vec::new(), before: Vec::new(), input, expected }
}

fn changed(name: &'static str, changes: &[Change], input: Vec<u8>, expected: Expected) -> Case {
    Case { name, changes: changes.to_vec(), before: Vec::new(), input, expected }
}

/// A frame that arrives behind others.
fn behind(name: &'static str, before: &[Vec<u8>], input: Vec<u8>, expected: Expected) -> Case {
    Case { name, changes: Vec::new(), before: before.to_vec(), input, expected }
}

fn out(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [NEXT_HOP, EGRESS].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// An IP packet inside IPv4, as Weir must send it.
fn in4(protocol: u8, tos: u8, inner: &[u8]) -> Vec<u8> {
    in4_to(BACKEND, protocol, tos, inner)
}

fn in4_to(backend: Ipv4Addr, protocol: u8, tos: u8, inner: &[u8]) -> Vec<u8> {
    let header = Ipv4 { tos, id: 0, fragment: 0x4000, ttl: 64, options: Vec::new() };
    out(V4, &header.packet(TUNNEL, backend, protocol, inner))
}

/// An IP packet inside IPv6, but for the flow label, which [`with_label_of`] sets.
fn in6(next_header: u8, class: u8, inner: &[u8]) -> Vec<u8> {
    let mut outer = ipv6(TUNNEL6, BACKEND6, next_header, 64, inner);
    outer[0] = 0x60 | class >> 4;
    outer[1] = class << 4;
    out(V6, &outer)
}

/// Copies what depends on the hash from what came out, the flow label and the low bits of GUE's source port. All else stays
/// as expected.
#[must_use]
pub fn with_label_of(mut expected: Vec<u8>, got: &[u8]) -> Vec<u8> {
    if let Some(at) = forward::entropy_port(&expected)
        && got.len() == expected.len()
        && got[at] & 0xc0 == 0xc0
    {
        expected[at..at + 2].copy_from_slice(&got[at..at + 2]);
    }
    let at = if expected.get(12..14) == Some(&[0x81, 0x00]) { 18 } else { 14 };
    if expected.get(at - 2..at) == Some(&[0x86, 0xdd]) && got.len() == expected.len() {
        expected[at + 1] = expected[at + 1] & 0xf0 | got[at + 1] & 0x0f;
        expected[at + 2..at + 4].copy_from_slice(&got[at + 2..at + 4]);
    }
    expected
}

fn answered(mut frame: Vec<u8>) -> Vec<u8> {
    let (destination, source) = ([frame[0..6].to_vec()].concat(), frame[6..12].to_vec());
    frame[0..6].copy_from_slice(&source);
    frame[6..12].copy_from_slice(&destination);
    frame
}

/// All golden packets.
#[must_use]
pub fn all() -> Vec<Case> {
    [
        forwarded(),
        passed(),
        echoes(),
        refused(),
        steered(),
        forward::all(),
        protect::cases(),
        flows::all(),
        unusual::all(),
        places::all(),
        quic::all(),
        relay::all(),
    ]
    .concat()
}

fn forwarded() -> Vec<Case> {
    let syn = tcp(40000, 80, SYN, &[]);
    let data = tcp(40000, 80, ACK, b"GET / HTTP/1.1\r\n\r\n");
    let inner44 = ipv4(CLIENT, VIP_4IN4, 6, &syn);
    let inner46 = ipv4(CLIENT, VIP_4IN6, 6, &data);
    let inner64 = ipv6(CLIENT6, VIP_6IN4, 6, 60, &data);
    let inner66 = ipv6(CLIENT6, VIP_6IN6, 6, 60, &syn);
    let datagram = ipv4(CLIENT, VIP_4IN4, 17, &udp(5353, 53, b"query"));
    let datagram6 = ipv6(CLIENT6, VIP_6IN6, 17, 60, &udp(5353, 53, b"query"));
    let marked = Ipv4 { tos: 0xb9, ..Ipv4::default() }.packet(CLIENT, VIP_4IN4, 6, &data);
    let mut marked6 = ipv6(CLIENT6, VIP_6IN6, 6, 60, &data);
    marked6[0] = 0x6b;
    marked6[1] = 0x9a;
    let options = Ipv4 { options: vec![1, 1, 1, 0], ..Ipv4::default() }.packet(CLIENT, VIP_4IN4, 6, &data);
    let most =
        Ipv4 { options: vec![1; 40], ..Ipv4::default() }.packet(CLIENT, VIP_4IN4, 17, &udp(1, 53, b"x"));
    let mut padded = ethernet(V4, &datagram);
    let mut padded_out = in4(4, 0, &datagram);
    padded.extend([0; 20]);
    padded_out.extend([0; 20]);
    let biggest = ipv4(CLIENT, VIP_4IN4, 17, &udp(9, 53, &vec![7; usize::from(MTU) - 20 - 28]));
    vec![
        case("TCP over IPv4 to an IPv4 backend", ethernet(V4, &inner44), Expected::Tx(in4(4, 0, &inner44))),
        case("TCP over IPv4 to an IPv6 backend", ethernet(V4, &inner46), Expected::Tx(in6(4, 0, &inner46))),
        case("TCP over IPv6 to an IPv4 backend", ethernet(V6, &inner64), Expected::Tx(in4(41, 0, &inner64))),
        case("TCP over IPv6 to an IPv6 backend", ethernet(V6, &inner66), Expected::Tx(in6(41, 0, &inner66))),
        case("UDP over IPv4", ethernet(V4, &datagram), Expected::Tx(in4(4, 0, &datagram))),
        case("UDP over IPv6", ethernet(V6, &datagram6), Expected::Tx(in6(41, 0, &datagram6))),
        case("DSCP and ECN are copied, IPv4", ethernet(V4, &marked), Expected::Tx(in4(4, 0xb9, &marked))),
        case("DSCP and ECN are copied, IPv6", ethernet(V6, &marked6), Expected::Tx(in6(41, 0xb9, &marked6))),
        case("IPv4 options are carried along", ethernet(V4, &options), Expected::Tx(in4(4, 0, &options))),
        case("the longest IPv4 header", ethernet(V4, &most), Expected::Tx(in4(4, 0, &most))),
        case("Ethernet padding does not count", padded, Expected::Tx(padded_out)),
        case("exactly the MTU once encapsulated", ethernet(V4, &biggest), Expected::Tx(in4(4, 0, &biggest))),
        changed(
            "a backend behind another interface",
            &[Change::Egress("v4", 7)],
            ethernet(V4, &inner44),
            Expected::Redirect(in4(4, 0, &inner44)),
        ),
    ]
}

fn passed() -> Vec<Case> {
    let pass = Expected::Pass;
    let segment = tcp(40000, 80, SYN, &[]);
    vec![
        case("ARP", ethernet(0x0806, &[0; 28]), pass(Reason::PassNotIp)),
        case("a bare Ethernet header", ethernet(V4, &[]), pass(Reason::PassNotIp)),
        case("an IPv4 header cut short", ethernet(V4, &[0x45; 19]), pass(Reason::PassNotIp)),
        case("an IPv6 header cut short", ethernet(V6, &[0x60; 39]), pass(Reason::PassNotIp)),
        case("another address", ethernet(V4, &ipv4(CLIENT, STRANGER, 6, &segment)), pass(Reason::PassNotVip)),
        case(
            "another port of a VIP",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 81, SYN, &[]))),
            pass(Reason::PassNotVip),
        ),
        case(
            "another protocol at a service's port",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 17, &udp(40000, 80, b"x"))),
            pass(Reason::PassNotVip),
        ),
        case("GRE to a VIP", ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 47, &[0; 8])), pass(Reason::PassNotVip)),
        case(
            "an echo request to another address",
            ethernet(V4, &ipv4(CLIENT, STRANGER, 1, &icmp(8, 0, b"idsq"))),
            pass(Reason::PassNotVip),
        ),
        case(
            "a fragment to another address",
            ethernet(V4, &Ipv4 { fragment: 0x2000, ..Ipv4::default() }.packet(CLIENT, STRANGER, 6, &segment)),
            pass(Reason::PassNotVip),
        ),
    ]
}

fn echoes() -> Vec<Case> {
    let reply = |payload: &[u8]| {
        let header = Ipv4 { ttl: 64, ..Ipv4::default() };
        answered(ethernet(V4, &header.packet(VIP_4IN4, CLIENT, 1, &icmp(0, 0, payload))))
    };
    let with_options = Ipv4 { options: vec![1; 8], ..Ipv4::default() };
    let answer_with_options = Ipv4 { ttl: 64, ..with_options.clone() };
    let body6 = [1, 2, 3, 4, 5, 6, 7];
    vec![
        case(
            "ping, IPv4",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &icmp(8, 0, b"idsqpayload"))),
            Expected::Answer(reply(b"idsqpayload")),
        ),
        case(
            "ping without payload, IPv4",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &icmp(8, 0, &[0, 0, 0, 0]))),
            Expected::Answer(reply(&[0, 0, 0, 0])),
        ),
        case(
            "ping with options, IPv4",
            ethernet(V4, &with_options.packet(CLIENT, VIP_4IN4, 1, &icmp(8, 0, b"idsq!"))),
            Expected::Answer(answered(ethernet(
                V4,
                &answer_with_options.packet(VIP_4IN4, CLIENT, 1, &icmp(0, 0, b"idsq!")),
            ))),
        ),
        case(
            "ping, IPv6",
            ethernet(V6, &ipv6(CLIENT6, VIP_6IN6, 58, 3, &icmp6(CLIENT6, VIP_6IN6, 128, 0, &body6))),
            Expected::Answer(answered(ethernet(
                V6,
                &ipv6(VIP_6IN6, CLIENT6, 58, 64, &icmp6(VIP_6IN6, CLIENT6, 129, 0, &body6)),
            ))),
        ),
    ]
}

fn refused() -> Vec<Case> {
    let drop = Expected::Drop;
    let segment = tcp(40000, 80, SYN, &[]);
    let whole = ipv4(CLIENT, VIP_4IN4, 6, &segment);
    let mut too_long = whole.clone();
    too_long[2..4].copy_from_slice(&2000_u16.to_be_bytes());
    let mut short_header = whole.clone();
    short_header[0] = 0x44;
    let mut version = whole.clone();
    version[0] = 0x55;
    let mut longer6 = ipv6(CLIENT6, VIP_6IN6, 6, 60, &segment);
    longer6[4..6].copy_from_slice(&1000_u16.to_be_bytes());
    let may_be_cut = Ipv4 { fragment: 0, ..Ipv4::default() };
    let big = may_be_cut.packet(CLIENT, VIP_4IN4, 17, &udp(9, 53, &vec![7; usize::from(MTU) - 20 - 28 + 1]));
    vec![
        case(
            "an ICMP message cut short",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &[8, 0, 0])),
            drop(Reason::Malformed),
        ),
        case(
            "a TCP header cut short",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 6, &segment[..19])),
            drop(Reason::Malformed),
        ),
        case(
            "a UDP header cut short",
            ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 17, &[0; 7])),
            drop(Reason::Malformed),
        ),
        case("a total length beyond the frame", ethernet(V4, &too_long), drop(Reason::Malformed)),
        case("a header length below 20", ethernet(V4, &short_header), drop(Reason::Malformed)),
        case("a wrong version", ethernet(V4, &version), drop(Reason::Malformed)),
        case("a payload length beyond the frame, IPv6", ethernet(V6, &longer6), drop(Reason::Malformed)),
        case("one byte more than the MTU once encapsulated", ethernet(V4, &big), drop(Reason::TooBig)),
        changed("no next hop", &[Change::Egress("v4", 0)], ethernet(V4, &whole), drop(Reason::NoNextHop)),
    ]
}

fn steered() -> Vec<Case> {
    let segment = tcp(40000, 80, SYN, &[]);
    let established = tcp(40000, 80, ACK, &[]);
    let inner = ipv4(CLIENT, VIP_4IN4, 6, &segment);
    let running = ipv4(CLIENT, VIP_4IN4, 6, &established);
    let open = ipv4(CLIENT, VIP_OPEN, 6, &segment);
    let draining = Admission::new(0, 255);
    vec![
        changed(
            "new flow, its only backend drained",
            &[Change::Backend("v4", draining)],
            ethernet(V4, &inner),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "established flow, its backend drained",
            &[Change::Backend("v4", draining)],
            ethernet(V4, &running),
            Expected::Tx(in4(4, 0, &running)),
        ),
        changed(
            "established flow, its rack down",
            &[Change::Domain("west/w1/r1", Admission::CLOSED)],
            ethernet(V4, &running),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "established flow, its zone down",
            &[Change::Domain("west/w1", Admission::CLOSED)],
            ethernet(V4, &running),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "established flow, its region down",
            &[Change::Domain("west", Admission::CLOSED)],
            ethernet(V4, &running),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "a neighbouring rack down changes nothing",
            &[Change::Domain("west/w1/r2", Admission::CLOSED)],
            ethernet(V4, &inner),
            Expected::Tx(in4(4, 0, &inner)),
        ),
        changed(
            "everything down by itself, fail-open",
            &[Change::Domain("west", Admission::CLOSED)],
            ethernet(V4, &open),
            Expected::Tx(in4(4, 0, &open)),
        ),
        changed(
            "failed by an operator, fail-open does not override it",
            &[Change::Domain("west", Admission::CLOSED.held())],
            ethernet(V4, &open),
            Expected::Drop(Reason::AllDown),
        ),
    ]
}
