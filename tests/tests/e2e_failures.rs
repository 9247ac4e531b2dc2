//! Domains fail and come back, by an operator's word and by cut links: only what was there goes elsewhere, and everything
//! returns to where it was. Looked at flow by flow.
use lb_tests::{
    e2e::{self, CLIENTS, Connections, PORTS, Placement},
    lab::{Check, ConfigOptions, Cut, Daemon, Lab, web_vips},
    load::{cpus, stall},
};
use lb_userspace::{plan::state::State, telemetry::event::EventKind};
use std::{collections::BTreeSet, fs, thread, time::Duration};

/// Source ports of connections that stay open: not those of flow maps.
const KEPT_PORTS: std::ops::Range<u16> = 30_000..30_100;
/// Source ports of connections that are opened during a drain.
const LATER_PORTS: std::ops::Range<u16> = 31_000..31_100;

/// Without checks: nothing but the operator's word changes anything.
fn unchecked() -> ConfigOptions {
    ConfigOptions { check: Check::None, ..e2e::calm() }
}

/// A placement with at least 2,000 flows per client.
fn first_placement(lab: &Lab) -> Placement {
    let placement = e2e::placement(lab);
    for client in CLIENTS {
        let maps = placement.0.iter().filter(|((region, _), _)| region == client);
        let flows: usize = maps.map(|(_, map)| map.served.len()).sum();
        assert!(flows >= 2000, "{client}: {flows} flows");
    }
    assert_eq!(PORTS.len() * 2 * CLIENTS.len(), placement.counts().values().sum::<usize>());
    placement
}

#[test]
fn failing_a_rack_a_zone_a_region_by_hand_moves_its_flows_only_and_restoring_returns_them() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &unchecked());
    let before = first_placement(&lab);
    for domain in ["west/w1/r1", "east/e2", "west"] {
        let gone = lab.topology().names_in(domain);
        e2e::act(&daemon, "domain", "fail", domain);
        assert_eq!(e2e::state(&daemon, "domain", domain), State::Down);
        let during = e2e::placement(&lab);
        before.assert_only_moved(&gone, &during);
        if domain == "west" {
            assert_eq!(
                during.servers_of("west"),
                lab.topology().names_in("east"),
                "the next pool of the plan"
            );
        }
        e2e::act(&daemon, "domain", "restore", domain);
        before.assert_same(&e2e::placement(&lab));
    }
}

/// Cuts a domain, and checks what is done, and what is not, until it is back.
fn cut_and_restore(lab: &Lab, daemon: &Daemon<'_>, before: &Placement, domain: &str, cut: Cut) {
    let gone = lab.topology().names_in(domain);
    let mut kept = Connections::open(lab, KEPT_PORTS);
    let on_gone: usize = kept.counts().iter().filter(|(name, _)| gone.contains(*name)).map(|(_, n)| n).sum();
    let all: usize = kept.counts().values().sum();
    let fault = lab.cut(domain, cut).unwrap();
    let suspect = e2e::wait_for_domain(daemon, domain, State::Suspect, fault.begin_ns);
    let down = e2e::wait_for_domain(daemon, domain, State::Down, fault.begin_ns);
    assert!(suspect.stored_ns < down.stored_ns, "{suspect:?} {down:?}");
    assert_eq!(kept.assert_unbroken(&gone), all - on_gone, "{cut:?}");
    let during = e2e::placement(lab);
    before.assert_only_moved(&gone, &during);
    assert_eq!(kept.assert_unbroken(&gone), all - on_gone, "{cut:?}");

    lab.restore(domain).unwrap();
    e2e::wait_for_domain(daemon, domain, State::Up, down.monotonic_ns);
    e2e::wait_all_up(daemon);
    before.assert_same(&e2e::placement(lab));
    assert_eq!(kept.assert_unbroken(&gone), all - on_gone, "{cut:?}");
    let within = |other: &String| {
        other.strip_prefix(domain).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let others: BTreeSet<_> = e2e::changed_domains(daemon, fault.begin_ns);
    assert!(others.iter().all(within), "{domain} was cut ({cut:?}), and these changed: {others:?}");
}

#[test]
fn a_rack_that_is_cut_off_is_found_and_nothing_else_moves() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &e2e::calm());
    let before = first_placement(&lab);
    cut_and_restore(&lab, &daemon, &before, "west/w1/r1", Cut::Drop);
    cut_and_restore(&lab, &daemon, &before, "east/e2/r2", Cut::Link);
}

