//! QUIC: packets placed by the connection id that they carry.

use super::*;
use lb_userspace::plan::image::Image;

/// All golden packets of this file.
pub(super) fn all() -> Vec<Case> {
    [quic(), pieces()].concat()
}

const VIP_QUIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 60);
const VIP_QUIC6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x60);
const QUIC_1: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 31);
const QUIC_2: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 31);
const QUIC_3: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 31);
/// A client whose plan names the pool of the east alone.
const CLIENT_EAST: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 7);

/// A datagram with a short header and this connection id.
fn short(client: Ipv4Addr, port: u16, id: &[u8]) -> Vec<u8> {
    let payload = [&[0x41][..], id, &[0xaa; 24]].concat();
    ipv4(client, VIP_QUIC, 17, &udp(port, 443, &payload))
}

/// A datagram with a long header: type, version, connection id.
fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
    let head = [&[0xc0 | kind << 4][..], &version.to_be_bytes(), &[id.len() as u8]].concat();
    let payload = [&head[..], id, &[0xaa; 40]].concat();
    ipv4(CLIENT, VIP_QUIC, 17, &udp(4433, 443, &payload))
}

fn to(backend: Ipv4Addr, inner: &[u8]) -> Expected {
    let header = Ipv4 { tos: 0, id: 0, fragment: 0x4000, ttl: 64, options: Vec::new() };
    Expected::Tx(out(V4, &header.packet(TUNNEL, backend, 4, inner)))
}

/// The first byte of a connection id of configuration 2, and of 3.
const CONFIG_2: u8 = 0x5f;
const CONFIG_3: u8 = 0x60;

fn close_quic_west(image: &mut Image) {
    let pool = image.names.pools.iter().position(|name| name == "quic/west").expect("the fixture has it");
    image.admission[usize::from(image.pools[pool].admission)] = Admission::CLOSED;
}

