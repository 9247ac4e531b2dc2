//! From one generation to the next without a broken connection. Pure.
//!
//! [`succeed`] takes what runs and a freshly compiled image, and gives the image that may follow it:
//! - backends and services keep their indices (see [`ids`](super::ids)), new ones fill gaps;
//! - those that left the configuration stay, marked as leaving, with their tables, until nobody needs them;
//! - every slot of a table whose member another one was is marked, and so is each slot that was marked already;
//! - `PREVIOUS` names, for each service and client region, the tables in which flows that no table of flows knows were at
//!   home before: [`untracked`] is the definition;
//! - server ids of QUIC go on to name what left ([`quic`](super::quic));
//! - the admission words go on as they are.
//!
//! Nothing here needs names: what is pinned in the kernel is enough, so that a daemon that was killed, or another version,
//! does the same.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use lb_common::abi::{
    admission::Admission,
    backend::{BACKEND_LEAVING, BackendEntry},
    limits::{
        ADMISSION_WORDS, MAX_BACKENDS, MAX_DOMAINS, MAX_PLANS, MAX_POOLS, MAX_SERVICES, MAX_SLOT_CHUNKS,
        SLOTS_PER_CHUNK,
    },
    plan::{PlanEntry, PoolEntry},
    pod::Pod,
    prefix::{
        ENTRIES_PER_LINE, NO_TABLE, NODE, PrefixEntries, PrefixNode, PrefixRoot, PrefixTable, VALUES_PER_LINE,
    },
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{
        SERVICE_GUARDED, SERVICE_LEAVING, SERVICE_SPILLS, SERVICE_STEERED, SERVICE_VIP_ONLY, ServiceEntry,
    },
};
use lb_maglev::{SLOT_MARK, is_marked, member_id};
use thiserror::Error;

use super::ids::{BackendIndex, Endpoint, Front, Ids, ServiceIndex};
use super::image::{Image, pool_admission_index};
use super::prefix::{PrefixBuilder, PrefixTableError, PrefixTables};
use super::quic::{self, TakenPools};
use super::words;
use super::{index, keys};

/// Service entries at most: those of services, of their VIPs, and as many again that are leaving.
const MAX_SERVICE_ENTRIES: usize = 4 * MAX_SERVICES;
/// Slots of all tables together.
const MAX_SLOTS: usize = MAX_SLOT_CHUNKS * SLOTS_PER_CHUNK;

/// A data plane that runs, as plain vectors.
#[derive(Clone, Debug, PartialEq)]
pub struct Running {
    /// The root.
    pub root: Root,
    /// The services by index.
    pub services: Vec<ServiceEntry>,
    /// The plans.
    pub plans: Vec<PlanEntry>,
    /// The pools.
    pub pools: Vec<PoolEntry>,
    /// Where untracked flows were at home.
    pub previous: Vec<PoolEntry>,
    /// All tables.
    pub slots: Vec<u16>,
    /// The backends by index, with admission words and next hops as they are now.
    pub backends: Vec<BackendEntry>,
    /// The admission array as it is now.
    pub admission: Vec<Admission>,
    /// The prefix tables, among them those of client regions.
    pub prefix: PrefixTables,
    /// Which QUIC server id is whose.
    pub quic: Vec<(QuicServerKey, QuicServer)>,
}

impl Running {
    /// An image as if it ran.
    #[must_use]
    pub fn of(image: &Image) -> Self {
        Self {
            root: image.root,
            services: image.services.clone(),
            plans: image.plans.clone(),
            pools: image.pools.clone(),
            previous: image.previous.clone(),
            slots: image.slots.clone(),
            backends: image.backends.clone(),
            admission: image.admission.clone(),
            prefix: image.prefix.clone(),
            quic: image.quic.clone(),
        }
    }

    /// Whether untracked flows of some service may still have another home than the tables say.
    #[must_use]
    pub fn is_in_transition(&self) -> bool {
        self.services.iter().any(|service| service.previous_base != 0)
    }
}