#[test]
fn a_zone_that_is_cut_off_is_found_and_nothing_else_moves() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &e2e::calm());
    let before = first_placement(&lab);
    cut_and_restore(&lab, &daemon, &before, "west/w2", Cut::Drop);
    cut_and_restore(&lab, &daemon, &before, "east/e1", Cut::Link);
}

#[test]
fn a_region_that_is_cut_off_is_replaced_by_the_next_of_the_plan_and_returns() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &e2e::calm());
    let before = first_placement(&lab);
    for (cut, region, next) in [(Cut::Drop, "west", "east"), (Cut::Link, "east", "west")] {
        let fault = lab.cut(region, cut).unwrap();
        let down = e2e::wait_for_domain(&daemon, region, State::Down, fault.begin_ns);
        let during = e2e::placement(&lab);
        before.assert_only_moved(&lab.topology().names_in(region), &during);
        for client in CLIENTS {
            assert_eq!(during.servers_of(client), lab.topology().names_in(next), "{client}, {cut:?}");
        }
        lab.restore(region).unwrap();
        e2e::wait_for_domain(&daemon, region, State::Up, down.monotonic_ns);
        e2e::wait_all_up(&daemon);
        before.assert_same(&e2e::placement(&lab));
    }
}

#[test]
fn draining_keeps_connections_where_they_are_and_sends_new_ones_elsewhere() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &unchecked());
    let before = first_placement(&lab);
    let nobody = BTreeSet::new();
    for (kind, name) in [("backend", "w1r1b1"), ("domain", "east/e1")] {
        let drained = match kind {
            "backend" => BTreeSet::from([name.to_owned()]),
            _ => lab.topology().names_in(name),
        };
        let on_drained = |connections: &Connections| -> usize {
            connections.counts().iter().filter(|(name, _)| drained.contains(*name)).map(|(_, n)| n).sum()
        };
        let mut old = Connections::open(&lab, KEPT_PORTS);
        let homes = Connections::open(&lab, LATER_PORTS).counts();
        assert!(on_drained(&old) > 0, "no connection on {name}");
        e2e::act(&daemon, kind, "drain", name);
        assert_eq!(e2e::state(&daemon, kind, name), State::Draining);
        old.assert_unbroken(&nobody);
        before.assert_only_moved(&drained, &e2e::placement(&lab));
        let mut later = Connections::open(&lab, LATER_PORTS);
        assert!(on_drained(&later) == 0 && later.counts() != homes, "{homes:?} {:?}", later.counts());
        old.assert_unbroken(&nobody);
        later.assert_unbroken(&nobody);

        // What was opened away from its home stays there: the flow table knows it. What is new goes home.
        e2e::act(&daemon, kind, "restore", name);
        old.assert_unbroken(&nobody);
        later.assert_unbroken(&nobody);
        before.assert_same(&e2e::placement(&lab));
        old.assert_unbroken(&nobody);
        old.finish();
        later.finish();
        let back = Connections::open(&lab, LATER_PORTS);
        assert_eq!(back.counts(), homes, "{name} is back");
        back.finish();
    }
}

