//! Real clients through other kinds of forwarding than IP in IP, and to VIPs that the edge answers for itself.
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e,
    lab::{ConfigOptions, Daemon, Lab, Netns, web_vips},
};
use std::process::Command;

fn reason_count(daemon: &Daemon<'_>, reason: Reason) -> u64 {
    let reasons = e2e::status(daemon).traffic.reasons;
    reasons.iter().find(|count| count.reason == reason.name()).map_or(0, |count| count.packets)
}

/// Small requests, and an upload whose packets are as large as clients make them.
fn serve(lab: &Lab) {
    let upload = lab.directory().join("upload");
    std::fs::write(&upload, vec![b'x'; 300_000]).unwrap();
    let body = format!("@{}", upload.display());
    for vip in web_vips() {
        for _ in 0..4 {
            lab.curl_vip("west", vip).unwrap();
        }
        let args = ["--data-binary", &body, &format!("http://{vip}/")];
        lab.curl_with("west", &args).unwrap();
    }
}

#[test]
fn gue_carries_both_families_over_both_families() {
    let lab = e2e::raise_rack(2);
    for v6_endpoints in [false, true] {
        let every_service = "forwarding = \"gue\"".to_owned();
        let daemon = e2e::start(&lab, &ConfigOptions { v6_endpoints, every_service, ..e2e::calm() });
        serve(&lab);
        let source = format!("{}:40000", lab.topology().clients[0].v4);
        let vip = format!("{}/tcp", web_vips()[0]);
        let explained: lb_userspace::api::types::Explanation = e2e::ask(&daemon, &["explain", &source, &vip]);
        assert!(explained.steps.iter().any(|step| step.text.contains("GUE from")), "{explained:?}");
        daemon.sigterm().unwrap();
    }
}

fn ip(netns: &Netns, arguments: &str) -> String {
    let mut command = Command::new("ip");
    command.args(arguments.split(' '));
    let output = netns.run(move || Ok(command.output()?)).unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// The word behind `key` in a line of `ip route`.
fn word_behind<'t>(text: &'t str, key: &str) -> &'t str {
    let mut words = text.split_whitespace();
    words.find(|word| *word == key).unwrap_or_else(|| panic!("no {key} in {text}"));
    words.next().unwrap()
}

#[test]
fn the_edge_answers_for_vips_in_a_flat_network() {
    let lab = e2e::raise_rack(2);
    let router = lab.router_netns();
    // The router's routes to the VIPs no longer name a gateway: it asks on the link who has them.
    for (family, prefix) in [("-4", "192.0.2.0/24"), ("-6", "2001:db8:100::/48")] {
        let route = ip(router, &format!("{family} route show {prefix}"));
        let dev = word_behind(&route, "dev").to_owned();
        ip(router, &format!("{family} route replace {prefix} dev {dev}"));
    }
    let routed = lab.start_daemon(&lab.write_config(&e2e::calm()).unwrap()).unwrap();
    routed.wait_ready(e2e::DEADLINE).unwrap();
    assert!(lab.curl_vip("west", web_vips()[0]).is_err(), "nobody answers for a VIP that is routed");
    routed.sigterm().unwrap();

    let every_service = "reach = \"arp\"".to_owned();
    let daemon = e2e::start(&lab, &ConfigOptions { every_service, ..e2e::calm() });
    serve(&lab);
    // What it was told at the start is enough for a while; forgotten, it has to ask.
    ip(router, "neigh flush all");
    serve(&lab);
    assert!(reason_count(&daemon, Reason::NeighbourAnswered) > 0);
    daemon.sigterm().unwrap();
}

#[test]
fn l2_through_a_router_is_refused_and_counted() {
    let lab = e2e::raise_rack(2);
    let every_service = "forwarding = \"l2\"".to_owned();
    let options = ConfigOptions { every_service, ..e2e::calm() };
    let daemon = lab.start_daemon(&lab.write_config(&options).unwrap()).unwrap();
    daemon.wait_ready(e2e::DEADLINE).unwrap();
    assert!(lab.curl_vip("west", web_vips()[0]).is_err());
    assert!(reason_count(&daemon, Reason::NotOnLink) > 0);
    daemon.sigterm().unwrap();
}
