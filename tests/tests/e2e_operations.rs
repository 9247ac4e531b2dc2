//! What operators do for a while: shifts, words with an end, drains that are waited for, canaries. Looked at flow by flow.
use lb_tests::{
    e2e::{self, Connections, Placement},
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4},
};
use lb_userspace::{
    api::types::{Acted, BackendView, CanaryView, DrainState, Reloaded, ShiftView},
    plan::state::State,
    telemetry::{
        event::{Event, EventKind},
        report::{Kind, Report},
    },
};
use std::{collections::BTreeSet, fs, net::SocketAddr, process::Output, thread};

/// Source ports of connections that stay open: not those of flow maps.
const KEPT_PORTS: std::ops::Range<u16> = 30_000..30_060;
const ZONE: &str = "west/w1";

fn unchecked() -> ConfigOptions {
    ConfigOptions { check: Check::None, ..e2e::calm() }
}

#[track_caller]
fn done(daemon: &Daemon<'_>, args: &[&str]) -> String {
    let output = daemon.cli(&[args, &["--reason", "a test"]].concat()).unwrap();
    assert!(output.status.success(), "{args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn refused(output: &Output, code: i32, texts: &[&str]) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert!(texts.iter().all(|text| stderr.contains(text)), "{texts:?} in {stderr}");
}

/// Only flows that are at home in `zone` move, and only outward: whoever is not in `zone` in `many` is not in `few`. Those that were
/// sent away before may go further: how many of them the rest of the pool keeps depends on how well it is.
#[track_caller]
fn assert_monotonic(zone: &BTreeSet<String>, homes: &Placement, many: &Placement, few: &Placement) {
    for (key, many) in &many.0 {
        for (port, before) in &many.served {
            let (home, after) = (&homes.0[key].served[port], &few.0[key].served[port]);
            assert!(
                before == after || zone.contains(home) && !zone.contains(after),
                "{key:?} {port}: {home} {before} {after}"
            );
        }
    }
}

fn events(daemon: &Daemon<'_>, kind: EventKind, subject: &str) -> Vec<Event> {
    let events = e2e::events_since(daemon, 0).into_iter();
    events.filter(|event| event.kind == kind && event.subject == subject).collect()
}

#[test]
fn a_shift_sends_away_its_share_and_nobody_elses_flows_and_ends_by_itself() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &unchecked());
    let before = e2e::placement(&lab);
    let zone = lab.topology().names_in(ZONE);
    let in_zone = |placement: &Placement| -> f64 {
        placement.counts().iter().filter(|(name, _)| zone.contains(*name)).map(|(_, n)| *n as f64).sum()
    };
    let mut kept = Connections::open(&lab, KEPT_PORTS);
    let shift =
        |percent: &str, lasts: &str| done(&daemon, &["shift", "zone", ZONE, "--to", percent, "--for", lasts]);
    shift("50%", "10m");
    let half = e2e::placement(&lab);
    assert_monotonic(&zone, &before, &before, &half);
    let share = in_zone(&half) / in_zone(&before);
    assert!((0.42..0.58).contains(&share), "it keeps {share:.2}");
    shift("25%", "10m");
    let quarter = e2e::placement(&lab);
    assert_monotonic(&zone, &before, &half, &quarter);
    let share = in_zone(&quarter) / in_zone(&before);
    assert!((0.18..0.32).contains(&share), "it keeps {share:.2}");
    shift("50%", "10m");
    half.assert_same(&e2e::placement(&lab));
    kept.assert_unbroken(&BTreeSet::new());

    // What remains must carry the flows: with the region's other zone out, and half of the other region, it could not.
    let out = ["west/w2", "east/e1"];
    for zone in out {
        e2e::act(&daemon, "domain", "fail", zone);
    }
    let none = ["shift", "zone", ZONE, "--to", "0%", "--for", "10m", "--reason", "a test"];
    refused(&daemon.cli(&none).unwrap(), 8, &["client region", "must have 50 %", "--force"]);
    for zone in out {
        e2e::act(&daemon, "domain", "restore", zone);
    }
    let rack = ["shift", "rack", ZONE, "--to", "0%", "--for", "10m", "--reason", "a test"];
    refused(&daemon.cli(&rack).unwrap(), 2, &["west/w1 is a zone, not a rack"]);

    // The shift outlives the daemon, and counts on.
    let before_it: Vec<ShiftView> = e2e::ask(&daemon, &["shift", "list"]);
    daemon.kill9().unwrap();
    let daemon = e2e::start(&lab, &unchecked());
    let list: Vec<ShiftView> = e2e::ask(&daemon, &["shift", "list"]);
    assert!(list.len() == 1 && list[0].shift.keep_percent == 50 && list[0].left_s <= 600, "{list:?}");
    assert_eq!(list[0].shift.until, before_it[0].shift.until, "its end is where it was");
    half.assert_same(&e2e::placement(&lab));
    done(&daemon, &["shift", "cancel", ZONE]);
    before.assert_same(&e2e::placement(&lab));
    kept.assert_unbroken(&BTreeSet::new());

    // Its end comes by itself, is an event, and is written down.
    done(&daemon, &["shift", "zone", ZONE, "--away", "100%", "--for", "3s"]);
    assert!(in_zone(&e2e::placement(&lab)) < in_zone(&before), "looked at too late");
    e2e::eventually("the shift ends", || {
        anyhow::ensure!(e2e::ask::<Vec<ShiftView>>(&daemon, &["shift", "list"]).is_empty());
        Ok(())
    });
    before.assert_same(&e2e::placement(&lab));
    let told = events(&daemon, EventKind::Shift, ZONE);
    let last = told.last().unwrap();
    assert!(last.cause.contains("the time of the shift is over") && last.stored_ns.is_some(), "{last:?}");
    kept.assert_unbroken(&BTreeSet::new());
    kept.finish();

    // So does that of an operator's word.
    let acted: Acted =
        e2e::ask(&daemon, &["backend", "drain", "w1r1b1", "--for", "2s", "--reason", "a test"]);
    assert_eq!((acted.to, acted.left_s), (State::Draining, Some(2)));
    e2e::eventually("the drain ends", || {
        anyhow::ensure!(e2e::state(&daemon, "backend", "w1r1b1") == State::Up);
        Ok(())
    });
    before.assert_same(&e2e::placement(&lab));
    let told = events(&daemon, EventKind::Override, "w1r1b1");
    let last = told.last().unwrap();
    assert!(last.cause.contains("the time of \"drain\" is over"), "{last:?}");
    assert_eq!((last.from, last.to), (Some(State::Draining), Some(State::Up)));
    e2e::eventually("the file is empty", || {
        let text = fs::read_to_string(lab.directory().join("edge-1/overrides.json"))?;
        let file: serde_json::Value = serde_json::from_str(&text)?;
        anyhow::ensure!(
            file["overrides"] == serde_json::json!([]) && file["shifts"] == serde_json::json!([]),
            "{text}"
        );
        Ok(())
    });
}

