//! Steering end to end: a pool that is in part down keeps what the 140 % rule says and moves nobody else, a simulation says so before,
//! a plan panics and comes back, a million client prefixes are exchanged, capacities spill and come back, what fits nowhere is shed, and a shift is refused by what was measured.
use anyhow::ensure;
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e::{self, Connections, Placement},
    golden::packets::{SYN, ipv4, tcp},
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4, web_vips},
};
use lb_userspace::{
    api::types::{Explanation, GuardView, Simulation, SteeredPlan},
    telemetry::event::EventKind,
};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    ops::Range,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// Source ports of connections that stay open: not those of flow maps.
const KEPT_PORTS: Range<u16> = 30_000..30_060;
/// Source ports of connections that are opened meanwhile.
const LATER_PORTS: Range<u16> = 31_000..31_060;

/// A check that fails for a backend while a file is there that is named after its address.
fn marked(lab: &Lab) -> ConfigOptions {
    let folder = lab.directory().display().to_string();
    let command = format!("test ! -e {folder}/down-$WEIR_ADDRESS");
    let check = format!(
        "kind = \"exec\"\ncommand = [\"/bin/sh\", \"-c\", '{command}']\ninterval = \"1s\"\ntimeout = \"900ms\"\nfall = 3\nrise = 2"
    );
    ConfigOptions { check: Check::Text(check), ..e2e::calm() }
}

fn mark(lab: &Lab, names: &BTreeSet<String>, down: bool) {
    for name in names {
        let file = lab.directory().join(format!("down-{}", lab.topology().backend(name).unwrap().v4));
        if down { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }
}

fn plan(daemon: &Daemon<'_>, client: &str) -> SteeredPlan {
    let [plan] = &e2e::ask::<Vec<SteeredPlan>>(daemon, &["plan", "show", "web", "--client", client])[..]
    else {
        panic!("one plan for one client")
    };
    plan.clone()
}

/// Part of the flows of the client in the west that servers of the east serve.
fn spilled(lab: &Lab, placement: &Placement) -> f64 {
    let east = lab.topology().names_in("east");
    let maps = placement.0.iter().filter(|((client, _), _)| client == "west");
    let (mut there, mut all) = (0, 0);
    for (_, map) in maps {
        all += map.served.len();
        there += map.served.values().filter(|name| east.contains(*name)).count();
    }
    there as f64 / all as f64
}

/// Waits until the plan of the west's clients spills so many percent.
#[track_caller]
fn wait_for_spill(daemon: &Daemon<'_>, percent: f64) {
    e2e::eventually(&format!("{percent} % spill"), || {
        let plan = plan(daemon, "west");
        ensure!((plan.spilled_percent - percent).abs() < 0.6, "{plan:?}");
        Ok(())
    });
}

/// What is told of plans since a moment.
fn told(daemon: &Daemon<'_>, since_ns: u64) -> String {
    let events =
        e2e::events_since(daemon, since_ns).into_iter().filter(|event| event.kind == EventKind::Plan);
    events.map(|event| format!("{}: {}\n", event.subject, event.cause)).collect()
}

#[test]
fn a_pool_in_part_down_keeps_140_percent_and_a_plan_without_health_panics() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &marked(&lab));
    let before = e2e::placement(&lab);
    let began_ns = e2e::now_ns();
    let nobody = BTreeSet::new();

    // Five of eight go: what is left keeps 1.4 x 37.5 %.
    let mut gone = lab.topology().names_in("west/w1");
    gone.insert("w2r1b1".to_owned());
    let simulated: Simulation = e2e::ask(
        &daemon,
        &["plan", "simulate", "--fail", "zone=west/w1", "--fail", "backend=w2r1b1", "--service", "web"],
    );
    let of_west = simulated.plans.iter().find(|plan| plan.client_region == "west").unwrap();
    let then: Vec<_> = of_west.pools.iter().map(|pool| (pool.pool.as_str(), pool.then_percent)).collect();
    assert_eq!(then, [("west", 52.5), ("east", 47.5)]);
    assert_eq!(plan(&daemon, "west").spilled_percent, 0.0, "a simulation changes nothing");

    let mut kept = Connections::open(&lab, KEPT_PORTS);
    e2e::act(&daemon, "domain", "drain", "west/w1");
    e2e::act(&daemon, "backend", "drain", "w2r1b1");
    wait_for_spill(&daemon, 47.5);
    let during = e2e::placement(&lab);
    before.assert_only_moved(&gone, &during);
    let part = spilled(&lab, &during);
    assert!((part - 0.475).abs() < 0.04, "{part} of the new flows are in the east");
    assert!(!plan(&daemon, "west").panic, "an operator's word is no reason for panic");
    kept.assert_unbroken(&nobody);
    let mut later = Connections::open(&lab, LATER_PORTS);
    e2e::act(&daemon, "domain", "restore", "west/w1");
    e2e::act(&daemon, "backend", "restore", "w2r1b1");
    wait_for_spill(&daemon, 0.0);
    before.assert_same(&e2e::placement(&lab));
    kept.assert_unbroken(&nobody);
    later.assert_unbroken(&nobody);

    // The daemon dies while a pool is in part down: what it said stands, and the next one knows.
    e2e::act(&daemon, "domain", "drain", "west/w1");
    e2e::act(&daemon, "backend", "drain", "w2r1b1");
    wait_for_spill(&daemon, 47.5);
    daemon.kill9().unwrap();
    during.assert_same(&e2e::placement(&lab));
    let daemon = lab.start_daemon(&lab.write_config(&marked(&lab)).unwrap()).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    wait_for_spill(&daemon, 47.5);
    during.assert_same(&e2e::placement(&lab));
    e2e::act(&daemon, "domain", "restore", "west/w1");
    e2e::act(&daemon, "backend", "restore", "w2r1b1");
    wait_for_spill(&daemon, 0.0);

    // Checks fail for all but a few, which serve all the same: with a quarter healthy, health is not believed.
    let mut sick = lab.topology().names_in("west");
    sick.extend(lab.topology().names_in("east/e1"));
    mark(&lab, &sick, true);
    e2e::eventually("the plan panics", || {
        let plan = plan(&daemon, "west");
        ensure!(plan.panic && plan.healthy_percent == 25.0 && plan.spilled_percent == 0.0, "{plan:?}");
        Ok(())
    });
    before.assert_same(&e2e::placement(&lab));
    later.assert_unbroken(&nobody);
    mark(&lab, &sick, false);
    e2e::wait_all_up(&daemon);
    e2e::eventually("the panic is over", || {
        ensure!(!plan(&daemon, "west").panic);
        Ok(())
    });
    before.assert_same(&e2e::placement(&lab));
    kept.finish();
    later.finish();
    e2e::eventually("all of it is told", || {
        let told = told(&daemon, began_ns);
        for text in
            ["begins to spill", "spills no more", "health is not believed", "health is believed again"]
        {
            ensure!(told.contains(text), "{text}: {told}");
        }
        Ok(())
    });
}

