//! Forwarding other than IP in IP, VLAN tags on the way out, and neighbours.

use super::super::OWN;
use super::unusual::{too_big4_of, too_big6_of};
use super::*;
use lb_common::abi::backend::BACKEND_ON_LINK;

const VIP_GUE4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 50);
const VIP_GUE4_IN6: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 51);
const VIP_GUE6_IN4: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x50);
const VIP_GUE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x51);
const VIP_L2: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 52);
const VIP_L2_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x52);

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
    [gue(), l2(), tagged(), neighbours()].concat()
}

/// A TCP packet of so many bytes.
fn of4(vip: Ipv4Addr, length: usize) -> Vec<u8> {
    ipv4(CLIENT, vip, 6, &tcp(40000, 80, ACK, &vec![7; length - 40]))
}

/// A TCP packet of so many bytes, IPv6.
fn of6(vip: Ipv6Addr, length: usize) -> Vec<u8> {
    ipv6(CLIENT6, vip, 6, 60, &tcp(40000, 80, ACK, &vec![7; length - 60]))
}

fn too_big4(vip: Ipv4Addr, packet: &[u8], mtu: u16) -> Expected {
    Expected::AnswerFor(Reason::TooBigAnswered, too_big4_of(vip, packet, mtu))
}

fn too_big6(vip: Ipv6Addr, packet: &[u8], mtu: u16) -> Expected {
    Expected::AnswerFor(Reason::TooBigAnswered, too_big6_of(vip, packet, mtu))
}

fn gue() -> Vec<Case> {
    let syn = tcp(40000, 80, SYN, &[]);
    let inner44 = ipv4(CLIENT, VIP_GUE4, 6, &syn);
    let inner46 = ipv4(CLIENT, VIP_GUE4_IN6, 6, &syn);
    let inner64 = ipv6(CLIENT6, VIP_GUE6_IN4, 6, 60, &syn);
    let inner66 = ipv6(CLIENT6, VIP_GUE6, 6, 60, &syn);
    let marked = Ipv4 { tos: 0xb9, ..Ipv4::default() }.packet(CLIENT, VIP_GUE4, 6, &syn);
    let (filled, filled6) = (|length| of4(VIP_GUE4, length), |length| of6(VIP_GUE6, length));
    let cut = |fragment| Ipv4 { id: 9, fragment, ..Ipv4::default() };
    let first = cut(0x2000).packet(CLIENT, VIP_GUE4, 6, &tcp(40000, 80, ACK, &[7; 4]));
    let last = cut(3).packet(CLIENT, VIP_GUE4, 6, &[7; 8]);
    let mtu = usize::from(MTU);
    vec![
        case("GUE, IPv4 in IPv4", ethernet(V4, &inner44), Expected::Tx(gue_in4(6080, 0, &inner44))),
        case(
            "GUE, IPv4 in IPv6, other port",
            ethernet(V4, &inner46),
            Expected::Tx(gue_in6(5555, 0, &inner46)),
        ),
        case("GUE, IPv6 in IPv4", ethernet(V6, &inner64), Expected::Tx(gue_in4(6080, 0, &inner64))),
        case("GUE, IPv6 in IPv6", ethernet(V6, &inner66), Expected::Tx(gue_in6(6080, 0, &inner66))),
        case("GUE copies DSCP and ECN", ethernet(V4, &marked), Expected::Tx(gue_in4(6080, 0xb9, &marked))),
        case(
            "GUE, exactly the MTU",
            ethernet(V4, &filled(mtu - 28)),
            Expected::Tx(gue_in4(6080, 0, &filled(mtu - 28))),
        ),
        case(
            "GUE, one byte too much",
            ethernet(V4, &filled(mtu - 27)),
            too_big4(VIP_GUE4, &filled(mtu - 27), MTU - 28),
        ),
        case(
            "GUE in IPv6, exactly the MTU",
            ethernet(V6, &filled6(mtu - 48)),
            Expected::Tx(gue_in6(6080, 0, &filled6(mtu - 48))),
        ),
        case(
            "GUE in IPv6, one byte too much",
            ethernet(V6, &filled6(mtu - 47)),
            too_big6(VIP_GUE6, &filled6(mtu - 47), MTU - 48),
        ),
        case(
            "GUE in IPv6, IPv4, one byte too much",
            ethernet(V4, &of4(VIP_GUE4_IN6, mtu - 47)),
            too_big4(VIP_GUE4_IN6, &of4(VIP_GUE4_IN6, mtu - 47), MTU - 48),
        ),
        case(
            "GUE in IPv4, IPv6, one byte too much",
            ethernet(V6, &of6(VIP_GUE6_IN4, mtu - 27)),
            too_big6(VIP_GUE6_IN4, &of6(VIP_GUE6_IN4, mtu - 27), MTU - 28),
        ),
        behind(
            "GUE, a later fragment",
            &[ethernet(V4, &first)],
            ethernet(V4, &last),
            Expected::Tx(gue_in4(6080, 0, &last)),
        ),
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
    let mtu = usize::from(MTU);
    let biggest = of4(VIP_L2, mtu);
    vec![
        changed(
            "L2, one byte too much",
            &[on_link],
            ethernet(V4, &of4(VIP_L2, mtu + 1)),
            too_big4(VIP_L2, &of4(VIP_L2, mtu + 1), MTU),
        ),
        changed(
            "L2, one byte too much, IPv6",
            &[on_link],
            ethernet(V6, &of6(VIP_L2_V6, mtu + 1)),
            too_big6(VIP_L2_V6, &of6(VIP_L2_V6, mtu + 1), MTU),
        ),
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

/// Who asks: the Ethernet source of [`ethernet`].
const ASKER: [u8; 6] = [2, 0, 0, 0, 0, 2];
const BROADCAST: [u8; 6] = [0xff; 6];
const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 200);
const NEIGHBOUR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x200);
const SOLICITED_L2: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 0x52);
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const NOWHERE: Ipv6Addr = Ipv6Addr::UNSPECIFIED;