/// What left the configuration and is needed by no flow any more, by index. It is dropped with the next generation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unneeded {
    /// Backends that are leaving.
    pub backends: BTreeSet<BackendIndex>,
    /// Services that are leaving.
    pub services: BTreeSet<ServiceIndex>,
}

/// What a transition comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Services whose flows have another home now, in whole or in part.
    pub services: usize,
    /// Slots that are marked in all tables together.
    pub marked: usize,
    /// Services of which an earlier transition ended before its time, as the table's size changed once more.
    pub ended_early: usize,
    /// Backends that left the configuration and stay for their flows.
    pub leaving_backends: usize,
    /// Services that left the configuration and stay for their flows, without the entries of VIPs.
    pub leaving_services: usize,
}

/// Why an image cannot follow what runs.
#[derive(Debug, Error)]
pub enum TransitionError {
    /// No index is left for a backend.
    #[error(
        "there is no index left for a backend: {used} of {MAX_BACKENDS} are in use, {leaving} of them by backends that left \
         the configuration and still have flows; wait until those are gone (`weir status`), or let fewer leave at once"
    )]
    TooManyBackends {
        /// Indices in use.
        used: usize,
        /// Those of leaving backends.
        leaving: usize,
    },
    /// No index is left for a service.
    #[error(
        "there is no index left for a service: with those that left the configuration and still have flows there are more \
         than {MAX_SERVICE_ENTRIES}; wait until those are gone (`weir status`)"
    )]
    TooManyServices,
    /// No room for plans and pools of services that left.
    #[error(
        "the plans and pools of services that left the configuration find no room: the data plane holds {MAX_PLANS} plans \
         and {MAX_POOLS} pools; wait until those are gone (`weir status`)"
    )]
    TooManyPools,
    /// The VIP prefixes of before and of now cannot become a table.
    #[error("VIP prefixes: {0}")]
    VipPrefixes(#[source] PrefixTableError),
    /// No room for the tables of before beside those of now.
    #[error(
        "the tables of before and of now take {count} slots together, the data plane holds {MAX_SLOTS}; wait until the \
         last transition is over (`weir status`), or choose smaller table_sizes"
    )]
    TooManySlots {
        /// How many.
        count: usize,
    },
    /// The service index.
    #[error("the service index has no room for {count} services; this is a fault of Weir, please report it")]
    ServiceIndex {
        /// Services and VIPs.
        count: usize,
    },
}

/// The tables in which an untracked flow of one service and client region is at home.
///
/// "Untracked" is an established flow that the flow table does not know. Its home is, in each slot, the member of `PREVIOUS`
/// where the slot is marked and the service is in transition, else the table's.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Home {
    base: u32,
    slots: u32,
    /// The table of `PREVIOUS`, if it counts.
    earlier: Option<u32>,
}

impl Home {
    fn member(self, slots: &[u16], slot: u32) -> u16 {
        let own = slots[(self.base + slot) as usize];
        match self.earlier {
            Some(earlier) if is_marked(own) => member_id(slots[(earlier + slot) as usize]),
            _ => member_id(own),
        }
    }

    fn marked(self, slots: &[u16], slot: u32) -> bool {
        is_marked(slots[(self.base + slot) as usize])
    }
}

/// Client regions that a service tells apart, now or in the transition that runs.
fn regions(service: &ServiceEntry) -> u32 {
    if service.previous_base == 0 { service.plans } else { service.plans.max(service.previous_plans.into()) }
}

