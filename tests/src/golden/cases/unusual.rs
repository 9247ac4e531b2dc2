//! What is no ordinary TCP or UDP packet: tags, extension headers, SCTP, fragments, ICMP errors, what is too big.

use super::*;

/// All cases of this file.
pub(super) fn all() -> Vec<Case> {
    [extensions(), sctp_cases(), fragments(), errors(), limited(), too_big(), tagged()].concat()
}

/// Puts tags between the Ethernet addresses and the EtherType.
pub(super) fn with_tags(frame: &[u8], tags: &[[u8; 4]]) -> Vec<u8> {
    [&frame[..12], &tags.concat(), &frame[12..]].concat()
}

const TAG: [u8; 4] = [0x81, 0, 0x60, 7];
const OUTER_TAG: [u8; 4] = [0x88, 0xa8, 0x00, 9];

/// An extension header of `units` times eight bytes.
fn extension(next: u8, units: u8, segments_left: u8) -> Vec<u8> {
    let mut h = vec![next, units - 1, 0, segments_left];
    h.resize(8 * usize::from(units), 0);
    h
}

/// A fragment header.
fn fragment6(next: u8, offset: u16, more: bool, id: u32) -> Vec<u8> {
    let mut h = vec![next, 0];
    h.extend((offset << 3 | u16::from(more)).to_be_bytes());
    h.extend(id.to_be_bytes());
    h
}

/// Packets to the IPv6 service behind an IPv6 backend.
fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    ipv6(CLIENT6, VIP_6IN6, next, 60, payload)
}

fn extensions() -> Vec<Case> {
    let data = tcp(40000, 80, ACK, b"GET /");
    let carried = |name, first: u8, headers: &[Vec<u8>]| {
        let inner = v6(first, &[headers.concat(), data.clone()].concat());
        case(name, ethernet(V6, &inner), Expected::Tx(in6(41, 0, &inner)))
    };
    let refused = |name, first: u8, headers: &[Vec<u8>]| {
        let inner = v6(first, &[headers.concat(), data.clone()].concat());
        case(name, ethernet(V6, &inner), Expected::Drop(Reason::ExtensionHeader))
    };
    let many = |n: usize| {
        vec![extension(60, 1, 0); n - 1].into_iter().chain([extension(6, 1, 0)]).collect::<Vec<_>>()
    };
    let cut = v6(0, &extension(6, 4, 0)[..16]);
    let behind_fragment = v6(44, &[fragment6(60, 0, true, 5), extension(6, 1, 0), data.clone()].concat());
    vec![
        carried("a hop-by-hop header", 0, &[extension(6, 1, 0)]),
        carried("destination options", 60, &[extension(6, 3, 0)]),
        carried("a routing header that has done its work", 43, &[extension(6, 3, 0)]),
        carried(
            "hop-by-hop, destination, routing, destination",
            0,
            &[extension(60, 2, 0), extension(43, 1, 0), extension(60, 3, 0), extension(6, 1, 0)],
        ),
        carried("an atomic fragment is whole", 44, &[fragment6(6, 0, false, 5)]),
        carried("as many extension headers as there may be", 60, &many(8)),
        refused("one extension header too many", 60, &many(9)),
        refused("a routing header with segments left", 43, &[extension(6, 1, 1)]),
        refused("an authentication header", 51, &[extension(6, 3, 0)]),
        case(
            "destination options behind a fragment header",
            ethernet(V6, &behind_fragment),
            Expected::Drop(Reason::ExtensionHeader),
        ),
        case("an extension header cut short", ethernet(V6, &cut), Expected::Drop(Reason::Malformed)),
        case(
            "an echo request behind an extension header",
            ethernet(V6, &v6(60, &[extension(58, 1, 0), icmp6(CLIENT6, VIP_6IN6, 128, 0, b"idsq")].concat())),
            Expected::Drop(Reason::ExtensionHeader),
        ),
        case(
            "extension headers to another address",
            ethernet(V6, &ipv6(CLIENT6, VIP_STRANGER6, 43, 60, &[extension(6, 1, 1), data].concat())),
            Expected::Pass(Reason::PassNotVip),
        ),
    ]
}

