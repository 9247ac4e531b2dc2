//! The live maps as the decision code reads them.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use lb_common::abi::{
    admission::{Admission, AdmissionWords},
    backend::BackendEntry,
    flow::{FlowEntry, FlowKey, FlowWords, FragmentEntry, FragmentKey},
    guard::{GuardEntry, NodeGuard},
    limits::ADMISSION_WORDS,
    plan::{PlanEntry, PoolEntry},
    pod::Pod,
    prefix::{ENTRIES_PER_LINE, PrefixNode, PrefixTable, VALUES_PER_LINE},
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{PortRanges, ServiceBucket, ServiceEntry},
};
use lb_common::datapath::answers::Budget;
use lb_common::datapath::filter::Allowance;
use lb_common::datapath::openings::OpeningSet;
use lb_common::datapath::{
    ports::{Buckets, Clock, Tables},
    prefix::PrefixNodes,
};
use lb_common::net::AddressWords;

use super::generation::Generation;
use super::opening_table::Openings;
use crate::runtime::clock::monotonic_ns;

/// Opens [`Observation`]s of the live maps.
#[derive(Clone, Debug)]
pub struct LiveTables {
    generation: Arc<Generation>,
    constant: Arc<Constant>,
}

/// What does not change within a generation.
#[derive(Debug)]
struct Constant {
    buckets: Vec<ServiceBucket>,
    port_ranges: Vec<PortRanges>,
    pools: Vec<PoolEntry>,
    previous: Vec<PoolEntry>,
    /// Backends that server ids of QUIC name.
    quic: BTreeSet<u32>,
}

/// The live maps at one moment: root, services, plans, admission words and backends are copies from when it was made; tables, client regions and
/// flows are looked up in the maps. Nothing is written: what the decision code wants remembered, forgotten or counted is
/// passed over.
pub struct Observation {
    tables: LiveTables,
    /// With the live words of this moment.
    root: Root,
    guards: Vec<GuardEntry>,
    node_guard: Option<NodeGuard>,
    services: Vec<ServiceEntry>,
    plans: Vec<PlanEntry>,
    backends: Vec<BackendEntry>,
    admissions: Box<AdmissionWords>,
}

impl LiveTables {
    pub(super) fn new(generation: Arc<Generation>) -> Self {
        fn all<T: Pod>(map: &super::maps::MappedArray<T>) -> Vec<T> {
            map.read_all(map.len())
        }
        let constant = Constant {
            buckets: all(&generation.buckets),
            port_ranges: all(&generation.port_ranges),
            pools: all(&generation.pools),
            previous: all(&generation.previous),
            quic: generation.quic_servers().iter().map(|(_, server)| server.backend).collect(),
        };
        Self { generation, constant: Arc::new(constant) }
    }

    /// Whether connection ids of QUIC may name a backend.
    #[must_use]
    pub fn is_named_by_quic(&self, backend: u32) -> bool {
        self.constant.quic.contains(&backend)
    }

    /// The maps as they are now.
    #[must_use]
    pub fn observe(&self) -> Observation {
        let mut admissions = Box::new(AdmissionWords([Admission::OPEN.0; ADMISSION_WORDS]));
        for (index, word) in admissions.0.iter_mut().enumerate() {
            if let Some(stored) = self.generation.admission.load_u32(index, 0) {
                *word = stored;
            }
        }
        Observation {
            tables: self.clone(),
            root: self.generation.root(),
            guards: self.generation.guards.read_all(self.generation.guards.len()),
            node_guard: self.generation.node_guard.read(0),
            services: self.generation.services.read_all(self.generation.services.len()),
            plans: self.generation.plans.read_all(self.generation.plans.len()),
            backends: self.generation.backends.read_all(self.generation.backends.len()),
            admissions,
        }
    }
}

impl Clock for Observation {
    fn now_ns(&self) -> u64 {
        monotonic_ns()
    }

    /// The middle of the range: what is shed at random is shown as shed where that is more likely than not.
    fn random(&self) -> u32 {
        u32::MAX / 2
    }
}

impl Buckets for Observation {
    fn arrival(&self, bucket: u32) -> Option<u64> {
        self.tables.generation.buckets_of_limits.read(bucket as usize)
    }

    fn set_arrival(&self, _: u32, _: u64) {}

    fn advance_arrival(&self, _: u32, _: u64) {}
}

impl PrefixNodes for Observation {
    fn prefix_table(&self, index: u32) -> Option<impl Borrow<PrefixTable>> {
        self.tables.generation.prefix_tables.read(index as usize)
    }

