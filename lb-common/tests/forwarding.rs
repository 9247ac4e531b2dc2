//! What the edge puts around a packet, the agent takes off: `agent(encapsulate(p)) == p`, for all kinds of forwarding.

use lb_common::abi::agent::{AgentAddress, AgentReason, AgentRoot, DEFAULT_GUE_PORT};
use lb_common::abi::backend::{BACKEND_ON_LINK, BACKEND_TAGGED, BackendEntry};
use lb_common::abi::pod::Pod as _;
use lb_common::abi::reason::Reason;
use lb_common::abi::root::Root;
use lb_common::abi::service::{FORWARD_GUE, FORWARD_IPIP, FORWARD_L2, ServiceEntry};
use lb_common::datapath::buffer::Buffer;
use lb_common::datapath::encap::{encapsulate, outer_sum};
use lb_common::datapath::parse::{Shape, Transport, Tuple};
use lb_common::datapath::ports::{AgentTables, FibLookup};
use lb_common::datapath::{agent, verdict::Verdict};
use proptest::prelude::*;
use std::{cell::Cell, collections::BTreeSet};

const INGRESS: u32 = 3;

/// An agent that owns every address.
struct Agent {
    root: AgentRoot,
    reason: Cell<Option<AgentReason>>,
}

impl AgentTables for Agent {
    fn root(&self) -> Option<&AgentRoot> {
        Some(&self.root)
    }

    fn is_local(&self, _: &AgentAddress) -> bool {
        true
    }

    fn is_allowed_source(&self, _: &AgentAddress) -> bool {
        true
    }

    fn count(&self, reason: AgentReason, _: u64) {
        self.reason.set(Some(reason));
    }
}

/// What the agent makes of a frame.
fn through_agent(frame: &[u8]) -> (Vec<u8>, Verdict, AgentReason) {
    let root = AgentRoot { gue_port: DEFAULT_GUE_PORT.to_be_bytes(), ..AgentRoot::zeroed() };
    let agent = Agent { root, reason: Cell::new(None) };
    let mut buffer = Buffer::new(frame, INGRESS);
    let verdict = agent::process(&mut buffer, &agent);
    (buffer.frame().to_vec(), verdict, agent.reason.get().expect("every packet is counted"))
}

