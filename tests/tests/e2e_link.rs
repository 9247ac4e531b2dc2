//! The edge on the link of its backends: L2 DSR, VIPs that nobody routes, what the edge tells the link at its start, next hops that only
//! the kernel knows, and a next hop whose Ethernet address changes.
use anyhow::{Context, Result, ensure};
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e,
    lab::{
        Check, ConfigOptions, Daemon, Lab, Netns, VIP_V4, VIP_V6,
        topology::{Backend, VIP_PREFIX_V4, VIP_PREFIX_V6, gateway_v4, gateway_v6},
        web_vips,
    },
};
use lb_userspace::api::types::BackendView;
use socket2::{Domain, Protocol, Socket, Type};
use std::{collections::BTreeSet, fs, io::Read, net::IpAddr, process::Command, time::Duration};

/// `ETH_P_ALL`, as socket(2) wants it.
const ALL_PROTOCOLS: u16 = 0x0003_u16.to_be();
/// Ethernet address that a backend takes while it serves.
const OTHER_MAC: &str = "02:aa:aa:aa:aa:aa";
/// What `ip route` takes for a way that no stack expects.
const NARROW: &str = " mtu lock 700";
const BROADCAST: [u8; 6] = [0xff; 6];
const ALL_NODES_MAC: [u8; 6] = [0x33, 0x33, 0, 0, 0, 1];

/// Takes the router's port to the edge into the bridge of the only rack: router, edge and backends share a link then, on which the
/// router asks who has a VIP.
fn flatten(lab: &Lab) {
    let (edge, rack) = (&lab.topology().edges[0], &lab.topology().racks[0]);
    let (port, bridge) = (&edge.name, &rack.bridge);
    let commands = [
        format!("route del {VIP_PREFIX_V4}"),
        format!("route del {VIP_PREFIX_V6}"),
        format!("addr flush dev {port}"),
        format!("link set {port} master {bridge}"),
        format!("addr add {}/24 dev {bridge}", gateway_v4(edge.v4, 1)),
        format!("addr add {}/64 dev {bridge} nodad", gateway_v6(edge.v6, 1)),
        format!("route add {VIP_PREFIX_V4} dev {bridge}"),
        format!("route add {VIP_PREFIX_V6} dev {bridge}"),
    ];
    lab.router_netns().ip(&commands).unwrap();
}

fn set(netns: &Netns, key: &str, value: &str) {
    let path = format!("/proc/sys/net/{key}");
    netns.run(|| fs::write(&path, value).with_context(|| path.clone())).unwrap();
}

fn run(netns: &Netns, program: &str, arguments: &str) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments.split(' '));
    let output = netns.run(move || Ok(command.output()?))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    ensure!(output.status.success(), "{program} {arguments}: {}", text(&output.stderr));
    Ok(text(&output.stdout))
}

/// The Ethernet address of a host's interface.
fn mac(netns: &Netns) -> String {
    let text = run(netns, "ip", "-o link show dev eth0").unwrap();
    let behind = text.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next());
    behind.unwrap_or_else(|| panic!("no address in {text}")).to_owned()
}

/// Hears every frame that a backend gets, as long as it is listened to: what is not heard in time is lost.
struct Ear(Socket);

impl Ear {
    fn of(lab: &Lab, backend: &str) -> Self {
        let open = || {
            let socket =
                Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(i32::from(ALL_PROTOCOLS))))?;
            socket.set_read_timeout(Some(Duration::from_millis(20)))?;
            Ok(socket)
        };
        Self(lab.backend_netns(backend).unwrap().run(open).unwrap())
    }

    /// The VIPs that somebody announced since the last call, each with the Ethernet address.
    fn announced(&mut self) -> BTreeSet<(IpAddr, [u8; 6])> {
        let mut found = BTreeSet::new();
        let mut frame = [0; 2048];
        while let Ok(length) = self.0.read(&mut frame) {
            found.extend(announcement(&frame[..length]));
        }
        found
    }
}