/// The home of untracked flows, and whether an earlier transition could not be taken along.
fn home(running: &Running, service: &ServiceEntry, region: u32) -> (Home, bool) {
    let own = if region < service.plans { region } else { 0 };
    let pool = running.plans[(service.plan_base + own) as usize].first;
    let plain = Home { base: pool.table_base, slots: pool.table_slots, earlier: None };
    let Some(first) = service.previous_base.checked_sub(1) else { return (plain, false) };
    let at = first + if region < u32::from(service.previous_plans) { region } else { 0 };
    let Some(previous) = running.previous.get(at as usize) else { return (plain, true) };
    let by_other_regions = running.root.previous_clients != running.root.clients
        && (service.plans > 1 || service.previous_plans > 1);
    if previous.table_slots != pool.table_slots || by_other_regions {
        return (plain, true);
    }
    (Home { earlier: Some(previous.table_base), ..plain }, false)
}

/// The backend at which an untracked flow of a service is at home. `None` without members.
///
/// `region` is the flow's client region, `before` that by the client regions before the last change. This is what the data
/// plane does with an established packet that the flow table does not know, if everything is open.
#[must_use]
pub fn untracked(
    running: &Running,
    service: ServiceIndex,
    (region, before): (u32, u32),
    h: u64,
) -> Option<BackendIndex> {
    let entry = running.services.get(service.position())?;
    let within = |region: u32, count: u32| if region < count { region } else { 0 };
    if entry.plans == 0 {
        return None;
    }
    let pool = running.plans.get((entry.plan_base + within(region, entry.plans)) as usize)?.first;
    let slot = |pool: &PoolEntry| {
        let at = pool.table_base + lb_maglev::reduce(h, pool.table_slots);
        running.slots.get(at as usize).copied().filter(|_| pool.table_slots != 0)
    };
    let own = slot(&pool)?;
    let previous = entry.previous_base.checked_sub(1).filter(|_| is_marked(own));
    let previous = previous
        .and_then(|first| {
            running.previous.get((first + within(before, entry.previous_plans.into())) as usize)
        })
        .and_then(slot);
    Some(BackendIndex(u32::from(member_id(previous.unwrap_or(own)))))
}

/// Gives an image that was compiled from the configuration of what runs the indices that run; `None` if they are not of one
/// configuration.
#[must_use]
pub fn recover(image: &Image, running: &Running) -> Option<Ids> {
    let backends = backend_indices(image, running);
    let services = service_indices(image, running);
    let is_same_backend = |(entry, &at): (&BackendEntry, &u32)| {
        let old = running.backends.get(at as usize);
        old.is_some_and(|old| old.flags & BACKEND_LEAVING == 0 && Endpoint::of(old) == Endpoint::of(entry))
    };
    let is_same_service = |(entry, &at): (&ServiceEntry, &u32)| {
        let old = running.services.get(at as usize);
        old.is_some_and(|old| old.flags & SERVICE_LEAVING == 0 && Front::of(old) == Front::of(entry))
    };
    let good = image.backends.iter().zip(&backends).all(is_same_backend)
        && image.services.iter().zip(&services).all(is_same_service);
    good.then(|| ids(image, &backends, &services))
}

fn ids(image: &Image, backends: &[u32], services: &[u32]) -> Ids {
    let services = services[..image.names.services.len()].iter().copied().map(ServiceIndex).collect();
    Ids::new(backends.iter().copied().map(BackendIndex).collect(), services)
}

/// The index of each backend of a compiled image, in its order.
fn backend_indices(image: &Image, running: &Running) -> Vec<u32> {
    assign(
        &image.backends.iter().map(Endpoint::of).collect::<Vec<_>>(),
        &running.backends.iter().map(Endpoint::of).collect::<Vec<_>>(),
        |at| running.backends[at].flags & BACKEND_LEAVING != 0,
    )
}

/// The index of each service entry of a compiled image, in its order.
fn service_indices(image: &Image, running: &Running) -> Vec<u32> {
    assign(
        &image.services.iter().map(Front::of).collect::<Vec<_>>(),
        &running.services.iter().map(Front::of).collect::<Vec<_>>(),
        |at| running.services[at].flags & SERVICE_LEAVING != 0,
    )
}

