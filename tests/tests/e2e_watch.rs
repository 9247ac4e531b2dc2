//! Seeing packets: what `weir trace` shows and `weir capture` writes is what happens to real connections, by the names that `weir explain` gives them;
//! and when nobody watches any more, for whatever reason, the edge's own program is back.
use aya::{
    maps::{Array, MapData},
    programs::{
        ProgramInfo,
        links::{FdLink, PinnedLink},
    },
};
use lb_common::abi::{ABI_VERSION, pod::Pod, watch::WatchControl};
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4, VIP_V6, web_vips, weir_binary},
    pcapng::{self, Frame},
};
use lb_userspace::api::types::{Explanation, FlowUse, PlacedBy, VerdictKind, WatchLine, WatchedPacket};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
};

/// Bytes of an Ethernet and of an IPv4 header.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
/// IPv4 in IPv4.
const IPIP: u8 = 4;
/// Flows by which samples are taken.
const SAMPLED_PORTS: std::ops::Range<u16> = 21_000..21_400;

/// A `weir` that watches, with its output in a file.
struct Watcher {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Watcher {
    /// Starts one, and waits until it watches.
    fn start(lab: &Lab, name: &str, args: &[&str]) -> Self {
        let [out, err] = ["out", "err"].map(|kind| lab.directory().join(format!("{name}.{kind}")));
        let mut command = Command::new(weir_binary().unwrap());
        command.args(args).env("WEIR_SOCKET", lab.directory().join("edge-1.sock"));
        command.stdin(Stdio::null()).stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap());
        let child = lab.edge_netns(0).unwrap().run(move || Ok(command.spawn()?)).unwrap();
        let mut watcher = Self { child, out, err };
        e2e::eventually(name, || {
            let ended = watcher.child.try_wait()?;
            anyhow::ensure!(ended.is_none(), "it ended: {}", watcher.said());
            let begun = watcher.said();
            anyhow::ensure!(begun.contains("\"begin\"") || begun.contains("writing to"), "{begun}");
            Ok(())
        });
        watcher
    }

    fn trace(lab: &Lab, name: &str, args: &[&str]) -> Self {
        Self::start(lab, name, &[&["trace", "-o", "json"], args].concat())
    }

    fn said(&self) -> String {
        fs::read_to_string(&self.out).unwrap() + &fs::read_to_string(&self.err).unwrap()
    }

    /// The packets that were shown so far.
    fn packets(&self) -> Vec<WatchedPacket> {
        let text = fs::read_to_string(&self.out).unwrap();
        // The last line may not be whole yet.
        let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
        let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
        lines
            .filter_map(|line| if let WatchLine::Packet(packet) = line { Some(*packet) } else { None })
            .collect()
    }

    /// Waits until so many packets were shown.
    #[track_caller]
    fn wait_for(&self, count: usize) -> Vec<WatchedPacket> {
        e2e::eventually("packets", || {
            let packets = self.packets();
            anyhow::ensure!(packets.len() >= count, "{} packets", packets.len());
            Ok(packets)
        })
    }

    #[track_caller]
    fn wait(&mut self) -> ExitStatus {
        e2e::eventually("the watcher's end", || {
            self.child.try_wait()?.ok_or_else(|| anyhow::anyhow!("it goes on: {}", self.said()))
        })
    }

    /// Ends it as Ctrl-C would; what it had shown.
    #[track_caller]
    fn interrupt(mut self) -> Vec<WatchedPacket> {
        kill(Pid::from_raw(self.child.id().try_into().unwrap()), Signal::SIGINT).unwrap();
        let status = self.wait();
        assert!(status.success(), "{status}: {}", self.said());
        self.packets()
    }
}

/// Id of the program behind the link of the edge's interface.
fn program(lab: &Lab) -> u32 {
    let path = lab.bpffs().join(format!("edge-1/v{ABI_VERSION}/links/eth0"));
    FdLink::from(PinnedLink::from_pin(path).unwrap()).info().unwrap().program_id()
}

