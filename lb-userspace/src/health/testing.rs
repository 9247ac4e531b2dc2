//! Configurations for tests, built without a file.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use proptest::prelude::*;

use crate::config::{
    Backend, BackendId, Check, CheckId, CheckKind, Config, Domain, DomainId, HashKey, Ipv4Prefix, Ipv6Prefix,
    Level, Node, Set, SetId, Topology, XdpMode,
};

/// Regions of zones of racks of so many backends.
pub(crate) type Shape = Vec<Vec<Vec<usize>>>;

/// Up to 3 regions of 3 zones of 3 racks of 6 backends.
pub(crate) fn shapes() -> impl Strategy<Value = Shape> {
    let rack = 0..6usize;
    let zone = prop::collection::vec(rack, 1..4);
    let region = prop::collection::vec(zone, 1..4);
    prop::collection::vec(region, 1..4)
        .prop_filter("some backend", |shape| shape.iter().flatten().flatten().sum::<usize>() > 0)
}

/// A check with fall 2 and rise 3.
pub(crate) fn check(kind: CheckKind, interval_ms: u64) -> Check {
    let interval = Duration::from_millis(interval_ms);
    let name = format!("check{}", kind.port());
    Check { name, kind, interval, timeout: interval, fall: 2, rise: 3, jitter: 0 }
}

/// A configuration of this shape: domains `r0/z0/k0`, one set for each zone with all `checks`, backends at 127.1.x.y.
pub(crate) fn config(shape: &Shape, checks: Vec<Check>) -> Config {
    let mut config = Config {
        node: Node {
            name: "edge".to_owned(),
            region: DomainId(0),
            zone: None,
            interfaces: vec!["lo".to_owned()],
            mode: XdpMode::Generic,
            hash_key: HashKey::new([7; 32]),
            tunnel_source_v4: Ipv4Prefix::UNSPECIFIED,
            tunnel_source_v6: Ipv6Prefix::UNSPECIFIED,
            state_dir: "/nowhere".into(),
            socket: "/nowhere/socket".into(),
            bpffs: "/nowhere/bpf".into(),
            max_new_flows: None,
            transition: std::time::Duration::from_secs(300),
            flow_idle: std::time::Duration::from_secs(86_400),
            flow_entries: None,
            opening_entries: None,
            answers_per_second: 1_000,
            panic_threshold: 50,
            target_utilisation: 80,
            max_ejected: 100,
            announcement: None,
            relay: crate::config::Relay::default(),
        },
        topology: Topology::default(),
        client_regions: Vec::new(),
        checks,
        sets: Vec::new(),
        backends: Vec::new(),
        services: Vec::new(),
        recovery: crate::plan::breaker::Settings::default(),
        http: crate::config::Http::default(),
    };
    for (r, zones) in shape.iter().enumerate() {
        let region = add_domain(&mut config.topology, format!("r{r}"), Level::Region, None);
        for (z, racks) in zones.iter().enumerate() {
            let zone = add_domain(&mut config.topology, format!("r{r}/z{z}"), Level::Zone, Some(region));
            let set = SetId::from_index(config.sets.len()).expect("few sets");
            let checks = (0..config.checks.len()).filter_map(CheckId::from_index).collect();
            let name = format!("s{r}{z}");
            config.sets.push(Set { name, domain: zone, checks, backends: Vec::new(), relay: false });
            for (k, &count) in racks.iter().enumerate() {
                let path = format!("r{r}/z{z}/k{k}");
                let rack = add_domain(&mut config.topology, path, Level::Rack, Some(zone));
                for b in 0..count {
                    let id = BackendId::from_index(config.backends.len()).expect("few backends");
                    config.sets[set.index()].backends.push(id);
                    let name = format!("b{r}{z}{k}{b}");
                    config.backends.push(Backend {
                        name,
                        set,
                        rack,
                        address: address(id),
                        weight: 100,
                        quic_server_id: None,
                        quic_rotation_id: None,
                    });
                }
            }
        }
    }
    config
}

/// The loopback address of a backend.
pub(crate) fn address(id: BackendId) -> IpAddr {
    let [high, low] = id.0.to_be_bytes();
    IpAddr::V4(Ipv4Addr::new(127, 1, high, low + 1))
}

/// The domain with this path.
pub(crate) fn domain(config: &Config, path: &str) -> DomainId {
    config.topology.find(path).expect("a domain of the test's own shape")
}

/// The backends below a domain.
pub(crate) fn below(config: &Config, path: &str) -> Vec<usize> {
    let domain = domain(config, path);
    let inside = |backend: &Backend| config.topology.is_within(backend.rack, domain);
    (0..config.backends.len()).filter(|&index| inside(&config.backends[index])).collect()
}

fn add_domain(topology: &mut Topology, path: String, level: Level, parent: Option<DomainId>) -> DomainId {
    let id = DomainId::from_index(topology.domains.len()).expect("few domains");
    if let Some(parent) = parent {
        topology.domains[parent.index()].children.push(id);
    }
    topology.domains.push(Domain { path, level, parent, children: Vec::new() });
    id
}
