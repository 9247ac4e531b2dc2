//! What was down comes back half-open and ramps up: its share of new flows grows, and in the end everything is where it was. What flaps
//! stays out; what `max_ejected` leaves in stays in.
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Daemon, Lab},
};
use lb_userspace::{
    api::types::{BackendView, CheckState, Shares},
    plan::state::State,
    telemetry::event::EventKind,
};
use std::{collections::BTreeSet, time::Duration};

const VICTIM: &str = "w1r1b2";

#[test]
fn a_backend_that_returns_takes_a_small_share_first_and_all_of_its_own_in_the_end() {
    let lab = e2e::raise_rack(3);
    let options = ConfigOptions {
        check: Check::Tcp,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        extra: "\n[recovery]\nhalf_open_share = 20\nhalf_open = \"10s\"\nslow_start = \"2s\"\n".to_owned(),
        ..e2e::calm()
    };
    let daemon = e2e::start(&lab, &options);
    let before = e2e::placement(&lab);
    let own = before.counts()[VICTIM];
    let since_ns = e2e::now_ns();
    lab.kill_backend(VICTIM).unwrap();
    e2e::eventually("it is DOWN", || {
        anyhow::ensure!(e2e::state(&daemon, "backend", VICTIM) == State::Down);
        Ok(())
    });
    before.assert_only_moved(&BTreeSet::from([VICTIM.to_owned()]), &e2e::placement(&lab));

    lab.restart_backend(VICTIM).unwrap();
    e2e::eventually("it is half-open", || {
        anyhow::ensure!(e2e::state(&daemon, "backend", VICTIM) == State::Ramp);
        Ok(())
    });
    let during = e2e::placement(&lab);
    assert_eq!(e2e::state(&daemon, "backend", VICTIM), State::Ramp, "looked at too late");
    let share = during.counts().get(VICTIM).copied().unwrap_or(0) as f64 / own as f64;
    assert!((0.1..0.35).contains(&share), "{share:.2} of its flows, and 0.2 was said");
    // Nobody else's flow moved: who is there now was there before.
    for (key, map) in &before.0 {
        for moved in map.moved(&during.0[key]) {
            assert_eq!(moved.from, VICTIM, "{key:?}: {moved:?}");
        }
    }

    e2e::wait_all_up(&daemon);
    before.assert_same(&e2e::placement(&lab));
    let events = e2e::events_since(&daemon, since_ns);
    let states: Vec<_> = events
        .iter()
        .filter(|event| event.kind == EventKind::BackendState && event.subject == VICTIM)
        .map(|event| event.to.unwrap())
        .collect();
    assert_eq!(states, [State::Down, State::Ramp, State::Up], "{events:#?}");
}

#[test]
fn no_more_than_max_ejected_goes_out_and_what_flaps_stays_out() {
    let lab = e2e::raise_rack(4);
    let options = ConfigOptions {
        check: Check::Tcp,
        interval: Duration::from_millis(50),
        timeout: Duration::from_millis(500),
        node: "max_ejected = 50".to_owned(),
        // Long: what is held is held until somebody says otherwise.
        extra: "\n[recovery]\nflap_half_life = \"10m\"\n".to_owned(),
        ..e2e::calm()
    };
    let daemon = e2e::start(&lab, &options);
    let before = e2e::placement(&lab);
    half_of_the_pool_stays_in(&lab, &daemon);
    before.assert_same(&e2e::placement(&lab));
    a_backend_that_fails_four_times_is_held(&lab, &daemon);
    before.assert_only_moved(&BTreeSet::from([FLAPS.to_owned()]), &e2e::placement(&lab));
    let args = ["backend", "restore", FLAPS, "--forget-failures", "--reason", "loose cable fixed"];
    daemon.cli_json(&args).unwrap();
    e2e::wait_all_up(&daemon);
    before.assert_same(&e2e::placement(&lab));
}

/// Three of four fail. Two of them are out; the last by name takes flows although its checks fail, until another one is back.
fn half_of_the_pool_stays_in(lab: &Lab, daemon: &Daemon<'_>) {
    let failing = ["w1r1b2", "w1r1b3", "w1r1b4"];
    let look = || -> Vec<BackendView> { e2e::ask(daemon, &["backend", "list"]) };
    let are_out = |backends: &[BackendView], expected: &[&str]| {
        let out = backends.iter().filter(|backend| backend.effective == Shares { new: 0, old: 0 });
        let out: Vec<_> = out.map(|backend| backend.name.as_str()).collect();
        anyhow::ensure!(out == expected, "{out:?} are out, not {expected:?}");
        Ok(())
    };
    failing.iter().for_each(|name| lab.kill_backend(name).unwrap());
    e2e::eventually("all three are known to fail, and two are out", || {
        let backends = look();
        let known = backends.iter().filter(|backend| backend.checks[0].state == CheckState::Failing).count();
        anyhow::ensure!(known == 3, "{known} fail");
        are_out(&backends, &failing[..2])?;
        let spared: Vec<_> = backends.iter().filter(|b| b.spared).map(|b| b.name.as_str()).collect();
        anyhow::ensure!(spared == failing[2..], "{spared:?}");
        Ok(())
    });
    lab.restart_backend(failing[0]).unwrap();
    e2e::eventually("the third goes out when the first is back", || are_out(&look(), &failing[1..]));
    failing[1..].iter().for_each(|name| lab.restart_backend(name).unwrap());
    e2e::wait_all_up(daemon);
}

/// A backend that did not fail before.
const FLAPS: &str = "w1r1b1";

fn a_backend_that_fails_four_times_is_held(lab: &Lab, daemon: &Daemon<'_>) {
    let wait = |what: &str, is_so: &dyn Fn(&BackendView) -> bool| {
        e2e::eventually(what, || {
            let backend: BackendView = e2e::ask(daemon, &["backend", "show", FLAPS]);
            anyhow::ensure!(is_so(&backend), "{backend:#?}");
            Ok(())
        });
    };
    for failure in 1..=4 {
        lab.kill_backend(FLAPS).unwrap();
        wait(&format!("DOWN for the {failure}. time"), &|backend| backend.health.state == State::Down);
        lab.restart_backend(FLAPS).unwrap();
        if failure < 4 {
            wait("UP again", &|backend| backend.health.state == State::Up);
        }
    }
    wait("it answers, and is held", &|backend| {
        let held = backend
            .health
            .damping
            .as_ref()
            .is_some_and(|damping| damping.suppressed && damping.left_s > Some(60));
        backend.checks[0].state == CheckState::Passing && held
    });
    assert_eq!(e2e::state(daemon, "backend", FLAPS), State::Down);
}
