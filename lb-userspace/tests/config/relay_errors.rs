//! Relays: what they mean, and what is refused.

use crate::base::with;
use crate::base::{accepted, errors, refused};

/// The node's keys, and the other region as a relay in place of its backends.
fn relayed(changes: &[(&str, &str)]) -> String {
    let text = with(&[
        (
            "[topology.west]",
            "relay_addresses = [\"10.0.0.2\", \"fd00::2\"]\nrelay_peers = [\"10.0.9.2\", \"10.255.9.0/24\"]\n[topology.west]",
        ),
        ("e1 = [\"r1\"]\n", ""),
        ("tunnel_source_v4 = \"10.255.0.0/16\"", "tunnel_source_v4 = \"10.255.1.0/24\""),
        (
            "[[set]]\nname = \"web-e1\"\ndomain = \"east/e1\"\n[[set.backend]]\nname = \"b3\"\nrack = \"east/e1/r1\"\naddress = \"10.9.1.13\"\n",
            "[[relay]]\nname = \"far\"\nregion = \"east\"\nchecks = [\"heartbeat\"]\n[[relay.host]]\nname = \"edge-e1\"\naddress = \"10.0.9.2\"\n",
        ),
        ("sets = [\"web-e1\"]", "relay = \"far\""),
    ]);
    changes.iter().fold(text, |text, (from, to)| {
        assert_eq!(text.matches(from).count(), 1, "{from:?} must stand in the text exactly once");
        text.replacen(from, to, 1)
    })
}

#[test]
fn a_relay_is_a_set_of_hosts_in_a_domain_of_their_region() {
    let config = accepted(&relayed(&[]));
    let host = &config[config.find_backend("edge-e1").expect("a host is a backend")];
    let path = |id| config.topology[id].path.as_str();
    assert_eq!(config.topology.ancestors(host.rack).map(path), ["east/relay/far", "east/relay", "east"]);
    assert_eq!((host.weight, config[host.set].relay, config[host.set].checks.len()), (100, true, 1));
    let pools: Vec<_> =
        config.services[0].pools.iter().map(|pool| (pool.name.as_str(), pool.relay)).collect();
    assert_eq!(pools, [("east", true), ("west", false)]);
    let relay = &config.node.relay;
    assert_eq!(relay.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.2", "fd00::2"]);
    assert_eq!(
        relay.peers.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.0.9.2/32", "10.255.9.0/24"]
    );
    assert_eq!(relay.gue_port, 6080);
}

#[test]
fn a_host_may_relay_without_taking_anything() {
    let text = relayed(&[(
        "relay_addresses = [\"10.0.0.2\", \"fd00::2\"]\nrelay_peers = [\"10.0.9.2\", \"10.255.9.0/24\"]\n",
        "",
    )]);
    assert!(accepted(&text).node.relay.addresses.is_empty());
}

#[test]
fn a_relay_of_the_own_region() {
    refused(
        &relayed(&[("region = \"east\"", "region = \"west\"")]),
        r#"
error: relay "far" is of region "west", this host's own
  --> weir.toml:33:10
   |
33 | region = "west"
   |          ^^^^^^
  ::: weir.toml:3:10
   |
 3 | region = "west"
   |          ------ the node's region
   = help: packets are relayed to other regions only: name the region whose hosts these are"#,
    );
}

#[test]
fn what_cannot_be_is_refused_with_a_remedy() {
    /// What is replaced in the file, what is refused, and the remedy.
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);
    let cases: [Case<'_>; 19] = [
        (
            &[("region = \"east\"", "region = \"aest\"")],
            "relay \"far\" names region \"aest\", which the topology does not have",
            "did you mean \"east\"?",
        ),
        (
            &[("[topology.east]", "[topology.east]\nrelay = [\"r1\"]")],
            "zone \"relay\" of region \"east\" is kept for relays",
            "another name",
        ),
        (
            &[("relay = \"far\"", "relay = \"fra\"")],
            "pool \"east\" of service \"web\" names relay \"fra\", which is not defined",
            "did you mean \"far\"?",
        ),
        (
            &[("relay = \"far\"", "relay = \"web-w1\"")],
            "names set \"web-w1\" as a relay",
            "write sets = [\"web-w1\"]",
        ),
        (&[("relay = \"far\"", "sets = [\"far\"]")], "names relay \"far\" as a set", "write relay = \"far\""),
        (
            &[("relay = \"far\"", "relay = \"far\"\nsets = []")],
            "has both \"sets\" and \"relay\"",
            "make two pools of it",
        ),
        (
            &[("relay_peers = [\"10.0.9.2\", \"10.255.9.0/24\"]\n", "")],
            "[node] has relay_addresses, but no \"relay_peers\"",
            "packets from anywhere else are refused",
        ),
        (
            &[("relay_addresses = [\"10.0.0.2\", \"fd00::2\"]\n", "")],
            "[node] has relay_peers, but no \"relay_addresses\"",
            "add relay_addresses",
        ),
        (
            &[("[\"10.0.0.2\", \"fd00::2\"]", "[]")],
            "relay_addresses of [node] has 0 elements",
            "name 1 to 16",
        ),
        (
            &[("\"fd00::2\"", "\"10.0.0.2\"")],
            "relay_addresses of [node] lists \"10.0.0.2\" twice",
            "remove one",
        ),
        (
            &[("\"fd00::2\"", "\"eth0\"")],
            "a relay address cannot be \"eth0\"",
            "write an IPv4 or IPv6 address",
        ),
        (
            &[("\"10.255.9.0/24\"", "\"10.255.9.1/24\"")],
            "relay peer \"10.255.9.1/24\" has bits set beyond its length",
            "10.255.9.0/24",
        ),
        (&[("\"fd00::2\"", "\"192.0.2.10\"")], "the relay address 192.0.2.10 is a VIP", "of this host alone"),
        (
            &[("\"fd00::2\"", "\"10.255.1.7\"")],
            "the relay address 10.255.1.7 lies in the tunnel source",
            "of this host alone",
        ),
        (
            &[("\"fd00::2\"", "\"10.1.1.11\"")],
            "backend \"b1\" has this host's relay address 10.1.1.11",
            "taken as relayed",
        ),
        (
            &[("address = \"10.0.9.2\"", "address = \"10.0.0.2\"")],
            "host \"edge-e1\" of a relay has this host's own relay address 10.0.0.2",
            "another region",
        ),
        (
            &[("[[relay.host]]\nname = \"edge-e1\"\naddress = \"10.0.9.2\"\n", "")],
            "relay \"far\" has no hosts",
            "[[relay.host]]",
        ),
        (
            &[("protocol = \"tcp\"", "protocol = \"tcp\"\nforwarding = \"l2\"")],
            "is a relay, but service \"web\" forwards by \"l2\"",
            "use \"ipip\" or \"gue\"",
        ),
        (&[("relay_peers", "relay_gue_port = 70000\nrelay_peers")], "relay_gue_port of [node]", "65535"),
    ];
    for (changes, message, remedy) in cases {
        let error = errors(&relayed(changes));
        let shown: Vec<_> = error.problems.iter().map(|problem| problem.message.as_str()).collect();
        assert_eq!(shown.len(), 1, "{changes:?}: {shown:#?}");
        assert!(shown[0].contains(message), "{changes:?}: {shown:?}");
        let help = error.problems[0].remedy.as_deref().unwrap_or_default();
        assert!(help.contains(remedy), "{changes:?}: {help}");
        assert!(error.problems[0].place.is_some(), "{changes:?}");
    }
}
