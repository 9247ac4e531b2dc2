//! Services with port ranges, and with prefixes as addresses.

use super::unusual::error4;
use super::*;

/// All golden packets of this file.
pub(super) fn all() -> Vec<Case> {
    [ports(), prefixes()].concat()
}

fn ports() -> Vec<Case> {
    let to = |port: u16| ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, port, SYN, &[]));
    let one = |name, port| case(name, ethernet(V4, &to(port)), Expected::Tx(in4(4, 0, &to(port))));
    let other = |name, port| case(name, ethernet(V4, &to(port)), Expected::Tx(in6(4, 0, &to(port))));
    let none = |name, port| case(name, ethernet(V4, &to(port)), Expected::Pass(Reason::PassNotVip));
    let vip = Ipv4Addr::new(192, 0, 2, 13);
    let any = |name, port| {
        let packet = ipv4(CLIENT, vip, 17, &udp(5353, port, b"x"));
        case(name, ethernet(V4, &packet), Expected::Tx(in4(4, 0, &packet)))
    };
    let wrong = ipv4(CLIENT, vip, 6, &tcp(40000, 80, SYN, &[]));
    let answer = ipv4(VIP_4IN4, CLIENT, 6, &tcp(8050, 40000, ACK, b""));
    let error = error4(3, 4, [0, 0, 5, 0], &answer);
    vec![
        none("a port below a range", 6999),
        one("the first port of a range", 7000),
        one("the last port of a range", 9999),
        none("a port above a range", 10000),
        other("the narrower range goes first", 8000),
        other("the narrower range to its end", 8099),
        one("the wider range behind the narrower one", 8100),
        one("one port goes before its range", 8010),
        any("any port", 12345),
        any("any port, the lowest", 0),
        any("any port, the highest", 65535),
        none("port 0 of a VIP with ranges", 0),
        case("any port of another protocol", ethernet(V4, &wrong), Expected::Pass(Reason::PassNotVip)),
        case("an error to a range", ethernet(V4, &error), Expected::Tx(in6(4, 0, &error))),
    ]
}

fn prefixes() -> Vec<Case> {
    let to =
        |c: u8, d: u8, port: u16| ipv4(CLIENT, Ipv4Addr::new(198, 18, c, d), 6, &tcp(40000, port, SYN, &[]));
    let outer = |name, packet: Vec<u8>| case(name, ethernet(V4, &packet), Expected::Tx(in4(4, 0, &packet)));
    let inner = |name, packet: Vec<u8>| case(name, ethernet(V4, &packet), Expected::Tx(in6(4, 0, &packet)));
    let none = |name, packet: Vec<u8>| case(name, ethernet(V4, &packet), Expected::Pass(Reason::PassNotVip));
    let any = Ipv6Addr::new(0x2001, 0xdb8, 0xf, 0, 1, 2, 3, 4);
    let packet6 = ipv6(CLIENT6, any, 6, 60, &tcp(40000, 22, SYN, &[]));
    let beside6 =
        ipv6(CLIENT6, Ipv6Addr::new(0x2001, 0xdb8, 0xf, 1, 0, 0, 0, 0), 6, 60, &tcp(1, 22, SYN, &[]));
    let pinged = Ipv4Addr::new(198, 18, 7, 7);
    let header = Ipv4 { ttl: 64, ..Ipv4::default() };
    let pong = answered(ethernet(V4, &header.packet(pinged, CLIENT, 1, &icmp(0, 0, b"idsq"))));
    let orphan = Ipv4 { fragment: 5, ..Ipv4::default() }.packet(CLIENT, pinged, 6, b"rest");
    vec![
        outer("an address of a prefix", to(9, 9, 80)),
        outer("the first address of a prefix", to(0, 0, 80)),
        outer("the last address of a prefix", to(255, 255, 80)),
        none(
            "an address behind a prefix",
            ipv4(CLIENT, Ipv4Addr::new(198, 19, 0, 0), 6, &tcp(1, 80, SYN, &[])),
        ),
        inner("an address of a longer prefix", to(5, 9, 443)),
        inner("the first address of a longer prefix", to(5, 0, 443)),
        inner("a range of a longer prefix", to(5, 9, 1500)),
        outer("what a longer prefix has no service for", to(5, 9, 80)),
        none("what no prefix has a service for", to(5, 9, 22)),
        outer("a host inside a prefix", to(5, 1, 8443)),
        inner("what a host inside a prefix has no service for", to(5, 1, 443)),
        outer("what neither host nor longer prefix have a service for", to(5, 1, 80)),
        case("any port of a prefix, IPv6", ethernet(V6, &packet6), Expected::Tx(in6(41, 0, &packet6))),
        case("beside a prefix, IPv6", ethernet(V6, &beside6), Expected::Pass(Reason::PassNotVip)),
        case(
            "a ping to an address of a prefix",
            ethernet(V4, &ipv4(CLIENT, pinged, 1, &icmp(8, 0, b"idsq"))),
            Expected::Answer(pong),
        ),
        case(
            "an orphaned fragment to an address of a prefix",
            ethernet(V4, &orphan),
            Expected::Drop(Reason::FragmentOrphan),
        ),
    ]
}
