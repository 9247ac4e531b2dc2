use super::super::compile::compile;
use super::super::transition::{Running, Unneeded, succeed};
use super::*;
use crate::config::Config;
use std::fmt::Write as _;

/// Backends of the west and of the east, the pools of each client region's plan, and whether the service is there.
struct Scene<'s> {
    west: &'s [u8],
    east: &'s [u8],
    inland: &'s str,
    service: bool,
}

const BOTH: &str = "\"west\", \"east\"";

fn image(scene: &Scene<'_>) -> Image {
    let mut text = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.r0]
z0 = ["k0"]
z1 = ["k0"]
[client_regions]
inland = ["198.51.100.0/24"]
"#
    .to_owned();
    for (name, zone, backends) in [("west", 0, scene.west), ("east", 1, scene.east)] {
        let _ = writeln!(text, "[[set]]\nname = \"{name}\"\ndomain = \"r0/z{zone}\"");
        for b in backends {
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"{name}-{b}\"\nrack = \"r0/z{zone}/k0\"\naddress = \"10.1.{zone}.{b}\"\n\
                 quic_server_id = \"0{zone}{b:02x}\""
            );
        }
    }
    let mut service = |name: &str, port: u16| {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"192.0.2.1\"\nport = {port}\nprotocol = \"udp\"\n\
             [service.quic]\nconfig_id = 1\nserver_id_length = 2\n\
             [[service.pool]]\nname = \"west\"\nsets = [\"west\"]\n[[service.pool]]\nname = \"east\"\nsets = [\"east\"]\n\
             [service.plan]\ndefault = [{BOTH}]\ninland = [{}]",
            scene.inland
        );
    };
    service("other", 444);
    if scene.service {
        service("h3", 443);
    }
    compile(&Config::parse(&text, "quic.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))).unwrap()
}

const FIRST: Scene<'_> = Scene { west: &[1, 2, 3], east: &[1, 2], inland: BOTH, service: true };

/// Endpoints that the server ids of the service at a port lead to, each with the plans whose clients reach it.
fn reached(image: &Image, port: u16) -> Vec<([u8; 4], Vec<bool>)> {
    let at = image.services.iter().position(|s| s.port == port.to_be_bytes()).unwrap();
    let service = &image.services[at];
    let of_service = image.quic.iter().filter(|(key, _)| key.service as usize == at);
    let mut all: Vec<_> = of_service
        .map(|(_, server)| {
            let [a, b, c, d, ..] = image.backends[server.backend as usize].outer_destination;
            let plans = (0..2).map(|region| names(&image.plans, service, region, server.pool)).collect();
            ([a, b, c, d], plans)
        })
        .collect();
    all.sort();
    all
}

fn next(scene: &Scene<'_>, before: &Image) -> Image {
    succeed(image(scene), &Running::of(before), &Unneeded::default()).unwrap().0
}

#[test]
fn the_server_id_of_a_backend_that_left_goes_on() {
    let first = image(&FIRST);
    let second = next(&Scene { west: &[1, 3], ..FIRST }, &first);
    for port in [443, 444] {
        assert_eq!(reached(&second, port), reached(&first, port));
    }
    // Once more, by what runs then; and when the backend is dropped, its id goes.
    let third = next(&Scene { west: &[3], ..FIRST }, &second);
    assert_eq!(reached(&third, 443), reached(&first, 443));
    let gone = (0..third.backends.len() as u32)
        .filter(|&at| third.backends[at as usize].flags & BACKEND_LEAVING != 0);
    let backends = gone.map(super::super::ids::BackendIndex).collect();
    let unneeded = Unneeded { backends, ..Unneeded::default() };
    let (fourth, _) =
        succeed(image(&Scene { west: &[3], ..FIRST }), &Running::of(&third), &unneeded).unwrap();
    assert_eq!(reached(&fourth, 443).len(), 3);
}

#[test]
fn the_server_ids_of_a_service_that_left_go_on() {
    let first = image(&FIRST);
    let second = next(&Scene { service: false, ..FIRST }, &first);
    let left = second.services.iter().find(|s| s.port == 443_u16.to_be_bytes()).unwrap();
    assert_ne!(left.flags & SERVICE_LEAVING, 0);
    assert_eq!(reached(&second, 443), reached(&first, 443));
    let third = next(&Scene { service: false, west: &[1], ..FIRST }, &second);
    assert_eq!(reached(&third, 443), reached(&first, 443));
}

#[test]
fn a_server_id_is_given_to_who_has_it_now() {
    let first = image(&FIRST);
    let mut text_scene = image(&Scene { west: &[1, 2], ..FIRST });
    // Server 3 of the west left, and its id is that of server 2 of the east now.
    let (of_left, _) = *first
        .quic
        .iter()
        .find(|(_, s)| first.backends[s.backend as usize].outer_destination[..4] == [10, 1, 0, 3])
        .unwrap();
    let service = of_left.service;
    let heir = text_scene.quic.iter_mut().find(|(key, s)| {
        key.service == service
            && text_scene.backends[s.backend as usize].outer_destination[..4] == [10, 1, 1, 2]
    });
    heir.unwrap().0.server_id = of_left.server_id;
    let (second, _) = succeed(text_scene, &Running::of(&first), &Unneeded::default()).unwrap();
    let found: Vec<_> = second.quic.iter().filter(|(key, _)| *key == of_left).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(second.backends[found[0].1.backend as usize].outer_destination[..4], [10, 1, 1, 2]);
}

#[test]
fn clients_that_could_not_reach_a_server_cannot_when_it_left() {
    // Clients inland are served by the east alone; a server of the west leaves.
    let own = Scene { inland: "\"east\"", ..FIRST };
    let first = image(&own);
    let second = next(&Scene { west: &[1, 2], ..own }, &first);
    let left = reached(&second, 443).into_iter().find(|(endpoint, _)| *endpoint == [10, 1, 0, 3]).unwrap();
    assert_eq!(left.1, [true, false]);
    // When the regions are other ones, nothing is known of who could.
    let mut other = image(&Scene { west: &[1, 2], ..own });
    other.root.clients_digest[0] ^= 1;
    let (third, _) = succeed(other, &Running::of(&first), &Unneeded::default()).unwrap();
    assert!(reached(&third, 443).iter().all(|(endpoint, _)| *endpoint != [10, 1, 0, 3]));
    let everywhere = image(&FIRST);
    let mut other = image(&Scene { west: &[1, 2], ..FIRST });
    other.root.clients_digest[0] ^= 1;
    let (fourth, _) = succeed(other, &Running::of(&everywhere), &Unneeded::default()).unwrap();
    assert_eq!(reached(&fourth, 443), reached(&everywhere, 443), "all clients could");
}
