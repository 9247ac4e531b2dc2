//! Access lists, limits, shedding and emergency switches.

use super::*;
use lb_common::abi::{
    guard::{
        ALL, BUCKET_NEW_FLOWS, BUCKET_PACKETS, GUARD_SERVICE_LIMITS, GUARD_SOURCE_LIMITS, Limit, SCOPE_ALL,
        SERVICE_BUCKETS,
    },
    root::FEATURE_EMERGENCY,
    service::SERVICE_STICKY_UDP,
};
use lb_userspace::{
    config::IpPrefix,
    plan::{guard::Blocked, image::Image},
};

/// A service with an access list: allows 198.51.100.0/24 and 2001:db8:a::/48, denies 198.51.100.64/26 and 2001:db8:a:bad::/64.
const VIP_GUARDED: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 30);
const VIP_GUARDED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x30);
const DENIED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 66);
const DENIED6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0xbad, 0, 0, 0, 7);
const OUTSIDER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);
const OUTSIDER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xb, 0, 0, 0, 0, 7);
const FOREVER: u32 = u32::MAX;

pub(super) fn cases() -> Vec<Case> {
    [access(), limited(), shed(), switched()].concat()
}

fn frame(source: Ipv4Addr, flags: u8) -> (Vec<u8>, Vec<u8>) {
    let inner = ipv4(source, VIP_GUARDED, 6, &tcp(40000, 80, flags, &[]));
    (ethernet(V4, &inner), in4(4, 0, &inner))
}

fn frame6(source: Ipv6Addr, flags: u8) -> (Vec<u8>, Vec<u8>) {
    let inner = ipv6(source, VIP_GUARDED6, 6, 60, &tcp(40000, 80, flags, &[]));
    (ethernet(V6, &inner), in4(41, 0, &inner))
}

fn access() -> Vec<Case> {
    let (allowed, out) = frame(CLIENT, SYN);
    let (allowed6, out6) = frame6(CLIENT6, SYN);
    let denied = || Expected::Drop(Reason::SourceDenied);
    let not_allowed = || Expected::Drop(Reason::SourceNotAllowed);
    vec![
        case("a source that is allowed", allowed, Expected::Tx(out)),
        case("a source that is allowed, IPv6", allowed6, Expected::Tx(out6)),
        case("a source that is denied inside what is allowed", frame(DENIED, SYN).0, denied()),
        case("the same, an established flow", frame(DENIED, ACK).0, denied()),
        case("a source that is denied, IPv6", frame6(DENIED6, SYN).0, denied()),
        case("a source that is not allowed", frame(OUTSIDER, SYN).0, not_allowed()),
        case("the same, an established flow", frame(OUTSIDER, ACK).0, not_allowed()),
        case("a source that is not allowed, IPv6", frame6(OUTSIDER6, ACK).0, not_allowed()),
    ]
}

/// The index of the guarded service, whose guard has the same.
fn guarded(image: &Image) -> usize {
    image.names.services.iter().position(|name| name == "guarded").expect("the fixture has it")
}

/// A limit whose buckets, all but one, are full until the end of time.
const STRICT: Limit = Limit { interval: 16_000_000_000, tolerance: 0 };
const NEVER: u64 = u64::MAX / 2;

fn with_packet_limit(image: &mut Image) {
    let index = guarded(image);
    let guard = &mut image.guards.services[index];
    guard.flags |= GUARD_SERVICE_LIMITS;
    guard.packets = STRICT;
}

fn packets_used_up(image: &mut Image) {
    with_packet_limit(image);
    let bucket = guarded(image) as u32 * SERVICE_BUCKETS + BUCKET_PACKETS;
    image.guards.arrivals.push((bucket, NEVER));
}

fn new_flows_used_up(image: &mut Image) {
    let index = guarded(image);
    let guard = &mut image.guards.services[index];
    guard.flags |= GUARD_SERVICE_LIMITS;
    guard.new_flows = STRICT;
    image.guards.arrivals.push((index as u32 * SERVICE_BUCKETS + BUCKET_NEW_FLOWS, NEVER));
}

