//! What changes while programs run: admission words and next hops. Everything is stored by aligned words, and only words
//! of one's own: the two writers work on the same backend entries at the same time.

use std::mem::offset_of;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::abi::admission::Admission;
use lb_common::abi::backend::{BACKEND_LEAVING, BACKEND_ON_LINK, BACKEND_TAGGED, BackendEntry};
use serde::Serialize;

use super::generation::Generation;
use crate::plan::ids::{BackendIndex, Ids};
use crate::plan::planner::{AdmissionStore, Cell};

/// Writes admission words. Each store is one aligned 32-bit store and effective on the next packet.
#[derive(Clone, Debug)]
pub struct AdmissionWriter {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
}

impl AdmissionWriter {
    pub(super) const fn new(generation: Arc<Generation>, ids: Arc<Ids>) -> Self {
        Self { generation, ids }
    }

    /// Stores the word of a backend; `None` when there is no such backend.
    pub fn store_backend(&self, backend: BackendIndex, word: Admission) -> Option<()> {
        self.generation.backends.store_u32(backend.position(), offset_of!(BackendEntry, admission), word.0)
    }

    /// Loads the word of a backend; `None` when there is no such backend.
    #[must_use]
    pub fn load_backend(&self, backend: BackendIndex) -> Option<Admission> {
        let at = offset_of!(BackendEntry, admission);
        self.generation.backends.load_u32(backend.position(), at).map(Admission)
    }

    /// Stores a word of the admission array; `None` when it has no such word.
    pub fn store_array(&self, index: usize, word: Admission) -> Option<()> {
        self.generation.admission.store_u32(index, 0, word.0)
    }

    /// Loads a word of the admission array; `None` when it has no such word.
    #[must_use]
    pub fn load_array(&self, index: usize) -> Option<Admission> {
        self.generation.admission.load_u32(index, 0).map(Admission)
    }
}

impl AdmissionStore for AdmissionWriter {
    fn store(&mut self, cell: Cell, word: Admission) {
        let stored = match (cell, cell.admission_index()) {
            (Cell::Backend(backend), _) => self.store_backend(self.ids.backend(backend), word),
            (_, Some(index)) => self.store_array(index, word),
            (_, None) => None,
        };
        debug_assert!(stored.is_some(), "{cell:?} is not of this generation's configuration");
    }

    /// A cell that is not of this generation's configuration reads as closed.
    fn load(&self, cell: Cell) -> Admission {
        let word = match (cell, cell.admission_index()) {
            (Cell::Backend(backend), _) => self.load_backend(self.ids.backend(backend)),
            (_, Some(index)) => self.load_array(index),
            (_, None) => None,
        };
        word.unwrap_or(Admission::CLOSED)
    }
}

/// How packets to a backend leave the host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NextHop {
    /// Interface; not 0.
    pub ifindex: u32,
    /// Ethernet address of the next hop.
    pub destination: [u8; 6],
    /// Ethernet address of the interface.
    pub source: [u8; 6],
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// Whether it is the backend itself and no router.
    pub on_link: bool,
    /// Number of the VLAN whose tag frames carry.
    pub vlan: Option<u16>,
}

/// Writes next hops.
#[derive(Clone, Debug)]
pub struct NextHopWriter {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
}

/// Offset of the word that holds region and MTU; the region is constant within a generation.
const MTU_AT: usize = offset_of!(BackendEntry, region);
const IFINDEX_AT: usize = offset_of!(BackendEntry, ifindex);
const ETHERNET_AT: usize = offset_of!(BackendEntry, ethernet);
const FLAGS_AT: usize = offset_of!(BackendEntry, flags);
/// Offset of the word that holds the VLAN and two bytes of nothing.
const VLAN_AT: usize = offset_of!(BackendEntry, vlan);
/// Words of both Ethernet addresses.
const ADDRESS_WORDS: usize = 3;

const _: () = assert!(MTU_AT.is_multiple_of(4) && offset_of!(BackendEntry, mtu) == MTU_AT + 2);
const _: () = assert!(FLAGS_AT.is_multiple_of(4) && VLAN_AT.is_multiple_of(4));
const _: () = assert!(offset_of!(BackendEntry, reserved) == VLAN_AT + 2);
const _: () = assert!(IFINDEX_AT.is_multiple_of(4) && ETHERNET_AT.is_multiple_of(4));

