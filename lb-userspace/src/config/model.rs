//! The validated configuration: every name is resolved to an index, every value is in range.

use std::fmt;
use std::net::IpAddr;
use std::ops::Index;
use std::path::PathBuf;
use std::time::Duration;

use lb_common::abi::limits::{DEFAULT_FLOW_ENTRIES_PER_CPU, DEFAULT_OPENING_ENTRIES_PER_CPU};
use serde::{Deserialize, Serialize};

use super::checks::Check;
use super::domains::{Domain, Topology};
use super::endpoint::{Ports, Vip};
use super::forwarding::{Forwarding, Quic, Reach, Udp};
use super::ids::{BackendId, CheckId, ClientRegionId, DomainId, PoolIndex, ServiceId, SetId};
use super::limits::MAX_FLOW_ENTRIES;
use super::prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix};
use super::protection::Protection;
use super::relay::Relay;

/// The largest of weights that were scaled: fine enough for tables of any size, and small enough for their arithmetic.
const SCALED_WEIGHT: u128 = 1 << 24;

/// Everything that `weir.toml` says.
///
/// Each table is sorted by name (domains by path), so that equal files with their tables in another order are equal.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// This edge host.
    pub node: Node,
    /// Regions, zones and racks.
    pub topology: Topology,
    /// Index 0 is always `default`, which has no prefixes; the others follow by name.
    pub client_regions: Vec<ClientRegion>,
    /// How backends are probed.
    pub checks: Vec<Check>,
    /// Deployments of services, each inside one domain.
    pub sets: Vec<Set>,
    /// The backends of all sets.
    pub backends: Vec<Backend>,
    /// The services with their pools and plans.
    pub services: Vec<Service>,
    /// How what was down comes back.
    pub recovery: crate::plan::breaker::Settings,
    /// What is served over TCP.
    pub http: super::http::Http,
}

/// This edge host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The host's name in events and status.
    pub name: String,
    /// The region it stands in.
    pub region: DomainId,
    /// The zone it stands in, if it was said; it lies in `region`.
    pub zone: Option<DomainId>,
    /// Where XDP is attached; 1 to [`MAX_INTERFACES`](super::limits::MAX_INTERFACES), in the file's order.
    pub interfaces: Vec<String>,
    /// How XDP is attached.
    pub mode: XdpMode,
    /// Key of the flow hash, the same on all hosts of the fleet.
    pub hash_key: HashKey,
    /// Outer source of IPIP to IPv4 backends; `UNSPECIFIED` only when there is no such backend.
    pub tunnel_source_v4: Ipv4Prefix,
    /// Outer source of IPIP to IPv6 backends; `UNSPECIFIED` only when there is no such backend.
    pub tunnel_source_v6: Ipv6Prefix,
    /// Holds the lock, `overrides.json` and `events.jsonl`; absolute.
    pub state_dir: PathBuf,
    /// The daemon's unix socket; absolute.
    pub socket: PathBuf,
    /// Pins go below it; absolute.
    pub bpffs: PathBuf,
    /// New flows a second of all services beyond which some are shed, those of the lowest priority class first.
    pub max_new_flows: Option<u64>,
    /// After a change of the configuration, how long a flow that sends nothing keeps its backend without being known to the
    /// flow table.
    pub transition: Duration,
    /// After how long without a packet a flow away from home is forgotten.
    pub flow_idle: Duration,
    /// Flows away from home that are remembered, if the file says; then the least recently used one goes.
    pub flow_entries: Option<u32>,
    /// Flows that opened away from home, and sent nothing more, that are remembered, if the file says.
    pub opening_entries: Option<u32>,
    /// Answers (echo replies, "too big") a second on each CPU; and as many once more to neighbours who ask for a VIP.
    pub answers_per_second: u32,
    /// A plan stops believing health when less than this of what operators let in is healthy, in percent; 0 for never.
    pub panic_threshold: u8,
    /// Part of a pool's capacity that is used before flows spill, in percent, 1 to 100.
    pub target_utilisation: u8,
    /// Most of a pool's weight that checks of single backends take out, in percent; 100 for no bound.
    pub max_ejected: u8,
    /// How this host's routes are withdrawn while it hears no backend, if it does that itself.
    pub announcement: Option<Announcement>,
    /// What this host takes from other regions.
    pub relay: Relay,
}

/// Programs that take this host's routes away and bring them back: each by its absolute path, with its arguments.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Announcement {
    /// Run when this host has heard no backend for a while.
    pub withdraw: Vec<String>,
    /// Run when it hears some again.
    pub announce: Vec<String>,
}