/// `used_up` of the four words of the only place of both rows.
fn source_limit(image: &mut Image, used_up: &[u32]) {
    let index = guarded(image);
    let guard = &mut image.guards.services[index];
    guard.flags |= GUARD_SOURCE_LIMITS;
    guard.source_mask_v4 = u32::MAX;
    guard.source_packets = STRICT;
    guard.source_new_flows = STRICT;
    let base = image.guards.node.source_base;
    image.guards.arrivals.extend(used_up.iter().map(|word| (base + word, NEVER)));
}

fn limited() -> Vec<Case> {
    let (opening, opening_out) = frame(CLIENT, SYN);
    let (running, running_out) = frame(CLIENT, ACK);
    let service = || Expected::Drop(Reason::ServiceLimited);
    let source = || Expected::Drop(Reason::SourceLimited);
    let image = |name, change, input: &Vec<u8>, expected| {
        changed(name, &[Change::Image(change)], input.clone(), expected)
    };
    vec![
        image("below the service's limit", with_packet_limit, &opening, Expected::Tx(opening_out.clone())),
        image("over the service's limit of packets", packets_used_up, &running, service()),
        image("over the service's limit of new flows", new_flows_used_up, &opening, service()),
        image(
            "the same, an established flow",
            new_flows_used_up,
            &running,
            Expected::Tx(running_out.clone()),
        ),
        image(
            "below the source's limit",
            |i| source_limit(i, &[]),
            &opening,
            Expected::Tx(opening_out.clone()),
        ),
        image("over the source's limit of packets", |i| source_limit(i, &[0, 2]), &running, source()),
        image("over the source's limit of new flows", |i| source_limit(i, &[1, 3]), &opening, source()),
        image(
            "the same, an established flow",
            |i| source_limit(i, &[1, 3]),
            &running,
            Expected::Tx(running_out),
        ),
        image(
            "others used up one of its places",
            |i| source_limit(i, &[0, 3]),
            &opening,
            Expected::Tx(opening_out),
        ),
    ]
}

fn shed_ordinary(image: &mut Image) {
    image.root.features |= FEATURE_EMERGENCY;
    image.guards.node.shed = [0, 0, ALL, ALL];
    image.guards.node.shed_until = FOREVER;
}

fn shed_long_ago(image: &mut Image) {
    shed_ordinary(image);
    image.guards.node.shed_until = 0;
}

fn shed_only_the_lowest(image: &mut Image) {
    shed_ordinary(image);
    image.guards.node.shed = [0, 0, 0, ALL];
}

fn with_class(image: &mut Image, class: u32) {
    let index = guarded(image);
    image.guards.services[index].class = class;
}

/// An operator sheds the guarded service's class until a moment.
fn class_switched(image: &mut Image, until: u32) {
    image.root.features |= FEATURE_EMERGENCY;
    let class = image.guards.services[guarded(image)].class as usize;
    image.guards.node.switch_shed[class] = ALL;
    image.guards.node.switch_shed_until[class] = until;
}

fn shed_the_service(image: &mut Image) {
    let index = guarded(image);
    image.guards.services[index].shed = ALL;
    image.guards.services[index].shed_until = FOREVER;
}

fn shed() -> Vec<Case> {
    let (opening, opening_out) = frame(CLIENT, SYN);
    let (running, running_out) = frame(CLIENT, ACK);
    let other = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, SYN, &[]));
    let datagram = ipv4(CLIENT, VIP_4IN4, 17, &udp(5353, 53, b"query"));
    let shed = || Expected::Drop(Reason::Shed);
    let image =
        |name, change, input: Vec<u8>, expected| changed(name, &[Change::Image(change)], input, expected);
    vec![
        image("a new flow of a class that is shed", shed_ordinary, opening.clone(), shed()),
        image("the same, an established flow", shed_ordinary, running, Expected::Tx(running_out)),
        image("the same, a service without a guard", shed_ordinary, ethernet(V4, &other), shed()),
        image(
            "another class is shed",
            shed_only_the_lowest,
            opening.clone(),
            Expected::Tx(opening_out.clone()),
        ),
        image(
            "a higher class than those that are shed",
            |i| {
                shed_ordinary(i);
                with_class(i, 1);
            },
            opening.clone(),
            Expected::Tx(opening_out.clone()),
        ),
        image(
            "the lowest class, which is shed alone",
            |i| {
                shed_only_the_lowest(i);
                with_class(i, 3);
            },
            opening.clone(),
            shed(),
        ),
        image(
            "nobody renewed the shedding",
            shed_long_ago,
            opening.clone(),
            Expected::Tx(opening_out.clone()),
        ),
        image("a new flow of a service that is over its capacity", shed_the_service, opening.clone(), shed()),
        image(
            "nobody renewed the shedding of a service",
            |i| {
                shed_the_service(i);
                let index = guarded(i);
                i.guards.services[index].shed_until = 1;
            },
            opening,
            Expected::Tx(opening_out),
        ),
        changed(
            "a datagram of a sticky service whose class is shed",
            &[Change::Image(shed_ordinary), Change::ServiceFlags("4in4-udp", SERVICE_STICKY_UDP)],
            ethernet(V4, &datagram),
            Expected::Tx(in4(4, 0, &datagram)),
        ),
        image("a datagram, its class is shed", shed_ordinary, ethernet(V4, &datagram), shed()),
    ]
}

