//! Next hops follow routes, neighbours and links of a real network. Needs root.

mod namespace;

use std::net::IpAddr;
use std::time::Duration;

use lb_userspace::dataplane::nexthop::{HopState, NextHops};
use lb_userspace::dataplane::writer::{NextHop, NextHopWriter};
use lb_userspace::dataplane::{DataPlane, Options};
use lb_userspace::plan::compile::compile;
use lb_userspace::plan::ids::BackendIndex;
use namespace::{DEADLINE, Namespace, eventually, run, with_namespace};
use nix::net::if_::if_nametoindex;

/// Two links: e0 with the first rack behind it, e1 with a gateway to the second.
fn network(namespace: &Namespace) {
    namespace.veth("e0", "p0", 0);
    namespace.veth("e1", "p1", 1);
    run("ip addr add 10.1.0.1/24 dev e0");
    run("ip addr add 10.9.0.1/24 dev e1");
    run("ip addr add fd00:9::1/64 dev e1 nodad");
    namespace.run("ip addr add 10.1.0.11/24 dev p0");
    namespace.run("ip addr add 10.1.0.12/24 dev p0");
    namespace.run("ip addr add 10.9.0.2/24 dev p1");
    namespace.run("ip addr add fd00:9::2/64 dev p1 nodad");
    run("ip route add 10.2.0.0/24 via 10.9.0.2 mtu 1500");
    run("ip -6 route add fd00:2::/64 via fd00:9::2");
}

fn start(namespace: &Namespace) -> (DataPlane, NextHopWriter, NextHops) {
    let config = namespace.config(|text| text);
    let dataplane = DataPlane::install(&compile(&config).unwrap(), &Options::new(&config)).unwrap();
    let writer = dataplane.next_hop_writer();
    let hops = NextHops::start(dataplane.next_hop_writer()).unwrap();
    (dataplane, writer, hops)
}

/// Waits until all that is found out at once has been found out.
fn wait_settled(hops: &NextHops) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let snapshot = runtime.block_on(hops.first_resolution(DEADLINE));
    assert!(snapshot.settled, "{snapshot:?}");
}

/// A next hop as it was written, but for whether it is on the link.
fn way(writer: &NextHopWriter, backend: usize) -> Option<NextHop> {
    writer.read(backend).map(|hop| NextHop { on_link: false, ..hop })
}

fn hop(interface: &str, number: u8, far: u8, mtu: u16) -> Option<NextHop> {
    let ifindex = if_nametoindex(interface).unwrap();
    Some(NextHop {
        ifindex,
        destination: [2, 0, 0, 0, number, far],
        source: [2, 0, 0, 0, number, 1],
        mtu,
        on_link: false,
        vlan: None,
    })
}

#[test]
fn next_hops_are_found_on_the_link_and_behind_gateways() {
    with_namespace(|namespace| {
        network(namespace);
        let (_dataplane, writer, hops) = start(namespace);
        wait_settled(&hops);
        assert_eq!(way(&writer, 0), hop("e0", 0, 2, 1600), "on the link");
        assert_eq!(way(&writer, 1), hop("e0", 0, 2, 1600));
        assert_eq!(way(&writer, 2), hop("e1", 1, 2, 1500), "behind a gateway, with the route's MTU");
        // The kernel asks for IPv6 neighbours only once the interface's own address has passed duplicate detection.
        eventually("over IPv6", || way(&writer, 3) == hop("e1", 1, 2, 1600));
        eventually("all are told", || hops.snapshot().unresolved() == 0);
        hops.stop();
        assert!(way(&writer, 0).is_some(), "stopping leaves them");
    });
}

