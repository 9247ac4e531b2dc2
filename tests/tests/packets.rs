//! What holds for every packet that is no ordinary one, on the pure code with random packets.

use lb_common::{
    abi::{
        admission::Admission,
        counter::{reason_slot, service_slot},
        flow::{FLOW_CLOSING, FlowKey},
        limits::FRAGMENT_AGE_NS,
        reason::Reason,
        service::SERVICE_STICKY_UDP,
    },
    datapath::{
        self,
        buffer::Buffer,
        classify,
        flow::FlowTable,
        parse::Tuple,
        ports::{FibLookup, Tables},
        trace::Silent,
        verdict::Outcome,
    },
    net::{address_bytes, address_words, protocol},
};
use lb_tests::golden::{self, INGRESS, packets::*};
use lb_userspace::{
    config::{Config, Ports, Protocol, Service, Vip},
    plan::{
        compile::compile,
        image::{Image, ImageTables},
    },
};
use proptest::prelude::*;
use std::{
    collections::BTreeMap,
    fmt::Write,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 7);
/// The service `many` of the fixture, over three racks in two zones.
const MANY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
/// The service `quic` of the fixture.
const QUIC: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 60);
/// The flag of TCP by which a client closes.
const FIN: u8 = 1;
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x11);

fn tables() -> ImageTables {
    tables_with(|_| ())
}

fn tables_with(change: impl FnOnce(&mut Image)) -> ImageTables {
    let mut image = golden::fixture().unwrap();
    image.root.answers_per_second = u32::MAX;
    change(&mut image);
    ImageTables::new(image)
}

/// Which flow lives where, by the tables of flows.
fn known(tables: &ImageTables) -> BTreeMap<FlowKey, u32> {
    let of = |table| tables.flows(table).into_iter().map(|(key, entry)| (key, entry.backend));
    of(FlowTable::Flows).chain(of(FlowTable::Openings)).collect()
}

/// What flows the tables of flows hold.
#[derive(Clone, Copy, Debug)]
enum FlowKind {
    Tcp,
    Sticky,
    /// Whose connection ids name no backend.
    Quic,
}

impl FlowKind {
    fn vip(self) -> Ipv4Addr {
        if let Self::Quic = self { QUIC } else { MANY }
    }

    /// A packet of a client: its first one, or another.
    fn packet(self, client: Ipv4Addr, port: u16, first: bool) -> Vec<u8> {
        let payload = match (self, first) {
            (Self::Tcp, true) => return ipv4(client, MANY, 6, &tcp(port, 443, SYN, b"")),
            (Self::Tcp, false) => return ipv4(client, MANY, 6, &tcp(port, 443, ACK, b"x")),
            (Self::Sticky, _) => vec![1],
            // An Initial of version 1.
            (Self::Quic, true) => [&[0xc0, 0, 0, 0, 1, 8][..], &[0xe0; 48]].concat(),
            (Self::Quic, false) => [&[0x41][..], &[0xe0; 30]].concat(),
        };
        ipv4(client, self.vip(), 17, &udp(port, 443, &payload))
    }

    /// What the backend sends.
    fn answer(self, client: Ipv4Addr, port: u16) -> Vec<u8> {
        match self {
            Self::Tcp => ipv4(MANY, client, 6, &tcp(443, port, ACK, b"y")),
            _ => ipv4(self.vip(), client, 17, &udp(443, port, &[0x41; 30])),
        }
    }
}

fn run(tables: &ImageTables, frame: &[u8]) -> (Outcome, Vec<u8>) {
    let mut buffer = Buffer::new(frame, INGRESS);
    let outcome = datapath::process(&mut buffer, tables, &mut Silent);
    (outcome, buffer.frame().to_vec())
}

/// A client's address by number.
fn client(number: u16) -> Ipv4Addr {
    let [high, low] = number.to_be_bytes();
    Ipv4Addr::new(198, 51, high, low)
}

/// Stores a random word for the backend or domain that a number picks, those of the fixture's services `many` and `quic`.
fn disturb(tables: &mut ImageTables, pick: u8, new: u8, old: u8) {
    let word = Admission::new(new, old);
    let domains = ["west", "west/w1", "west/w1/r1", "west/w1/r2", "west/w2", "west/w2/r1", "east"];
    match domains.get(pick as usize % 11) {
        Some(path) => {
            let index = tables.image().names.domains.iter().position(|d| d == path).unwrap();
            tables.set_admission(index, word);
        }
        None => {
            let index = pick as usize % tables.image().backends.len();
            tables.set_backend_admission(index, word);
        }
    }
}

