//! Relay between regions: two regions of two edge hosts each. What a region cannot serve crosses to the other one, once.
use lb_common::abi::reason::Reason;
use lb_tests::{
    e2e::{self, eventually},
    lab::{ConfigOptions, Cut, Daemon, Lab, Wire, echo_vips, web_vips},
};
use lb_userspace::{
    api::types::{Explanation, VerdictKind},
    plan::state::State,
};
use std::{collections::BTreeSet, net::UdpSocket, time::Duration};

/// Source ports of flow maps: of each client to both web VIPs.
const PORTS: std::ops::Range<u16> = 20_000..20_150;
/// Datagrams of each client that are sent where nobody can serve them, from as many ports.
const LOST: u16 = 150;
/// Where they go on both VIPs.
const LOST_PORTS: std::ops::Range<u16> = 30_000..30_000 + LOST;

/// Which edges stand in a region.
fn edges_of(region: &str) -> std::ops::Range<usize> {
    if region == "west" { 0..2 } else { 2..4 }
}

struct Regions<'lab> {
    lab: &'lab Lab,
    /// Daemons of edges 1 and 2, in the west, and of 3 and 4, in the east.
    daemons: Vec<Daemon<'lab>>,
    wire: Wire,
}

impl<'lab> Regions<'lab> {
    fn start(lab: &'lab Lab) -> Self {
        let start = |edge| {
            let options = ConfigOptions { edge, relay: true, table_size: 4093, ..e2e::calm() };
            let daemon = lab.start_daemon_on(edge, &lab.write_config(&options).unwrap()).unwrap();
            daemon.wait_ready(e2e::DEADLINE).unwrap();
            daemon
        };
        let daemons: Vec<_> = (0..4).map(start).collect();
        // Edges answer each other's heartbeats.
        daemons.iter().for_each(e2e::wait_all_up);
        for client in e2e::CLIENTS {
            for vip in web_vips() {
                eventually(&format!("{vip} answers {client}"), || lab.curl_vip(client, vip));
            }
        }
        Self { lab, daemons, wire: lab.wire().unwrap() }
    }

    /// How many packets a reason counts, over all edges of a region.
    fn count(&self, region: &str, reason: Reason) -> u64 {
        let of_edge = |edge: usize| {
            let reasons = e2e::status(&self.daemons[edge]).traffic.reasons;
            reasons.iter().find(|count| count.reason == reason.name()).map_or(0, |count| count.packets)
        };
        edges_of(region).map(of_edge).sum()
    }

    /// Cuts off all backends of a region, and waits until its edges know.
    fn lose(&self, region: &str) {
        let fault = self.lab.cut(region, Cut::Drop).unwrap();
        for edge in edges_of(region) {
            e2e::wait_for_domain(&self.daemons[edge], region, State::Down, fault.begin_ns);
        }
    }

    /// Flow maps of a client to both web VIPs; who serves.
    fn flows(&self, client: &str) -> (Vec<lb_tests::load::FlowMap>, BTreeSet<String>) {
        let map = |vip| {
            let map = self.lab.flow_map(client, vip, PORTS).unwrap();
            assert!(map.failed.is_empty(), "{client} to {vip}: {:?}", map.failed);
            map
        };
        let maps: Vec<_> = web_vips().into_iter().map(map).collect();
        let servers = maps.iter().flat_map(|map| map.served.values().cloned()).collect();
        (maps, servers)
    }

    /// Sends one datagram from each of many ports of a client to both VIPs; nobody answers.
    fn lose_datagrams(&self, client: &str) {
        let addresses = self.lab.topology().client(client).unwrap().clone();
        let send = || {
            for (vip, port) in echo_vips().into_iter().flat_map(|vip| LOST_PORTS.map(move |port| (vip, port)))
            {
                let from: std::net::IpAddr =
                    if vip.is_ipv4() { addresses.v4.into() } else { addresses.v6.into() };
                UdpSocket::bind((from, port))?.send_to(b"who?", vip)?;
            }
            Ok(())
        };
        self.lab.client_netns(client).unwrap().run(send).unwrap();
    }

