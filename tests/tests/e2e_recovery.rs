//! What was down comes back half-open and ramps up: its share of new flows grows, and in the end everything is where it was.
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions},
};
use lb_userspace::{plan::state::State, telemetry::event::EventKind};
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