#[test]
fn a_killed_server_is_found_by_tcp_checks_and_returns_when_it_is_restarted() {
    let lab = e2e::raise();
    let options = ConfigOptions {
        check: Check::Tcp,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        ..e2e::calm()
    };
    let daemon = e2e::start(&lab, &options);
    let before = first_placement(&lab);
    let dead = BTreeSet::from(["w2r1b2".to_owned()]);
    let killed_ns = e2e::now_ns();
    lab.kill_backend("w2r1b2").unwrap();
    e2e::eventually("the killed backend is DOWN", || {
        anyhow::ensure!(e2e::state(&daemon, "backend", "w2r1b2") == State::Down);
        Ok(())
    });
    before.assert_only_moved(&dead, &e2e::placement(&lab));
    lab.restart_backend("w2r1b2").unwrap();
    e2e::wait_all_up(&daemon);
    before.assert_same(&e2e::placement(&lab));
    assert_eq!(e2e::changed_domains(&daemon, killed_ns), BTreeSet::new());
}

/// Source ports of flows in the lab in which the edge host hears nobody.
const DEAF_PORTS: std::ops::Range<u16> = 20_000..20_300;

/// Backends answer, but no answer reaches the edge host: it blames nobody, obeys its operator, and goes on where it was.
#[test]
fn a_host_that_hears_nobody_holds_what_it_knew_and_says_so() {
    let lab = Lab::builder().regions(&["west"]).zones(1).backends(2).raise();
    let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    // Its routes are a file.
    let routes = lab.directory().join("routes");
    let command = format!("[\"/bin/sh\", \"-c\", \"echo $WEIR_STEP >> {}\"]", routes.display());
    let path = lab.write_config(&e2e::calm()).unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let with = format!("[node]\nwithdraw_command = {command}\nannounce_command = {command}\n");
    fs::write(&path, text.replacen("[node]\n", &with, 1)).unwrap();
    let start = || {
        let daemon = lab.start_daemon(&path).unwrap();
        daemon.wait_ready(e2e::DEADLINE).unwrap();
        daemon
    };
    let steps = |wanted: &str| {
        e2e::eventually(&format!("routes: {wanted}"), || {
            let steps = fs::read_to_string(&routes).unwrap_or_default().replace('\n', " ");
            anyhow::ensure!(steps.trim_end() == wanted, "{steps}");
            Ok(())
        });
    };
    let daemon = start();
    e2e::wait_all_up(&daemon);
    for vip in web_vips() {
        e2e::eventually("the VIP answers", || lab.curl_vip("west", vip));
    }
    let all_up = e2e::placement_of(&lab, DEAF_PORTS);
    // One is dead before, and must not be taken back because nothing is known of it any more.
    lab.stop_agent("w1r1b1").unwrap();
    e2e::eventually("a backend without an agent is DOWN", || {
        anyhow::ensure!(e2e::state(&daemon, "backend", "w1r1b1") == State::Down);
        Ok(())
    });
    let before = e2e::placement_of(&lab, DEAF_PORTS);
    let mut kept = Connections::open(&lab, KEPT_PORTS);
    let (since_ns, edge) = (e2e::now_ns(), lab.topology().edges[0].v4);
    // The router knows where the edge host is, but drops what is addressed to it: all answers, and nothing for VIPs.
    let answers = |verb: &str| lab.router_netns().ip(&[format!("route {verb} blackhole {edge}/32")]).unwrap();
    let isolated = |is: bool| {
        e2e::eventually(&format!("isolated: {is}"), || {
            anyhow::ensure!(e2e::status(&daemon).isolated == is);
            Ok(())
        });
    };
    answers("add");
    isolated(true);
    let rounds = || e2e::status(&daemon).control.rounds;
    let (begun, enough) = (rounds(), 10);
    e2e::eventually("rounds in which nobody answers go by", || {
        anyhow::ensure!(rounds() >= begun + enough);
        Ok(())
    });
    let of_states = || {
        let events = e2e::events_since(&daemon, since_ns).into_iter();
        let of_states = |kind| matches!(kind, EventKind::BackendState | EventKind::DomainState);
        events.filter(|event| of_states(event.kind)).collect::<Vec<_>>()
    };
    assert!(of_states().is_empty(), "{:#?}", of_states());
    before.assert_same(&e2e::placement_of(&lab, DEAF_PORTS));
    kept.assert_unbroken(&BTreeSet::new());
    let told = String::from_utf8(daemon.cli(&["status"]).unwrap().stdout).unwrap();
    assert!(told.contains("isolated: every target is silent"), "{told}");
    steps("withdraw");
    // An operator who knows better is obeyed all the same.
    e2e::act(&daemon, "domain", "drain", "west/w1/r2");
    before.assert_only_moved(&lab.topology().names_in("west/w1/r2"), &e2e::placement_of(&lab, DEAF_PORTS));
    e2e::act(&daemon, "domain", "restore", "west/w1/r2");
    before.assert_same(&e2e::placement_of(&lab, DEAF_PORTS));

    answers("del");
    isolated(false);
    assert!(of_states().is_empty(), "{:#?}", of_states());
    steps("withdraw announce");
    lab.start_agent("w1r1b1").unwrap();
    e2e::wait_all_up(&daemon);
    all_up.assert_same(&e2e::placement_of(&lab, DEAF_PORTS));
    kept.assert_unbroken(&BTreeSet::new());
    let events = e2e::events_since(&daemon, since_ns);
    for text in [
        "isolated: nobody answers in any domain",
        "routes: withdraw by",
        "connected again",
        "routes: announce by",
    ] {
        let said = events.iter().filter(|event| event.cause.contains(text)).count();
        assert_eq!(said, 1, "{text}: {events:#?}");
    }

    // Whoever is started anew brings back what the one before took away.
    answers("add");
    steps("withdraw announce withdraw");
    daemon.kill9().unwrap();
    answers("del");
    let daemon = start();
    steps("withdraw announce withdraw announce");
    e2e::wait_all_up(&daemon);

    // So does a daemon that nobody tells any more how: by a reload, and by a configuration that it finds at its start.
    answers("add");
    steps("withdraw announce withdraw announce withdraw");
    fs::write(&path, &text).unwrap();
    assert!(daemon.cli(&["reload"]).unwrap().status.success());
    steps("withdraw announce withdraw announce withdraw announce");
    isolated(true);
    fs::write(&path, text.replacen("[node]\n", &with, 1)).unwrap();
    assert!(daemon.cli(&["reload"]).unwrap().status.success());
    steps("withdraw announce withdraw announce withdraw announce withdraw");
    daemon.kill9().unwrap();
    fs::write(&path, &text).unwrap();
    let daemon = start();
    steps("withdraw announce withdraw announce withdraw announce withdraw announce");
    let events = e2e::events_since(&daemon, since_ns);
    let told =
        events.iter().filter(|event| event.cause.contains("as withdraw_command is not configured any more"));
    assert_eq!(told.count(), 2, "{events:#?}");
    answers("del");
    e2e::wait_all_up(&daemon);
    kept.assert_unbroken(&BTreeSet::new());
}

/// Times for which CPUs stand still, in milliseconds, and between them.
const STALLS_MS: [u64; 4] = [10, 25, 40, 15];
const BETWEEN: Duration = Duration::from_millis(25);

#[test]
fn cpus_that_stand_still_fail_nobody() {
    let lab = e2e::raise();
    // The pace of the default configuration of the lab: 3 ms, DOWN after two misses.
    let daemon = e2e::start(&lab, &ConfigOptions { table_size: 16381, ..ConfigOptions::default() });
    let cpus = cpus().unwrap();
    // Each alone, and all at once.
    let groups: Vec<_> = cpus.iter().map(std::slice::from_ref).chain([&cpus[..]]).collect();
    let since_ns = e2e::now_ns();
    for time in STALLS_MS {
        for group in &groups {
            stall(group, Duration::from_millis(time)).unwrap();
            thread::sleep(BETWEEN);
        }
    }
    let events = e2e::events_since(&daemon, since_ns).into_iter();
    let of_states = |kind| matches!(kind, EventKind::BackendState | EventKind::DomainState);
    let alarms: Vec<_> = events.filter(|event| of_states(event.kind)).collect();
    assert!(alarms.is_empty(), "{alarms:#?}");
}
