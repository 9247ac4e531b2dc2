//! The daemon comes and goes; forwarding goes on. Kills, hangs, restarts, changed configurations, and what a crash leaves.
mod e2e_support;

use e2e_support::*;
use lb_tests::{
    clock::monotonic_ns,
    lab::{ConfigOptions, Cut, Lab, VIP_V4},
    load::Request,
};
use nix::sys::signal::Signal;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
    time::{Duration, Instant},
};

#[test]
fn a_killed_daemon_is_not_missed_and_the_next_one_adopts_what_runs() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    assert_eq!(last_start(&daemon), "started: nothing was forwarding before");
    let uncounted_before = uncounted(&lab, &daemon);
    // Connections that are opened now live in the flow table; when the backend is back, only that keeps them.
    done(&daemon, &["backend", "drain", "w1r1b1", "--reason", "fans"]);
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);
    done(&daemon, &["backend", "restore", "w1r1b1", "--reason", "fans replaced"]);
    goes_on(&traffic, 0);
    let is_kept = |key: &_| kept_port(key) >= FIRST_KEPT_PORT;
    let flows: BTreeMap<_, _> = flow_table(&lab).into_iter().filter(|(key, _)| is_kept(key)).collect();
    assert!(!flows.is_empty(), "no kept connection is in the flow table");
    let (link_before, drops_before) = (link(&lab), drops(&daemon));
    let last_event = events(&daemon).len();

    daemon.kill9().unwrap();
    goes_on(&traffic, 0);
    refused(&daemon.cli(&["status"]).unwrap(), 4, &["nobody listens", "systemctl status weir"]);
    let daemon = start(&lab, &quiet());
    goes_on(&traffic, 0);

    assert_eq!(last_start(&daemon), "started: adopted what was forwarding");
    assert_eq!(status(&daemon)["daemon"]["adopted"], true);
    assert_eq!((link(&lab), drops(&daemon)), (link_before, drops_before));
    let flows_after = flow_table(&lab);
    assert!(flows.iter().all(|(key, backend)| flows_after.get(key) == Some(backend)), "flows were forgotten");
    assert_eq!(events(&daemon).len(), last_event + 1, "only the start is told");
    let records = traffic.stop().unwrap();
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
    nothing_lost(&records);
    no_connection_broke(&records);
    assert_eq!(uncounted(&lab, &daemon), uncounted_before, "packets that the program did not see or count");
}

fn kept_port(key: &lb_common::abi::flow::FlowKey) -> u16 {
    u16::from_be_bytes(key.source_port)
}

#[test]
fn a_terminated_daemon_leaves_forwarding_in_place_until_it_is_detached() {
    let lab = raise(1);
    let daemon = start(&lab, &quiet());
    let config = config_path(&lab);
    let detach = ["detach", "--config", config.to_str().unwrap()];
    let bpffs = lab.bpffs().join("edge-1");
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);

    let pid = format!("pid {}", daemon.pid());
    refused(&lab.weir(&detach).unwrap(), 8, &[&pid, "stop that daemon first"]);
    refused(&lab.weir(&["detach", "--bpffs", bpffs.to_str().unwrap()]).unwrap(), 8, &["stop it first"]);
    goes_on(&traffic, 0);
    let running = link(&lab);

    assert_eq!(daemon.sigterm().unwrap().code(), Some(0), "{}", daemon.log_tail());
    assert!(!daemon.socket().exists());
    refused(&daemon.cli(&["status"]).unwrap(), 4, &["there is no socket", "weir daemon"]);
    assert_eq!(link(&lab), running);
    goes_on(&traffic, 0);
    let records = traffic.stop().unwrap();
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
    nothing_lost(&records);
    no_connection_broke(&records);

    let output = lab.weir(&detach).unwrap();
    assert!(output.status.success() && text(&output).contains("eth0: detached"), "{}", text(&output));
    assert!(!bpffs.exists());
    let url = format!("http://{VIP_V4}/");
    assert!(lab.curl_with("west", &["--max-time", "0.5", &url]).is_err(), "forwarding goes on");
    let again = lab.weir(&detach).unwrap();
    assert!(again.status.success() && text(&again).contains("nothing was attached"), "{}", text(&again));

    let daemon = start(&lab, &quiet());
    assert_eq!(last_start(&daemon), "started: nothing was forwarding before");
    let causes: Vec<_> = events(&daemon).into_iter().map(|event| event.cause).collect();
    assert!(causes.contains(&"stopped; forwarding goes on as it was told last".to_owned()), "{causes:?}");
}

