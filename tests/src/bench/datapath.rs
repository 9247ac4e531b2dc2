//! Nanoseconds per packet of the edge's XDP program, by `BPF_PROG_TEST_RUN`.
//!
//! The method is DESIGN section 10's: a wrapper program writes the next flow's tuple, calls the datapath, and takes the
//! encapsulation off again, so that each of a million repeats gets a fresh packet of a real mix of flows; the same wrapper
//! around nothing is measured beside it and subtracted. Both are measured in many short pieces, in turn. Virtual machines change
//! their speed many times a second, so what counts of each is a low percentile of the pieces: the machine near its best, and not the one
//! piece during which its clock jumped. What the wrapper alone takes is a result, too, and tells how fast this machine is: on DESIGN's
//! it took 15 ns.

#[path = "clients.rs"]
mod clients;
#[path = "flows.rs"]
mod flows;

use super::Measurement;
use crate::golden::{
    self,
    kernel::{BENCH, Kernel},
    packets::{ACK, SYN, ethernet, ipv4, ipv6, tcp, udp},
};
use anyhow::{Context, Result, ensure};
use lb_common::abi::{
    admission::Admission,
    bench::{BENCH_IPV6, BENCH_SPREAD, BenchRoot},
    guard::SCOPE_ALL,
    limits::DEFAULT_OPENING_ENTRIES_PER_CPU,
    pod::Pod,
    root::{FEATURE_EMERGENCY, Root},
};
use lb_userspace::{
    config::IpPrefix,
    plan::{guard::Blocked, image::Image},
};
use std::{fmt::Write as _, net::Ipv4Addr, net::Ipv6Addr, ops::Not as _};

/// Packets that bring a case into its state: every flow at least once.
const WARM: u32 = 1_000_000;
/// Packets of one piece. The next piece goes on with the next flows, so that together they are a mix of all.
const PIECE: u32 = 100_000;
/// Pieces of the program, and as many of the wrapper, that give one value of a case.
const PIECES: usize = 12;
/// Which of them does, in percent from the fastest.
const NEAR_BEST_PERCENT: usize = 10;
/// Values of each case.
const RUNS: usize = 9;
/// Entries of the flow table: enough for every flow of a case.
const FLOW_ENTRIES: u32 = 1 << 20;
/// Entries of the table of opening flows: as on a host with two CPUs.
const OPENING_ENTRIES: u32 = 2 * DEFAULT_OPENING_ENTRIES_PER_CPU;

const BODY: &str = "weir_bench";
const EMPTY: &str = "weir_bench_empty";
/// Name of the wrapper alone in results.
const WRAPPER: &str = "wrapper alone, subtracted from all";

const VIP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Of the service whose flows are at home in zone w1, and in zone w2 when that is drained.
const VIP_TWO_POOLS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 20);
const VIP6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
const VIP_GUE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 11);
/// The zone that fails or is drained.
const ZONE: &str = "west/w1";
const STRANGER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 99);

/// What the packets are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Established,
    Gue,
    Syn,
    Udp,
    NotVip,
    /// A TCP packet to a service whose flows are away from home when zone w1 is drained.
    TwoPools {
        /// Whether it opens a flow.
        syn: bool,
    },
    /// An established TCP packet to a service with protection, at this port.
    Guarded(u16),
}

