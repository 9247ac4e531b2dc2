//! Longest-prefix match: the value of the longest prefix of a table that holds an address. See [`crate::abi::prefix`] for
//! what lies where.

use core::borrow::Borrow;

use crate::{
    abi::prefix::{MAX_PREFIX_DEPTH, NODE, PrefixNode, PrefixRoot, PrefixTable, SKIP_BITS, STRIDE},
    net::AddressWords,
};

/// The arrays that prefix tables lie in. Every index may be out of range: `None` then, never a panic. A port returns
/// elements by reference where it can, or by value where the memory may change meanwhile.
pub trait PrefixNodes {
    /// A table.
    fn prefix_table(&self, index: u32) -> Option<impl Borrow<PrefixTable>>;
    /// An entry, counted over all elements.
    fn prefix_entry(&self, index: u32) -> Option<u32>;
    /// A node.
    fn prefix_node(&self, index: u32) -> Option<impl Borrow<PrefixNode>>;
    /// A value, counted over all elements.
    fn prefix_value(&self, index: u32) -> Option<u16>;
}

/// The value of the longest prefix of `table` that holds `address`; 0 if none does, if there is no such table, and if the
/// arrays contradict each other. IPv4 addresses are taken as IPv4-mapped ones, and match IPv4 prefixes only.
#[inline(always)]
pub fn lookup<N: PrefixNodes>(nodes: &N, table: u32, address: &AddressWords) -> u32 {
    try_lookup(nodes, table, address).unwrap_or(0)
}

#[inline(always)]
fn try_lookup<N: PrefixNodes>(nodes: &N, table: u32, address: &AddressWords) -> Option<u32> {
    let table = nodes.prefix_table(table)?;
    let table: &PrefixTable = table.borrow();
    let [a, b, c, d] =
        [address[0].to_be(), address[1].to_be(), address[2].to_be(), address[3].to_be()].map(u64::from);
    let is_ipv4 = a | b | (c ^ 0xffff) == 0;
    let (mut rest, root) =
        if is_ipv4 { (Bits(d << 32, 0), &table.v4) } else { (Bits(a << 32 | b, c << 32 | d), &table.v6) };
    let &PrefixRoot { key, first_entry, miss, skip, bits, .. } = root;
    if leading(rest.0 ^ key, skip) != 0 {
        return Some(miss);
    }
    rest = rest.without(skip);
    let entry = nodes.prefix_entry(first_entry.wrapping_add(leading(rest.0, bits) as u32))?;
    if entry & NODE == 0 {
        return Some(entry);
    }
    rest = rest.without(bits);
    let mut index = entry & !NODE;
    for _ in 0..MAX_PREFIX_DEPTH {
        let node = nodes.prefix_node(index)?;
        let node: &PrefixNode = node.borrow();
        let skip = node.path as u32 & ((1 << SKIP_BITS) - 1);
        if leading(rest.0 ^ node.path, skip) != 0 {
            return nodes.prefix_value(node.first_value).map(u32::from);
        }
        rest = rest.without(skip);
        let slot = leading(rest.0, STRIDE);
        if node.children >> slot & 1 == 0 {
            let value = node.first_value.wrapping_add(ones(node.runs << (63 - slot)) as u32);
            return nodes.prefix_value(value).map(u32::from);
        }
        index = node.first_child.wrapping_add(ones(node.children << (63 - slot)) as u32 - 1);
        rest = rest.without(STRIDE);
    }
    None
}

/// The bits of an address that are not looked at yet, leftmost first.
#[derive(Clone, Copy)]
struct Bits(u64, u64);

impl Bits {
    /// All but the first `count` bits, at most 63.
    #[inline(always)]
    const fn without(self, count: u32) -> Self {
        let count = count & 63;
        Self(self.0 << count | self.1 >> 1 >> (63 - count), self.1 << count)
    }
}

/// The first `count` bits of `word`, at most 63, as a number.
#[inline(always)]
const fn leading(word: u64, count: u32) -> u64 {
    word >> 1 >> (63 - (count & 63))
}

/// How many bits are set. Written out because BPF has no instruction for it; by halves as in Knuth, TAOCP 7.1.3.
#[inline(always)]
const fn ones(word: u64) -> u64 {
    let pairs = word - (word >> 1 & 0x5555_5555_5555_5555);
    let nibbles = (pairs & 0x3333_3333_3333_3333) + (pairs >> 2 & 0x3333_3333_3333_3333);
    let bytes = (nibbles + (nibbles >> 4)) & 0x0f0f_0f0f_0f0f_0f0f;
    bytes.wrapping_mul(0x0101_0101_0101_0101) >> 56
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ones_counts_as_the_machine_does() {
        for shift in 0..64 {
            for word in [0, 1, u64::MAX, 0x8000_0000_0000_0001, 0x0123_4567_89ab_cdef] {
                let word: u64 = word << shift;
                assert_eq!(ones(word), u64::from(word.count_ones()), "{word:x}");
            }
        }
    }

    #[test]
    fn bits_are_taken_from_the_left_of_both_words() {
        let all = 0x0123_4567_89ab_cdef_1122_3344_5566_7788_u128;
        let bits = Bits((all >> 64) as u64, all as u64);
        for count in 0..64 {
            let Bits(high, low) = bits.without(count);
            assert_eq!(u128::from(high) << 64 | u128::from(low), all << count, "{count}");
            let expected = if count == 0 { 0 } else { (all >> (128 - count)) as u64 };
            assert_eq!(leading(bits.0, count), expected, "{count}");
        }
    }
}
