//! Flows that do not go straight home: the tables of flows, transitions, services that are leaving, sticky ones.

use super::{super::Change, *};
use lb_common::{
    abi::{
        flow::FlowWords,
        service::{SERVICE_LEAVING, SERVICE_STICKY_UDP},
    },
    datapath::flow::FlowTable,
    net::{mapped_words, protocol},
};

const VIP_MANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const W1R1: Ipv4Addr = Ipv4Addr::new(10, 1, 1, 21);
const W1R2: Ipv4Addr = Ipv4Addr::new(10, 1, 2, 21);
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
    [leaving(), known(), transition(), sticky()].concat()
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

fn transition() -> Vec<Case> {
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
