//! Established connections survive every operation: thousands of them exchange checked bytes through all that an operator does,
//! and what happens to a daemon. Beside TCP, flows over UDP that stick, and connections like QUIC's, whose clients change their port
//! in the middle.
mod e2e_support;

use e2e_support::*;
use lb_tests::{
    lab::{ConfigOptions, Daemon, Lab, VIP_V4},
    load::{
        LiveFlows, LiveServers, LiveUdpFlows, LiveUdpServers, QUIC_CONFIG_ID, QUIC_SERVER_ID_BYTES, UdpKind,
    },
};
use nix::sys::signal::Signal;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

const PORT: u16 = 9000;
const STICKY_PORT: u16 = 9001;
const QUIC_PORT: u16 = 9002;
/// Client ports of the connections that live through everything.
const FLOWS: std::ops::Range<u16> = 20_000..22_000;
/// Client ports of the flows over UDP, sticky and QUIC.
const UDP_FLOWS: [std::ops::Range<u16>; 2] = [40_000..40_300, 30_000..30_300];
/// How far QUIC clients move their ports.
const MOVED: u16 = 1_000;
/// How long one round over all connections may take on a busy machine.
const ROUND: Duration = Duration::from_secs(60);

fn vip() -> SocketAddr {
    SocketAddr::from((VIP_V4, PORT))
}

fn udp_vips() -> [SocketAddr; 2] {
    [STICKY_PORT, QUIC_PORT].map(|port| SocketAddr::from((VIP_V4, port)))
}

/// Services for live connections and flows, each with one pool over the west, and whatever else.
fn live(options: ConfigOptions, pool: &str, table_size: u32, more: &str) -> ConfigOptions {
    live_with(options, pool, table_size, "", more)
}

/// The same with lines behind the pool; a capacity is for the live service alone.
fn live_with(
    options: ConfigOptions,
    pool: &str,
    table_size: u32,
    lines_of_pool: &str,
    more: &str,
) -> ConfigOptions {
    let quic =
        format!("[service.quic]\nconfig_id = {QUIC_CONFIG_ID}\nserver_id_length = {QUIC_SERVER_ID_BYTES}\n");
    let services = [
        ("live", PORT, "tcp", ""),
        ("sticky", STICKY_PORT, "udp", "udp = \"stick\"\n"),
        ("quic", QUIC_PORT, "udp", &quic),
    ];
    let mut extra = more.to_owned();
    let uncapped: String =
        lines_of_pool.lines().filter(|l| !l.starts_with("capacity")).map(|l| format!("{l}\n")).collect();
    for (name, port, protocol, lines) in services {
        let lines_of_pool = if name == "live" { lines_of_pool } else { &uncapped };
        extra += &format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{VIP_V4}\"\nport = {port}\nprotocol = \"{protocol}\"\n{lines}\
             [[service.pool]]\nname = \"{pool}\"\nsets = [\"web-w1\"]\ntable_size = {table_size}\n{lines_of_pool}"
        );
    }
    ConfigOptions { extra, quic_server_ids: true, ..options }
}

/// A second pool in the east behind the first one, which has a capacity if one is given.
fn with_the_east(capacity: Option<u32>) -> String {
    let capacity =
        capacity.map_or_else(String::new, |flows| format!("capacity_new_flows_per_second = {flows}\n"));
    format!(
        "{capacity}[[service.pool]]\nname = \"far\"\nsets = [\"web-e1\"]\ntable_size = 4093\n\
         [service.plan]\ndefault = [\"all\", \"far\"]\n"
    )
}

fn other_service() -> String {
    format!(
        "\n[[service]]\nname = \"other\"\naddress = \"{VIP_V4}\"\nport = 8080\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
    )
}

struct Scene<'lab> {
    lab: &'lab Lab,
    servers: LiveServers,
    udp_servers: LiveUdpServers,
    flows: LiveFlows,
    sticky: LiveUdpFlows,
    quic: LiveUdpFlows,
    /// Those that were opened on the way.
    later: Vec<LiveFlows>,
    later_quic: Vec<LiveUdpFlows>,
    next_port: u16,
    backends: std::collections::BTreeMap<u16, String>,
}

