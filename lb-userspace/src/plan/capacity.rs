//! Whether what remains can carry a domain's traffic, and whether a domain is ready for its traffic to return. Pure.
//!
//! Without measured demand and capacities, weights stand for both: a pool is built for the flows that are at home in it, and its weight
//! is how much that is. A pool of which nothing is left hands its flows on to the next one of the plan, which then has
//! to carry both.

use std::collections::BTreeSet;

use lb_common::datapath::hash::share_limit;

use crate::config::{BackendId, Config, DomainId, PoolIndex, Service};

/// Least part of the weight of a pool, in percent of what it has to carry, that must remain when a domain is shifted: at half of it, each
/// backend that remains gets twice its flows.
pub const MIN_REMAINING_PERCENT: u64 = 50;
/// Least part of a domain's weight that must be well before its traffic returns, in percent.
pub const MIN_RETURN_PERCENT: u64 = 50;

/// How much of a domain is well.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readiness {
    /// Weight of its backends that could take new flows if the domain were not shifted.
    pub well: u64,
    /// Weight of all its backends.
    pub all: u64,
}

impl Readiness {
    /// Whether traffic may return.
    #[must_use]
    pub const fn is_enough(self) -> bool {
        self.well * 100 >= self.all * MIN_RETURN_PERCENT
    }

    /// What is well, in percent; 100 of nothing.
    #[must_use]
    pub const fn percent(self) -> u64 {
        if self.all == 0 { 100 } else { self.well * 100 / self.all }
    }
}

/// How much of `domain` could take new flows if it were not shifted: of backends that are well, those in domains that are. `members`
/// says of each backend its weight, its rack, zone and region, and whether it is well itself.
pub fn readiness(
    members: impl Iterator<Item = (u32, [DomainId; 3], bool)>,
    is_well: impl Fn(DomainId) -> bool,
    domain: DomainId,
) -> Readiness {
    let mut ready = Readiness::default();
    for (weight, above, well) in members {
        let Some(at) = above.iter().position(|id| *id == domain) else { continue };
        ready.all += u64::from(weight);
        // Nothing is said of what lies above: that is another matter than whether this one may return.
        let all_well = well && above[..=at].iter().all(|id| is_well(*id));
        ready.well += u64::from(weight) * u64::from(all_well);
    }
    ready
}

/// A plan that would be left with too little.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Shortage {
    /// The service.
    pub service: String,
    /// The client region.
    pub client_region: String,
    /// The pool to which the plan's flows would go; none if no pool could take any.
    pub pool: Option<String>,
    /// What takes them now, in percent of what it is built for.
    pub before_percent: u64,
    /// What would take them then.
    pub after_percent: u64,
}

/// The plans that would be left with less than [`MIN_REMAINING_PERCENT`], and with less than now, if `domain` kept only `keep` of
/// its new flows. `now` says which share of new flows each backend takes, its domains considered.
#[must_use]
pub fn shortages(config: &Config, now: impl Fn(BackendId) -> u8, domain: DomainId, keep: u8) -> Vec<Shortage> {
    let is_within = |id: BackendId| config.topology.is_within(config[id].rack, domain);
    let then = |id: BackendId| if is_within(id) { now(id).min(keep) } else { now(id) };
    let mut found = Vec::new();
    for service in &config.services {
        let members: Vec<_> = service.pools.iter().map(|pool| config.members(pool)).collect();
        if !members.iter().flatten().any(|&id| is_within(id)) {
            continue;
        }
        let weigh = |share: &dyn Fn(BackendId) -> u8| -> Vec<u64> {
            let one = |&id: &BackendId| u64::from(config[id].weight) * u64::from(share_limit(share(id)));
            members.iter().map(|pool| pool.iter().map(one).sum()).collect()
        };
        let built = weigh(&|_| u8::MAX);
        let (before, after) = (remaining(service, &built, &weigh(&now)), remaining(service, &built, &weigh(&then)));
        for ((plan, (_, before_percent)), (pool, after_percent)) in before.into_iter().enumerate().zip(after) {
            if after_percent < MIN_REMAINING_PERCENT && after_percent < before_percent {
                let region = config.client_regions.get(plan).map_or("default", |region| region.name.as_str());
                found.push(Shortage {
                    service: service.name.clone(),
                    client_region: region.to_owned(),
                    pool: pool.map(|pool| service[pool].name.clone()),
                    before_percent,
                    after_percent,
                });
            }
        }
    }
    found
}