#[test]
fn a_full_pool_spills_and_takes_its_flows_back() {
    let lab = e2e::raise();
    let options = ConfigOptions { check: Check::None, ..e2e::calm() };
    let path = lab.write_config(&options).unwrap();
    // Both pools of the service `web`; the other services' stay as they are.
    let mut text = fs::read_to_string(&path).unwrap();
    text = text.replacen(
        "[[service.pool]]\nname = \"west\"\n",
        "[[service.pool]]\nname = \"west\"\ncapacity_new_flows_per_second = 100\n",
        1,
    );
    fs::write(&path, text).unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let began_ns = e2e::now_ns();
    // Flow maps themselves are the load: thousands of new flows a second.
    let vip = lb_tests::lab::web_vips()[0];
    let mut kept: Option<Connections> = None;
    e2e::eventually("the pool spills", || {
        lab.flow_map("west", vip, 40_000..42_000)?;
        let plan = plan(&daemon, "west");
        ensure!(plan.spilled_percent > 20.0, "{plan:?}");
        kept.get_or_insert_with(|| Connections::open(&lab, KEPT_PORTS));
        Ok(())
    });
    let mut kept = kept.unwrap();
    kept.assert_unbroken(&BTreeSet::new());
    // What was measured has to fade first; until then flows go on to spill. Then they come back by 5 % a second.
    e2e::eventually("the demand fades", || {
        let plan = plan(&daemon, "west");
        ensure!(plan.demand < 50.0, "{plan:?}");
        Ok(())
    });
    for (what, most) in [("half of the flows come back", 50.0), ("all flows come back", 0.0)] {
        e2e::eventually(what, || {
            let plan = plan(&daemon, "west");
            ensure!(plan.spilled_percent <= most, "{plan:?}");
            Ok(())
        });
    }
    kept.assert_unbroken(&BTreeSet::new());
    assert!(told(&daemon, began_ns).contains("than pool west has room for"), "{}", told(&daemon, began_ns));
    kept.finish();
}

/// New flows a second that each pool of the service `web` takes.
const CAPACITY: u64 = 200;
/// Segments of the flood in one go, and the time from one to the next.
const BURST: u16 = 40;
const PAUSE: Duration = Duration::from_millis(20);