impl Node {
    /// [`flow_entries`](Self::flow_entries) and [`opening_entries`](Self::opening_entries) on a host with so many CPUs. What the file does
    /// not say grows with them, as the kernel divides the tables among them.
    #[must_use]
    pub fn entries(&self, cpus: u32) -> (u32, u32) {
        let default = |per_cpu: u32| per_cpu.saturating_mul(cpus.max(1)).min(MAX_FLOW_ENTRIES);
        (
            self.flow_entries.unwrap_or_else(|| default(DEFAULT_FLOW_ENTRIES_PER_CPU)),
            self.opening_entries.unwrap_or_else(|| default(DEFAULT_OPENING_ENTRIES_PER_CPU)),
        )
    }
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the kernel's stack, for interfaces whose driver cannot.
    Generic,
}

/// The fleet-wide secret of the flow hash. `Debug` does not show it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HashKey([u8; 32]);

/// A group of clients that share a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRegion {
    /// Unique.
    pub name: String,
    /// Sorted; unique over all client regions. Prefixes may nest: the longest match wins.
    pub prefixes: Vec<IpPrefix>,
}

/// One deployment of a service inside one domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Set {
    /// Unique.
    pub name: String,
    /// The racks of all its backends lie in it (or are it).
    pub domain: DomainId,
    /// Ascending; none means that its backends are always believed UP.
    pub checks: Vec<CheckId>,
    /// Ascending; at least one.
    pub backends: Vec<BackendId>,
    /// Whether these are Weir hosts of another region, to which packets are relayed.
    pub relay: bool,
}

/// One host that serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Unique over all sets.
    pub name: String,
    /// The set that it belongs to.
    pub set: SetId,
    /// The rack that it stands in.
    pub rack: DomainId,
    /// Tunnel endpoint and target of probes.
    pub address: IpAddr,
    /// Share among its pool's members, 1 to 65535.
    pub weight: u32,
    /// Server id in QUIC connection ids, if it serves QUIC.
    pub quic_server_id: Option<Vec<u8>>,
    /// Server id of the other QUIC configuration; that of the one in use where the file gives none.
    pub quic_rotation_id: Option<Vec<u8>>,
}

/// A VIP with protocol and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// Unique.
    pub name: String,
    /// The address clients use, or the prefix.
    pub vip: Vip,
    /// The ports clients use. No other service has the same ones, nor others as many that overlap them.
    pub ports: Ports,
    /// The protocol clients use.
    pub protocol: Protocol,
    /// What happens when no pool of the plan can take a flow.
    pub on_all_down: OnAllDown,
    /// How packets travel to the backends.
    pub forwarding: Forwarding,
    /// How packets for the VIP come here; the same for all services that share it.
    pub reach: Reach,
    /// What a drain does to its flows; means something for UDP without QUIC only.
    pub udp: Udp,
    /// How connection ids name backends, if it is QUIC.
    pub quic: Option<Quic>,
    /// Sorted by name; at least one.
    pub pools: Vec<Pool>,
    /// For each client region, in the order of [`Config::client_regions`], the pools to try in order.
    pub plans: Vec<Plan>,
    /// For each client region, in the order of [`Config::client_regions`], the regions that may serve it; none where all may. Every
    /// plan is inside already. Empty if the service does not say.
    pub residency: Vec<Option<Vec<DomainId>>>,
    /// In percent, instead of the node's [`panic_threshold`](Node::panic_threshold).
    pub panic_threshold: Option<u8>,
    /// Access lists, limits and priority class.
    pub protection: Protection,
}

/// The pools that take a client region's flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are tried; one at least.
    pub pools: Vec<PoolIndex>,
    /// How flows leave the first one.
    pub mode: PlanMode,
}

/// How flows leave the first pool of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PlanMode {
    /// In part as soon as too few members are left for all.
    Nearest,
    /// Not at all while the healthy part is at least this, in thousandths; below it, all that its failed members leave.
    ZoneAffine {
        /// The bound, 1 to 1000.
        permille: u16,
    },
    /// Never.
    Strict,
}

impl PlanMode {
    /// `nearest`, `zone-affine` or `strict`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::ZoneAffine { .. } => "zone-affine",
            Self::Strict => "strict",
        }
    }
}

impl std::ops::Deref for Plan {
    type Target = [PoolIndex];

    fn deref(&self) -> &Self::Target {
        &self.pools
    }
}

impl Service {
    /// The plans that the data plane has: one if it is the same for all client regions, else one for each of them.
    #[must_use]
    pub fn distinct_plans(&self) -> &[Plan] {
        let is_one = self.plans.windows(2).all(|pair| pair[0] == pair[1]);
        if is_one { &self.plans[..1] } else { &self.plans }
    }
}

/// Transport protocol of a service.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

/// What happens to a flow when no pool of its plan can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnAllDown {
    /// Drop with a counted reason.
    Drop,
    /// Send to the home placement as if everything were healthy.
    FailOpen,
}

