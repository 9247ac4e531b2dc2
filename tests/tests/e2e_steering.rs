//! Steering end to end: a pool that is in part down keeps what the 140 % rule says and moves nobody else, a simulation says so before,
//! a plan panics and comes back, capacities spill and come back.
use anyhow::ensure;
use lb_tests::{
    e2e::{self, Connections, Placement},
    lab::{Check, ConfigOptions, Daemon, Lab},
};
use lb_userspace::{
    api::types::{Simulation, SteeredPlan},
    telemetry::event::EventKind,
};
use std::{collections::BTreeSet, fs, ops::Range};

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
