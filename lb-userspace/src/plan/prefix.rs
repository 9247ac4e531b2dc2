//! Builds prefix tables: many lists of prefixes become three arrays in which the data plane finds the longest match. Pure:
//! equal lists give equal arrays, in whatever order they are written. See [`lb_common::abi::prefix`] for what lies where.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use lb_common::abi::limits::{MAX_PREFIX_ENTRIES, MAX_PREFIX_NODES, MAX_PREFIX_TABLES, MAX_PREFIX_VALUES};
use lb_common::abi::pod::Pod;
use lb_common::abi::prefix::{
    ENTRIES_PER_LINE, MAX_PREFIX_VALUE, MAX_ROOT_BITS, MAX_SKIP, NO_TABLE, NODE, NODE_SLOTS, PrefixEntries,
    PrefixNode, PrefixRoot, PrefixTable, PrefixValues, STRIDE, VALUES_PER_LINE,
};
use lb_common::datapath::prefix::PrefixNodes;
use thiserror::Error;

use crate::config::IpPrefix;

/// A root's array has about this many entries for each prefix, as a power of two: more cost memory, fewer cost time.
const ROOT_ENTRIES_PER_PREFIX_LOG2: u32 = 2;

/// What an address that a prefix is the longest match for is mapped to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The prefix.
    pub prefix: IpPrefix,
    /// Its value, at most [`MAX_PREFIX_VALUE`]. With 0 the prefix is a hole in a shorter one.
    pub value: u32,
}

/// Why prefixes cannot become a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PrefixTableError {
    /// The same prefix twice, with the same or another value.
    #[error("prefix {prefix} is listed twice; remove one")]
    Duplicate {
        /// The prefix.
        prefix: IpPrefix,
    },
    /// An IPv6 prefix inside `::ffff:0:0/96`, where IPv4 addresses stand.
    #[error("prefix {prefix} is IPv4-mapped; write it as an IPv4 prefix")]
    Mapped {
        /// The prefix.
        prefix: IpPrefix,
    },
    /// A value that is too large.
    #[error(
        "the value {value} of prefix {prefix} is greater than {MAX_PREFIX_VALUE}; this is a fault of Weir, please report it"
    )]
    Value {
        /// The prefix.
        prefix: IpPrefix,
        /// Its value.
        value: u32,
    },
    /// More tables than the data plane holds.
    #[error("more than {MAX_PREFIX_TABLES} different lists of prefixes; let services share lists")]
    TooManyTables,
    /// More entries, nodes or values than the data plane holds.
    #[error(
        "the prefixes of all lists take more room than there is for prefix tables; merge adjacent prefixes, or let services \
         share lists"
    )]
    TooLarge,
}

/// Prefix tables as arrays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixTables {
    /// The tables in the order in which they were added, that of no prefixes first.
    pub tables: Vec<PrefixTable>,
    /// The entries of all roots.
    pub entries: Vec<PrefixEntries>,
    /// The nodes of all tables.
    pub nodes: Vec<PrefixNode>,
    /// The values of all nodes.
    pub values: Vec<PrefixValues>,
}

impl PrefixTables {
    /// Memory of all four arrays, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = size_of_val(&*self.tables)
            + size_of_val(&*self.entries)
            + size_of_val(&*self.nodes)
            + size_of_val(&*self.values);
        bytes as u64
    }
}

impl PrefixNodes for PrefixTables {
    fn prefix_table(&self, index: u32) -> Option<impl std::borrow::Borrow<PrefixTable>> {
        self.tables.get(index as usize)
    }

    fn prefix_entry(&self, index: u32) -> Option<u32> {
        let line = self.entries.get(index as usize / ENTRIES_PER_LINE)?;
        Some(line.0[index as usize % ENTRIES_PER_LINE])
    }

    fn prefix_node(&self, index: u32) -> Option<impl std::borrow::Borrow<PrefixNode>> {
        self.nodes.get(index as usize)
    }

    fn prefix_value(&self, index: u32) -> Option<u16> {
        let line = self.values.get(index as usize / VALUES_PER_LINE)?;
        Some(line.0[index as usize % VALUES_PER_LINE])
    }
}