/// A small lab with two sets in one pool, and agents.
fn two_sets() -> Lab {
    let lab = Lab::builder().regions(&["west"]).zones(2).racks(1).backends(2).raise();
    let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    lab
}

const LIVE: u16 = 9000;

fn options() -> ConfigOptions {
    let extra = format!(
        "\n[[service]]\nname = \"live\"\naddress = \"{VIP_V4}\"\nport = {LIVE}\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\", \"web-w2\"]\ntable_size = 4093\n"
    );
    ConfigOptions { extra, ..unchecked() }
}

/// Writes the configuration of `web`'s pool with these lines for its sets.
fn write(lab: &Lab, sets: &str) {
    let path = lab.write_config(&options()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("sets = [\"web-w1\", \"web-w2\"]", sets, 1)).unwrap();
}

const BOTH: &str = "sets = [\"web-w1\", \"web-w2\"]";

#[test]
fn a_drain_is_waited_for_and_says_what_is_left() {
    let lab = two_sets();
    let path = lab.write_config(&options()).unwrap();
    // The flow table is walked once in a transition's time.
    let text = fs::read_to_string(&path).unwrap().replace("mode =", "transition = \"1s\"\nmode =");
    fs::write(&path, text).unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let vip = SocketAddr::from((VIP_V4, LIVE));
    let servers = lab.live_servers(vip).unwrap();
    let busy = e2e::eventually("the service answers", || lab.live_flows("west", vip, 20_000..20_040));
    let drain = |terms: &[&str]| {
        daemon
            .cli(&[&["backend", "drain", "w1r1b1", "--reason", "a test", "--wait"], terms].concat())
            .unwrap()
    };
    refused(
        &drain(&["--quiet", "1s", "--deadline", "3s"]),
        9,
        &["w1r1b1 is not drained", "packets a second"],
    );
    let told = events(&daemon, EventKind::Override, "w1r1b1");
    assert!(told.last().unwrap().cause.starts_with("the deadline of the drain has passed"), "{told:?}");
    assert!(busy.broken().is_empty(), "a deadline cuts nothing off: {:?}", busy.broken());

    drop(busy);
    let output = drain(&["--quiet", "2s"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let view: BackendView = e2e::ask(&daemon, &["backend", "show", "w1r1b1"]);
    assert_eq!(view.health.drain.unwrap().state, DrainState::Drained);
    let status = String::from_utf8(daemon.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(status.contains("backend w1r1b1  DRAINED"), "{status}");
    e2e::eventually("it is told", || {
        let told = events(&daemon, EventKind::Override, "w1r1b1");
        anyhow::ensure!(
            told.iter().any(|event| event.cause.starts_with("drained: no packet for")),
            "{told:?}"
        );
        Ok(())
    });

    // Whoever restores what somebody waits for ends the waiting.
    thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            daemon
                .cli(&["domain", "drain", "west/w2", "--quiet", "1h", "--wait", "--reason", "a test"])
                .unwrap()
        });
        e2e::eventually("it drains", || {
            anyhow::ensure!(e2e::state(&daemon, "domain", "west/w2") == State::Draining);
            Ok(())
        });
        done(&daemon, &["domain", "restore", "west/w2"]);
        refused(&waiting.join().unwrap(), 10, &["ended before it was drained"]);
    });
    assert!(servers.wrong().is_empty(), "{:?}", servers.wrong());

    // All of that was planned.
    let report: Report = e2e::ask(&daemon, &["report", "--since", "1h"]);
    let of = |kind, name: &str| report.records.iter().find(|r| r.kind == kind && r.name == name).unwrap();
    let backend = of(Kind::Backend, "w1r1b1");
    assert!(backend.planned_s > 3.0 && backend.failures == 0 && backend.down_s == 0.0, "{backend:?}");
    assert!(of(Kind::Service, "web").up_s > 3.0, "{report:?}");
}

