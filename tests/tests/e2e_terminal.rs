//! In a terminal: `weir top` shows a rack that dies, drains another one by key, and outlives its daemon; `weir stats` counts what happens, and `weir flows`
//! shows who is away from home, and forgets them.
use lb_tests::{
    e2e,
    lab::{ConfigOptions, Cut, Lab, Terminal, VIP_V4},
    load::SteadyLoad,
};
use lb_userspace::{
    api::types::{DomainView, FlowState, FlowsPage, Flushed, Stats, StatsBy, Status},
    plan::state::State,
    telemetry::event::{Event, EventKind},
};
use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    time::Duration,
};

const DEAD: &str = "west/w2/r1";
const DRAINED: &str = "west/w1/r1";

fn steady() -> SteadyLoad {
    SteadyLoad {
        kept: 32,
        kept_period: Duration::from_millis(50),
        new_per_second: 50,
        new_ports: 80,
        ..SteadyLoad::default()
    }
}

/// Region `west` of so many zones of two racks of two backends, with agents.
fn raise(zones: usize) -> Lab {
    let lab = Lab::builder().regions(&["west"]).zones(zones).racks(2).backends(2).raise();
    let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    lab
}

#[track_caller]
fn sees(terminal: &mut Terminal, what: &str, is_so: impl Fn(&str) -> bool) {
    terminal.wait(what, e2e::DEADLINE, is_so).unwrap_or_else(|error| panic!("{error:#}"));
}

/// Whether a line of the screen has all of these.
fn line_with(texts: &'static [&'static str]) -> impl Fn(&str) -> bool {
    move |screen| screen.lines().any(|line| texts.iter().all(|text| line.contains(text)))
}

fn keep(terminal: &Terminal, name: &str) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/e2e");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(format!("{name}.svg")), terminal.picture().unwrap()).unwrap();
    fs::write(folder.join(format!("{name}.cast")), terminal.recording("weir top")).unwrap();
}