fn sum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks(2).map(|p| u32::from(p[0]) << 8 | u32::from(*p.get(1).unwrap_or(&0))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// An IP packet with this traffic class and payload; what lies in it is nobody's business here.
fn packet(is_ipv6: bool, class: u8, payload: &[u8]) -> Vec<u8> {
    let mut p = if is_ipv6 {
        let mut h = vec![0x60 | class >> 4, class << 4, 0, 0];
        h.extend((payload.len() as u16).to_be_bytes());
        h.extend([17, 61]);
        h.extend([0x20; 32]);
        h
    } else {
        let mut h = vec![0x45, class];
        h.extend((20 + payload.len() as u16).to_be_bytes());
        h.extend([0x12, 0x34, 0x40, 0, 61, 17, 0, 0, 198, 51, 100, 7, 192, 0, 2, 10]);
        let checksum = !sum(&h);
        h[10..12].copy_from_slice(&checksum.to_be_bytes());
        h
    };
    p.extend(payload);
    p
}

fn backend(is_outer_ipv6: bool, flags: u32) -> BackendEntry {
    let mut entry =
        BackendEntry { ifindex: INGRESS, mtu: 9000, flags, vlan: [0x01, 0x23], ..BackendEntry::zeroed() };
    entry.ethernet = [2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 1, 2, 8, 0];
    if is_outer_ipv6 {
        entry.ethernet[12..].copy_from_slice(&[0x86, 0xdd]);
        entry.outer_destination = [0xfd; 16];
    } else {
        entry.outer_destination[..4].copy_from_slice(&[10, 1, 1, 11]);
        entry.outer_sum = outer_sum([10, 255, 0, 0], [10, 1, 1, 11]);
    }
    entry
}

fn root() -> Root {
    Root {
        outer_source_v4: [10, 255, 0, 0],
        outer_source_v6: [0xfd, 0xff, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        entropy_mask_v4: [0, 0, 0xff, 0xff],
        entropy_mask_v6: [0xff; 4],
        ..Root::zeroed()
    }
}

fn transport(is_ipv6: bool, class: u8, length: usize, ip_at: usize) -> Transport {
    Transport {
        tuple: Tuple { source: [0; 4], destination: [0; 4], ports: 0, protocol: 17, is_ipv6 },
        opening: false,
        traffic_class: class,
        ip_length: length as u16,
        ip_at: ip_at as u16,
        closing: false,
        payload_at: 34,
        shape: Shape::Whole,
        fragment: 0,
    }
}

/// The frame of a packet that came with `tags`.
fn framed(is_ipv6: bool, tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 9, 9, 9, 9, 1, 2, 9, 9, 9, 9, 2];
    frame.extend(tags.concat());
    frame.extend(if is_ipv6 { [0x86, 0xdd] } else { [8, 0] });
    frame.extend(packet);
    frame
}

const TAGS: [[u8; 4]; 2] = [[0x88, 0xa8, 0, 7], [0x81, 0, 0x20, 9]];

/// Offset of the IP header, and whether it is IPv6.
fn ip_at(frame: &[u8]) -> (usize, bool) {
    let mut at = 12;
    while matches!(frame[at..at + 2], [0x81, 0] | [0x88, 0xa8]) {
        at += 4;
    }
    (at + 2, frame[at..at + 2] == [0x86, 0xdd])
}

proptest! {
    #[test]
    fn the_agent_takes_off_what_the_edge_put_on(
        is_ipv6: bool,
        is_outer_ipv6: bool,
        gue: bool,
        tagged: bool,
        came_with in 0_usize..3,
        class: u8,
        h: u64,
        payload in proptest::collection::vec(any::<u8>(), 8..200),
        padding in 0_usize..20,
    ) {
        let inner = packet(is_ipv6, class, &payload);
        let mut frame = framed(is_ipv6, &TAGS[2 - came_with..], &inner);
        frame.extend(vec![0; padding]);
        let service = ServiceEntry {
            forwarding: if gue { FORWARD_GUE } else { FORWARD_IPIP },
            gue_port: DEFAULT_GUE_PORT.to_be_bytes(),
            ..ServiceEntry::zeroed()
        };
        let backend = backend(is_outer_ipv6, if tagged { BACKEND_TAGGED } else { 0 });
        let mut buffer = Buffer::new(&frame, INGRESS);
        let transport = transport(is_ipv6, class, inner.len(), 14 + 4 * came_with);
        let egress = encapsulate(&mut buffer, &root(), &service, &backend, &transport, h);
        prop_assert_eq!(egress, Ok(INGRESS));
        let sent = buffer.frame().to_vec();

        let expected: Vec<u8> =
            if tagged { [0x81, 0, 1, 0x23].to_vec() } else { TAGS[2 - came_with..].concat() };
        prop_assert_eq!(&sent[12..12 + expected.len()], &expected[..], "tags");
        let (at, is_v6) = ip_at(&sent);
        prop_assert_eq!(is_v6, is_outer_ipv6);
        if !is_v6 {
            prop_assert_eq!(sum(&sent[at..at + 20]), 0xffff, "checksum of the outer header");
        }

        let (got, verdict, reason) = through_agent(&sent);
        prop_assert_eq!((verdict, reason), (Verdict::Pass, AgentReason::Decapsulated));
        let (at, is_v6) = ip_at(&got);
        prop_assert_eq!(is_v6, is_ipv6);
        prop_assert_eq!(&got[12..at - 2], &expected[..], "the agent keeps tags");
        prop_assert_eq!(&got[at..at + inner.len()], &inner[..]);
        prop_assert_eq!(got.len(), at + inner.len() + padding);
    }

    #[test]
    fn l2_changes_nothing_but_the_ethernet_header(is_ipv6: bool, came_with in 0_usize..3, h: u64) {
        let inner = packet(is_ipv6, 0, &[7; 40]);
        let frame = framed(is_ipv6, &TAGS[2 - came_with..], &inner);
        let service = ServiceEntry { forwarding: FORWARD_L2, ..ServiceEntry::zeroed() };
        let transport = transport(is_ipv6, 0, inner.len(), 14 + 4 * came_with);
        let mut buffer = Buffer::new(&frame, INGRESS);
        let entry = backend(false, BACKEND_ON_LINK);
        prop_assert_eq!(encapsulate(&mut buffer, &root(), &service, &entry, &transport, h), Ok(INGRESS));
        prop_assert_eq!(&buffer.frame()[..12], &entry.ethernet[..12]);
        prop_assert_eq!(&buffer.frame()[12..], &frame[12..]);
        let mut elsewhere = Buffer::new(&frame, INGRESS + 1);
        prop_assert_eq!(encapsulate(&mut elsewhere, &root(), &service, &entry, &transport, h), Ok(INGRESS));
        prop_assert_eq!(&elsewhere.frame()[14..], &inner[..], "by another interface without tags");
        let routed = backend(false, 0);
        let mut refused = Buffer::new(&frame, INGRESS);
        let result = encapsulate(&mut refused, &root(), &service, &routed, &transport, h);
        prop_assert_eq!(result, Err(Reason::NotOnLink));
        prop_assert_eq!(refused.frame(), &frame[..]);
    }
}

/// RFC 6040, figure 4: rows are the inner, columns the outer codepoint, in the order Not-ECT, ECT(0), ECT(1), CE.
#[test]
fn congestion_goes_on_as_rfc_6040_says() {
    const CODEPOINTS: [u8; 4] = [0, 2, 1, 3];
    const ONWARD: [[Option<u8>; 4]; 4] = [
        [Some(0), Some(0), Some(0), None],
        [Some(2), Some(2), Some(1), Some(3)],
        [Some(1), Some(1), Some(1), Some(3)],
        [Some(3), Some(3), Some(3), Some(3)],
    ];
    for is_ipv6 in [false, true] {
        for (i, o) in (0..4).flat_map(|i| (0..4).map(move |o| (i, o))) {
            let inner = packet(is_ipv6, 0xb8 | CODEPOINTS[i], &[7; 40]);
            let mut outer = packet(false, CODEPOINTS[o], &inner);
            outer[9] = if is_ipv6 { 41 } else { 4 };
            let (frame, verdict, reason) = through_agent(&framed(false, &[], &outer));
            let case = format!("inner {i}, outer {o}, IPv6 {is_ipv6}");
            let Some(onward) = ONWARD[i][o] else {
                assert_eq!((verdict, reason), (Verdict::Drop, AgentReason::CongestionLost), "{case}");
                continue;
            };
            assert_eq!(reason, AgentReason::Decapsulated, "{case}");
            assert_eq!(frame[14..], packet(is_ipv6, 0xb8 | onward, &[7; 40]), "{case}");
        }
    }
}

#[test]
fn the_agent_takes_variant_0_of_gue_without_extensions_and_nothing_else() {
    let inner = packet(false, 0, &[7; 40]);
    let datagram = |header: &[u8], inner: &[u8]| {
        let length = (8 + header.len() + inner.len()) as u16;
        let mut d =
            [&[0xc0, 0][..], &DEFAULT_GUE_PORT.to_be_bytes(), &length.to_be_bytes(), &[0, 0]].concat();
        d.extend(header);
        d.extend(inner);
        through_agent(&framed(false, &[], &packet(false, 0, &d)))
    };
    let (frame, _, reason) = datagram(&[0, 4, 0, 0], &inner);
    assert_eq!(reason, AgentReason::Decapsulated);
    assert_eq!(frame[14..], inner);
    for header in [[0, 41, 0, 0], [0, 17, 0, 0], [1, 4, 0, 0], [0x20, 4, 0, 0], [0x80, 4, 0, 0], [0, 4, 0, 1]]
    {
        let (_, verdict, reason) = datagram(&header, &inner);
        assert_eq!((verdict, reason), (Verdict::Drop, AgentReason::InnerMalformed), "{header:?}");
    }
    assert_eq!(datagram(&[], &[]).2, AgentReason::InnerMalformed, "nothing inside");
    assert_eq!(datagram(&[], &inner[..19]).2, AgentReason::InnerMalformed, "cut short");
    // A UDP length that goes beyond the packet, into what pads the frame.
    let length = (8 + inner.len() + 8) as u16;
    let head = [&[0xc0, 0][..], &DEFAULT_GUE_PORT.to_be_bytes(), &length.to_be_bytes(), &[0, 0]].concat();
    let mut frame = framed(false, &[], &packet(false, 0, &[&head[..], &inner[..]].concat()));
    frame.extend([0; 16]);
    assert_eq!(through_agent(&frame).2, AgentReason::InnerMalformed, "longer than the packet");
}

/// A frame as it leaves for a flow with this hash.
fn sent(is_outer_ipv6: bool, gue: bool, h: u64) -> Vec<u8> {
    let inner = packet(false, 0, &[7; 40]);
    let service = ServiceEntry {
        forwarding: if gue { FORWARD_GUE } else { FORWARD_IPIP },
        gue_port: DEFAULT_GUE_PORT.to_be_bytes(),
        ..ServiceEntry::zeroed()
    };
    let mut buffer = Buffer::new(&framed(false, &[], &inner), INGRESS);
    let transport = transport(false, 0, inner.len(), 14);
    encapsulate(&mut buffer, &root(), &service, &backend(is_outer_ipv6, 0), &transport, h).unwrap();
    buffer.frame().to_vec()
}

/// Outer headers tell flows apart, so that receive-side scaling spreads them, and never packets of a flow. Each part of a header that
/// some network card or router goes by takes hundreds of values for a thousand flows; what is no entropy stays.
#[test]
fn outer_headers_spread_flows_and_keep_each_together() {
    let hashes = |i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    for (is_outer_ipv6, gue) in [(false, false), (false, true), (true, false), (true, true)] {
        let (source, source_end, port) = if is_outer_ipv6 { (22, 38, 54) } else { (26, 30, 34) };
        let mut parts = vec![(source_end - 2, source_end)];
        if gue {
            parts.push((port, port + 2));
        }
        if is_outer_ipv6 {
            // The flow label.
            parts.push((15, 18));
        }
        let frames: Vec<_> = (1..=1000).map(|i| sent(is_outer_ipv6, gue, hashes(i))).collect();
        for (from, to) in parts {
            let values: BTreeSet<_> = frames.iter().map(|frame| &frame[from..to]).collect();
            assert!(values.len() > 900, "{} values of bytes {from} to {to}", values.len());
        }
        let fixed = source..source_end - if is_outer_ipv6 { 4 } else { 2 };
        assert!(frames.iter().all(|frame| frame[fixed.clone()] == frames[0][fixed.clone()]));
        assert!(!is_outer_ipv6 || frames.iter().all(|frame| frame[14..16] == [0x60, frame[15] & 0x0f]));
        assert!(!gue || frames.iter().all(|frame| frame[port] >= 0xc0), "ports of the dynamic range");
        assert_eq!(sent(is_outer_ipv6, gue, hashes(7)), frames[6], "a flow's packets look alike");
    }
}

#[test]
fn without_a_next_hop_the_kernels_tables_decide() {
    let inner = packet(false, 0, &[7; 40]);
    let frame = framed(false, &[], &inner);
    let ipip = ServiceEntry::zeroed();
    let l2 = ServiceEntry { forwarding: FORWARD_L2, ..ServiceEntry::zeroed() };
    let entry = BackendEntry { ifindex: 0, mtu: 0, ..backend(false, BACKEND_TAGGED) };
    let transport = transport(false, 0, inner.len(), 14);
    let send = |service: &ServiceEntry, fib: Option<FibLookup>| {
        let buffer = Buffer::new(&frame, INGRESS);
        let mut buffer = match fib {
            Some(fib) => buffer.with_fib(fib),
            None => buffer,
        };
        (encapsulate(&mut buffer, &root(), service, &entry, &transport, 1), buffer.frame().to_vec())
    };
    // The egress interface's address first, as the kernel has it.
    let mac = [[2, 8, 8, 8, 8, 1], [2, 8, 8, 8, 8, 2]].concat();
    let macs = [0, 4, 8].map(|at| u32::from_ne_bytes(mac[at..at + 4].try_into().unwrap()));
    let known = FibLookup { ifindex: 9, length: 1500, macs, ..FibLookup::default() };
    let (egress, sent) = send(&ipip, Some(known));
    assert_eq!(egress, Ok(9));
    assert_eq!(sent[..14], [2, 8, 8, 8, 8, 2, 2, 8, 8, 8, 8, 1, 8, 0], "no tag");
    assert_eq!(sent[34..], inner);
    assert_eq!(send(&ipip, None).0, Err(Reason::NoNextHop));
    assert_eq!(send(&ipip, Some(FibLookup { length: 79, ..known })).0, Err(Reason::TooBig));
    assert_eq!(send(&l2, Some(known)).0, Ok(9), "the next hop is the backend");
    let routed = FibLookup { destination: [7, 0, 0, 0], ..known };
    assert_eq!(send(&l2, Some(routed)).0, Err(Reason::NotOnLink));
    assert_eq!(send(&ipip, Some(routed)).0, Ok(9));
}