/// The most memory that one list of so many prefixes takes, in bytes. Usual lists take a third of it.
#[must_use]
pub const fn most_bytes(v4_prefixes: usize, v6_prefixes: usize) -> u64 {
    most_bytes_of(v4_prefixes as u64, 2) + most_bytes_of(v6_prefixes as u64, 3) + 3 * 64
}

/// In each node prefixes part or one ends, so there are at most two for each prefix. In IPv6 a third one may be needed where
/// more than [`MAX_SKIP`] bits are skipped. Each prefix that ends in a node and each child parts the slots into at most two
/// more runs, and each node has one value besides.
const fn most_bytes_of(prefixes: u64, nodes_per_prefix: u64) -> u64 {
    let entries = 1 << root_bits(prefixes as usize);
    let nodes = prefixes * nodes_per_prefix;
    let values = 2 * (prefixes + nodes) + 2 * nodes;
    entries * 4 + nodes * size_of::<PrefixNode>() as u64 + values * 2
}

/// A prefix with its bits leftmost in 128.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Item {
    bits: u128,
    length: u32,
    value: u16,
}

/// The two families' prefixes of one table, sorted.
#[derive(Default, PartialEq, Eq, Hash)]
struct List {
    v4: Vec<Item>,
    v6: Vec<Item>,
}

/// Builds tables one after another.
pub struct PrefixBuilder {
    built: Arrays,
    tables: Vec<PrefixTable>,
    /// The list of each table, and where lists with a hash are, so that equal ones share a table.
    lists: Vec<List>,
    known: HashMap<u64, Vec<u32>>,
}

impl Default for PrefixBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl PrefixBuilder {
    /// A builder with the table of no prefixes.
    #[must_use]
    pub fn new() -> Self {
        let mut builder =
            Self { built: Arrays::default(), tables: Vec::new(), lists: Vec::new(), known: HashMap::new() };
        let empty = builder.add(&[]);
        debug_assert_eq!(empty, Ok(NO_TABLE), "it is the first");
        builder
    }

    /// Adds a table of these prefixes, in any order, and gives its index. Tables are numbered from 1 in the order in which
    /// different lists are added; a list that equals an earlier one gives that one's index, an empty one [`NO_TABLE`].
    ///
    /// # Errors
    /// See [`PrefixTableError`]. The builder must not be used after one.
    pub fn add(&mut self, prefixes: &[Prefix]) -> Result<u32, PrefixTableError> {
        let list = List::new(prefixes)?;
        let mut hasher = DefaultHasher::new();
        list.hash(&mut hasher);
        let same_hash = self.known.entry(hasher.finish()).or_default();
        if let Some(&known) = same_hash.iter().find(|&&index| self.lists[index as usize] == list) {
            return Ok(known);
        }
        if self.tables.len() == MAX_PREFIX_TABLES {
            return Err(PrefixTableError::TooManyTables);
        }
        let index = self.tables.len() as u32;
        let table = PrefixTable { v4: self.built.root(&list.v4)?, v6: self.built.root(&list.v6)? };
        same_hash.push(index);
        self.tables.push(table);
        self.lists.push(list);
        Ok(index)
    }

    /// The arrays.
    #[must_use]
    pub fn finish(self) -> PrefixTables {
        let Arrays { entries, nodes, values, .. } = self.built;
        let entries = entries.chunks(ENTRIES_PER_LINE).map(|chunk| {
            let mut line = PrefixEntries::zeroed();
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        });
        let values = values.chunks(VALUES_PER_LINE).map(|chunk| {
            let mut line = PrefixValues::zeroed();
            line.0[..chunk.len()].copy_from_slice(chunk);
            line
        });
        PrefixTables { tables: self.tables, entries: entries.collect(), nodes, values: values.collect() }
    }
}