#[test]
fn a_hung_daemon_is_not_missed_and_mistakes_its_own_pause_for_no_fault() {
    let lab = raise(1);
    // One miss would be enough.
    let pace = Duration::from_millis(200);
    let daemon = start(&lab, &ConfigOptions { interval: pace, timeout: pace, fall: 1, ..watched() });
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);
    let told = events(&daemon).len();
    daemon.signal(Signal::SIGSTOP).unwrap();
    until("it is stopped", || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        stat.rsplit_once(") ").unwrap().1.starts_with('T')
    });
    let stopped = traffic.count();
    goes_on(&traffic, 0);
    until("a good while passes", || traffic.count() > stopped + 500);
    daemon.signal(Signal::SIGCONT).unwrap();
    let rounds = status(&daemon)["control"]["rounds"].as_u64().unwrap();
    until("it probes again", || status(&daemon)["control"]["rounds"].as_u64().unwrap() > rounds + 3);
    goes_on(&traffic, 0);
    let news = &events(&daemon)[told..];
    assert!(news.is_empty(), "{news:?}");
    nothing_lost(&traffic.stop().unwrap());
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
}

/// Tunnelled packets sent towards a domain's racks so far.
fn towards(lab: &Lab, domain: &str) -> u64 {
    lab.tunnel_traffic(domain).unwrap().packets
}

#[test]
fn what_is_drained_failed_or_down_stays_so_over_restarts_and_changes_of_the_configuration() {
    let lab = raise(2);
    // Most of what operators let in is down: without this the plan would stop believing health.
    let watched = || ConfigOptions { every_service: "panic_threshold = 0\n".to_owned(), ..watched() };
    let daemon = start(&lab, &watched());
    done(&daemon, &["backend", "drain", "w1r1b1", "--reason", "replacing fans"]);
    done(&daemon, &["domain", "fail", "east/e1", "--reason", "power works"]);
    let fault = lab.cut("west/w1/r2", Cut::Drop).unwrap();
    let down = || health(&daemon, "domain", "west/w1/r2")["state"] == "DOWN";
    until("the cut rack is down", down);
    let now = monotonic_ns();
    let events = events(&daemon);
    let event = events.iter().find(|event| event.says("west/w1/r2", "DOWN")).unwrap();
    let [evidence, decided, stored] =
        [event.evidence_ns, event.decided_ns, event.stored_ns].map(Option::unwrap);
    let moments = [fault.begin_ns, evidence, decided, stored, now];
    assert!(moments.is_sorted(), "begin, evidence, decided, stored, now: {moments:?}");

    let stands = |daemon: &_| {
        let drained = health(daemon, "backend", "w1r1b1");
        assert_eq!(
            (&drained["state"], &drained["override"]["reason"]),
            (&"DRAINING".into(), &"replacing fans".into())
        );
        let failed = health(daemon, "domain", "east/e1");
        assert_eq!(
            (&failed["state"], &failed["override"]["reason"]),
            (&"DOWN".into(), &"power works".into())
        );
        let down = health(daemon, "domain", "west/w1/r2");
        assert_eq!((&down["state"], &down["automatic"]), (&"DOWN".into(), &"DOWN".into()), "{down}");
        assert!(down["override"].is_null());
    };
    stands(&daemon);
    let told = events.len();
    let before = (towards(&lab, "west/w1/r2"), towards(&lab, "east/e1"));
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);

    daemon.kill9().unwrap();
    goes_on(&traffic, 0);
    let adopting = start(&lab, &watched());
    stands(&adopting);
    goes_on(&traffic, 0);
    assert_eq!(e2e_support::events(&adopting).len(), told + 1, "only the start is told");

    adopting.kill9().unwrap();
    let replacing = start(&lab, &with_service(watched()));
    assert!(last_start(&replacing).contains("replaced"), "{}", last_start(&replacing));
    stands(&replacing);
    goes_on(&traffic, 0);
    assert_eq!((towards(&lab, "west/w1/r2"), towards(&lab, "east/e1")), before, "packets for the dead");
    let served = |records: &[Request]| -> BTreeSet<String> {
        records.iter().map(|record| record.answer.clone().unwrap()).collect()
    };
    assert_eq!(served(&traffic.records_from(0)), ["w1r1b2".to_owned()].into());

    // What recovers while nobody watches is taken back by the next daemon, and not before.
    replacing.kill9().unwrap();
    lab.restore("west/w1/r2").unwrap();
    goes_on(&traffic, 0);
    assert_eq!(towards(&lab, "west/w1/r2"), before.0);
    let last = start(&lab, &with_service(watched()));
    until("the rack is taken back", || health(&last, "domain", "west/w1/r2")["state"] == "UP");
    done(&last, &["backend", "restore", "w1r1b1", "--reason", "fans replaced"]);
    assert!(health(&last, "backend", "w1r1b1")["override"].is_null());
    assert_eq!(health(&last, "domain", "east/e1")["override"]["reason"], "power works");
    let restored = traffic.count();
    until("all of the region serve again", || served(&traffic.records_from(restored)).len() == 4);
    assert_eq!(towards(&lab, "east/e1"), before.1);
    nothing_lost(&traffic.stop().unwrap());
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
}

