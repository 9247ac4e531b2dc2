//! Relays: what leaves for another region, and what comes from one.

use super::super::OWN;
use super::unusual::too_big4_of;
use super::*;
use lb_common::abi::{
    flow::FlowWords,
    heartbeat::{DEFAULT_PORT, Heartbeat, REPLY},
    plan::{PLAN_PANIC, POOL_RELAY},
    pod::Pod as _,
    service::{SERVICE_SPILLS, SERVICE_STEERED},
};
use lb_common::datapath::flow::FlowTable;

const VIP_FAR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 70);
const VIP_FAR_OPEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 71);
const VIP_RESIDENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 72);
const VIP_RESIDENT_OPEN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 73);
const VIP_FAR6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x70);
const HERE: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
const HERE6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x100, 0, 0, 0, 0, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 254, 0, 77);
const PEER6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xfe, 0, 0, 0, 0, 0, 0x77);
const STRANGE_PEER: Ipv4Addr = Ipv4Addr::new(10, 254, 1, 77);
const NORTH: Ipv4Addr = Ipv4Addr::new(10, 101, 0, 1);
const NORTH6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x101, 0, 0, 0, 0, 0, 1);
/// A client whose plan begins with the relay.
const CLIENT_EAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
/// A client of no region.
const CLIENT_ELSEWHERE: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 7);
const GUE: u16 = 6080;

/// All golden packets of this file.
pub(super) fn all() -> Vec<Case> {
    [outward(), inward(), refused(), resident(), heartbeats()].concat()
}

fn relayed(inner: &[u8]) -> Vec<u8> {
    ethernet(V4, &ipv4(PEER, HERE, 4, inner))
}

fn relayed6(protocol: u8, inner: &[u8]) -> Vec<u8> {
    ethernet(V6, &ipv6(PEER6, HERE6, protocol, 64, inner))
}

fn to_north(inner: &[u8]) -> Expected {
    Expected::Tx(in4_to(NORTH, 4, 0, inner))
}

fn syn(client: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    ipv4(client, vip, 6, &tcp(40000, 80, SYN, &[]))
}

fn ack(client: Ipv4Addr, vip: Ipv4Addr) -> Vec<u8> {
    ipv4(client, vip, 6, &tcp(40000, 80, ACK, b"GET /"))
}

/// The local pools of all services here are down.
fn local_down() -> [Change; 1] {
    [Change::Domain("west", Admission::CLOSED)]
}

/// A client's packets, as they leave for another region.
fn outward() -> Vec<Case> {
    let (near, far) = (syn(CLIENT, VIP_FAR), syn(CLIENT_EAST, VIP_FAR));
    let inner6 = ipv6(CLIENT6, VIP_FAR6, 6, 60, &tcp(40000, 80, SYN, &[]));
    let mut gue6 = ipv6(TUNNEL6, NORTH6, 17, 64, &udp(0xc000, GUE, &inner6));
    gue6[0] = 0x60;
    vec![
        case("a relay that is last is not used", ethernet(V4, &near), Expected::Tx(in4(4, 0, &near))),
        case("a relay that is first takes clients", ethernet(V4, &far), to_north(&far)),
        changed("a relay takes what local pools cannot", &local_down(), ethernet(V4, &near), to_north(&near)),
        changed(
            "a relay by GUE over IPv6",
            &local_down(),
            ethernet(V6, &inner6),
            Expected::Tx(out(V6, &gue6)),
        ),
        changed(
            "a failed region takes its relay along",
            &[Change::Domain("west", Admission::CLOSED), Change::Domain("north", Admission::CLOSED)],
            ethernet(V4, &near),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "what is tunnelled to a relay address is passed where nothing is relayed",
            &[Change::Image(|image| image.root.features = 0)],
            relayed(&syn(CLIENT, VIP_FAR)),
            Expected::Pass(Reason::PassNotVip),
        ),
    ]
}

