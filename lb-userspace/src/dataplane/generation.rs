//! One generation: a complete set of the edge's maps.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use aya::maps::lpm_trie::Key;
use aya::maps::{HashMap, LpmTrie, Map, MapData, MapInfo, MapType};
use lb_common::abi::{
    ABI_VERSION,
    admission::Admission,
    backend::BackendEntry,
    counter::Counter,
    flow::{FlowEntry, FlowKey, FragmentEntry, FragmentKey, OPENING_LINES, OpeningLine, opening_sets},
    guard::{GuardCounts, GuardEntry, NodeGuard},
    limits::{
        ADMISSION_WORDS, FLOW_FILTER_CHUNK, MAX_BLOCKED, MAX_FRAGMENTED, MAX_INTERFACES, SLOTS_PER_CHUNK,
    },
    next::NEXT_PROGRAMS,
    plan::{PlanEntry, PoolEntry},
    pod::Pod,
    prefix::{PrefixEntries, PrefixNode, PrefixTable, PrefixValues},
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{PortRanges, ServiceBucket, ServiceEntry},
};

use super::maps::MappedArray;
use super::netlink::Interface;
use super::sys;
use crate::plan::image::Image;
use crate::plan::prefix::PrefixTables;
use crate::plan::transition::Running;

/// What a map must be like.
struct Shape {
    name: &'static str,
    kind: MapType,
    key_size: usize,
    value_size: usize,
}

const fn array(name: &'static str, value_size: usize) -> Shape {
    Shape { name, kind: MapType::Array, key_size: 4, value_size }
}

/// All maps of the edge.
const SHAPES: [Shape; 27] = [
    array("ROOT", size_of::<Root>()),
    array("SERVICE_INDEX", size_of::<ServiceBucket>()),
    array("SERVICES", size_of::<ServiceEntry>()),
    array("PORT_RANGES", size_of::<PortRanges>()),
    Shape {
        name: "FRAGMENTS",
        kind: MapType::LruHash,
        key_size: size_of::<FragmentKey>(),
        value_size: size_of::<FragmentEntry>(),
    },
    array("PLANS", size_of::<PlanEntry>()),
    array("POOLS", size_of::<PoolEntry>()),
    array("PREVIOUS", size_of::<PoolEntry>()),
    array("SLOTS", 2 * SLOTS_PER_CHUNK),
    array("BACKENDS", size_of::<BackendEntry>()),
    array("ADMISSION", 4 * ADMISSION_WORDS),
    array("COUNTERS", size_of::<Counter>()),
    array("GUARDS", size_of::<GuardEntry>()),
    array("NODE_GUARD", size_of::<NodeGuard>()),
    array("BUCKETS", size_of::<u64>()),
    array("GUARD_COUNTS", size_of::<GuardCounts>()),
    Shape { name: BLOCKED, kind: MapType::LpmTrie, key_size: 24, value_size: 4 },
    array("PREFIX_TABLES", size_of::<PrefixTable>()),
    array("PREFIX_ENTRIES", size_of::<PrefixEntries>()),
    array("PREFIX_NODES", size_of::<PrefixNode>()),
    array("PREFIX_VALUES", size_of::<PrefixValues>()),
    Shape {
        name: FLOWS,
        kind: MapType::LruHash,
        key_size: size_of::<FlowKey>(),
        value_size: size_of::<FlowEntry>(),
    },
    Shape {
        name: QUIC_SERVERS,
        kind: MapType::Hash,
        key_size: size_of::<QuicServerKey>(),
        value_size: size_of::<QuicServer>(),
    },
    Shape { name: INTERFACES, kind: MapType::Hash, key_size: 4, value_size: 8 },
    array(OPENINGS, size_of::<[OpeningLine; OPENING_LINES]>()),
    array("FLOW_FILTER", FLOW_FILTER_CHUNK),
    Shape { name: NEXT, kind: MapType::ProgramArray, key_size: 4, value_size: 4 },
];
/// Name of the map of programs to go on to.
pub(super) const NEXT: &str = "NEXT";
/// Name of the map of blocked source prefixes.
pub(super) const BLOCKED: &str = "BLOCKED";
/// Name of the map of QUIC server ids.
const QUIC_SERVERS: &str = "QUIC_SERVERS";
/// Name of the map of interfaces' addresses.
const INTERFACES: &str = "INTERFACES";
/// Name of the flow table.
pub(super) const FLOWS: &str = "FLOWS";
/// Name of the table of flows of which only the opening packet was seen.
pub(super) const OPENINGS: &str = "OPENINGS";