#[track_caller]
fn is_back(lab: &Lab, edge: u32) {
    e2e::eventually("the edge's own program is back", || {
        let now = program(lab);
        anyhow::ensure!(now == edge, "{now} instead of {edge}");
        Ok(())
    });
}

fn client(lab: &Lab) -> IpAddr {
    lab.topology().client("west").unwrap().v4.into()
}

fn explain(lab: &Lab, daemon: &Daemon<'_>, port: u16) -> Explanation {
    let source = SocketAddr::new(client(lab), port).to_string();
    e2e::ask(daemon, &["explain", &source, &format!("{}/tcp", web_vips()[0])])
}

/// Opens a connection from a port to the IPv4 VIP; the backend that answers.
fn connect(lab: &Lab, port: u16) -> String {
    let map = lab.flow_map("west", web_vips()[0], [port]).unwrap();
    map.served.get(&port).unwrap_or_else(|| panic!("{:?}", map.failed)).clone()
}

#[test]
fn a_connection_is_shown_and_written_as_it_goes() {
    let lab = e2e::raise_rack(3);
    let daemon = e2e::start(&lab, &ConfigOptions { check: Check::None, ..e2e::calm() });
    let edge = program(&lab);

    // At home.
    let filter = ["src", &client(&lab).to_string(), "and", "src", "port", "20001", "tcp", "service", "web"];
    let watcher = Watcher::trace(&lab, "home", &filter);
    assert_ne!(program(&lab), edge, "nobody would show anything");
    let served = connect(&lab, 20_001);
    connect(&lab, 20_002);
    watcher.wait_for(3);
    let packets = watcher.interrupt();
    is_back(&lab, edge);
    let explained = explain(&lab, &daemon, 20_001);
    assert_eq!(explained.backend.as_ref().unwrap().name, served);
    assert!(packets[0].opening && packets[1..].iter().all(|packet| !packet.opening), "{packets:?}");
    for packet in &packets {
        let named = (packet.service.as_deref(), packet.client_region.clone(), packet.backend.as_deref());
        assert_eq!(named, (Some("web"), explained.client_region.clone(), Some(served.as_str())));
        assert_eq!((packet.src, packet.src_port), (Some(client(&lab)), Some(20_001)));
        assert_eq!((packet.dst, packet.dst_port), (Some(VIP_V4.into()), Some(80)));
        assert_eq!((packet.verdict, packet.reason.as_str()), (VerdictKind::Forward, "forwarded"));
        assert_eq!((packet.placed_by, packet.flow_table), (Some(PlacedBy::Home), FlowUse::Unused));
        assert_eq!(
            (packet.step, packet.probes, packet.pool.as_ref()),
            (Some(0), Some(1), explained.plan.first())
        );
        assert_eq!((packet.interface.as_str(), packet.egress.as_deref()), ("eth0", Some("eth0")));
        assert_eq!(packet.egress_length, Some(packet.length + IPV4 as u32));
    }

    // Away from home, and back in the flow table; in the file as well.
    e2e::act(&daemon, "backend", "drain", &served);
    let port = (20_003..).find(|port| explain_home(&lab, &daemon, *port, &served)).unwrap();
    let (source, file) = (port.to_string(), lab.directory().join("f.pcapng"));
    let of_port = ["src", "port", source.as_str()];
    let watcher = Watcher::trace(&lab, "away", &of_port);
    let path = file.to_str().unwrap();
    let capture =
        Watcher::start(&lab, "capture", &[&["capture", "-w", path, "--snap", "1514"][..], &of_port].concat());
    let other = connect(&lab, port);
    assert_ne!(other, served);
    watcher.wait_for(3);
    let packets = watcher.interrupt();
    let told: Vec<_> =
        packets[..3].iter().map(|packet| (packet.placed_by.unwrap(), packet.flow_table)).collect();
    assert_eq!(
        told,
        [
            (PlacedBy::Probing, FlowUse::Written),
            (PlacedBy::FlowTable, FlowUse::Moved),
            (PlacedBy::FlowTable, FlowUse::Hit)
        ]
    );
    assert!(
        packets[0].probes >= Some(2) && packets.iter().all(|packet| packet.backend == Some(other.clone()))
    );
    e2e::eventually("the frames are written", || {
        let frames = pcapng::read(&fs::read(&file)?)?;
        anyhow::ensure!(frames.len() >= 2 * packets.len(), "{} frames", frames.len());
        Ok(())
    });
    capture.interrupt();
    is_back(&lab, edge);
    as_it_came_and_left(
        &pcapng::read(&fs::read(&file).unwrap()).unwrap(),
        &other,
        packets[0].time.as_nanosecond(),
    );
    daemon.sigterm().unwrap();
}

