//! Prefix tables: longest-prefix match over any number of tables that share three memory-mapped arrays.
//!
//! A table is an index into `PREFIX_TABLES`. Each table has a root for IPv4 and one for IPv6. A root skips the bits that all
//! its prefixes have in common and then indexes an array of *entries* by the next up to [`MAX_ROOT_BITS`] bits. An entry is
//! a value or the number of a *node*; a node skips bits that all below it have in common and then takes
//! [`STRIDE`] bits at once. Its 64 slots are kept as runs of equal entries: bit i of `bitmap` says that slot i begins a
//! run, so the number of bits up to a slot finds its run.
//!
//! The parts are known: direct indexing of the first bits and 6-bit strides with bitmaps and population counts from poptrie
//! (Asai and Ohara, SIGCOMM 2015), skipped bits from Patricia tries (Morrison, JACM 1968). A node and its entries, as long as
//! they are few, share one cache line.

/// The table of the client regions: always there, perhaps without prefixes. So 0 can mean "no list" elsewhere.
pub const CLIENT_TABLE: u32 = 0;
/// Largest value of a prefix. 0 is what no match gives.
pub const MAX_PREFIX_VALUE: u32 = NODE - 1;
/// Bit of an entry: the other bits are the number of a node and not a value.
pub const NODE: u32 = 1 << 31;
/// Address bits that a node tells apart.
pub const STRIDE: u32 = 6;
/// Slots of a node.
pub const SLOTS: usize = 1 << STRIDE;
/// Entries inside a node; if it has more runs, they lie in `PREFIX_ENTRIES`.
pub const INLINE_ENTRIES: usize = 8;
/// Most address bits that a root's array tells apart.
pub const MAX_ROOT_BITS: u32 = 18;
/// Most bits that a root or a node skips.
pub const MAX_SKIP: u32 = 63;
/// Nodes on the way to any value: each takes at least [`STRIDE`] of 128 bits.
pub const MAX_PREFIX_DEPTH: u32 = 22;
/// Entries of one element of `PREFIX_ENTRIES`, a power of two.
pub const ENTRIES_PER_LINE: usize = 16;

/// Where a table begins for one address family.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixRoot {
    /// The skipped bits, leftmost first; the rest is zero.
    pub key: u64,
    /// First of the 2^`bits` entries.
    pub base: u32,
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

/// One element of the `PREFIX_NODES` map, 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixNode {
    /// The skipped bits, leftmost first; the rest is zero.
    pub key: u64,
    /// Bit i: slot i begins a run. Bit 0 is always set.
    pub bitmap: u64,
    /// First of the runs' entries in `PREFIX_ENTRIES`; 0 if they are in `entries`.
    pub base: u32,
    /// Value of addresses whose next bits are not those of `key`.
    pub miss: u32,
    /// How many bits are skipped, 0 to [`MAX_SKIP`].
    pub skip: u32,
    /// Zero.
    pub reserved: u32,
    /// The runs' entries if there are no more than these.
    pub entries: [u32; INLINE_ENTRIES],
}

/// One element of the `PREFIX_ENTRIES` map, 64 bytes. Entry 0 of all is always 0.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PrefixLine(pub [u32; ENTRIES_PER_LINE]);

const _: () = assert!(ENTRIES_PER_LINE.is_power_of_two() && INLINE_ENTRIES.is_power_of_two());
const _: () = assert!(MAX_PREFIX_DEPTH * STRIDE >= 128);