// The most specific match.

const NODE: &str = r#"
[node]
name = "packets"
region = "west"
interfaces = ["eth0"]
hash_key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
tunnel_source_v4 = "10.255.0.1/32"
[topology.west]
w1 = ["r1"]
[[set]]
name = "s"
domain = "west/w1"
[[set.backend]]
name = "b"
rack = "west/w1/r1"
address = "10.1.1.11"
"#;

fn vip() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "198.18.0.0/16",
        "198.18.0.0/24",
        "198.18.0.128/25",
        "198.18.0.128",
        "198.18.0.0",
        "198.18.7.0/24",
        "2001:db8::/32",
        "2001:db8::/64",
        "2001:db8::",
        "2001:db8:0:0:8000::/65",
    ])
}

fn ports() -> impl Strategy<Value = String> {
    prop_oneof![
        (1_u16..12).prop_map(|port| format!("port = {port}")),
        (1_u16..10, 1_u16..5).prop_map(|(first, more)| format!("ports = \"{first}-{}\"", first + more)),
        Just("ports = \"any\"".to_owned()),
    ]
}

/// Services, without those that are ambiguous beside the ones before.
fn services() -> impl Strategy<Value = Config> {
    let protocol = prop::sample::select(vec!["tcp", "udp", "sctp"]);
    prop::collection::vec((vip(), ports(), protocol), 1..24).prop_map(|places| {
        let mut kept: Vec<(Vip, Ports, &str)> = Vec::new();
        let mut text = NODE.to_owned();
        for (number, (vip, ports, protocol)) in places.iter().enumerate() {
            let value = ports.split_once(" = ").unwrap().1.trim_matches('"');
            let parsed = value.parse::<u16>().map_or_else(|_| value.parse().unwrap(), Ports::one);
            let place = (vip.parse::<Vip>().unwrap(), parsed, *protocol);
            if kept.iter().any(|k| k.0 == place.0 && k.2 == place.2 && k.1.is_ambiguous_with(parsed)) {
                continue;
            }
            kept.push(place);
            let _ = write!(
                text,
                "[[service]]\nname = \"v{number}\"\naddress = \"{vip}\"\n{ports}\nprotocol = \"{protocol}\"\n\
                 [[service.pool]]\nname = \"p\"\nsets = [\"s\"]\ntable_size = 4093\n"
            );
        }
        Config::parse(&text, "random.toml").unwrap_or_else(|error| panic!("{error}\n{text}"))
    })
}

