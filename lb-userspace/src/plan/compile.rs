//! Compiles a configuration to an [`Image`]. Pure: equal configurations give equal images.

use std::collections::HashMap;
use std::net::IpAddr;

use lb_common::abi::{
    ABI_VERSION,
    admission::Admission,
    backend::{BACKEND_RELAY, BackendEntry, ETHERTYPE_IPV4, ETHERTYPE_IPV6},
    limits::{
        ADMISSION_WORDS, DEFAULT_FLOW_ENTRIES_PER_CPU, DEFAULT_FLOW_INSERTS_PER_SECOND, MAX_CLIENT_PREFIXES,
        MAX_PLAN_STEPS, MAX_PLANS, MAX_POOLS, MAX_PORT_RANGES, MAX_SLOT_CHUNKS, MAX_VIP_NESTING,
        SLOTS_PER_CHUNK, flow_filter_bytes,
    },
    plan::{POOL_RELAY, PlanEntry, PoolEntry},
    pod::Pod,
    root::{FEATURE_ARP, FEATURE_RELAY, Root},
    service::{
        SERVICE_FAIL_OPEN, SERVICE_GUARDED, SERVICE_MULTI_PLAN, SERVICE_QUIC, SERVICE_STICKY_UDP,
        ServiceEntry,
    },
};
use lb_common::datapath::{encap::outer_sum, hash::expand_key};
use sha2::{Digest, Sha256};
use thiserror::Error;

use super::forwarding::{forwarding_number, gue_port, quic_configs, quic_servers};
use super::guard;
use super::ids::Ids;
use super::image::{Image, Names, pool_admission_index};
use super::prefix::{Prefix, PrefixBuilder, PrefixTableError};
use super::tables::TableCache;
use super::{index, keys};
use crate::config::{
    Backend, BackendId, ClientRegion, Config, IpPrefix, OnAllDown, Plan, Pool, Protocol, Reach, Service, Udp,
    Vip,
};

/// Low bits of an IPv4 tunnel source that may carry entropy.
const MAX_ENTROPY_BITS_V4: u8 = 16;
/// Low bits of an IPv6 tunnel source that may carry entropy.
const MAX_ENTROPY_BITS_V6: u8 = 32;
/// Slots of all tables together.
const MAX_SLOTS: usize = MAX_SLOT_CHUNKS * SLOTS_PER_CHUNK;
/// Sets of `OPENINGS` until the loader says how many the host has.
const FEW_OPENING_SETS: u32 = 128;

