//! The image: everything that a configuration puts into the data plane's maps, as plain vectors.

use lb_common::abi::{
    ABI_VERSION,
    admission::Admission,
    backend::{BACKEND_ON_LINK, BACKEND_TAGGED, BackendEntry},
    counter::backend_slot,
    limits::MAX_DOMAINS,
    plan::{PlanEntry, PoolEntry},
    pod::Pod,
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{PortRanges, ServiceBucket, ServiceEntry},
};
use sha2::{Digest, Sha256};

use super::guard::Guards;
use super::ids::Ids;
use super::prefix::PrefixTables;
use crate::config::{Config, PoolIndex, ServiceId};

mod tables;
pub use tables::ImageTables;

/// Service counters for which there is room at least.
const MIN_SERVICE_COUNTERS: usize = 64;
/// Backend counters for which there is room at least.
const MIN_BACKEND_COUNTERS: usize = 256;

/// What a configuration compiles to. See [`compile`](super::compile::compile).
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// The root. `counter_cpus` is 1 until the data plane sets it to what the host has.
    pub root: Root,
    /// The service index; a power of two of buckets.
    pub buckets: Vec<ServiceBucket>,
    /// The services by index; as compiled, in the order of [`ServiceId`], then one entry per distinct VIP, then one per list of
    /// port ranges.
    pub services: Vec<ServiceEntry>,
    /// The lists of port ranges.
    pub port_ranges: Vec<PortRanges>,
    /// The plans of service 0, then those of service 1, and so on.
    pub plans: Vec<PlanEntry>,
    /// The pools of service 0, then those of service 1, and so on.
    pub pools: Vec<PoolEntry>,
    /// The homes before the last change of the configuration; see
    /// [`ServiceEntry::previous_base`](lb_common::abi::service::ServiceEntry::previous_base).
    pub previous: Vec<PoolEntry>,
    /// All tables back to back. A slot holds an index into `backends`.
    pub slots: Vec<u16>,
    /// Which index each backend and service has.
    pub ids: Ids,
    /// The backends by index; as compiled, in the order of [`BackendId`](crate::config::BackendId). Without next hops: `ifindex`, `mtu` and
    /// Ethernet addresses are 0.
    pub backends: Vec<BackendEntry>,
    /// The admission array: domains in the order of [`DomainId`](crate::config::DomainId), pools from [`MAX_DOMAINS`] on.
    pub admission: Vec<Admission>,
    /// Which QUIC server id is whose, sorted by key.
    pub quic: Vec<(QuicServerKey, QuicServer)>,
    /// How services are protected.
    pub guards: Guards,
    /// All prefix tables; which one is for what stands in the root and in the services.
    pub prefix: PrefixTables,
    /// Ethernet addresses of the interfaces on which frames arrive, by index. None until the data plane tells what the host
    /// has.
    pub interfaces: Vec<(u32, [u8; 6])>,
    /// The names behind the indices.
    pub names: Names,
    /// Digest over all of this but what the running daemon changes (admission words, next hops) and what the host decides
    /// (CPUs). Also stands in `root`.
    pub digest: [u8; 32],
}

/// Names by index, for what is told to people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Backends.
    pub backends: Vec<String>,
    /// Paths of domains.
    pub domains: Vec<String>,
    /// Services; the entries of VIPs have none.
    pub services: Vec<String>,
    /// Pools by global number, as `service/pool`.
    pub pools: Vec<String>,
    /// Client regions.
    pub client_regions: Vec<String>,
}

/// Global number of a service's pool: its index in the `POOLS` map. Its admission word is element [`MAX_DOMAINS`] plus this.
#[must_use]
pub fn pool_number(config: &Config, service: ServiceId, pool: PoolIndex) -> usize {
    config.services[..service.index()].iter().map(|s| s.pools.len()).sum::<usize>() + pool.index()
}

/// Index of a pool's word in the admission array.
#[must_use]
pub const fn pool_admission_index(pool_number: usize) -> usize {
    MAX_DOMAINS + pool_number
}

