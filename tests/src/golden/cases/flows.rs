//! Flows that do not go straight home: the tables of flows, transitions, services that are leaving, sticky ones.

use super::{super::Change, *};
use lb_common::{
    abi::{
        flow::FlowWords,
        plan::{PLAN_PANIC, PlanEntry},
        prefix::NO_TABLE,
        service::{SERVICE_LEAVING, SERVICE_STEERED, SERVICE_STICKY_UDP},
    },
    datapath::flow::FlowTable,
    net::{mapped_words, protocol},
};
use lb_userspace::plan::image::Image;

const VIP_MANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const W1R1: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 21);
const W1R2: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 21);
const E1R1: Ipv4Addr = Ipv4Addr::new(10, 2, 1, 21);
const PORT: u16 = 40_001;

/// The flow from [`CLIENT`] to port 443 of [`VIP_MANY`].
fn many() -> FlowWords {
    let ([a, b], [c, d]) = (PORT.to_be_bytes(), 443_u16.to_be_bytes());
    FlowWords::new(
        &mapped_words(u32::from_ne_bytes(CLIENT.octets())),
        &mapped_words(u32::from_ne_bytes(VIP_MANY.octets())),
        u32::from_ne_bytes([a, b, c, d]),
        protocol::TCP,
        0,
    )
}

pub(super) fn all() -> Vec<Case> {
    [leaving(), known(), transition(), sticky(), steered()].concat()
}

/// Makes the plans of a service do something.
fn steer(image: &mut Image, service: &str, change: impl Fn(&mut PlanEntry)) {
    let at = image.names.services.iter().position(|name| name == service).expect("the fixture has it");
    let entry = &mut image.services[at];
    entry.flags |= SERVICE_STEERED;
    let plans = entry.plan_base as usize..(entry.plan_base + entry.plans) as usize;
    image.plans[plans].iter_mut().for_each(change);
}

fn steered() -> Vec<Case> {
    const PANIC: Change = Change::Image(|image| {
        ["4in4", "many"].iter().for_each(|name| steer(image, name, |plan| plan.eased = PLAN_PANIC));
    });
    const ALL_LEAVE: Change = Change::Image(|image| steer(image, "many", |plan| plan.leaves = [255; 8]));
    let syn = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, SYN, &[]));
    let running = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[]));
    let many_syn = ipv4(CLIENT, VIP_MANY, 6, &tcp(PORT, 443, SYN, &[]));
    let many_running = ipv4(CLIENT, VIP_MANY, 6, &tcp(PORT, 443, ACK, &[]));
    let failed = Change::Backend("v4", Admission::CLOSED);
    let held = Change::Domain("west/w1", Admission::CLOSED.held());
    let to_v4 = |inner: &[u8]| Expected::Tx(in4(4, 0, inner));
    let mut cases = vec![
        changed("in panic, a new flow to what failed", &[PANIC, failed], ethernet(V4, &syn), to_v4(&syn)),
        changed(
            "in panic, an established flow to what failed",
            &[PANIC, failed],
            ethernet(V4, &running),
            to_v4(&running),
        ),
        changed(
            "in panic, an operator's word stands",
            &[PANIC, failed, held],
            ethernet(V4, &syn),
            Expected::Drop(Reason::AllDown),
        ),
    ];
    // At two backends of three: one of them at least is not home.
    for (name, backend, address) in [
        ("in panic, a flow stays where it lives, first backend", "many-w1r1", W1R1),
        ("in panic, a flow stays where it lives, second backend", "many-w1r2", W1R2),
    ] {
        let known = Change::Known(FlowTable::Flows, many(), backend);
        let failed = Change::Domain("west/w1", Admission::CLOSED);
        cases.push(changed(
            name,
            &[PANIC, Change::Marked("many/west"), known, failed],
            ethernet(V4, &many_running),
            Expected::Tx(in4_to(address, 4, 0, &many_running)),
        ));
    }
    // Whichever of the west's three is home.
    let down = |name| Change::Backend(name, Admission::new(0, 255));
    let two = [ALL_LEAVE, down("many-w1r1"), down("many-w1r2"), down("many-w2r1")];
    cases.push(changed(
        "a pool that keeps nobody whom its first slot refuses",
        &two,
        ethernet(V4, &many_syn),
        Expected::Tx(in4_to(E1R1, 4, 0, &many_syn)),
    ));
    // Whichever of the west's three is home, one of these finds it shut.
    for (name, others, address) in [
        ("an established flow does not go on, first backend", ["many-w1r2", "many-w2r1"], W1R1),
        ("an established flow does not go on, second backend", ["many-w1r1", "many-w2r1"], W1R2),
    ] {
        let [one, two] = others.map(|other| Change::Backend(other, Admission::CLOSED));
        let expected = Expected::Tx(in4_to(address, 4, 0, &many_running));
        cases.push(changed(name, &[ALL_LEAVE, one, two], ethernet(V4, &many_running), expected));
    }
    cases
}