/// The index of each of `wanted`: that of the same identity in `present` if there is one, those that are not leaving first,
/// else the lowest gap. Where several share an identity they get its indices in ascending order, so that the same assignment
/// can be found again from what is in the maps.
fn assign<K: Copy + Eq + std::hash::Hash>(
    wanted: &[Option<K>],
    present: &[Option<K>],
    leaving: impl Fn(usize) -> bool,
) -> Vec<u32> {
    let mut known: HashMap<K, Vec<u32>> = HashMap::new();
    for (at, key) in present.iter().enumerate() {
        if let Some(key) = key {
            known.entry(*key).or_default().push(at as u32);
        }
    }
    for indices in known.values_mut() {
        indices.sort_by_key(|&at| (leaving(at as usize), at));
    }
    let mut gaps = (0..).filter(|&at: &u32| present.get(at as usize).is_none_or(Option::is_none));
    let mut of_key: HashMap<Option<K>, Vec<usize>> = HashMap::new();
    for (position, key) in wanted.iter().enumerate() {
        of_key.entry(*key).or_default().push(position);
    }
    let mut indices = vec![u32::MAX; wanted.len()];
    let mut done = BTreeSet::new();
    // In the order of `wanted`, so that gaps are filled in that order too.
    for key in wanted {
        let positions = &of_key[key];
        if !done.insert(positions[0]) {
            continue;
        }
        let mut own: Vec<u32> = key
            .and_then(|key| known.get(&key))
            .map(|own| own.iter().copied().take(positions.len()).collect())
            .unwrap_or_default();
        while own.len() < positions.len() {
            own.extend(gaps.next());
        }
        own.sort_unstable();
        for (&position, at) in positions.iter().zip(own) {
            indices[position] = at;
        }
    }
    indices
}

/// The image that may follow what runs.
///
/// # Errors
/// [`TransitionError`] when both do not fit beside each other; what runs is not touched by that.
pub fn succeed(
    image: Image,
    running: &Running,
    unneeded: &Unneeded,
) -> Result<(Image, Report), TransitionError> {
    let mut successor = Successor::new(image, running);
    successor.place_backends(unneeded)?;
    successor.place_services(unneeded)?;
    successor.compare_homes()?;
    successor.finish()
}

struct Successor<'a> {
    image: Image,
    running: &'a Running,
    report: Report,
    /// Index of each backend of the compiled image, in its order.
    backends: Vec<u32>,
    /// Index of each service entry of the compiled image, in its order.
    services: Vec<u32>,
    domains: words::DomainMap,
    /// Where the pools of services that left lie now.
    taken: TakenPools,
}

impl<'a> Successor<'a> {
    fn new(image: Image, running: &'a Running) -> Self {
        let backends = backend_indices(&image, running);
        let services = service_indices(&image, running);
        let domains = words::DomainMap::new(&image, running, &backends);
        let (report, taken) = (Report::default(), TakenPools::new());
        Self { image, running, report, backends, services, domains, taken }
    }

    /// Puts the backends at their indices, keeps those that left, and rewrites the tables.
    fn place_backends(&mut self, unneeded: &Unneeded) -> Result<(), TransitionError> {
        let taken: BTreeSet<_> = self.backends.iter().copied().collect();
        let leaving = |at: usize| {
            let is_there = Endpoint::of(&self.running.backends[at]).is_some();
            is_there && !taken.contains(&(at as u32)) && !unneeded.backends.contains(&BackendIndex(at as u32))
        };
        let leaving: Vec<_> = (0..self.running.backends.len()).filter(|&at| leaving(at)).collect();
        let length =
            taken.last().map_or(0, |&last| last as usize + 1).max(leaving.last().map_or(0, |&at| at + 1));
        if length > MAX_BACKENDS {
            return Err(TransitionError::TooManyBackends {
                used: taken.len() + leaving.len(),
                leaving: leaving.len(),
            });
        }
        let mut entries = vec![BackendEntry::zeroed(); length];
        for (entry, &at) in self.image.backends.iter().zip(&self.backends) {
            let running = self.running.backends.get(at as usize);
            let same = running.filter(|running| Endpoint::of(running) == Endpoint::of(entry));
            entries[at as usize] =
                same.map_or(*entry, |running| words::go_on(entry, running, self.running, &self.domains));
        }
        let spare = spare_word(&self.image).ok_or(TransitionError::TooManyPools)?;
        for &at in &leaving {
            entries[at] = words::leave(&self.running.backends[at], self.running, &self.domains, spare);
        }
        for slot in &mut self.image.slots {
            *slot = self.backends[usize::from(*slot)] as u16;
        }
        self.report.leaving_backends = leaving.len();
        self.image.backends = entries;
        self.image.admission.resize(ADMISSION_WORDS, Admission::OPEN);
        self.domains.carry(&mut self.image.admission, self.running);
        Ok(())
    }