impl Image {
    /// Counter slots of one CPU; at least as many as the image needs.
    #[must_use]
    pub fn counter_slots(&self) -> u32 {
        self.root.counter_stride
    }

    /// Makes room for more counters than the image needs, so that they can go on when the configuration grows. What runs keeps its
    /// layout as long as it has room enough.
    pub fn reserve_counters(&mut self, running: Option<&Root>) {
        let room = |needed: usize, had: u32, least: usize| {
            if needed <= had as usize { had } else { needed.max(least).next_power_of_two() as u32 }
        };
        let (had_services, had_backends) = running.map_or((0, 0), |root| {
            let services = root.counter_services;
            (services, root.counter_stride.saturating_sub(backend_slot(services, 0)))
        });
        let services = room(self.services.len(), had_services, MIN_SERVICE_COUNTERS);
        let backends = room(self.backends.len(), had_backends, MIN_BACKEND_COUNTERS);
        self.root.counter_services = services;
        self.root.counter_stride = backend_slot(services, backends);
    }

    /// The digest of the image as it stands. See [`Image::digest`].
    #[must_use]
    pub fn compute_digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(ABI_VERSION.to_le_bytes());
        hash.update(Root { config_digest: [0; 32], counter_cpus: 0, ..self.root }.as_bytes());
        update_all(&mut hash, &self.buckets);
        update_all(&mut hash, &self.services);
        update_all(&mut hash, &self.port_ranges);
        update_all(&mut hash, &self.plans);
        update_all(&mut hash, &self.pools);
        update_all(&mut hash, &self.previous);
        update_all(&mut hash, &self.slots);
        let constant: Vec<_> = self.backends.iter().map(without_what_changes).collect();
        update_all(&mut hash, &constant);
        hash.update((self.quic.len() as u64).to_le_bytes());
        for (key, server) in &self.quic {
            hash.update(key.as_bytes());
            hash.update(server.as_bytes());
        }
        update_all(&mut hash, &self.guards.services);
        hash.update(self.guards.node.as_bytes());
        update_all(&mut hash, &self.prefix.tables);
        update_all(&mut hash, &self.prefix.entries);
        update_all(&mut hash, &self.prefix.nodes);
        update_all(&mut hash, &self.prefix.values);
        let names = &self.names;
        for list in [&names.backends, &names.domains, &names.services, &names.pools, &names.client_regions] {
            hash.update((list.len() as u64).to_le_bytes());
            for name in list {
                hash.update((name.len() as u64).to_le_bytes());
                hash.update(name.as_bytes());
            }
        }
        hash.finalize().into()
    }
}

/// Bytes that are hashed in one go.
const HASHED_BYTES: usize = 8 << 10;

fn update_all<T: Pod>(hash: &mut Sha256, values: &[T]) {
    hash.update((values.len() as u64).to_le_bytes());
    // There are millions of slots of two bytes each: one call for each would take longer than the hash itself.
    let mut chunk = Vec::with_capacity(HASHED_BYTES);
    for value in values {
        let bytes = value.as_bytes();
        if chunk.len() + bytes.len() > HASHED_BYTES {
            hash.update(&chunk);
            chunk.clear();
        }
        chunk.extend_from_slice(bytes);
    }
    hash.update(&chunk);
}

/// Offset of the EtherType in an Ethernet header.
const ETHERTYPE_AT: usize = 12;

/// A backend entry without admission and next hop.
fn without_what_changes(entry: &BackendEntry) -> BackendEntry {
    let mut ethernet = [0; 14];
    ethernet[ETHERTYPE_AT..].copy_from_slice(&entry.ethernet[ETHERTYPE_AT..]);
    let flags = entry.flags & !(BACKEND_ON_LINK | BACKEND_TAGGED);
    BackendEntry { admission: Admission::OPEN, mtu: 0, ifindex: 0, ethernet, flags, vlan: [0; 2], ..*entry }
}