#[test]
fn a_neighbour_that_does_not_answer_is_told_and_found_once_it_does() {
    with_namespace(|namespace| {
        network(namespace);
        namespace.run("ip addr del 10.1.0.12/24 dev p0");
        let (_dataplane, writer, hops) = start(namespace);
        wait_settled(&hops);
        assert!(way(&writer, 0).is_some());
        assert_eq!(way(&writer, 1), None);
        let snapshot = hops.snapshot();
        let HopState::Unresolved { reason } = &snapshot.backends[1] else { panic!("{snapshot:?}") };
        assert!(reason.contains("10.1.0.12 on e0"), "{reason}");
        namespace.run("ip addr add 10.1.0.12/24 dev p0");
        eventually("the new neighbour is found", || way(&writer, 1) == hop("e0", 0, 2, 1600));
    });
}

#[test]
fn a_new_address_of_the_neighbour_is_taken_and_a_lost_one_is_held() {
    with_namespace(|namespace| {
        network(namespace);
        let (_dataplane, writer, hops) = start(namespace);
        wait_settled(&hops);
        run("ip neigh replace 10.1.0.11 lladdr 02:00:00:00:00:77 dev e0 nud permanent");
        eventually("the new address is written", || way(&writer, 0) == hop("e0", 0, 0x77, 1600));

        // The host is gone, and the kernel's entry with it: the last known address stays.
        namespace.run("ip addr del 10.1.0.11/24 dev p0");
        run("ip neigh del 10.1.0.11 dev e0");
        let is_held = || matches!(hops.snapshot().backends[0], HopState::Held { .. });
        eventually("it is held", is_held);
        assert_eq!(way(&writer, 0), hop("e0", 0, 0x77, 1600));
        namespace.run("ip addr add 10.1.0.11/24 dev p0");
        eventually("it is found again", || way(&writer, 0) == hop("e0", 0, 2, 1600));
        eventually("and so told", || matches!(hops.snapshot().backends[0], HopState::Resolved(_)));
    });
}

#[test]
fn routes_and_links_are_followed() {
    with_namespace(|namespace| {
        network(namespace);
        let (_dataplane, writer, hops) = start(namespace);
        wait_settled(&hops);
        eventually("over IPv6", || way(&writer, 3) == hop("e1", 1, 2, 1600));
        // The second rack moves behind the first link.
        run("ip route replace 10.2.0.0/24 via 10.1.0.11");
        eventually("the new route is taken", || way(&writer, 2) == hop("e0", 0, 2, 1600));
        // Without any route, the last way goes on being used.
        run("ip route del 10.2.0.0/24");
        eventually("it is held", || matches!(hops.snapshot().backends[2], HopState::Held { .. }));
        assert_eq!(way(&writer, 2), hop("e0", 0, 2, 1600));
        // But not over a link that is down.
        run("ip link set e0 down");
        eventually("the way is taken away", || {
            (0..3).all(|backend| writer.read(BackendIndex(backend)).is_none())
        });
        assert_eq!(way(&writer, 3), hop("e1", 1, 2, 1600), "the other link is not touched");
        run("ip link set e0 up");
        eventually("it is back", || way(&writer, 0) == hop("e0", 0, 2, 1600));
        run("ip link set e0 mtu 1400");
        eventually("a new MTU is taken", || way(&writer, 0) == hop("e0", 0, 2, 1400));
    });
}

#[test]
fn an_address_of_this_host_is_no_backend() {
    with_namespace(|namespace| {
        network(namespace);
        let (dataplane, ..) = start(namespace);
        let own: IpAddr = "10.1.0.1".parse().unwrap();
        let hops = NextHops::start_for(vec![(BackendIndex(0), own)], dataplane.next_hop_writer()).unwrap();
        wait_settled(&hops);
        let snapshot = hops.snapshot();
        assert!(
            matches!(&snapshot.backends[0], HopState::Unresolved { reason } if reason.contains("this host")),
            "{snapshot:?}"
        );
    });
}

#[test]
fn waiting_for_what_never_comes_ends_by_the_timeout() {
    with_namespace(|namespace| {
        namespace.veth("e0", "p0", 0);
        run("ip addr add 10.1.0.1/24 dev e0");
        let (_dataplane, _, hops) = start(namespace);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let snapshot = runtime.block_on(hops.first_resolution(Duration::from_millis(20)));
        assert!(!snapshot.settled);
    });
}