impl List {
    fn new(prefixes: &[Prefix]) -> Result<Self, PrefixTableError> {
        let mut list = Self::default();
        for &Prefix { prefix, value } in prefixes {
            let Ok(value) = u16::try_from(value) else {
                return Err(PrefixTableError::Value { prefix, value });
            };
            let length = u32::from(prefix.length());
            match prefix.address() {
                IpAddr::V4(address) => {
                    list.v4.push(Item { bits: u128::from(address.to_bits()) << 96, length, value });
                }
                IpAddr::V6(address) if length >= 96 && address.to_ipv4_mapped().is_some() => {
                    return Err(PrefixTableError::Mapped { prefix });
                }
                IpAddr::V6(address) => list.v6.push(Item { bits: address.to_bits(), length, value }),
            }
        }
        for (items, is_ipv4) in [(&mut list.v4, true), (&mut list.v6, false)] {
            if !items.is_sorted() {
                items.sort_unstable();
            }
            let same = items
                .windows(2)
                .find(|pair| (pair[0].bits, pair[0].length) == (pair[1].bits, pair[1].length));
            if let Some(pair) = same {
                return Err(PrefixTableError::Duplicate { prefix: pair[0].prefix(is_ipv4) });
            }
        }
        Ok(list)
    }
}

impl Item {
    fn prefix(self, is_ipv4: bool) -> IpPrefix {
        let address = if is_ipv4 {
            IpAddr::from(((self.bits >> 96) as u32).to_be_bytes())
        } else {
            IpAddr::from(self.bits.to_be_bytes())
        };
        IpPrefix::containing(address, self.length as u8)
    }
}

/// What an entry of a root or a slot of a node leads to.
#[derive(Clone, Copy)]
enum Built {
    Value(u16),
    Node(PrefixNode),
}

/// Nodes that slots lead to, ascending by slot.
type Children = Vec<(usize, PrefixNode)>;

/// Entries, nodes and values of the tables so far.
#[derive(Default)]
struct Arrays {
    entries: Vec<u32>,
    nodes: Vec<PrefixNode>,
    values: Vec<u16>,
    /// Where short sequences of values are: equal ones are stored once.
    known: HashMap<Vec<u16>, u32>,
}

/// Longest sequence of values that is looked for among those stored.
const MAX_SHARED_VALUES: usize = 4;

/// By how many bits the entries of a root are indexed.
const fn root_bits(prefixes: usize) -> u32 {
    let Some(log2) = prefixes.checked_ilog2() else { return 0 };
    let wanted = log2 + ROOT_ENTRIES_PER_PREFIX_LOG2;
    if wanted < MAX_ROOT_BITS { wanted } else { MAX_ROOT_BITS }
}

impl Arrays {
    /// The root of a family's sorted prefixes.
    fn root(&mut self, items: &[Item]) -> Result<PrefixRoot, PrefixTableError> {
        let (miss, items) = take_whole(items, 0, 0);
        let skip = end_of_common(items, 0);
        let key = key(items, 0, skip);
        let (inside, items) = take_whole(items, skip, miss);
        let bits = root_bits(items.len()).min(128 - skip);
        let first_entry = self.entries.len();
        if first_entry + (1 << bits) > MAX_PREFIX_ENTRIES {
            return Err(PrefixTableError::TooLarge);
        }
        let mut slots = vec![inside; 1 << bits];
        let children = self.paint(items, skip, bits, &mut slots)?;
        self.entries.extend(slots.into_iter().map(u32::from));
        for (slot, node) in children {
            self.entries[first_entry + slot] = NODE | self.push_nodes(&[(slot, node)])?;
        }
        Ok(PrefixRoot {
            key,
            first_entry: first_entry as u32,
            miss: miss.into(),
            skip,
            bits,
            reserved: [0; 2],
        })
    }

    /// Puts the values of sorted prefixes, all longer than `start`, into the 2^`width` slots that the bits from `start` on
    /// choose from. The result is where the longer ones lead.
    fn paint(
        &mut self,
        mut items: &[Item],
        start: u32,
        width: u32,
        slots: &mut [u16],
    ) -> Result<Children, PrefixTableError> {
        let end = start + width;
        let slot_of = |item: &Item| (item.bits << start).checked_shr(128 - width).unwrap_or(0) as usize;
        let mut children = Children::new();
        // Sorted so, a prefix comes behind those that it lies in and before those that lie in it.
        while let Some(item) = items.first() {
            let slot = slot_of(item);
            if item.length <= end {
                slots[slot..slot + (1 << (end - item.length))].fill(item.value);
                items = &items[1..];
            } else {
                let (below, others) = items.split_at(items.partition_point(|other| slot_of(other) == slot));
                match self.subtree(below, end, slots[slot])? {
                    Built::Value(value) => slots[slot] = value,
                    Built::Node(node) => children.push((slot, node)),
                }
                items = others;
            }
        }
        Ok(children)
    }