const VIP_STRANGER6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x99);

/// An SCTP packet with one chunk.
fn sctp(source: u16, destination: u16, tag: u32, chunk: u8) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend(source.to_be_bytes());
    h.extend(destination.to_be_bytes());
    h.extend(tag.to_be_bytes());
    h.extend([0; 4]);
    h.extend([chunk, 0, 0, 4]);
    h
}

fn sctp_cases() -> Vec<Case> {
    let to = |payload: &[u8]| ipv4(CLIENT, VIP_4IN4, 132, payload);
    let init = to(&sctp(40000, 3868, 0, 1));
    let data = to(&sctp(40000, 3868, 7, 0));
    let no_init = to(&sctp(40000, 3868, 7, 1));
    let init6 = v6(132, &sctp(40000, 3868, 0, 1));
    let headed6 = v6(60, &[extension(132, 1, 0), sctp(40000, 3868, 7, 0)].concat());
    let drained = [Change::Backend("v4", Admission::new(0, 255))];
    vec![
        case("SCTP, opening", ethernet(V4, &init), Expected::Tx(in4(4, 0, &init))),
        case("SCTP, opening, IPv6", ethernet(V6, &init6), Expected::Tx(in6(41, 0, &init6))),
        case(
            "SCTP, established, IPv6, behind an extension header",
            ethernet(V6, &headed6),
            Expected::Tx(in6(41, 0, &headed6)),
        ),
        changed(
            "SCTP, established, its backend drained",
            &drained,
            ethernet(V4, &data),
            Expected::Tx(in4(4, 0, &data)),
        ),
        changed(
            "SCTP, opening, its only backend drained",
            &drained,
            ethernet(V4, &init),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "SCTP INIT with a verification tag opens nothing",
            &drained,
            ethernet(V4, &no_init),
            Expected::Tx(in4(4, 0, &no_init)),
        ),
        case(
            "SCTP without a chunk",
            ethernet(V4, &to(&sctp(40000, 3868, 0, 1)[..12])),
            Expected::Drop(Reason::Malformed),
        ),
        case(
            "SCTP at another port",
            ethernet(V4, &to(&sctp(40000, 3869, 0, 1))),
            Expected::Pass(Reason::PassNotVip),
        ),
    ]
}

/// A piece of an IPv4 datagram; the offset in units of eight bytes.
fn piece(id: u16, offset: u16, more: bool, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let header = Ipv4 { id, fragment: offset | u16::from(more) << 13, ..Ipv4::default() };
    header.packet(CLIENT, VIP_4IN4, protocol, payload)
}

