//! No silent drop: every packet that arrives at the edge is forwarded, or has exactly one reason.
use anyhow::ensure;
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e,
    golden::packets::{ACK, Ipv4, SYN, icmp, icmp6, ipv4, ipv6, tcp, udp},
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4, VIP_V6, topology::gateway_v4},
};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr, UdpSocket},
    process::Command,
};

/// Packets of each kind.
const EACH: u64 = 25;
/// `IPPROTO_RAW`: the packet is sent as it is, header included.
const RAW: i32 = 255;
/// Bytes that the edge's route takes once a packet is encapsulated.
const SMALL_MTU: u16 = 1400;
const GRE: u8 = 47;
const DESTINATION_OPTIONS: u8 = 60;
const FRAGMENT: u8 = 44;
const SOURCE_PORT: u16 = 20_000;

/// A kind of packets: what they are, one of them, what must become of each.
type Kind = (&'static str, Vec<u8>, Reason);

fn kinds(lab: &Lab) -> Vec<Kind> {
    let client = lab.topology().client("west").unwrap();
    let (s4, s6) = (client.v4, client.v6);
    let udp_to = |port| udp(SOURCE_PORT, port, b"who?");
    let later_fragment = Ipv4 { fragment: 0x00b9, ..Ipv4::default() };
    let orphan = Ipv4 { id: 0x7777, fragment: 0x00b9, ..Ipv4::default() };
    let with_options = Ipv4 { options: vec![1, 1, 1, 0], ..Ipv4::default() };
    let large = udp(SOURCE_PORT, 7, &[b'x'; 1400]);
    let mut options = vec![17, 0, 1, 4, 0, 0, 0, 0];
    options.extend(udp_to(7));
    let mut fragment = vec![17, 0, 0, 1, 0, 0, 0, 9];
    fragment.extend(udp_to(7));
    let v4 = |protocol, payload: &[u8]| ipv4(s4, VIP_V4, protocol, payload);
    let v6 = |next, payload: &[u8]| ipv6(s6, VIP_V6, next, 60, payload);
    vec![
        ("v4 datagram", v4(17, &udp_to(7)), Reason::Forwarded),
        ("v6 datagram", v6(17, &udp_to(7)), Reason::Forwarded),
        ("v4 datagram with IP options", with_options.packet(s4, VIP_V4, 17, &udp_to(7)), Reason::Forwarded),
        ("v4 segment of no connection", v4(6, &tcp(SOURCE_PORT, 80, ACK, b"")), Reason::Forwarded),
        ("v4 too large for the tunnel", v4(17, &large), Reason::TooBigAnswered),
        ("v6 too large for the tunnel", v6(17, &large), Reason::TooBigAnswered),
        (
            "v4 first fragment",
            Ipv4 { fragment: 0x2000, ..Ipv4::default() }.packet(s4, VIP_V4, 17, &udp_to(7)),
            Reason::Forwarded,
        ),
        ("v4 later fragment", later_fragment.packet(s4, VIP_V4, 17, &udp_to(7)), Reason::Forwarded),
        (
            "v4 fragment of an unknown datagram",
            orphan.packet(s4, VIP_V4, 17, &udp_to(7)),
            Reason::FragmentOrphan,
        ),
        ("v6 first fragment", v6(FRAGMENT, &fragment), Reason::Forwarded),
        ("v6 destination options", v6(DESTINATION_OPTIONS, &options), Reason::Forwarded),
        ("v4 TCP to an unknown port", v4(6, &tcp(SOURCE_PORT, 81, SYN, b"")), Reason::PassNotVip),
        ("v6 UDP to an unknown port", v6(17, &udp_to(9)), Reason::PassNotVip),
        ("v4 GRE", v4(GRE, &[0; 24]), Reason::PassNotVip),
        ("v6 GRE", v6(GRE, &[0; 24]), Reason::PassNotVip),
        ("v4 UDP cut short", v4(17, &[0x4e, 0x20, 0, 7]), Reason::Malformed),
        ("v6 TCP cut short", v6(6, &[0x4e, 0x20, 0, 80, 0, 0, 0, 0]), Reason::Malformed),
        ("v4 echo request", v4(1, &icmp(8, 0, &[0, 1, 0, 1, 5, 6])), Reason::EchoAnswered),
        ("v6 echo request", v6(58, &icmp6(s6, VIP_V6, 128, 0, &[0, 1, 0, 1, 5, 6])), Reason::EchoAnswered),
        ("v4 timestamp request", v4(1, &icmp(13, 0, &[0; 16])), Reason::IcmpUnsupported),
        (
            "v6 packet too big about nothing",
            v6(58, &icmp6(s6, VIP_V6, 2, 0, &[0; 44])),
            Reason::IcmpUnmatched,
        ),
    ]
}

/// Sends packets from the client of a region, several of each kind, kinds mixed.
fn send(lab: &Lab, kinds: &[Kind]) {
    let netns = lab.client_netns("west").unwrap();
    let sent = netns.run(|| {
        let v4 = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        let v6 = Socket::new(Domain::IPV6, Type::RAW, Some(Protocol::from(RAW)))?;
        for _ in 0..EACH {
            for (what, packet, _) in kinds {
                let (socket, vip) = match packet[0] >> 4 {
                    4 => (&v4, IpAddr::from(VIP_V4)),
                    _ => (&v6, VIP_V6.into()),
                };
                let send = || socket.send_to(packet, &SockAddr::from(SocketAddr::new(vip, 0)));
                let sent = send().or_else(|error| match error.raw_os_error() {
                    // The edge has said what fits. Here it is not to be heeded.
                    Some(libc::EMSGSIZE) => {
                        for family in ["-4", "-6"] {
                            Command::new("ip").args([family, "route", "flush", "cache"]).status()?;
                        }
                        send()
                    }
                    _ => Err(error),
                });
                assert_eq!(sent.unwrap_or_else(|error| panic!("{what}: {error}")), packet.len(), "{what}");
            }
        }
        Ok(())
    });
    sent.unwrap();
}

/// Packets that arrived at the edge, by its interface's own count, and those lost there before the program saw them.
fn arrived(lab: &Lab) -> (u64, u64) {
    let mut command = Command::new("ip");
    command.args(["-j", "-s", "link", "show", "dev", "eth0"]);
    let output = lab.edge_netns(0).unwrap().run(move || Ok(command.output()?)).unwrap();
    let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rx = |name: &str| links[0]["stats64"]["rx"][name].as_u64().unwrap();
    (rx("packets"), rx("dropped"))
}

/// What arrived and what became of it, read while nothing came.
#[derive(Debug)]
struct Tally {
    arrived: u64,
    lost: u64,
    fates: BTreeMap<String, u64>,
    tunnelled: u64,
}

impl Tally {
    fn read(lab: &Lab, daemon: &Daemon<'_>) -> Tally {
        e2e::eventually("a moment without a packet", || {
            let (before, lost) = arrived(lab);
            let traffic = e2e::status(daemon).traffic;
            let tunnelled = lab.tunnel_traffic("west")?.packets;
            ensure!(arrived(lab) == (before, lost));
            let reasons = traffic.reasons.into_iter().map(|count| (count.reason, count.packets));
            let forwarded = (Reason::Forwarded.name().to_owned(), traffic.forwarded_packets);
            Ok(Tally { arrived: before, lost, fates: reasons.chain([forwarded]).collect(), tunnelled })
        })
    }

    fn count(&self, reason: Reason) -> u64 {
        self.fates.get(reason.name()).copied().unwrap_or(0)
    }
}

/// Sends all kinds, waits until each is accounted for, and checks that nothing else is.
fn assert_accounted(lab: &Lab, daemon: &Daemon<'_>, kinds: &[Kind]) {
    let before = Tally::read(lab, daemon);
    send(lab, kinds);
    let grown = |after: &Tally, reason| after.count(reason) - before.count(reason);
    let wanted = |reason| EACH * kinds.iter().filter(|(_, _, fate)| *fate == reason).count() as u64;
    let after = e2e::eventually("every packet is accounted for", || {
        let after = Tally::read(lab, daemon);
        for &reason in Reason::ALL {
            let (grown, wanted) = (grown(&after, reason), wanted(reason));
            // Neighbour discovery goes on at any time.
            let is_right = match reason {
                Reason::PassNotIp | Reason::PassNotVip => grown >= wanted,
                _ => grown == wanted,
            };
            ensure!(is_right, "{}: {grown}, sent {wanted}", reason.name());
        }
        let (sent, tunnelled) = (wanted(Reason::Forwarded), after.tunnelled - before.tunnelled);
        ensure!(tunnelled == sent, "{tunnelled} packets were sent to backends, and {sent} should be");
        Ok(after)
    });
    let accounted: u64 = Reason::ALL.iter().map(|&reason| grown(&after, reason)).sum();
    assert_eq!(accounted, after.arrived - before.arrived, "{before:?}\n{after:?}");
    assert!(accounted >= EACH * kinds.len() as u64);
    assert_eq!(after.lost, before.lost);
}

#[test]
fn every_packet_that_arrives_is_forwarded_or_has_one_reason() {
    let lab = e2e::raise_rack(2);
    let daemon = e2e::start(&lab, &ConfigOptions { check: Check::None, ..e2e::calm() });
    let mut kinds = kinds(&lab);
    let client = lab.topology().client("west").unwrap();
    // Takes the answers, so that the client does not complain to the VIP.
    let addresses = [IpAddr::from(client.v4), client.v6.into()];
    let open = || Ok(addresses.map(|address| UdpSocket::bind((address, SOURCE_PORT)).unwrap()));
    let _answers = lab.client_netns("west").unwrap().run(open).unwrap();

    let gateway = gateway_v4(lab.topology().edges[0].v4, 1);
    lab.edge_netns(0).unwrap().ip(&[format!("route change default via {gateway} mtu {SMALL_MTU}")]).unwrap();
    let large: Vec<Kind> =
        kinds.iter().filter(|(_, _, reason)| *reason == Reason::TooBigAnswered).cloned().collect();
    e2e::eventually("the daemon knows of the smaller MTU", || {
        let before = Tally::read(&lab, &daemon).count(Reason::TooBigAnswered);
        send(&lab, &large);
        ensure!(Tally::read(&lab, &daemon).count(Reason::TooBigAnswered) >= before + EACH);
        Ok(())
    });
    assert_accounted(&lab, &daemon, &kinds);

    e2e::act(&daemon, "domain", "fail", "west");
    // What becomes of it depends on whether its first fragment is still remembered.
    kinds.retain(|(what, _, _)| *what != "v4 later fragment");
    for (_, _, reason) in &mut kinds {
        if matches!(reason, Reason::Forwarded | Reason::TooBigAnswered) {
            *reason = Reason::AllDown;
        }
    }
    assert_accounted(&lab, &daemon, &kinds);
}