    fn explain(&self, edge: usize, more: &[&str]) -> Explanation {
        let source = format!("{}:40000", self.lab.topology().client("west").unwrap().v4);
        let vip = format!("{}/tcp", web_vips()[0]);
        e2e::ask(&self.daemons[edge], &[&["explain", source.as_str(), vip.as_str()], more].concat())
    }
}

#[test]
fn what_a_region_cannot_serve_crosses_once_and_never_again() {
    let lab = Lab::builder().zones(1).backends(1).edges_in_each_region(2).raise();
    let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    let regions = Regions::start(&lab);
    let (west, east) = (lab.topology().names_in("west"), lab.topology().names_in("east"));

    // A healthy day: nothing crosses.
    let (west_before, servers) = regions.flows("west");
    assert_eq!(servers, west);
    let (east_before, servers) = regions.flows("east");
    assert_eq!(servers, east);
    assert_eq!(regions.wire.crossed().unwrap(), 0);
    assert_eq!(regions.explain(0, &[]).plan, ["west", "east"]);

    // The west's backends die: its flows are served in the east; the east's own stay where they are.
    regions.lose("west");
    let (_, servers) = regions.flows("west");
    assert_eq!(servers, east);
    assert!(regions.wire.crossed().unwrap() > u64::from(2 * LOST), "the west's flows cross");
    assert_eq!(regions.flows("east").0, east_before);
    assert_eq!(regions.wire.crossed().unwrap(), 0, "the east's flows do not");
    let told = regions.explain(0, &[]);
    let host = told.backend.expect("a host of the east");
    assert!(["edge-3", "edge-4"].contains(&host.name.as_str()) && host.rack == "east/relay/east", "{host:?}");
    assert_eq!(regions.explain(2, &["--from-relay"]).verdict, VerdictKind::Forward);

    // The east's die as well: a packet crosses once, and is dropped there.
    regions.lose("east");
    assert_eq!(regions.wire.crossed().unwrap(), 0);
    let told = regions.explain(2, &["--from-relay"]);
    assert_eq!((told.verdict, told.reason.as_str()), (VerdictKind::Drop, "relay_refused"), "{told:?}");
    let mut crossed = 0;
    for (client, other) in [("west", "east"), ("east", "west")] {
        let refused = |region| regions.count(region, Reason::RelayRefused);
        let (here, there) = (refused(client), refused(other));
        regions.lose_datagrams(client);
        eventually(&format!("what {client} sent is dropped in the {other}"), || {
            crossed += regions.wire.crossed()?;
            let now = refused(other) - there;
            anyhow::ensure!(now == u64::from(2 * LOST), "{now} of {} dropped, {crossed} crossed", 2 * LOST);
            Ok(())
        });
        assert_eq!(refused(client), here, "nothing comes back");
    }
    // No more than that crosses, however long one waits: each packet that comes back would come again.
    std::thread::sleep(Duration::from_millis(300));
    crossed += regions.wire.crossed().unwrap();
    assert_eq!(crossed, u64::from(4 * LOST), "each packet crosses once");
    for region in e2e::CLIENTS {
        assert_eq!(
            regions.count(region, Reason::RelayNotForUs) + regions.count(region, Reason::RelayMalformed),
            0
        );
    }

    // Both return: home again.
    lab.restore("west").unwrap();
    lab.restore("east").unwrap();
    regions.daemons.iter().for_each(e2e::wait_all_up);
    regions.wire.crossed().unwrap();
    assert_eq!(regions.flows("west").0, west_before);
    assert_eq!(regions.flows("east").0, east_before);
    assert_eq!(regions.wire.crossed().unwrap(), 0);

    // An operator who fails the other region takes its hosts out.
    regions.lose("west");
    e2e::act(&regions.daemons[0], "domain", "fail", "east");
    assert_eq!(regions.explain(0, &[]).reason, "all_down");
    let (a, b) = (regions.explain(1, &[]), regions.explain(0, &["--from-relay"]));
    assert_eq!((a.verdict, b.reason.as_str()), (VerdictKind::Forward, "relay_refused"));
}