/// Opening segments to the web service from an address near the client in the west, `BURST` each time, until told to stop.
fn flood(lab: &Lab, stop: &AtomicBool) {
    let [a, b, c, _] = lab.topology().client("west").unwrap().v4.octets();
    let source = Ipv4Addr::new(a, b, c, 200);
    let send = || {
        // IPPROTO_RAW: the packet is sent as it is, header included.
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255)))?;
        let to = SockAddr::from(SocketAddr::new(IpAddr::from(VIP_V4), 0));
        for port in (1_024..=u16::MAX).cycle().step_by(usize::from(BURST)) {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            for port in port..=port.saturating_add(BURST - 1) {
                socket.send_to(&ipv4(source, VIP_V4, 6, &tcp(port, 80, SYN, b"")), &to)?;
            }
            thread::sleep(PAUSE);
        }
        Ok(())
    };
    lab.client_netns("west").unwrap().run(send).unwrap();
}

fn shed(daemon: &Daemon<'_>, service: &str) -> (u64, f64) {
    let guard: GuardView = e2e::ask(daemon, &["guard", "show", service]);
    (guard.refused[Reason::Shed.name()], guard.shed_percent)
}

#[test]
fn what_fits_nowhere_is_shed_and_a_shift_is_refused_by_what_was_measured() {
    let lab = e2e::raise();
    let path = lab.write_config(&ConfigOptions { check: Check::None, ..e2e::calm() }).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let (web, rest) = text.split_once("name = \"web6\"").unwrap();
    let capacity = format!("capacity_new_flows_per_second = {CAPACITY}\n");
    let web = web.replace("name = \"web\"\n", "name = \"web\"\npriority = \"P3\"\n");
    let web = ["west", "east"].iter().fold(web, |web, pool| {
        let line = format!("[[service.pool]]\nname = \"{pool}\"\n");
        web.replace(&line, &format!("{line}{capacity}"))
    });
    fs::write(&path, format!("{web}name = \"web6\"\npriority = \"P0\"{rest}")).unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| flood(&lab, &stop));
        e2e::eventually("what fits nowhere is shed", || {
            let (plan, (packets, percent)) = (plan(&daemon, "west"), shed(&daemon, "web"));
            ensure!(
                packets > 500 && percent > 30.0 && plan.unfit_percent > 30.0,
                "{packets} {percent} {plan:?}"
            );
            ensure!(plan.why.iter().any(|why| why.contains("fit into no pool")), "{plan:?}");
            Ok(())
        });
        e2e::eventually("no pool gets more than it takes", || {
            let plan = plan(&daemon, "west");
            let most = plan.pools.iter().map(|pool| pool.arrivals).fold(0.0, f64::max);
            ensure!(most > 0.0 && most <= CAPACITY as f64, "{plan:?}");
            Ok(())
        });
        // What is measured is what is simulated: a tenth of it would fit, and without a zone even less of it does than now.
        let simulate = |args: &[&str]| -> (f64, bool) {
            let told: Simulation =
                e2e::ask(&daemon, &[&["plan", "simulate", "--service", "web"], args].concat());
            let of_west = told.plans.iter().find(|plan| plan.client_region == "west").unwrap();
            (of_west.unfit_percent, told.pools.iter().any(|pool| pool.exceeds))
        };
        let (tenth, now) = (simulate(&["--load", "0.1"]), simulate(&["--load", "1"]));
        let without = simulate(&["--load", "1", "--fail", "zone=west/w1"]);
        assert_eq!(tenth, (0.0, false));
        assert!(now.0 > 30.0 && now.1 && without.0 > now.0 + 2.0 && without.1, "{now:?} {without:?}");
        // Who has another service notices nothing.
        let map = lab.flow_map("west", web_vips()[1], 20_000..20_040).unwrap();
        assert!(map.failed.is_empty(), "P0 is served: {:?}", map.failed);
        assert_eq!(shed(&daemon, "web6"), (0, 0.0));

        // By weight, half of a pool may go; by what was measured there is no room for it.
        let shift = ["shift", "zone", "west/w1", "--to", "0%", "--for", "1h", "--reason", "try"];
        let refused = daemon.cli(&shift).unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success(), "{told}");
        for text in
            ["web (client region west)", "would fit nowhere", "room in pool west for 80, pool east for 160"]
        {
            assert!(told.contains(text), "{text}: {told}");
        }
        stop.store(true, Ordering::Relaxed);
    });
    e2e::eventually("shedding ends", || {
        let (_, percent) = shed(&daemon, "web");
        ensure!(percent == 0.0, "{percent}");
        Ok(())
    });
    e2e::eventually("the demand fades, and the same shift is fine", || {
        let shift = ["shift", "zone", "west/w1", "--to", "0%", "--for", "1h", "--reason", "try"];
        let done = daemon.cli(&shift)?;
        ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Ok(())
    });
}