/// Why a valid configuration cannot be put into the data plane.
#[derive(Debug, Error)]
pub enum CompileError {
    /// A pool's table cannot be built.
    #[error("pool `{pool}` of service `{service}`: {source}")]
    Table {
        /// The service.
        service: String,
        /// The pool.
        pool: String,
        /// Why, and what would help.
        source: lb_maglev::Error,
    },
    /// More pools than there are admission words for.
    #[error("{count} pools are too many, the data plane holds {MAX_POOLS}; merge pools or services")]
    TooManyPools {
        /// How many.
        count: usize,
    },
    /// More plans than the data plane holds.
    #[error(
        "{count} plans are too many, the data plane holds {MAX_PLANS}; a service whose plans differ between client \
         regions has one for each client region: use fewer client regions, or fewer services that distinguish them"
    )]
    TooManyPlans {
        /// How many.
        count: usize,
    },
    /// More table slots than the data plane holds.
    #[error(
        "the pools' tables take {count} slots, the data plane holds {MAX_SLOTS}; choose a smaller table_size"
    )]
    TooManySlots {
        /// How many.
        count: usize,
    },
    /// More client prefixes than the data plane holds.
    #[error(
        "{count} client prefixes are too many, the data plane holds {MAX_CLIENT_PREFIXES}; merge adjacent ones"
    )]
    TooManyClientPrefixes {
        /// How many.
        count: usize,
    },
    /// A client prefix inside `::ffff:0:0/96`.
    #[error("client prefix {prefix} of region `{region}` is IPv4-mapped; write it as an IPv4 prefix")]
    MappedClientPrefix {
        /// The prefix.
        prefix: IpPrefix,
        /// Its client region.
        region: String,
    },
    /// The client prefixes cannot become a table.
    #[error("client regions: {0}")]
    ClientPrefixes(#[source] PrefixTableError),
    /// A service's access list is too large or says two things about one prefix.
    #[error("the access list of service `{service}`: {source}")]
    AccessList {
        /// The service.
        service: String,
        /// Why, and what would help.
        source: PrefixTableError,
    },
    /// Relay addresses or peers cannot become a table.
    #[error("relay addresses and peers: {0}")]
    Relay(#[source] PrefixTableError),
    /// The VIP prefixes cannot become a table.
    #[error("VIP prefixes: {0}")]
    VipPrefixes(#[source] PrefixTableError),
    /// Two services with the same address and protocol and the same ports, or as many that overlap.
    #[error(
        "services `{first}` and `{second}` have the same address, port and protocol; give one of them another"
    )]
    DuplicateService {
        /// One of them.
        first: String,
        /// The other.
        second: String,
    },
    /// More port ranges at one address than the data plane holds.
    #[error(
        "{count} services have ranges of {protocol} ports at {vip}, the data plane holds {MAX_PORT_RANGES}; join ranges"
    )]
    TooManyRanges {
        /// The address.
        vip: Vip,
        /// The protocol.
        protocol: Protocol,
        /// How many.
        count: usize,
    },
    /// A VIP prefix inside more other ones than the data plane looks through.
    #[error("{vip} lies in {MAX_VIP_NESTING} other VIP prefixes or more, too many; use fewer")]
    NestedTooDeep {
        /// The innermost.
        vip: Vip,
    },
    /// No seed of the service index gives every service a place.
    #[error("the service index has no room for {count} services; this is a fault of Weir, please report it")]
    ServiceIndex {
        /// Services and VIPs.
        count: usize,
    },
}

/// Compiles a configuration.
///
/// # Errors
/// [`CompileError`] when a table cannot be built or a limit of the data plane is met.
pub fn compile(config: &Config) -> Result<Image, CompileError> {
    compile_with(config, &mut TableCache::default())
}