    /// Puts the services at their indices and keeps those that left, with their plans, pools and tables.
    fn place_services(&mut self, unneeded: &Unneeded) -> Result<(), TransitionError> {
        let taken: BTreeSet<_> = self.services.iter().copied().collect();
        let leaving = |at: usize| {
            let is_there = Front::of(&self.running.services[at]).is_some();
            is_there && !taken.contains(&(at as u32)) && !unneeded.services.contains(&ServiceIndex(at as u32))
        };
        let leaving: Vec<_> = (0..self.running.services.len()).filter(|&at| leaving(at)).collect();
        let length =
            taken.last().map_or(0, |&last| last as usize + 1).max(leaving.last().map_or(0, |&at| at + 1));
        if length > MAX_SERVICE_ENTRIES {
            return Err(TransitionError::TooManyServices);
        }
        let mut entries = vec![ServiceEntry::zeroed(); length];
        for (entry, &at) in self.image.services.iter().zip(&self.services) {
            entries[at as usize] = *entry;
        }
        self.carry_pool_marks(&mut entries);
        self.carry_steering(&mut entries);
        let mut bases = HashMap::new();
        for &at in &leaving {
            entries[at] = self.take_along(at as u32, &self.running.services[at].clone(), &mut bases)?;
        }
        let is_service = |&&at: &&usize| self.running.services[at].flags & SERVICE_VIP_ONLY == 0;
        self.report.leaving_services = leaving.iter().filter(is_service).count();
        self.image.services = entries;
        Ok(())
    }

    /// A pool's word is not clean if one of the service's pools was not: flows may be in the flow table because of it.
    fn carry_pool_marks(&mut self, entries: &mut [ServiceEntry]) {
        for &at in &self.services {
            let Some(running) = self.same_service(at, &entries[at as usize]) else { continue };
            let unclean = pools_of(running, &self.running.plans, &self.running.pools)
                .any(|pool| !self.running.admission[usize::from(pool.admission)].is_clean());
            if unclean {
                let own: Vec<_> =
                    pools_of(&entries[at as usize], &self.image.plans, &self.image.pools).collect();
                for pool in own {
                    let word = &mut self.image.admission[usize::from(pool.admission)];
                    *word = Admission(word.0 & !Admission::CLEAN);
                }
            }
        }
    }

    /// What steers goes on as it is, until the daemon has looked anew: flows may be in the flow table because of it. Words of a plan
    /// with another number of steps mean nothing to this one.
    fn carry_steering(&mut self, entries: &mut [ServiceEntry]) {
        for &at in &self.services {
            let entry = &mut entries[at as usize];
            let Some(running) = self.running.services.get(at as usize) else { continue };
            if Front::of(running) != Front::of(entry) {
                continue;
            }
            entry.flags |= running.flags & (SERVICE_SPILLS | SERVICE_STEERED);
            if entry.plans != running.plans {
                continue;
            }
            for (now, before) in plans_of(entry).zip(plans_of(running)) {
                let (now, before) = (&mut self.image.plans[now], &self.running.plans[before]);
                if now.steps == before.steps {
                    (now.shares, now.leaves, now.eased) = (before.shares, before.leaves, before.eased);
                }
            }
        }
    }