/// For each plan the pool that takes its flows, and what that has in percent of what it has to carry.
fn remaining(service: &Service, built: &[u64], has: &[u64]) -> Vec<(Option<PoolIndex>, u64)> {
    let lands = |plan: &Vec<PoolIndex>| plan.iter().copied().find(|pool| has[pool.index()] > 0);
    // Whose flows are at home in a pool, and where they go: each once, however many plans say so.
    let ways: BTreeSet<_> = service
        .plans
        .iter()
        .filter_map(|plan| Some((plan.first()?.index(), lands(plan)?.index())))
        .collect();
    let load = |pool: PoolIndex| -> u64 {
        ways.iter().filter(|(_, to)| *to == pool.index()).map(|(from, _)| built[*from]).sum()
    };
    let one = |plan: &Vec<PoolIndex>| match lands(plan) {
        Some(pool) => (Some(pool), has[pool.index()] * 100 / load(pool).max(1)),
        None => (None, 0),
    };
    service.plans.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
[node]
name = "edge"
region = "west"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.west]
w1 = ["r1"]
w2 = ["r1"]
[topology.east]
e1 = ["r1"]
[client_regions]
east = ["198.51.100.0/24"]
"#;

    fn config() -> Config {
        let mut text = TEXT.to_owned();
        for (set, zone, address) in [("w1", "west/w1", 1), ("w2", "west/w2", 2), ("e1", "east/e1", 3)] {
            text += &format!(
                "[[set]]\nname = \"{set}\"\ndomain = \"{zone}\"\nchecks = []\n[[set.backend]]\nname = \"{set}\"\n\
                 rack = \"{zone}/r1\"\naddress = \"10.1.0.{address}\"\nweight = 100\n"
            );
        }
        text += "[[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n\
                 [[service.pool]]\nname = \"west\"\nsets = [\"w1\", \"w2\"]\n\
                 [[service.pool]]\nname = \"east\"\nsets = [\"e1\"]\n\
                 [service.plan]\ndefault = [\"west\", \"east\"]\neast = [\"east\", \"west\"]\n";
        Config::parse(&text, "t").unwrap()
    }

    fn found(config: &Config, down: &[&str], domain: &str, keep: u8) -> Vec<(String, Option<String>, u64, u64)> {
        let now = |id: BackendId| if down.contains(&config[id].name.as_str()) { 0 } else { 255 };
        let domain = config.topology.find(domain).unwrap();
        let all = shortages(config, now, domain, keep).into_iter();
        all.map(|s| (s.client_region, s.pool, s.before_percent, s.after_percent)).collect()
    }

    #[test]
    fn half_of_a_pool_may_go_and_not_more() {
        let config = config();
        assert_eq!(found(&config, &[], "west/w1", 0), []);
        // What is down already counts.
        let west = || Some("west".to_owned());
        assert_eq!(found(&config, &["w2"], "west/w1", 128), [("default".to_owned(), west(), 50, 25)]);
        // Of what nothing is left, the next pool carries the flows besides its own: 100 of 300.
        let east = || Some("east".to_owned());
        let short = [("default".to_owned(), east(), 100, 33), ("east".to_owned(), east(), 100, 33)];
        assert_eq!(found(&config, &[], "west", 0), short);
        // The other way round there is twice as much: 200 of 300.
        assert_eq!(found(&config, &[], "east", 0), []);
        let none = found(&config, &["w2", "e1"], "west/w1", 0);
        assert!(none.len() == 2 && none.iter().all(|s| s.1.is_none() && s.3 == 0), "{none:?}");
    }

    #[test]
    fn what_is_no_worse_than_now_is_no_shortage() {
        let config = config();
        assert_eq!(found(&config, &["w1", "w2"], "west/w1", 0), []);
    }

    #[test]
    fn a_domain_returns_when_half_of_it_is_well() {
        assert!(Readiness { well: 1, all: 2 }.is_enough() && !Readiness { well: 49, all: 100 }.is_enough());
        assert!(Readiness::default().is_enough(), "nothing is in it");
        assert_eq!((Readiness { well: 1, all: 3 }.percent(), Readiness::default().percent()), (33, 100));
    }
}