/// [`compile`] with the tables of configurations before.
///
/// # Errors
/// As for [`compile`].
pub fn compile_with(config: &Config, tables: &mut TableCache) -> Result<Image, CompileError> {
    tables.begin();
    let (pools, slots) = pools(config, tables)?;
    let (services, plans) = services(config, &pools)?;
    let keys = keys::complete(config, services)?;
    let index = index::build(&keys.keys).ok_or(CompileError::ServiceIndex { count: keys.keys.len() })?;
    let services = keys.entries;
    let backends: Vec<_> = config.backends.iter().map(|b| backend_entry(config, b)).collect();
    let mut prefix = PrefixBuilder::new();
    let clients = clients(config, &mut prefix)?;
    let vip_prefixes = prefix.add(&keys.vip_prefixes).map_err(CompileError::VipPrefixes)?;
    let access = access_lists(config, &mut prefix)?;
    let (relay_addresses, relay_peers) = relay_lists(config, &mut prefix)?;
    let mut image = Image {
        root: Root {
            abi_version: ABI_VERSION,
            bucket_mask: index.buckets.len() as u32 - 1,
            service_seed: index.seed,
            hash_key: expand_key(config.node.hash_key.as_bytes()),
            features: keys.features | features(config),
            vip_prefixes,
            relay_addresses,
            relay_peers,
            relay_gue_port: config.node.relay.gue_port.to_be_bytes(),
            entropy_mask_v4: entropy_mask(32 - config.node.tunnel_source_v4.length(), MAX_ENTROPY_BITS_V4),
            entropy_mask_v6: entropy_mask(128 - config.node.tunnel_source_v6.length(), MAX_ENTROPY_BITS_V6),
            counter_cpus: 1,
            clients,
            previous_clients: clients,
            clients_digest: clients_digest(config),
            outer_source_v4: config.node.tunnel_source_v4.address().octets(),
            outer_source_v6: config.node.tunnel_source_v6.address().octets(),
            answers_per_second: config.node.answers_per_second,
            // What the host has decides; the loader sets it.
            flow_filter_mask: flow_filter_bytes(DEFAULT_FLOW_ENTRIES_PER_CPU) as u32 - 1,
            opening_sets: FEW_OPENING_SETS,
            flow_filter_epoch: 1,
            flow_inserts_per_second: DEFAULT_FLOW_INSERTS_PER_SECOND,
            ..Root::zeroed()
        },
        buckets: index.buckets,
        services,
        port_ranges: keys.port_ranges,
        plans,
        pools,
        previous: Vec::new(),
        slots,
        ids: Ids::equal(config.backends.len(), config.services.len()),
        backends,
        admission: vec![Admission::OPEN; ADMISSION_WORDS],
        quic: quic_servers(config),
        interfaces: Vec::new(),
        guards: guard::guards(config, &access),
        prefix: prefix.finish(),
        names: names(config),
        digest: [0; 32],
    };
    image.root.guards = image.guards.services.len() as u32;
    image.reserve_counters(None);
    image.digest = image.compute_digest();
    image.root.config_digest = image.digest;
    Ok(image)
}

/// All pools and the slot array. Pools with the same members and size share a table.
fn pools(config: &Config, tables: &mut TableCache) -> Result<(Vec<PoolEntry>, Vec<u16>), CompileError> {
    let count = config.services.iter().map(|s| s.pools.len()).sum();
    if count > MAX_POOLS {
        return Err(CompileError::TooManyPools { count });
    }
    let mut bases: HashMap<(Vec<(BackendId, u32)>, u32), u32> = HashMap::new();
    let mut pools = Vec::with_capacity(count);
    let mut slots = Vec::new();
    for (service, pool) in config.services.iter().flat_map(|s| s.pools.iter().map(move |p| (s, p))) {
        let key = (config.weights(pool), pool.table_size);
        let table_base = if let Some(&base) = bases.get(&key) {
            base
        } else {
            let base = slots.len();
            let after = base + pool.table_size as usize;
            if after > MAX_SLOTS {
                return Err(CompileError::TooManySlots { count: after });
            }
            let table = table(config, service, pool, &key.0, tables)?;
            slots.extend(table.iter().map(|&position| key.0[usize::from(position)].0.index() as u16));
            bases.insert(key, base as u32);
            base as u32
        };
        pools.push(PoolEntry {
            table_base,
            table_slots: pool.table_size,
            admission: pool_admission_index(pools.len()) as u16,
            flags: if pool.relay { POOL_RELAY } else { 0 },
            pool: pools.len() as u32,
        });
    }
    Ok((pools, slots))
}

/// A pool's table, whose slots hold positions among its members.
fn table<'t>(
    config: &Config,
    service: &Service,
    pool: &Pool,
    members: &[(BackendId, u32)],
    tables: &'t mut TableCache,
) -> Result<&'t [u16], CompileError> {
    let members: Vec<_> = members.iter().map(|&(id, weight)| (config[id].name.as_str(), weight)).collect();
    tables.table(&members, pool.table_size).map_err(|source| CompileError::Table {
        service: service.name.clone(),
        pool: pool.name.clone(),
        source,
    })
}

