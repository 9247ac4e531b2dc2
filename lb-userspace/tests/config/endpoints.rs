//! Ports, ranges of them, and prefixes as VIPs.

use crate::base::{accepted, errors, refused, with};

/// The base with more services, each given by address, ports and protocol.
fn beside(services: &[(&str, &str, &str)]) -> String {
    let end = "[service.plan]\ndefault = [\"west\", \"east\"]\n";
    let mut text = end.to_owned();
    for (number, (address, ports, protocol)) in services.iter().enumerate() {
        text += &format!(
            "[[service]]\nname = \"more{number}\"\naddress = \"{address}\"\n{ports}\nprotocol = \"{protocol}\"\n\
             [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\n"
        );
    }
    with(&[(end, &text)])
}

#[track_caller]
fn refused_with(services: &[(&str, &str, &str)], words: &[&str]) {
    let shown = errors(&beside(services)).to_string();
    for word in words {
        assert!(shown.contains(word), "{word:?} in\n{shown}");
    }
}

#[test]
fn ranges_any_port_and_prefixes_beside_each_other() {
    let config = accepted(&beside(&[
        ("192.0.2.10", "ports = \"8000-8099\"", "tcp"),
        ("192.0.2.10", "ports = \"8050-8300\"", "tcp"),
        ("192.0.2.10", "port = 8050", "tcp"),
        ("192.0.2.10", "ports = \"any\"", "tcp"),
        ("192.0.2.10", "ports = \"any\"", "sctp"),
        ("192.0.2.0/24", "port = 80", "tcp"),
        ("2001:db8:1::/64", "ports = \"1-65535\"", "udp"),
        ("192.0.2.77/32", "port = 80", "tcp"),
    ]));
    let shown: Vec<String> = config.services.iter().map(|s| format!("{} {}", s.vip, s.ports)).collect();
    assert_eq!(
        shown,
        [
            "192.0.2.10 8000-8099",
            "192.0.2.10 8050-8300",
            "192.0.2.10 8050",
            "192.0.2.10 any",
            "192.0.2.10 any",
            "192.0.2.0/24 80",
            "2001:db8:1::/64 1-65535",
            "192.0.2.77 80",
            "192.0.2.10 80",
        ]
    );
}

#[test]
fn both_ports_and_port() {
    refused(
        &with(&[("port = 80", "port = 80\nports = \"any\"")]),
        r#"
error: service "web" has both "port" and "ports"
  --> weir.toml:41:9
   |
41 | ports = "any"
   |         ^^^^^
  ::: weir.toml:40:8
   |
40 | port = 80
   |        -- the other one
   = help: remove one of them"#,
    );
}

#[test]
fn ports_that_are_none() {
    for ports in ["80", "90-80", "0-80", "80-80", "80-70000", "all", ""] {
        let shown = errors(&with(&[("port = 80", &format!("ports = \"{ports}\""))])).to_string();
        assert!(shown.contains("are no ports") && shown.contains("8000-8099"), "{ports:?}: {shown}");
    }
}

#[test]
fn services_that_are_equally_specific() {
    refused_with(
        &[("192.0.2.20", "ports = \"8000-8099\"", "tcp"), ("192.0.2.20", "ports = \"8050-8149\"", "tcp")],
        &["which overlap and are equally many", "the other one", "8000-8099", "8050-8149"],
    );
    refused_with(
        &[("192.0.2.0/24", "ports = \"any\"", "tcp"), ("192.0.2.0/24", "ports = \"any\"", "tcp")],
        &["two services have the address 192.0.2.0/24:any/tcp", "first used here"],
    );
}

#[test]
fn prefixes_that_are_none() {
    refused_with(&[("192.0.2.1/24", "port = 80", "tcp")], &["192.0.2.0/24", "without its length"]);
    refused_with(&[("192.0.2.0/33", "port = 80", "tcp")], &["the longest prefix has 32 bits"]);
    refused_with(&[("192.0.2.0/x", "port = 80", "tcp")], &["or a prefix such as"]);
    refused_with(&[("64.0.0.0/7", "port = 80", "tcp")], &["too much for one service", "at least 8 bits"]);
    refused_with(&[("224.0.0.0/8", "port = 80", "tcp")], &["a multicast address"]);
}

#[test]
fn what_may_not_lie_in_a_vip_prefix() {
    refused_with(&[("10.1.0.0/16", "port = 80", "tcp")], &["lies in the VIP prefix 10.1.0.0/16"]);
}

#[test]
fn more_ranges_and_prefixes_than_there_may_be() {
    let ranges: Vec<String> =
        (0..17).map(|n| format!("ports = \"{}-{}\"", 100 * n + 1, 100 * n + 50)).collect();
    let many: Vec<_> = ranges.iter().map(|ports| ("192.0.2.20", ports.as_str(), "tcp")).collect();
    refused_with(&many, &["MAX_PORT_RANGES is 16"]);
    accepted(&beside(&many[1..]));
    let nested = ["198.0.0.0/8", "198.18.0.0/16", "198.18.0.0/20", "198.18.0.0/24", "198.18.0.0/28"];
    let nested = nested.map(|prefix| (prefix, "port = 80", "tcp"));
    refused_with(&nested, &["198.18.0.0/28 lies in 4 other VIP prefixes", "MAX_VIP_NESTING is 4"]);
    accepted(&beside(&nested[1..]));
}
