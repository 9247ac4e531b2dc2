//! Real stacks through a real edge: datagrams in fragments, a path that is narrower than everyone believes, a range of ports and a
//! prefix as a VIP.
use anyhow::{Context, Result, ensure};
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e,
    lab::{ConfigOptions, Daemon, Lab, VIP_V4, VIP_V6, web_vips},
};
use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

/// Bytes of a datagram that takes three fragments.
const DATAGRAM: usize = 3_500;
/// Of a way so narrow that no stack expects it.
const NARROW_V4: u16 = 700;
/// The least that IPv6 can be tunnelled over in IPv4, and a bit.
const NARROW_V6: u16 = 1_310;
/// Bytes of an upload.
const UPLOAD: usize = 300_000;

fn count(daemon: &Daemon<'_>, reason: Reason) -> u64 {
    let reasons = e2e::status(daemon).traffic.reasons;
    reasons.iter().find(|count| count.reason == reason.name()).map_or(0, |count| count.packets)
}

/// A service of the lab's one region.
fn service(name: &str, address: &str, ports: &str, protocol: &str) -> String {
    format!(
        "\n[[service]]\nname = \"{name}\"\naddress = \"{address}\"\n{ports}\nprotocol = \"{protocol}\"\n\
         [[service.pool]]\nname = \"west\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
    )
}

/// Sends a datagram from the client to a socket on the backend, and says how many bytes of it arrived whole.
fn datagram(lab: &Lab, backend: &UdpSocket, to: SocketAddr) -> Result<usize> {
    let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = lab.client_netns("west")?.run(|| Ok(UdpSocket::bind(any)?))?;
    let content: Vec<u8> = (0..DATAGRAM).map(|i| (i * 7) as u8).collect();
    socket.send_to(&content, to).context("send")?;
    let mut arrived = vec![0; 65_536];
    let (length, _) = backend.recv_from(&mut arrived).context("nothing arrived")?;
    ensure!(arrived[..length] == content, "{length} other bytes arrived");
    Ok(length)
}

#[test]
fn datagrams_in_fragments_arrive_whole() {
    let lab = e2e::raise_rack(1);
    let extra = [
        service("wide", &VIP_V4.to_string(), "ports = \"9000-9099\"", "udp"),
        service("wide6", &VIP_V6.to_string(), "ports = \"any\"", "udp"),
    ];
    let daemon = e2e::start(&lab, &ConfigOptions { extra: extra.concat(), ..e2e::calm() });
    let backend = lab.backend_netns("w1r1b1").unwrap();
    for vip in [SocketAddr::from((VIP_V4, 9042)), SocketAddr::from((VIP_V6, 9042))] {
        let socket = backend.run(|| Ok(UdpSocket::bind(vip)?)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        assert_eq!(
            e2e::eventually("a datagram in fragments", || datagram(&lab, &socket, vip)),
            DATAGRAM,
            "{vip}"
        );
    }
    assert_eq!(count(&daemon, Reason::Fragment), 0);
    daemon.sigterm().unwrap();
}

#[test]
fn an_upload_finds_its_way_through_a_narrow_path() {
    let lab = e2e::raise_rack(1);
    let daemon = e2e::start(&lab, &e2e::calm());
    let backend = lab.topology().backend("w1r1b1").unwrap().v4;
    let upload = lab.directory().join("upload");
    std::fs::write(&upload, vec![b'x'; UPLOAD]).unwrap();
    let body = format!("@{}", upload.display());
    for (vip, mtu) in web_vips().into_iter().zip([NARROW_V4, NARROW_V6]) {
        let before = count(&daemon, Reason::TooBigAnswered);
        let gateway = lb_tests::lab::topology::gateway_v4(lab.topology().edges[0].v4, 1);
        let route = format!("route replace {backend}/32 via {gateway} mtu {mtu}");
        lab.edge_netns(0).unwrap().ip(&[route]).unwrap();
        // The daemon takes note of the route in its own time: until then uploads need no answer.
        e2e::eventually(&format!("{vip} by {mtu} bytes"), || {
            let args = ["--data-binary", &body, &format!("http://{vip}/")];
            let name = lab.curl_with("west", &args)?;
            ensure!(name.trim_end() == "w1r1b1", "{name}");
            ensure!(count(&daemon, Reason::TooBigAnswered) > before, "nothing was too big");
            Ok(())
        });
    }
    daemon.sigterm().unwrap();
}

#[test]
fn a_range_and_a_prefix_are_reached_by_curl() {
    let lab = e2e::raise_rack(2);
    let extra = [
        service("range", "192.0.2.11", "ports = \"70-90\"", "tcp"),
        service("prefix", "192.0.2.64/26", "port = 80", "tcp"),
        service("prefix6", "2001:db8:100:5::/64", "ports = \"any\"", "tcp"),
    ];
    for backend in ["w1r1b1", "w1r1b2"] {
        let local = ["192.0.2.11/32", "192.0.2.64/26", "2001:db8:100:5::/64"];
        let routes = local.map(|prefix| format!("route add local {prefix} dev lo"));
        lab.backend_netns(backend).unwrap().ip(&routes).unwrap();
    }
    let daemon = e2e::start(&lab, &ConfigOptions { extra: extra.concat(), ..e2e::calm() });
    let names = lab.topology().names_in("west");
    for vip in
        ["192.0.2.11:80", "192.0.2.64:80", "192.0.2.99:80", "192.0.2.127:80", "[2001:db8:100:5::77]:80"]
    {
        let name = e2e::eventually(vip, || lab.curl_vip("west", vip.parse()?));
        assert!(names.contains(&name), "{vip}: {name}");
    }
    let output = daemon.cli(&["service", "list"]).unwrap();
    let shown = String::from_utf8(output.stdout).unwrap();
    for place in ["192.0.2.11:70-90/tcp", "192.0.2.64/26:80/tcp", "[2001:db8:100:5::/64]:any/tcp"] {
        assert!(shown.contains(place), "{place} in {shown}");
    }
    let explained = daemon.cli(&["explain", "198.51.100.10:4000", "192.0.2.99:80/tcp"]).unwrap();
    let shown = String::from_utf8(explained.stdout).unwrap();
    assert!(shown.contains("service prefix at 192.0.2.64/26:80/tcp"), "{shown}");
    daemon.sigterm().unwrap();
}
