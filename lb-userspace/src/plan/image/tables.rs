//! An image as the decision code reads it.

use std::borrow::Borrow;
use std::cell::Cell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use lb_common::abi::{
    admission::{Admission, AdmissionWords},
    backend::BackendEntry,
    counter::Counter,
    flow::{FlowEntry, FlowKey, FlowWords, FragmentEntry, FragmentKey, OPENING_WAYS, opening_sets},
    guard::{GuardCounts, GuardEntry, NodeGuard},
    limits::{ADMISSION_WORDS, DEFAULT_FLOW_ENTRIES_PER_CPU},
    plan::{PlanEntry, PoolEntry},
    prefix::{PrefixNode, PrefixTable},
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{PortRanges, ServiceBucket, ServiceEntry},
};
use lb_common::datapath::answers::{BUDGETS, Budget};
use lb_common::datapath::filter::Allowance;
use lb_common::datapath::flow::FlowTable;
use lb_common::datapath::hash::flow_hash;
use lb_common::datapath::openings::{self, OpeningSet, SET_WORDS};
use lb_common::datapath::parse::Tuple;
use lb_common::datapath::{
    ports::{Buckets, Clock, Tables},
    prefix::PrefixNodes,
};
use lb_common::net::{AddressWords, words_address};

use crate::plan::flow_map::FlowMap;
use crate::plan::guard::Guards;

use super::Image;

/// The data plane in this process's memory: what tests and golden packets run the decisions on.
pub struct ImageTables {
    image: Image,
    admissions: Box<AdmissionWords>,
    fragments: Mutex<HashMap<FragmentKey, FragmentEntry>>,
    answers_booked_ns: [AtomicU64; BUDGETS],
    flows: Mutex<FlowMap>,
    openings: Mutex<Vec<[u64; SET_WORDS]>>,
    filter: Mutex<Vec<u8>>,
    allowance: Mutex<Allowance>,
    counters: Mutex<Vec<Counter>>,
    arrivals: Vec<AtomicU64>,
    guard_counts: Mutex<Vec<GuardCounts>>,
    now_ns: AtomicU64,
    random: AtomicU32,
}

impl ImageTables {
    /// Tables with an empty flow table and counters at 0.
    #[must_use]
    pub fn new(image: Image) -> Self {
        let counters = vec![Counter::default(); image.counter_slots() as usize];
        let mut admissions = Box::new(AdmissionWords([Admission::OPEN.0; ADMISSION_WORDS]));
        for (word, admission) in admissions.0.iter_mut().zip(&image.admission) {
            *word = admission.0;
        }
        let filter = vec![0; image.root.flow_filter_mask as usize + 1];
        Self {
            admissions,
            fragments: Mutex::default(),
            answers_booked_ns: Default::default(),
            flows: Mutex::new(FlowMap::new(DEFAULT_FLOW_ENTRIES_PER_CPU as usize)),
            openings: Mutex::new(vec![[0; SET_WORDS]; image.root.opening_sets as usize]),
            filter: Mutex::new(filter),
            allowance: Mutex::default(),
            arrivals: arrivals(&image.guards),
            guard_counts: Mutex::new(vec![GuardCounts::default(); image.guards.services.len()]),
            counters: Mutex::new(counters),
            now_ns: AtomicU64::new(0),
            random: AtomicU32::new(0),
            image,
        }
    }

    /// The image, with the words and next hops that were set.
    #[must_use]
    pub const fn image(&self) -> &Image {
        &self.image
    }

    /// Stores a backend's admission word.
    ///
    /// # Panics
    /// If there is no such backend.
    pub fn set_backend_admission(&mut self, backend: usize, word: Admission) {
        self.image.backends[backend].admission = word;
    }

    /// Stores a word of the admission array: a domain's, or a pool's from [`MAX_DOMAINS`] on.
    ///
    /// # Panics
    /// If `index` is outside the array.
    pub fn set_admission(&mut self, index: usize, word: Admission) {
        self.image.admission[index] = word;
        self.admissions.0[index] = word.0;
    }