/// Names of all maps of the edge.
pub(super) fn map_names() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

/// How many entries each map has for an image, in the order of [`map_names`].
pub(super) fn map_sizes(
    image: &Image,
    flow_entries: u32,
    opening_entries: u32,
) -> [(&'static str, u32); SHAPES.len()] {
    let size_of_map = |name| match name {
        "SERVICE_INDEX" => image.buckets.len() as u32,
        "SERVICES" => image.services.len() as u32,
        "PORT_RANGES" => image.port_ranges.len() as u32,
        "FRAGMENTS" => MAX_FRAGMENTED,
        "PLANS" => image.plans.len() as u32,
        "POOLS" => image.pools.len() as u32,
        "PREVIOUS" => image.previous.len() as u32,
        "SLOTS" => image.slots.len().div_ceil(SLOTS_PER_CHUNK) as u32,
        "BACKENDS" => image.backends.len() as u32,
        "GUARDS" => image.guards.services.len() as u32,
        "BUCKETS" => image.guards.buckets(),
        "GUARD_COUNTS" => image.guards.services.len() as u32 * image.root.counter_cpus,
        BLOCKED => MAX_BLOCKED as u32,
        "COUNTERS" => image.counter_slots() * (image.root.counter_cpus + 1),
        "PREFIX_TABLES" => image.prefix.tables.len() as u32,
        "PREFIX_ENTRIES" => image.prefix.entries.len() as u32,
        "PREFIX_NODES" => image.prefix.nodes.len() as u32,
        "PREFIX_VALUES" => image.prefix.values.len() as u32,
        FLOWS => flow_entries,
        OPENINGS => opening_sets(opening_entries),
        QUIC_SERVERS => image.quic.len() as u32,
        INTERFACES => MAX_INTERFACES as u32,
        NEXT => NEXT_PROGRAMS,
        "FLOW_FILTER" => (image.root.flow_filter_mask as usize + 1).div_ceil(FLOW_FILTER_CHUNK) as u32,
        _ => 1,
    };
    std::array::from_fn(|i| (SHAPES[i].name, size_of_map(SHAPES[i].name).max(1)))
}

/// Memory of each map of such a size, in bytes.
pub(super) fn map_bytes<'s>(
    sizes: &'s [(&'static str, u32); SHAPES.len()],
) -> impl Iterator<Item = (&'static str, u64)> + use<'s> {
    SHAPES.iter().zip(sizes).map(|(shape, &(name, entries))| (name, shape.bytes(entries)))
}

/// Memory that the kernel takes for one entry of a hash beside key and value: `struct htab_elem`, its place in the list, and a
/// bucket for each; seen on Linux 6.18.
const HASH_OVERHEAD: usize = 64 + 16;
/// The same for one entry of a trie, and the node that it may split.
const TRIE_OVERHEAD: usize = 2 * 40;
/// Memory-mapped arrays are whole pages.
const PAGE: u64 = 4096;

impl Shape {
    /// Memory of so many entries.
    fn bytes(&self, entries: u32) -> u64 {
        let (key, value) = (self.key_size.next_multiple_of(8), self.value_size.next_multiple_of(8));
        let of = |bytes: usize| u64::from(entries) * bytes as u64;
        match self.kind {
            MapType::Array => of(value).next_multiple_of(PAGE),
            MapType::RingBuf => entries.into(),
            MapType::LpmTrie => of(key + value + TRIE_OVERHEAD),
            _ => of(key + value + HASH_OVERHEAD),
        }
    }
}

/// One generation's maps, open and mapped.
#[derive(Debug)]
pub struct Generation {
    fds: Vec<(&'static str, OwnedFd, u32)>,
    pub(super) root: MappedArray<Root>,
    pub(super) buckets: MappedArray<ServiceBucket>,
    pub(super) services: MappedArray<ServiceEntry>,
    pub(super) port_ranges: MappedArray<PortRanges>,
    pub(super) plans: MappedArray<PlanEntry>,
    pub(super) pools: MappedArray<PoolEntry>,
    pub(super) previous: MappedArray<PoolEntry>,
    pub(super) slots: MappedArray<u16>,
    pub(super) backends: MappedArray<BackendEntry>,
    pub(super) admission: MappedArray<Admission>,
    pub(super) counters: MappedArray<Counter>,
    pub(super) quic: HashMap<MapData, [u8; size_of::<QuicServerKey>()], [u8; size_of::<QuicServer>()]>,
    pub(super) interfaces: HashMap<MapData, u32, [u8; 8]>,
    pub(super) guards: MappedArray<GuardEntry>,
    pub(super) node_guard: MappedArray<NodeGuard>,
    pub(super) buckets_of_limits: MappedArray<u64>,
    pub(super) guard_counts: MappedArray<GuardCounts>,
    pub(super) blocked: LpmTrie<MapData, [u32; 5], u32>,
    pub(super) prefix_tables: MappedArray<PrefixTable>,
    pub(super) prefix_entries: MappedArray<PrefixEntries>,
    pub(super) prefix_nodes: MappedArray<PrefixNode>,
    pub(super) prefix_values: MappedArray<PrefixValues>,
    pub(super) flows: HashMap<MapData, [u8; size_of::<FlowKey>()], [u8; size_of::<FlowEntry>()]>,
    /// Line by line.
    pub(super) openings: MappedArray<OpeningLine>,
    /// The flow filter, two bytes an element.
    pub(super) filter: MappedArray<u16>,
}

impl Generation {
    /// Opens and maps the maps that `open` gives by name.
    ///
    /// # Errors
    /// In words, with the map's name: what could not be opened, or is not like it must be.
    pub(super) fn new(mut open: impl FnMut(&'static str) -> Result<MapData, String>) -> Result<Self, String> {
        let mut fds = Vec::with_capacity(SHAPES.len());
        for shape in &SHAPES {
            let name = shape.name;
            let map = open(name).map_err(|error| format!("map {name}: {error}"))?;
            let entries = check_shape(&map, shape).map_err(|problem| format!("map {name}: {problem}"))?;
            let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| format!("map {name}: {error}"))?;
            fds.push((name, fd, entries));
        }
        Ok(Self {
            root: mapped(&fds, "ROOT")?,
            buckets: mapped(&fds, "SERVICE_INDEX")?,
            services: mapped(&fds, "SERVICES")?,
            port_ranges: mapped(&fds, "PORT_RANGES")?,
            plans: mapped(&fds, "PLANS")?,
            pools: mapped(&fds, "POOLS")?,
            previous: mapped(&fds, "PREVIOUS")?,
            slots: mapped_flat(&fds, "SLOTS", SLOTS_PER_CHUNK)?,
            backends: mapped(&fds, "BACKENDS")?,
            admission: mapped_flat(&fds, "ADMISSION", ADMISSION_WORDS)?,
            counters: mapped(&fds, "COUNTERS")?,
            quic: typed(&fds, QUIC_SERVERS, Map::HashMap)?,
            interfaces: typed(&fds, INTERFACES, Map::HashMap)?,
            guards: mapped(&fds, "GUARDS")?,
            node_guard: mapped(&fds, "NODE_GUARD")?,
            buckets_of_limits: mapped(&fds, "BUCKETS")?,
            guard_counts: mapped(&fds, "GUARD_COUNTS")?,
            blocked: typed(&fds, BLOCKED, Map::LpmTrie)?,
            prefix_tables: mapped(&fds, "PREFIX_TABLES")?,
            prefix_entries: mapped(&fds, "PREFIX_ENTRIES")?,
            prefix_nodes: mapped(&fds, "PREFIX_NODES")?,
            prefix_values: mapped(&fds, "PREFIX_VALUES")?,
            flows: typed(&fds, FLOWS, Map::LruHashMap)?,
            openings: mapped_flat(&fds, OPENINGS, OPENING_LINES)?,
            filter: mapped_flat(&fds, "FLOW_FILTER", FLOW_FILTER_CHUNK / 2)?,
            fds,
        })
    }

    /// Opens the pinned maps in `folder`.
    pub(super) fn open(folder: &Path) -> Result<Self, String> {
        let generation = Self::new(|name| {
            MapData::from_pin(folder.join(name)).map_err(|error| {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                format!("cannot be opened: {}", cause.unwrap_or_else(|| error.to_string()))
            })
        })?;
        match generation.root().abi_version {
            ABI_VERSION => Ok(generation),
            other => Err(format!("map ROOT says ABI {other} in a folder for ABI {ABI_VERSION}")),
        }
    }

    /// The root.
    #[must_use]
    pub fn root(&self) -> Root {
        self.root.read(0).expect("the map has one element, which its shape was checked for")
    }

    /// Entries of a map.
    pub(super) fn entries(&self, name: &str) -> Option<u32> {
        self.fds.iter().find(|(n, ..)| *n == name).map(|(.., entries)| *entries)
    }

    /// Pins all maps into `folder`.
    pub(super) fn pin(&self, folder: &Path) -> io::Result<()> {
        self.fds.iter().try_for_each(|(name, fd, _)| sys::pin(fd.as_fd(), &folder.join(name)))
    }

    /// Writes an image into the maps, the root last. Only for maps that no program uses yet.
    ///
    /// # Errors
    /// In words, with the map's name.
    pub(super) fn fill(&mut self, image: &Image) -> Result<(), String> {
        let small = |name: &str| format!("map {name} is smaller than the image");
        self.buckets.fill(&image.buckets).ok_or_else(|| small("SERVICE_INDEX"))?;
        self.services.fill(&image.services).ok_or_else(|| small("SERVICES"))?;
        self.port_ranges.fill(&image.port_ranges).ok_or_else(|| small("PORT_RANGES"))?;
        self.plans.fill(&image.plans).ok_or_else(|| small("PLANS"))?;
        self.pools.fill(&image.pools).ok_or_else(|| small("POOLS"))?;
        self.previous.fill(&image.previous).ok_or_else(|| small("PREVIOUS"))?;
        self.slots.fill(&image.slots).ok_or_else(|| small("SLOTS"))?;
        self.backends.fill(&image.backends).ok_or_else(|| small("BACKENDS"))?;
        self.admission.fill(&image.admission).ok_or_else(|| small("ADMISSION"))?;
        self.guards.fill(&image.guards.services).ok_or_else(|| small("GUARDS"))?;
        self.node_guard.write(0, &image.guards.node).ok_or_else(|| small("NODE_GUARD"))?;
        for blocked in &image.guards.blocked {
            let (length, key) = blocked.key();
            self.blocked
                .insert(&Key::new(length, key), blocked.until, 0)
                .map_err(|error| format!("map {BLOCKED}: {error}"))?;
        }
        for (key, server) in &image.quic {
            self.quic
                .insert(to_array(key), to_array(server), 0)
                .map_err(|error| format!("map {QUIC_SERVERS}: {error}"))?;
        }
        self.prefix_tables.fill(&image.prefix.tables).ok_or_else(|| small("PREFIX_TABLES"))?;
        self.prefix_entries.fill(&image.prefix.entries).ok_or_else(|| small("PREFIX_ENTRIES"))?;
        self.prefix_nodes.fill(&image.prefix.nodes).ok_or_else(|| small("PREFIX_NODES"))?;
        self.prefix_values.fill(&image.prefix.values).ok_or_else(|| small("PREFIX_VALUES"))?;
        self.root.write(0, &image.root).ok_or_else(|| small("ROOT"))
    }

    /// What runs, as plain vectors.
    pub(super) fn view(&self) -> Running {
        fn all<T: Pod>(map: &MappedArray<T>) -> Vec<T> {
            map.read_all(map.len())
        }
        Running {
            root: self.root(),
            services: all(&self.services),
            plans: all(&self.plans),
            pools: all(&self.pools),
            previous: all(&self.previous),
            slots: all(&self.slots),
            backends: all(&self.backends),
            admission: all(&self.admission),
            prefix: PrefixTables {
                tables: all(&self.prefix_tables),
                entries: all(&self.prefix_entries),
                nodes: all(&self.prefix_nodes),
                values: all(&self.prefix_values),
            },
            quic: self.quic_servers(),
        }
    }

    /// Which QUIC server id is whose, sorted. Nothing changes it while programs run.
    pub(super) fn quic_servers(&self) -> Vec<(QuicServerKey, QuicServer)> {
        let entries = self.quic.iter().flatten();
        let parse = |(key, server): ([u8; _], [u8; _])| {
            Some((QuicServerKey::from_bytes(&key)?, QuicServer::from_bytes(&server)?))
        };
        let mut all: Vec<_> = entries.filter_map(parse).collect();
        all.sort_unstable_by_key(|(key, _)| *key);
        all
    }

    /// Writes the Ethernet addresses of the interfaces on which frames arrive.
    ///
    /// # Errors
    /// In words, with the map's name.
    pub(super) fn set_interfaces(&self, interfaces: &[Interface]) -> Result<(), String> {
        // By a handle of its own: this generation may be in use elsewhere.
        let mut map: HashMap<MapData, u32, [u8; 8]> = typed(&self.fds, INTERFACES, Map::HashMap)?;
        for interface in interfaces {
            let Some([a, b, c, d, e, f]) = interface.mac else { continue };
            map.insert(interface.index, [a, b, c, d, e, f, 0, 0], 0)
                .map_err(|error| format!("map {INTERFACES}: {error}"))?;
        }
        Ok(())
    }

    /// The map of blocked source prefixes, for a handle of one's own.
    pub(super) fn blocked_data(&self) -> Result<MapData, aya::maps::MapError> {
        let (fd, _) = find(&self.fds, BLOCKED);
        let fd = fd.try_clone_to_owned().map_err(aya::maps::MapError::IoError)?;
        MapData::from_fd(fd)
    }

    /// The descriptor of a map.
    pub(super) fn fd(&self, name: &str) -> BorrowedFd<'_> {
        find(&self.fds, name).0
    }

    /// Whether both have the same map under a name.
    pub(super) fn shares(&self, other: &Self, name: &str) -> bool {
        self.map_id(name).is_some() && self.map_id(name) == other.map_id(name)
    }

    /// The kernel's number of a map.
    pub(super) fn map_id(&self, name: &str) -> Option<u32> {
        let fd = self.fd(name).try_clone_to_owned().ok()?;
        MapData::from_fd(fd).ok()?.info().ok().map(|info| info.id())
    }
}

/// The bytes of a value.
///
/// # Panics
/// If `N` is not its size.
fn to_array<T: Pod, const N: usize>(value: &T) -> [u8; N] {
    value.as_bytes().try_into().expect("the map's shape has the type's size")
}

fn check_shape(map: &MapData, shape: &Shape) -> Result<u32, String> {
    let info: MapInfo = map.info().map_err(|error| error.to_string())?;
    let kind = info.map_type().map_err(|error| error.to_string())?;
    let (key, value) = (info.key_size() as usize, info.value_size() as usize);
    if kind != shape.kind || key != shape.key_size || value != shape.value_size {
        return Err(format!(
            "is of type {kind:?} with keys of {key} and values of {value} bytes, but must be of type {:?} with {} and {}",
            shape.kind, shape.key_size, shape.value_size
        ));
    }
    Ok(info.max_entries())
}

fn find<'a>(fds: &'a [(&'static str, OwnedFd, u32)], name: &str) -> (BorrowedFd<'a>, usize) {
    let (_, fd, entries) = fds.iter().find(|(n, ..)| *n == name).expect("every name used here is in SHAPES");
    (fd.as_fd(), *entries as usize)
}

fn mapped<T: Pod>(fds: &[(&'static str, OwnedFd, u32)], name: &str) -> Result<MappedArray<T>, String> {
    let (fd, entries) = find(fds, name);
    MappedArray::new(fd, entries).map_err(|error| format!("map {name}: cannot be mapped to memory: {error}"))
}

/// `per_entry` elements of type `T` in each entry of the map.
fn mapped_flat<T: Pod>(
    fds: &[(&'static str, OwnedFd, u32)],
    name: &str,
    per_entry: usize,
) -> Result<MappedArray<T>, String> {
    let (fd, entries) = find(fds, name);
    MappedArray::flat(fd, entries * per_entry)
        .map_err(|error| format!("map {name}: cannot be mapped to memory: {error}"))
}

fn typed<T>(fds: &[(&'static str, OwnedFd, u32)], name: &str, wrap: fn(MapData) -> Map) -> Result<T, String>
where
    T: TryFrom<Map, Error = aya::maps::MapError>,
{
    let (fd, _) = find(fds, name);
    let problem = |error: String| format!("map {name}: {error}");
    let fd = fd.try_clone_to_owned().map_err(|error| problem(error.to_string()))?;
    let map = MapData::from_fd(fd).map_err(|error| problem(error.to_string()))?;
    T::try_from(wrap(map)).map_err(|error| problem(error.to_string()))
}
