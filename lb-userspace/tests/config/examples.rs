//! The example files validate, and say what their comments promise.

use std::path::{Path, PathBuf};

use lb_userspace::config::{Config, Forwarding, PlanMode, Priority, Rate, Reach, SetId, Summary, summary};

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

fn load(name: &str) -> Config {
    Config::load(&examples().join(name)).unwrap_or_else(|error| panic!("{name} is refused:\n{error}"))
}

#[test]
fn every_example_validates() {
    let mut seen = 0;
    for entry in std::fs::read_dir(examples()).expect("the examples stand in the workspace") {
        let path = entry.expect("the folder can be listed").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            Config::load(&path).unwrap_or_else(|error| panic!("{} is refused:\n{error}", path.display()));
            seen += 1;
        }
    }
    assert_eq!(
        seen, 11,
        "canary, checks, one-rack, protection, relay, steering, three-zones, two-regions, gue, l2-dsr and quic"
    );
}

#[test]
fn one_rack_needs_no_plan() {
    let config = load("one-rack.toml");
    assert_eq!(config.services[0].plans.len(), 1);
    let weights: Vec<_> = config.backends.iter().map(|b| (b.name.as_str(), b.weight)).collect();
    assert_eq!(weights, [("web-1", 100), ("web-2", 100), ("web-3", 200)]);
    assert_eq!(
        summary(&config).to_string(),
        "1 region, 1 zone, 1 rack\n\
         1 client region with 0 prefixes\n\
         1 check, 1 set, 3 backends\n\
         1 service, 1 pool, 129 KiB of tables\n\
         1000 answers a second on each CPU"
    );
}

#[test]
fn three_zones_joins_its_zones_in_one_pool() {
    let config = load("three-zones.toml");
    let web = &config[config.find_service("web-v4").expect("the service is there")];
    assert_eq!(config.members(&web.pools[0]).len(), 12);
    let expected = Summary {
        regions: 1,
        zones: 3,
        racks: 6,
        client_regions: 1,
        client_prefixes: 0,
        checks: 2,
        sets: 4,
        backends: 14,
        services: 3,
        pools: 3,
        table_bytes: 2 * (65_537 + 4093),
        answers_per_second: 1_000,
    };
    assert_eq!(summary(&config), expected);
}

#[test]
fn two_regions_sends_clients_home_first() {
    let config = load("two-regions.toml");
    let web = &config[config.find_service("web").expect("the service is there")];
    let plan_of = |client: &str| -> Vec<&str> {
        let region = config.client_region_of(client.parse().expect("an address"));
        web.plans[region.index()].iter().map(|&pool| web[pool].name.as_str()).collect()
    };
    assert_eq!(plan_of("198.51.100.1"), ["west", "east"], "west has no line of its own: default");
    assert_eq!(plan_of("203.0.113.1"), ["east", "west"]);
    assert_eq!(plan_of("2001:db8:b::1"), ["east", "west"]);
    assert_eq!(plan_of("198.51.100.200"), ["west"], "the longer prefix wins");
    assert_eq!(plan_of("192.0.2.200"), ["west", "east"]);
}

#[test]
fn steering_says_what_its_comments_promise() {
    let config = load("steering.toml");
    let web = &config[config.find_service("web").expect("the service is there")];
    let plan = |client: &str| {
        let plan = &web.plans[config.client_region_of(client.parse().expect("an address")).index()];
        (plan.mode, plan.iter().map(|&pool| web[pool].name.as_str()).collect::<Vec<_>>())
    };
    assert_eq!(plan("192.0.2.200"), (PlanMode::Nearest, vec!["zone", "region", "east"]));
    assert_eq!(plan("203.0.113.7"), (PlanMode::ZoneAffine { permille: 500 }, vec!["zone", "region"]));
    assert_eq!(plan("198.51.100.7"), (PlanMode::Strict, vec!["east"]));
    assert_eq!((web.panic_threshold, config.node.max_ejected), (Some(30), 40));
    let v6 = &config[config.find_service("web-v6").expect("the service is there")];
    let order: Vec<_> = v6.plans[0].iter().map(|&pool| v6[pool].name.as_str()).collect();
    assert_eq!(order, ["zone", "region", "east"]);
}

#[test]
fn canary_stands_by() {
    let config = load("canary.toml");
    let pool = &config[config.find_service("web").expect("the service is there")].pools[0];
    let names = |sets: &[SetId]| sets.iter().map(|&set| config[set].name.clone()).collect::<Vec<_>>();
    assert_eq!(
        (names(&pool.sets), names(&pool.standby)),
        (vec!["web-blue".to_owned()], vec!["web-green".to_owned()])
    );
}

#[test]
fn protection_says_what_its_comments_promise() {
    let config = load("protection.toml");
    let protection = |name| &config[config.find_service(name).expect("the service is there")].protection;
    assert_eq!(config.node.max_new_flows, Some(50_000));
    let classes = ["login", "partners", "dns", "batch"].map(|name| protection(name).priority);
    assert_eq!(classes, [Priority::P0, Priority::P1, Priority::P1, Priority::P3]);
    let login = protection("login").limits.per_source.expect("limits for each source");
    assert_eq!((login.v4, login.v6, login.packets), (24, 56, None));
    assert_eq!(login.new_flows, Some(Rate { per_second: 20, burst: 40 }));
    let partners = &protection("partners").access;
    assert_eq!((partners.allow.len(), partners.deny.len()), (2, 1));
    let batch = &protection("batch").limits;
    let a_tenth = Some(Rate { per_second: 10_000, burst: 1_000 });
    assert_eq!((batch.new_flows, batch.max_new_flows), (a_tenth, Some(5_000)));
}

#[test]
fn forwarding_examples_forward_as_they_say() {
    let gue = load("gue.toml");
    assert_eq!(gue.services[0].forwarding, Forwarding::Gue { port: 6080 });
    let l2 = load("l2-dsr.toml");
    assert!(l2.services.iter().all(|s| s.forwarding == Forwarding::L2 && s.reach == Reach::Arp));
    let quic = load("quic.toml");
    let configs = quic.services[0].quic.expect("it is QUIC");
    assert_eq!((configs.current.id, configs.current.server_id_length), (1, 4));
    assert_eq!(configs.rotation.map(|c| (c.id, c.server_id_length)), Some((0, 2)));
    assert_eq!(quic.backends[0].quic_server_id.as_deref(), Some(&[0x0a, 0, 0, 1][..]));
    assert_eq!(quic.backends[0].quic_rotation_id.as_deref(), Some(&[0, 1][..]));
}
