//! What services are found by: keys of the index, lists of port ranges, VIP prefixes.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv6Addr;

use lb_common::abi::{
    limits::{MAX_PORT_RANGES, MAX_VIP_NESTING},
    pod::Pod,
    root::{FEATURE_VIP_PREFIXES, FEATURE_WIDE_PORTS},
    service::{
        KEY_OF_PREFIX, KEY_OF_RANGES, PortRange, PortRanges, SERVICE_ARP, SERVICE_LEAVING, SERVICE_VIP_ONLY,
        SERVICE_WIDE_PORTS, ServiceEntry, ServiceKey,
    },
};
use lb_common::net::{address_bytes, protocol};

use super::compile::CompileError;
use super::ids::Front;
use super::prefix::Prefix;
use crate::config::{Config, IpPrefix, Protocol, Reach, Service, Vip};

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
        None => ServiceEntry {
            port: service.ports.first().to_be_bytes(),
            last_port: service.ports.last().to_be_bytes(),
            flags: SERVICE_WIDE_PORTS,
            ..entry
        },
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
pub(super) fn complete(config: &Config, mut entries: Vec<ServiceEntry>) -> Result<Keys, CompileError> {
    refuse_ambiguous(config)?;
    let vips: BTreeSet<Vip> = config.services.iter().map(|service| service.vip).collect();
    for &vip in &vips {
        let around =
            vips.iter().filter(|&&other| other != vip && other.prefix().is_some() && other.covers(vip));
        if vip.prefix().is_some() && around.count() >= MAX_VIP_NESTING {
            return Err(CompileError::NestedTooDeep { vip });
        }
        let is_arp = config.services.iter().any(|service| service.vip == vip && service.reach == Reach::Arp);
        let flags = SERVICE_VIP_ONLY | if is_arp { SERVICE_ARP } else { 0 };
        entries.push(ServiceEntry { flags, guard: NO_GUARD, ..of_vip(vip, 0) });
    }
    let mut lists: BTreeMap<(Vip, Protocol), usize> = BTreeMap::new();
    for service in config.services.iter().filter(|service| service.ports.single().is_none()) {
        *lists.entry((service.vip, service.protocol)).or_default() += 1;
    }
    for ((vip, protocol), count) in lists {
        if count > MAX_PORT_RANGES {
            return Err(CompileError::TooManyRanges { vip, protocol, count });
        }
        let flags = SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS;
        let protocol = protocol_number(protocol) ^ KEY_OF_RANGES;
        entries.push(ServiceEntry { flags, guard: NO_GUARD, ..of_vip(vip, protocol) });
    }
    relate(&mut entries);
    Ok(Keys {
        keys: keys(&entries),
        port_ranges: port_ranges(&mut entries),
        vip_prefixes: vip_prefixes(&entries),
        features: features(&entries),
        entries,
    })
}

/// [`ServiceEntry::guard`] of what is no service.
const NO_GUARD: u16 = u16::MAX;

const fn is_list(entry: &ServiceEntry) -> bool {
    let flags = SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS;
    entry.flags & flags == flags
}

const fn is_wide(entry: &ServiceEntry) -> bool {
    entry.flags & (SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS) == SERVICE_WIDE_PORTS
}

/// Whether an entry is that of a VIP prefix.
const fn is_vip_prefix(entry: &ServiceEntry) -> bool {
    entry.prefix != 0 && entry.flags & (SERVICE_VIP_ONLY | SERVICE_WIDE_PORTS) == SERVICE_VIP_ONLY
}

/// What is in the index over these entries: services with several ports are found by their list only.
pub(super) fn keys(entries: &[ServiceEntry]) -> Vec<(ServiceKey, u32)> {
    let present = entries.iter().zip(0..).filter(|(entry, _)| Front::of(entry).is_some() && !is_wide(entry));
    present.map(|(entry, index)| (key_of(entry), index)).collect()
}

/// The lists of port ranges over these entries; each entry of a list is told which is its one. Narrower ranges stand first,
/// and of two as wide the one of a service that is not leaving. What exceeds a list, which only leaving services can, has no
/// place in it.
pub(super) fn port_ranges(entries: &mut [ServiceEntry]) -> Vec<PortRanges> {
    type Place = ([u8; 16], u8, u8);
    let place = |entry: &ServiceEntry| -> Place { (entry.address, entry.prefix, entry.protocol) };
    let mut found: BTreeMap<Place, Vec<(u16, bool, PortRange)>> = BTreeMap::new();
    for (entry, service) in entries.iter().zip(0..).filter(|(entry, _)| is_wide(entry)) {
        let (first, last) = (u16::from_be_bytes(entry.port), u16::from_be_bytes(entry.last_port));
        let leaving = entry.flags & SERVICE_LEAVING != 0;
        let range = PortRange { first, last, service };
        found.entry(place(entry)).or_default().push((last.saturating_sub(first), leaving, range));
    }
    let mut lists = Vec::new();
    for entry in entries.iter_mut().filter(|entry| is_list(entry)) {
        let of_services = (entry.address, entry.prefix, entry.protocol ^ KEY_OF_RANGES);
        let mut ranges = found.remove(&of_services).unwrap_or_default();
        ranges.sort_by_key(|(width, leaving, range)| (*width, *leaving, range.first));
        let mut list = PortRanges([PortRange::NONE; MAX_PORT_RANGES]);
        for (to, (.., range)) in list.0.iter_mut().zip(ranges) {
            *to = range;
        }
        entry.plan_base = lists.len() as u32;
        lists.push(list);
    }
    lists
}

/// The VIP prefixes of these entries.
pub(super) fn vip_prefixes(entries: &[ServiceEntry]) -> Vec<Prefix> {
    let prefixes = entries.iter().filter(|entry| is_vip_prefix(entry)).map(|entry| {
        let length = entry.prefix - 1;
        let address = Ipv6Addr::from(entry.address);
        let prefix = match address.to_ipv4_mapped().filter(|_| length >= MAPPED_LENGTH) {
            Some(v4) => IpPrefix::containing(v4.into(), length - MAPPED_LENGTH),
            None => IpPrefix::containing(address.into(), length),
        };
        Prefix { prefix, value: entry.prefix.into() }
    });
    prefixes.collect()
}

/// Whether a VIP prefix is there only for flows from before the last change of the configuration.
pub(super) fn has_leaving_prefix(entries: &[ServiceEntry]) -> bool {
    entries.iter().any(|entry| is_vip_prefix(entry) && entry.flags & SERVICE_LEAVING != 0)
}

/// Tells each VIP prefix the next shorter one that it lies in.
pub(super) fn relate(entries: &mut [ServiceEntry]) {
    let all: Vec<_> = vip_prefixes(entries);
    for entry in entries.iter_mut().filter(|entry| is_vip_prefix(entry)) {
        let own = vip_prefixes(core::slice::from_ref(entry));
        let around = all
            .iter()
            .filter(|other| other.value < own[0].value && other.prefix.contains(own[0].prefix.address()));
        entry.parent = around.map(|other| other.value).max().unwrap_or(0) as u8;
    }
}

/// The `FEATURE_*` bits that these entries need.
pub(super) fn features(entries: &[ServiceEntry]) -> u32 {
    let wide = if entries.iter().any(is_list) { FEATURE_WIDE_PORTS } else { 0 };
    let prefixes = if entries.iter().any(is_vip_prefix) { FEATURE_VIP_PREFIXES } else { 0 };
    wide | prefixes
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