/// A service's backends in some sets; has one Maglev table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Unique within the service.
    pub name: String,
    /// Ascending; at least one.
    pub sets: Vec<SetId>,
    /// Sets that take nothing unless a canary says so, ascending.
    pub standby: Vec<SetId>,
    /// A set whose share is another one than its weights say. The file never says so: a canary does.
    pub canary: Option<SetShare>,
    /// Slots of the table, one of [`TABLE_SIZES`](super::limits::TABLE_SIZES).
    pub table_size: u32,
    /// New flows a second from this host that all its members together take, if it was said.
    pub capacity: Option<u64>,
    /// Whether its one set is of Weir hosts of another region.
    pub relay: bool,
}

/// The share of a set in a pool's flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SetShare {
    /// One of the pool's sets.
    pub set: SetId,
    /// In permille, 1 to 999.
    pub permille: u32,
}

impl HashKey {
    /// Wraps the key's bytes.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key's bytes, in the order of the file's hexadecimal digits.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for HashKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HashKey(redacted)")
    }
}

impl Config {
    /// The backend with this name.
    #[must_use]
    pub fn find_backend(&self, name: &str) -> Option<BackendId> {
        BackendId::from_index(self.backends.binary_search_by(|b| b.name.as_str().cmp(name)).ok()?)
    }

    /// The service with this name.
    #[must_use]
    pub fn find_service(&self, name: &str) -> Option<ServiceId> {
        ServiceId::from_index(self.services.binary_search_by(|s| s.name.as_str().cmp(name)).ok()?)
    }

    /// The members of a pool: the backends of its sets, ascending.
    #[must_use]
    pub fn members(&self, pool: &Pool) -> Vec<BackendId> {
        let mut members: Vec<_> =
            pool.sets.iter().flat_map(|&set| self[set].backends.iter().copied()).collect();
        members.sort_unstable();
        members
    }

    /// The members of a pool, and those that stand by.
    #[must_use]
    pub fn all_members(&self, pool: &Pool) -> Vec<BackendId> {
        let mut members = self.members(pool);
        members.extend(pool.standby.iter().flat_map(|&set| self[set].backends.iter().copied()));
        members
    }

    /// The members of a pool with their weights in its table: those of the file, unless a set has a share of its own.
    #[must_use]
    pub fn weights(&self, pool: &Pool) -> Vec<(BackendId, u32)> {
        let members: Vec<_> = self.members(pool).into_iter().map(|id| (id, self[id].weight)).collect();
        let Some(share) = pool.canary else { return members };
        let is_of = |id: BackendId| self[id].set == share.set;
        let sum = |of: bool| -> u128 {
            members.iter().filter(|(id, _)| is_of(*id) == of).map(|(_, weight)| u128::from(*weight)).sum()
        };
        // So that the set's weights are to the others' as its share is to theirs, whatever they were.
        let permille = u128::from(share.permille.min(1_000));
        let (own, others) = (permille * sum(false), (1_000 - permille) * sum(true));
        let scale =
            |&(id, weight): &(BackendId, u32)| u128::from(weight) * if is_of(id) { own } else { others };
        let largest = members.iter().map(scale).max().unwrap_or(1).max(1);
        let fitted = |member: &(BackendId, u32)| {
            let weight = (scale(member) * SCALED_WEIGHT + largest / 2) / largest;
            (member.0, u32::try_from(weight).unwrap_or(u32::MAX).max(1))
        };
        members.iter().map(fitted).collect()
    }

    /// The client region whose longest prefix holds `address`; `default` if none does.
    ///
    /// Linear in the number of prefixes: for explanations and tests. The data plane has its own structure.
    #[must_use]
    pub fn client_region_of(&self, address: IpAddr) -> ClientRegionId {
        let matches = self.client_regions.iter().enumerate().flat_map(|(index, region)| {
            let longest = region.prefixes.iter().filter(|p| p.contains(address)).map(|p| p.length()).max();
            longest.map(|length| (length, index))
        });
        let best = matches.max().map_or(0, |(_, index)| index);
        ClientRegionId::from_index(best).expect("the number of client regions is limited")
    }
}

macro_rules! index {
    ($($id:ty => $owner:ty, $table:ident, $output:ty;)*) => {$(
        impl Index<$id> for $owner {
            type Output = $output;
            fn index(&self, id: $id) -> &$output {
                &self.$table[id.index()]
            }
        }
    )*};
}

index! {
    DomainId => Topology, domains, Domain;
    ClientRegionId => Config, client_regions, ClientRegion;
    CheckId => Config, checks, Check;
    SetId => Config, sets, Set;
    BackendId => Config, backends, Backend;
    ServiceId => Config, services, Service;
    PoolIndex => Service, pools, Pool;
}

impl Protocol {
    /// `tcp`, `udp` or `sctp`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
