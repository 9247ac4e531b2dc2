//! Modes of plans, residency, capacities, and what steers.

use lb_userspace::config::{Config, PlanMode, Service};

use crate::base::{BASE, accepted, refused, with};

const PLAN: &str = "default = [\"west\", \"east\"]\n";

/// The names of a plan's pools.
fn pools(service: &Service, client: usize) -> Vec<&str> {
    service.plans[client].iter().map(|&pool| service[pool].name.as_str()).collect()
}

fn service(config: &Config) -> &Service {
    &config.services[0]
}

#[test]
fn a_plan_says_how_its_first_pool_is_left() {
    let text = with(&[(
        PLAN,
        "default = [\"west\", \"east\"]\nwest = { pools = [\"west\", \"east\"], mode = \"zone-affine\", rho = 0.85 }\n",
    )]);
    let config = accepted(&text);
    assert_eq!(service(&config).plans[0].mode, PlanMode::Nearest);
    assert_eq!(service(&config).plans[1].mode, PlanMode::ZoneAffine { permille: 850 });
    assert_eq!(
        service(&config).distinct_plans().len(),
        2,
        "the pools are the same, what becomes of them is not"
    );
    let strict = with(&[(PLAN, "default = { pools = [\"east\"], mode = \"strict\" }\n")]);
    assert_eq!(service(&accepted(&strict)).plans[0].mode, PlanMode::Strict);
    let affine = with(&[(PLAN, "default = { pools = [\"west\", \"east\"], mode = \"zone-affine\" }\n")]);
    assert_eq!(service(&accepted(&affine)).plans[0].mode, PlanMode::ZoneAffine { permille: 700 });
}

#[test]
fn without_a_plan_the_nearest_pool_comes_first() {
    let none = ("[service.plan]\ndefault = [\"west\", \"east\"]\n", "");
    assert_eq!(pools(service(&accepted(&with(&[none]))), 0), ["west", "east"]);
    let east = with(&[none, ("region = \"west\"", "region = \"east\"")]);
    assert_eq!(pools(service(&accepted(&east)), 0), ["east", "west"]);
    // The zone's own pool before that of the rest of the region, whatever the order of the file.
    let zone = with(&[
        none,
        ("region = \"west\"", "region = \"west\"\nzone = \"west/w2\""),
        (
            "[[service]]",
            "[[set]]\nname = \"web-w2\"\ndomain = \"west/w2\"\n[[set.backend]]\nname = \"b4\"\nrack = \"west/w2/r1\"\naddress = \"10.1.3.14\"\n[[service]]",
        ),
        (
            "name = \"east\"\nsets = [\"web-e1\"]\n",
            "name = \"east\"\nsets = [\"web-e1\"]\n[[service.pool]]\nname = \"near\"\nsets = [\"web-w2\"]\n",
        ),
    ]);
    assert_eq!(pools(service(&accepted(&zone)), 0), ["near", "west", "east"]);
}

#[test]
fn residency_comes_first() {
    // The default plan's other pool is nothing to these clients.
    let text = with(&[(PLAN, "default = [\"west\", \"east\"]\n[service.residency]\nwest = [\"west\"]\n")]);
    let config = accepted(&text);
    assert_eq!(pools(service(&config), 0), ["west", "east"]);
    assert_eq!(pools(service(&config), 1), ["west"]);
    let of = |config: &Config, client: usize| {
        let regions = service(config).residency[client].clone();
        regions.map(|regions| regions.iter().map(|&id| config.topology[id].path.clone()).collect::<Vec<_>>())
    };
    assert_eq!((of(&config, 0), of(&config, 1)), (None, Some(vec!["west".to_owned()])));
    // Who is not named has the default's, and a derived plan stays inside as well.
    let text = with(&[(
        "[service.plan]\ndefault = [\"west\", \"east\"]\n",
        "[service.residency]\ndefault = [\"east\"]\n",
    )]);
    let config = accepted(&text);
    assert_eq!((pools(service(&config), 0), pools(service(&config), 1)), (vec!["east"], vec!["east"]));
}

#[test]
fn a_plan_outside_its_residency_is_refused() {
    refused(
        &with(&[(PLAN, "default = [\"west\", \"east\"]\n[service.residency]\ndefault = [\"west\"]\n")]),
        r#"
error: plan "default" of service "web" names pool "east", which its residency does not allow
  --> weir.toml:49:20
   |
49 | default = ["west", "east"]
   |                    ^^^^^^
  ::: weir.toml:51:11
   |
51 | default = ["west"]
   |           -------- the regions that may serve these clients
   = help: remove it: a pool is allowed if all its sets lie in ["west"]; or allow its region in [service.residency]"#,
    );
}