/// How specific a service is for a packet; `None` if it is not for it.
fn rank(service: &Service, address: IpAddr, port: u16, protocol: Protocol) -> Option<(u8, u16)> {
    let matches =
        service.protocol == protocol && service.vip.contains(address) && service.ports.contain(port);
    let length = service.vip.prefix().map_or(u8::MAX, |prefix| prefix.length());
    matches.then_some((length, u16::MAX - service.ports.width()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_most_specific_service_takes_a_packet(
        config in services(),
        packets in prop::collection::vec((any::<bool>(), 0_u8..3, 0_u8..3, any::<bool>(), 0_u16..16, 0_u8..3), 200),
    ) {
        let tables = ImageTables::new(compile(&config).unwrap());
        let root = tables.root().unwrap();
        for (is_ipv6, near, low, upper, port, protocol) in packets {
            let end = low + if upper { 128 } else { 0 };
            let address: IpAddr = if is_ipv6 {
                let host = if upper { 0x8000 } else { 0 };
                Ipv6Addr::new(0x2001, 0xdb8, 0, u16::from(near), host, 0, 0, low.into()).into()
            } else {
                Ipv4Addr::new(198, 18, [0, 7, 9][near as usize], end).into()
            };
            let (protocol, number) = [
                (Protocol::Tcp, protocol::TCP),
                (Protocol::Udp, protocol::UDP),
                (Protocol::Sctp, protocol::SCTP),
            ][protocol as usize];
            let [high, low] = port.to_be_bytes();
            let tuple = Tuple {
                source: address_words(&address_bytes(client(1).into())),
                destination: address_words(&address_bytes(address)),
                ports: u32::from_ne_bytes([1, 2, high, low]),
                protocol: number,
                is_ipv6,
            };
            let found = classify::service(&tables, root, &tuple).map(|(index, _)| index as usize);
            let ranks = config.services.iter().map(|service| rank(service, address, port, protocol));
            let best = ranks.enumerate().filter_map(|(i, rank)| Some((rank?, i))).max().map(|(_, i)| i);
            prop_assert_eq!(found, best, "{} port {} {:?}", address, port, protocol);
            let is_vip = config.services.iter().any(|service| service.vip.contains(address));
            prop_assert_eq!(classify::is_vip(&tables, &tuple.destination), is_vip, "{}", address);
        }
    }
}

// Fragments.

#[derive(Clone, Copy, Debug)]
enum Event {
    /// A fragment of a datagram: which datagram, which piece of it.
    Piece(u8, u8),
    /// A word stored: where, what.
    Word(u8, u8, u8),
    /// Milliseconds that pass.
    Time(u16),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        12 => (0_u8..12, 0_u8..4).prop_map(|(d, p)| Event::Piece(d, p)),
        2 => any::<(u8, u8, u8)>().prop_map(|(pick, new, old)| Event::Word(pick, new, old)),
        1 => (0_u16..4000).prop_map(Event::Time),
    ]
}

/// Piece `piece` of datagram `datagram`. Datagrams 0 to 3 and 4 to 7 have the same identifications, but other clients; 8 to 11 are
/// IPv6.
fn piece(datagram: u8, piece: u8) -> Vec<u8> {
    let whole = udp(4000 + u16::from(datagram), 443, &[datagram; 120]);
    let (from, more) = (usize::from(piece) * 32, piece < 3);
    let part = &whole[from..(from + 32).min(whole.len())];
    let offset = (from / 8) as u16;
    if datagram < 8 {
        let id = u16::from(datagram % 4);
        let header = Ipv4 { id, fragment: offset | u16::from(more) << 13, ..Ipv4::default() };
        ethernet(0x0800, &header.packet(client(u16::from(datagram / 4)), MANY, 17, part))
    } else {
        let whole = tcp(4000 + u16::from(datagram), 80, ACK, &[datagram; 108]);
        let part = &whole[from..(from + 32).min(whole.len())];
        let mut header = vec![6, 0];
        header.extend((offset << 3 | u16::from(more)).to_be_bytes());
        header.extend(u32::from(datagram).to_be_bytes());
        ethernet(0x86dd, &ipv6(CLIENT6, VIP6, 44, 60, &[&header[..], part].concat()))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// In whatever order fragments come, and whatever is stored meanwhile: a later fragment goes where the last first one of
    /// its datagram went, or nowhere.
    #[test]
    fn a_fragment_goes_nowhere_but_where_its_first_one_went(events in prop::collection::vec(event(), 1..120)) {
        let mut tables = tables();
        let mut now = 1;
        tables.set_now_ns(now);
        // Where each datagram's first fragment went, and when.
        let mut went: [Option<(u32, u64)>; 12] = [None; 12];
        for event in events {
            match event {
                Event::Word(pick, new, old) => disturb(&mut tables, pick, new, old),
                Event::Time(ms) => {
                    now += u64::from(ms) * 1_000_000;
                    tables.set_now_ns(now);
                }
                Event::Piece(datagram, number) => {
                    let (outcome, _) = run(&tables, &piece(datagram, number));
                    let known = went[datagram as usize].filter(|(_, at)| now - at <= FRAGMENT_AGE_NS);
                    if number == 0 {
                        if outcome.reason == Reason::Forwarded {
                            went[datagram as usize] = Some((outcome.backend().unwrap(), now));
                        }
                    } else if let Some((backend, _)) = known {
                        prop_assert_eq!(outcome.reason, Reason::Forwarded);
                        prop_assert_eq!(outcome.backend(), Some(backend), "datagram {}", datagram);
                    } else {
                        prop_assert_eq!(outcome.reason, Reason::FragmentOrphan);
                    }
                }
            }
        }
    }

    /// A later fragment follows its first one for as long as datagrams are waited for, and no longer; the last first one counts.
    #[test]
    fn a_first_fragment_is_followed_for_a_while_only(datagram in 0_u8..12, number in 1_u8..4, begin: u32) {
        let tables = tables();
        let mut now = u64::from(begin);
        let mut send = |after: u64, number: u8| {
            now += after;
            tables.set_now_ns(now);
            run(&tables, &piece(datagram, number)).0.reason
        };
        prop_assert_eq!(send(0, 0), Reason::Forwarded);
        prop_assert_eq!(send(FRAGMENT_AGE_NS, number), Reason::Forwarded);
        prop_assert_eq!(send(1, number), Reason::FragmentOrphan);
        prop_assert_eq!(send(0, 0), Reason::Forwarded);
        prop_assert_eq!(send(FRAGMENT_AGE_NS, number), Reason::Forwarded);
    }

    /// An ICMP error goes where the next packet of the flow goes that it quotes, in every state of things, also if that is what
    /// the flow table says; and it changes nothing about where flows go.
    #[test]
    fn an_icmp_error_goes_where_its_flow_goes(
        kind in prop::sample::select(vec![FlowKind::Tcp, FlowKind::Sticky, FlowKind::Quic]),
        flows in prop::collection::vec((any::<u16>(), 1024_u16..), 1..40),
        opened in prop::collection::vec(any::<(u8, u8, u8)>(), 0..4),
        after in prop::collection::vec(any::<(u8, u8, u8)>(), 0..4),
        error in prop::sample::select(vec![(3_u8, 4_u8), (3, 1), (11, 0), (12, 0)]),
    ) {
        let mut tables = tables_with(|image| {
            let sticky = image.names.services.iter().position(|name| name == "many-udp").unwrap();
            image.services[sticky].flags |= SERVICE_STICKY_UDP;
        });
        for (pick, new, old) in opened {
            disturb(&mut tables, pick, new, old);
        }
        for (number, port) in &flows {
            run(&tables, &ethernet(0x0800, &kind.packet(client(*number), *port, true)));
        }
        for (pick, new, old) in after {
            disturb(&mut tables, pick, new, old);
        }
        for (number, port) in flows {
            let client = client(number);
            let before = known(&tables);
            let answer = kind.answer(client, port);
            let body = [&[0, 0, 5, 0][..], &answer].concat();
            let router = Ipv4Addr::new(203, 0, 113, 1);
            let error = ethernet(0x0800, &ipv4(router, kind.vip(), 1, &icmp(error.0, error.1, &body)));
            let (of_error, _) = run(&tables, &error);
            let (again, _) = run(&tables, &error);
            prop_assert_eq!(of_error.backend(), again.backend());
            prop_assert_eq!(&before, &known(&tables), "what is known of flows");
            let (of_flow, _) = run(&tables, &ethernet(0x0800, &kind.packet(client, port, false)));
            prop_assert_eq!(of_error.reason, of_flow.reason);
            prop_assert_eq!(of_error.backend(), of_flow.backend());
            prop_assert_eq!(of_error.service(), of_flow.service());
        }
    }

    /// Every "too big" that is sent is a well-formed answer with right checksums that quotes what it is about.
    #[test]
    fn an_answer_to_what_is_too_big_is_well_formed(
        mtu in 90_u16..1600,
        length in 1_usize..1600,
        seed: u8,
        options in 0_usize..11,
        is_ipv6: bool,
    ) {
        let mut tables = tables();
        tables.set_next_hops(INGRESS, [2; 6], [4; 6], mtu);
        let payload: Vec<u8> = (0..length).map(|i| (i as u8).wrapping_mul(seed | 1)).collect();
        let packet = if is_ipv6 {
            ipv6(CLIENT6, VIP6, 6, 60, &tcp(4000, 80, ACK, &payload))
        } else {
            let header = Ipv4 { options: vec![1; 4 * options], ..Ipv4::default() };
            header.packet(client(9), MANY, 6, &tcp(4000, 443, ACK, &payload))
        };
        let (outcome, frame) = run(&tables, &ethernet(if is_ipv6 { 0x86dd } else { 0x0800 }, &packet));
        // The backends of this service are of both families.
        let fits = |overhead: usize| packet.len() + overhead <= usize::from(mtu);
        match outcome.reason {
            Reason::Forwarded => prop_assert!(fits(20)),
            Reason::TooBig => prop_assert!(!fits(40) && (is_ipv6 && mtu < 1320 || packet.len() < 100)),
            Reason::TooBigAnswered => {
                prop_assert!(!fits(40));
                let answer = &frame[14..];
                let (headers, told) = if is_ipv6 {
                    let mut covered = answer[8..40].to_vec();
                    covered.extend((answer.len() as u32 - 40).to_be_bytes());
                    covered.extend([0, 0, 0, 58]);
                    covered.extend(&answer[40..]);
                    prop_assert_eq!(checksum(&covered), 0);
                    prop_assert_eq!(u16::from_be_bytes([answer[4], answer[5]]) as usize, answer.len() - 40);
                    prop_assert!(answer.len() <= 1280);
                    prop_assert_eq!(&answer[40..42], &[2, 0]);
                    (48, u32::from_be_bytes(answer[44..48].try_into().unwrap()))
                } else {
                    prop_assert_eq!(checksum(&answer[..20]), 0);
                    prop_assert_eq!(checksum(&answer[20..]), 0);
                    prop_assert_eq!(u16::from_be_bytes([answer[2], answer[3]]) as usize, answer.len());
                    prop_assert!(answer.len() <= 576);
                    prop_assert_eq!(&answer[20..22], &[3, 4]);
                    (28, u32::from(u16::from_be_bytes([answer[26], answer[27]])))
                };
                let overhead = usize::from(mtu) - told as usize;
                prop_assert!(overhead == 20 || overhead == 40, "told {told} of {mtu}");
                prop_assert!(!fits(overhead));
                prop_assert_eq!(&answer[headers..], &packet[..answer.len() - headers]);
            }
            other => prop_assert!(false, "{other:?}"),
        }
    }
}

/// New flows are counted where packets tell them: capacity, shedding and `weir top` go by that.
#[test]
fn only_packets_that_may_open_a_flow_are_counted_as_such() {
    let tables = tables_with(|image| {
        let sticky = image.names.services.iter().position(|name| name == "many-udp").unwrap();
        image.services[sticky].flags |= SERVICE_STICKY_UDP;
    });
    let quic_error = icmp(3, 4, &[&[0, 0, 5, 0][..], &FlowKind::Quic.answer(client(1), 4000)].concat());
    let quic_error = ethernet(0x0800, &ipv4(Ipv4Addr::new(203, 0, 113, 1), QUIC, 1, &quic_error));
    let plain = ethernet(0x0800, &ipv4(client(1), Ipv4Addr::new(192, 0, 2, 10), 17, &udp(4000, 53, b"?")));
    let flow = |kind: FlowKind| {
        [true, false, false].map(|first| ethernet(0x0800, &kind.packet(client(1), 4000, first))).to_vec()
    };
    let cases = [
        ("many", flow(FlowKind::Tcp), 1),
        ("many-udp", flow(FlowKind::Sticky), 0),
        ("quic", [flow(FlowKind::Quic), vec![quic_error]].concat(), 1),
        ("4in4-udp", vec![plain.clone(), plain], 2),
    ];
    for (service, frames, opening) in cases {
        let index = tables.image().names.services.iter().position(|name| name == service).unwrap();
        for frame in &frames {
            assert_eq!(run(&tables, frame).0.reason, Reason::Forwarded, "{service}");
        }
        let counter = tables.counter(service_slot(index as u32));
        assert_eq!((counter.packets, counter.opening), (frames.len() as u64, opening), "{service}");
    }
}

/// Where only the kernel knows the way, it also knows how much that takes.
#[test]
fn what_is_too_big_for_the_kernels_way_is_answered() {
    let mut tables = tables();
    tables.set_next_hops(0, [0; 6], [0; 6], 0);
    let way = FibLookup { ifindex: 9, length: 1000, ..FibLookup::default() };
    let send = |length: usize| {
        let packet =
            ipv4(client(1), Ipv4Addr::new(192, 0, 2, 10), 6, &tcp(4000, 80, ACK, &vec![7; length - 40]));
        let mut buffer = Buffer::new(&ethernet(0x0800, &packet), INGRESS).with_fib(way);
        let outcome = datapath::process(&mut buffer, &tables, &mut Silent);
        (outcome.reason, buffer.frame().to_vec())
    };
    assert_eq!(send(980).0, Reason::Forwarded);
    let (reason, answer) = send(981);
    assert_eq!(reason, Reason::TooBigAnswered);
    assert_eq!(answer[14 + 26..14 + 28], 980_u16.to_be_bytes());
}

/// A driver that leaves too little room in front of a frame: the packet is dropped and counted, and never cut.
#[test]
fn a_frame_without_room_in_front_is_dropped_and_counted() {
    let tables = tables();
    let segment = tcp(4000, 80, ACK, b"x");
    let v4 = |last| ethernet(0x0800, &ipv4(client(1), Ipv4Addr::new(192, 0, 2, last), 6, &segment));
    let v6 = ethernet(0x86dd, &ipv6(CLIENT6, VIP6, 6, 60, &segment));
    for (frame, needed) in [(v4(10), 20), (v4(11), 40), (v6, 40), (v4(50), 28), (v4(51), 48)] {
        for room in 0..64 {
            let slot = reason_slot(Reason::NoHeadroom);
            let before = tables.counter(slot).packets;
            let mut buffer = Buffer::new(&frame, INGRESS).with_headroom(room);
            let reason = datapath::process(&mut buffer, &tables, &mut Silent).reason;
            let fits = room >= needed;
            assert_eq!(
                reason,
                if fits { Reason::Forwarded } else { Reason::NoHeadroom },
                "{room} of {needed}"
            );
            assert_eq!(tables.counter(slot).packets - before, u64::from(!fits));
        }
    }
}

/// A limit of source prefixes is one for all addresses of a prefix, and one for each prefix.
#[test]
fn addresses_of_a_source_prefix_share_its_limit() {
    let mut text = NODE.to_owned();
    for (name, vip) in [("v4", "192.0.2.10"), ("v6", "2001:db8::10")] {
        let _ = write!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\n\
             limits = {{ per_source = {{ v4 = 24, v6 = 56, packets_per_second = 1, burst = 1 }} }}\n\
             [[service.pool]]\nname = \"p\"\nsets = [\"s\"]\ntable_size = 4093\n"
        );
    }
    let tables = ImageTables::new(golden::image(&text).unwrap());
    tables.set_now_ns(1 << 40);
    let segment = tcp(4000, 80, ACK, b"x");
    let from4 = |c, d| {
        let packet = ipv4(Ipv4Addr::new(198, 51, c, d), Ipv4Addr::new(192, 0, 2, 10), 6, &segment);
        run(&tables, &ethernet(0x0800, &packet)).0.reason
    };
    let from6 = |prefix, host| {
        let source = Ipv6Addr::new(0x2001, 0xdb8, 0xa, prefix, 0, 0, 0, host);
        let packet = ipv6(source, Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10), 6, 60, &segment);
        run(&tables, &ethernet(0x86dd, &packet)).0.reason
    };
    let (passes, refused) = (Reason::Forwarded, Reason::SourceLimited);
    assert_eq!(
        [from4(100, 1), from4(100, 1), from4(100, 2), from4(101, 1)],
        [passes, refused, refused, passes]
    );
    let got = [from6(0x100, 1), from6(0x100, 1), from6(0x1ff, 2), from6(0x200, 1)];
    assert_eq!(got, [passes, refused, refused, passes]);
}

/// A flow that its client closed stays closed, whatever packets still come: the walker forgets it soon.
#[test]
fn a_closed_flow_stays_closed() {
    let mut tables = tables();
    let west = tables.image().names.domains.iter().position(|domain| domain == "west").unwrap();
    tables.set_admission(west, Admission::new(0, 255));
    let send =
        |flags| run(&tables, &ethernet(0x0800, &ipv4(client(1), MANY, 6, &tcp(4000, 443, flags, b""))));
    let is_closing = || {
        let flows = tables.flows(FlowTable::Flows);
        assert_eq!(flows.len(), 1);
        flows[0].1.seen & FLOW_CLOSING != 0
    };
    for (flags, closing) in [(ACK, false), (FIN | ACK, true), (ACK, true)] {
        if !closing {
            send(SYN);
        }
        assert_eq!(send(flags).0.reason, Reason::Forwarded);
        assert_eq!(is_closing(), closing);
    }
}
