//! Prefix tables: longest-prefix match over any number of tables that share four memory-mapped arrays.
//!
//! A table is an index into `PREFIX_TABLES`. Each table has a root for IPv4 and one for IPv6. A root skips the bits that all
//! its prefixes have in common and indexes its *entries* by the next up to [`MAX_ROOT_BITS`] bits. An entry is a value
//! or the number of a *node*. A node skips bits that all below it have in common and takes [`STRIDE`] bits at once: a slot
//! leads to a child node or to a value. A node's children lie side by side, and so do its values, of which equal neighbours
//! are stored once; two bitmaps tell where: the number of bits set up to a slot is the place among them.
//!
//! Known parts: direct first bits, strides of 6 with bitmaps and population counts, and runs of values are poptrie's (Asai and
//! Ohara, SIGCOMM 2015); skipped bits are those of Patricia tries (Morrison, JACM 1968).

/// The table without prefixes: where it is named, there is no list.
pub const NO_TABLE: u32 = 0;
/// Largest value of a prefix. 0 is what no match gives.
pub const MAX_PREFIX_VALUE: u32 = u16::MAX as u32;
/// Bit of an entry: the other bits are the number of a node and not a value.
pub const NODE: u32 = 1 << 31;
/// Address bits that a node tells apart.
pub const STRIDE: u32 = 6;
/// Slots of a node.
pub const NODE_SLOTS: usize = 1 << STRIDE;
/// Most address bits that a root's entries tell apart.
pub const MAX_ROOT_BITS: u32 = 18;
/// Bits of [`PrefixNode::path`] that say how many bits are skipped.
pub const SKIP_BITS: u32 = 6;
/// Most bits that a root or a node skips.
pub const MAX_SKIP: u32 = u64::BITS - SKIP_BITS;
/// Nodes on the way to any value: each takes at least [`STRIDE`] of 128 bits.
pub const MAX_PREFIX_DEPTH: u32 = 22;
/// Entries of one element of `PREFIX_ENTRIES`, a power of two.
pub const ENTRIES_PER_LINE: usize = 16;
/// Values of one element of `PREFIX_VALUES`, a power of two.
pub const VALUES_PER_LINE: usize = 32;

/// Where a table begins for one address family.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixRoot {
    /// The skipped bits, leftmost first; the rest is zero.
    pub key: u64,
    /// First of the 2^`bits` entries.
    pub first_entry: u32,
    /// Value of addresses whose first bits are not those of `key`.
    pub miss: u32,
    /// How many bits are skipped, 0 to [`MAX_SKIP`].
    pub skip: u32,
    /// How many bits the entries are indexed by, 0 to [`MAX_ROOT_BITS`].
    pub bits: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// One element of the `PREFIX_TABLES` map, 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixTable {
    /// For IPv4 addresses, which count as 32 bits.
    pub v4: PrefixRoot,
    /// For IPv6 addresses.
    pub v6: PrefixRoot,
}

/// One element of the `PREFIX_NODES` map, 32 bytes.
#[repr(C, align(32))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixNode {
    /// Bit i: slot i leads to a child.
    pub children: u64,
    /// Bit i: slot i leads to another value than the slot with a value before it.
    pub runs: u64,
    /// The skipped bits, leftmost first; in the last [`SKIP_BITS`] bits how many there are, 0 to [`MAX_SKIP`].
    pub path: u64,
    /// The first child's number.
    pub first_child: u32,
    /// Number of the value of addresses whose next bits are not those of `path`; the runs' values follow it.
    pub first_value: u32,
}

/// One element of the `PREFIX_ENTRIES` map, 64 bytes: entries of roots.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixEntries(pub [u32; ENTRIES_PER_LINE]);

/// One element of the `PREFIX_VALUES` map, 64 bytes: values of nodes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixValues(pub [u16; VALUES_PER_LINE]);

const _: () = assert!(ENTRIES_PER_LINE.is_power_of_two() && VALUES_PER_LINE.is_power_of_two());
const _: () = assert!(MAX_PREFIX_DEPTH * STRIDE >= 128 && MAX_SKIP < 1 << SKIP_BITS);
