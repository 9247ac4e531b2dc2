//! Builds the service index.

use lb_common::abi::limits::MAX_SERVICE_BUCKETS;
use lb_common::abi::service::{BUCKET_WIDTH, ServiceBucket, ServiceKey};
use lb_common::datapath::classify::Lookup;
use lb_common::datapath::hash::finish;

/// Seeds that are tried with one number of buckets before it is doubled.
const SEEDS_PER_SIZE: u64 = 16;
/// Keys per bucket, on average, with which the search starts.
const KEYS_PER_BUCKET: usize = 2;

/// A service index.
pub(super) struct Index {
    /// The seed with which no bucket overflows and no bucket holds two equal tags.
    pub(super) seed: u64,
    /// A power of two of buckets.
    pub(super) buckets: Vec<ServiceBucket>,
}

/// Puts `keys` (distinct; with each the index of the entry that it finds) into buckets; `None` when no seed fits even with
/// [`MAX_SERVICE_BUCKETS`].
pub(super) fn build(keys: &[(ServiceKey, u32)]) -> Option<Index> {
    let mut size = (keys.len() / KEYS_PER_BUCKET).next_power_of_two();
    while size <= MAX_SERVICE_BUCKETS {
        for attempt in 0..SEEDS_PER_SIZE {
            let seed = finish(attempt + 1);
            if let Some(buckets) = fill(keys, seed, size) {
                return Some(Index { seed, buckets });
            }
        }
        size *= 2;
    }
    None
}

fn fill(keys: &[(ServiceKey, u32)], seed: u64, size: usize) -> Option<Vec<ServiceBucket>> {
    let empty = ServiceBucket { tags: [0; BUCKET_WIDTH], services: [0; BUCKET_WIDTH] };
    let mut buckets = vec![empty; size];
    for (key, service) in keys {
        let (bucket, tag) = Lookup::new(key).place(seed, size as u32 - 1);
        let bucket = &mut buckets[bucket as usize];
        if bucket.tags.contains(&tag) {
            return None;
        }
        let free = bucket.tags.iter().position(|&t| t == 0)?;
        bucket.tags[free] = tag;
        bucket.services[free] = *service;
    }
    Some(buckets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(n: u32) -> (ServiceKey, u32) {
        let mut address = [0; 16];
        address[12..].copy_from_slice(&n.to_be_bytes());
        (ServiceKey { address, port: [0, 80], protocol: 6, prefix: 0 }, n)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn every_key_has_its_place_and_no_other_has_its_tag(first: u32, count in 0_u32..5_000) {
            let keys: Vec<_> = (0..count).map(|i| key(first.wrapping_add(i))).collect();
            let index = build(&keys).unwrap();
            prop_assert!(index.buckets.len().is_power_of_two());
            for (key, service) in &keys {
                let (bucket, tag) = Lookup::new(key).place(index.seed, index.buckets.len() as u32 - 1);
                let bucket = &index.buckets[bucket as usize];
                let found: Vec<_> = (0..BUCKET_WIDTH).filter(|&i| bucket.tags[i] == tag).collect();
                prop_assert_eq!(found.len(), 1);
                prop_assert_eq!(bucket.services[found[0]], *service);
            }
        }
    }

    #[test]
    fn equal_keys_fit_nowhere() {
        assert!(build(&[key(1); 2]).is_none());
    }
}