fn quic() -> Vec<Case> {
    let id = |last: u8| [CONFIG_2, 0x0a, 0x0b, 0x0c, last, 9, 9, 9, 9];
    let placed = |name, packet: Vec<u8>, backend| {
        let expected = to(backend, &packet);
        case(name, ethernet(V4, &packet), expected)
    };
    // All but one backend is drained: a flow that may open goes to the one left, an established one where it belongs.
    let drain = |others: [&'static str; 2]| others.map(|name| Change::Backend(name, Admission::new(0, 255)));
    let drained = |name, others, packet: Vec<u8>, backend| {
        let expected = to(backend, &packet);
        changed(name, &drain(others), ethernet(V4, &packet), expected)
    };
    let not_1 = ["quic-2", "quic-3"];
    let not_2 = ["quic-1", "quic-3"];
    let retired = ["quic-1", "quic-2"];
    let short_id = [&[0xe0][..], &1_u32.to_be_bytes(), &[3], &id(0x0f), &[0xaa; 40]].concat();
    let short_id = ipv4(CLIENT, VIP_QUIC, 17, &udp(4433, 443, &short_id));
    vec![
        placed("QUIC, the id of server 1", short(CLIENT, 1, &id(0x0d)), QUIC_1),
        placed("QUIC, the id of server 2", short(CLIENT, 1, &id(0x0e)), QUIC_2),
        placed("QUIC, the id of server 2 from another port", short(CLIENT, 2, &id(0x0e)), QUIC_2),
        placed("QUIC, another pool of the plan", short(CLIENT, 1, &id(0x0f)), QUIC_3),
        placed("QUIC, the other configuration", short(CLIENT, 1, &[CONFIG_3, 2, 1, 1, 1, 1, 1, 1]), QUIC_2),
        placed("QUIC, Handshake", long(2, 1, &id(0x0e)), QUIC_2),
        placed("QUIC version 2, Handshake", long(3, 0x6b33_43cf, &id(0x0e)), QUIC_2),
        placed("QUIC, a pool that the client's plan does not name", short(CLIENT_EAST, 1, &id(0x0d)), QUIC_3),
        drained("QUIC, established, its server drained", not_1, short(CLIENT, 1, &id(0x0e)), QUIC_2),
        drained("QUIC, Initial with the id of a drained server", not_1, long(0, 1, &id(0x0e)), QUIC_1),
        drained("QUIC, 0-RTT with the id of a drained server", not_2, long(1, 1, &id(0x0d)), QUIC_2),
        drained("QUIC version 2, Initial", not_2, long(1, 0x6b33_43cf, &id(0x0d)), QUIC_2),
        drained("QUIC of an unknown version", not_2, long(2, 0x0a0a_0a0a, &id(0x0d)), QUIC_2),
        changed(
            "QUIC, its server down",
            &[Change::Backend("quic-1", Admission::CLOSED), Change::Backend("quic-3", Admission::CLOSED)],
            ethernet(V4, &short(CLIENT, 1, &id(0x0d))),
            to(QUIC_2, &short(CLIENT, 1, &id(0x0d))),
        ),
        changed(
            "QUIC, the pool of its server takes no flows",
            &[Change::Image(close_quic_west)],
            ethernet(V4, &short(CLIENT, 1, &id(0x0d))),
            to(QUIC_3, &short(CLIENT, 1, &id(0x0d))),
        ),
        changed(
            "QUIC, an id that cannot be routed goes by its tuple, as established",
            &[Change::Domain("west", Admission::CLOSED), Change::Backend("quic-3", Admission::new(0, 255))],
            ethernet(V4, &short(CLIENT, 1, &[0xe0, 1, 2, 3, 4, 5, 6, 7, 8])),
            to(QUIC_3, &short(CLIENT, 1, &[0xe0, 1, 2, 3, 4, 5, 6, 7, 8])),
        ),
        changed(
            "QUIC, an unknown server goes by its tuple, as established",
            &[Change::Domain("west", Admission::CLOSED), Change::Backend("quic-3", Admission::new(0, 255))],
            ethernet(V4, &short(CLIENT, 1, &id(0x77))),
            to(QUIC_3, &short(CLIENT, 1, &id(0x77))),
        ),
        // What stands behind it would make it the id of server 3.
        changed(
            "QUIC, established, a connection id shorter than a server id",
            &[Change::Backend("quic-2", Admission::CLOSED)],
            ethernet(V4, &short_id),
            to(QUIC_1, &short_id),
        ),
        changed(
            "QUIC, a connection id shorter than a server id",
            &drain(retired),
            ethernet(V4, &long(0, 1, &id(0x0d)[..3])),
            to(QUIC_3, &long(0, 1, &id(0x0d)[..3])),
        ),
    ]
}

/// What has no UDP header right behind an IPv4 header: fragments, extension headers, errors.
fn pieces() -> Vec<Case> {
    let id = |last: u8| [CONFIG_2, 0x0a, 0x0b, 0x0c, last, 9, 9, 9, 9];
    let drain = |others: [&'static str; 2]| others.map(|name| Change::Backend(name, Admission::new(0, 255)));
    let datagram = |kind: u8, server: u8| udp(4433, 443, &[&[kind][..], &id(server), &[0xaa; 40]].concat());
    let cut = |fragment| Ipv4 { id: 9, fragment, ..Ipv4::default() };
    let first = |server| cut(0x2000).packet(CLIENT, VIP_QUIC, 17, &datagram(0x41, server)[..48]);
    let last = cut(6).packet(CLIENT, VIP_QUIC, 17, &[0xaa; 10]);
    let options = Ipv4 { options: vec![1; 8], ..Ipv4::default() };
    let with_options = |server| options.packet(CLIENT, VIP_QUIC, 17, &datagram(0x41, server));
    // Destination options of eight bytes: pad with four.
    let behind_options = |server| {
        let header = [17, 0, 1, 4, 0, 0, 0, 0];
        ipv6(CLIENT6, VIP_QUIC6, 60, 60, &[&header[..], &datagram(0x41, server)].concat())
    };
    let answer = ipv4(VIP_QUIC, CLIENT, 17, &udp(443, 4433, &[0x41; 30]));
    let error = ipv4(STRANGER, VIP_QUIC, 1, &icmp(3, 4, &[&[0, 0, 5, 0][..], &answer].concat()));
    let mut cases: Vec<Case> = [(0x0d, QUIC_1), (0x0e, QUIC_2)]
        .into_iter()
        .flat_map(|(server, backend)| {
            let outer6 = in4_to(backend, 41, 0, &behind_options(server));
            [
                case("QUIC, a first fragment", ethernet(V4, &first(server)), to(backend, &first(server))),
                behind(
                    "QUIC, a later fragment",
                    &[ethernet(V4, &first(server))],
                    ethernet(V4, &last),
                    to(backend, &last),
                ),
                case(
                    "QUIC, with options",
                    ethernet(V4, &with_options(server)),
                    to(backend, &with_options(server)),
                ),
                case(
                    "QUIC behind an extension header",
                    ethernet(V6, &behind_options(server)),
                    Expected::Tx(outer6),
                ),
            ]
        })
        .collect();
    // Whichever is the flow's home: as an established flow's it goes to the only one that takes no new flows.
    cases.push(changed(
        "QUIC, an error counts as established",
        &[Change::Domain("west", Admission::CLOSED), Change::Backend("quic-3", Admission::new(0, 255))],
        ethernet(V4, &error),
        to(QUIC_3, &error),
    ));
    for others in [["quic-1", "quic-3"], ["quic-2", "quic-3"]] {
        let initial = cut(0x2000).packet(CLIENT, VIP_QUIC, 17, &{
            let head = [&[0xc0][..], &1_u32.to_be_bytes(), &[9], &id(0x0d), &[0xaa; 42]].concat();
            udp(4433, 443, &head)[..56].to_vec()
        });
        let left = if others[0] == "quic-1" { QUIC_2 } else { QUIC_1 };
        cases.push(changed(
            "QUIC, an Initial in fragments opens a connection",
            &drain(others),
            ethernet(V4, &initial),
            to(left, &initial),
        ));
    }
    cases
}
