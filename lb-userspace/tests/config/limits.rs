//! Each limit is met with an error that names it, and what is just within it is accepted.

use std::fmt::Write;

use lb_userspace::config::Config;
use lb_userspace::config::limits::{
    MAX_BACKENDS, MAX_CHECKS, MAX_CLIENT_REGIONS, MAX_DOMAINS, MAX_POOLS, MAX_SERVICES, MAX_SETS,
};

use crate::base::{accepted, errors};

const NODE: &str = r#"[node]
name = "edge-1"
region = "west"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "192.168.0.0/16"
"#;
const TOPOLOGY: &str = "[topology.west]\nw1 = [\"r1\"]\n";
const SET: &str = r#"[[set]]
name = "web"
domain = "west"
[[set.backend]]
name = "b"
rack = "west/w1/r1"
address = "10.0.0.1"
"#;

fn lines(count: usize, line: impl Fn(usize) -> String) -> String {
    (0..count).map(line).collect()
}

fn address(n: usize) -> String {
    format!("10.{}.{}.{}", 1 + (n >> 16), n >> 8 & 255, n & 255)
}

/// Asserts that `make(max)` is accepted and `make(max + 1)` is refused for exactly this.
#[track_caller]
fn limited(max: usize, limit: &str, make: impl Fn(usize) -> String) -> Config {
    let error = errors(&make(max + 1));
    assert_eq!(error.problems.len(), 1, "{error}");
    let remedy = error.problems[0].remedy.as_deref().unwrap_or_default();
    assert!(remedy.starts_with(&format!("{limit} is {max};")), "{error}");
    accepted(&make(max))
}

#[test]
fn domains() {
    let config = limited(MAX_DOMAINS, "MAX_DOMAINS", |count| {
        // The region and the zone are two of them.
        let racks: Vec<String> = (2..count).map(|n| format!("\"r{n}\"")).collect();
        format!("{NODE}[topology.west]\nw1 = [{}]\n", racks.join(","))
    });
    assert_eq!(config.topology.domains.len(), MAX_DOMAINS);
}

#[test]
fn client_regions() {
    limited(MAX_CLIENT_REGIONS, "MAX_CLIENT_REGIONS", |count| {
        format!("{NODE}{TOPOLOGY}[client_regions]\n{}", lines(count - 1, |n| format!("c{n} = []\n")))
    });
}

#[test]
fn checks() {
    limited(MAX_CHECKS, "MAX_CHECKS", |count| {
        let check = |n| format!("[[check]]\nname = \"c{n}\"\nkind = \"heartbeat\"\ninterval = \"1s\"\n");
        format!("{NODE}{TOPOLOGY}{}", lines(count, check))
    });
}

#[test]
fn backends() {
    let config = limited(MAX_BACKENDS, "MAX_BACKENDS", |count| {
        let mut text = format!("{NODE}{TOPOLOGY}{}", SET.split("[[set.backend]]").next().unwrap_or_default());
        for n in 0..count {
            let address = address(n);
            write!(
                text,
                "[[set.backend]]\nname = \"b{n}\"\nrack = \"west/w1/r1\"\naddress = \"{address}\"\n"
            )
            .expect("a string takes all");
        }
        text
    });
    assert_eq!(config.backends.len(), MAX_BACKENDS);
    assert_eq!(config.sets[0].backends.len(), MAX_BACKENDS);
}

#[test]
fn sets() {
    let sets = lines(MAX_SETS + 1, |n| format!("[[set]]\nname = \"s{n}\"\ndomain = \"west\"\n"));
    let error = errors(&format!("{NODE}{TOPOLOGY}{sets}"));
    assert_eq!(error.problems[0].message, format!("the file has {} sets", MAX_SETS + 1));
}

fn service(n: usize) -> String {
    format!("[[service]]\nname = \"s{n}\"\naddress = \"192.0.2.10\"\nport = {}\nprotocol = \"tcp\"\n", n + 1)
}

#[test]
fn services() {
    limited(MAX_SERVICES, "MAX_SERVICES", |count| {
        let pool = "[[service.pool]]\nname = \"p\"\nsets = [\"web\"]\ntable_size = 4093\n";
        format!("{NODE}{TOPOLOGY}{SET}{}", lines(count, |n| service(n) + pool))
    });
}

#[test]
fn pools() {
    // More pools than that of one service would need as many sets; spread over services they share a few.
    let sets =
        lines(4, |n| SET.replace("\"web\"", &format!("\"web{n}\"")).replace("\"b\"", &format!("\"b{n}\"")));
    limited(MAX_POOLS, "MAX_POOLS", |count| {
        let mut text = format!("{NODE}{TOPOLOGY}{sets}");
        for n in 0..count {
            if n % 4 == 0 {
                text += &service(n / 4);
                let here = (count - n).min(4);
                let plan: Vec<String> = (0..here).map(|p| format!("\"p{p}\"")).collect();
                writeln!(text, "plan = {{ default = [{}] }}", plan.join(",")).expect("a string takes all");
            }
            let (pool, set) = (n % 4, n % 4);
            write!(text, "[[service.pool]]\nname = \"p{pool}\"\nsets = [\"web{set}\"]\ntable_size = 4093\n")
                .expect("a string takes all");
        }
        text
    });
}

#[test]
fn plans_count_only_where_client_regions_matter() {
    let regions = lines(99, |n| format!("c{n} = []\n"));
    let make = |services: usize, plan: &str| {
        let sets = SET.to_owned() + &SET.replace("\"web\"", "\"other\"").replace("\"b\"", "\"c\"");
        let pools = "[[service.pool]]\nname = \"p\"\nsets = [\"web\"]\ntable_size = 4093\n\
                     [[service.pool]]\nname = \"q\"\nsets = [\"other\"]\ntable_size = 4093\n";
        let services = lines(services, |n| format!("{}{pools}[service.plan]\n{plan}", service(n)));
        format!("{NODE}{TOPOLOGY}[client_regions]\n{regions}{sets}{services}")
    };
    // 100 client regions: 655 services fit below 65536 plans, 656 do not.
    let telling_apart = "default = [\"p\"]\nc7 = [\"q\"]\n";
    accepted(&make(655, telling_apart));
    let error = errors(&make(656, telling_apart));
    assert_eq!(
        error.problems[0].message,
        "the services need 65600 plans, one per client region where it matters"
    );
    accepted(&make(656, "default = [\"p\"]\nc7 = [\"p\"]\n"));
}

#[test]
fn slots_of_all_tables() {
    let set = |n| SET.replace("\"web\"", &format!("\"web{n}\"")).replace("\"b\"", &format!("\"b{n}\""));
    let pool = |n| format!("[[service.pool]]\nname = \"p\"\nsets = [\"web{n}\"]\ntable_size = 655373\n");
    let make = |count| {
        let services = lines(count, |n| service(n) + &pool(n)) + &service(count) + &pool(0);
        format!("{NODE}{TOPOLOGY}{}{services}", lines(count, set))
    };
    // Each has a table but the last service, which shares the first one's.
    accepted(&make(409));
    let error = errors(&make(410));
    assert_eq!(error.problems[0].message, "the tables of all pools have 268702930 slots together");
}
