//! The example files validate, and say what their comments promise.

use std::path::{Path, PathBuf};

use lb_userspace::config::{Config, Summary, summary};

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
    assert_eq!(seen, 4, "checks, one-rack, three-zones and two-regions");
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
         1 service, 1 pool, 129 KiB of tables"
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