fn fragments() -> Vec<Case> {
    let datagram = udp(5353, 53, &[7; 40]);
    let first = piece(9, 0, true, 17, &datagram[..24]);
    let middle = piece(9, 3, true, 17, &datagram[24..40]);
    let last = piece(9, 5, false, 17, &datagram[40..]);
    let other = piece(10, 5, false, 17, &datagram[40..]);
    let tcp_later = piece(9, 5, false, 6, &datagram[40..]);
    let stranger = Ipv4 { id: 9, fragment: 5, ..Ipv4::default() }.packet(CLIENT, STRANGER, 17, b"rest");
    let segment = tcp(40000, 80, ACK, &[7; 40]);
    let first6 = v6(44, &[fragment6(6, 0, true, 77), segment[..40].to_vec()].concat());
    let last6 = v6(44, &[fragment6(6, 5, false, 77), segment[40..].to_vec()].concat());
    let renamed6 = v6(44, &[fragment6(17, 5, false, 77), segment[40..].to_vec()].concat());
    let orphan6 = v6(44, &[fragment6(6, 5, false, 78), segment[40..].to_vec()].concat());
    let short = piece(9, 0, true, 17, &datagram[..7]);
    let frame = |packet: &[u8]| ethernet(V4, packet);
    vec![
        case("the first fragment", frame(&first), Expected::Tx(in4(4, 0, &first))),
        behind("a later fragment", &[frame(&first)], frame(&middle), Expected::Tx(in4(4, 0, &middle))),
        behind(
            "the last fragment",
            &[frame(&first), frame(&middle)],
            frame(&last),
            Expected::Tx(in4(4, 0, &last)),
        ),
        case(
            "an orphaned fragment",
            frame(&piece(11, 5, false, 17, &datagram[40..])),
            Expected::Drop(Reason::FragmentOrphan),
        ),
        behind(
            "a fragment of another datagram",
            &[frame(&first)],
            frame(&other),
            Expected::Drop(Reason::FragmentOrphan),
        ),
        behind(
            "a fragment of another protocol",
            &[frame(&first)],
            frame(&tcp_later),
            Expected::Drop(Reason::FragmentOrphan),
        ),
        case("a fragment for another address", frame(&stranger), Expected::Pass(Reason::PassNotVip)),
        case("a first fragment without ports", frame(&short), Expected::Drop(Reason::Malformed)),
        case("the first fragment, IPv6", ethernet(V6, &first6), Expected::Tx(in6(41, 0, &first6))),
        behind(
            "a later fragment, IPv6",
            &[ethernet(V6, &first6)],
            ethernet(V6, &last6),
            Expected::Tx(in6(41, 0, &last6)),
        ),
        behind(
            "a later fragment, IPv6, whose next header says something else",
            &[ethernet(V6, &first6)],
            ethernet(V6, &renamed6),
            Expected::Tx(in6(41, 0, &renamed6)),
        ),
        case("an orphaned fragment, IPv6", ethernet(V6, &orphan6), Expected::Drop(Reason::FragmentOrphan)),
        case(
            "a fragment of an echo request",
            frame(&piece(9, 0, true, 1, &icmp(8, 0, &[0; 60]))),
            Expected::Drop(Reason::Fragment),
        ),
    ]
}

/// An ICMP error about a packet.
pub(super) fn error4(kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    ipv4(STRANGER, VIP_4IN4, 1, &icmp(kind, code, &[&rest[..], quoted].concat()))
}

/// An ICMPv6 error about a packet.
fn error6(kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let body = [&rest[..], quoted].concat();
    ipv6(VIP_STRANGER6, VIP_6IN6, 58, 60, &icmp6(VIP_STRANGER6, VIP_6IN6, kind, code, &body))
}