fn frame(to: [u8; 6], from: [u8; 6], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from[..], &ethertype.to_be_bytes()[..], payload].concat()
}

/// An ARP message about IPv4 on Ethernet: operation, sender, target.
fn arp(operation: u8, sender: ([u8; 6], Ipv4Addr), target: ([u8; 6], Ipv4Addr)) -> Vec<u8> {
    let mut message = vec![0, 1, 8, 0, 6, 4, 0, operation];
    for (mac, address) in [sender, target] {
        message.extend(mac);
        message.extend(address.octets());
    }
    message
}

fn arp_request(sender: Ipv4Addr, target: Ipv4Addr) -> Vec<u8> {
    frame(BROADCAST, ASKER, 0x0806, &arp(1, (ASKER, sender), ([0; 6], target)))
}

/// A neighbour solicitation for `target` with options as given.
fn solicitation(from: Ipv6Addr, to: Ipv6Addr, hops: u8, target: Ipv6Addr, options: &[u8]) -> Vec<u8> {
    let body = [&[0; 4][..], &target.octets()[..], options].concat();
    let mac = if to.is_multicast() { [0x33, 0x33, 0xff, 0, 0, 0x52] } else { OWN };
    frame(mac, ASKER, V6, &ipv6(from, to, 58, hops, &icmp6(from, to, 135, 0, &body)))
}

fn advertisement(mac: [u8; 6], to: Ipv6Addr, flags: u8) -> Vec<u8> {
    let option = [&[2, 1][..], &OWN[..]].concat();
    let body = [&[flags, 0, 0, 0][..], &VIP_L2_V6.octets()[..], &option[..]].concat();
    frame(mac, OWN, V6, &ipv6(VIP_L2_V6, to, 58, 255, &icmp6(VIP_L2_V6, to, 136, 0, &body)))
}

fn neighbours() -> Vec<Case> {
    [arp_cases(), solicitations()].concat()
}