#[test]
fn top_shows_a_rack_that_dies_and_drains_another_by_key() {
    let lab = raise(2);
    let daemon = e2e::start(&lab, &e2e::calm());
    let traffic = lab.steady("west", steady()).unwrap();
    let mut top = lab.start_terminal(lab.edge_netns(0).unwrap(), (80, 24), &["top", "-i", "0.5"]).unwrap();
    sees(&mut top, "it is live", |screen| screen.contains("live ") && screen.contains("backends 8 UP"));
    sees(&mut top, "traffic flows", |screen| {
        let line = screen.lines().find(|line| line.contains("pkt/s")).unwrap_or_default();
        !line.starts_with("0 pkt/s")
    });

    // A rack dies: its line is red, and the event comes by.
    let fault = lab.cut(DEAD, Cut::Drop).unwrap();
    e2e::wait_for_domain(&daemon, DEAD, State::Down, fault.begin_ns);
    sees(&mut top, "the rack is down", line_with(&["▸ r1", "DOWN"]));
    sees(&mut top, "the event", line_with(&["domain west/w2/r1", "-> DOWN", "backends missed"]));
    let painted = top.painted().unwrap();
    let red = ["\u{1b}[31mDOWN", "\u{1b}[38;5;1mDOWN"];
    assert!(
        painted.lines().any(|line| line.contains("r1") && red.iter().any(|red| line.contains(red))),
        "{painted}"
    );

    // Another one is found by its name and drained: a reason, a time, a yes.
    top.press(&["/"]).unwrap();
    top.write(DRAINED).unwrap();
    top.press(&["Enter", "End"]).unwrap();
    sees(&mut top, "only it is shown", |screen| {
        !screen.contains("▾ w2") && screen.contains("filter: west/w1/r1")
    });
    top.press(&["d"]).unwrap();
    sees(&mut top, "the question", |screen| screen.contains("Drain rack west/w1/r1"));
    top.press(&["Enter", "Enter"]).unwrap();
    sees(&mut top, "that a reason is missing", |screen| screen.contains("the reason is empty"));
    top.write("new fans").unwrap();
    top.press(&["Enter", "BSpace", "BSpace", "BSpace"]).unwrap();
    top.write("2h").unwrap();
    top.press(&["Enter"]).unwrap();
    sees(&mut top, "whether really", |screen| {
        screen.contains("drain rack west/w1/r1 for 2 h 0 min (new fans)?")
    });
    assert_eq!(e2e::state(&daemon, "domain", DRAINED), State::Up, "nobody said yes");
    top.press(&["y"]).unwrap();
    sees(&mut top, "what it came to", |screen| {
        screen.contains("domain west/w1/r1: UP -> DRAINING, in the data plane")
    });
    sees(&mut top, "the state", line_with(&["▾ r1", "DRAIN"]));
    let status: Status = e2e::ask(&daemon, &["status"]);
    let word = &status.overrides[0];
    assert_eq!((&*word.subject.name, &*word.word.reason), (DRAINED, "new fans"));
    assert!((7_100..=7_200).contains(&word.left_s.unwrap()), "{word:?}");
    top.press(&["Escape"]).unwrap();
    sees(&mut top, "all again", |screen| screen.contains("▾ w2") && screen.contains("1 DOWN"));
    keep(&top, "top");

    // It outlives the daemon, and any size.
    assert!(daemon.sigterm().unwrap().success());
    sees(&mut top, "that it is lost", |screen| screen.contains("LOST since"));
    let config = lab.write_config(&e2e::calm()).unwrap();
    let daemon = lab.start_daemon(&config).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    sees(&mut top, "that it is back", |screen| screen.contains("live "));
    top.resize((200, 60)).unwrap();
    sees(&mut top, "more columns", |screen| {
        screen.contains("TAKES FLOWS") && screen.contains("drained by operator: new fans")
    });
    keep(&top, "top-large");
    top.press(&["/"]).unwrap();
    top.write(DRAINED).unwrap();
    top.press(&["Enter", "End", "r"]).unwrap();
    sees(&mut top, "the question", |screen| screen.contains("Restore rack west/w1/r1"));
    top.write("fans replaced").unwrap();
    top.press(&["Enter", "y"]).unwrap();
    sees(&mut top, "what it came to", |screen| screen.contains("DRAINING -> UP"));
    let domain: DomainView = e2e::ask(&daemon, &["domain", "show", DRAINED]);
    assert_eq!((domain.health.state, domain.health.word), (State::Up, None));
    top.press(&["q"]).unwrap();
    assert_eq!(top.wait_for_end(e2e::DEADLINE).unwrap(), 0);

    let zones: Stats = e2e::ask(&daemon, &["stats", "--by", "zone", "--over", "2s"]);
    assert_eq!((zones.by, zones.rows.len()), (StatsBy::Zone, 2));
    let rate = |name: &str| {
        zones.rows.iter().find(|row| row.name == name).and_then(|row| row.per_second).unwrap().packets
    };
    assert!(rate("west/w1") > 1.0 && rate("west/w2") > 1.0, "{zones:?}");
    let sum: f64 = zones.rows.iter().map(|row| row.per_second.unwrap().packets).sum();
    let total = zones.total.per_second.unwrap();
    assert!((sum - total.packets).abs() < 0.01 * total.packets, "{sum} of {total:?}");
    assert!(total.opening.unwrap() > 10.0, "{total:?}");
    let reasons: Stats = e2e::ask(&daemon, &["stats", "--by", "reason", "--over", "0s"]);
    assert_eq!(reasons.rows[0].name, "forwarded");
    assert!(reasons.rows[0].counts.packets >= zones.total.counts.packets, "{reasons:?}");
    traffic.stop().unwrap();
}