/// With one more service, which touches no other.
fn with_service(options: ConfigOptions) -> ConfigOptions {
    let extra = format!(
        "\n[[service]]\nname = \"more\"\naddress = \"{VIP_V4}\"\nport = 8080\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
    );
    ConfigOptions { extra, ..options }
}

#[test]
fn a_changed_configuration_is_taken_up_without_losing_or_moving_a_kept_connection() {
    let lab = raise(2);
    let without = |name: &str| ConfigOptions { without: [name.to_owned()].into(), ..quiet() };
    let daemon = start(&lab, &without("w1r1b1"));
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);
    // Every port of new connections comes round: each flow has shown its home.
    until("all flows are known", || homes(&traffic.records_from(0)).len() >= KEPT + usize::from(NEW_PORTS));
    let before = homes(&traffic.records_from(0));
    assert!(before.values().all(|name| name != "w1r1b1"));

    assert!(daemon.sigterm().unwrap().success());
    let daemon = start(&lab, &with_service(without("w1r2b2")));
    let changed = traffic.count();
    assert_eq!(
        last_start(&daemon),
        "started: replaced what was forwarding, as the configuration changed; established flows go on"
    );
    until("all new flows came again", || {
        let after = homes(&traffic.records_from(changed));
        after.keys().filter(|(_, port)| *port < FIRST_KEPT_PORT).count() >= usize::from(NEW_PORTS)
    });
    let switched = monotonic_ns();
    until("traffic goes on", || {
        traffic.records_from(changed).iter().filter(|r| r.sent_ns > switched).count() > 100
    });
    let records = traffic.stop().unwrap();
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");

    nothing_lost(&records);
    no_connection_broke(&records);
    // New connections follow the new tables at once; kept ones stay where they were, also on the backend that left.
    let settled: Vec<_> = records.iter().filter(|record| record.sent_ns > switched).collect();
    let serving = |kept: bool| -> BTreeSet<_> {
        let of_kind = settled.iter().filter(|record| record.is_kept == kept);
        of_kind.map(|record| record.answer.clone().unwrap()).collect()
    };
    assert_eq!(serving(false), ["w1r1b1", "w1r1b2", "w1r2b1"].map(str::to_owned).into());
    assert!(serving(true).contains("w1r2b2") && !serving(true).contains("w1r1b1"), "{:?}", serving(true));
    for record in settled.iter().filter(|record| record.is_kept) {
        let flow = (record.vip.is_ipv4(), record.port);
        assert_eq!(before.get(&flow), record.answer.as_ref().ok(), "{record:?} moved");
    }
    assert_eq!(lab.weir(&["service", "show", "more"]).unwrap().status.code(), Some(0));
}