/// What is down meanwhile.
#[derive(Clone, Copy)]
enum Down {
    Nothing,
    Domain(&'static str),
    /// Zone [`ZONE`] is drained, which the image says.
    Drained,
    /// Nothing is down, but an emergency switch is on that blocks somebody else.
    Emergency,
}

struct Case {
    name: String,
    kind: Kind,
    flows: u32,
    is_ipv6: bool,
    down: Down,
    /// Whether clients are spread over the whole address space.
    is_spread: bool,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut add = |name: &str, kind, flows, is_ipv6, down| {
        cases.push(Case { name: name.to_owned(), kind, flows, is_ipv6, down, is_spread: false });
    };
    let sweep = [(1, "1 flow"), (1 << 10, "1K flows"), (1 << 16, "64K flows"), (1 << 20, "1M flows")];
    for (flows, text) in sweep {
        add(&format!("established home, {text}"), Kind::Established, flows, false, Down::Nothing);
    }
    for (flows, text) in [sweep[0], sweep[3]] {
        add(&format!("established home, {text}, ipv6"), Kind::Established, flows, true, Down::Nothing);
    }
    for (flows, text) in [sweep[0], sweep[3]] {
        let (rack, zone) = (Down::Domain("west/w1/r1"), Down::Domain(ZONE));
        add(&format!("established home, {text}, rack down"), Kind::Established, flows, false, rack);
        add(&format!("established home, {text}, zone down"), Kind::Established, flows, false, zone);
        add(&format!("established home, {text}, ipv6, rack down"), Kind::Established, flows, true, rack);
        add(&format!("established home, {text}, ipv6, zone down"), Kind::Established, flows, true, zone);
    }
    add("established home, 1 flow, gue", Kind::Gue, 1, false, Down::Nothing);
    add("established home, 1M flows, gue", Kind::Gue, 1 << 20, false, Down::Nothing);
    add("syn home, 1M flows", Kind::Syn, 1 << 20, false, Down::Nothing);
    add("udp home, 1M flows", Kind::Udp, 1 << 20, false, Down::Nothing);
    for (port, text) in GUARDED {
        let name = format!("established home, 1M flows, {text}");
        add(&name, Kind::Guarded(port), 1 << 20, false, Down::Nothing);
    }
    add(
        "established home, 1M flows, emergency block of others",
        Kind::Established,
        1 << 20,
        false,
        Down::Emergency,
    );
    add("non-vip pass", Kind::NotVip, 1 << 20, false, Down::Nothing);
    cases
}

/// Services with protection: their ports, and what they have.
const GUARDED: [(u16, &str); 3] = [(81, "access list of 1,000"), (82, "service limit"), (83, "source limit")];

/// The protection of the services at [`GUARDED`], none of which refuses anything.
fn protection(port: u16) -> String {
    let limit = "packets_per_second = 100000000, burst = 100000000";
    match port {
        81 => {
            let denied: Vec<_> =
                (0..1_000).map(|i| format!("\"172.{}.{}.0/24\"", 16 + i / 256, i % 256)).collect();
            format!("access = {{ deny = [{}] }}\n", denied.join(", "))
        }
        82 => format!("limits = {{ {limit} }}\n"),
        83 => format!("limits = {{ per_source = {{ {limit} }} }}\n"),
        _ => String::new(),
    }
}

/// A hundred backends in ten racks of two zones.
fn configuration() -> String {
    let mut text = String::from(
        "[node]\nname = \"bench\"\nregion = \"west\"\ninterfaces = [\"eth0\"]\n\
         hash_key = \"000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n\
         tunnel_source_v4 = \"10.255.0.0/16\"\ntunnel_source_v6 = \"fd00:ff::/64\"\n\
         [topology.west]\nw1 = [\"r1\", \"r2\", \"r3\", \"r4\", \"r5\"]\nw2 = [\"r1\", \"r2\", \"r3\", \"r4\", \"r5\"]\n",
    );
    for (set, prefix) in [("v4", "10."), ("v6", "fd00::")] {
        let _ = writeln!(text, "[[set]]\nname = \"{set}\"\ndomain = \"west\"");
        for backend in 0..100 {
            let (zone, rack, host) = (1 + backend / 50, 1 + backend / 10 % 5, 1 + backend % 10);
            let address = if set == "v4" {
                format!("{prefix}{zone}.{rack}.{host}")
            } else {
                format!("{prefix}{zone}:{rack}:{host}")
            };
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"{set}-{backend}\"\nrack = \"west/w{zone}/r{rack}\"\naddress = \"{address}\""
            );
        }
    }
    for (name, vip, port, protocol, set, forwarding) in [
        ("tcp", "192.0.2.10", 80, "tcp", "v4", "ipip"),
        ("tcp-access", "192.0.2.10", 81, "tcp", "v4", "ipip"),
        ("tcp-limit", "192.0.2.10", 82, "tcp", "v4", "ipip"),
        ("tcp-source", "192.0.2.10", 83, "tcp", "v4", "ipip"),
        ("udp", "192.0.2.10", 80, "udp", "v4", "ipip"),
        ("tcp6", "2001:db8::10", 80, "tcp", "v6", "ipip"),
        ("gue", "192.0.2.11", 80, "tcp", "v4", "gue"),
    ] {
        let protection = protection(port);
        let _ = writeln!(
            text,
            "[[service]]\nname = \"{name}\"\naddress = \"{vip}\"\nport = {port}\nprotocol = \"{protocol}\"\n\
             forwarding = \"{forwarding}\"\n{protection}[[service.pool]]\nname = \"p\"\nsets = [\"{set}\"]"
        );
    }
    text
}