    /// What leads on to sorted prefixes that have the first `depth` bits in common and are longer, inside one of value
    /// `inherited`.
    fn subtree(&mut self, items: &[Item], depth: u32, inherited: u16) -> Result<Built, PrefixTableError> {
        let start = end_of_common(items, depth);
        let path = key(items, depth, start) | u64::from(start - depth);
        let (inside, items) = take_whole(items, start, inherited);
        let mut slots = [inside; NODE_SLOTS];
        let below = self.paint(items, start, STRIDE, &mut slots)?;
        if below.is_empty() && slots.iter().all(|&value| value == inherited) {
            return Ok(Built::Value(inherited));
        }
        let children = below.iter().fold(0, |bitmap, (slot, _)| bitmap | 1_u64 << slot);
        let mut runs = 0;
        let mut values = vec![inherited];
        for (slot, &value) in slots.iter().enumerate().filter(|(slot, _)| children >> slot & 1 == 0) {
            if runs == 0 || values.last() != Some(&value) {
                runs |= 1_u64 << slot;
                values.push(value);
            }
        }
        let (first_child, first_value) = (self.push_nodes(&below)?, self.push_values(values)?);
        Ok(Built::Node(PrefixNode { children, runs, path, first_child, first_value }))
    }

    /// Puts nodes behind the others and gives the first one's number.
    fn push_nodes(&mut self, nodes: &[(usize, PrefixNode)]) -> Result<u32, PrefixTableError> {
        let first = self.nodes.len();
        self.nodes.extend(nodes.iter().map(|(_, node)| node));
        if self.nodes.len() > MAX_PREFIX_NODES { Err(PrefixTableError::TooLarge) } else { Ok(first as u32) }
    }

    /// Puts values behind the others, unless they are there, and gives the first one's number.
    fn push_values(&mut self, values: Vec<u16>) -> Result<u32, PrefixTableError> {
        let first = self.values.len();
        if values.len() <= MAX_SHARED_VALUES {
            if let Some(&known) = self.known.get(&values) {
                return Ok(known);
            }
            self.values.extend(&values);
            self.known.insert(values, first as u32);
        } else {
            self.values.extend(values);
        }
        if self.values.len() > MAX_PREFIX_VALUES { Err(PrefixTableError::TooLarge) } else { Ok(first as u32) }
    }
}

/// The value inside a prefix of `depth` bits and what lies deeper, given the sorted prefixes that share these bits.
fn take_whole(items: &[Item], depth: u32, inherited: u16) -> (u16, &[Item]) {
    match items {
        [whole, deeper @ ..] if whole.length == depth => (whole.value, deeper),
        _ => (inherited, items),
    }
}

/// Up to which bit sorted prefixes that share `depth` bits are the same and none ends, at most [`MAX_SKIP`] bits on.
fn end_of_common(items: &[Item], depth: u32) -> u32 {
    let [first, .., last] = items else {
        return items.first().map_or(depth, |only| only.length.min(depth + MAX_SKIP));
    };
    // One that ends before the others part has only zeroes behind, as have those that begin as it does: it is the first.
    (first.bits ^ last.bits).leading_zeros().min(first.length).min(depth + MAX_SKIP)
}

/// The bits from `depth` to `end` that all these prefixes share, leftmost in a word.
fn key(items: &[Item], depth: u32, end: u32) -> u64 {
    let Some(item) = items.first().filter(|_| depth < end) else { return 0 };
    let bits = (item.bits << depth >> 64) as u64;
    bits & u64::MAX << (64 - (end - depth))
}

#[cfg(test)]
#[path = "prefix_tests.rs"]
mod tests;
