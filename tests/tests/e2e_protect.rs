//! Protection end to end: lists and limits refuse those whom they should and nobody else, shedding takes the lowest class first, emergency
//! switches come, count down, outlive the daemon and go.
use anyhow::ensure;
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e,
    golden::packets::{ACK, SYN, ipv4, tcp, udp},
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4, web_vips},
};
use lb_userspace::api::types::{GuardView, SwitchView};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    process::Output,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

/// `IPPROTO_RAW`: the packet is sent as it is, header included.
const RAW: i32 = 255;
const WEB: u16 = 80;
const ECHO: u16 = 7;
/// Prefixes of a list, of which none can be merged with another.
const MANY: u32 = 100_000;
/// The first of them: 100.64.0.0.
const OTHERS: u32 = 0x6440_0000;

/// A daemon whose services have these keys besides: `("web", "priority = \"P0\"")`.
fn start<'lab>(lab: &'lab Lab, keys: &[(&str, &str)], node: &str) -> Daemon<'lab> {
    let options = ConfigOptions { check: Check::None, ..e2e::calm() };
    let path = lab.write_config(&options).unwrap();
    let mut text = fs::read_to_string(&path).unwrap();
    for (service, lines) in keys {
        let line = format!("name = \"{service}\"\n");
        assert_eq!(text.matches(&line).count(), 1, "{service}");
        text = text.replace(&line, &format!("{line}{lines}\n"));
    }
    text = text.replace("[node]\n", &format!("[node]\n{node}\n"));
    fs::write(&path, text).unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(std::time::Duration::from_secs(30)).unwrap_or_else(|error| panic!("{error:#}"));
    daemon
}

/// The first /24 of the client in the west: it may send from any address of it, and Weir cannot tell.
fn west(lab: &Lab, host: u8) -> Ipv4Addr {
    let [a, b, c, _] = lab.topology().client("west").unwrap().v4.octets();
    Ipv4Addr::new(a, b, c, host)
}

/// Sends packets made by hand from the client in the west.
fn send(lab: &Lab, packets: impl Iterator<Item = Vec<u8>> + Send) {
    let netns = lab.client_netns("west").unwrap();
    let sent = netns.run(|| {
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW)))?;
        for packet in packets {
            socket.send_to(&packet, &SockAddr::from(SocketAddr::new(IpAddr::from(VIP_V4), 0)))?;
        }
        Ok(())
    });
    sent.unwrap();
}

/// So many TCP packets to the web service from different ports.
fn segments(source: Ipv4Addr, flags: u8, count: u16) -> impl Iterator<Item = Vec<u8>> + Send {
    (0..count)
        .map(move |i| ipv4(source, VIP_V4, 6, &tcp(50_000_u16.wrapping_add(i) | 0x8000, WEB, flags, b"")))
}

/// So many datagrams to the echo service.
fn datagrams(source: Ipv4Addr, count: u16) -> impl Iterator<Item = Vec<u8>> + Send {
    (0..count).map(move |i| ipv4(source, VIP_V4, 17, &udp(10_000 + i, ECHO, b"?")))
}

fn guard(daemon: &Daemon<'_>, service: &str) -> GuardView {
    e2e::ask(daemon, &["guard", "show", service])
}

fn refused(daemon: &Daemon<'_>, service: &str, reason: Reason) -> u64 {
    guard(daemon, service).refused[reason.name()]
}

fn switches(daemon: &Daemon<'_>) -> Vec<SwitchView> {
    e2e::ask(daemon, &["emergency", "list"])
}

#[track_caller]
fn done(output: &Output) -> String {
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{text}");
    text
}

/// Waits until a guard has refused exactly so many packets more for a reason.
#[track_caller]
fn assert_refused(daemon: &Daemon<'_>, service: &str, reason: Reason, expected: u64) {
    e2e::eventually(&format!("{service} refuses {expected} packets: {}", reason.name()), || {
        let count = refused(daemon, service, reason);
        ensure!(count == expected, "{count} instead of {expected}");
        Ok(())
    });
}

