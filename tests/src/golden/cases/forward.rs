//! Forwarding other than IP in IP, VLAN tags on the way out, neighbours, and QUIC.

use super::*;
use lb_common::abi::backend::BACKEND_ON_LINK;

const VIP_GUE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 30);
const VIP_GUE4_IN6: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 31);
const VIP_GUE6_IN4: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x30);
const VIP_GUE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x31);
const VIP_L2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 32);
const VIP_L2_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x32);

/// A number whose upper two bits say that a port is of GUE; the rest is entropy.
const ENTROPY: u16 = 0xc000;

/// Offset of GUE's source port in an expected frame, where there is one.
pub(super) fn entropy_port(frame: &[u8]) -> Option<usize> {
    let at = if frame.get(12..14)? == [0x81, 0x00] { 18 } else { 14 };
    let (protocol, port) = match frame.get(at)? >> 4 {
        4 => (frame.get(at + 9)?, at + 20),
        6 => (frame.get(at + 6)?, at + 40),
        _ => return None,
    };
    (*protocol == 17 && frame.get(port..port + 2)? == ENTROPY.to_be_bytes()).then_some(port)
}

fn gue_datagram(port: u16, inner: &[u8]) -> Vec<u8> {
    // Variant 1: the inner packet at once. No checksum.
    udp(ENTROPY, port, inner)
}

fn gue_in4(port: u16, tos: u8, inner: &[u8]) -> Vec<u8> {
    in4(17, tos, &gue_datagram(port, inner))
}

fn gue_in6(port: u16, class: u8, inner: &[u8]) -> Vec<u8> {
    in6(17, class, &gue_datagram(port, inner))
}

/// All golden packets of this file.
pub(super) fn all() -> Vec<Case> {
    [gue(), l2(), tagged()].concat()
}

fn gue() -> Vec<Case> {
    let syn = tcp(40000, 80, SYN, &[]);
    let inner44 = ipv4(CLIENT, VIP_GUE4, 6, &syn);
    let inner46 = ipv4(CLIENT, VIP_GUE4_IN6, 6, &syn);
    let inner64 = ipv6(CLIENT6, VIP_GUE6_IN4, 6, 60, &syn);
    let inner66 = ipv6(CLIENT6, VIP_GUE6, 6, 60, &syn);
    let marked = Ipv4 { tos: 0xb9, ..Ipv4::default() }.packet(CLIENT, VIP_GUE4, 6, &syn);
    let filled = |length: usize| ipv4(CLIENT, VIP_GUE4, 6, &tcp(40000, 80, ACK, &vec![7; length - 40]));
    let filled6 = |length: usize| ipv6(CLIENT6, VIP_GUE6, 6, 60, &tcp(40000, 80, ACK, &vec![7; length - 60]));
    let mtu = usize::from(MTU);
    vec![
        case("GUE, IPv4 in IPv4", ethernet(V4, &inner44), Expected::Tx(gue_in4(6080, 0, &inner44))),
        case("GUE, IPv4 in IPv6, other port", ethernet(V4, &inner46), Expected::Tx(gue_in6(5555, 0, &inner46))),
        case("GUE, IPv6 in IPv4", ethernet(V6, &inner64), Expected::Tx(gue_in4(6080, 0, &inner64))),
        case("GUE, IPv6 in IPv6", ethernet(V6, &inner66), Expected::Tx(gue_in6(6080, 0, &inner66))),
        case("GUE copies DSCP and ECN", ethernet(V4, &marked), Expected::Tx(gue_in4(6080, 0xb9, &marked))),
        case(
            "GUE, exactly the MTU",
            ethernet(V4, &filled(mtu - 28)),
            Expected::Tx(gue_in4(6080, 0, &filled(mtu - 28))),
        ),
        case("GUE, one byte too much", ethernet(V4, &filled(mtu - 27)), Expected::Drop(Reason::TooBig)),
        case(
            "GUE in IPv6, exactly the MTU",
            ethernet(V6, &filled6(mtu - 48)),
            Expected::Tx(gue_in6(6080, 0, &filled6(mtu - 48))),
        ),
        case("GUE in IPv6, one byte too much", ethernet(V6, &filled6(mtu - 47)), Expected::Drop(Reason::TooBig)),
        changed(
            "GUE by another interface",
            &[Change::Egress("v4", 7)],
            ethernet(V4, &inner44),
            Expected::Redirect(gue_in4(6080, 0, &inner44)),
        ),
        changed(
            "GUE without a next hop",
            &[Change::Egress("v4", 0)],
            ethernet(V4, &inner44),
            Expected::Drop(Reason::NoNextHop),
        ),
    ]
}

fn l2() -> Vec<Case> {
    let syn = tcp(40000, 80, SYN, &[]);
    let packet = ipv4(CLIENT, VIP_L2, 6, &syn);
    let packet6 = ipv6(CLIENT6, VIP_L2_V6, 6, 60, &syn);
    let on_link = Change::Flags("v4", BACKEND_ON_LINK);
    let biggest = ipv4(CLIENT, VIP_L2, 6, &tcp(40000, 80, ACK, &vec![7; usize::from(MTU) - 40]));
    vec![
        changed("L2, IPv4", &[on_link], ethernet(V4, &packet), Expected::Tx(out(V4, &packet))),
        changed("L2, IPv6", &[on_link], ethernet(V6, &packet6), Expected::Tx(out(V6, &packet6))),
        changed("L2, exactly the MTU", &[on_link], ethernet(V4, &biggest), Expected::Tx(out(V4, &biggest))),
        changed(
            "L2 by another interface",
            &[on_link, Change::Egress("v4", 7)],
            ethernet(V4, &packet),
            Expected::Redirect(out(V4, &packet)),
        ),
        case("L2 through a router", ethernet(V4, &packet), Expected::Drop(Reason::NotOnLink)),
    ]
}

/// A frame with a VLAN tag behind its addresses.
fn with_tag(protocol: u16, tci: u16, mut frame: Vec<u8>) -> Vec<u8> {
    let tag = [protocol.to_be_bytes(), tci.to_be_bytes()].concat();
    frame.splice(12..12, tag);
    frame
}

/// Next hops behind a VLAN.
fn tagged() -> Vec<Case> {
    let syn = tcp(40000, 80, SYN, &[]);
    let ipip = ipv4(CLIENT, VIP_4IN4, 6, &syn);
    let ipip6 = ipv4(CLIENT, VIP_4IN6, 6, &syn);
    let gue = ipv4(CLIENT, VIP_GUE4, 6, &syn);
    let direct = ipv4(CLIENT, VIP_L2, 6, &syn);
    let vlan = Change::Vlan("v4", 100);
    let tag = |frame| with_tag(0x8100, 100, frame);
    vec![
        changed("IP in IP to a VLAN", &[vlan], ethernet(V4, &ipip), Expected::Tx(tag(in4(4, 0, &ipip)))),
        changed(
            "IPv4 in IPv6 to a VLAN of another interface",
            &[Change::Vlan("v6", 0x0fff), Change::Egress("v6", 7)],
            ethernet(V4, &ipip6),
            Expected::Redirect(with_tag(0x8100, 0x0fff, in6(4, 0, &ipip6))),
        ),
        changed("GUE to a VLAN", &[vlan], ethernet(V4, &gue), Expected::Tx(tag(gue_in4(6080, 0, &gue)))),
        changed(
            "L2 to a VLAN",
            &[Change::Flags("v4", BACKEND_ON_LINK), vlan],
            ethernet(V4, &direct),
            Expected::Tx(tag(out(V4, &direct))),
        ),
    ]
}
