//! What is measured: data planes of different sizes, and packets.

use crate::golden::packets::{ACK, SYN, ethernet, ipv4, ipv6, tcp, udp};
use std::{
    fmt::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Of the service whose flows are at home in zone w1, and in zone w2 when that is drained.
const VIP_TWO_POOLS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

/// Entries of the tables of flows, of which one CPU has its part: on two CPUs enough for every flow of a case.
const MANY_FLOWS: u32 = 1 << 21;
/// Entries of the tables of flows by default: far fewer than a flood has flows.
const FEW_FLOWS: u32 = 1 << 16;

/// What the packets are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Established,
    Syn,
    Udp,
    NotVip,
}

/// How the words stand meanwhile.
#[derive(Clone, Copy)]
pub(super) enum State {
    /// Everything is open.
    Open,
    /// A domain is down.
    Down(&'static str),
    /// Zone w1 is drained: new flows of [`VIP_TWO_POOLS`] open away from home.
    Drained,
}

/// A data plane.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Setup {
    services: usize,
    backends: usize,
    pub(super) flow_entries: u32,
}

/// One line of the result.
pub(super) struct Case {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) flows: u32,
    pub(super) is_ipv6: bool,
    pub(super) state: State,
    /// To the service whose flows are away from home when zone w1 is drained.
    two_pools: bool,
    /// Whether each flow opens before it is measured.
    pub(super) opened: bool,
}

const USUAL: Setup = Setup { services: 1, backends: 100, flow_entries: FEW_FLOWS };

/// All cases by data plane, the usual one first.
pub(super) fn all() -> Vec<(Setup, Vec<Case>)> {
    let mut all =
        vec![(USUAL, usual()), (Setup { flow_entries: MANY_FLOWS, ..USUAL }, vec![flow_table_hit()])];
    let established = |name: String| Case { name, ..case("", Kind::Established, 1 << 20) };
    for (services, text) in [(100, "100 services"), (10_000, "10K services")] {
        all.push((
            Setup { services, ..USUAL },
            vec![established(format!("established home, 1M flows, {text}"))],
        ));
    }
    for (backends, text) in [(1, "1 backend"), (10_000, "10K backends")] {
        all.push((
            Setup { backends, ..USUAL },
            vec![established(format!("established home, 1M flows, {text}"))],
        ));
    }
    all
}

fn case(name: &str, kind: Kind, flows: u32) -> Case {
    let name = name.to_owned();
    Case { name, kind, flows, is_ipv6: false, state: State::Open, two_pools: false, opened: false }
}

fn usual() -> Vec<Case> {
    let mut cases = Vec::new();
    let sweep = [(1, "1 flow"), (1 << 10, "1K flows"), (1 << 16, "64K flows"), (1 << 20, "1M flows")];
    for (flows, text) in sweep {
        cases.push(case(&format!("established home, {text}"), Kind::Established, flows));
    }
    let states = [
        ("", State::Open),
        (", rack down", State::Down("west/w1/r1")),
        (", zone down", State::Down("west/w1")),
    ];
    for (flows, text) in [sweep[0], sweep[3]] {
        for is_ipv6 in [false, true] {
            for (what, state) in states {
                let family = if is_ipv6 { ", ipv6" } else { "" };
                let name = format!("established home, {text}{family}{what}");
                // That of IPv4 with everything open stands above.
                if is_ipv6 || !what.is_empty() {
                    cases.push(Case { is_ipv6, state, ..case(&name, Kind::Established, flows) });
                }
            }
        }
    }
    cases.push(case("syn home, 1M flows", Kind::Syn, 1 << 20));
    cases.push(case("udp home, 1M flows", Kind::Udp, 1 << 20));
    cases.push(syn_flood());
    cases.push(case("non-vip pass", Kind::NotVip, 1 << 20));
    cases
}

fn flow_table_hit() -> Case {
    Case {
        state: State::Drained,
        two_pools: true,
        opened: true,
        ..case("flow table hit, 1M flows", Kind::Established, 1 << 20)
    }
}