/// What another region relayed, and is served here.
fn inward() -> Vec<Case> {
    let (near, far) = (syn(CLIENT, VIP_FAR), syn(CLIENT_EAST, VIP_FAR));
    let data = ack(CLIENT, VIP_FAR);
    let inner6 = ipv6(CLIENT6, VIP_6IN6, 6, 60, &tcp(40000, 80, ACK, b"x"));
    let variant0 = |inner: &[u8]| [&[0, 4, 0, 0][..], inner].concat();
    let congested = Ipv4 { tos: 3, ..Ipv4::default() };
    let capable =
        Ipv4 { tos: 0xba, ..Ipv4::default() }.packet(CLIENT, VIP_FAR, 6, &tcp(40000, 80, ACK, b"x"));
    let told = Ipv4 { tos: 0xbb, ..Ipv4::default() }.packet(CLIENT, VIP_FAR, 6, &tcp(40000, 80, ACK, b"x"));
    let options = Ipv4 { options: vec![1; 8], ..Ipv4::default() };
    let mut padded = relayed(&near);
    padded.extend([0; 9]);
    let mut padded_out = in4(4, 0, &near);
    padded_out.extend([0; 9]);
    let mut tagged = [&OWN[..], &[2, 0, 0, 0, 0, 2, 0x81, 0x00, 0, 9, 0x08, 0x00]].concat();
    tagged.extend(ipv4(PEER, HERE, 4, &near));
    let mut tagged_out = [&NEXT_HOP[..], &EGRESS, &[0x81, 0x00, 0, 9, 0x08, 0x00]].concat();
    tagged_out.extend(&in4(4, 0, &near)[14..]);
    let big = Ipv4 { fragment: 0, ..Ipv4::default() }.packet(
        CLIENT,
        VIP_FAR,
        6,
        &tcp(40000, 80, ACK, &vec![7; usize::from(MTU) - 40 - 20 + 1]),
    );
    let whole = ipv4(CLIENT, VIP_FAR, 6, &tcp(40000, 80, ACK, &vec![7; usize::from(MTU) - 40 - 20 + 1]));
    vec![
        case("relayed, IPv4 in IPv4", relayed(&near), Expected::Tx(in4(4, 0, &near))),
        case("relayed, established", relayed(&data), Expected::Tx(in4(4, 0, &data))),
        case("relayed, IPv4 in IPv6", relayed6(4, &near), Expected::Tx(in4(4, 0, &near))),
        case("relayed, IPv6 in IPv6", relayed6(41, &inner6), Expected::Tx(in6(41, 0, &inner6))),
        case(
            "relayed, IPv6 in IPv4",
            ethernet(V4, &ipv4(PEER, HERE, 41, &inner6)),
            Expected::Tx(in6(41, 0, &inner6)),
        ),
        case(
            "relayed by GUE",
            ethernet(V4, &ipv4(PEER, HERE, 17, &udp(0xc123, GUE, &near))),
            Expected::Tx(in4(4, 0, &near)),
        ),
        case(
            "relayed by GUE of variant 0",
            ethernet(V4, &ipv4(PEER, HERE, 17, &udp(0xc123, GUE, &variant0(&near)))),
            Expected::Tx(in4(4, 0, &near)),
        ),
        case(
            "relayed by GUE over IPv6",
            relayed6(17, &udp(0xc123, GUE, &near)),
            Expected::Tx(in4(4, 0, &near)),
        ),
        case(
            "relayed, an outer header with options",
            ethernet(V4, &options.packet(PEER, HERE, 4, &near)),
            Expected::Tx(in4(4, 0, &near)),
        ),
        case("relayed, Ethernet padding", padded, Expected::Tx(padded_out)),
        case("relayed, behind a VLAN tag", tagged, Expected::Tx(tagged_out)),
        case(
            "relayed, congestion on the way is told",
            ethernet(V4, &congested.packet(PEER, HERE, 4, &capable)),
            Expected::Tx(in4(4, 0xbb, &told)),
        ),
        case("relayed, its plan begins with a relay", relayed(&far), Expected::Tx(in4(4, 0, &far))),
        case("relayed, too big for the way on", relayed(&big), Expected::Drop(Reason::TooBig)),
        case(
            "relayed, too big for the way on, not to be fragmented",
            relayed(&whole),
            Expected::AnswerFor(Reason::TooBigAnswered, too_big4_of(VIP_FAR, &whole, MTU - 20)),
        ),
        case(
            "relayed, an echo request to a VIP",
            relayed(&ipv4(CLIENT, VIP_FAR, 1, &icmp(8, 0, b"idsq"))),
            Expected::Answer(answered(ethernet(
                V4,
                &Ipv4 { ttl: 64, ..Ipv4::default() }.packet(VIP_FAR, CLIENT, 1, &icmp(0, 0, b"idsq")),
            ))),
        ),
    ]
}