/// The entries of all services, and all plans.
fn services(
    config: &Config,
    pools: &[PoolEntry],
) -> Result<(Vec<ServiceEntry>, Vec<PlanEntry>), CompileError> {
    let mut entries = Vec::with_capacity(config.services.len());
    let mut plans = Vec::new();
    let mut first_pool = 0;
    for service in &config.services {
        let of_service = &pools[first_pool..first_pool + service.pools.len()];
        let distinct = service.distinct_plans();
        let one_plan = distinct.len() == 1;
        let plan_base = plans.len();
        if plan_base + distinct.len() > MAX_PLANS {
            return Err(CompileError::TooManyPlans { count: plan_base + distinct.len() });
        }
        plans.extend(distinct.iter().map(|plan| plan_entry(of_service, plan)));
        let place = keys::place(service);
        entries.push(ServiceEntry {
            flags: place.flags
                | if one_plan { 0 } else { SERVICE_MULTI_PLAN }
                | if service.protection.is_guarded() { SERVICE_GUARDED } else { 0 }
                | match service.on_all_down {
                    OnAllDown::Drop => 0,
                    OnAllDown::FailOpen => SERVICE_FAIL_OPEN,
                }
                | if service.quic.is_some() { SERVICE_QUIC } else { 0 }
                | if service.udp == Udp::Stick { SERVICE_STICKY_UDP } else { 0 },
            plan_base: plan_base as u32,
            plans: distinct.len() as u32,
            forwarding: forwarding_number(service.forwarding),
            gue_port: gue_port(service.forwarding),
            quic: quic_configs(service),
            first: plans[plan_base].first,
            guard: entries.len() as u16,
            ..place
        });
        first_pool += service.pools.len();
    }
    Ok((entries, plans))
}

/// A plan over the pools of its service. Nothing is steered yet: every flow starts at the first step and stays where it can.
fn plan_entry(pools: &[PoolEntry], plan: &Plan) -> PlanEntry {
    debug_assert!((1..=MAX_PLAN_STEPS).contains(&plan.len()), "the configuration bounds the steps of a plan");
    let mut entry = PlanEntry {
        first: pools[plan[0].index()],
        shares: [u16::MAX; MAX_PLAN_STEPS],
        steps: plan.len() as u32,
        ..PlanEntry::zeroed()
    };
    for (step, pool) in entry.pools.iter_mut().zip(plan.iter()) {
        *step = pools[pool.index()].pool as u16;
    }
    entry
}

/// What some packets need beyond the common way.
fn features(config: &Config) -> u32 {
    let arp = config.services.iter().any(|service| service.reach == Reach::Arp);
    let relay = !config.node.relay.addresses.is_empty();
    let bit = |is_needed, feature| if is_needed { feature } else { 0 };
    bit(arp, FEATURE_ARP) | bit(relay, FEATURE_RELAY)
}

fn backend_entry(config: &Config, backend: &Backend) -> BackendEntry {
    let [rack, zone, region] = config.topology.ancestors(backend.rack).map(|domain| domain.index() as u16);
    let flags = if config[backend.set].relay { BACKEND_RELAY } else { 0 };
    let common =
        BackendEntry { admission: Admission::OPEN, rack, zone, region, flags, ..BackendEntry::zeroed() };
    match backend.address {
        IpAddr::V4(destination) => {
            let source = config.node.tunnel_source_v4.address().octets();
            BackendEntry {
                ethernet: ethernet(ETHERTYPE_IPV4),
                outer_sum: outer_sum(source, destination.octets()),
                outer_destination: in_first_bytes(destination.octets()),
                ..common
            }
        }
        IpAddr::V6(destination) => BackendEntry {
            ethernet: ethernet(ETHERTYPE_IPV6),
            outer_destination: destination.octets(),
            ..common
        },
    }
}

/// An Ethernet header without addresses.
const fn ethernet([high, low]: [u8; 2]) -> [u8; 14] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low]
}