    fn prefix_entry(&self, index: u32) -> Option<u32> {
        let line = self.tables.generation.prefix_entries.read(index as usize / ENTRIES_PER_LINE)?;
        Some(line.0[index as usize % ENTRIES_PER_LINE])
    }

    fn prefix_node(&self, index: u32) -> Option<impl Borrow<PrefixNode>> {
        self.tables.generation.prefix_nodes.read(index as usize)
    }

    fn prefix_value(&self, index: u32) -> Option<u16> {
        let line = self.tables.generation.prefix_values.read(index as usize / VALUES_PER_LINE)?;
        Some(line.0[index as usize % VALUES_PER_LINE])
    }
}

impl Tables for Observation {
    fn root(&self) -> Option<&Root> {
        Some(&self.root)
    }

    fn bucket(&self, index: u32) -> Option<&ServiceBucket> {
        self.tables.constant.buckets.get(index as usize)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.services.get(index as usize)
    }

    fn port_ranges(&self, index: u32) -> Option<&PortRanges> {
        self.tables.constant.port_ranges.get(index as usize)
    }

    /// What is asked about is whole.
    fn fragment(&self, _: &FragmentKey) -> Option<FragmentEntry> {
        None
    }

    fn keep_fragment(&self, _: &FragmentKey, _: FragmentEntry) {}

    fn answers_booked_ns(&self, _: Budget) -> u64 {
        0
    }

    fn book_answers_ns(&self, _: Budget, _: u64) {}

    fn plan(&self, index: u32) -> Option<&PlanEntry> {
        self.plans.get(index as usize)
    }

    fn pool(&self, index: u32) -> Option<&PoolEntry> {
        self.tables.constant.pools.get(index as usize)
    }

    fn slot(&self, index: u32) -> Option<u16> {
        self.tables.generation.slots.read(index as usize)
    }

    fn backend(&self, index: u32) -> Option<&BackendEntry> {
        self.backends.get(index as usize)
    }

    fn admissions(&self) -> Option<&AdmissionWords> {
        Some(&self.admissions)
    }

    fn previous(&self, index: u32) -> Option<&PoolEntry> {
        self.tables.constant.previous.get(index as usize)
    }

    fn quic_server(&self, key: &QuicServerKey) -> Option<QuicServer> {
        let key: [u8; size_of::<QuicServerKey>()] = key.as_bytes().try_into().ok()?;
        QuicServer::from_bytes(&self.tables.generation.quic.get(&key, 0).ok()?)
    }

    fn interface_address(&self, ifindex: u32) -> Option<[u8; 6]> {
        let [address @ .., _, _] = self.tables.generation.interfaces.get(&ifindex, 0).ok()?;
        Some(address)
    }

    fn flow(&self, key: &FlowWords, _: impl FnOnce(u32) -> u32) -> Option<FlowEntry> {
        let key: [u8; size_of::<FlowKey>()] = key.key().as_bytes().try_into().ok()?;
        FlowEntry::from_bytes(&self.tables.generation.flows.get(&key, 0).ok()?)
    }

    fn remember(&self, _: &FlowWords, _: FlowEntry) {}

    fn forget(&self, _: &FlowWords) -> bool {
        false
    }

    /// What `act` changes is lost: observing changes nothing.
    fn opening_set<R>(&self, set: u32, act: impl FnOnce(&OpeningSet) -> R) -> Option<R> {
        let words = Openings::of(&self.tables.generation).set(set)?;
        Some(act(&words.map(Cell::new)))
    }

    fn filter(&self, index: u32) -> u8 {
        let filter = &self.tables.generation.filter;
        // Read in pairs, as words of 16 bits are the smallest that an array is accessed by.
        filter.read(index as usize / 2).map_or(u8::MAX, |pair| pair.to_ne_bytes()[index as usize % 2])
    }

    fn set_filter(&self, _: u32, _: u8) {}

    fn insert_allowance(&self, _: impl FnOnce(&mut Allowance) -> bool) -> bool {
        true
    }

    fn guard(&self, index: u32) -> Option<&GuardEntry> {
        self.guards.get(index as usize)
    }

    fn node_guard(&self) -> Option<&NodeGuard> {
        self.node_guard.as_ref()
    }

    fn blocked_until(&self, scope: u32, source: &AddressWords) -> u32 {
        let [a, b, c, d] = *source;
        self.tables.generation.blocked.get(&Key::new(160, [scope, a, b, c, d]), 0).unwrap_or(0)
    }

    fn count_guard(&self, _: u32, _: u32) {}

    fn count(&self, _: u32, _: u64, _: bool, _: bool) {}
}
