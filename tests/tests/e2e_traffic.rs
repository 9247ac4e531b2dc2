//! Real clients through a real edge to real servers, while all is well: everything is reached, shares are right, every client
//! region has its own pool, and `weir explain` says what happens.
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e::{self, CLIENTS},
    lab::{Check, ConfigOptions, Daemon, Lab, VIP_V4, VIP_V6, web_vips},
};
use lb_userspace::api::types::Explanation;
use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    process::Command,
};

/// Echo requests of one ping.
const PINGS: u64 = 3;
/// Flows that are explained.
const EXPLAINED: usize = 50;
/// 99.9 % quantile of the chi-square distribution with 3 degrees of freedom.
const CHI_SQUARE_3: f64 = 16.27;

fn ping(lab: &Lab, client: &str, vip: IpAddr) {
    let mut ping = Command::new("ping");
    ping.args(["-n", "-i", "0.05", "-W", "5", "-c"]).args([PINGS.to_string(), vip.to_string()]);
    let output = lab.client_netns(client).unwrap().run(move || Ok(ping.output()?)).unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let all = format!("{PINGS} packets transmitted, {PINGS} received");
    assert!(text.contains(&all), "{client} pings {vip}: {text}");
}

fn reason_count(daemon: &Daemon<'_>, reason: Reason) -> u64 {
    let reasons = e2e::status(daemon).traffic.reasons;
    reasons.iter().find(|count| count.reason == reason.name()).map_or(0, |count| count.packets)
}

#[test]
fn curl_and_ping_reach_both_vips_from_both_client_regions_each_in_its_own_region() {
    let lab = e2e::raise();
    for v6_endpoints in [false, true] {
        let daemon = e2e::start(&lab, &ConfigOptions { v6_endpoints, ..e2e::calm() });
        for client in CLIENTS {
            let own = lab.topology().names_in(client);
            for vip in web_vips() {
                for _ in 0..4 {
                    let name = lab.curl_vip(client, vip).unwrap();
                    assert!(own.contains(&name), "{client}, {vip}: served by {name}");
                }
            }
            for vip in [IpAddr::from(VIP_V4), IpAddr::from(VIP_V6)] {
                let before = reason_count(&daemon, Reason::EchoAnswered);
                ping(&lab, client, vip);
                assert_eq!(reason_count(&daemon, Reason::EchoAnswered), before + PINGS, "{client}, {vip}");
            }
            let upload = lab.directory().join("upload");
            std::fs::write(&upload, vec![b'x'; 300_000]).unwrap();
            let body = format!("@{}", upload.display());
            for vip in web_vips() {
                let args = ["--data-binary", &body, &format!("http://{vip}/")];
                let name = lab.curl_with(client, &args).unwrap();
                assert!(own.contains(name.trim_end()), "{client} uploads to {vip}: {name}");
            }
        }
        daemon.sigterm().unwrap();
    }
}

#[test]
fn flows_spread_over_backends_by_weight() {
    let lab = e2e::raise_rack(4);
    let weights = [("w1r1b1", 100), ("w1r1b2", 300), ("w1r1b3", 100), ("w1r1b4", 300)];
    let weights: BTreeMap<String, u16> = weights.map(|(name, weight)| (name.to_owned(), weight)).into();
    let _daemon =
        e2e::start(&lab, &ConfigOptions { weights: weights.clone(), table_size: 65537, ..e2e::calm() });
    let counts = e2e::placement_of(&lab, 20_000..22_500).counts();
    let flows: usize = counts.values().sum();
    assert_eq!(flows, 5000);
    let chi_square = |share: &dyn Fn(&str) -> f64| -> f64 {
        let term = |name: &String| {
            let expected = share(name) * flows as f64;
            (counts.get(name).copied().unwrap_or(0) as f64 - expected).powi(2) / expected
        };
        weights.keys().map(term).sum()
    };
    let by_weight = chi_square(&|name| f64::from(weights[name]) / 800.0);
    assert!(by_weight < CHI_SQUARE_3, "chi-square {by_weight:.1} by weight: {counts:?}");
    let equal = chi_square(&|_| 0.25);
    assert!(
        equal > 10.0 * CHI_SQUARE_3,
        "could not tell from equal shares, chi-square {equal:.1}: {counts:?}"
    );
}

#[test]
fn client_regions_are_served_by_their_own_regions_pool() {
    let lab = e2e::raise();
    let _daemon = e2e::start(&lab, &e2e::calm());
    let placement = e2e::placement(&lab);
    for client in CLIENTS {
        // All of them, so that no backend is left without flows.
        assert_eq!(placement.servers_of(client), lab.topology().names_in(client), "{client}");
    }
}