/// Client prefixes in the file, of both families: with those of the configuration as many as there may be.
const PREFIXES: u32 = (1 << 20) - 64;
/// How long a daemon that is not optimised may take to read them, on a machine that does much else.
const MILLION_READY: Duration = Duration::from_secs(120);
/// The service whose every datagram is accounted for.
const NUMBERED: u16 = 9000;

/// As many prefixes as there may be, every other one of each of two client regions, which a turn exchanges; and these lines at the end.
fn write_prefixes(lab: &Lab, turn: u32, last_lines: &str) -> String {
    let mut text = String::from("prefix,client_region\n");
    for number in 0..PREFIXES {
        let ([_, a, b, c], region) = (number.to_be_bytes(), e2e::CLIENTS[((number + turn) % 2) as usize]);
        let line = if number % 4 == 0 {
            format!("2001:db8:8000:{a:x}{b:02x}:{c:x}::/80,{region}\n")
        } else {
            format!("20.{a}.{b}.{c}/32,{region}\n")
        };
        text += &line;
    }
    let path = lab.directory().join("clients.csv");
    fs::write(&path, text + last_lines).unwrap();
    path.display().to_string()
}

#[test]
fn a_million_client_prefixes_are_exchanged_without_a_gap() {
    let lab = e2e::raise();
    let service = |name: &str, vip: IpAddr| {
        format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = {NUMBERED}\nprotocol = \"udp\"\n\
             [[service.pool]]\nname = \"west\"\nsets = [\"web-w1\", \"web-w2\"]\ntable_size = 4093\n\
             [[service.pool]]\nname = \"east\"\nsets = [\"web-e1\", \"web-e2\"]\ntable_size = 4093\n\
             [service.plan]\nwest = [\"west\", \"east\"]\neast = [\"east\", \"west\"]\ndefault = [\"east\", \"west\"]\n"
        )
    };
    let vips = web_vips().map(|vip| vip.ip());
    let extra = service("numbered", vips[0]) + &service("numbered6", vips[1]);
    let path = lab.write_config(&ConfigOptions { check: Check::None, extra, ..e2e::calm() }).unwrap();
    let file = write_prefixes(&lab, 0, "");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("[node]\n", &format!("[node]\nclient_prefixes_file = \"{file}\"\n"), 1))
        .unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(MILLION_READY).unwrap();
    let before = e2e::placement(&lab);
    let mut kept = Connections::open(&lab, KEPT_PORTS);
    let numbered =
        lab.numbered("west", &vips.map(|vip| SocketAddr::new(vip, NUMBERED)), 22_000..22_032).unwrap();
    let region = |source: &str| {
        let vip = format!("{}/tcp", web_vips()[usize::from(source.starts_with('['))]);
        e2e::ask::<Explanation>(&daemon, &["explain", source, &vip]).client_region.unwrap_or_default()
    };
    // The first ones of both families, one that no line names, and the last one.
    let regions = || {
        let v4 = ["20.0.0.1:9", "20.0.0.2:9", "21.0.0.1:9", "20.15.255.191:9"];
        let v6 = ["[2001:db8:8000::9]:9", "[2001:db8:8000:0:4::9]:9"];
        v4.into_iter().chain(v6).map(region).collect::<Vec<_>>()
    };
    assert_eq!(regions(), ["east", "west", "default", "east", "west", "west"]);

    // Every one of them belongs to the other region, and so do, by longer prefixes than the configuration has, the clients in the east: whom that
    // does not concern loses no packet.
    let client = lab.topology().client("east").unwrap().clone();
    write_prefixes(&lab, 1, &format!("{}/32,west\n{}/128,west\n", client.v4, client.v6));
    // A request would not wait for so long.
    let reload = |what: &str| {
        let since_ns = e2e::now_ns();
        daemon.signal(Signal::SIGHUP).unwrap();
        let end = Instant::now() + MILLION_READY;
        loop {
            let events = e2e::events_since(&daemon, since_ns).into_iter();
            if let Some(told) = events.map(|event| event.cause).find(|cause| cause.starts_with("reload")) {
                assert!(told.starts_with(what), "{told}");
                return told;
            }
            assert!(Instant::now() < end, "{}", daemon.log_tail());
            thread::sleep(Duration::from_millis(50));
        }
    };
    reload("reloaded:");
    assert_eq!(regions(), ["west", "east", "default", "west", "east", "east"]);
    let after = e2e::placement(&lab);
    let west = lab.topology().names_in("west");
    for (key, map) in before.0.iter().filter(|((client, _), _)| client == "west") {
        assert_eq!(map.moved(&after.0[key]), [], "{key:?}");
    }
    assert_eq!(after.servers_of("east"), west);
    kept.assert_unbroken(&BTreeSet::new());
    let account = numbered.stop().unwrap();
    assert_eq!((account.sent, &account.told), (account.arrived, &Vec::new()), "{account:?}");
    assert!(account.by_backend.keys().all(|name| west.contains(name)) && account.sent > 1_000, "{account:?}");
    assert_eq!(plan(&daemon, &format!("{}/32", client.v4)).client_region, "west");
    let plans: Vec<SteeredPlan> = e2e::ask(&daemon, &["plan", "show", "web", "--client", "20.0.0.0/30"]);
    let regions: BTreeSet<_> = plans.iter().map(|plan| plan.client_region.as_str()).collect();
    assert!(
        e2e::CLIENTS.iter().all(|region| regions.contains(region)),
        "clients of both are in it: {regions:?}"
    );

    // A line that is wrong changes nothing.
    fs::write(file, "20.0.0.0/32,west\n20.0.0.0/33,west\n").unwrap();
    let told = reload("reload refused");
    assert!(told.contains("clients.csv:2:1"), "{told}");
    after.assert_same(&e2e::placement(&lab));
    kept.assert_unbroken(&BTreeSet::new());
    kept.finish();
}

