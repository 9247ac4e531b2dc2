//! Stage 2: which service is it for?
//!
//! The most specific match wins: first the longest prefix of the address (a host's own address before any VIP prefix), then, within it,
//! the exact port before a narrower range before a wider one before any port. A VIP prefix that has no service for a packet's
//! protocol and port leaves it to the next shorter one that the address lies in.
//!
//! Services with one address and one port are one lookup away. The others are looked for only if that finds nothing, and
//! only if there are any: [`Root::features`].

use super::{hash::service_hash, parse::Tuple, ports::Tables};
use crate::{
    abi::{
        limits::{MAX_PORT_RANGES, MAX_VIP_NESTING},
        root::{FEATURE_VIP_PREFIXES, FEATURE_WIDE_PORTS, Root},
        service::{BUCKET_WIDTH, KEY_OF_PREFIX, KEY_OF_RANGES, ServiceBucket, ServiceEntry, ServiceKey},
    },
    net::{AddressWords, address_words},
};

/// What a service is looked up by, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// VIP, or the first address of a VIP prefix.
    pub address: AddressWords,
    /// Port in network order, in the lower half.
    pub port: u32,
    /// IP protocol number, marked as [`ServiceKey::protocol`] is.
    pub protocol: u8,
    /// See [`ServiceKey::prefix`].
    pub prefix: u8,
}

impl Lookup {
    /// The lookup that finds `key`.
    #[must_use]
    pub const fn new(key: &ServiceKey) -> Self {
        Self {
            address: address_words(&key.address),
            port: u16::from_ne_bytes(key.port) as u32,
            protocol: key.protocol,
            prefix: key.prefix,
        }
    }

    /// Where the index keeps it: the bucket's number and the tag in it.
    #[must_use]
    #[inline(always)]
    pub const fn place(&self, seed: u64, bucket_mask: u32) -> (u32, u32) {
        let h = service_hash(seed, &self.address, self.port, self.protocol, self.prefix);
        (h as u32 & bucket_mask, (h >> 32) as u32 | 1)
    }

    /// The lookup of something else at the same address.
    #[inline(always)]
    const fn at(&self, port: u32, protocol: u8) -> Self {
        let mark = if self.prefix == 0 { 0 } else { KEY_OF_PREFIX };
        Self { port, protocol: protocol ^ mark, ..*self }
    }
}

/// The service for a flow's destination: its index and entry.
#[inline(always)]
pub fn service<'a, T: Tables>(tables: &'a T, root: &Root, tuple: &Tuple) -> Option<(u32, &'a ServiceEntry)> {
    let port = u16::from_ne_bytes(tuple.destination_port());
    let lookup =
        Lookup { address: tuple.destination, port: port as u32, protocol: tuple.protocol, prefix: 0 };
    let index = match find_here(tables, root, &lookup) {
        Some(found) => return Some(found),
        None if root.features & (FEATURE_WIDE_PORTS | FEATURE_VIP_PREFIXES) == 0 => return None,
        None => tables.wide(&tuple.destination, port, tuple.protocol)?,
    };
    Some((index, tables.service(index)?))
}

/// The entry of the VIP that an address is, or of the longest VIP prefix that it lies in.
#[inline(always)]
pub(super) fn vip<'a, T: Tables>(tables: &'a T, address: &AddressWords) -> Option<&'a ServiceEntry> {
    let mut found = tables.find(&Lookup { address: *address, port: 0, protocol: 0, prefix: 0 });
    let root = tables.root()?;
    if found.is_none() && root.features & FEATURE_VIP_PREFIXES != 0 {
        let prefix = tables.prefix(root.vip_prefixes, address) as u8;
        if prefix != 0 {
            let network = Lookup { address: network(address, prefix), port: 0, protocol: 0, prefix };
            found = tables.find(&network.at(0, 0));
        }
    }
    tables.service(found?)
}

/// Whether an address is a VIP, or lies in a VIP prefix.
#[inline(always)]
pub fn is_vip<T: Tables>(tables: &T, address: &AddressWords) -> bool {
    let Some(root) = tables.root() else {
        return false;
    };
    let host = Lookup { address: *address, port: 0, protocol: 0, prefix: 0 };
    if tables.find(&host).is_some() {
        return true;
    }
    root.features & FEATURE_VIP_PREFIXES != 0 && tables.prefix(root.vip_prefixes, address) != 0
}