impl NextHopWriter {
    pub(super) const fn new(generation: Arc<Generation>, ids: Arc<Ids>) -> Self {
        Self { generation, ids }
    }

    /// All backends with their tunnel endpoints: those of the configuration in the order of their ids, then those that left it and
    /// still have flows.
    #[must_use]
    pub fn targets(&self) -> Vec<(BackendIndex, IpAddr)> {
        let entries = self.generation.backends.read_all(self.generation.backends.len());
        let leaving = (0..).map(BackendIndex).zip(&entries).filter(|(_, e)| e.flags & BACKEND_LEAVING != 0);
        let all = self.ids.backends().iter().copied().chain(leaving.map(|(index, _)| index));
        all.filter_map(|index| Some((index, endpoint(entries.get(index.position())?)))).collect()
    }

    /// A backend's next hop, if it has one.
    #[must_use]
    pub fn read(&self, backend: BackendIndex) -> Option<NextHop> {
        let entry = self.generation.backends.read(backend.position())?;
        (entry.ifindex != 0).then(|| next_hop(&entry))
    }

    /// Writes a backend's next hop; `None` when there is no such backend. Packets that meet a change are dropped and
    /// counted, as the interface is 0 while the rest is written; writing what is there changes nothing.
    pub fn write(&self, backend: BackendIndex, hop: &NextHop) -> Option<()> {
        let backends = &self.generation.backends;
        let at = backend.position();
        let entry = backends.read(at)?;
        if entry.ifindex != 0 && next_hop(&entry) == *hop {
            return Some(());
        }
        self.clear(backend)?;
        let [a, b] = entry.region.to_ne_bytes();
        let [c, d] = hop.mtu.to_ne_bytes();
        backends.store_u32(at, MTU_AT, u32::from_ne_bytes([a, b, c, d]))?;
        let mut addresses = [0; 4 * ADDRESS_WORDS];
        addresses[..6].copy_from_slice(&hop.destination);
        addresses[6..].copy_from_slice(&hop.source);
        for (word, bytes) in addresses.chunks_exact(4).enumerate() {
            let value = u32::from_ne_bytes(bytes.try_into().ok()?);
            backends.store_u32(at, ETHERNET_AT + 4 * word, value)?;
        }
        let mut flags = entry.flags & !(BACKEND_ON_LINK | BACKEND_TAGGED);
        if hop.on_link {
            flags |= BACKEND_ON_LINK;
        }
        if hop.vlan.is_some() {
            flags |= BACKEND_TAGGED;
        }
        let [e, f] = hop.vlan.unwrap_or(0).to_be_bytes();
        backends.store_u32(at, VLAN_AT, u32::from_ne_bytes([e, f, 0, 0]))?;
        backends.store_u32(at, FLAGS_AT, flags)?;
        backends.store_u32(at, IFINDEX_AT, hop.ifindex)
    }

    /// Takes a backend's next hop away; `None` when there is no such backend.
    pub fn clear(&self, backend: BackendIndex) -> Option<()> {
        self.generation.backends.store_u32(backend.position(), IFINDEX_AT, 0)
    }
}

/// The tunnel endpoint in an entry.
fn endpoint(entry: &BackendEntry) -> IpAddr {
    let bytes = entry.outer_destination;
    if entry.is_outer_ipv6() {
        return IpAddr::from(bytes);
    }
    let [a, b, c, d, ..] = bytes;
    IpAddr::from([a, b, c, d])
}

/// The next hop in an entry.
pub(super) fn next_hop(entry: &BackendEntry) -> NextHop {
    let e = &entry.ethernet;
    NextHop {
        ifindex: entry.ifindex,
        destination: [e[0], e[1], e[2], e[3], e[4], e[5]],
        source: [e[6], e[7], e[8], e[9], e[10], e[11]],
        mtu: entry.mtu,
        on_link: entry.flags & BACKEND_ON_LINK != 0,
        vlan: (entry.flags & BACKEND_TAGGED != 0).then(|| u16::from_be_bytes(entry.vlan)),
    }
}

/// An Ethernet address that is shown as `02:00:00:00:00:01`.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mac(pub [u8; 6]);

impl std::fmt::Display for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl std::fmt::Debug for Mac {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for Mac {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