/// Measures every case.
///
/// # Errors
/// What the kernel says.
pub fn datapath() -> Result<Vec<Measurement>> {
    let mut image = golden::image(&configuration())?;
    // Looked at only by the case that has an emergency.
    image.guards.node.blocks_until = u32::MAX;
    let prefix = IpPrefix::parse("203.0.113.0/24").ok().context("a prefix")?;
    image.guards.blocked.push(Blocked { prefix, scope: SCOPE_ALL, until: u32::MAX });
    let kernel = Kernel::load_with(BENCH, &[BODY, EMPTY], &image, (FLOW_ENTRIES, OPENING_ENTRIES))?;
    let mut bench = Bench { kernel, next: 0 };
    let mut results = Vec::new();
    for case in cases().into_iter().filter(|case| is_wanted(&case.name)) {
        eprintln!("bench datapath: {}", case.name);
        let measured = bench.measure(&image, &case).with_context(|| case.name.clone())?;
        if results.is_empty() {
            results.push(measured.wrapper);
        }
        results.push(measured.case);
    }
    let (verified, jited) = bench.kernel.size(BODY)?;
    results.push(Measurement::of("verifier, instructions walked", "instructions", vec![f64::from(verified)]));
    results.push(Measurement::of("machine code with wrapper", "bytes", vec![f64::from(jited)]));
    drop(bench);
    results.extend(flows::flows()?);
    results.extend(clients::client_regions()?);
    Ok(results)
}

/// Whether a case is to be measured: all are, unless `WEIR_BENCH_CASES` has a part of the names of those that are.
fn is_wanted(name: &str) -> bool {
    std::env::var("WEIR_BENCH_CASES").is_ok_and(|part| !name.contains(&part)).not()
}

/// What a case took, and the wrapper alone beside it.
struct Measured {
    case: Measurement,
    wrapper: Measurement,
}

struct Bench {
    kernel: Kernel,
    /// Number of the next packet.
    next: u32,
}

impl Bench {
    /// Brings the data plane into a case's state, and runs every flow of it once: that fills caches and, where flows are
    /// remembered, the tables of flows. Returns the frame.
    fn warm(&mut self, image: &Image, case: &Case) -> Result<Vec<u8>> {
        let mut words = image.admission.clone();
        let changed = match case.down {
            Down::Domain(path) => Some((path, Admission::CLOSED)),
            // The image says so already, with what follows from it.
            Down::Drained | Down::Nothing | Down::Emergency => None,
        };
        if let Some((path, word)) = changed {
            let index = image.names.domains.iter().position(|d| d == path).context("domain")?;
            words[index] = word;
        }
        self.kernel.set_admissions(&words)?;
        let mut root: Root = self.kernel.get::<Root, 256>("ROOT", 0)?;
        root.features = match case.down {
            Down::Emergency => root.features | FEATURE_EMERGENCY,
            _ => root.features & !FEATURE_EMERGENCY,
        };
        self.kernel.set("ROOT", 0, &root)?;
        let frame = frame(case);
        self.run(BODY, case, &frame, WARM.max(case.flows))?;
        Ok(frame)
    }