/// What another region relayed, and is dropped.
fn refused() -> Vec<Case> {
    let drop = Expected::Drop;
    let near = syn(CLIENT, VIP_FAR);
    let data = ack(CLIENT, VIP_FAR);
    let short = ipv4(PEER, HERE, 4, &near[..19]);
    let mut version = near.clone();
    version[0] = 0x75;
    let cut = Ipv4 { fragment: 0x2000, ..Ipv4::default() };
    let congested = Ipv4 { tos: 3, ..Ipv4::default() };
    let solicitation = icmp6(CLIENT6, VIP_6IN6, 135, 0, &[0; 20]);
    let ports = u32::from_ne_bytes([0x9c, 0x40, 0, 80]);
    let mapped = |address: Ipv4Addr| {
        [0, 0, u32::from_ne_bytes([0, 0, 0xff, 0xff]), u32::from_ne_bytes(address.octets())]
    };
    let flow = |origin| FlowWords::new(&mapped(CLIENT), &mapped(VIP_FAR), ports, 6, origin);
    let down = Change::Domain("west", Admission::CLOSED);
    // Every way to the other region's hosts that is not by the plan.
    let lies = [
        down,
        Change::Image(|image| image.pools.iter_mut().for_each(|pool| pool.flags &= !POOL_RELAY)),
        Change::Image(|image| {
            image.services.iter_mut().for_each(|service| service.first.flags &= !POOL_RELAY);
        }),
    ];
    vec![
        changed("relayed, no local pool left", &local_down(), relayed(&near), drop(Reason::RelayRefused)),
        changed(
            "relayed, established, no local pool left",
            &local_down(),
            relayed(&data),
            drop(Reason::RelayRefused),
        ),
        changed(
            "relayed and fail-open",
            &local_down(),
            relayed(&syn(CLIENT, VIP_FAR_OPEN)),
            drop(Reason::RelayRefused),
        ),
        changed(
            "relayed, a client's flow with the same tuple lives in the other region",
            &[down, Change::Known(FlowTable::Flows, flow(0), "north-1")],
            relayed(&data),
            drop(Reason::RelayRefused),
        ),
        changed(
            "relayed, and the flow table says that it lives in the other region",
            &[down, Change::Known(FlowTable::Flows, flow(1), "north-1")],
            relayed(&data),
            drop(Reason::RelayRefused),
        ),
        changed("relayed, and pools forget what they are", &lies, relayed(&near), drop(Reason::RelayRefused)),
        changed(
            "relayed, and before the last change home was the other region",
            &[Change::Marked("far/west"), Change::Before("far", "far/north"), down],
            relayed(&data),
            drop(Reason::RelayRefused),
        ),
        changed(
            "relayed, before the last change home was the other region, and is here now",
            &[Change::Marked("far/west"), Change::Before("far", "far/north")],
            relayed(&data),
            Expected::Tx(in4(4, 0, &data)),
        ),
        case(
            "relayed by a stranger",
            ethernet(V4, &ipv4(STRANGE_PEER, HERE, 4, &near)),
            drop(Reason::RelayNotForUs),
        ),
        case("relayed, for no service", relayed(&syn(CLIENT, STRANGER)), drop(Reason::RelayNotForUs)),
        case("relayed twice", relayed(&ipv4(PEER, HERE, 4, &near)), drop(Reason::RelayNotForUs)),
        case(
            "relayed, an echo request to another address",
            relayed(&ipv4(CLIENT, STRANGER, 1, &icmp(8, 0, b"idsq"))),
            drop(Reason::RelayNotForUs),
        ),
        case(
            "relayed, a neighbour solicitation",
            relayed6(41, &ipv6(CLIENT6, VIP_6IN6, 58, 255, &solicitation)),
            drop(Reason::IcmpUnsupported),
        ),
        case("relayed, cut short", ethernet(V4, &short), drop(Reason::RelayMalformed)),
        case("relayed, of no IP version", relayed(&version), drop(Reason::RelayMalformed)),
        case("relayed, IPv4 where IPv6 is promised", relayed6(41, &near), drop(Reason::RelayMalformed)),
        case(
            "relayed, an outer fragment",
            ethernet(V4, &cut.packet(PEER, HERE, 4, &near)),
            drop(Reason::RelayMalformed),
        ),
        case(
            "relayed, congestion that the packet cannot tell of",
            ethernet(V4, &congested.packet(PEER, HERE, 4, &near)),
            drop(Reason::RelayMalformed),
        ),
        case(
            "a datagram to another port of a relay address",
            ethernet(V4, &ipv4(PEER, HERE, 17, &udp(0xc123, GUE + 1, &near))),
            Expected::Pass(Reason::PassNotVip),
        ),
        case(
            "IP in IP to another address",
            ethernet(V4, &ipv4(PEER, STRANGER, 4, &near)),
            Expected::Pass(Reason::PassNotVip),
        ),
    ]
}