impl<'lab> Scene<'lab> {
    fn new(lab: &'lab Lab) -> Self {
        let servers = lab.live_servers(vip()).unwrap();
        let flows = lab.live_flows("west", vip(), FLOWS).unwrap();
        let backends = flows.backends();
        let [sticky_vip, quic_vip] = udp_vips();
        let udp_servers = lab.live_udp_servers(sticky_vip, quic_vip).unwrap();
        let udp = |kind, vip, ports| lab.live_udp_flows("west", kind, vip, ports).unwrap();
        let [sticky_ports, quic_ports] = UDP_FLOWS;
        let sticky = udp(UdpKind::Sticky, sticky_vip, sticky_ports);
        let quic = udp(UdpKind::Quic, quic_vip, quic_ports);
        Self {
            lab,
            servers,
            udp_servers,
            flows,
            sticky,
            quic,
            later: Vec::new(),
            later_quic: Vec::new(),
            next_port: FLOWS.end,
            backends,
        }
    }

    /// Waits until every connection has exchanged bytes twice from now on, and asserts that none broke.
    #[track_caller]
    fn lives(&self, after: &str) {
        let udp: [&LiveFlows; 2] = [&self.sticky, &self.quic];
        let later_quic = self.later_quic.iter().map(|flows| &**flows);
        let all: Vec<_> =
            std::iter::once(&self.flows).chain(&self.later).chain(udp).chain(later_quic).collect();
        let rounds: Vec<_> = all.iter().map(|flows| flows.next_round() + 1).collect();
        let deadline = Instant::now() + ROUND;
        for (flows, round) in all.iter().zip(rounds) {
            while !flows.has_ended(round) {
                assert!(Instant::now() < deadline, "{after}: connections stand still");
                thread::sleep(Duration::from_millis(5));
            }
            let broken = flows.broken();
            let first: Vec<_> = broken.iter().take(3).collect();
            assert!(broken.is_empty(), "{after}: {} connections broke, such as {first:?}", broken.len());
        }
        let mut wrong = [self.servers.wrong(), self.udp_servers.wrong()].concat();
        wrong.truncate(5);
        assert!(wrong.is_empty(), "{after}: {wrong:?}");
    }

    /// Opens some more connections, which live on as well; returns which backends they went to.
    fn more(&mut self) -> BTreeSet<String> {
        let ports = self.next_port..self.next_port + 50;
        self.next_port = ports.end;
        let flows = self.lab.live_flows("west", vip(), ports).unwrap();
        let backends = flows.backends().into_values().collect();
        self.later.push(flows);
        backends
    }

    /// Opens QUIC connections, which live on as well; returns which backends they went to.
    fn more_quic(&mut self, ports: std::ops::Range<u16>) -> BTreeSet<String> {
        let flows = self.lab.live_udp_flows("west", UdpKind::Quic, udp_vips()[1], ports).unwrap();
        let backends = flows.backends().into_values().collect();
        self.later_quic.push(flows);
        backends
    }

    fn backends_now(&self) -> BTreeSet<&str> {
        self.backends.values().map(String::as_str).collect()
    }
}

fn reload(daemon: &Daemon<'_>, options: &ConfigOptions, lab: &Lab) -> Value {
    lab.write_config(options).unwrap();
    daemon.cli_json(&["reload"]).unwrap_or_else(|error| panic!("{error:#}\n{}", daemon.log_tail()))
}

fn without(names: &[&str]) -> ConfigOptions {
    ConfigOptions { without: names.iter().map(|&name| name.to_owned()).collect(), ..quiet() }
}

/// The part of new connections to the live service that leaves its first pool, in percent.
fn spilled(daemon: &Daemon<'_>) -> f64 {
    daemon.cli_json(&["plan", "show", "live"]).unwrap()[0]["spilled_percent"].as_f64().unwrap()
}