    /// The running service at an index, if it is the same service.
    fn same_service(&self, at: u32, entry: &ServiceEntry) -> Option<&'a ServiceEntry> {
        let running: &'a Running = self.running;
        running.services.get(at as usize).filter(|service| Front::of(service) == Front::of(entry))
    }

    /// A service that left, over copies of its plans, pools and tables. `bases` says where a running table lies now.
    fn take_along(
        &mut self,
        at: u32,
        service: &ServiceEntry,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<ServiceEntry, TransitionError> {
        let mut entry = ServiceEntry {
            flags: (service.flags | SERVICE_LEAVING) & !(SERVICE_GUARDED | SERVICE_STEERED),
            // None: neither limits nor switches of a service are for what is left of another one.
            guard: u16::MAX,
            plan_base: self.image.plans.len() as u32,
            ..*service
        };
        let mut pools: BTreeMap<u16, PoolEntry> = BTreeMap::new();
        for plan in plans_of(service) {
            let mut plan = self.running.plans[plan];
            for step in plan.pools.iter_mut().take(plan.steps as usize) {
                let pool = match pools.get(step) {
                    Some(pool) => *pool,
                    None => self.take_pool(&self.running.pools[usize::from(*step)].clone(), bases)?,
                };
                pools.insert(*step, pool);
                self.taken.insert((at, u32::from(*step)), pool.pool);
                *step = pool.pool as u16;
            }
            plan.first = self.image.pools[usize::from(plan.pools[0])];
            self.image.plans.push(plan);
        }
        if self.image.plans.len() > MAX_PLANS {
            return Err(TransitionError::TooManyPools);
        }
        if entry.plans > 0 {
            entry.first = self.image.plans[entry.plan_base as usize].first;
        }
        if let Some(first) = service.previous_base.checked_sub(1) {
            let range = first as usize..(first + u32::from(service.previous_plans)) as usize;
            entry.previous_base = self.image.previous.len() as u32 + 1;
            let running: &'a Running = self.running;
            for &previous in &running.previous[range] {
                let table_base = self.take_table(previous.table_base, previous.table_slots, bases)?;
                self.image.previous.push(PoolEntry { table_base, ..previous });
            }
        }
        Ok(entry)
    }

    fn take_pool(
        &mut self,
        pool: &PoolEntry,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<PoolEntry, TransitionError> {
        let number = self.image.pools.len();
        if number >= MAX_POOLS {
            return Err(TransitionError::TooManyPools);
        }
        let table_base = self.take_table(pool.table_base, pool.table_slots, bases)?;
        let admission = pool_admission_index(number);
        self.image.admission[admission] = self.running.admission[usize::from(pool.admission)];
        let entry = PoolEntry { table_base, admission: admission as u16, pool: number as u32, ..*pool };
        self.image.pools.push(entry);
        Ok(entry)
    }

    fn take_table(
        &mut self,
        base: u32,
        slots: u32,
        bases: &mut HashMap<(u32, u32), u32>,
    ) -> Result<u32, TransitionError> {
        if let Some(&known) = bases.get(&(base, slots)) {
            return Ok(known);
        }
        let table: Vec<_> = self.running.slots[base as usize..(base + slots) as usize].to_vec();
        let at = self.append(&table)?;
        bases.insert((base, slots), at);
        Ok(at)
    }

    fn append(&mut self, table: &[u16]) -> Result<u32, TransitionError> {
        let base = self.image.slots.len();
        let count = base + table.len();
        if count > MAX_SLOTS {
            return Err(TransitionError::TooManySlots { count });
        }
        self.image.slots.extend_from_slice(table);
        Ok(base as u32)
    }

    /// Marks slots and writes `PREVIOUS` for every service that goes on.
    fn compare_homes(&mut self) -> Result<(), TransitionError> {
        let mut compared = HashMap::new();
        let mut earlier = HashMap::new();
        for at in self.services.clone() {
            let entry = self.image.services[at as usize];
            let Some(running) = self.same_service(at, &entry) else { continue };
            if entry.plans == 0 || running.plans == 0 {
                continue;
            }
            let homes: Vec<_> =
                (0..regions(running)).map(|region| home(self.running, running, region)).collect();
            self.report.ended_early += usize::from(homes.iter().any(|(_, early)| *early));
            let mut previous = Vec::with_capacity(homes.len());
            let mut moved = false;
            for (region, &(home, _)) in (0..).zip(&homes) {
                let (own, differs) = self.compare_region(&entry, running, region, home, &mut compared);
                moved |= differs;
                previous.push((home, own, differs));
            }
            if moved {
                self.report.services += 1;
                self.write_previous(at, &previous, &mut earlier)?;
            }
        }
        Ok(())
    }

    /// Compares an old region's home with every table in which its clients may be at home now. Returns one of those, and
    /// whether any differs.
    fn compare_region(
        &mut self,
        entry: &ServiceEntry,
        running: &ServiceEntry,
        region: u32,
        home: Home,
        compared: &mut HashMap<(Home, u32, u32), bool>,
    ) -> (PoolEntry, bool) {
        let one_to_one = regions(running) == entry.plans && !self.other_clients();
        let regions = if one_to_one { region..region + 1 } else { 0..entry.plans };
        let mut differs = false;
        let mut own = entry.first;
        for now in regions {
            own = self.image.plans[(entry.plan_base + now) as usize].first;
            let (base, slots) = (own.table_base, own.table_slots);
            differs |= *compared
                .entry((home, base, slots))
                .or_insert_with(|| mark(&mut self.image.slots, &self.running.slots, home, base, slots));
        }
        (own, differs)
    }

    fn other_clients(&self) -> bool {
        self.image.root.clients_digest != self.running.root.clients_digest
    }

    fn write_previous(
        &mut self,
        at: u32,
        homes: &[(Home, PoolEntry, bool)],
        earlier: &mut HashMap<Home, u32>,
    ) -> Result<(), TransitionError> {
        let base = self.image.previous.len() as u32 + 1;
        for &(home, own, differs) in homes {
            let table_base = match (differs, earlier.get(&home)) {
                (false, _) => own.table_base,
                (true, Some(&known)) => known,
                (true, None) => {
                    let members = (0..home.slots)
                        .map(|slot| home.member(&self.running.slots, slot))
                        .collect::<Vec<_>>();
                    let table_base = self.append(&members)?;
                    earlier.insert(home, table_base);
                    table_base
                }
            };
            self.image.previous.push(PoolEntry { table_base, table_slots: home.slots, ..own });
        }
        let entry = &mut self.image.services[at as usize];
        entry.previous_base = base;
        entry.previous_plans = homes.len() as u16;
        Ok(())
    }

    /// The service index over all entries, the ids, and room for counters.
    fn finish(mut self) -> Result<(Image, Report), TransitionError> {
        let keys = keys::keys(&self.image.services);
        let index = index::build(&keys).ok_or(TransitionError::ServiceIndex { count: keys.len() })?;
        self.image.buckets = index.buckets;
        self.image.port_ranges = keys::port_ranges(&mut self.image.services);
        keys::relate(&mut self.image.services);
        self.image.root.features |= keys::features(&self.image.services);
        if keys::has_leaving_prefix(&self.image.services) {
            let vip_prefixes = keys::vip_prefixes(&self.image.services);
            // Prefixes that left: packets of flows to them are still to be told from others.
            let mut builder = PrefixBuilder::new();
            let table = builder.add(&vip_prefixes).map_err(TransitionError::VipPrefixes)?;
            self.image.root.vip_prefixes = append_prefixes(&mut self.image.prefix, &builder.finish()) + table;
        }
        if self.other_clients() && self.report.services > 0 {
            let first = append_prefixes(&mut self.image.prefix, &self.running.prefix);
            self.image.root.previous_clients = if self.running.root.clients == NO_TABLE {
                NO_TABLE
            } else {
                first + self.running.root.clients
            };
        }
        for (key, server) in &mut self.image.quic {
            key.service = self.services[key.service as usize];
            server.backend = self.backends[server.backend as usize];
        }
        quic::keep(&mut self.image, self.running, &self.taken);
        let root = &mut self.image.root;
        root.bucket_mask = self.image.buckets.len() as u32 - 1;
        root.service_seed = index.seed;
        self.image.ids = ids(&self.image, &self.backends, &self.services);
        self.report.marked = self.image.slots.iter().filter(|&&slot| is_marked(slot)).count();
        self.image.reserve_counters(Some(&self.running.root));
        Ok((self.image, self.report))
    }
}

/// Marks the slots of a table whose member is not where untracked flows were at home, and those that were marked. Returns
/// whether any member differs.
fn mark(now: &mut [u16], before: &[u16], home: Home, base: u32, slots: u32) -> bool {
    let table = &mut now[base as usize..(base + slots) as usize];
    if home.slots != slots {
        table.iter_mut().for_each(|slot| *slot |= SLOT_MARK);
        return home.slots != 0 && slots != 0;
    }
    let mut differs = false;
    for (at, slot) in (0..).zip(table) {
        let moved = home.member(before, at) != member_id(*slot);
        differs |= moved;
        if moved || home.marked(before, at) {
            *slot |= SLOT_MARK;
        }
    }
    differs
}

/// Puts other prefix tables behind a set of them; returns the number of the first one.
fn append_prefixes(all: &mut PrefixTables, more: &PrefixTables) -> u32 {
    let first = all.tables.len() as u32;
    let entries = (all.entries.len() * ENTRIES_PER_LINE) as u32;
    let (nodes, values) = (all.nodes.len() as u32, (all.values.len() * VALUES_PER_LINE) as u32);
    let root = |root: PrefixRoot| PrefixRoot { first_entry: root.first_entry + entries, ..root };
    all.tables.extend(more.tables.iter().map(|table| PrefixTable { v4: root(table.v4), v6: root(table.v6) }));
    let entry = |entry: u32| if entry & NODE == 0 { entry } else { NODE | ((entry & !NODE) + nodes) };
    all.entries.extend(more.entries.iter().map(|line| PrefixEntries(line.0.map(entry))));
    all.nodes.extend(more.nodes.iter().map(|node| PrefixNode {
        first_child: node.first_child + nodes,
        first_value: node.first_value + values,
        ..*node
    }));
    all.values.extend_from_slice(&more.values);
    first
}

fn plans_of(service: &ServiceEntry) -> std::ops::Range<usize> {
    service.plan_base as usize..(service.plan_base + service.plans) as usize
}

fn pools_of<'p>(
    service: &ServiceEntry,
    plans: &'p [PlanEntry],
    pools: &'p [PoolEntry],
) -> impl Iterator<Item = PoolEntry> + use<'p> {
    plans[plans_of(service)].iter().flat_map(move |plan| {
        plan.pools.iter().take(plan.steps as usize).map(move |&pool| pools[usize::from(pool)])
    })
}

/// A word of the admission array that nobody uses and nobody stores to: it stays open.
fn spare_word(image: &Image) -> Option<u16> {
    let domains = image.names.domains.len();
    if domains < MAX_DOMAINS {
        return Some(domains as u16);
    }
    let last = ADMISSION_WORDS - 1;
    (image.pools.len() < MAX_POOLS).then_some(last as u16)
}

#[cfg(test)]
#[path = "transition_tests.rs"]
mod tests;