#[test]
fn a_residency_that_leaves_nothing_is_refused() {
    refused(
        &with(&[(PLAN, "default = [\"east\"]\n[service.residency]\nwest = [\"west\"]\n")]),
        r#"
error: the residency of service "web" leaves client region "west" no pool
  --> weir.toml:50:1
   |
50 | [service.residency]
   | ^^^^^^^^^^^^^^^^^^^
   = help: name a region of one of the service's pools there, or add a pool that may serve these clients"#,
    );
}

#[test]
fn words_in_plans_and_residencies_that_are_unknown() {
    refused(
        &with(&[(
            PLAN,
            "default = { pools = [\"west\", \"east\"], mode = \"strict\" }\n[service.residency]\nwest = [\"wset\"]\n",
        )]),
        r#"
error: plan "default" of service "web" is strict and names 2 pools
  --> weir.toml:49:21
   |
49 | default = { pools = ["west", "east"], mode = "strict" }
   |                     ^^^^^^^^^^^^^^^^
   = help: leave the first one only: a strict plan never uses another; or choose another mode

error: the residency of service "web" for client region "west" names region "wset", which the topology does not have
  --> weir.toml:51:9
   |
51 | west = ["wset"]
   |         ^^^^^^
   = help: did you mean "west"? known regions: "east", "west""#,
    );
    refused(
        &with(&[(
            PLAN,
            "default = { pools = [\"west\", \"east\"], mode = \"nearest\", rho = 0.5, zone = 1 }\n",
        )]),
        r#"
error: plan "default" of service "web" has "rho", which is for mode = "zone-affine"
  --> weir.toml:49:63
   |
49 | default = { pools = ["west", "east"], mode = "nearest", rho = 0.5, zone = 1 }
   |                                                               ^^^
   = help: remove it, or write mode = "zone-affine"

error: unknown key "zone" in an entry of [service.plan]
  --> weir.toml:49:68
   |
49 | default = { pools = ["west", "east"], mode = "nearest", rho = 0.5, zone = 1 }
   |                                                                    ^^^^
   = help: known keys: "pools", "mode", "rho""#,
    );
}

#[test]
fn numbers_out_of_range() {
    for (from, to, message) in [
        (
            PLAN,
            "default = { pools = [\"west\"], mode = \"zone-affine\", rho = 70 }\n",
            "rho of plan \"default\" of service \"web\" is out of range",
        ),
        (
            "region = \"west\"",
            "region = \"west\"\npanic_threshold = 101",
            "panic_threshold = 101 is out of range",
        ),
        (
            "region = \"west\"",
            "region = \"west\"\ntarget_utilisation = 0",
            "target_utilisation = 0 is out of range",
        ),
        ("region = \"west\"", "region = \"west\"\nmax_ejected = -1", "max_ejected = -1 is out of range"),
        (
            "protocol = \"tcp\"",
            "protocol = \"tcp\"\npanic_threshold = 200",
            "panic_threshold = 200 is out of range",
        ),
        (
            "sets = [\"web-e1\"]",
            "sets = [\"web-e1\"]\ncapacity_new_flows_per_second = 0",
            "capacity_new_flows_per_second = 0 of pool \"east\" of service \"web\" is out of range",
        ),
    ] {
        let shown = crate::base::errors(&with(&[(from, to)])).to_string();
        assert!(shown.contains(message), "{message}: {shown}");
        assert!(shown.contains("help: "), "{shown}");
    }
}

#[test]
fn what_steers_has_defaults_and_may_be_said() {
    let node = accepted(BASE).node;
    assert_eq!((node.panic_threshold, node.target_utilisation, node.max_ejected), (50, 80, 100));
    let text = with(&[
        (
            "region = \"west\"",
            "region = \"west\"\npanic_threshold = 0\ntarget_utilisation = 70\nmax_ejected = 30",
        ),
        ("protocol = \"tcp\"", "protocol = \"tcp\"\npanic_threshold = 25"),
        ("sets = [\"web-e1\"]", "sets = [\"web-e1\"]\ncapacity_new_flows_per_second = 5000"),
    ]);
    let config = accepted(&text);
    let node = &config.node;
    assert_eq!((node.panic_threshold, node.target_utilisation, node.max_ejected), (0, 70, 30));
    assert_eq!(service(&config).panic_threshold, Some(25));
    let capacities: Vec<_> = service(&config).pools.iter().map(|pool| pool.capacity).collect();
    assert_eq!(capacities, [Some(5_000), None]);
}