fn arp_cases() -> Vec<Case> {
    let reply = |to: Ipv4Addr| frame(ASKER, OWN, 0x0806, &arp(2, (OWN, VIP_L2), (ASKER, to)));
    let directly = frame(OWN, ASKER, 0x0806, &arp(1, (ASKER, NEIGHBOUR), (OWN, VIP_L2)));
    let stranger = frame([2, 9, 9, 9, 9, 9], ASKER, 0x0806, &arp(1, (ASKER, NEIGHBOUR), ([0; 6], VIP_L2)));
    let not_ip = || Expected::Pass(Reason::PassNotIp);
    let mut padded = arp_request(NEIGHBOUR, VIP_L2);
    padded.extend([0; 18]);
    let mut padded_reply = reply(NEIGHBOUR);
    padded_reply.extend([0; 18]);
    let tagged = with_tag(0x8100, 100, arp_request(NEIGHBOUR, VIP_L2));
    let twice = with_tag(0x88a8, 7, tagged.clone());
    let tagged_reply = with_tag(0x8100, 100, reply(NEIGHBOUR));
    let mut group = arp_request(NEIGHBOUR, VIP_L2);
    group[22] = 0x33;
    let ping = ethernet(V4, &ipv4(CLIENT, VIP_L2, 1, &icmp(8, 0, b"idsq")));
    vec![
        case("ARP request", arp_request(NEIGHBOUR, VIP_L2), Expected::Neighbour(reply(NEIGHBOUR))),
        case("ARP request, padded", padded, Expected::Neighbour(padded_reply)),
        case("ARP request to us alone", directly, Expected::Neighbour(reply(NEIGHBOUR))),
        case(
            "ARP probe",
            arp_request(Ipv4Addr::UNSPECIFIED, VIP_L2),
            Expected::Neighbour(reply(Ipv4Addr::UNSPECIFIED)),
        ),
        case("ARP request in a VLAN", tagged, Expected::Neighbour(tagged_reply.clone())),
        case("ARP request in two VLANs", twice, Expected::Neighbour(with_tag(0x88a8, 7, tagged_reply))),
        case("ARP announcement of the VIP", arp_request(VIP_L2, VIP_L2), not_ip()),
        case("ARP request for a VIP that is routed", arp_request(NEIGHBOUR, VIP_4IN4), not_ip()),
        case("ARP request for a stranger", arp_request(NEIGHBOUR, STRANGER), not_ip()),
        case("ARP request to somebody else's address", stranger, not_ip()),
        case("ARP request from a group", group, not_ip()),
        changed(
            "ARP request beyond the limit",
            &[Change::Answers(0)],
            arp_request(NEIGHBOUR, VIP_L2),
            Expected::Drop(Reason::AnswerLimited),
        ),
        changed(
            "ARP request for a stranger beyond the limit",
            &[Change::Answers(0)],
            arp_request(NEIGHBOUR, STRANGER),
            not_ip(),
        ),
        Case {
            name: "ARP request behind more pings than are answered",
            changes: vec![Change::Answers(1)],
            before: vec![ping.clone(), ping],
            input: arp_request(NEIGHBOUR, VIP_L2),
            expected: Expected::Neighbour(reply(NEIGHBOUR)),
        },
        case("ARP reply", frame(OWN, ASKER, 0x0806, &arp(2, (ASKER, NEIGHBOUR), (OWN, VIP_L2))), not_ip()),
    ]
}

fn solicitations() -> Vec<Case> {
    let own_mac = [&[1, 1][..], &ASKER[..]].concat();
    let other_mac = [1, 1, 2, 0, 0, 0, 0, 0x77];
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let ask = |to, options: &[u8]| solicitation(NEIGHBOUR6, to, 255, VIP_L2_V6, options);
    let answer = |mac| Expected::Neighbour(advertisement(mac, NEIGHBOUR6, 0x60));
    let to_all = || Expected::Neighbour(advertisement([0x33, 0x33, 0, 0, 0, 1], ALL_NODES, 0x20));
    let mut spoiled = ask(SOLICITED_L2, &own_mac);
    spoiled[60] ^= 1;
    let not_vip = || Expected::Pass(Reason::PassNotVip);
    vec![
        case("solicitation to the group", ask(SOLICITED_L2, &own_mac), answer(ASKER)),
        case("solicitation to the VIP", ask(VIP_L2_V6, &[]), answer(ASKER)),
        case("solicitation for another asker", ask(SOLICITED_L2, &other_mac), answer([2, 0, 0, 0, 0, 0x77])),
        case("solicitation with a nonce", ask(SOLICITED_L2, &[&nonce[..], &own_mac].concat()), answer(ASKER)),
        case(
            "solicitation in a VLAN",
            with_tag(0x8100, 100, ask(SOLICITED_L2, &own_mac)),
            Expected::Neighbour(with_tag(0x8100, 100, advertisement(ASKER, NEIGHBOUR6, 0x60))),
        ),
        case(
            "duplicate address detection",
            solicitation(NOWHERE, SOLICITED_L2, 255, VIP_L2_V6, &[]),
            to_all(),
        ),
        case(
            "duplicate address detection with a nonce",
            solicitation(NOWHERE, SOLICITED_L2, 255, VIP_L2_V6, &nonce),
            to_all(),
        ),
        case(
            "duplicate address detection with an address",
            solicitation(NOWHERE, SOLICITED_L2, 255, VIP_L2_V6, &own_mac),
            not_vip(),
        ),
        changed(
            "solicitation beyond the limit",
            &[Change::Answers(0)],
            ask(SOLICITED_L2, &own_mac),
            Expected::Drop(Reason::AnswerLimited),
        ),
        case("solicitation with a wrong checksum", spoiled, not_vip()),
        case(
            "solicitation from beyond a router",
            solicitation(NEIGHBOUR6, SOLICITED_L2, 254, VIP_L2_V6, &own_mac),
            not_vip(),
        ),
        case(
            "solicitation for a stranger in the same group",
            solicitation(NEIGHBOUR6, SOLICITED_L2, 255, NEIGHBOUR6, &own_mac),
            not_vip(),
        ),
    ]
}