/// Whether a flow from a port is at home on a backend that does not take it now.
fn explain_home(lab: &Lab, daemon: &Daemon<'_>, port: u16, backend: &str) -> bool {
    let first = |step: &lb_userspace::api::types::ExplainStep| {
        step.backend.as_deref() == Some(backend) && step.taken == Some(false)
    };
    explain(lab, daemon, port).steps.iter().any(first)
}

/// Pairs of frames: in, and out with a header more.
fn as_it_came_and_left(frames: &[Frame], backend: &str, began_ns: i128) {
    assert!(frames.len() >= 6 && frames.len().is_multiple_of(2), "{} frames", frames.len());
    let earliest = u64::try_from(began_ns).unwrap() - 1_000_000_000;
    for pair in frames.chunks(2) {
        let [inbound, outbound] = pair else { panic!("a pair") };
        assert_eq!((inbound.flags, outbound.flags), (Some(1), Some(2)));
        let comment = inbound.comment.as_deref().unwrap();
        assert!(comment.contains(&format!("backend {backend}")), "{comment}");
        assert!(comment.starts_with("forward: forwarded, service web"), "{comment}");
        assert_eq!((inbound.interface.as_str(), inbound.resolution), ("eth0", 9));
        assert!((earliest..earliest + 60_000_000_000).contains(&inbound.time), "{}", inbound.time);
        let (came, left) = (&inbound.bytes, &outbound.bytes);
        assert_eq!((came.len(), left.len()), (inbound.length as usize, outbound.length as usize));
        assert_eq!(came[12..14], [8, 0]);
        assert_eq!(came[ETHERNET + 16..ETHERNET + 20], VIP_V4.octets());
        assert_eq!(left[ETHERNET + 9], IPIP);
        assert_eq!(left[ETHERNET + IPV4..], came[ETHERNET..]);
    }
}

#[test]
fn samples_and_filters_hold_and_a_reload_is_followed() {
    let lab = e2e::raise_rack(3);
    let options = ConfigOptions { check: Check::None, ..e2e::calm() };
    let daemon = e2e::start(&lab, &options);
    let edge = program(&lab);
    let range = format!("{}-{}", SAMPLED_PORTS.start, SAMPLED_PORTS.end - 1);
    let of_ports = ["src", "port", range.as_str()];
    let all = Watcher::trace(&lab, "all", &of_ports);
    let some = Watcher::trace(&lab, "some", &[&["--sample", "1/4"][..], &of_ports].concat());
    let v6 = Watcher::trace(&lab, "v6", &["dst", &VIP_V6.to_string(), "verdict", "forward", "-n", "5"]);
    let dropped = Watcher::trace(&lab, "dropped", &["verdict", "drop"]);
    for vip in web_vips() {
        let map = lab.flow_map("west", vip, SAMPLED_PORTS).unwrap();
        assert!(map.failed.is_empty(), "{:?}", map.failed);
    }
    // Two packets at least of each flow; those that come last may be under way.
    all.wait_for(4 * SAMPLED_PORTS.len());
    let mut v6 = v6;
    assert!(v6.wait().success());
    assert_eq!(v6.packets().len(), 5);
    assert!(v6.packets().iter().all(|packet| packet.dst == Some(VIP_V6.into())));

    // Another configuration: the same watcher goes on to see.
    let weights: BTreeMap<_, _> = [(lab.topology().backend_names()[0].clone(), 300)].into();
    lab.write_config(&ConfigOptions { weights, ..options }).unwrap();
    let before = program(&lab);
    e2e::ask::<serde_json::Value>(&daemon, &["reload"]);
    let next = e2e::eventually("the next generation shows packets", || {
        let edge =
            ProgramInfo::from_pin(lab.bpffs().join(format!("edge-1/v{ABI_VERSION}/current/program")))?.id();
        let now = program(&lab);
        anyhow::ensure!(now != before && now != edge, "program {now}");
        Ok(edge)
    });
    assert_ne!(next, edge);
    let (seen, port) = (all.packets().len(), SAMPLED_PORTS.start);
    let served = connect(&lab, port);
    let packets = all.wait_for(seen + 3);
    assert!(packets[seen..].iter().all(|packet| packet.backend.as_deref() == Some(&served)), "{served}");

    let (shown, sampled) = (all.interrupt().len(), some.interrupt().len());
    assert!(shown / 5 < sampled && sampled < shown / 3, "{sampled} of {shown}");
    assert!(dropped.interrupt().is_empty());
    is_back(&lab, next);
    daemon.sigterm().unwrap();
}

