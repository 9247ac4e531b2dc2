//! How much a configuration describes, for `weir check`.

use std::collections::HashSet;
use std::fmt;

use serde::Serialize;

use super::domains::Level;
use super::error::counted;
use super::ids::SetId;
use super::model::{Config, Service, SetShare};

/// Counts of what a configuration describes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// Regions of the topology.
    pub regions: usize,
    /// Zones of the topology.
    pub zones: usize,
    /// Racks of the topology.
    pub racks: usize,
    /// Client regions, `default` included.
    pub client_regions: usize,
    /// Prefixes of all client regions.
    pub client_prefixes: usize,
    /// Checks.
    pub checks: usize,
    /// Sets.
    pub sets: usize,
    /// Backends of all sets.
    pub backends: usize,
    /// Services.
    pub services: usize,
    /// Pools of all services.
    pub pools: usize,
    /// Memory of all tables, in bytes: two per slot. Pools with the same sets and table size share a table.
    pub table_bytes: u64,
    /// Answers a second that each CPU gives at most, and as many once more to neighbours.
    pub answers_per_second: u32,
}

/// Counts what `config` describes.
#[must_use]
pub fn summary(config: &Config) -> Summary {
    let at = |level| config.topology.domains.iter().filter(|domain| domain.level == level).count();
    let pools = || config.services.iter().flat_map(|service| &service.pools);
    Summary {
        regions: at(Level::Region),
        zones: at(Level::Zone),
        racks: at(Level::Rack),
        client_regions: config.client_regions.len(),
        client_prefixes: config.client_regions.iter().map(|region| region.prefixes.len()).sum(),
        checks: config.checks.len(),
        sets: config.sets.len(),
        backends: config.backends.len(),
        services: config.services.len(),
        pools: pools().count(),
        table_bytes: table_slots(&config.services) * 2,
        answers_per_second: config.node.answers_per_second,
    }
}

/// Slots of all tables; pools with the same sets and table size share a table.
pub(super) fn table_slots<'s>(services: impl IntoIterator<Item = &'s Service>) -> u64 {
    let pools = services.into_iter().flat_map(|service| &service.pools);
    let tables: HashSet<(&[SetId], Option<SetShare>, u32)> =
        pools.map(|pool| (pool.sets.as_slice(), pool.canary, pool.table_size)).collect();
    tables.into_iter().map(|(.., slots)| u64::from(slots)).sum()
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { regions, zones, racks, .. } = *self;
        writeln!(
            f,
            "{}, {}, {}",
            counted(regions, "region"),
            counted(zones, "zone"),
            counted(racks, "rack")
        )?;
        let Self { client_regions, client_prefixes, .. } = *self;
        let prefixes =
            if client_prefixes == 1 { "1 prefix".to_owned() } else { format!("{client_prefixes} prefixes") };
        writeln!(f, "{} with {prefixes}", counted(client_regions, "client region"))?;
        let Self { checks, sets, backends, .. } = *self;
        writeln!(
            f,
            "{}, {}, {}",
            counted(checks, "check"),
            counted(sets, "set"),
            counted(backends, "backend")
        )?;
        let Self { services, pools, table_bytes, .. } = *self;
        let kib = table_bytes.div_ceil(1024);
        writeln!(f, "{}, {}, {kib} KiB of tables", counted(services, "service"), counted(pools, "pool"))?;
        write!(f, "{} answers a second on each CPU", self.answers_per_second)
    }
}