/// Looks for a service by more than its address and exact port: by port ranges of the address, then by each VIP prefix that it lies in, from the
/// longest one on. `port` in network order.
#[inline(always)]
pub fn wide<T: Tables>(tables: &T, address: &AddressWords, port: u16, protocol: u8) -> Option<u32> {
    let root = tables.root()?;
    let host = Lookup { address: *address, port: 0, protocol: 0, prefix: 0 };
    let has_ranges = root.features & FEATURE_WIDE_PORTS != 0;
    if has_ranges && let Some(index) = in_ranges(tables, &host, port, protocol) {
        return Some(index);
    }
    if root.features & FEATURE_VIP_PREFIXES == 0 {
        return None;
    }
    let mut prefix = tables.prefix(root.vip_prefixes, address) as u8;
    for _ in 0..MAX_VIP_NESTING {
        if prefix == 0 {
            break;
        }
        let network = Lookup { address: network(address, prefix), port: 0, protocol: 0, prefix };
        if let Some(index) = tables.find(&network.at(port as u32, protocol)) {
            return Some(index);
        }
        if has_ranges && let Some(index) = in_ranges(tables, &network, port, protocol) {
            return Some(index);
        }
        prefix = tables.service(tables.find(&network.at(0, 0))?)?.parent;
    }
    None
}

/// The service of the first range that holds `port` in the list of an address and protocol.
#[inline(always)]
fn in_ranges<T: Tables>(tables: &T, address: &Lookup, port: u16, protocol: u8) -> Option<u32> {
    let index = tables.find(&address.at(0, protocol ^ KEY_OF_RANGES))?;
    let ranges = tables.port_ranges(tables.service(index)?.plan_base)?;
    let port = u16::from_be(port);
    let mut i = 0;
    while i < MAX_PORT_RANGES {
        let range = &ranges.0[i];
        if range.first <= port && port <= range.last {
            return Some(range.service);
        }
        i += 1;
    }
    None
}

/// The first address of the prefix that holds `address` and has the length that [`ServiceKey::prefix`] says.
#[must_use]
#[inline(always)]
pub const fn network(address: &AddressWords, prefix: u8) -> AddressWords {
    let length = prefix as u32 - 1;
    [
        address[0] & mask(length, 0),
        address[1] & mask(length, 32),
        address[2] & mask(length, 64),
        address[3] & mask(length, 96),
    ]
}

/// The bits of the word that begins at bit `from` of an address which a prefix of `length` bits covers.
#[inline(always)]
const fn mask(length: u32, from: u32) -> u32 {
    let covered = length.saturating_sub(from);
    let covered = if covered > 32 { 32 } else { covered };
    (((u32::MAX as u64) << (32 - covered)) as u32).to_be()
}

/// The index of the entry that a lookup finds.
#[inline(always)]
pub fn find<T: Tables>(tables: &T, lookup: &Lookup) -> Option<u32> {
    let (index, entry) = find_here(tables, tables.root()?, lookup)?;
    (entry.prefix == lookup.prefix).then_some(index)
}

/// The same for one that has no prefix: the mark in the protocol tells prefixes from hosts.
#[inline(always)]
fn find_here<'a, T: Tables>(tables: &'a T, root: &Root, lookup: &Lookup) -> Option<(u32, &'a ServiceEntry)> {
    let (bucket, tag) = lookup.place(root.service_seed, root.bucket_mask);
    let index = place_of(tables.bucket(bucket)?, tag)?;
    let entry = tables.service(index)?;
    let found = address_words(&entry.address);
    let differs = (found[0] ^ lookup.address[0])
        | (found[1] ^ lookup.address[1])
        | (found[2] ^ lookup.address[2])
        | (found[3] ^ lookup.address[3])
        | (u16::from_ne_bytes(entry.port) as u32 ^ lookup.port)
        | (entry.protocol ^ lookup.protocol) as u32;
    (differs == 0).then_some((index, entry))
}

/// The service whose tag this is. No two keys of one bucket share a tag: the builder picks another seed otherwise.
#[inline(always)]
fn place_of(bucket: &ServiceBucket, tag: u32) -> Option<u32> {
    let mut i = 0;
    while i < BUCKET_WIDTH {
        if bucket.tags[i] == tag {
            return Some(bucket.services[i]);
        }
        i += 1;
    }
    None
}
