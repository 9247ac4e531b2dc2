//! Stage 2: which service is it for?

use super::{hash::service_hash, parse::Tuple, ports::Tables};
use crate::{
    abi::{
        root::Root,
        service::{BUCKET_WIDTH, ServiceBucket, ServiceEntry, ServiceKey},
    },
    net::{AddressWords, address_words},
};

/// What a service is looked up by, in words.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// VIP.
    pub address: AddressWords,
    /// Port in network order, in the lower half.
    pub port: u32,
    /// IP protocol number.
    pub protocol: u8,
}

impl Lookup {
    /// The lookup that finds `key`.
    #[must_use]
    pub const fn new(key: &ServiceKey) -> Self {
        Self {
            address: address_words(&key.address),
            port: u16::from_ne_bytes(key.port) as u32,
            protocol: key.protocol,
        }
    }

    /// Where the index keeps it: the bucket's number and the tag in it.
    #[must_use]
    #[inline(always)]
    pub const fn place(&self, seed: u64, bucket_mask: u32) -> (u32, u32) {
        let h = service_hash(seed, &self.address, self.port, self.protocol);
        (h as u32 & bucket_mask, (h >> 32) as u32 | 1)
    }
}

/// The service for a flow's destination: its index and entry.
#[inline(always)]
pub fn service<'a, T: Tables>(tables: &'a T, root: &Root, tuple: &Tuple) -> Option<(u32, &'a ServiceEntry)> {
    let port = u16::from_ne_bytes(tuple.destination_port()) as u32;
    find_service(tables, root, &Lookup { address: tuple.destination, port, protocol: tuple.protocol })
}

/// The entry that a lookup finds.
#[inline(always)]
pub(super) fn entry<'a, T: Tables>(tables: &'a T, lookup: &Lookup) -> Option<&'a ServiceEntry> {
    let (_, entry) = find_service(tables, tables.root()?, lookup)?;
    Some(entry)
}

/// Whether an address is a VIP.
#[inline(always)]
pub fn is_vip<T: Tables>(tables: &T, address: AddressWords) -> bool {
    let lookup = Lookup { address, port: 0, protocol: 0 };
    tables.root().is_some_and(|root| find_service(tables, root, &lookup).is_some())
}

#[inline(always)]
fn find_service<'a, T: Tables>(
    tables: &'a T,
    root: &Root,
    lookup: &Lookup,
) -> Option<(u32, &'a ServiceEntry)> {
    let (bucket, tag) = lookup.place(root.service_seed, root.bucket_mask);
    let index = find(tables.bucket(bucket)?, tag)?;
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
fn find(bucket: &ServiceBucket, tag: u32) -> Option<u32> {
    let mut i = 0;
    while i < BUCKET_WIDTH {
        if bucket.tags[i] == tag {
            return Some(bucket.services[i]);
        }
        i += 1;
    }
    None
}