fn leaving() -> Vec<Case> {
    let leaving = Change::ServiceFlags("4in4", SERVICE_LEAVING);
    let syn = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, SYN, &[]));
    let running = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[]));
    vec![
        changed(
            "new flow of a leaving service",
            &[leaving],
            ethernet(V4, &syn),
            Expected::Pass(Reason::PassLeaving),
        ),
        changed(
            "established flow of a leaving service",
            &[leaving],
            ethernet(V4, &running),
            Expected::Tx(in4(4, 0, &running)),
        ),
    ]
}

fn known() -> Vec<Case> {
    let running = ipv4(CLIENT, VIP_MANY, 6, &tcp(PORT, 443, ACK, &[]));
    let mut cases = Vec::new();
    // At two backends of three: one of them at least is not home.
    for (table, name, backend, address) in [
        (FlowTable::Flows, "a flow that the flow table knows, first backend", "many-w1r1", W1R1),
        (FlowTable::Flows, "a flow that the flow table knows, second backend", "many-w1r2", W1R2),
        (FlowTable::Openings, "a flow that was seen to open, first backend", "many-w1r1", W1R1),
        (FlowTable::Openings, "a flow that was seen to open, second backend", "many-w1r2", W1R2),
    ] {
        let changes = [Change::Marked("many/west"), Change::Known(table, many(), backend)];
        cases.push(changed(
            name,
            &changes,
            ethernet(V4, &running),
            Expected::Tx(in4_to(address, 4, 0, &running)),
        ));
    }
    cases.push(changed(
        "a flow that the flow table knows at a backend that failed",
        &[
            Change::Marked("many/west"),
            Change::Known(FlowTable::Flows, many(), "many-w1r1"),
            Change::Domain("west/w1/r1", Admission::CLOSED),
            Change::Domain("west/w2", Admission::CLOSED),
        ],
        ethernet(V4, &running),
        Expected::Tx(in4_to(W1R2, 4, 0, &running)),
    ));
    cases
}

/// The service `4in4` tells client regions apart, and did so before by others: its flows of one region were at home in the pool over IPv6.
fn other_regions(image: &mut Image, in_region: usize) {
    let find =
        |names: &[String], name: &str| names.iter().position(|n| n == name).expect("the fixture has it");
    let (now, then) = (find(&image.names.pools, "4in4/p"), find(&image.names.pools, "4in6/p"));
    image.previous = vec![image.pools[now]; 3];
    image.previous[in_region] = image.pools[then];
    let service = &mut image.services[find(&image.names.services, "4in4")];
    (service.previous_base, service.previous_plans) = (1, 3);
}

fn transition() -> Vec<Case> {
    const WERE_IN_DEFAULT: Change = Change::Image(|image| {
        other_regions(image, 0);
        image.root.previous_clients = NO_TABLE;
    });
    const WERE_IN_WEST: Change = Change::Image(|image| {
        // In the order of names: none, east, west.
        other_regions(image, 2);
        (image.root.previous_clients, image.root.clients) = (image.root.clients, NO_TABLE);
    });
    // The service's only backend was the one over IPv6.
    let before = [Change::Marked("4in4/p"), Change::Before("4in4", "4in6/p")];
    let failed = [before[0], before[1], Change::Backend("v6", Admission::CLOSED)];
    let over = [before[0]];
    let syn = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, SYN, &[]));
    let running = ipv4(CLIENT, VIP_4IN4, 6, &tcp(40000, 80, ACK, &[]));
    let to_new = |inner: &[u8]| Expected::Tx(in4(4, 0, inner));
    vec![
        changed("in transition, new flow", &before, ethernet(V4, &syn), to_new(&syn)),
        changed(
            "in transition, established flow",
            &before,
            ethernet(V4, &running),
            Expected::Tx(in6(4, 0, &running)),
        ),
        changed(
            "in transition, established flow, its old home failed",
            &failed,
            ethernet(V4, &running),
            to_new(&running),
        ),
        changed("after a transition, established flow", &over, ethernet(V4, &running), to_new(&running)),
        changed(
            "in transition, established flow of a client that was of no region before",
            &[before[0], WERE_IN_DEFAULT],
            ethernet(V4, &running),
            Expected::Tx(in6(4, 0, &running)),
        ),
        changed(
            "in transition, established flow of a client that is of no region any more",
            &[before[0], WERE_IN_WEST],
            ethernet(V4, &running),
            Expected::Tx(in6(4, 0, &running)),
        ),
    ]
}

fn sticky() -> Vec<Case> {
    let datagram = ipv4(CLIENT, VIP_4IN4, 17, &udp(5353, 53, b"query"));
    let draining = Change::Backend("v4", Admission::new(0, 255));
    vec![
        changed(
            "a datagram, the only backend drained",
            &[draining],
            ethernet(V4, &datagram),
            Expected::Drop(Reason::AllDown),
        ),
        changed(
            "a datagram of a sticky service, the only backend drained",
            &[draining, Change::ServiceFlags("4in4-udp", SERVICE_STICKY_UDP)],
            ethernet(V4, &datagram),
            Expected::Tx(in4(4, 0, &datagram)),
        ),
    ]
}
