//! Flows away from home, and data planes of different sizes.

use super::{BODY, Bench, Case, Down, EMPTY, Kind, Measurement, VIP, VIP_TWO_POOLS, ZONE, is_wanted};
use crate::golden::{
    self,
    kernel::{BENCH, Kernel},
};
use anyhow::{Context, Result};
use lb_common::abi::{admission::Admission, service::SERVICE_STEERED};
use lb_userspace::{
    config::Config,
    plan::{
        compile::compile,
        facts::Cell,
        image::Image,
        steering::{
            Layout,
            health::{course, weigh_all},
        },
    },
};
use std::{fmt::Write as _, net::Ipv4Addr};

/// Entries of the tables of flows, of which one CPU has its part: on two CPUs enough for every flow of a case.
const MANY_FLOWS: u32 = 1 << 21;
/// Entries of the tables of flows by default: far fewer than a flood has flows.
const FEW_FLOWS: u32 = 1 << 16;

/// A data plane.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Setup {
    services: usize,
    backends: usize,
    flow_entries: u32,
}

const USUAL: Setup = Setup { services: 1, backends: 100, flow_entries: FEW_FLOWS };

/// An image with zone w1 drained, as it stands when the daemon has stored what that means for plans: who finds his first slot shut goes on
/// to the next pool at once.
pub(super) fn drained(image: &Image, config: &Config) -> Result<Image> {
    let mut image = image.clone();
    let zone = image.names.domains.iter().position(|domain| domain == ZONE).context("no zone to drain")?;
    image.admission[zone] = Admission::new(0, 255);
    let layout = Layout::new(config);
    let word = |cell: Cell| match (cell, cell.admission_index()) {
        (Cell::Backend(id), _) => image.backends[id.index()].admission,
        (_, index) => index.and_then(|index| image.admission.get(index)).copied().unwrap_or(Admission::OPEN),
    };
    let weights = weigh_all(&layout, &word);
    let courses: Vec<_> = layout.plans.iter().map(|plan| course(plan, &weights)).collect();
    for (plan, course) in layout.plans.iter().zip(courses) {
        let leaves = course.leaves();
        let service = &mut image.services[plan.service.index()];
        image.plans[service.plan_base as usize + plan.number].leaves = leaves;
        if leaves.iter().any(|&share| share > 0) {
            service.flags |= SERVICE_STEERED;
        }
    }
    Ok(image)
}

/// Measures flows away from home, and other numbers of services and backends.
///
/// # Errors
/// As for [`datapath`](super::datapath).
pub(super) fn flows() -> Result<Vec<Measurement>> {
    let case = |name: &str, kind, down| Case {
        name: name.to_owned(),
        kind,
        flows: 1 << 20,
        is_ipv6: false,
        down,
        is_spread: false,
    };
    let established =
        |text: &str| case(&format!("established home, 1M flows, {text}"), Kind::Established, Down::Nothing);
    // The dearest opening packets: all are away from home, so that each must be remembered, in the place of another.
    let flood = case("syn flood", Kind::TwoPools { syn: true }, Down::Drained);
    let hit = case("flow table hit, 1M flows", Kind::TwoPools { syn: false }, Down::Drained);
    let all = [
        (USUAL, flood),
        (Setup { flow_entries: MANY_FLOWS, ..USUAL }, hit),
        (Setup { services: 100, ..USUAL }, established("100 services")),
        (Setup { services: 10_000, ..USUAL }, established("10K services")),
        (Setup { backends: 1, ..USUAL }, established("1 backend")),
        (Setup { backends: 10_000, ..USUAL }, established("10K backends")),
    ];
    let mut results = Vec::new();
    for (setup, case) in all {
        if !is_wanted(&case.name) {
            continue;
        }
        eprintln!("bench datapath: {}", case.name);
        let config = Config::parse(&configuration(setup), "bench.toml")?;
        let mut image = golden::with_next_hops(compile(&config)?);
        if matches!(case.down, Down::Drained) {
            image = drained(&image, &config)?;
        }
        let kernel = Kernel::load(BENCH, &[BODY, EMPTY], &image, setup.flow_entries)?;
        let mut bench = Bench { kernel, next: 0 };
        if setup.flow_entries == MANY_FLOWS {
            // Every flow opens first.
            let opening = Case { kind: Kind::TwoPools { syn: true }, name: case.name.clone(), ..case };
            bench.warm(&image, &opening)?;
        }
        results.push(bench.measure(&image, &case).with_context(|| case.name.clone())?.case);
    }
    Ok(results)
}

/// Backends in ten racks of two zones, and services that share them.
fn configuration(setup: Setup) -> String {
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
                "v4" => format!("10.1.{high}.{low}"),
                "near" => format!("10.2.{high}.{low}"),
                "far" => format!("10.9.{high}.{low}"),
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
    service("two", &VIP_TWO_POOLS.to_string(), "tcp", &["near", "far"]);
    for number in 1..setup.services {
        let vip = Ipv4Addr::new(203, 0, (number / 250) as u8, (number % 250) as u8);
        service(&format!("more{number}"), &vip.to_string(), "tcp", &["v4"]);
    }
    text
}