    fn measure(&mut self, image: &Image, case: &Case) -> Result<Measured> {
        let frame = self.warm(image, case)?;
        let (mut values, mut wrappers) = (Vec::new(), Vec::new());
        for _ in 0..RUNS {
            let (mut bodies, mut empties) = (Vec::new(), Vec::new());
            for _ in 0..PIECES {
                empties.push(self.run(EMPTY, case, &frame, PIECE)?);
                bodies.push(self.run(BODY, case, &frame, PIECE)?);
                self.next = self.next.wrapping_add(PIECE);
            }
            let (body, empty) = (near_best(bodies), near_best(empties));
            values.push(body.saturating_sub(empty) as f64);
            wrappers.push(empty as f64);
        }
        let (case, wrapper) =
            (Measurement::of(&case.name, "ns", values), Measurement::of(WRAPPER, "ns", wrappers));
        eprintln!(
            "    {} ns, {} to {}, beside {} of the wrapper",
            case.value, case.min, case.max, wrapper.value
        );
        Ok(Measured { case, wrapper })
    }

    /// Nanoseconds a packet.
    fn run(&mut self, program: &str, case: &Case, frame: &[u8], repeat: u32) -> Result<u64> {
        let mut ethernet = [0; 14];
        ethernet.copy_from_slice(&frame[..14]);
        let next = self.next;
        let root = BenchRoot {
            next,
            flow_mask: case.flows - 1,
            flags: if case.is_ipv6 { BENCH_IPV6 } else { 0 } | if case.is_spread { BENCH_SPREAD } else { 0 },
            outer_length: match (case.kind, case.is_ipv6) {
                (Kind::Gue, _) => 28,
                (_, false) => 20,
                (_, true) => 40,
            },
            ethernet,
            ..BenchRoot::zeroed()
        };
        self.kernel.set("BENCH", 0, &root)?;
        let time = self.kernel.time(program, frame, repeat)?;
        let left: BenchRoot = self.kernel.get::<BenchRoot, 40>("BENCH", 0)?;
        ensure!(left.unexpected == 0, "{} packets were neither sent on nor passed", left.unexpected);
        let packets = left.next.wrapping_sub(next);
        ensure!(packets == repeat, "{packets} packets instead of {repeat}");
        Ok(time.as_nanos() as u64)
    }
}

/// The piece that so many percent are faster than.
fn near_best(mut pieces: Vec<u64>) -> u64 {
    pieces.sort_unstable();
    pieces[pieces.len() * NEAR_BEST_PERCENT / 100]
}

/// A frame of 64 bytes or as short as its headers allow.
fn frame(case: &Case) -> Vec<u8> {
    let client = Ipv4Addr::new(10, 0, 0, 1);
    let client6 = Ipv6Addr::new(0x2001, 0xdb8, 0xa, 0, 0, 0, 0, 1);
    let flags = if matches!(case.kind, Kind::Syn | Kind::TwoPools { syn: true }) { SYN } else { ACK };
    let vip = if matches!(case.kind, Kind::TwoPools { .. }) { VIP_TWO_POOLS } else { VIP };
    let port = if let Kind::Guarded(port) = case.kind { port } else { 80 };
    let segment = tcp(0x8000, port, flags, &[0; 6]);
    match (case.kind, case.is_ipv6) {
        (Kind::NotVip, _) => ethernet(0x0800, &ipv4(client, STRANGER, 6, &segment)),
        (Kind::Gue, _) => ethernet(0x0800, &ipv4(client, VIP_GUE, 6, &segment)),
        (Kind::Udp, _) => ethernet(0x0800, &ipv4(client, VIP, 17, &udp(0x8000, 80, &[0; 18]))),
        (_, false) => ethernet(0x0800, &ipv4(client, vip, 6, &segment)),
        (_, true) => ethernet(0x86dd, &ipv6(client6, VIP6, 6, 64, &segment)),
    }
}