fn errors() -> Vec<Case> {
    // What the backend sent: from the VIP to the client.
    let answer = ipv4(VIP_4IN4, CLIENT, 6, &tcp(80, 40000, ACK, &[1; 30]));
    let answer6 = ipv6(VIP_6IN6, CLIENT6, 6, 60, &tcp(80, 40000, ACK, &[1; 30]));
    let delivered =
        |name, packet: Vec<u8>| case(name, ethernet(V4, &packet), Expected::Tx(in4(4, 0, &packet)));
    let delivered6 =
        |name, packet: Vec<u8>| case(name, ethernet(V6, &packet), Expected::Tx(in6(41, 0, &packet)));
    let refused = |name, packet: Vec<u8>, reason| case(name, ethernet(V4, &packet), Expected::Drop(reason));
    let options = Ipv4 { options: vec![1; 8], ..Ipv4::default() }.packet(
        VIP_4IN4,
        CLIENT,
        6,
        &tcp(80, 40000, ACK, b""),
    );
    let first =
        Ipv4 { fragment: 0x2000, ..Ipv4::default() }.packet(VIP_4IN4, CLIENT, 17, &udp(53, 5353, &[0; 40]));
    let later =
        Ipv4 { fragment: 0x0005, ..Ipv4::default() }.packet(VIP_4IN4, CLIENT, 17, &udp(53, 5353, &[0; 40]));
    let headed6 = ipv6(VIP_6IN6, CLIENT6, 60, 60, &[extension(6, 2, 0), tcp(80, 40000, ACK, b"")].concat());
    let pieces6 =
        ipv6(VIP_6IN6, CLIENT6, 44, 60, &[fragment6(6, 0, true, 3), tcp(80, 40000, ACK, &[0; 20])].concat());
    let foreign = ipv4(STRANGER, CLIENT, 6, &tcp(80, 40000, ACK, b""));
    let other_vip = ipv4(VIP_OPEN, CLIENT, 6, &tcp(80, 40000, ACK, b""));
    let no_service = ipv4(VIP_4IN4, CLIENT, 6, &tcp(81, 40000, ACK, b""));
    let ping = ipv4(VIP_4IN4, CLIENT, 1, &icmp(0, 0, b"idsq"));
    let drained = [Change::Backend("v4", Admission::new(0, 255))];
    let unreachable = error4(3, 4, [0, 0, 5, 0], &answer);
    let mut padded = ethernet(V4, &error4(3, 1, [0; 4], &answer[..23]));
    padded.extend([0; 20]);
    vec![
        delivered("fragmentation needed", unreachable.clone()),
        delivered("port unreachable, cut short behind the ports", error4(3, 3, [0; 4], &answer[..28])),
        delivered("time exceeded", error4(11, 0, [0; 4], &answer)),
        delivered("parameter problem", error4(12, 0, [9, 0, 0, 0], &answer)),
        delivered("an error that quotes a packet with options", error4(11, 0, [0; 4], &options)),
        delivered("an error that quotes a first fragment", error4(11, 0, [0; 4], &first)),
        delivered6("packet too big", error6(2, 0, [0, 0, 5, 0], &answer6)),
        delivered6("unreachable, IPv6", error6(1, 4, [0; 4], &answer6)),
        delivered6("time exceeded, IPv6", error6(3, 0, [0; 4], &answer6)),
        delivered6("parameter problem, IPv6", error6(4, 1, [0, 0, 0, 6], &answer6)),
        delivered6("an error that quotes extension headers", error6(3, 0, [0; 4], &headed6)),
        delivered6("an error that quotes a first fragment, IPv6", error6(3, 0, [0; 4], &pieces6)),
        changed(
            "an error counts as established",
            &drained,
            ethernet(V4, &unreachable),
            Expected::Tx(in4(4, 0, &unreachable)),
        ),
        refused(
            "an error that quotes a later fragment",
            error4(11, 0, [0; 4], &later),
            Reason::IcmpUnmatched,
        ),
        refused("an error that quotes another host", error4(3, 1, [0; 4], &foreign), Reason::IcmpUnmatched),
        refused("an error that quotes another VIP", error4(3, 1, [0; 4], &other_vip), Reason::IcmpUnmatched),
        refused("an error that quotes no service", error4(3, 1, [0; 4], &no_service), Reason::IcmpUnmatched),
        refused("an error that quotes a ping", error4(3, 1, [0; 4], &ping), Reason::IcmpUnmatched),
        refused("an error that quotes no ports", error4(3, 1, [0; 4], &answer[..23]), Reason::IcmpUnmatched),
        case("an error that quotes no ports, padded", padded, Expected::Drop(Reason::IcmpUnmatched)),
        refused(
            "a timestamp request",
            ipv4(CLIENT, VIP_4IN4, 1, &icmp(13, 0, &[0; 16])),
            Reason::IcmpUnsupported,
        ),
        case(
            "a neighbour advertisement to the VIP",
            ethernet(V6, &v6(58, &icmp6(CLIENT6, VIP_6IN6, 136, 0, &[0; 20]))),
            Expected::Drop(Reason::IcmpUnsupported),
        ),
    ]
}

fn limited() -> Vec<Case> {
    let ping = ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &icmp(8, 0, b"idsq")));
    let ping6 = ethernet(V6, &v6(58, &icmp6(CLIENT6, VIP_6IN6, 128, 0, b"idsq")));
    let big = ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[7; 1460])));
    let none = [Change::Answers(0)];
    vec![
        changed("a ping beyond the limit", &none, ping, Expected::Drop(Reason::AnswerLimited)),
        changed("a ping beyond the limit, IPv6", &none, ping6, Expected::Drop(Reason::AnswerLimited)),
        changed("too big beyond the limit", &none, big, Expected::Drop(Reason::AnswerLimited)),
    ]
}