/// So many TCP flows of the client are served, all of them.
#[track_caller]
fn assert_served(lab: &Lab, ports: std::ops::Range<u16>) {
    let map = lab.flow_map("west", web_vips()[0], ports).unwrap();
    assert!(map.failed.is_empty(), "{:?}", map.failed);
}

#[test]
fn access_lists_refuse_whom_they_name_and_serve_the_rest() {
    let lab = e2e::raise_rack(2);
    let (denied, other) = (west(&lab, 200), west(&lab, 201));
    let file = lab.directory().join("deny.txt");
    // A long list, as there may be.
    let others: String = (0..MANY).map(|i| format!("{}/32\n", Ipv4Addr::from_bits(OTHERS + 2 * i))).collect();
    fs::write(&file, format!("# flooders of last week\n{denied}/32  # the worst\n{others}")).unwrap();
    let access = format!("access = {{ deny_file = \"{}\" }}", file.display());
    let daemon = start(&lab, &[("web", &access)], "");
    send(&lab, segments(denied, SYN, 30).chain(segments(denied, ACK, 20)));
    assert_refused(&daemon, "web", Reason::SourceDenied, 50);
    send(&lab, segments(other, ACK, 20));
    assert_served(&lab, 20_000..20_040);
    assert_refused(&daemon, "web", Reason::SourceDenied, 50);
    daemon.sigterm().unwrap();

    let access = format!("access = {{ allow = [\"{}/30\"] }}", Ipv4Addr::from_bits(denied.to_bits() & !3));
    let daemon = start(&lab, &[("web", &access)], "");
    send(&lab, segments(lab.topology().client("west").unwrap().v4, SYN, 30));
    assert_refused(&daemon, "web", Reason::SourceNotAllowed, 30);
    send(&lab, segments(denied, SYN, 20));
    assert_refused(&daemon, "web", Reason::SourceNotAllowed, 30);
    assert_eq!(refused(&daemon, "web6", Reason::SourceNotAllowed), 0);
}

#[test]
fn a_flooding_source_prefix_is_limited_while_another_is_served() {
    let lab = e2e::raise_rack(2);
    let limits = "limits = { per_source = { v4 = 28, new_flows_per_second = 100, new_flows_burst = 60 } }";
    let daemon = start(&lab, &[("web", limits)], "");
    let stop = AtomicBool::new(false);
    let sent = thread::scope(|scope| {
        let flood = scope.spawn(|| {
            let mut sent = 0;
            while !stop.load(Ordering::Relaxed) {
                // All from one /28 which the client itself is not in.
                (192..208).for_each(|host| send(&lab, segments(west(&lab, host), SYN, 50)));
                sent += 16 * 50;
            }
            sent
        });
        e2e::eventually("the flood is limited", || {
            ensure!(refused(&daemon, "web", Reason::SourceLimited) > 2_000);
            Ok(())
        });
        assert_served(&lab, 20_000..20_050);
        stop.store(true, Ordering::Relaxed);
        flood.join().unwrap()
    });
    let refused = refused(&daemon, "web", Reason::SourceLimited);
    assert!(refused < sent && sent - refused < sent / 2, "{refused} of {sent} refused");
    // The flood used nothing of anybody else's.
    assert_served(&lab, 20_000..20_050);
}

#[test]
fn shedding_takes_the_lowest_class_first() {
    let lab = e2e::raise_rack(2);
    let keys = [("web", "priority = \"P3\""), ("web6", "priority = \"P0\""), ("echo", "priority = \"P1\"")];
    let daemon = start(&lab, &keys, "max_new_flows = 300");
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                send(&lab, segments(west(&lab, 200), SYN, 500).chain(datagrams(west(&lab, 201), 5)));
            }
        });
        let shed = || (refused(&daemon, "web", Reason::Shed), guard(&daemon, "web").shed_percent);
        e2e::eventually("new flows of P3 are shed", || {
            let (packets, percent) = shed();
            ensure!(packets > 1_000 && percent > 50.0, "{packets} packets, {percent} %");
            Ok(())
        });
        let map = lab.flow_map("west", web_vips()[1], 20_000..20_040).unwrap();
        assert!(map.failed.is_empty(), "P0 is served: {:?}", map.failed);
        stop.store(true, Ordering::Relaxed);
    });
    for service in ["web6", "echo", "echo6"] {
        assert_eq!(refused(&daemon, service, Reason::Shed), 0, "{service}");
    }
    e2e::eventually("shedding ends", || {
        let text = done(&daemon.cli(&["events", "-n", "100"]).unwrap());
        for cause in ["are more than its capacity", "well below its capacity"] {
            ensure!(text.contains(cause), "{cause}: {text}");
        }
        Ok(())
    });
    assert_eq!(guard(&daemon, "web").shed_percent, 0.0);
    assert_served(&lab, 20_000..20_040);
}

