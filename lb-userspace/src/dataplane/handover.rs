//! What a generation hands on to the next one: the tables of flows with their filter, the counters, and what happened to words
//! in the last moment.

use std::io;

use lb_common::abi::admission::Admission;
use lb_common::abi::backend::BackendEntry;
use lb_common::abi::counter::{backend_slot, reason_slot, service_slot};
use lb_common::abi::pod::Pod;
use lb_common::abi::reason::Reason;
use lb_common::abi::root::Root;
use lb_common::abi::service::{SERVICE_SPILLS, ServiceEntry};

use super::counters::{add, sum};
use super::flow_tables;
use super::generation::{FLOWS, Generation, OPENINGS};
use super::opening_table::Openings;
use crate::plan::image::Image;
use crate::runtime::clock::monotonic_ns;

const FILTER: &str = "FLOW_FILTER";
const COUNTERS: &str = "COUNTERS";

/// Whether a table of flows has so many entries. The kernel rounds up to a multiple of the CPUs.
pub(super) fn is_of_size(running: &Generation, table: &str, wanted: u32) -> bool {
    let found = running.entries(table).unwrap_or(0);
    found >= wanted && found - wanted < running.root().counter_cpus.max(1)
}

/// Names of the maps that go on as they are.
pub(super) fn names(running: &Generation, image: &Image, sizes: &[(&'static str, u32)]) -> Vec<&'static str> {
    let root = running.root();
    let same = |name: &str, wanted: u32| match name {
        FLOWS => is_of_size(running, name, wanted),
        // The flow hash says where in these what of a flow stands.
        OPENINGS => root.hash_key == image.root.hash_key && running.entries(name) == Some(wanted),
        FILTER => {
            root.hash_key == image.root.hash_key && root.flow_filter_mask == image.root.flow_filter_mask
        }
        COUNTERS => {
            let layout = |root: &Root| (root.counter_cpus, root.counter_services, root.counter_stride);
            layout(&root) == layout(&image.root) && running.entries(name) == Some(wanted)
        }
        _ => false,
    };
    sizes.iter().filter(|&&(name, size)| same(name, size)).map(|&(name, _)| name).collect()
}

/// Copies what cannot go on as it is, because it has another size now.
///
/// # Errors
/// What the kernel says.
pub(super) fn copy(
    running: &Generation,
    next: &Generation,
    root: &mut Root,
    handed: &[&'static str],
) -> io::Result<()> {
    if !handed.contains(&FLOWS) {
        flow_tables::copy(running.fd(FLOWS), next.fd(FLOWS))?;
    }
    if !handed.contains(&OPENINGS) {
        Openings::with_root(next, root).copy(&Openings::of(running), monotonic_ns());
    }
    if handed.contains(&FILTER) {
        root.flow_filter_epoch = running.root().flow_filter_epoch;
    } else {
        // Everything may be there, until the next walk says what is.
        let byte = root.flow_filter_epoch as u8;
        for index in 0..next.filter.len() {
            let _ = next.filter.write(index, &u16::from_ne_bytes([byte; 2]));
        }
    }
    if !handed.contains(&COUNTERS) {
        carry_counters(running, next, root);
    }
    Ok(())
}

/// Writes what was counted so far into the daemon's block of the next generation.
fn carry_counters(running: &Generation, next: &Generation, root: &Root) {
    let old = running.root();
    let carry = |from: u32, to: u32| {
        let total = sum(running, from, old.counter_stride, old.counter_cpus);
        let _ = next.counters.write((root.counter_cpus * root.counter_stride + to) as usize, &total);
    };
    // Reasons and notes lie before the first service.
    (0..service_slot(0)).for_each(|slot| carry(slot, slot));
    let services = old.counter_services.min(root.counter_services);
    (0..services).for_each(|service| carry(service_slot(service), service_slot(service)));
    for backend in 0..running.backends.len() as u32 {
        carry(backend_slot(old.counter_services, backend), backend_slot(root.counter_services, backend));
    }
}

/// Takes the next generation's word of a backend for not clean where any word on the way to it is not clean in what runs: since
/// the next one was filled, something may have been down.
pub(super) fn keep_unclean(running: &Generation, next: &Generation) {
    let at = std::mem::offset_of!(BackendEntry, admission);
    for (index, entry) in running.backends.read_all(running.backends.len()).iter().enumerate() {
        let above = [entry.rack, entry.zone, entry.region];
        let words = above.map(|domain| running.admission.read(usize::from(domain)));
        if !entry.admission.is_clean() || words.iter().flatten().any(|word| !word.is_clean()) {
            let _ = next.backends.clear_bits(index, at, Admission::CLEAN);
        }
    }
}

/// Lets the next generation look into the flow table for services that spilled since it was filled.
pub(super) fn keep_spilling(running: &Generation, next: &Generation) {
    let at = std::mem::offset_of!(ServiceEntry, flags);
    for index in 0..running.services.len() {
        let flags = running.services.load_u32(index, at).unwrap_or(0);
        // An index means one service for as long as it is configured.
        if flags & SERVICE_SPILLS != 0 {
            let _ = next.services.update_u32(index, at, |flags| flags | SERVICE_SPILLS);
        }
    }
}

/// What is left to do once the next generation is in place. What fails is told in the log: forwarding goes on.
pub(super) fn finish(before: &Generation, now: &Generation) {
    keep_unclean(before, now);
    keep_spilling(before, now);
    if !now.shares(before, FLOWS)
        && let Err(error) = flow_tables::copy(before.fd(FLOWS), now.fd(FLOWS))
    {
        tracing::error!(%error, "flows that came during the switch were not copied");
    }
    if !now.shares(before, OPENINGS) {
        Openings::of(now).copy(&Openings::of(before), monotonic_ns());
    }
    if !now.shares(before, COUNTERS) {
        carry_counters(before, now, &now.root());
    }
    give_up_counters(before, now);
}

/// Empties the counters of indices that were given up, so that whoever gets them next begins at 0. What was forwarded stays in
/// the sum.
fn give_up_counters(before: &Generation, now: &Generation) {
    let root = now.root();
    let (stride, cpus) = (root.counter_stride, root.counter_cpus);
    let clear = |slot: u32| {
        for cpu in 0..=cpus {
            let _ = now.counters.write((cpu * stride + slot) as usize, &Default::default());
        }
    };
    let is_there = |entry: Option<BackendEntry>| entry.is_some_and(|entry| entry.ethernet[12] != 0);
    for index in (0..before.backends.len()).filter(|&index| is_there(before.backends.read(index))) {
        if is_there(now.backends.read(index)) {
            continue;
        }
        let slot = backend_slot(root.counter_services, index as u32);
        let departed = (cpus * stride + reason_slot(Reason::Forwarded)) as usize;
        let total = add(now.counters.read(departed).unwrap_or_default(), sum(now, slot, stride, cpus));
        let _ = now.counters.write(departed, &total);
        clear(slot);
    }
    for index in 0..before.services.len() {
        let is_there = |services: &super::maps::MappedArray<_>| {
            services.read(index).is_some_and(|entry: lb_common::abi::service::ServiceEntry| {
                entry != lb_common::abi::service::ServiceEntry::zeroed()
            })
        };
        if is_there(&before.services) && !is_there(&now.services) {
            clear(service_slot(index as u32));
        }
    }
}