/// Residency says which regions may serve whom, and relays are of their region: nothing widens that, on neither side of a relay.
fn resident() -> Vec<Case> {
    const STEERED: Change = Change::Image(|image| {
        for service in &mut image.services {
            service.flags |= SERVICE_SPILLS | SERVICE_STEERED;
        }
        for plan in &mut image.plans {
            (plan.shares, plan.leaves, plan.eased) = ([0; 8], [255; 8], PLAN_PANIC);
        }
    });
    let down = |domain| Change::Domain(domain, Admission::CLOSED);
    let drop = Expected::Drop;
    let [west, east, other] = [CLIENT, CLIENT_EAST, CLIENT_ELSEWHERE].map(|client| syn(client, VIP_RESIDENT));
    let [open_west, open_east] = [CLIENT, CLIENT_EAST].map(|client| syn(client, VIP_RESIDENT_OPEN));
    let running = ack(CLIENT_EAST, VIP_RESIDENT);
    let served = |inner: &[u8]| Expected::Tx(in4(4, 0, inner));
    let frame = |inner: &[u8]| ethernet(V4, inner);
    vec![
        case("resident here", frame(&west), served(&west)),
        case("resident in another region", frame(&east), to_north(&east)),
        changed("resident here, all is down here", &[down("west")], frame(&west), drop(Reason::AllDown)),
        changed(
            "resident in another region, that is down",
            &[down("north")],
            frame(&east),
            drop(Reason::AllDown),
        ),
        changed("resident nowhere, all is down here", &[down("west")], frame(&other), to_north(&other)),
        changed("resident here, whatever steers", &[STEERED], frame(&west), served(&west)),
        changed("resident in another region, whatever steers", &[STEERED], frame(&east), to_north(&east)),
        changed("resident here and fail-open", &[down("west")], frame(&open_west), served(&open_west)),
        changed(
            "resident in another region and fail-open",
            &[down("north")],
            frame(&open_east),
            to_north(&open_east),
        ),
        case("relayed, resident here", relayed(&west), served(&west)),
        case("relayed, resident in another region", relayed(&east), drop(Reason::RelayRefused)),
        case(
            "relayed, established, resident in another region",
            relayed(&running),
            drop(Reason::RelayRefused),
        ),
        case(
            "relayed, resident in another region and fail-open",
            relayed(&open_east),
            drop(Reason::RelayRefused),
        ),
        changed(
            "relayed, resident in another region, whatever steers",
            &[STEERED],
            relayed(&east),
            drop(Reason::RelayRefused),
        ),
    ]
}

fn heartbeats() -> Vec<Case> {
    let request = Heartbeat::request(3, 4, 5);
    let reply = Heartbeat { kind: REPLY, ..request };
    let datagram = |from, to, message: &Heartbeat| udp(from, to, message.as_bytes());
    let ask = ipv4(PEER, HERE, 17, &datagram(4444, DEFAULT_PORT, &request));
    let answer = Ipv4 { ttl: 64, ..Ipv4::default() };
    let answer = answer.packet(HERE, PEER, 17, &datagram(DEFAULT_PORT, 4444, &reply));
    vec![
        case(
            "a heartbeat to a relay address",
            ethernet(V4, &ask),
            Expected::Answer(answered(ethernet(V4, &answer))),
        ),
        case(
            "a heartbeat of a stranger to a relay address",
            ethernet(V4, &ipv4(STRANGE_PEER, HERE, 17, &datagram(4444, DEFAULT_PORT, &request))),
            Expected::Drop(Reason::RelayNotForUs),
        ),
    ]
}
