//! How much memory the edge's maps take, before there are any. For `weir check`.

use std::fmt;

use lb_common::abi::limits::flow_filter_bytes;
use serde::Serialize;

use super::generation::{BLOCKED, FLOWS, OPENINGS, map_bytes, map_sizes};
use crate::config::Config;
use crate::plan::compile::{CompileError, compile};

/// Memory of the maps of one generation, in bytes, as full as they may get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// CPUs that the host may have.
    pub cpus: u32,
    /// Flows away from home that are remembered.
    pub flow_entries: u32,
    /// Flows that opened away from home, and sent nothing more, that are remembered.
    pub opening_entries: u32,
    /// Slots of all pools' tables.
    pub tables: u64,
    /// Both tables of flows.
    pub flows: u64,
    /// The flow filter.
    pub flow_filter: u64,
    /// Prefixes: of client regions, of access lists, and VIPs that are prefixes.
    pub prefixes: u64,
    /// Counters of all CPUs.
    pub counters: u64,
    /// Guards with their limits, and blocked prefixes.
    pub guards: u64,
    /// Services, plans, pools and backends.
    pub entries: u64,
    /// The rest: fragments, QUIC server ids and what is of a fixed size.
    pub other: u64,
    /// All of these.
    pub total: u64,
}

/// The memory that a configuration takes on a host with so many CPUs.
///
/// # Errors
/// [`CompileError`] when it cannot be put into the data plane.
pub fn memory(config: &Config, cpus: u32) -> Result<Memory, CompileError> {
    let mut image = compile(config)?;
    let (flow_entries, opening_entries) = config.node.entries(cpus);
    image.root.counter_cpus = cpus;
    image.root.flow_filter_mask = flow_filter_bytes(flow_entries) as u32 - 1;
    let mut memory = Memory { cpus, flow_entries, opening_entries, ..Memory::default() };
    for (name, bytes) in map_bytes(&map_sizes(&image, flow_entries, opening_entries)) {
        *memory.of(name) += bytes;
        memory.total += bytes;
    }
    Ok(memory)
}

impl Memory {
    fn of(&mut self, map: &str) -> &mut u64 {
        match map {
            "SLOTS" => &mut self.tables,
            FLOWS | OPENINGS => &mut self.flows,
            "FLOW_FILTER" => &mut self.flow_filter,
            "PREFIX_TABLES" | "PREFIX_ENTRIES" | "PREFIX_NODES" | "PREFIX_VALUES" => &mut self.prefixes,
            "COUNTERS" | "GUARD_COUNTS" => &mut self.counters,
            "GUARDS" | "NODE_GUARD" | "BUCKETS" | BLOCKED => &mut self.guards,
            "SERVICE_INDEX" | "SERVICES" | "PORT_RANGES" | "PLANS" | "POOLS" | "PREVIOUS" | "BACKENDS" => {
                &mut self.entries
            }
            _ => &mut self.other,
        }
    }
}

impl fmt::Display for Memory {
    /// One line for each, without a line break at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cpus, flow_entries, opening_entries, .. } = self;
        writeln!(f, "memory of the data plane on {cpus} CPUs, in KiB:")?;
        let flows = format!("flows away from home, {flow_entries} and {opening_entries} opening");
        for (what, bytes) in [
            ("tables", self.tables),
            (&flows, self.flows),
            ("flow filter", self.flow_filter),
            ("prefixes of clients, access lists and VIPs", self.prefixes),
            ("counters", self.counters),
            ("guards and limits", self.guards),
            ("services, plans, pools, backends", self.entries),
            ("fragments and the rest", self.other),
            ("in all; a reload takes all but flows and counters once more", self.total),
        ] {
            let end = if what.starts_with("in all") { "" } else { "\n" };
            write!(f, "{:>10}  {what}{end}", bytes.div_ceil(1024))?;
        }
        Ok(())
    }
}
