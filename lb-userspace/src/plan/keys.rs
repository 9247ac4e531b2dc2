//! What services are found by: keys of the index, lists of port ranges, VIP prefixes.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::abi::{
    limits::{MAX_PORT_RANGES, MAX_VIP_NESTING},
    pod::Pod,
    root::{FEATURE_VIP_PREFIXES, FEATURE_WIDE_PORTS},
    service::{
        KEY_OF_PREFIX, KEY_OF_RANGES, PortRange, PortRanges, SERVICE_VIP_ONLY, SERVICE_WIDE_PORTS,
        ServiceEntry, ServiceKey,
    },
};
use lb_common::net::{address_bytes, protocol};

use super::compile::CompileError;
use super::prefix::Prefix;
use crate::config::{Config, IpPrefix, Protocol, Service, Vip};

/// Length of `::ffff:0:0/96`, in which IPv4 addresses stand.
const MAPPED_LENGTH: u8 = 96;

/// Everything by which services are found.
pub(super) struct Keys {
    /// The services' entries, then those of VIPs, then those of lists of port ranges.
    pub(super) entries: Vec<ServiceEntry>,
    /// What is in the index: a key and the entry that it finds.
    pub(super) keys: Vec<(ServiceKey, u32)>,
    /// The lists of port ranges.
    pub(super) port_ranges: Vec<PortRanges>,
    /// The VIP prefixes and their values.
    pub(super) vip_prefixes: Vec<Prefix>,
    /// `FEATURE_*` bits that are needed.
    pub(super) features: u32,
}

/// The part of a service's entry by which it is found.
pub(super) fn place(service: &Service) -> ServiceEntry {
    let entry = of_vip(service.vip, protocol_number(service.protocol));
    match service.ports.single() {
        Some(port) => ServiceEntry { port: port.to_be_bytes(), ..entry },
        None => ServiceEntry { flags: SERVICE_WIDE_PORTS, ..entry },
    }
}

/// An entry for a VIP and a protocol, which is marked.
fn of_vip(vip: Vip, protocol: u8) -> ServiceEntry {
    let prefix = vip.prefix().map_or(0, prefix_value);
    ServiceEntry {
        address: address_bytes(vip.address()),
        protocol: if prefix == 0 { protocol } else { protocol ^ KEY_OF_PREFIX },
        prefix,
        ..ServiceEntry::zeroed()
    }
}

/// See [`ServiceKey::prefix`].
const fn prefix_value(prefix: IpPrefix) -> u8 {
    let mapped = if prefix.address().is_ipv4() { MAPPED_LENGTH } else { 0 };
    prefix.length() + mapped + 1
}

const fn key_of(entry: &ServiceEntry) -> ServiceKey {
    ServiceKey { address: entry.address, port: entry.port, protocol: entry.protocol, prefix: entry.prefix }
}

pub(super) const fn protocol_number(protocol: Protocol) -> u8 {
    match protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    }
}

/// Adds to the services' entries what else it takes to find them.
pub(super) fn complete(config: &Config, services: Vec<ServiceEntry>) -> Result<Keys, CompileError> {
    refuse_ambiguous(config)?;
    let mut all = Keys {
        keys: Vec::with_capacity(services.len()),
        entries: services,
        port_ranges: Vec::new(),
        vip_prefixes: Vec::new(),
        features: 0,
    };
    for (index, entry) in all.entries.iter().enumerate() {
        if entry.flags & SERVICE_WIDE_PORTS == 0 {
            all.keys.push((key_of(entry), index as u32));
        }
    }
    let vips: BTreeSet<Vip> = config.services.iter().map(|service| service.vip).collect();
    for &vip in &vips {
        let parent = parent(vip, &vips)?;
        if let Some(prefix) = vip.prefix() {
            all.vip_prefixes.push(Prefix { prefix, value: prefix_value(prefix).into() });
            all.features |= FEATURE_VIP_PREFIXES;
        }
        all.add(ServiceEntry { flags: SERVICE_VIP_ONLY, parent, ..of_vip(vip, 0) });
    }
    let mut lists: BTreeMap<(Vip, Protocol), Vec<PortRange>> = BTreeMap::new();
    for (index, service) in config.services.iter().enumerate() {
        if service.ports.single().is_none() {
            let (first, last) = (service.ports.first(), service.ports.last());
            let range = PortRange { first, last, service: index as u32 };
            lists.entry((service.vip, service.protocol)).or_default().push(range);
        }
    }
    for ((vip, protocol), mut list) in lists {
        if list.len() > MAX_PORT_RANGES {
            return Err(CompileError::TooManyRanges { vip, protocol, count: list.len() });
        }
        // Narrower ones first; those of one width do not overlap, but equal configurations give equal images.
        list.sort_by_key(|range| (range.last - range.first, range.first));
        let mut ranges = PortRanges([PortRange::NONE; MAX_PORT_RANGES]);
        ranges.0[..list.len()].copy_from_slice(&list);
        let plan_base = all.port_ranges.len() as u32;
        all.port_ranges.push(ranges);
        all.features |= FEATURE_WIDE_PORTS;
        let flags = SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS;
        all.add(ServiceEntry { flags, plan_base, ..of_vip(vip, protocol_number(protocol) ^ KEY_OF_RANGES) });
    }
    Ok(all)
}

impl Keys {
    fn add(&mut self, entry: ServiceEntry) {
        self.keys.push((key_of(&entry), self.entries.len() as u32));
        self.entries.push(entry);
    }
}

/// The value of the next shorter VIP prefix that a VIP prefix lies in; 0 if there is none.
fn parent(vip: Vip, vips: &BTreeSet<Vip>) -> Result<u8, CompileError> {
    if vip.prefix().is_none() {
        return Ok(0);
    }
    let around =
        || vips.iter().filter(|&&other| other != vip && other.covers(vip)).filter_map(|v| v.prefix());
    if around().count() >= MAX_VIP_NESTING {
        return Err(CompileError::NestedTooDeep { vip });
    }
    Ok(around().map(prefix_value).max().unwrap_or(0))
}

fn refuse_ambiguous(config: &Config) -> Result<(), CompileError> {
    let mut places: BTreeMap<(Vip, Protocol), Vec<&Service>> = BTreeMap::new();
    for service in &config.services {
        let there = places.entry((service.vip, service.protocol)).or_default();
        if let Some(first) = there.iter().find(|other| other.ports.is_ambiguous_with(service.ports)) {
            return Err(CompileError::DuplicateService {
                first: first.name.clone(),
                second: service.name.clone(),
            });
        }
        there.push(service);
    }
    Ok(())
}
