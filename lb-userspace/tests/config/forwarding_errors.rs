//! `forwarding`, `gue_port`, `reach`, `udp`, and QUIC.

use lb_userspace::config::{Config, Forwarding, Reach, Udp};

use crate::base::with;

/// What is said about a configuration with `instead` for each first text; every part of `expected` must be in it.
fn refused(changes: &[(&str, &str)], expected: &[&str]) {
    let text = with(changes);
    let error = Config::parse(&text, "weir.toml").expect_err(&text).to_string();
    for part in expected {
        assert!(error.contains(part), "no {part:?} in\n{error}");
    }
}

const PORT: &str = "port = 80\n";

#[test]
fn forwarding_is_one_of_three_kinds() {
    let forwarding = |lines: &str| {
        let config = Config::parse(&with(&[(PORT, &format!("{PORT}{lines}"))]), "weir.toml").unwrap();
        config.services[0].forwarding
    };
    assert_eq!(forwarding(""), Forwarding::Ipip);
    assert_eq!(forwarding("forwarding = \"gue\"\n"), Forwarding::Gue { port: 6080 });
    assert_eq!(forwarding("forwarding = \"gue\"\ngue_port = 5555\n"), Forwarding::Gue { port: 5555 });
    assert_eq!(forwarding("forwarding = \"l2\"\n"), Forwarding::L2);
    refused(&[(PORT, "port = 80\nforwarding = \"geu\"\n")], &["cannot be \"geu\"", "did you mean \"gue\"?"]);
}

#[test]
fn a_gue_port_belongs_to_gue() {
    refused(
        &[(PORT, "port = 80\ngue_port = 1\n")],
        &["has a gue_port, but does not forward by GUE", "forwarding = \"gue\""],
    );
    refused(
        &[(PORT, "port = 80\nforwarding = \"l2\"\ngue_port = 1\n")],
        &["has a gue_port, but does not forward by GUE", "its forwarding"],
    );
    refused(&[(PORT, "port = 80\nforwarding = \"gue\"\ngue_port = 0\n")], &["port 0 of service \"web\""]);
}

#[test]
fn a_vip_is_reached_one_way() {
    let text = with(&[(PORT, "port = 80\nreach = \"arp\"\n")]);
    assert_eq!(Config::parse(&text, "weir.toml").unwrap().services[0].reach, Reach::Arp);
    let second = "[[service]]\nname = \"other\"\naddress = \"192.0.2.10\"\nport = 81\nprotocol = \"tcp\"\n\
                  [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\n";
    let error = Config::parse(&format!("{text}{second}"), "weir.toml").unwrap_err().to_string();
    assert!(error.contains("has reach \"route\" here and \"arp\" elsewhere"), "{error}");
    refused(&[(PORT, "port = 80\nreach = \"bgp\"\n")], &["cannot be \"bgp\""]);
}

#[test]
fn quic_runs_over_udp_and_every_backend_has_an_id() {
    const PLAN: &str = "[service.plan]";
    let quic = "[service.quic]\nconfig_id = 1\nserver_id_length = 2\n[service.plan]";
    refused(&[(PLAN, quic)], &["QUIC runs over UDP", "protocol = \"udp\""]);
    let udp = ("protocol = \"tcp\"", "protocol = \"udp\"");
    refused(&[udp, (PLAN, quic)], &["has no \"quic_server_id\"", "quic_server_id = \"0a0b\""]);
    let bad = quic.replace("config_id = 1", "config_id = 7").replace("length = 2", "length = 16");
    refused(
        &[udp, (PLAN, &bad)],
        &["config_id = 7", "goes from 0 to 6", "server_id_length = 16", "goes from 1 to 15"],
    );
    let twice =
        quic.replace(PLAN, "[service.quic.rotation]\nconfig_id = 1\nserver_id_length = 3\n[service.plan]");
    refused(&[udp, (PLAN, &twice)], &["both QUIC configurations", "have config_id 1"]);
}

#[test]
fn udp_flows_stick_or_move() {
    let udp = |lines: &str| {
        let text = with(&[("protocol = \"tcp\"", &format!("protocol = \"udp\"\n{lines}"))]);
        Config::parse(&text, "weir.toml").unwrap_or_else(|error| panic!("{error}")).services[0].udp
    };
    assert_eq!(udp(""), Udp::Move);
    assert_eq!(udp("udp = \"move\""), Udp::Move);
    assert_eq!(udp("udp = \"stick\""), Udp::Stick);
    let word = ("protocol = \"tcp\"", "protocol = \"udp\"\nudp = \"sticky\"");
    refused(&[word], &["udp of service \"web\" cannot be \"sticky\"", "did you mean \"stick\"?"]);
}

#[test]
fn only_plain_udp_has_flows_that_stick_or_move() {
    for (protocol, word) in [("tcp", "stick"), ("sctp", "move")] {
        let lines = format!("protocol = \"{protocol}\"\nudp = \"{word}\"");
        let expected = format!("service \"web\" has \"udp\", but its protocol is {protocol}");
        refused(
            &[("protocol = \"tcp\"", &lines)],
            &[&expected, "weir.toml:42:7", "its protocol", "remove it"],
        );
    }
    let quic = "[service.quic]\nconfig_id = 1\nserver_id_length = 2\n[service.plan]";
    let sticky = ("protocol = \"tcp\"", "protocol = \"udp\"\nudp = \"stick\"");
    refused(
        &[sticky, ("[service.plan]", quic)],
        &["service \"web\" has both \"udp\" and [service.quic]", "remove udp: QUIC tells"],
    );
}