/// The answer to an IPv4 packet that was too big.
pub(super) fn too_big4_of(vip: Ipv4Addr, packet: &[u8], mtu: u16) -> Vec<u8> {
    let quoted = packet.len().min(548) / 16 * 16;
    let [high, low] = mtu.to_be_bytes();
    let header = Ipv4 { tos: 0xc0, id: 0, fragment: 0x4000, ttl: 64, options: Vec::new() };
    let body = [&[0, 0, high, low][..], &packet[..quoted]].concat();
    answered(ethernet(V4, &header.packet(vip, CLIENT, 1, &icmp(3, 4, &body))))
}

fn too_big4(packet: &[u8], mtu: u16) -> Vec<u8> {
    too_big4_of(VIP_4IN4, packet, mtu)
}

/// The answer to an IPv6 packet that was too big.
pub(super) fn too_big6_of(vip: Ipv6Addr, packet: &[u8], mtu: u16) -> Vec<u8> {
    let body = [&u32::from(mtu).to_be_bytes()[..], &packet[..1232]].concat();
    answered(ethernet(V6, &ipv6(vip, CLIENT6, 58, 64, &icmp6(vip, CLIENT6, 2, 0, &body))))
}

fn too_big6(packet: &[u8], mtu: u16) -> Vec<u8> {
    too_big6_of(VIP_6IN6, packet, mtu)
}

fn too_big() -> Vec<Case> {
    let answer = |frame| Expected::AnswerFor(Reason::TooBigAnswered, frame);
    let drop = Expected::Drop(Reason::TooBig);
    let segment = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[7; 1441]));
    let segment6 = v6(6, &tcp(40000, 80, ACK, &[7; 1440]));
    let small = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[7; 200]));
    let over6 = ipv4(CLIENT, VIP_4IN6, 6, &tcp(40000, 80, ACK, &[7; 1421]));
    let over4 = ipv6(CLIENT6, VIP_6IN4, 6, 60, &tcp(40000, 80, ACK, &[7; 1421]));
    let loopback = ipv4(Ipv4Addr::LOCALHOST, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[7; 1441]));
    let headed = v6(60, &[extension(6, 2, 0), tcp(40000, 80, ACK, &[7; 1424])].concat());
    let quoted = ipv4(VIP_4IN4, CLIENT, 6, &tcp(80, 40000, ACK, &[1; 1440]));
    let error = error4(3, 4, [0, 0, 5, 0], &quoted);
    // Not to be fragmented any further.
    let [first, later] = [(0x6000, 24), (0x4003, 1_464)].map(|(fragment, length)| {
        let header = Ipv4 { id: 9, fragment, ..Ipv4::default() };
        header.packet(CLIENT, VIP_4IN4, 17, &udp(5353, 53, &vec![7; length - 8]))
    });
    vec![
        case("one byte too big, IPv4", ethernet(V4, &segment), answer(too_big4(&segment, 1480))),
        case("too big, IPv6", ethernet(V6, &segment6), answer(too_big6(&segment6, 1460))),
        case(
            "one byte too big, IPv4 in IPv6",
            ethernet(V4, &over6),
            answer(too_big4_of(VIP_4IN6, &over6, 1460)),
        ),
        case(
            "one byte too big, IPv6 in IPv4",
            ethernet(V6, &over4),
            answer(too_big6_of(VIP_6IN4, &over4, 1480)),
        ),
        case(
            "too big, IPv6, with an extension header",
            ethernet(V6, &headed),
            answer(too_big6(&headed, 1460)),
        ),
        changed(
            "too big for a narrow way",
            &[Change::Mtu("v4", 200)],
            ethernet(V4, &small),
            answer(too_big4(&small, 180)),
        ),
        changed(
            "too big for a way that is none for IPv6",
            &[Change::Mtu("v6", 1300)],
            ethernet(V6, &segment6),
            drop.clone(),
        ),
        case("too big from no host", ethernet(V4, &loopback), drop.clone()),
        behind(
            "a later fragment that is too big",
            &[ethernet(V4, &first)],
            ethernet(V4, &later),
            drop.clone(),
        ),
        case("an error that is too big itself", ethernet(V4, &error), drop),
    ]
}