/// What a gratuitous ARP (RFC 5227, section 2.3) or an unsolicited neighbour advertisement (RFC 4861, section 7.2.6) says.
fn announcement(frame: &[u8]) -> Option<(IpAddr, [u8; 6])> {
    let (to, from) = (frame.get(..6)?, frame.get(6..12)?);
    let from: [u8; 6] = from.try_into().ok()?;
    match frame.get(12..14)? {
        [0x08, 0x06] => {
            let message = frame.get(14..42)?;
            let request = message[..8] == [0, 1, 8, 0, 6, 4, 0, 1] && to == BROADCAST;
            let own = message[8..14] == from && message[14..18] == message[24..28];
            let vip: [u8; 4] = message[14..18].try_into().ok()?;
            (request && own).then_some((vip.into(), from))
        }
        [0x86, 0xdd] => {
            let (header, message) = (frame.get(14..54)?, frame.get(54..86)?);
            let advertises = header[6] == 58 && header[7] == 255 && message[..2] == [136, 0];
            // Not solicited, overrides, with the option that says where.
            let flags = message[4] == 0x20 && message[24..26] == [2, 1] && message[26..] == from;
            let vip: [u8; 16] = message[8..24].try_into().ok()?;
            (advertises && flags && to == ALL_NODES_MAC && header[8..24] == vip).then_some((vip.into(), from))
        }
        _ => None,
    }
}

fn count(daemon: &Daemon<'_>, reason: Reason) -> u64 {
    let reasons = e2e::status(daemon).traffic.reasons;
    reasons.iter().find(|count| count.reason == reason.name()).map_or(0, |count| count.packets)
}

/// Both backends serve a client, over both families.
#[track_caller]
fn assert_all_serve(lab: &Lab, ports: std::ops::Range<u16>) {
    let all = lab.topology().names_in("west");
    for vip in web_vips() {
        let map = lab.flow_map("west", vip, ports.clone()).unwrap();
        assert!(map.failed.is_empty(), "{vip}: {:?}", map.failed);
        assert_eq!(map.counts().into_keys().collect::<BTreeSet<_>>(), all, "{vip}");
    }
}

fn options(forwarding: &str) -> ConfigOptions {
    let every_service = format!("reach = \"arp\"\nforwarding = \"{forwarding}\"");
    ConfigOptions { every_service, ..e2e::calm() }
}

/// A daemon whose services may serve nobody yet.
fn start<'lab>(lab: &'lab Lab, options: &ConfigOptions) -> Daemon<'lab> {
    let daemon = lab.start_daemon(&lab.write_config(options).unwrap()).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    daemon
}

/// The edge tells the link where both VIPs are, and nothing else.
#[track_caller]
fn assert_announced(ear: &mut Ear, edge_mac: [u8; 6]) {
    let expected: BTreeSet<_> = [IpAddr::V4(VIP_V4), VIP_V6.into()].map(|vip| (vip, edge_mac)).into();
    let mut heard = BTreeSet::new();
    e2e::eventually("both VIPs are announced", || {
        heard.extend(ear.announced());
        ensure!(heard.is_superset(&expected), "{heard:?}");
        Ok(())
    });
    assert_eq!(heard, expected);
}

