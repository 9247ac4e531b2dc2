//! What a valid file means.

use std::time::Duration;

use lb_userspace::config::{CheckKind, Level, OnAllDown, XdpMode};

use crate::base::{BASE, accepted, with};

#[test]
fn defaults_are_those_of_the_documentation() {
    let config = accepted(BASE);
    let node = &config.node;
    assert_eq!(node.mode, XdpMode::Native);
    assert_eq!(node.zone, None);
    assert_eq!(node.state_dir.to_str(), Some("/var/lib/weir"));
    assert_eq!(node.socket.to_str(), Some("/run/weir/weir.sock"));
    assert_eq!(node.bpffs.to_str(), Some("/sys/fs/bpf/weir"));
    assert_eq!(node.hash_key.as_bytes()[..4], [0x00, 0x11, 0x22, 0x33]);
    let check = &config.checks[0];
    assert_eq!(check.kind, CheckKind::Heartbeat { port: 6777 });
    assert_eq!((check.timeout, check.fall, check.rise), (Duration::from_millis(3), 2, 3));
    assert_eq!(config.backends[0].weight, 100);
    let service = &config.services[0];
    assert_eq!(service.on_all_down, OnAllDown::Drop);
    assert_eq!(service.pools[0].table_size, 65_537);

    let tcp = accepted(&with(&[("kind = \"heartbeat\"", "kind = \"tcp\"\nport = 80"), ("3ms", "250ms")]));
    let check = &tcp.checks[0];
    assert_eq!(check.kind, CheckKind::Tcp { port: 80 });
    assert_eq!((check.timeout, check.fall, check.rise), (Duration::from_secs(1), 3, 3));
}

#[test]
fn domains_know_their_place() {
    let topology = accepted(BASE).topology;
    let paths: Vec<&str> = topology.domains.iter().map(|domain| domain.path.as_str()).collect();
    let expected = [
        "east",
        "east/e1",
        "east/e1/r1",
        "west",
        "west/w1",
        "west/w1/r1",
        "west/w1/r2",
        "west/w2",
        "west/w2/r1",
    ];
    assert_eq!(paths, expected);
    let find = |path| topology.find(path).expect("the domain is there");
    assert_eq!(topology.ancestors(find("west/w1/r2")), [find("west/w1/r2"), find("west/w1"), find("west")]);
    assert_eq!(topology[find("west")].children, [find("west/w1"), find("west/w2")]);
    assert_eq!(topology[find("west")].level, Level::Region);
    assert_eq!(topology[find("west/w2/r1")].level, Level::Rack);
    assert!(topology.is_within(find("west/w1/r1"), find("west")));
    assert!(!topology.is_within(find("west"), find("west/w1/r1")));
    assert_eq!(topology.find("north"), None);
}

#[test]
fn names_become_indices() {
    let config = accepted(BASE);
    let names: Vec<&str> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["b1", "b2", "b3"]);
    let service = &config.services[0];
    let pools: Vec<&str> = service.pools.iter().map(|pool| pool.name.as_str()).collect();
    assert_eq!(pools, ["east", "west"], "by name");
    assert_eq!(service.plans.len(), 2, "default and west");
    assert_eq!(service.plans[0], service.plans[1], "west has the default plan");
    let first = &service[service.plans[0][0]];
    assert_eq!(first.name, "west");
    let members: Vec<&str> = config.members(first).iter().map(|&b| config[b].name.as_str()).collect();
    assert_eq!(members, ["b1", "b2"]);
    let backend = &config[config.find_backend("b3").expect("the backend is there")];
    assert_eq!(config.topology[backend.rack].path, "east/e1/r1");
    assert_eq!(config[backend.set].name, "web-e1");
    assert_eq!(config.find_backend("b4"), None);
    assert_eq!(config.find_service("ftp"), None);
}

/// The tables of `BASE`, each with those below it.
fn blocks() -> Vec<String> {
    let mut blocks: Vec<String> = Vec::new();
    for line in BASE.lines() {
        if line.starts_with('[') && !line.contains('.') || line.starts_with("[topology") {
            blocks.push(String::new());
        }
        let block = blocks.last_mut().expect("the base begins with a table");
        block.push_str(line);
        block.push('\n');
    }
    blocks
}

#[test]
fn the_order_of_tables_does_not_matter() {
    let expected = accepted(BASE);
    let mut blocks = blocks();
    assert_eq!(blocks.len(), 8);
    for _ in 0..blocks.len() {
        blocks.rotate_left(1);
        assert_eq!(accepted(&blocks.concat()), expected);
    }
    blocks.reverse();
    assert_eq!(accepted(&blocks.concat()), expected);
    let swapped = with(&[
        ("name = \"b1\"\nrack = \"west/w1/r1\"\naddress = \"10.1.1.11\"", "BLOCK"),
        (
            "name = \"b2\"\nrack = \"west/w1/r2\"\naddress = \"10.1.2.12\"",
            "name = \"b1\"\nrack = \"west/w1/r1\"\naddress = \"10.1.1.11\"",
        ),
        ("BLOCK", "name = \"b2\"\nrack = \"west/w1/r2\"\naddress = \"10.1.2.12\""),
    ]);
    assert_eq!(accepted(&swapped), expected);
}

#[test]
fn nested_prefixes_are_fine_and_the_longest_wins() {
    let config = accepted(&with(&[(
        "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]",
        "west = [\"198.51.100.0/24\"]\noffice = [\"198.51.100.64/26\", \"0.0.0.0/0\"]",
    )]));
    let region_of = |address: &str| {
        let id = config.client_region_of(address.parse().expect("an address"));
        config[id].name.clone()
    };
    assert_eq!(region_of("198.51.100.1"), "west");
    assert_eq!(region_of("198.51.100.65"), "office");
    assert_eq!(region_of("203.0.113.1"), "office");
    assert_eq!(region_of("2001:db8::1"), "default");
}