fn tagged() -> Vec<Case> {
    let ping = ethernet(V4, &ipv4(CLIENT, VIP_4IN4, 1, &icmp(8, 0, b"idsq!")));
    let header = Ipv4 { ttl: 64, ..Ipv4::default() };
    let pong = answered(ethernet(V4, &header.packet(VIP_4IN4, CLIENT, 1, &icmp(0, 0, b"idsq!"))));
    let ping6 = ethernet(V6, &v6(58, &icmp6(CLIENT6, VIP_6IN6, 128, 0, b"idsq!")));
    let pong6 =
        answered(ethernet(V6, &ipv6(VIP_6IN6, CLIENT6, 58, 64, &icmp6(VIP_6IN6, CLIENT6, 129, 0, b"idsq!"))));
    let big = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[7; 1441]));
    let big6 = v6(6, &tcp(40000, 80, ACK, &[7; 1440]));
    let stranger = ethernet(V4, &ipv4(CLIENT, STRANGER, 6, &tcp(1, 2, SYN, &[])));
    let segment = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, b"x"));
    let sent = in4(4, 0, &segment);
    let came = |tags| with_tags(&ethernet(V4, &segment), tags);
    let first = piece(9, 0, true, 17, &udp(5353, 53, &[7; 16]));
    let last = piece(9, 3, false, 17, &[7; 8]);
    let too_big =
        |frame: &[u8], tags: &[[u8; 4]]| Expected::AnswerFor(Reason::TooBigAnswered, with_tags(frame, tags));
    vec![
        case("a tagged ping", with_tags(&ping, &[TAG]), Expected::Answer(with_tags(&pong, &[TAG]))),
        case(
            "a ping with two tags, IPv6",
            with_tags(&ping6, &[OUTER_TAG, TAG]),
            Expected::Answer(with_tags(&pong6, &[OUTER_TAG, TAG])),
        ),
        case(
            "too big, tagged",
            with_tags(&ethernet(V4, &big), &[TAG]),
            too_big(&too_big4(&big, 1480), &[TAG]),
        ),
        case(
            "too big, two tags, IPv6",
            with_tags(&ethernet(V6, &big6), &[OUTER_TAG, TAG]),
            too_big(&too_big6(&big6, 1460), &[OUTER_TAG, TAG]),
        ),
        case(
            "a ping with three tags",
            with_tags(&ping, &[OUTER_TAG, TAG, TAG]),
            Expected::Pass(Reason::PassNotIp),
        ),
        case("a tagged packet keeps its tag", came(&[TAG]), Expected::Tx(with_tags(&sent, &[TAG]))),
        case(
            "a packet with two tags keeps both",
            came(&[OUTER_TAG, TAG]),
            Expected::Tx(with_tags(&sent, &[OUTER_TAG, TAG])),
        ),
        changed(
            "a packet with two tags leaves by another interface without",
            &[Change::Egress("v4", 7)],
            came(&[OUTER_TAG, TAG]),
            Expected::Redirect(sent.clone()),
        ),
        changed(
            "a tagged packet to another VLAN",
            &[Change::Vlan("v4", 100)],
            came(&[TAG]),
            Expected::Tx(with_tags(&sent, &[[0x81, 0, 0, 100]])),
        ),
        changed(
            "a packet with two tags to a VLAN of another interface",
            &[Change::Vlan("v4", 100), Change::Egress("v4", 7)],
            came(&[OUTER_TAG, TAG]),
            Expected::Redirect(with_tags(&sent, &[[0x81, 0, 0, 100]])),
        ),
        behind(
            "a later fragment, tagged",
            &[with_tags(&ethernet(V4, &first), &[TAG])],
            with_tags(&ethernet(V4, &last), &[TAG]),
            Expected::Tx(with_tags(&in4(4, 0, &last), &[TAG])),
        ),
        case("tagged, another address", with_tags(&stranger, &[TAG]), Expected::Pass(Reason::PassNotVip)),
        case(
            "a tag and nothing else",
            with_tags(&ethernet(V4, &[]), &[TAG])[..16].to_vec(),
            Expected::Pass(Reason::PassNotIp),
        ),
    ]
}