#[test]
fn generic_mode_serves_both_families() {
    let lab = e2e::raise_rack(2);
    let daemon = e2e::start(&lab, &ConfigOptions { mode: "generic".into(), ..e2e::calm() });
    let link = |netns: &lb_tests::lab::Netns| {
        netns.run(|| Ok(Command::new("ip").args(["link", "show", "dev", "eth0"]).output()?)).unwrap().stdout
    };
    let shown = String::from_utf8(link(lab.edge_netns(0).unwrap())).unwrap();
    assert!(shown.contains("xdpgeneric"), "{shown}");
    for vip in web_vips() {
        let map = lab.flow_map("west", vip, 20_000..20_200).unwrap();
        assert_eq!(map.served.len(), 200, "{vip}: {:?}", map.failed);
        assert_eq!(map.counts().len(), 2, "{vip}");
        ping(&lab, "west", vip.ip());
        let upload = lab.directory().join("upload");
        std::fs::write(&upload, vec![b'x'; 300_000]).unwrap();
        let body = format!("@{}", upload.display());
        lab.curl_with("west", &["--data-binary", &body, &format!("http://{vip}/")]).unwrap();
    }
    daemon.sigterm().unwrap();
}

/// Flows at random, always the same ones: client, VIP, source port.
fn some_flows(count: usize) -> Vec<(&'static str, SocketAddr, u16)> {
    let mut state = 2_u64;
    let mut next = |below: u64| {
        // Knuth's MMIX generator; its upper bits are the good ones.
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let mut flow = || {
        let (client, vip) = (CLIENTS[next(2) as usize], web_vips()[next(2) as usize]);
        (client, vip, 1024 + next(48_000) as u16)
    };
    (0..count).map(|_| flow()).collect()
}

fn explain(lab: &Lab, daemon: &Daemon<'_>, flow: (&str, SocketAddr, u16), more: &[&str]) -> Explanation {
    let (client, vip, port) = flow;
    let client = lab.topology().client(client).unwrap();
    let address = if vip.is_ipv4() { IpAddr::from(client.v4) } else { client.v6.into() };
    let (source, destination) = (SocketAddr::new(address, port).to_string(), format!("{vip}/tcp"));
    e2e::ask(daemon, &[&["explain", &source, &destination], more].concat())
}

fn assert_explained(lab: &Lab, daemon: &Daemon<'_>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for flow @ (client, vip, port) in some_flows(EXPLAINED) {
        let explained = explain(lab, daemon, flow, &[]).backend.expect("a backend").name;
        let real = lab.flow_map(client, vip, [port]).unwrap();
        assert_eq!(real.served.get(&port), Some(&explained), "{flow:?}: {:?}", real.failed);
        *counts.entry(explained).or_default() += 1;
    }
    counts
}

#[test]
fn explain_names_the_backend_that_answers() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &ConfigOptions { check: Check::None, ..e2e::calm() });
    let rack = lab.topology().names_in("west/w1/r1");
    let before = assert_explained(&lab, &daemon);
    let on_rack: usize = before.iter().filter(|(name, _)| rack.contains(*name)).map(|(_, n)| n).sum();
    assert!(on_rack > 0, "no explained flow is on the rack: {before:?}");

    e2e::act(&daemon, "domain", "fail", "west/w1/r1");
    let during = assert_explained(&lab, &daemon);
    assert!(during.keys().all(|name| !rack.contains(name)), "{during:?}");

    // A connection from home, opened while its home was failed, stays where it is; a new one of the same flow does not.
    let is_from_rack = |flow: &(&str, SocketAddr, u16)| {
        explain(&lab, &daemon, *flow, &[]).steps.iter().any(|step| {
            step.backend.as_ref().is_some_and(|name| rack.contains(name)) && step.taken == Some(false)
        })
    };
    let flow = some_flows(200).into_iter().find(is_from_rack).expect("a flow of the rack");
    let kept = lab.keep_flows(flow.0, flow.1, [flow.2]).unwrap();
    let opened_at = kept.backends().next().unwrap().to_owned();
    e2e::act(&daemon, "domain", "restore", "west/w1/r1");
    let name = |more: &[&str]| explain(&lab, &daemon, flow, more).backend.expect("a backend").name;
    assert_eq!(name(&["--established"]), opened_at);
    assert!(rack.contains(&name(&[])), "a new one goes home");
}