#[test]
fn watching_ends_with_the_reader_with_the_daemon_and_by_itself() {
    let lab = e2e::raise_rack(2);
    let options = ConfigOptions { check: Check::None, ..e2e::calm() };
    let daemon = e2e::start(&lab, &options);
    let edge = program(&lab);

    // Nobody reads any more.
    let mut command = Command::new(weir_binary().unwrap());
    command
        .args(["trace", "src", "port", "20001"])
        .env("WEIR_SOCKET", daemon.socket())
        .stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    e2e::eventually("the program that shows packets", || {
        anyhow::ensure!(program(&lab) != edge);
        Ok(())
    });
    drop(child.stdout.take());
    connect(&lab, 20_001);
    let status =
        e2e::eventually("the end", || child.try_wait()?.ok_or_else(|| anyhow::anyhow!("it goes on")));
    assert!(status.success(), "{status}");
    is_back(&lab, edge);

    // One who is killed, and a daemon that is told to stop.
    let mut killed = Watcher::trace(&lab, "killed", &[]);
    killed.child.kill().unwrap();
    killed.child.wait().unwrap();
    is_back(&lab, edge);
    let mut left = Watcher::trace(&lab, "left", &[]);
    daemon.sigterm().unwrap();
    assert_eq!(left.wait().code(), Some(4), "{}", left.said());
    assert!(left.said().contains("the daemon stops"), "{}", left.said());
    is_back(&lab, edge);

    // A daemon that is killed: what it left shows nothing any more, and forwards.
    let daemon = e2e::start(&lab, &options);
    let edge = program(&lab);
    let mut left = Watcher::trace(&lab, "orphan", &[]);
    let watching = program(&lab);
    assert_ne!(watching, edge);
    daemon.kill9().unwrap();
    assert_eq!(left.wait().code(), Some(4), "{}", left.said());
    assert_eq!(program(&lab), watching);
    e2e::eventually("the moment is over", || {
        let now = lb_common::abi::guard::until(lb_tests::clock::monotonic_ns());
        let until = control(watching).until;
        anyhow::ensure!(until != 0 && until < now, "{until}, now {now}");
        Ok(())
    });
    connect(&lab, 20_002);
    let daemon = lab.start_daemon(&lab.write_config(&options).unwrap()).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    is_back(&lab, edge);
    connect(&lab, 20_003);
    daemon.sigterm().unwrap();
}

/// What a program that shows packets was told.
fn control(program: u32) -> WatchControl {
    const SIZE: usize = size_of::<WatchControl>();
    let found =
        aya::programs::loaded_programs().flatten().find(|info| info.id() == program).expect("it is loaded");
    let maps = found.map_ids().unwrap().expect("it has maps");
    let map = maps.into_iter().map(|id| MapData::from_id(id).unwrap());
    let map = map.into_iter().find(|map| map.info().unwrap().name() == b"WATCH").expect("a map WATCH");
    let array: Array<MapData, [u8; SIZE]> = aya::maps::Map::Array(map).try_into().unwrap();
    WatchControl::from_bytes(&array.get(&0, 0).unwrap()).unwrap()
}