#[test]
fn a_strict_plan_never_leaves_and_a_zone_affine_one_goes_when_too_little_is_left() {
    let lab = e2e::raise();
    let path = lab.write_config(&ConfigOptions { check: Check::None, ..e2e::calm() }).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    // The clients of the west: of the service over IPv4, and of the one over IPv6.
    let plan_line = "west = [\"west\", \"east\"]";
    let modes = [
        "pools = [\"west\"], mode = \"strict\"",
        "pools = [\"west\", \"east\"], mode = \"zone-affine\", rho = 0.6",
    ];
    let text =
        modes.iter().fold(text, |text, mode| text.replacen(plan_line, &format!("west = {{ {mode} }}"), 1));
    fs::write(&path, text).unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let before = e2e::placement(&lab);
    // The parts of both services' flows that are in the east.
    let parts = |placement: &Placement| -> [f64; 2] {
        let of = |is_ipv4: bool| {
            let maps = placement.0.iter().filter(|((_, vip), _)| vip.is_ipv4() == is_ipv4);
            spilled(&lab, &Placement(maps.map(|(key, map)| (key.clone(), map.clone())).collect()))
        };
        [of(true), of(false)]
    };
    assert_eq!(parts(&before), [0.0, 0.0]);
    // Five of eight are left, which is more than 60 %: both stay.
    let mut gone = lab.topology().names_in("west/w1/r1");
    gone.insert("w1r2b1".to_owned());
    e2e::act(&daemon, "domain", "drain", "west/w1/r1");
    e2e::act(&daemon, "backend", "drain", "w1r2b1");
    let during = e2e::placement(&lab);
    assert_eq!(parts(&during), [0.0, 0.0]);
    before.assert_only_moved(&gone, &during);
    // With four left the half whose home is gone goes to the other region, of the one service; the other one's stays.
    gone.insert("w1r2b2".to_owned());
    e2e::act(&daemon, "backend", "drain", "w1r2b2");
    e2e::eventually("the zone-affine plan hands on what has no home", || {
        let [strict, affine] = parts(&e2e::placement(&lab));
        ensure!(strict == 0.0 && (affine - 0.5).abs() < 0.05, "{strict} {affine}");
        Ok(())
    });
    before.assert_only_moved(&gone, &e2e::placement(&lab));
    // Of all that is left, one backend takes everything of the strict plan.
    let last = BTreeSet::from(["w2r2b2".to_owned()]);
    gone = lab.topology().names_in("west").difference(&last).cloned().collect();
    for name in gone.iter().filter(|name| name.starts_with("w2")) {
        e2e::act(&daemon, "backend", "drain", name);
    }
    e2e::eventually("seven eighths go", || {
        let [strict, affine] = parts(&e2e::placement(&lab));
        ensure!(strict == 0.0 && (affine - 0.875).abs() < 0.04, "{strict} {affine}");
        Ok(())
    });
    before.assert_only_moved(&gone, &e2e::placement(&lab));
}
