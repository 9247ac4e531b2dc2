//! Guards: what the configuration says about protection, as the data plane reads it.

use lb_common::abi::{
    guard::{
        ACCESS_ALLOW, ACCESS_DENY, GUARD_ACCESS, GUARD_ALLOW_LIST, GUARD_SERVICE_LIMITS, GUARD_SOURCE_LIMITS,
        GuardEntry, Limit, NodeGuard, SCOPE_BITS, SERVICE_BUCKETS, SOURCE_BUCKETS, SOURCE_ROWS,
    },
    limits::SOURCE_PLACES,
    pod::Pod,
};

use lb_common::net::{address_bytes, address_words};

use super::prefix::Prefix;
use crate::config::{AccessList, Config, IpPrefix, Protection, Rate};

/// The guards of all services, and what holds for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Guards {
    /// In the order of [`ServiceId`](crate::config::ServiceId).
    pub services: Vec<GuardEntry>,
    /// The node's.
    pub node: NodeGuard,
    /// Source prefixes that are blocked from the start. Not part of the image's digest: switches come and go.
    pub blocked: Vec<Blocked>,
    /// Buckets that start at another time than 0, which is empty: for tests.
    pub arrivals: Vec<(u32, u64)>,
}

/// A blocked source prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// The prefix.
    pub prefix: IpPrefix,
    /// [`SCOPE_ALL`](lb_common::abi::guard::SCOPE_ALL), or the guard of the one service.
    pub scope: u32,
    /// Until when: see [`lb_common::abi::guard`].
    pub until: u32,
}

impl Blocked {
    /// Key of the map of blocked prefixes: how many bits count, and the bits.
    #[must_use]
    pub fn key(&self) -> (u32, [u32; 5]) {
        let [a, b, c, d] = address_words(&address_bytes(self.prefix.address()));
        let above = if matches!(self.prefix, IpPrefix::V4(_)) { MAPPED_LENGTH } else { 0 };
        (SCOPE_BITS + above + u32::from(self.prefix.length()), [self.scope, a, b, c, d])
    }
}

/// Length of `::ffff:0:0/96`, in which IPv4 addresses stand.
const MAPPED_LENGTH: u32 = 96;

impl Guards {
    /// Words in the map of buckets: those of the services, then the rows of source buckets.
    #[must_use]
    pub fn buckets(&self) -> u32 {
        self.node.source_base + SOURCE_ROWS * (self.node.source_mask + 1) * SOURCE_BUCKETS
    }
}

/// The guards of a configuration. `access` is the prefix table of each service's access list, 0 for none.
#[must_use]
pub fn guards(config: &Config, access: &[u32]) -> Guards {
    let tables = access.iter().copied().chain(std::iter::repeat(0));
    let services: Vec<_> =
        config.services.iter().zip(tables).map(|(s, table)| entry(&s.protection, table)).collect();
    let any_per_source = config.services.iter().any(|s| s.protection.limits.per_source.is_some());
    let places = if any_per_source { SOURCE_PLACES } else { 1 };
    let node = NodeGuard {
        source_base: services.len() as u32 * SERVICE_BUCKETS,
        source_mask: places - 1,
        ..NodeGuard::zeroed()
    };
    Guards { services, node, blocked: Vec::new(), arrivals: Vec::new() }
}

/// An access list as a prefix table.
#[must_use]
pub fn access_list(lists: &AccessList) -> Vec<Prefix> {
    let of = |prefixes: &[IpPrefix], value| -> Vec<Prefix> {
        prefixes.iter().map(|&prefix| Prefix { prefix, value }).collect()
    };
    [of(&lists.allow, ACCESS_ALLOW), of(&lists.deny, ACCESS_DENY)].concat()
}

const _: () = assert!(SOURCE_PLACES.is_power_of_two());

fn entry(protection: &Protection, access: u32) -> GuardEntry {
    let Protection { priority, access: lists, limits } = protection;
    let mut entry = GuardEntry {
        class: *priority as u32,
        access,
        packets: limit(limits.packets),
        new_flows: limit(limits.new_flows),
        ..GuardEntry::zeroed()
    };
    if !lists.is_empty() {
        entry.flags |= GUARD_ACCESS;
    }
    if !lists.allow.is_empty() {
        entry.flags |= GUARD_ALLOW_LIST;
    }
    if limits.packets.is_some() || limits.new_flows.is_some() {
        entry.flags |= GUARD_SERVICE_LIMITS;
    }
    if let Some(source) = &limits.per_source {
        entry.flags |= GUARD_SOURCE_LIMITS;
        entry.source_packets = limit(source.packets);
        entry.source_new_flows = limit(source.new_flows);
        entry.source_mask_v4 = (u32::MAX << (32 - u32::from(source.v4))).to_be();
        let mask = (u128::MAX << (128 - u32::from(source.v6))).to_be_bytes();
        for (word, bytes) in entry.source_mask_v6.iter_mut().zip(mask.chunks_exact(4)) {
            *word = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
    }
    entry
}

/// A limit as the data plane reads it.
///
/// # Panics
/// If it is out of the range that the configuration and the API hold it to.
#[must_use]
pub fn limit(rate: Option<Rate>) -> Limit {
    rate.map_or(Limit::default(), |Rate { per_second, burst }| {
        Limit::new(per_second, burst).expect("the configuration bounds rates and bursts")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::{MAX_BURST, MAX_RATE};
    use crate::config::{Limits, SourceLimits};

    #[test]
    fn every_limit_that_may_be_configured_fits() {
        for per_second in [1, MAX_RATE] {
            for burst in [1, MAX_BURST] {
                assert!(limit(Some(Rate { per_second, burst })).is_set());
            }
        }
        assert!(!limit(None).is_set());
    }

    #[test]
    fn masks_keep_the_prefix_in_network_order() {
        let per_source = SourceLimits { v4: 24, v6: 56, packets: None, new_flows: None };
        let limits = Limits { per_source: Some(per_source), ..Limits::default() };
        let entry = entry(&Protection { limits, ..Protection::default() }, 0);
        assert_eq!(entry.source_mask_v4.to_ne_bytes(), [255, 255, 255, 0]);
        let words = entry.source_mask_v6.map(u32::to_ne_bytes);
        assert_eq!(words, [[255; 4], [255, 255, 255, 0], [0; 4], [0; 4]]);
    }

    #[test]
    fn only_an_allow_list_refuses_strangers() {
        let prefix = vec![IpPrefix::parse("198.51.100.0/24").unwrap()];
        let flags = |allow: Vec<IpPrefix>, deny: Vec<IpPrefix>| {
            entry(&Protection { access: AccessList { allow, deny }, ..Protection::default() }, 3).flags
        };
        assert_eq!(flags(Vec::new(), prefix.clone()), GUARD_ACCESS);
        assert_eq!(flags(prefix, Vec::new()), GUARD_ACCESS | GUARD_ALLOW_LIST);
        assert_eq!(flags(Vec::new(), Vec::new()), 0);
    }
}