fn stop(image: &mut Image) {
    image.root.features |= FEATURE_EMERGENCY;
    let index = guarded(image);
    image.guards.services[index].switch_shed = ALL;
    image.guards.services[index].switch_shed_until = FOREVER;
}

fn stop_for_a_moment(image: &mut Image) {
    stop(image);
    let index = guarded(image);
    image.guards.services[index].switch_shed_until = 0;
}

fn switch_limit(image: &mut Image) {
    image.root.features |= FEATURE_EMERGENCY;
    let index = guarded(image);
    image.guards.services[index].switch_limit_until = FOREVER;
    image.guards.services[index].switch_packets = STRICT;
    image.guards.arrivals.push((index as u32 * SERVICE_BUCKETS + 2, NEVER));
}

fn switch_limit_ended(image: &mut Image) {
    switch_limit(image);
    let index = guarded(image);
    image.guards.services[index].switch_limit_until = 1;
}

fn block(image: &mut Image, scope: u32, prefix: &str) {
    block_until(image, scope, prefix, FOREVER);
}

/// Some block holds on, this one until a moment.
fn block_until(image: &mut Image, scope: u32, prefix: &str, until: u32) {
    image.root.features |= FEATURE_EMERGENCY;
    image.guards.node.blocks_until = FOREVER;
    image.guards.services.iter_mut().for_each(|guard| guard.blocks_until = FOREVER);
    let prefix = IpPrefix::parse(prefix).expect("a prefix");
    image.guards.blocked.push(Blocked { prefix, scope, until });
}

fn block_for_the_other(image: &mut Image) {
    let scope = guarded(image) as u32 + 1;
    block(image, scope, "198.51.100.0/25");
}

fn block_clients(image: &mut Image) {
    block(image, SCOPE_ALL, "198.51.100.0/25");
}

fn block_expired(image: &mut Image) {
    block_clients(image);
    image.guards.node.blocks_until = 0;
}

/// Its own end is over, while blocks of others hold on.
fn block_ended(image: &mut Image) {
    block_until(image, SCOPE_ALL, "198.51.100.0/25", 1);
    block_until(image, SCOPE_ALL, "192.0.2.128/25", FOREVER);
}

fn block_for_the_service_ended(image: &mut Image) {
    let scope = guarded(image) as u32;
    block_until(image, scope, "198.51.100.0/25", 1);
}

fn block_for_the_service(image: &mut Image) {
    let scope = guarded(image) as u32;
    block(image, scope, "198.51.100.0/25");
}

