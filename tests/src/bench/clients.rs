//! What it costs to look the client's region up, by number of prefixes.

use super::{
    BENCH, BODY, Bench, Case, Down, EMPTY, FLOW_ENTRIES, Kernel, Kind, Measurement, configuration, golden,
    is_wanted,
};
use anyhow::{Context, Result};
use lb_common::abi::bench::spread;
use lb_userspace::{
    config::{Config, IpPrefix},
    plan::compile::{client_table_bytes, compile},
};
use std::{collections::BTreeSet, net::IpAddr, time::Instant};

/// Client regions besides the default one.
const REGIONS: usize = 8;
/// Clients of the larger cases, and the most prefixes.
const CLIENTS: usize = 1 << 20;
/// Lengths of prefixes, in turn: about as often as in the Internet's tables.
const LENGTHS_V4: [u8; 20] = [24, 24, 22, 24, 23, 24, 24, 20, 24, 24, 16, 24, 24, 22, 24, 21, 24, 23, 24, 19];
const LENGTHS_V6: [u8; 20] = [48, 32, 48, 48, 44, 48, 32, 48, 40, 48, 36, 48, 32, 48, 29, 48, 56, 48, 32, 64];
/// Builds of each table.
const BUILDS: usize = 5;

/// Measures every number of prefixes for both families.
pub(super) fn client_regions() -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    for is_ipv6 in [false, true] {
        for (count, text) in [(0, "0"), (1_000, "1k"), (CLIENTS, "1M")] {
            let name = format!("client regions, {text} prefixes, {}", if is_ipv6 { "v6" } else { "v4" });
            if !is_wanted(&name) {
                continue;
            }
            let config = with_prefixes(count, is_ipv6)?;
            let mut times = Vec::new();
            for _ in 0..BUILDS {
                let start = Instant::now();
                let bytes = client_table_bytes(&config)?;
                times.push((start.elapsed().as_secs_f64() * 1e3, bytes));
            }
            let kib = times.iter().map(|(_, bytes)| bytes.div_ceil(1024) as f64).collect();
            results.push(Measurement::of(&format!("{name}, memory"), "KiB", kib));
            let built = times.iter().map(|(time, _)| *time).collect();
            results.push(Measurement::of(&format!("{name}, built"), "ms", built));
            let image = golden::with_next_hops(compile(&config)?);
            let kernel = Kernel::load(BENCH, &[BODY, EMPTY], &image, FLOW_ENTRIES)?;
            let mut bench = Bench { kernel, next: 0 };
            for (flows, clients) in [(1, "1 client"), (CLIENTS as u32, "1M clients")] {
                let case = Case {
                    name: format!("{name}, {clients}"),
                    kind: Kind::Established,
                    flows,
                    is_ipv6,
                    down: Down::Nothing,
                    is_spread: true,
                };
                eprintln!("bench datapath: {}", case.name);
                results.push(bench.measure(&image, &case).with_context(|| case.name.clone())?.case);
            }
        }
    }
    Ok(results)
}

/// A configuration in which the first client region goes to a backend of its own, with `count` prefixes of which each holds clients.
fn with_prefixes(count: usize, is_ipv6: bool) -> Result<Config> {
    let mut text = configuration();
    let set = if is_ipv6 { "v6" } else { "v4" };
    text = text.replace(
        &format!("[[service.pool]]\nname = \"p\"\nsets = [\"{set}\"]"),
        &format!(
            "[[service.pool]]\nname = \"p\"\nsets = [\"{set}\"]\n[[service.pool]]\nname = \"q\"\nsets = [\"others\"]\n\
             [service.plan]\ndefault = [\"p\", \"q\"]\nc1 = [\"q\", \"p\"]"
        ),
    );
    let address = if is_ipv6 { "fd00::9:9:9" } else { "10.9.9.9" };
    text.push_str(&format!(
        "\n[[set]]\nname = \"others\"\ndomain = \"west\"\n\
         [[set.backend]]\nname = \"other\"\nrack = \"west/w1/r1\"\naddress = \"{address}\"\n"
    ));
    let regions: String = (1..=REGIONS).map(|n| format!("c{n} = []\n")).collect();
    let mut config = Config::parse(&format!("{text}\n[client_regions]\n{regions}"), "bench.toml")?;
    let mut seen = BTreeSet::new();
    for n in 0..count {
        let bits = spread((n * (CLIENTS / count)) as u32);
        let (address, lengths) = if is_ipv6 {
            (IpAddr::from((0x2001_u128 << 112 | u128::from(bits) << 80).to_be_bytes()), LENGTHS_V6)
        } else {
            (IpAddr::from(bits.to_be_bytes()), LENGTHS_V4)
        };
        let prefix = IpPrefix::containing(address, lengths[n % lengths.len()]);
        if seen.insert(prefix) {
            config.client_regions[1 + n % REGIONS].prefixes.push(prefix);
        }
    }
    Ok(config)
}
