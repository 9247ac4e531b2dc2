//! Guarantees 4 and 9 under a flood of opening packets: it turns over the table of flows that are opening, and nothing else.

#[path = "guarantees_history/scene.rs"]
mod scene;

use lb_common::{
    abi::{admission::Admission, counter::Note, counter::note_slot},
    datapath::{
        classify,
        flow::FlowTable,
        hash::flow_hash,
        parse::{Shape, Transport, Tuple},
        ports::Tables as _,
        steer::{self, Origin},
        trace::Silent,
    },
    net::{mapped_words, protocol},
};
use lb_tests::golden::numbers::Numbers;
use lb_userspace::plan::image::ImageTables;
use proptest::prelude::*;

/// Opening packets of the flood for each flow that is meant.
const FLOOD: usize = 10;

/// Sends a packet from a client to the first service; where it goes.
fn send(tables: &ImageTables, client: u32, opening: bool) -> Option<u32> {
    let [b, c, d, e] = client.to_be_bytes();
    let tuple = Tuple {
        source: mapped_words(u32::from_ne_bytes([10, b, c, d])),
        destination: mapped_words(u32::from_ne_bytes([192, 0, 2, 1])),
        ports: u32::from_ne_bytes([128, e, 0, 80]),
        protocol: protocol::TCP,
        is_ipv6: false,
    };
    let root = tables.root()?;
    let (_, service) = classify::service(tables, root, &tuple)?;
    let h = flow_hash(&root.hash_key, &tuple);
    let transport = Transport {
        tuple,
        opening,
        traffic_class: 0,
        ip_length: 60,
        ip_at: 14,
        closing: false,
        payload_at: 34,
        shape: Shape::Whole,
        fragment: 0,
    };
    steer::place(tables, service, &transport, h, Origin::Client, &mut Silent)
        .ok()
        .map(|placed| placed.backend)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, failure_persistence: None, ..ProptestConfig::default() })]

    /// A zone drains, so that flows open away from home, and stays in reach of those that are there. Ten times as many opening
    /// packets come as are meant; each handshake takes as long as a few others begin. Every flow that is meant keeps its
    /// backend to the end, and the flow table holds each one that is away from home.
    #[test]
    fn a_flood_of_opening_packets_evicts_no_established_flow(
        scene in scene::plain_scene(),
        round_trip in 1_usize..5,
        flows in 50_usize..300,
        seed in 1_u64..,
    ) {
        let mut tables = ImageTables::new(scene.image());
        let zone = tables.image().names.domains.iter().position(|path| path == "r0/z0").expect("zone");
        tables.set_admission(zone, Admission::new(0, 255));
        // Room for the flows that are meant; and so many openings that eight in a handshake's time do not meet in one set of eight.
        tables.set_flow_capacity(flows, 16 * round_trip * (FLOOD + 1));
        let mut numbers = Numbers(seed);
        let mut opened: Vec<(u32, u32)> = Vec::new();
        for number in 0..flows + round_trip {
            if number < flows {
                let client = number as u32;
                opened.push((client, send(&tables, client, true).expect("a place")));
            }
            // Packets of one tick of the clock are equally old.
            tables.set_now_ns((number as u64 + 1) << 20);
            for _ in 0..FLOOD {
                let _ = send(&tables, 0x0100_0000 | (numbers.word() as u32 & 0x00ff_ffff), true);
            }
            if let Some(at) = number.checked_sub(round_trip) {
                let (client, backend) = opened[at];
                prop_assert_eq!(send(&tables, client, false), Some(backend), "handshake of {}", client);
            }
        }
        for (client, backend) in &opened {
            prop_assert_eq!(send(&tables, *client, false), Some(*backend), "client {}", client);
        }
        let established = tables.counter(note_slot(Note::FlowEstablished)).packets;
        prop_assert_eq!(tables.flows(FlowTable::Flows).len() as u64, established, "no entry was lost");
        prop_assert!(tables.counter(note_slot(Note::OpeningRemembered)).packets > established, "the flood was one");
    }
}
