use super::super::Severity;
use super::*;

fn interface(mtu: u32) -> Interface {
    Interface {
        index: 2,
        name: "eth0".to_owned(),
        mac: None,
        mtu,
        up: true,
        running: true,
        vlan: None,
        xdp: Some((Some(7), true)),
    }
}

fn route(mtu: Option<u32>) -> Route {
    Route { kind: RouteType::Unicast, ifindex: 2, gateway: None, mtu }
}

fn config(service: &str) -> Config {
    let text = format!(
        "[node]\nname = \"e\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\ntunnel_source_v4 = \"10.255.0.0/16\"\n\
         tunnel_source_v6 = \"fd00:ffff::/64\"\nhash_key = \"{}\"\n[topology.r]\nz = [\"k\"]\n\
         [[set]]\nname = \"s\"\ndomain = \"r/z/k\"\nchecks = []\n\
         [[set.backend]]\nname = \"four\"\nrack = \"r/z/k\"\naddress = \"10.1.0.1\"\n\
         [[set.backend]]\nname = \"six\"\nrack = \"r/z/k\"\naddress = \"fd00:1::1\"\n\
         [[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n{service}\n\
         [[service.pool]]\nname = \"p\"\nsets = [\"s\"]\n",
        "00112233445566778899aabbccddeeff".repeat(2)
    );
    Config::parse(&text, "doctor.toml").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn room_in_front_is_that_of_the_tunnel_and_its_family() {
    for (service, four, six) in [("", 20, 40), ("forwarding = \"gue\"", 28, 48)] {
        let config = config(service);
        let of = |address: &str| overhead(&config, address.parse().unwrap());
        assert_eq!((of("10.1.0.1"), of("fd00:1::1")), (four, six), "{service}");
    }
}

#[test]
fn an_mtu_is_enough_or_too_little_by_one() {
    let severity = |own: Option<u32>, interface_mtu, overhead| {
        let found = mtu(&route(own), &interface(interface_mtu), overhead);
        assert_eq!(found.severity == Severity::Ok, found.remedy.is_empty(), "{found:?}");
        found.severity
    };
    assert_eq!(severity(None, 1_520, 20), Severity::Ok);
    assert_eq!(severity(None, 1_519, 20), Severity::Warning);
    assert_eq!(severity(None, 1_540, 40), Severity::Ok);
    // The smaller one of route and interface counts.
    assert_eq!(severity(Some(1_500), 9_000, 20), Severity::Warning);
    assert_eq!(severity(Some(9_000), 1_500, 20), Severity::Warning);
    let found = mtu(&route(None), &interface(1_500), 20);
    assert!(found.remedy.starts_with("ip link set eth0 mtu 1520 "), "{found:?}");
}

#[test]
fn a_neighbour_answers_does_not_or_was_not_asked() {
    let hop: IpAddr = "10.1.0.1".parse().unwrap();
    let known = |state, ifindex| Neighbour { ifindex, address: hop, mac: Some([2; 6]), state };
    let severity = |neighbours: &[Neighbour]| {
        let found = neighbour(hop, &interface(1_600), neighbours);
        assert_eq!(found.severity == Severity::Ok, found.remedy.is_empty(), "{found:?}");
        found.severity
    };
    assert_eq!(severity(&[]), Severity::Note);
    for state in [NeighbourState::Reachable, NeighbourState::Stale, NeighbourState::Permanent] {
        assert_eq!(severity(&[known(state, 2)]), Severity::Ok);
    }
    for state in [NeighbourState::Failed, NeighbourState::Incomplete] {
        assert_eq!(severity(&[known(state, 2)]), Severity::Error);
        assert_eq!(severity(&[known(state, 3)]), Severity::Note, "that is another link");
    }
}

#[test]
fn strict_is_what_the_larger_setting_says() {
    for (own, all, severity) in [
        (0, 0, Severity::Ok),
        (1, 0, Severity::Warning),
        (0, 1, Severity::Warning),
        (2, 1, Severity::Ok),
        (1, 2, Severity::Ok),
    ] {
        assert_eq!(strictness("eth0", own, all).severity, severity, "{own} {all}");
    }
}

#[test]
fn offloads_that_spoil_packets_come_with_the_command_that_ends_them() {
    let found = |joins, takes_tags| {
        of_driver("eth0", host::Driver { name: "virtio_net".to_owned(), joins, takes_tags })
            .map(|finding| (finding.severity, finding.remedy))
    };
    let [driver, lro, tags] = found(true, true);
    assert_eq!(driver.0, Severity::Ok);
    assert_eq!(lro, (Severity::Error, "ethtool -K eth0 lro off".to_owned()));
    assert!(tags.0 == Severity::Note && tags.1.ends_with("ethtool -K eth0 rxvlan off"), "{tags:?}");
    assert!(
        found(false, false).iter().all(|(severity, remedy)| *severity == Severity::Ok && remedy.is_empty())
    );
}

#[test]
fn links_and_modes_of_xdp_are_judged() {
    let config = config("");
    let found = |shape: &dyn Fn(&mut Interface)| {
        let mut interface = Interface { name: "nonexistent0".to_owned(), ..interface(1_600) };
        shape(&mut interface);
        let mut findings = Vec::new();
        of_interface(&interface, &config, &mut findings);
        findings
    };
    let severity = |shape: &dyn Fn(&mut Interface), check: &str| {
        let findings = found(shape);
        assert!(
            findings.iter().all(|f| f.severity == Severity::Ok || !f.remedy.is_empty()),
            "without a remedy: {findings:?}"
        );
        findings.iter().find(|finding| finding.check == check).unwrap().severity
    };
    assert_eq!(severity(&|_| {}, "interface"), Severity::Ok);
    assert_eq!(severity(&|i| i.running = false, "interface"), Severity::Error);
    assert_eq!(severity(&|i| (i.up, i.running) = (false, false), "interface"), Severity::Error);
    assert_eq!(severity(&|_| {}, "xdp.mode"), Severity::Ok);
    assert_eq!(severity(&|i| i.xdp = None, "xdp.mode"), Severity::Note);
    assert_eq!(severity(&|i| i.xdp = Some((None, false)), "xdp.mode"), Severity::Warning);
}

#[test]
fn what_is_the_same_for_many_is_told_once_with_some_names() {
    let mut many = Many::default();
    for number in 1..=7 {
        many.add(&format!("b{number}"), Finding::error("route", "", "there is none").help("add one"));
    }
    many.add("b8", Finding::ok("route", "", "is there"));
    let found: Vec<_> = many.findings().collect();
    assert_eq!(found.len(), 2);
    let bad = found.iter().find(|finding| finding.severity == Severity::Error).unwrap();
    assert_eq!((bad.subject.as_str(), bad.remedy.as_str()), ("b1, b2, b3, b4, b5 and 2 more", "add one"));
}