fn list(lab: &Lab, filter: &str) -> FlowsPage {
    let words: Vec<_> = filter.split_whitespace().collect();
    let output = lab.weir(&[&["flows", "list", "-n", "10000", "-o", "json"], &*words].concat()).unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn flows_away_from_home_are_shown_and_forgotten_and_nobody_elses() {
    const PORTS: std::ops::Range<u16> = 30_000..30_100;
    let lab = raise(1);
    let daemon = e2e::start(&lab, &ConfigOptions { table_size: 4093, ..e2e::calm() });
    let vip = SocketAddr::from((VIP_V4, 80));
    assert_eq!(list(&lab, "").flows, [], "a healthy day");
    // What opens while a rack is drained stays where it is when that comes back: away from home.
    e2e::act(&daemon, "domain", "drain", DRAINED);
    let mut kept = lab.keep_flows("west", vip, PORTS).unwrap();
    e2e::act(&daemon, "domain", "restore", DRAINED);
    let drained = lab.topology().names_in(DRAINED);
    let client = IpAddr::from(lab.topology().client("west").unwrap().v4);

    let all = list(&lab, "state established");
    assert!(all.flows.len() > 10 && all.cursor.is_none(), "{}", all.flows.len());
    let mut seen = BTreeSet::new();
    for flow in &all.flows {
        assert!(flow.away && drained.contains(flow.home.as_ref().unwrap()), "{flow:?}");
        assert!(!drained.contains(&flow.backend) && flow.src.ip() == client, "{flow:?}");
        assert_eq!(
            (flow.dst, &*flow.protocol, flow.service.as_deref()),
            (vip, "tcp", Some("web")),
            "{flow:?}"
        );
        assert!(PORTS.contains(&flow.src.port()) && flow.idle_s < 60 && !flow.relayed, "{flow:?}");
        assert_eq!(flow.state, FlowState::Established);
        assert!(seen.insert(flow.src), "{flow:?} is there twice");
    }
    // Filters narrow it down, and `weir explain` agrees.
    let one = &all.flows[0];
    let name = one.backend.as_str();
    let there: BTreeSet<SocketAddr> =
        all.flows.iter().filter(|flow| flow.backend == name).map(|flow| flow.src).collect();
    let found = list(&lab, &format!("state established and backend {name}"));
    assert_eq!(found.flows.iter().map(|flow| flow.src).collect::<BTreeSet<_>>(), there);
    let lone = list(&lab, &format!("src {} src port {}", one.src.ip(), one.src.port()));
    assert_eq!(lone.flows.iter().map(|flow| flow.src).collect::<Vec<_>>(), [one.src]);
    let (source, destination) = (one.src.to_string(), format!("{}/tcp", one.dst));
    let told = daemon.cli_json(&["explain", &source, &destination, "--established"]).unwrap();
    assert_eq!(told["backend"]["name"], name, "{told:#}");
    let refused = daemon.cli(&["flows", "list", "service", "nope"]).unwrap();
    assert_eq!(refused.status.code(), Some(5), "{refused:?}");

    // Those on one backend are forgotten: these connections break, all others live.
    let flushed = daemon.cli_json(&["flows", "flush", "backend", name, "--reason", "a test"]).unwrap();
    let flushed: Flushed = serde_json::from_value(flushed).unwrap();
    assert!(flushed.complete && flushed.scanned >= flushed.removed, "{flushed:?}");
    assert!(flushed.removed >= there.len() as u64 && flushed.away >= there.len() as u64, "{flushed:?}");
    assert_eq!(list(&lab, &format!("backend {name}")).flows, []);
    assert_eq!(list(&lab, "state established").flows.len(), all.flows.len() - there.len());
    let asked = kept.ask(&BTreeSet::new());
    let broken: BTreeSet<_> = asked.broken.keys().map(|port| SocketAddr::new(client, *port)).collect();
    assert_eq!(asked.answered, PORTS.len() - there.len());
    assert!(!there.is_empty() && there.len() < all.flows.len());
    assert_eq!(broken, there);
    let events: Vec<Event> = e2e::ask(&daemon, &["events", "-n", "50"]);
    let event = events.iter().find(|event| event.kind == EventKind::Flows).expect("it is in the journal");
    let cause = format!(
        "operator: flushed {} flows (backend {name}), {} of them away from home: a test",
        flushed.removed, flushed.away
    );
    assert_eq!(event.cause, cause);
}