    /// Sets the clock.
    pub fn set_now_ns(&self, now_ns: u64) {
        self.now_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Gives every backend the same next hop: by `ifindex` to `destination` from `source`, with an MTU in bytes.
    pub fn set_next_hops(&mut self, ifindex: u32, destination: [u8; 6], source: [u8; 6], mtu: u16) {
        for entry in &mut self.image.backends {
            entry.ethernet[..6].copy_from_slice(&destination);
            entry.ethernet[6..12].copy_from_slice(&source);
            entry.ifindex = ifindex;
            entry.mtu = mtu;
        }
    }

    /// The guards, to change live words.
    pub const fn guards_mut(&mut self) -> &mut Guards {
        &mut self.image.guards
    }

    /// Sets and clears bits of the root's `features`.
    pub const fn set_features(&mut self, features: u32) {
        self.image.root.features = features;
    }

    /// Packets that a guard refused, by reason.
    ///
    /// # Panics
    /// If there is no such guard.
    #[must_use]
    pub fn guard_counts(&self, guard: u32) -> GuardCounts {
        self.guard_counts.lock().unwrap_or_else(PoisonError::into_inner)[guard as usize]
    }

    /// The counter in a slot; see [`lb_common::abi::counter`].
    ///
    /// # Panics
    /// If there is no such slot.
    #[must_use]
    pub fn counter(&self, slot: u32) -> Counter {
        lock(&self.counters)[slot as usize]
    }

    /// All entries of one of the tables of flows, sorted by key.
    #[must_use]
    pub fn flows(&self, table: FlowTable) -> Vec<(FlowKey, FlowEntry)> {
        match table {
            FlowTable::Flows => lock(&self.flows).entries(),
            FlowTable::Openings => self.openings_found_by(&self.image.root),
        }
    }

    /// Sets how many entries the tables of flows hold. Of established flows the least recently used go, where there are more; of opening
    /// ones whole sets are counted, and what does not fit into the new ones goes.
    pub fn set_flow_capacity(&mut self, flows: usize, openings: usize) {
        lock(&self.flows).set_capacity(flows);
        self.image.root.opening_sets = opening_sets(openings as u32);
        let held = self.openings_found_by(&self.image.root);
        self.set_openings(&held);
    }

    /// Removes an entry of one of the tables of flows.
    pub fn remove_flow(&self, table: FlowTable, key: &FlowKey) {
        match table {
            FlowTable::Flows => drop(lock(&self.flows).remove(key)),
            FlowTable::Openings => drop(self.with_opening(key, openings::remove)),
        }
    }

    /// Writes an opening flow down, as the program would.
    pub fn remember_opening(&self, key: &FlowKey, entry: FlowEntry) {
        let now_ns = self.now_ns();
        self.with_opening(key, |set, h, key| openings::write(set, h, now_ns, key, entry));
    }

    /// Entries of `OPENINGS` by the hash key of a root, sorted by key.
    fn openings_found_by(&self, root: &Root) -> Vec<(FlowKey, FlowEntry)> {
        let sets = lock(&self.openings);
        let hash = |key: &FlowWords| flow_hash(&root.hash_key, &Tuple::of(key));
        let ways = sets.iter().flat_map(|set| (0..OPENING_WAYS).map(move |way| (set, way)));
        let entries = ways.filter_map(|(set, way)| openings::entry(set, way, hash));
        let mut all: Vec<_> = entries.map(|(key, entry)| (key.key(), entry)).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    /// Makes these the only entries of `OPENINGS`, as far as its sets hold them.
    fn set_openings(&self, entries: &[(FlowKey, FlowEntry)]) {
        *lock(&self.openings) = vec![[0; SET_WORDS]; self.image.root.opening_sets as usize];
        entries.iter().for_each(|(key, entry)| self.remember_opening(key, *entry));
    }

    fn with_opening<R>(
        &self,
        key: &FlowKey,
        act: impl FnOnce(&OpeningSet, u64, &FlowWords) -> R,
    ) -> Option<R> {
        let root = &self.image.root;
        let words = FlowWords::of(key);
        let h = flow_hash(&root.hash_key, &Tuple::of(&words));
        self.opening_set(openings::set_of(h, root.opening_sets), |set| act(set, h, &words))
    }

    /// Takes over what a generation hands on to the next one: both tables of flows and, if it is of the same size, the flow
    /// filter.
    pub fn take_flows_of(&mut self, other: &Self) {
        self.flows = Mutex::new(lock(&other.flows).clone());
        self.set_openings(&other.openings_found_by(&other.image.root));
        let filter = lock(&other.filter).clone();
        if filter.len() == lock(&self.filter).len() {
            self.filter = Mutex::new(filter);
        }
    }

    /// The image, for what the daemon changes while programs run.
    pub const fn image_mut(&mut self) -> &mut Image {
        &mut self.image
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Clock for ImageTables {
    fn now_ns(&self) -> u64 {
        self.now_ns.load(Ordering::Relaxed)
    }

    fn random(&self) -> u32 {
        // A sequence that visits every number once: the same in every run, and without any pattern that a test could meet.
        self.random.fetch_add(0x9e37_79b9, Ordering::Relaxed)
    }
}

impl Buckets for ImageTables {
    fn arrival(&self, bucket: u32) -> Option<u64> {
        self.arrivals.get(bucket as usize).map(|at| at.load(Ordering::Relaxed))
    }

    fn set_arrival(&self, bucket: u32, at: u64) {
        if let Some(arrival) = self.arrivals.get(bucket as usize) {
            arrival.store(at, Ordering::Relaxed);
        }
    }

    fn advance_arrival(&self, bucket: u32, by: u64) {
        if let Some(arrival) = self.arrivals.get(bucket as usize) {
            arrival.fetch_add(by, Ordering::Relaxed);
        }
    }
}

impl PrefixNodes for ImageTables {
    fn prefix_table(&self, index: u32) -> Option<impl Borrow<PrefixTable>> {
        self.image.prefix.prefix_table(index)
    }

    fn prefix_entry(&self, index: u32) -> Option<u32> {
        self.image.prefix.prefix_entry(index)
    }

    fn prefix_node(&self, index: u32) -> Option<impl Borrow<PrefixNode>> {
        self.image.prefix.prefix_node(index)
    }

    fn prefix_value(&self, index: u32) -> Option<u16> {
        self.image.prefix.prefix_value(index)
    }
}

impl Tables for ImageTables {
    fn root(&self) -> Option<&Root> {
        Some(&self.image.root)
    }

    fn bucket(&self, index: u32) -> Option<&ServiceBucket> {
        self.image.buckets.get(index as usize)
    }

    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        self.image.services.get(index as usize)
    }

    fn port_ranges(&self, index: u32) -> Option<&PortRanges> {
        self.image.port_ranges.get(index as usize)
    }

    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }

    fn keep_fragment(&self, key: &FragmentKey, entry: FragmentEntry) {
        self.fragments.lock().unwrap_or_else(PoisonError::into_inner).insert(*key, entry);
    }

    fn answers_booked_ns(&self, budget: Budget) -> u64 {
        self.answers_booked_ns[budget as usize].load(Ordering::Relaxed)
    }

    fn book_answers_ns(&self, budget: Budget, until: u64) {
        self.answers_booked_ns[budget as usize].store(until, Ordering::Relaxed);
    }

    fn plan(&self, index: u32) -> Option<&PlanEntry> {
        self.image.plans.get(index as usize)
    }

    fn pool(&self, index: u32) -> Option<&PoolEntry> {
        self.image.pools.get(index as usize)
    }

    fn slot(&self, index: u32) -> Option<u16> {
        self.image.slots.get(index as usize).copied()
    }

    fn backend(&self, index: u32) -> Option<&BackendEntry> {
        self.image.backends.get(index as usize)
    }

    fn admissions(&self) -> Option<&AdmissionWords> {
        Some(&self.admissions)
    }

    fn previous(&self, index: u32) -> Option<&PoolEntry> {
        self.image.previous.get(index as usize)
    }

    fn quic_server(&self, key: &QuicServerKey) -> Option<QuicServer> {
        let found = self.image.quic.binary_search_by_key(key, |(known, _)| *known).ok()?;
        Some(self.image.quic[found].1)
    }

    fn interface_address(&self, ifindex: u32) -> Option<[u8; 6]> {
        self.image.interfaces.iter().find(|(index, _)| *index == ifindex).map(|(_, address)| *address)
    }

    fn flow(&self, key: &FlowWords, touch: impl FnOnce(u32) -> u32) -> Option<FlowEntry> {
        lock(&self.flows).get(&key.key(), touch)
    }

    fn remember(&self, key: &FlowWords, entry: FlowEntry) {
        lock(&self.flows).insert(key.key(), entry);
    }

    fn forget(&self, key: &FlowWords) -> bool {
        lock(&self.flows).remove(&key.key())
    }

    fn opening_set<R>(&self, set: u32, act: impl FnOnce(&OpeningSet) -> R) -> Option<R> {
        let mut sets = lock(&self.openings);
        let words = Cell::from_mut(sets.get_mut(set as usize)?);
        Some(act(words.as_array_of_cells()))
    }

    fn filter(&self, index: u32) -> u8 {
        lock(&self.filter).get(index as usize).copied().unwrap_or(u8::MAX)
    }

    fn set_filter(&self, index: u32, epoch: u8) {
        if let Some(byte) = lock(&self.filter).get_mut(index as usize) {
            *byte = epoch;
        }
    }

    fn insert_allowance(&self, spend: impl FnOnce(&mut Allowance) -> bool) -> bool {
        spend(&mut lock(&self.allowance))
    }

    fn guard(&self, index: u32) -> Option<&GuardEntry> {
        self.image.guards.services.get(index as usize)
    }

    fn node_guard(&self) -> Option<&NodeGuard> {
        Some(&self.image.guards.node)
    }

    fn blocked_until(&self, scope: u32, source: &AddressWords) -> u32 {
        let address = IpAddr::from(words_address(source)).to_canonical();
        let blocked = self.image.guards.blocked.iter();
        let matches = blocked.filter(|blocked| blocked.scope == scope && blocked.prefix.contains(address));
        matches.max_by_key(|blocked| blocked.prefix.length()).map_or(0, |blocked| blocked.until)
    }

    fn count_guard(&self, guard: u32, reason: u32) {
        let mut counts = self.guard_counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(guard as usize) {
            count.packets[reason as usize & 7] += 1;
        }
    }

    fn count(&self, slot: u32, bytes: u64, opening: bool, dropped: bool) {
        let mut counters = lock(&self.counters);
        let Some(counter) = counters.get_mut(slot as usize) else {
            return;
        };
        if dropped {
            counter.dropped += 1;
            return;
        }
        counter.packets += 1;
        counter.bytes += bytes;
        counter.opening += u64::from(opening);
    }
}

fn arrivals(guards: &Guards) -> Vec<AtomicU64> {
    let arrivals: Vec<_> = (0..guards.buckets()).map(|_| AtomicU64::new(0)).collect();
    for &(bucket, at) in &guards.arrivals {
        arrivals[bucket as usize].store(at, Ordering::Relaxed);
    }
    arrivals
}
