//! Builds prefix tables: many lists of prefixes become three arrays in which the data plane finds the longest match. Pure:
//! equal lists give equal arrays, in whatever order they are written. See [`lb_common::abi::prefix`] for what lies where.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;

use lb_common::abi::limits::{MAX_PREFIX_ENTRIES, MAX_PREFIX_NODES, MAX_PREFIX_TABLES};
use lb_common::abi::pod::Pod;
use lb_common::abi::prefix::{
    ENTRIES_PER_LINE, INLINE_ENTRIES, MAX_PREFIX_VALUE, MAX_ROOT_BITS, MAX_SKIP, NODE, PrefixLine,
    PrefixNode, PrefixRoot, PrefixTable, SLOTS, STRIDE,
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
    /// A value with the bit that tells nodes from values.
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
    /// More nodes or entries than the data plane holds.
    #[error(
        "the prefixes of all lists take more room than there is for prefix tables; merge adjacent prefixes, or let services \
         share lists"
    )]
    TooLarge,
}

/// Prefix tables as arrays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PrefixTables {
    /// The tables in the order in which they were added.
    pub tables: Vec<PrefixTable>,
    /// The nodes of all tables.
    pub nodes: Vec<PrefixNode>,
    /// The entries of all tables that lie outside nodes.
    pub lines: Vec<PrefixLine>,
}

impl PrefixTables {
    /// Memory of all three arrays, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        let bytes = size_of_val(&*self.tables) + size_of_val(&*self.nodes) + size_of_val(&*self.lines);
        bytes as u64
    }
}

impl PrefixNodes for PrefixTables {
    fn prefix_table(&self, index: u32) -> Option<impl std::borrow::Borrow<PrefixTable>> {
        self.tables.get(index as usize)
    }

    fn prefix_node(&self, index: u32) -> Option<impl std::borrow::Borrow<PrefixNode>> {
        self.nodes.get(index as usize)
    }

    fn prefix_entry(&self, index: u32) -> Option<u32> {
        let line = self.lines.get(index as usize / ENTRIES_PER_LINE)?;
        Some(line.0[index as usize % ENTRIES_PER_LINE])
    }
}

/// The most memory that one list of so many prefixes takes, in bytes.
#[must_use]
pub const fn most_bytes(v4_prefixes: usize, v6_prefixes: usize) -> u64 {
    most_bytes_of(v4_prefixes as u64, 2) + most_bytes_of(v6_prefixes as u64, 3) + 64
}

/// Each node parts its prefixes, or one ends in it: at most two for each prefix. In IPv6, a third one may be needed where
/// more than [`MAX_SKIP`] bits are skipped. A node has entries outside for at most twice the prefixes that end in or below it
/// and part there, plus one.
const fn most_bytes_of(prefixes: u64, nodes_per_prefix: u64) -> u64 {
    let root = 1 << MAX_ROOT_BITS;
    let by_count = (prefixes + 1) << ROOT_ENTRIES_PER_PREFIX_LOG2;
    let root_entries = if by_count < root { by_count } else { root };
    prefixes * nodes_per_prefix * size_of::<PrefixNode>() as u64 + (root_entries + 4 * prefixes + 16) * 4
}

/// A prefix with its bits leftmost in 128.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Item {
    bits: u128,
    length: u32,
    value: u32,
}

/// The two families' prefixes of one table, sorted.
#[derive(Default, PartialEq, Eq, Hash)]
struct List {
    v4: Vec<Item>,
    v6: Vec<Item>,
}

/// Builds tables one after another.
#[derive(Default)]
pub struct PrefixBuilder {
    built: Arrays,
    tables: Vec<PrefixTable>,
    /// The list of each table, and where lists with a hash are, so that equal ones share a table.
    lists: Vec<List>,
    known: HashMap<u64, Vec<u32>>,
}

impl PrefixBuilder {
    /// A builder without tables.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a table of these prefixes, in any order, and gives its index. Tables are numbered from 0 in the order in which
    /// different lists are added; a list that equals an earlier one gives that one's index.
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
        let lines = self.built.entries.chunks(ENTRIES_PER_LINE).map(|entries| {
            let mut line = PrefixLine::zeroed();
            line.0[..entries.len()].copy_from_slice(entries);
            line
        });
        PrefixTables { lines: lines.collect(), tables: self.tables, nodes: self.built.nodes }
    }
}