#[test]
fn a_canary_moves_by_steps_breaks_no_connection_and_is_reversible_exactly() {
    let lab = two_sets();
    write(&lab, BOTH);
    let path = lab.directory().join("edge-1.toml");
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let second = lab.topology().names_in("west/w2");
    let vip = SocketAddr::from((VIP_V4, LIVE));
    let servers = lab.live_servers(vip).unwrap();
    let busy = e2e::eventually("the service answers", || lab.live_flows("west", vip, 20_000..20_100));
    let before = e2e::placement(&lab);
    let mut kept = Connections::open(&lab, KEPT_PORTS);
    // Which share of the new flows of `web`, the IPv4 one, the second set takes.
    let share = |placement: &Placement| {
        let (_, map) = placement.0.iter().find(|((_, vip), _)| vip.is_ipv4()).unwrap();
        map.served.values().filter(|name| second.contains(*name)).count() as f64 / map.served.len() as f64
    };
    let mut goes_on = |after: &str| {
        kept.assert_unbroken(&BTreeSet::new());
        let round = busy.next_round() + 1;
        e2e::eventually("busy connections go on", || {
            anyhow::ensure!(busy.has_ended(round));
            Ok(())
        });
        assert!(busy.broken().is_empty() && servers.wrong().is_empty(), "{after}: {:?}", busy.broken());
    };
    assert!((0.4..0.6).contains(&share(&before)), "{}", share(&before));

    done(&daemon, &["canary", "set", "web", "--set", "web-w2", "--share", "10%"]);
    done(&daemon, &["canary", "set", "live", "--set", "web-w2", "--share", "0%"]);
    let tenth = e2e::placement(&lab);
    assert!((0.06..0.14).contains(&share(&tenth)), "{}", share(&tenth));
    for (key, map) in before.0.iter().filter(|((_, vip), _)| vip.is_ipv6()) {
        assert_eq!(map.moved(&tenth.0[key]), [], "web6 has no canary");
    }
    goes_on("10 %");
    done(&daemon, &["canary", "step", "web"]);
    let quarter = e2e::placement(&lab);
    assert!((0.2..0.3).contains(&share(&quarter)), "{}", share(&quarter));
    done(&daemon, &["canary", "step", "web", "--back"]);
    tenth.assert_same(&e2e::placement(&lab));
    goes_on("a step and back");

    // A reload leaves it, and so does a crash.
    assert!(!e2e::ask::<Reloaded>(&daemon, &["reload"]).changed);
    daemon.kill9().unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    let list: Vec<CanaryView> = e2e::ask(&daemon, &["canary", "list"]);
    assert_eq!(list.iter().map(|view| view.canary.permille).collect::<Vec<_>>(), [0, 100]);
    tenth.assert_same(&e2e::placement(&lab));
    goes_on("a crash");

    done(&daemon, &["canary", "promote", "web"]);
    assert_eq!(share(&e2e::placement(&lab)), 1.0);
    goes_on("a promotion");
    done(&daemon, &["canary", "abort", "web"]);
    done(&daemon, &["canary", "abort", "live"]);
    before.assert_same(&e2e::placement(&lab));
    goes_on("aborting");

    // A set that stands by takes nothing, until its canary begins; one that is gone ends its canary.
    done(&daemon, &["canary", "set", "web", "--set", "web-w2", "--share", "10%"]);
    write(&lab, "sets = [\"web-w1\"]\nstandby = [\"web-w2\"]");
    let reloaded: Reloaded = e2e::ask(&daemon, &["reload"]);
    assert!(!reloaded.changed, "with its canary the file says what is in force: {reloaded:?}");
    done(&daemon, &["canary", "abort", "web"]);
    assert_eq!(share(&e2e::placement(&lab)), 0.0);
    done(&daemon, &["canary", "set", "web", "--set", "web-w2", "--share", "50%"]);
    write(&lab, "sets = [\"web-w1\"]");
    let diff = String::from_utf8(daemon.cli(&["diff"]).unwrap().stdout).unwrap();
    assert!(diff.contains("web: the canary of set web-w2 ends"), "{diff}");
    e2e::ask::<Reloaded>(&daemon, &["reload"]);
    assert!(e2e::ask::<Vec<CanaryView>>(&daemon, &["canary", "list"]).is_empty());
    let told = events(&daemon, EventKind::Canary, "web");
    assert!(told.last().unwrap().cause.contains("ended"), "{told:?}");
    goes_on("the end of the canary");
}