fn is_far(backend: &str) -> bool {
    backend.starts_with('e')
}

/// A second region takes what the first one cannot: by health, by an operator's shift of the whole zone, by load; and gives it back.
fn spills_and_shifts(daemon: &Daemon<'_>, scene: &mut Scene<'_>) {
    let (plain, full) = (with_the_east(None), with_the_east(Some(20)));
    reload(daemon, &live_with(quiet(), "all", 4093, &plain, ""), scene.lab);
    scene.lives("a second pool");
    assert!(!scene.more().iter().any(|name| is_far(name)));

    // Half of the zone drains: the other half keeps 70 % of the new flows.
    done(daemon, &["domain", "drain", "west/w1/r2", "--reason", "power"]);
    until("it spills by health", || (spilled(daemon) - 30.0).abs() < 1.0);
    let opened = [scene.more(), scene.more_quic(35_000..35_060)];
    for backends in &opened {
        assert!(backends.iter().any(|name| is_far(name)), "{backends:?}");
        assert!(backends.iter().any(|name| name.starts_with("w1r1")), "{backends:?}");
    }
    scene.lives("spill by health");
    done(daemon, &["domain", "restore", "west/w1/r2", "--reason", "power is back"]);
    until("all is well", || spilled(daemon) == 0.0);
    scene.lives("the end of spill by health");

    // The whole zone is shifted away, and half of it comes back first.
    let shift =
        |keep| ["shift", "zone", "west/w1", "--to", keep, "--for", "10m", "--reason", "cooling", "--force"];
    done(daemon, &shift("0%"));
    assert!(scene.more().iter().all(|name| is_far(name)), "a zone that is shifted away takes no new flows");
    assert!(scene.more_quic(35_060..35_120).iter().all(|name| is_far(name)));
    scene.lives("a shift of the zone");
    done(daemon, &shift("50%"));
    let half = scene.more();
    assert!(half.iter().any(|name| is_far(name)) && !half.iter().all(|name| is_far(name)), "{half:?}");
    done(daemon, &["shift", "cancel", "west/w1", "--reason", "cooled"]);
    scene.lives("the end of a shift of the zone");

    // More new flows than the first pool has room for.
    reload(daemon, &live_with(quiet(), "all", 4093, &full, ""), scene.lab);
    let mut port = 23_000;
    until("it spills by load", || {
        // These are over at once: only their number counts.
        drop(scene.lab.live_flows("west", vip(), port..port + 100).unwrap());
        port = if port < 28_000 { port + 100 } else { 23_000 };
        spilled(daemon) > 20.0
    });
    let spilled_to = scene.more();
    assert!(spilled_to.iter().any(|name| is_far(name)), "{spilled_to:?}");
    scene.lives("spill by load");
    // Without a capacity nothing spills, and without the second pool there is nowhere to spill to.
    reload(daemon, &live(quiet(), "all", 4093, ""), scene.lab);
    assert!(!scene.more().iter().any(|name| is_far(name)));
    scene.lives("the end of spill by load, and of the pool where flows live");
}