impl List {
    fn new(prefixes: &[Prefix]) -> Result<Self, PrefixTableError> {
        let mut list = Self::default();
        for &Prefix { prefix, value } in prefixes {
            if value > MAX_PREFIX_VALUE {
                return Err(PrefixTableError::Value { prefix, value });
            }
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

/// Nodes and entries of the tables so far.
struct Arrays {
    nodes: Vec<PrefixNode>,
    entries: Vec<u32>,
}

impl Default for Arrays {
    fn default() -> Self {
        // No node's entries begin at 0, which says that they are inside the node.
        Self { nodes: Vec::new(), entries: vec![0] }
    }
}

impl Arrays {
    /// The root of a family's sorted prefixes.
    fn root(&mut self, items: &[Item]) -> Result<PrefixRoot, PrefixTableError> {
        let (miss, items) = take_whole(items, 0, 0);
        let start = end_of_common(items, 0);
        let key = key(items, 0, start);
        let (inside, items) = take_whole(items, start, miss);
        let wanted = items.len().checked_ilog2().map_or(0, |log2| log2 + ROOT_ENTRIES_PER_PREFIX_LOG2);
        let bits = wanted.min(MAX_ROOT_BITS).min(128 - start);
        let mut slots = vec![inside; 1 << bits];
        self.paint(items, start, bits, &mut slots)?;
        let base = self.push_entries(slots.into_iter())?;
        Ok(PrefixRoot { key, base, miss, skip: start, bits, reserved: [0; 2] })
    }

    /// Puts sorted prefixes, all longer than `start`, into the 2^`width` slots that the bits from `start` on choose from.
    fn paint(
        &mut self,
        mut items: &[Item],
        start: u32,
        width: u32,
        slots: &mut [u32],
    ) -> Result<(), PrefixTableError> {
        let end = start + width;
        let slot_of = |item: &Item| (item.bits << start).checked_shr(128 - width).unwrap_or(0) as usize;
        // Sorted so, a prefix comes behind those that it lies in and before those that lie in it.
        while let Some(item) = items.first() {
            let slot = slot_of(item);
            if item.length <= end {
                slots[slot..slot + (1 << (end - item.length))].fill(item.value);
                items = &items[1..];
            } else {
                let (below, others) = items.split_at(items.partition_point(|other| slot_of(other) == slot));
                slots[slot] = self.subtree(below, end, slots[slot])?;
                items = others;
            }
        }
        Ok(())
    }

    /// The entry for sorted prefixes that have the first `depth` bits in common and are longer, inside one of value
    /// `inherited`.
    fn subtree(&mut self, items: &[Item], depth: u32, inherited: u32) -> Result<u32, PrefixTableError> {
        let start = end_of_common(items, depth);
        let key = key(items, depth, start);
        let (inside, items) = take_whole(items, start, inherited);
        let mut slots = [inside; SLOTS];
        self.paint(items, start, STRIDE, &mut slots)?;
        if slots.iter().all(|&entry| entry == inherited) {
            return Ok(inherited);
        }
        let mut node =
            PrefixNode { key, bitmap: 1, miss: inherited, skip: start - depth, ..PrefixNode::zeroed() };
        for slot in 1..SLOTS {
            node.bitmap |= u64::from(slots[slot] != slots[slot - 1]) << slot;
        }
        let runs = (0..SLOTS).filter(|slot| node.bitmap >> slot & 1 == 1).map(|slot| slots[slot]);
        if node.bitmap.count_ones() as usize <= INLINE_ENTRIES {
            node.entries.iter_mut().zip(runs).for_each(|(entry, run)| *entry = run);
        } else {
            node.base = self.push_entries(runs)?;
        }
        if self.nodes.len() == MAX_PREFIX_NODES {
            return Err(PrefixTableError::TooLarge);
        }
        self.nodes.push(node);
        Ok(NODE | (self.nodes.len() - 1) as u32)
    }

    /// Puts entries behind the others and gives the first one's index.
    fn push_entries(&mut self, entries: impl Iterator<Item = u32>) -> Result<u32, PrefixTableError> {
        let base = self.entries.len();
        self.entries.extend(entries);
        if self.entries.len() > MAX_PREFIX_ENTRIES {
            Err(PrefixTableError::TooLarge)
        } else {
            Ok(base as u32)
        }
    }
}

/// The value inside a prefix of `depth` bits and what lies deeper, given the sorted prefixes that share these bits.
fn take_whole(items: &[Item], depth: u32, inherited: u32) -> (u32, &[Item]) {
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