#[test]
fn an_emergency_switch_is_thrown_counted_outlives_the_daemon_and_goes() {
    let lab = e2e::raise_rack(2);
    let daemon = start(&lab, &[("web", "priority = \"P3\"")], "");
    let cli = |daemon: &Daemon<'_>, args: &[&str]| done(&daemon.cli(args).unwrap());
    let bad = west(&lab, 200);
    let prefix = format!("{bad}/32");
    cli(&daemon, &["emergency", "block", &prefix, "--for", "1h", "--reason", "flood"]);
    send(&lab, segments(bad, ACK, 25).chain(datagrams(bad, 10)));
    assert_refused(&daemon, "web", Reason::Emergency, 25);
    assert_refused(&daemon, "echo", Reason::Emergency, 10);
    assert_served(&lab, 20_000..20_020);

    // A daemon that dies changes nothing, and the next one knows.
    daemon.kill9().unwrap();
    send(&lab, segments(bad, ACK, 25));
    assert_served(&lab, 20_000..20_020);
    let daemon = start(&lab, &[("web", "priority = \"P3\"")], "");
    assert_refused(&daemon, "web", Reason::Emergency, 50);
    let [switch] = &switches(&daemon)[..] else { panic!("{:?}", switches(&daemon)) };
    assert_eq!((switch.name.as_str(), switch.thrown.reason.as_str()), (&*format!("block:{prefix}"), "flood"));
    assert!((1..=3_600).contains(&switch.left_s), "{switch:?}");
    let shown = cli(&daemon, &["emergency", "list"]);
    let left = shown.contains("59 min") || shown.contains("1 h 0 min");
    assert!(left && shown.contains("drops every packet from"), "{shown}");

    cli(&daemon, &["emergency", "clear", &switch.name, "--reason", "it is over"]);
    send(&lab, segments(bad, ACK, 25));
    assert_served(&lab, 20_000..20_020);
    assert_eq!(refused(&daemon, "web", Reason::Emergency), 50);
    assert!(switches(&daemon).is_empty());

    // A class is shed for a moment, and comes back by itself.
    cli(&daemon, &["emergency", "shed", "P3", "--share", "100%", "--for", "2s", "--reason", "try it"]);
    send(&lab, segments(bad, SYN, 40).chain(segments(bad, ACK, 40)));
    assert_refused(&daemon, "web", Reason::Emergency, 90);
    e2e::eventually("the switch goes off", || {
        ensure!(switches(&daemon).is_empty());
        Ok(())
    });
    assert_served(&lab, 20_000..20_020);
    let events = cli(&daemon, &["events", "-n", "100"]);
    for text in ["for 3600 s: flood", "taken back: it is over", "its time is over"] {
        assert!(events.contains(text), "{text}: {events}");
    }

    // What makes no sense is refused, with a remedy.
    for (args, code) in [
        (&["emergency", "stop", "nobody", "--for", "1m", "--reason", "r"][..], 5),
        (&["emergency", "stop", "web", "--for", "30d", "--reason", "r"][..], 2),
        (&["emergency", "clear", "stop:web", "--reason", "r"][..], 5),
        (&["emergency", "block", "10.0.0.1/24", "--for", "1m", "--reason", "r"][..], 2),
    ] {
        let output = daemon.cli(args).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    }
}
