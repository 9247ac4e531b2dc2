//! Whether what remains can carry a domain's traffic, and whether a domain is ready for its traffic to return. Pure.
//!
//! Without measured demand and capacities, weights stand for both: a pool is built for the flows that are at home in it, and its weight
//! is how much that is. A pool of which nothing is left hands its flows on to the next one of the plan, which then has
//! to carry both.

use std::collections::BTreeMap;

use lb_common::datapath::hash::share_limit;

use crate::config::{BackendId, Config, DomainId, Plan, PoolIndex, Service};

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
        match (self.well * 100).checked_div(self.all) {
            Some(percent) => percent,
            None => 100,
        }
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
pub fn shortages(
    config: &Config,
    now: impl Fn(BackendId) -> u8,
    domain: DomainId,
    keep: u8,
) -> Vec<Shortage> {
    let is_within = |id: BackendId| config.topology.is_within(config[id].rack, domain);
    let then = |id: BackendId| if is_within(id) { now(id).min(keep) } else { now(id) };
    let mut found = Vec::new();
    for service in &config.services {
        let members: Vec<_> = service.pools.iter().map(|pool| config.members(pool)).collect();
        if !members.iter().flatten().any(|&id| is_within(id)) {
            continue;
        }
        let pools = |share: &dyn Fn(BackendId) -> u8| -> Vec<Room> {
            members
                .iter()
                .map(|pool| Room::new(pool.iter().map(|&id| (config[id].weight, share(id)))))
                .collect()
        };
        let (before, after) = (remaining(service, &pools(&now)), remaining(service, &pools(&then)));
        for ((plan, (_, before_percent)), (pool, after_percent)) in before.into_iter().enumerate().zip(after)
        {
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

/// What a pool can take.
#[derive(Clone, Copy, Debug)]
struct Room {
    /// The weight of all its members: the flows that it is built for.
    built: f64,
    /// For one flow spread over the pool, the part that comes to each unit of weight of the member with the most.
    most: f64,
    /// The part of its flows that no member takes.
    over: f64,
}

impl Room {
    /// A flow belongs to a member's share by its hash: one whose byte lies above all shares goes to the next pool, and the more
    /// members a flow may choose from, the less comes to each.
    fn new(members: impl Iterator<Item = (u32, u8)>) -> Self {
        let mut members: Vec<_> =
            members.map(|(weight, share)| (share_limit(share), f64::from(weight))).collect();
        members.sort_unstable_by_key(|(limit, _)| *limit);
        let built: f64 = members.iter().map(|(_, weight)| weight).sum();
        let (mut takes, mut below, mut most) = (built, 0, 0.0);
        for (limit, weight) in members {
            if limit > below && takes > 0.0 {
                most += f64::from(limit - below) / 256.0 / takes;
            }
            below = below.max(limit);
            takes -= weight;
        }
        Self { built, most, over: 1.0 - f64::from(below) / 256.0 }
    }
}

/// For each plan, which of its pools has least in percent of what it has to carry, and how much; no pool where some flows find none.
fn remaining(service: &Service, pools: &[Room]) -> Vec<(Option<PoolIndex>, u64)> {
    // What each pool hands on to each other one, by the plan that hands on most: a pool's flows count once, however many plans begin with it.
    let mut handed = BTreeMap::new();
    for plan in &service.plans {
        let Some(first) = plan.first() else { continue };
        let mut flows = pools[first.index()].built;
        for pool in plan.iter() {
            let most: &mut f64 = handed.entry((first.index(), pool.index())).or_default();
            *most = most.max(flows);
            flows *= pools[pool.index()].over;
        }
    }
    let percent = |pool: usize| {
        let flows: f64 = handed.iter().filter(|((_, to), _)| *to == pool).map(|(_, flows)| flows).sum();
        (100.0 / (flows * pools[pool].most).max(1.0)).round() as u64
    };
    let one = |plan: &Plan| {
        let (mut part, mut least) = (1.0, None);
        for pool in plan.iter().filter(|pool| pools[pool.index()].over < 1.0) {
            if part > 0.0 {
                let found = (percent(pool.index()), *pool);
                least = Some(least.map_or(found, |before: (u64, PoolIndex)| before.min(found)));
            }
            part *= pools[pool.index()].over;
        }
        match least {
            Some((percent, pool)) if part == 0.0 => (Some(pool), percent),
            _ => (None, 0),
        }
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

    fn found(
        config: &Config,
        down: &[&str],
        domain: &str,
        keep: u8,
    ) -> Vec<(String, Option<String>, u64, u64)> {
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
        assert_eq!(
            found(&config, &["w2"], "west/w1", 128),
            [],
            "no backend gets more, and east takes half of west's"
        );
        // Of what nothing is left, the next pool carries the flows besides its own: 100 of 300.
        let east = || Some("east".to_owned());
        let short =
            |before| [("default".to_owned(), east(), before, 33), ("east".to_owned(), east(), 100, 33)];
        assert_eq!(found(&config, &[], "west", 0), short(100));
        assert_eq!(found(&config, &["w2"], "west/w1", 0), short(50));
        // The other way round there is twice as much: 200 of 300.
        assert_eq!(found(&config, &[], "east", 0), []);
        let none = found(&config, &["w2", "e1"], "west/w1", 0);
        assert!(none.len() == 2 && none.iter().all(|s| s.1.is_none() && s.3 == 0), "{none:?}");
    }

    #[test]
    fn a_share_takes_its_share_of_all_flows_of_the_pool() {
        let room = |members: &[(u32, u8)]| {
            let Room { built, most, over } = Room::new(members.iter().copied());
            (built, (most * 1_000.0).round(), (over * 256.0).round())
        };
        assert_eq!(room(&[(1, 255), (1, 255)]), (2.0, 500.0, 0.0));
        assert_eq!(room(&[(1, 255), (1, 0)]), (2.0, 1_000.0, 0.0));
        assert_eq!(room(&[(1, 255), (1, 128)]), (2.0, 750.0, 0.0), "half of the flows choose from two");
        assert_eq!(room(&[(1, 64), (1, 64)]), (2.0, 125.0, 192.0), "three quarters go on");
        assert_eq!(room(&[(1, 0)]), (1.0, 0.0, 256.0));
        assert_eq!(room(&[]), (0.0, 0.0, 256.0));
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
