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

use std::collections::{BTreeSet, HashMap};

use lb_common::abi::{
    admission::Admission,
    backend::BackendEntry,
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
    service::{SERVICE_SPILLS, SERVICE_STEERED, SERVICE_VIP_ONLY, ServiceEntry},
};
use lb_maglev::is_marked;
use thiserror::Error;

use super::ids::{BackendIndex, Endpoint, Front, ServiceIndex};
use super::image::Image;
use super::prefix::{PrefixBuilder, PrefixTableError, PrefixTables};
use super::quic::{self, TakenPools};
use super::words;
use super::{index, keys};

mod home;
mod indices;
mod leaving;

pub use home::untracked;
pub use indices::recover;

use home::{Home, by_other_regions, home, mark, regions};
use indices::{backend_indices, ids, service_indices};

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
    /// Those of services that left whose clients' regions are not what they were when their flows opened.
    leaving_elsewhere: Vec<u32>,
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
        let leaving_elsewhere = Vec::new();
        Self { image, running, report, backends, services, leaving_elsewhere, domains, taken }
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
            let service = self.running.services[at];
            entries[at] = self.take_along(at as u32, &service, &mut bases)?;
            if regions(&service) > 1 && (self.other_clients() || by_other_regions(self.running)) {
                (entries[at].previous_base, entries[at].previous_plans) = (0, 0);
                self.leaving_elsewhere.push(at as u32);
            }
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

    /// Marks slots and writes `PREVIOUS` for every service that goes on, and for those that left while client regions change: their
    /// flows are at home where the regions of before say.
    fn compare_homes(&mut self) -> Result<(), TransitionError> {
        let mut compared = HashMap::new();
        let mut earlier = HashMap::new();
        for at in [self.services.clone(), self.leaving_elsewhere.clone()].concat() {
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

    /// Whether client regions change.
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