#[test]
fn an_edge_on_the_link_of_its_backends() {
    let lab = e2e::raise_rack(2);
    flatten(&lab);
    let edge = lab.edge_netns(0).unwrap();
    let edge_mac = mac(edge);
    let bytes: Vec<u8> = edge_mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    let edge_mac: [u8; 6] = bytes.try_into().unwrap();
    let rack = lab.topology().racks[0].clone();

    // No route leads to the backends when the daemon looks for one: packets for them are dropped.
    let own = &lab.topology().edges[0];
    edge.ip(&[
        format!("route del default via {}", gateway_v4(own.v4, 1)),
        format!("route del default via {}", gateway_v6(own.v6, 1)),
    ])
    .unwrap();
    let mut ear = Ear::of(&lab, "w1r1b2");
    let options_ipip = ConfigOptions { check: Check::None, ..options("ipip") };
    let daemon = start(&lab, &options_ipip);
    assert_announced(&mut ear, edge_mac);
    assert!(lab.curl_vip("west", web_vips()[0]).is_err());
    let lost = count(&daemon, Reason::NoNextHop);
    assert!(lost > 0);
    assert_eq!(e2e::status(&daemon).unresolved_next_hops.len(), 2);
    daemon.kill9().unwrap();

    // Nobody tells the data plane any more; the kernel learns the way. It is asked where it forwards, and only there.
    let mut learn = vec![
        format!("addr add {}/24 dev eth0", gateway_v4(rack.gateway_v4, 2)),
        format!("addr add {}/64 dev eth0 nodad", gateway_v6(rack.gateway_v6, 2)),
    ];
    for backend in &lab.topology().backends {
        let mac = mac(lab.backend_netns(&backend.name).unwrap());
        learn.push(format!("neigh replace {} lladdr {mac} dev eth0 nud reachable", backend.v4));
    }
    edge.ip(&learn).unwrap();
    set(edge, "ipv4/conf/eth0/forwarding", "0");
    assert!(lab.curl_vip("west", web_vips()[0]).is_err(), "the kernel does not forward");
    set(edge, "ipv4/conf/eth0/forwarding", "1");
    assert_all_serve(&lab, 20_000..20_040);
    // Its way is narrower than clients' packets: whoever sends too much is told by how much.
    let upload = lab.directory().join("upload");
    fs::write(&upload, vec![b'x'; 300_000]).unwrap();
    let body = format!("@{}", upload.display());
    let routes = |change: &str, more: &str| {
        let of = |backend: &Backend| format!("route {change} {}/32 dev eth0{more}", backend.v4);
        lab.topology().backends.iter().map(of).collect::<Vec<_>>()
    };
    edge.ip(&routes("add", NARROW)).unwrap();
    lab.curl_with("west", &["--data-binary", &body, &format!("http://{}/", web_vips()[0])]).unwrap();
    edge.ip(&routes("del", "")).unwrap();
    set(edge, "ipv4/conf/eth0/forwarding", "0");

    let tunnelled = || lab.tunnel_traffic("west").unwrap().packets;
    let before = tunnelled();
    assert!(before > 0);

    // L2 DSR: only Ethernet addresses change. A daemon that goes over to it announces, and so does one that takes over what runs.
    let direct = options("l2");
    let _ = ear.announced();
    let daemon = e2e::start(&lab, &direct);
    assert_announced(&mut ear, edge_mac);
    assert_all_serve(&lab, 20_000..20_040);
    for vip in web_vips() {
        lab.curl_with("west", &["--data-binary", &body, &format!("http://{vip}/")]).unwrap();
    }
    assert_eq!((count(&daemon, Reason::NotOnLink), tunnelled()), (0, before));
    daemon.kill9().unwrap();
    let _ = ear.announced();
    let daemon = e2e::start(&lab, &direct);
    assert_announced(&mut ear, edge_mac);

    // The link goes and comes: whoever forgot is told.
    let _ = ear.announced();
    let port = &lab.topology().edges[0].name;
    lab.router_netns().ip(&[format!("link set {port} down")]).unwrap();
    // The kernel tells carriers once a second at most: one that comes back sooner was never away.
    e2e::eventually("the kernel tells that the carrier is gone", || {
        let shown = run(edge, "ip", "-o link show dev eth0")?;
        ensure!(shown.contains("NO-CARRIER") && !shown.contains("state UP"), "{shown}");
        Ok(())
    });
    lab.router_netns().ip(&[format!("link set {port} up")]).unwrap();
    assert_announced(&mut ear, edge_mac);
    lab.router_netns().ip(&["neigh flush all"]).unwrap();
    let asked = count(&daemon, Reason::NeighbourAnswered);
    e2e::eventually("both serve again", || lab.curl_vip("west", web_vips()[0]));
    assert!(count(&daemon, Reason::NeighbourAnswered) > asked, "the router asked again");

    // A backend's Ethernet address changes, and it says so; packets follow.
    let backend = lab.backend_netns("w1r1b1").unwrap();
    set(backend, "ipv4/conf/eth0/arp_notify", "1");
    backend.ip(&[format!("link set eth0 address {OTHER_MAC}")]).unwrap();
    e2e::eventually("the next hop follows", || {
        let view: BackendView = e2e::ask(&daemon, &["backend", "show", "w1r1b1"]);
        let hop = view.next_hop.context("no next hop")?;
        ensure!(hop.mac == OTHER_MAC, "{hop:?}");
        Ok(())
    });
    e2e::wait_all_up(&daemon);
    assert_all_serve(&lab, 20_000..20_040);
    daemon.sigterm().unwrap();
}