fn switched() -> Vec<Case> {
    let (opening, opening_out) = frame(CLIENT, SYN);
    let (running, running_out) = frame(CLIENT, ACK);
    let other = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[]));
    let ping = |from| ethernet(V4, &ipv4(from, VIP_4IN4, 1, &icmp(8, 0, b"idsq")));
    let pong = |to| {
        let header = Ipv4 { ttl: 64, ..Ipv4::default() };
        answered(ethernet(V4, &header.packet(VIP_4IN4, to, 1, &icmp(0, 0, b"idsq"))))
    };
    let ping6 = ethernet(V6, &ipv6(CLIENT6, VIP_6IN6, 58, 3, &icmp6(CLIENT6, VIP_6IN6, 128, 0, b"idsq")));
    let timestamp = ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &icmp(13, 0, &[0; 16])));
    let quoted = ipv4(VIP_4IN4, CLIENT, 6, &tcp(80, 40000, ACK, &[]));
    let error = ethernet(V4, &ipv4(OUTSIDER, VIP_4IN4, 1, &icmp(3, 1, &[&[0; 4][..], &quoted].concat())));
    let emergency = || Expected::Drop(Reason::Emergency);
    let image = |name, change, input: &Vec<u8>, expected| {
        changed(name, &[Change::Image(change)], input.clone(), expected)
    };
    vec![
        image("a new flow of a service that was stopped", stop, &opening, emergency()),
        image("the same, an established flow", stop, &running, Expected::Tx(running_out.clone())),
        image("the switch has expired", stop_for_a_moment, &opening, Expected::Tx(opening_out.clone())),
        image("a class is shed by an operator", |i| class_switched(i, FOREVER), &opening, emergency()),
        image(
            "an operator's shedding of a class has ended",
            |i| class_switched(i, 1),
            &opening,
            Expected::Tx(opening_out.clone()),
        ),
        image("over the limit of a switch", switch_limit, &running, emergency()),
        image(
            "the limit of a switch has ended",
            switch_limit_ended,
            &running,
            Expected::Tx(running_out.clone()),
        ),
        image("a blocked source", |i| block(i, SCOPE_ALL, "198.51.100.0/25"), &running, emergency()),
        image(
            "the same, a service without a guard",
            |i| block(i, SCOPE_ALL, "198.51.100.0/25"),
            &ethernet(V4, &other),
            emergency(),
        ),
        image("a source blocked for the service", block_for_the_service, &running, emergency()),
        image(
            "a source blocked for another service",
            block_for_the_other,
            &running,
            Expected::Tx(running_out),
        ),
        image(
            "a neighbour is blocked",
            |i| block(i, SCOPE_ALL, "198.51.100.128/25"),
            &opening,
            Expected::Tx(opening_out.clone()),
        ),
        image(
            "a blocked source, IPv6",
            |i| block(i, SCOPE_ALL, "2001:db8:a::/48"),
            &frame6(CLIENT6, ACK).0,
            emergency(),
        ),
        image("a blocked source pings", block_clients, &ping(CLIENT), emergency()),
        image("another source pings", block_clients, &ping(OUTSIDER), Expected::Answer(pong(OUTSIDER))),
        image(
            "a blocked source pings, IPv6",
            |i| block(i, SCOPE_ALL, "2001:db8:a::/48"),
            &ping6,
            emergency(),
        ),
        image(
            "a block for one service does not keep pings off",
            block_for_the_service,
            &ping(CLIENT),
            Expected::Answer(pong(CLIENT)),
        ),
        image(
            "the block of a source that pings has expired",
            block_expired,
            &ping(CLIENT),
            Expected::Answer(pong(CLIENT)),
        ),
        image(
            "the block of a source has ended, others have not",
            block_ended,
            &opening,
            Expected::Tx(opening_out.clone()),
        ),
        image(
            "the block of a source for the service has ended",
            block_for_the_service_ended,
            &opening,
            Expected::Tx(opening_out.clone()),
        ),
        image(
            "the block of a source that pings has ended, others have not",
            block_ended,
            &ping(CLIENT),
            Expected::Answer(pong(CLIENT)),
        ),
        image(
            "a blocked router reports an error",
            |i| block(i, SCOPE_ALL, "203.0.113.0/24"),
            &error,
            emergency(),
        ),
        image("a blocked source asks for something odd", block_clients, &timestamp, emergency()),
        image(
            "a blocked source pings an address that is none of ours",
            block_clients,
            &ethernet(V4, &ipv4(CLIENT, STRANGER, 1, &icmp(8, 0, b"idsq"))),
            Expected::Pass(Reason::PassNotVip),
        ),
        image(
            "everybody of IPv6 is blocked, but not IPv4",
            |i| block(i, SCOPE_ALL, "2000::/3"),
            &ethernet(V4, &other),
            Expected::Tx(in4(4, 0, &other)),
        ),
    ]
}
