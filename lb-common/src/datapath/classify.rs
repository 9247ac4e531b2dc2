//! Stage 2: which service is it for?

use super::{hash::service_hash, ports::Tables};
use crate::abi::{
    root::Root,
    service::{BUCKET_WIDTH, ServiceBucket, ServiceEntry, ServiceKey},
};

/// Where the index keeps a key: the bucket's number and the tag in it.
#[must_use]
#[inline(always)]
pub fn place_of(seed: u64, bucket_mask: u32, key: &ServiceKey) -> (u32, u32) {
    let port_protocol = u16::from_be_bytes(key.port) as u32 | (key.protocol as u32) << 16;
    let h = service_hash(seed, &key.address, port_protocol);
    (h as u32 & bucket_mask, (h >> 32) as u32 | 1)
}

/// The service for a key: its index and entry.
#[inline(always)]
pub fn service<'a, T: Tables>(tables: &'a T, root: &Root, key: &ServiceKey) -> Option<(u32, &'a ServiceEntry)> {
    let (bucket, tag) = place_of(root.service_seed, root.bucket_mask, key);
    let index = find(tables.bucket(bucket)?, tag)?;
    let entry = tables.service(index)?;
    (entry.address == key.address && entry.port == key.port && entry.protocol == key.protocol).then_some((index, entry))
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