#[test]
fn two_thousand_connections_live_through_every_operation() {
    let lab = raise(2);
    let first = live(without(&["w1r2b2"]), "all", 4093, "");
    let daemon = start(&lab, &first);
    let mut scene = Scene::new(&lab);
    assert_eq!(scene.backends_now(), BTreeSet::from(["w1r1b1", "w1r1b2", "w1r2b1"]));
    scene.lives("nothing");
    for flows in [&scene.sticky, &scene.quic] {
        assert_eq!(BTreeSet::from_iter(flows.backends().into_values()).len(), 3, "all three serve");
    }

    done(&daemon, &["backend", "drain", "w1r1b1", "--reason", "fans"]);
    assert!(!scene.more().contains("w1r1b1"));
    scene.lives("drain");
    // Clients of all QUIC connections change their port: most of them hash to other backends now.
    scene.quic.change_ports(MOVED);
    scene.lives("other ports of QUIC clients during a drain");
    done(&daemon, &["backend", "restore", "w1r1b1", "--reason", "fans replaced"]);
    done(&daemon, &["domain", "drain", "west/w1/r2", "--reason", "switch"]);
    assert!(scene.more().iter().all(|name| name.starts_with("w1r1")));
    done(&daemon, &["domain", "restore", "west/w1/r2", "--reason", "switch replaced"]);
    scene.lives("drains and restores");

    // A rack is shifted away and comes back: established connections stay, whatever the share of new ones.
    done(
        &daemon,
        &["shift", "rack", "west/w1/r2", "--to", "0%", "--for", "10m", "--reason", "new switch", "--force"],
    );
    assert!(scene.more().iter().all(|name| name.starts_with("w1r1")));
    scene.lives("a shift");
    done(&daemon, &["shift", "cancel", "west/w1/r2", "--reason", "new switch works"]);
    scene.lives("the end of a shift");

    // A backend comes: a quarter of the homes move, no flow does.
    let second = live(quiet(), "all", 4093, "");
    let told = reload(&daemon, &second, &lab);
    assert_eq!((&told["changed"], &told["leaving_backends"]), (&true.into(), &0.into()), "{told}");
    assert_eq!(told["differences"]["backends"]["added"], serde_json::json!(["w1r2b2"]));
    let built =
        events(&daemon).into_iter().rev().find(|event| event.cause.starts_with("reloaded: ")).unwrap().cause;
    assert!(built.contains("; 1 tables built,"), "one list of members changed: {built}");
    scene.lives("adding a backend");
    assert!(scene.more().contains("w1r2b2"));
    assert!(status(&daemon)["flows"]["transition_ends"].is_string());

    spills_and_shifts(&daemon, &mut scene);

    // Another weight while that transition runs, then another table, then a service more.
    let weighed = ConfigOptions { weights: [("w1r1b2".into(), 30)].into(), ..quiet() };
    reload(&daemon, &live(weighed.clone(), "all", 4093, ""), &lab);
    scene.lives("another weight");
    reload(&daemon, &live(weighed.clone(), "renamed", 16381, &other_service()), &lab);
    scene.lives("another pool of another size, and a service more");
    scene.more();

    // A backend and a service leave.
    let fewer = ConfigOptions { without: ["w1r1b1".to_owned()].into(), ..weighed };
    let fewer = live(fewer, "renamed", 16381, "");
    let told = reload(&daemon, &fewer, &lab);
    assert_eq!((&told["leaving_backends"], &told["leaving_services"]), (&1.into(), &1.into()), "{told}");
    assert!(!scene.more().contains("w1r1b1"));
    scene.lives("removing a backend and a service");
    scene.quic.change_ports(2 * MOVED);
    scene.lives("other ports of QUIC clients, also of those of the backend that was removed");

    // The same file changes nothing, a broken one neither.
    assert_eq!(reload(&daemon, &fewer, &lab)["changed"], false);
    let good = fs::read_to_string(config_path(&lab)).unwrap();
    fs::write(config_path(&lab), good.replace("port = 9000", "port = 90000")).unwrap();
    refused(&daemon.cli(&["reload"]).unwrap(), 3, &["90000", "out of range"]);
    fs::write(config_path(&lab), good.replace("edge-1.sock", "other.sock")).unwrap();
    refused(&daemon.cli(&["reload"]).unwrap(), 8, &["node.socket", "restart"]);
    let config = &status(&daemon)["config"];
    assert_eq!((&config["reloads"], &config["failed_reloads"]), (&7.into(), &2.into()), "{config}");
    fs::write(config_path(&lab), &good).unwrap();

    // The daemon is restarted, killed, and another binary goes on.
    assert!(daemon.sigterm().unwrap().success());
    scene.lives("no daemon");
    let daemon = start(&lab, &fewer);
    assert!(last_start(&daemon).contains("adopted"), "{}", last_start(&daemon));
    daemon.kill9().unwrap();
    let changed = live(without(&["w1r1b1"]), "renamed", 16381, "");
    let daemon = start(&lab, &changed);
    assert!(last_start(&daemon).contains("established flows go on"), "{}", last_start(&daemon));
    scene.lives("a restart and a crash, and another configuration after it");

    // An upgrade: another binary, at another path, with another program for the data plane.
    let running = link(&lab);
    assert!(daemon.sigterm().unwrap().success());
    let daemon = lab.start_other_daemon(&another_build(&lab), 0, &config_path(&lab)).unwrap();
    daemon.wait_ready(PATIENCE).unwrap();
    assert!(
        last_start(&daemon).contains("adopted what was forwarding, with a new program"),
        "{}",
        last_start(&daemon)
    );
    assert_ne!(link(&lab).program, running.program);
    scene.quic.change_ports(3 * MOVED);
    scene.lives("an upgrade");

    // SIGHUP: the service itself leaves. Its connections live on, new ones are nobody's.
    lab.write_config(&without(&["w1r1b1"])).unwrap();
    daemon.signal(Signal::SIGHUP).unwrap();
    until("it is reloaded", || status(&daemon)["config"]["reloads"] == 1);
    scene.lives("removing the service");
    assert!(lab.curl_with("west", &["--max-time", "0.3", &format!("http://{VIP_V4}:{PORT}/")]).is_err());
    assert_eq!(scene.flows.backends().len(), usize::from(FLOWS.end - FLOWS.start));
    assert!(scene.flows.bytes() > 2_000 * 64 * 10);
}

