//! What the entries of the tables of flows need, so that all else may go: marks, words that are not clean, old entries. Pure.
//!
//! A flow's entry is found only if something on the way to its home says that it may be there: the mark of its slot, or a word
//! that is not clean. The walk makes the marks exact: every entry that is needed gets its slot marked. Then no open word is
//! needed for any entry, and a mark that none needs can go. An entry is needed if it names another backend than the flow's home,
//! or, during a transition, if its slot is marked: a flow without an entry is then at home where home was before.
//!
//! Entries that come while the walk is under way are no danger: they come because of a word that is not open, which is not
//! made clean, or in a transition, in which no mark goes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use lb_common::abi::flow::{FLOW_CLOSING, FlowEntry, FlowKey, FlowWords};
use lb_common::abi::service::SERVICE_MULTI_PLAN;
use lb_common::datapath::flow::FlowTable;
use lb_common::datapath::parse::Tuple;
use lb_common::datapath::ports::Tables;
use lb_common::datapath::{classify, filter, hash};
use lb_maglev::{is_marked, member_id};

use super::ids::BackendIndex;

/// After how long a flow is forgotten that its client closed, or that only opened: a TCP client's last packets come within two
/// segment lifetimes (RFC 9293, section 3.4.1), its second one at once.
pub const CLOSED_IDLE: Duration = Duration::from_secs(120);

/// What is to be done with one entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// It stays.
    Keep {
        /// Index of its byte of the flow filter, which is for `FLOWS` only.
        filter: Option<u32>,
    },
    /// It goes: the flow has ended, or has been silent for too long.
    Remove,
}

/// What a walk found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Entries of `FLOWS` that stay.
    pub flows: u64,
    /// Entries of `OPENINGS` that stay.
    pub openings: u64,
    /// Entries that go.
    pub removed: u64,
    /// Entries that stay, by backend.
    pub by_backend: BTreeMap<BackendIndex, u64>,
    /// Slots whose marks are needed.
    pub needed: BTreeSet<u32>,
}

impl Found {
    /// The marks that can go. Only when no transition runs, and none ran when the walk began.
    #[must_use]
    pub fn superfluous(&self, marked: &[u32]) -> Vec<u32> {
        marked.iter().copied().filter(|slot| !self.needed.contains(slot)).collect()
    }
}

/// A walk over both tables of flows, `OPENINGS` first: a flow moves from there to `FLOWS`, never back.
#[derive(Debug)]
pub struct Walk<'t, T> {
    tables: &'t T,
    now: u32,
    idle: u32,
    closed_idle: u32,
    found: Found,
}

impl<'t, T: Tables> Walk<'t, T> {
    /// Begins. Established flows are forgotten after `flow_idle` without a packet.
    pub fn new(tables: &'t T, flow_idle: Duration) -> Self {
        let units = |time: Duration| (time.as_nanos() >> 30) as u32;
        Self {
            tables,
            now: (tables.now_ns() >> 30) as u32 & !FLOW_CLOSING,
            idle: units(flow_idle),
            closed_idle: units(CLOSED_IDLE),
            found: Found::default(),
        }
    }

    /// Takes one entry in.
    pub fn entry(&mut self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> Verdict {
        let closed = entry.seen & FLOW_CLOSING != 0 || table == FlowTable::Openings;
        let most = if closed { self.closed_idle } else { self.idle };
        if age(self.now, entry.seen).is_some_and(|age| age > most) {
            self.found.removed += 1;
            return Verdict::Remove;
        }
        match table {
            FlowTable::Flows => self.found.flows += 1,
            FlowTable::Openings => self.found.openings += 1,
        }
        *self.found.by_backend.entry(BackendIndex(entry.backend)).or_default() += 1;
        let Some(root) = self.tables.root() else { return Verdict::Keep { filter: None } };
        let tuple = Tuple::of(&FlowWords::of(key));
        let h = hash::flow_hash(&root.hash_key, &tuple);
        if let Some(home) = home(self.tables, &tuple, h)
            && (home.member != entry.backend || home.in_transition && home.marked)
        {
            self.found.needed.insert(home.slot);
        }
        let is_filtered = table == FlowTable::Flows;
        Verdict::Keep { filter: is_filtered.then(|| filter::index(root.flow_filter_mask, h)) }
    }

    /// Ends.
    #[must_use]
    pub fn finish(self) -> Found {
        self.found
    }
}

/// A flow's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Home {
    slot: u32,
    pub(super) member: u32,
    marked: bool,
    in_transition: bool,
}

/// How long ago an entry was [seen](FlowEntry::seen), in units of 2^30 ns, at a moment in these units; `None` if that is to come: it was
/// written after the moment was read.
pub(super) const fn age(now: u32, seen: u32) -> Option<u32> {
    // The clock's units wrap around within 31 bits.
    let age = now.wrapping_sub(seen & !FLOW_CLOSING) & !FLOW_CLOSING;
    // What is to come seems to be as old as can be.
    if age > FLOW_CLOSING / 2 { None } else { Some(age) }
}