/// Who answered each flow last, by family and source port.
fn homes(records: &[Request]) -> BTreeMap<(bool, u16), String> {
    let answered = records.iter().filter_map(|r| Some(((r.vip.is_ipv4(), r.port), r.answer.clone().ok()?)));
    answered.collect()
}

/// Pins into `next` what a start that got so far had pinned.
fn leave_half_a_generation(folder: &std::path::Path, current: &std::path::Path) {
    fs::create_dir(folder).unwrap();
    for map in ["ROOT", "SERVICES"] {
        fs::hard_link(current.join(map), folder.join(map)).unwrap();
    }
}

#[test]
fn what_a_crash_leaves_between_two_steps_is_settled_by_the_next_start() {
    let lab = raise(1);
    let (first, second) = (quiet(), with_service(quiet()));
    start(&lab, &first).kill9().unwrap();
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);
    let (pins, running) = (pins(&lab), link(&lab));
    let [current, next, old, aside] =
        [pins.join("current"), pins.join("next"), pins.join("old"), lab.bpffs().join("aside")];
    let settled = |expected: &str, options: &ConfigOptions| {
        let daemon = start(&lab, options);
        assert_eq!(last_start(&daemon), expected);
        assert!(
            current.exists() && !next.exists() && !old.exists() && !current.join("program_next").exists()
        );
        goes_on(&traffic, 0);
        daemon.kill9().unwrap();
    };
    let adopted = "started: adopted what was forwarding";

    // While filling `next`.
    leave_half_a_generation(&next, &current);
    settled(adopted, &first);
    // Between the two renames.
    fs::rename(&current, &next).unwrap();
    leave_half_a_generation(&old, &next);
    settled(adopted, &first);
    // While removing `old`.
    leave_half_a_generation(&old, &current);
    settled(adopted, &first);
    // While replacing the program of an adopted generation.
    fs::hard_link(current.join("program"), current.join("program_next")).unwrap();
    settled(adopted, &first);
    assert_eq!(link(&lab), running);

    // After the links run `next`, before it is `current`.
    fs::rename(&current, &aside).unwrap();
    settled("started: nothing was forwarding before", &second);
    let replaced = link(&lab);
    assert!(replaced.id == running.id && replaced.program != running.program, "{running:?} {replaced:?}");
    fs::rename(&current, &next).unwrap();
    fs::rename(&aside, &current).unwrap();
    settled(adopted, &second);
    assert_eq!(link(&lab), replaced);
    let records = traffic.stop().unwrap();
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
    nothing_lost(&records);
    no_connection_broke(&records);
}

#[test]
fn kills_at_any_moment_of_a_start_never_stop_traffic_and_the_last_start_works() {
    let lab = raise(1);
    let variants = [quiet(), with_service(quiet())];
    let began = Instant::now();
    start(&lab, &variants[0]).kill9().unwrap();
    let whole = began.elapsed();
    let traffic = traffic(&lab);
    let leaked_before = leaked(&lab);
    // Every other start has to replace what runs. The moments differ from run to run.
    let spread = Duration::from_micros(monotonic_ns() % 1000);
    for kill in 1..=8 {
        let daemon = lab.start_daemon(&lab.write_config(&variants[kill % 2]).unwrap()).unwrap();
        let moment = whole.mul_f64(kill as f64 / 9.0) + spread;
        thread::sleep(moment);
        daemon.kill9().unwrap();
        goes_on(&traffic, 0);
        let said = daemon.log_tail();
        assert!(!said.contains("error: "), "killed after {moment:?}: {said}");
    }
    let daemon = start(&lab, &variants[1]);
    goes_on(&traffic, 0);
    assert!(pins(&lab).join("current").exists() && !pins(&lab).join("next").exists());
    assert_eq!(lab.weir(&["service", "show", "more"]).unwrap().status.code(), Some(0));
    assert_eq!(daemon.sigterm().unwrap().code(), Some(0));
    let records = traffic.stop().unwrap();
    assert_eq!(leaked(&lab), leaked_before, "packets that passed the program by");
    nothing_lost(&records);
    no_connection_broke(&records);
}