/// The dearest one: every packet opens a flow that must be remembered, and none is left of what its last round left.
fn syn_flood() -> Case {
    Case { state: State::Drained, two_pools: true, ..case("syn flood", Kind::Syn, 1 << 20) }
}

/// Backends in ten racks of two zones, and services that share them.
pub(super) fn configuration(setup: Setup) -> String {
    let mut text = String::from(
        "[node]\nname = \"bench\"\nregion = \"west\"\ninterfaces = [\"eth0\"]\n\
         hash_key = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n\
         tunnel_source_v4 = \"10.255.0.0/16\"\ntunnel_source_v6 = \"fd00:ff::/64\"\n\
         [topology.west]\nw1 = [\"r1\", \"r2\", \"r3\", \"r4\", \"r5\"]\nw2 = [\"r1\", \"r2\", \"r3\", \"r4\", \"r5\"]\n",
    );
    for (set, domain, count) in
        [("v4", "west", setup.backends), ("v6", "west", 100), ("near", "west/w1", 10), ("far", "west/w2", 10)]
    {
        let _ = writeln!(text, "[[set]]\nname = \"{set}\"\ndomain = \"{domain}\"");
        for backend in 0..count {
            let (zone, rack) = match set {
                "near" => (1, 1),
                "far" => (2, 1),
                _ => (1 + backend * 2 / count, 1 + backend * 10 / count % 5),
            };
            let (high, low) = (backend / 250, backend % 250 + 1);
            let address = match set {
                "v6" => format!("fd00::{zone}:{rack}:{:x}", backend + 1),
                "v4" => format!("10.1.{high}.{low}"),
                "near" => format!("10.2.{high}.{low}"),
                _ => format!("10.3.{high}.{low}"),
            };
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"{set}-{backend}\"\nrack = \"west/w{zone}/r{rack}\"\naddress = \"{address}\""
            );
        }
    }
    let mut service = |name: &str, vip: &str, protocol: &str, sets: &[&str]| {
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = 80\nprotocol = \"{protocol}\""
        );
        for set in sets {
            let _ = writeln!(text, "[[service.pool]]\nname = \"{set}\"\nsets = [\"{set}\"]");
        }
        let order: Vec<_> = sets.iter().map(|set| format!("\"{set}\"")).collect();
        let _ = writeln!(text, "[service.plan]\ndefault = [{}]", order.join(", "));
    };
    service("tcp", &VIP.to_string(), "tcp", &["v4"]);
    service("udp", &VIP.to_string(), "udp", &["v4"]);
    service("tcp6", &VIP6.to_string(), "tcp", &["v6"]);
    service("two", &VIP_TWO_POOLS.to_string(), "tcp", &["near", "far"]);
    for number in 1..setup.services {
        let vip = Ipv4Addr::new(203, 0, (number / 250) as u8, (number % 250) as u8);
        service(&format!("more{number}"), &vip.to_string(), "tcp", &["v4"]);
    }
    text
}

/// A frame of 64 bytes or as short as its headers allow.
pub(super) fn frame(case: &Case, kind: Kind) -> Vec<u8> {
    let client = Ipv4Addr::new(10, 0, 0, 1);
    let client6 = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
    let flags = if kind == Kind::Syn { SYN } else { ACK };
    let segment = tcp(0x8000, 80, flags, &[0; 6]);
    let vip = if case.two_pools { VIP_TWO_POOLS } else { VIP };
    match (kind, case.is_ipv6) {
        (Kind::NotVip, _) => ethernet(0x0800, &ipv4(client, STRANGER, 6, &segment)),
        (Kind::Udp, _) => ethernet(0x0800, &ipv4(client, VIP, 17, &udp(0x8000, 80, &[0; 18]))),
        (_, false) => ethernet(0x0800, &ipv4(client, vip, 6, &segment)),
        (_, true) => ethernet(0x86dd, &ipv6(client6, VIP6, 6, 64, &segment)),
    }
}