/// The home of a flow by the tables as they are; `None` for a flow of no service.
pub(super) fn home<T: Tables>(tables: &T, tuple: &Tuple, h: u64) -> Option<Home> {
    let root = tables.root()?;
    let (_, service) = classify::service(tables, root, tuple)?;
    let mut pool = service.first;
    if service.flags & SERVICE_MULTI_PLAN != 0 {
        let region = tables.client_region(&tuple.source);
        let plan = service.plan_base + if region < service.plans { region } else { 0 };
        pool = tables.plan(plan)?.first;
    }
    if pool.table_slots == 0 {
        return None;
    }
    let slot = pool.table_base + lb_maglev::reduce(h, pool.table_slots);
    let content = tables.slot(slot)?;
    Some(Home {
        slot,
        member: u32::from(member_id(content)),
        marked: is_marked(content),
        in_transition: service.previous_base != 0,
    })
}

#[cfg(test)]
pub(super) mod tests {
    use lb_common::abi::pod::Pod;
    use lb_common::net::address_bytes;
    use std::net::IpAddr;

    use super::super::compile::compile;
    use super::super::image::ImageTables;
    use super::*;
    use crate::config::Config;

    /// One service with two backends.
    pub(in crate::plan) const TEXT: &str = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.r0]
z0 = ["k0"]
[[set]]
name = "s"
domain = "r0/z0/k0"
checks = []
[[set.backend]]
name = "a"
rack = "r0/z0/k0"
address = "10.1.0.1"
weight = 100
[[set.backend]]
name = "b"
rack = "r0/z0/k0"
address = "10.1.0.2"
weight = 100
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "p"
sets = ["s"]
table_size = 4093
"#;
    const IDLE: Duration = Duration::from_secs(3600);

    fn tables() -> ImageTables {
        let tables = ImageTables::new(compile(&Config::parse(TEXT, "t").unwrap()).unwrap());
        tables.set_now_ns(10_000 << 30);
        tables
    }

    fn key(port: u16) -> FlowKey {
        FlowKey {
            source: address_bytes(IpAddr::from([198, 51, 100, 7])),
            destination: address_bytes(IpAddr::from([192, 0, 2, 10])),
            source_port: port.to_be_bytes(),
            destination_port: 80_u16.to_be_bytes(),
            protocol: 6,
            ..FlowKey::zeroed()
        }
    }

    fn home_of(tables: &ImageTables, port: u16) -> Home {
        let tuple = Tuple::of(&FlowWords::of(&key(port)));
        home(tables, &tuple, hash::flow_hash(&tables.root().unwrap().hash_key, &tuple)).unwrap()
    }

    #[test]
    fn an_entry_away_from_home_needs_its_slot_and_one_at_home_nothing() {
        let tables = tables();
        let mut walk = Walk::new(&tables, IDLE);
        for port in 1..=20 {
            let home = home_of(&tables, port);
            let backend = if port <= 10 { home.member } else { 1 - home.member };
            let entry = FlowEntry { backend, seen: 10_000 };
            assert!(matches!(walk.entry(FlowTable::Flows, &key(port), &entry), Verdict::Keep { .. }));
        }
        let found = walk.finish();
        let needed: BTreeSet<_> = (11..=20).map(|port| home_of(&tables, port).slot).collect();
        assert_eq!(found.needed, needed);
        assert_eq!((found.flows, found.by_backend.values().sum::<u64>()), (20, 20));
        let other = (0..4093).find(|slot| !needed.contains(slot)).unwrap();
        let marked: Vec<_> = needed.iter().copied().chain([other]).collect();
        assert_eq!(found.superfluous(&marked), [other]);
    }

    #[test]
    fn in_transition_a_marked_slot_is_needed_by_an_entry_at_home_too() {
        let mut tables = tables();
        let at_home = home_of(&tables, 1);
        tables.image_mut().services[0].previous_base = 1;
        tables.image_mut().slots[at_home.slot as usize] |= lb_maglev::SLOT_MARK;
        let mut walk = Walk::new(&tables, IDLE);
        for port in 1..=2 {
            let entry = FlowEntry { backend: home_of(&tables, port).member, seen: 10_000 };
            let _ = walk.entry(FlowTable::Flows, &key(port), &entry);
        }
        assert_eq!(walk.finish().needed, [at_home.slot].into());
    }

    #[test]
    fn what_is_silent_for_too_long_goes() {
        let tables = tables();
        let units = |time: Duration| (time.as_nanos() >> 30) as u32;
        let cases = [
            (FlowTable::Flows, 10_000 - units(IDLE), false, true),
            (FlowTable::Flows, 10_000 - units(IDLE) - 1, false, false),
            (FlowTable::Flows, 10_000 - units(CLOSED_IDLE), true, true),
            (FlowTable::Flows, 10_000 - units(CLOSED_IDLE) - 1, true, false),
            (FlowTable::Openings, 10_000 - units(CLOSED_IDLE) - 1, false, false),
            (FlowTable::Flows, 10_001, false, true),
        ];
        for (table, seen, closing, stays) in cases {
            let seen = seen | if closing { FLOW_CLOSING } else { 0 };
            let verdict = Walk::new(&tables, IDLE).entry(table, &key(1), &FlowEntry { backend: 0, seen });
            assert_eq!(matches!(verdict, Verdict::Keep { .. }), stays, "{table:?} {seen:x}");
        }
    }
}
