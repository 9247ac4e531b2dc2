//! What operators do for a while: shifts, words with an end, drains that are waited for, canaries. Looked at flow by flow.
use lb_tests::{
    e2e::{self, Connections, Placement},
    lab::{Check, ConfigOptions, Daemon},
};
use lb_userspace::{
    api::types::{Acted, ShiftView},
    plan::state::State,
    telemetry::event::{Event, EventKind},
};
use std::{collections::BTreeSet, fs, process::Output};

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

/// Those of `few` that are in `zone` are where they are in `many`, and whoever is not in `zone` in `many` is not in `few`: only
/// flows of the zone move, and only outward.
#[track_caller]
fn assert_monotonic(zone: &BTreeSet<String>, many: &Placement, few: &Placement) {
    for (key, many) in &many.0 {
        for (port, before) in &many.served {
            let after = &few.0[key].served[port];
            assert!(
                before == after || zone.contains(before) && !zone.contains(after),
                "{key:?} {port}: {before} {after}"
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
    assert_monotonic(&zone, &before, &half);
    let share = in_zone(&half) / in_zone(&before);
    assert!((0.42..0.58).contains(&share), "it keeps {share:.2}");
    shift("25%", "10m");
    let quarter = e2e::placement(&lab);
    assert_monotonic(&zone, &half, &quarter);
    let share = in_zone(&quarter) / in_zone(&before);
    assert!((0.18..0.32).contains(&share), "it keeps {share:.2}");
    shift("50%", "10m");
    half.assert_same(&e2e::placement(&lab));
    kept.assert_unbroken(&BTreeSet::new());

    // What remains must carry the flows; with one of its racks out, the region's other zone could not.
    e2e::act(&daemon, "domain", "fail", "west/w2/r1");
    let none = ["shift", "zone", ZONE, "--to", "0%", "--for", "10m", "--reason", "a test"];
    refused(
        &daemon.cli(&none).unwrap(),
        8,
        &["client region", "pool west would have 25 %", "must have 50 %", "--force"],
    );
    e2e::act(&daemon, "domain", "restore", "west/w2/r1");
    let rack = ["shift", "rack", ZONE, "--to", "0%", "--for", "10m", "--reason", "a test"];
    refused(&daemon.cli(&rack).unwrap(), 2, &["west/w1 is a zone, not a rack"]);

    // The shift outlives the daemon, and counts on.
    daemon.kill9().unwrap();
    let daemon = e2e::start(&lab, &unchecked());
    let list: Vec<ShiftView> = e2e::ask(&daemon, &["shift", "list"]);
    assert!(list.len() == 1 && list[0].shift.keep_percent == 50 && list[0].left_s < 600, "{list:?}");
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