#[test]
fn a_transition_ends_and_leaves_only_the_marks_that_flows_need() {
    let lab = raise(2);
    let brief = |options: ConfigOptions| {
        let path = lab.write_config(&options).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("mode =", "transition = \"2s\"\nmode =")).unwrap();
        path
    };
    let daemon = lab.start_daemon(&brief(live(without(&["w1r2b2"]), "all", 4093, ""))).unwrap();
    daemon.wait_ready(PATIENCE).unwrap();
    let servers = lab.live_servers(vip()).unwrap();
    let flows = lab.live_flows("west", vip(), 20_000..20_200).unwrap();
    brief(live(quiet(), "all", 4093, ""));
    daemon.cli_json(&["reload"]).unwrap();
    let state = || status(&daemon)["flows"].clone();
    assert!(state()["transition_ends"].is_string(), "{}", state());
    until("the transition ends", || state()["transition_ends"].is_null());
    // Of a thousand slots that moved, those that some of the connections need.
    until("marks go", || (1..200).contains(&state()["marked_slots"].as_u64().unwrap()));
    let entries = state()["entries"].as_u64().unwrap();
    assert!((10..200).contains(&entries), "{}", state());
    // Connections that open while their home drains live elsewhere. Once it is back, and a walk has made its word clean, nothing but the
    // marks of their slots says so.
    done(&daemon, &["backend", "drain", "w1r1b1", "--reason", "fans"]);
    let away = lab.live_flows("west", vip(), 21_000..21_100).unwrap();
    done(&daemon, &["backend", "restore", "w1r1b1", "--reason", "fans replaced"]);
    let home = |port: &u16| {
        let [source, to] = [format!("198.51.100.10:{port}"), format!("{}/tcp", vip())];
        let told = daemon.cli_json(&["explain", &source, &to]).unwrap();
        let mut texts = told["steps"].as_array().unwrap().iter().filter_map(|step| step["text"].as_str());
        texts.find(|text| text.starts_with("home is ")).unwrap_or_default().to_owned()
    };
    let its: Vec<u16> = (1..100).filter(|port| home(port).starts_with("home is w1r1b1,")).take(3).collect();
    until("its word is clean again", || its.iter().any(|port| home(port).ends_with("always was open")));
    for flows in [&flows, &away] {
        let round = flows.next_round() + 1;
        until("they live on", || flows.has_ended(round));
        assert!(flows.broken().is_empty() && servers.wrong().is_empty(), "{:?}", flows.broken());
    }
}
