//! The flow table: exact-match entries for flows that are not at home, and what stands beside it.
//!
//! | map | holds | when it is full |
//! |---|---|---|
//! | `FLOWS` | flows that live away from home | the least recently used goes |
//! | `OPENINGS` | flows that opened away from home and of which no later packet was seen | the oldest of eight goes |
//! | `FLOW_FILTER` | a byte for each value of some bits of the flow hash: 0 says that `FLOWS` has no entry | never |
//!
//! A flood of opening packets thus reaches `OPENINGS` only, whose sets cost two cache lines each and no lock, and a packet of a flow without
//! an entry reads a byte of the filter and the first line of a set.

use super::limits::FLOW_FILTER_CHUNK;
use crate::net::{address_words, words_address};

/// Key of `FLOWS`, and of the entries of `OPENINGS`: a flow's 5-tuple. IPv4 addresses stand as IPv4-mapped IPv6 addresses (RFC 4291, section
/// 2.5.5.2).
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey {
    /// Client address.
    pub source: [u8; 16],
    /// VIP.
    pub destination: [u8; 16],
    /// Client port, network order.
    pub source_port: [u8; 2],
    /// Service port, network order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// 0 for a packet from a client, 1 for one relayed from another region: the two never share an entry, so that a
    /// relayed packet cannot inherit a way that leads out of the region again.
    pub origin: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// A [`FlowKey`] in words: what the datapath passes around, as it computes in words and not in bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowWords(pub [u32; 10]);

const _: () = assert!(size_of::<FlowWords>() == size_of::<FlowKey>());

impl FlowWords {
    /// The words of a flow: addresses and ports (client's, then service's) in network order.
    #[must_use]
    #[inline(always)]
    pub const fn new(
        source: &[u32; 4],
        destination: &[u32; 4],
        ports: u32,
        protocol: u8,
        origin: u8,
    ) -> Self {
        let [s0, s1, s2, s3] = *source;
        let [d0, d1, d2, d3] = *destination;
        let rest = u32::from_ne_bytes([protocol, origin, 0, 0]);
        Self([s0, s1, s2, s3, d0, d1, d2, d3, ports, rest])
    }

    /// Client address.
    #[must_use]
    #[inline(always)]
    pub const fn source(&self) -> [u32; 4] {
        let [a, b, c, d, ..] = self.0;
        [a, b, c, d]
    }

    /// See [`FlowKey::protocol`].
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.0[9].to_ne_bytes()[0]
    }

    /// See [`FlowKey::origin`].
    #[must_use]
    #[inline(always)]
    pub const fn origin(&self) -> u8 {
        self.0[9].to_ne_bytes()[1]
    }

    /// A key in words.
    #[must_use]
    pub const fn of(key: &FlowKey) -> Self {
        let ([a, b], [c, d]) = (key.source_port, key.destination_port);
        let ports = u32::from_ne_bytes([a, b, c, d]);
        let addresses = (address_words(&key.source), address_words(&key.destination));
        Self::new(&addresses.0, &addresses.1, ports, key.protocol, key.origin)
    }

    /// The key itself.
    #[must_use]
    pub const fn key(&self) -> FlowKey {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, rest] = self.0;
        let [a, b, c, d] = ports.to_ne_bytes();
        let [protocol, origin, ..] = rest.to_ne_bytes();
        FlowKey {
            source: words_address(&[s0, s1, s2, s3]),
            destination: words_address(&[d0, d1, d2, d3]),
            source_port: [a, b],
            destination_port: [c, d],
            protocol,
            origin,
            reserved: [0; 2],
        }
    }
}

/// Value of `FLOWS`, and of the entries of `OPENINGS`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEntry {
    /// Where the flow went when it opened. A backend keeps its index from one generation to the next for as long as
    /// entries may name it.
    pub backend: u32,
    /// When a packet of the flow was last seen, in units of 2^30 ns of the monotonic clock; the top bit is set once the client has
    /// closed it ([`FLOW_CLOSING`]).
    pub seen: u32,
}

/// Bit of [`FlowEntry::seen`]: a FIN or RST of the client was seen.
pub const FLOW_CLOSING: u32 = 1 << 31;

/// Entries of one set of `OPENINGS`.
pub const OPENING_WAYS: usize = 8;

/// A cache line of `OPENINGS`. A set is one element of the map, 576 bytes: a line of tags, one for each way, and a line for each way's
/// entry. [`openings`](crate::datapath::openings) says what they hold.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OpeningLine(pub [u64; 8]);

/// Lines of a set.
pub const OPENING_LINES: usize = 1 + OPENING_WAYS;

/// Sets that hold so many entries: whole ones, and one at least.
#[must_use]
pub const fn opening_sets(entries: u32) -> u32 {
    let sets = entries.div_ceil(OPENING_WAYS as u32);
    if sets == 0 { 1 } else { sets }
}

/// Key of the `FRAGMENTS` map: what all fragments of a datagram have in common (RFC 791, section 3.2; RFC 8200, section 4.5).
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FragmentKey {
    /// Client address.
    pub source: [u8; 16],
    /// VIP.
    pub destination: [u8; 16],
    /// Identification as it is read.
    pub id: u32,
    /// IP protocol number; for IPv6 that of the fragment header.
    pub protocol: u8,
    /// As in [`FlowKey`].
    pub origin: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of the `FRAGMENTS` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FragmentEntry {
    /// Where the first fragment went.
    pub backend: u32,
    /// The datagram's ports, as they stand in the first fragment.
    pub ports: u32,
    /// When the first fragment came: CLOCK_MONOTONIC in nanoseconds.
    pub seen_ns: u64,
    /// IP protocol number of the datagram.
    pub protocol: u32,
    /// Zero.
    pub reserved: u32,
}

/// One element of the `FLOW_FILTER` map. Byte `i` of the filter is byte `i % FLOW_FILTER_CHUNK` of element
/// `i / FLOW_FILTER_CHUNK`; a flow's byte is [`filter_index`](crate::datapath::filter::index).
#[repr(transparent)]
pub struct FlowFilter(pub [u8; FLOW_FILTER_CHUNK]);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::pod::Pod as _;

    #[test]
    fn words_and_key_are_the_same_bytes() {
        let words = FlowWords::new(&[1, 2, 3, 4], &[5, 6, 7, 8], 0x0102_0304, 6, 1);
        let bytes: std::vec::Vec<u8> = words.0.iter().flat_map(|word| word.to_ne_bytes()).collect();
        assert_eq!(words.key().as_bytes(), bytes);
        assert_eq!((words.source(), words.protocol(), words.origin()), ([1, 2, 3, 4], 6, 1));
        assert_eq!(FlowWords::of(&words.key()), words);
    }
}