const fn in_first_bytes([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
}

/// The lowest `host_bits`, at most `max`, of four bytes in network order.
fn entropy_mask(host_bits: u8, max: u8) -> [u8; 4] {
    let bits = u32::from(host_bits.min(max));
    (((1_u64 << bits) - 1) as u32).to_be_bytes()
}

/// See [`Root::clients_digest`].
fn clients_digest(config: &Config) -> [u32; 2] {
    let mut hash = Sha256::new();
    for region in &config.client_regions {
        hash.update(region.prefixes.len().to_le_bytes());
        region.prefixes.iter().for_each(|prefix| hash.update(prefix.to_string()));
    }
    let digest = hash.finalize();
    let word = |at: usize| u32::from_le_bytes([digest[at], digest[at + 1], digest[at + 2], digest[at + 3]]);
    [word(0), word(4)]
}

/// Memory of the prefix table of the client regions, in bytes.
///
/// # Errors
/// [`CompileError`] when the prefixes cannot become a table.
pub fn client_table_bytes(config: &Config) -> Result<u64, CompileError> {
    let mut builder = PrefixBuilder::new();
    clients(config, &mut builder)?;
    Ok(builder.finish().bytes())
}

/// The table of all client regions' prefixes.
fn clients(config: &Config, builder: &mut PrefixBuilder) -> Result<u32, CompileError> {
    let of_region = |(index, region): (usize, &ClientRegion)| {
        let value = index as u32;
        region.prefixes.iter().map(|&prefix| Prefix { prefix, value }).collect::<Vec<_>>()
    };
    let prefixes: Vec<_> = config.client_regions.iter().enumerate().flat_map(of_region).collect();
    if prefixes.len() > MAX_CLIENT_PREFIXES {
        return Err(CompileError::TooManyClientPrefixes { count: prefixes.len() });
    }
    builder.add(&prefixes).map_err(|error| match error {
        PrefixTableError::Mapped { prefix } => {
            let region = config.client_regions.iter().find(|region| region.prefixes.contains(&prefix));
            let region = region.map_or_else(String::new, |region| region.name.clone());
            CompileError::MappedClientPrefix { prefix, region }
        }
        error => CompileError::ClientPrefixes(error),
    })
}

/// The prefix tables of this host's relay addresses and of those that may relay to it.
fn relay_lists(config: &Config, builder: &mut PrefixBuilder) -> Result<(u32, u32), CompileError> {
    let relay = &config.node.relay;
    let host = |&address: &IpAddr| IpPrefix::containing(address, if address.is_ipv4() { 32 } else { 128 });
    let listed = |prefix| Prefix { prefix, value: 1 };
    let addresses: Vec<_> = relay.addresses.iter().map(host).map(listed).collect();
    let peers: Vec<_> = relay.peers.iter().copied().map(listed).collect();
    let mut add = |list: &[Prefix]| builder.add(list).map_err(CompileError::Relay);
    Ok((add(&addresses)?, add(&peers)?))
}

/// The prefix tables of all services' access lists, 0 for services without one.
fn access_lists(config: &Config, prefix: &mut PrefixBuilder) -> Result<Vec<u32>, CompileError> {
    let table = |service: &Service| {
        let lists = &service.protection.access;
        if lists.is_empty() {
            return Ok(0);
        }
        prefix
            .add(&guard::access_list(lists))
            .map_err(|source| CompileError::AccessList { service: service.name.clone(), source })
    };
    config.services.iter().map(table).collect()
}

fn names(config: &Config) -> Names {
    Names {
        backends: config.backends.iter().map(|b| b.name.clone()).collect(),
        domains: config.topology.domains.iter().map(|d| d.path.clone()).collect(),
        services: config.services.iter().map(|s| s.name.clone()).collect(),
        pools: config
            .services
            .iter()
            .flat_map(|s| s.pools.iter().map(|p| format!("{}/{}", s.name, p.name)))
            .collect(),
        client_regions: config.client_regions.iter().map(|r| r.name.clone()).collect(),
    }
}

#[cfg(test)]
#[path = "compile_tests.rs"]
mod tests;
