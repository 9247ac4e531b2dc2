//! Whether what remains can carry a domain's traffic, and whether a domain is ready for its traffic to return. Pure.
//!
//! Where all pools of a plan have a capacity and new flows of it have been measured, those are what counts: a domain may give away what the
//! rest has room for. Elsewhere weights stand for both: a pool is built for the flows that are at home in it, and its weight is how much that is.
//! Either way a pool keeps as much of its flows as steering lets it (the 140 % rule, or what its plan's mode says), and hands the rest on to the
//! next one of the plan, which then has to carry both.

use std::collections::BTreeMap;

use lb_common::abi::admission::Admission;
use lb_common::datapath::hash::share_limit;

use crate::config::{Config, DomainId};
use crate::plan::planner::Cell;
use crate::plan::steering::{
    Layout, PlanLayout,
    simulate::{Settled, settle},
};

/// Least part of the weight of a pool, in percent of what it has to carry, that must remain when a domain is shifted: at half of it, each
/// backend that remains gets twice its flows.
pub const MIN_REMAINING_PERCENT: u64 = 50;
/// Least part of a domain's weight that must be well before its traffic returns, in percent.
pub const MIN_RETURN_PERCENT: u64 = 50;
/// Fewer new flows a second than this are no demand to judge by, and no shortage.
pub const MIN_DEMAND: f64 = 1.0;

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
    /// What there would be too little of.
    pub lack: Lack,
}

/// See [`Shortage::lack`].
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Lack {
    /// Room for measured flows.
    Room {
        /// New flows a second that want to follow the plan.
        demand: u64,
        /// Those of them that would fit into no pool.
        unfit: u64,
        /// Those that fit into none now.
        unfit_now: u64,
        /// The plan's pools, each with the new flows a second that it would have room for.
        room: Vec<(String, u64)>,
    },
    /// Weight.
    Weight {
        /// The pool of the plan's that would have least; none if no pool could take any flow.
        pool: Option<String>,
        /// What it has now, in percent of what it has to carry.
        before_percent: u64,
        /// What it would have.
        after_percent: u64,
    },
}

/// The plans that would be left with too little, and with less than now, if `domain` kept only `keep` of its new flows. `word` says
/// how things are now, `demand` how many new flows a second each plan has.
#[must_use]
pub fn shortages(
    config: &Config,
    layout: &Layout,
    word: &impl Fn(Cell) -> Admission,
    demand: &[f64],
    (domain, keep): (DomainId, u8),
) -> Vec<Shortage> {
    let then = |cell: Cell| {
        let word = word(cell);
        let share = if cell == Cell::Domain(domain) { word.new_share().min(keep) } else { word.new_share() };
        // What an operator says is no reason to stop believing health.
        let held =
            (word.0 | if cell == Cell::Domain(domain) { Admission::HELD } else { 0 }) & Admission::HELD;
        Admission(Admission::new(share, word.old_share()).0 | held)
    };
    let (before, after) = (settle(layout, word, demand), settle(layout, &then, demand));
    let mut found = Vec::new();
    for (service, plans) in layout.service_plans.iter().enumerate() {
        let pools = layout.service_pools[service].clone();
        let touched = |pool| layout.members(pool).any(|member| member.domains.contains(&domain));
        if !pools.clone().any(touched) {
            continue;
        }
        let weigh = |word: &dyn Fn(Cell) -> Admission, settled| -> Vec<Remaining> {
            let rooms: Vec<_> = pools.clone().map(|pool| Room::new(shares(layout, pool, word))).collect();
            remaining(layout, plans.clone(), pools.start, &rooms, settled)
        };
        let (weight_before, weight_after) = (weigh(word, &before), weigh(&then, &after));
        for (index, at) in plans.clone().enumerate() {
            let name =
                |pool: usize| config[layout.pools[pool].service][layout.pools[pool].index].name.clone();
            let (plan, wanted) = (&layout.plans[at], demand.get(at).copied().unwrap_or(0.0));
            let lack = if is_measured(layout, plan, wanted) {
                let unfit = |settled: &Settled| settled.plans[at].allotment.unfit;
                (unfit(&after) >= MIN_DEMAND && unfit(&after) >= unfit(&before) + MIN_DEMAND).then(|| {
                    let room = |&pool: &usize| (name(pool), whole(room_of(layout, &after, pool)));
                    Lack::Room {
                        demand: whole(wanted),
                        unfit: whole(unfit(&after)),
                        unfit_now: whole(unfit(&before)),
                        room: plan.pools.iter().map(room).collect(),
                    }
                })
            } else {
                let ((_, before_percent), (pool, after_percent)) =
                    (weight_before[index], weight_after[index]);
                (after_percent < MIN_REMAINING_PERCENT && after_percent < before_percent)
                    .then(|| Lack::Weight { pool: pool.map(name), before_percent, after_percent })
            };
            let region = config.client_regions.get(plan.number);
            let client_region = region.map_or("default", |region| region.name.as_str()).to_owned();
            let service = config[plan.service].name.clone();
            found.extend(lack.map(|lack| Shortage { service, client_region, lack }));
        }
    }
    found
}

/// Whether demand says what a plan needs: it has some, and every pool of it says what it can take.
fn is_measured(layout: &Layout, plan: &PlanLayout, demand: f64) -> bool {
    demand >= MIN_DEMAND && plan.pools.iter().all(|&pool| layout.pools[pool].capacity.is_some())
}

/// New flows a second that a pool has room for.
fn room_of(layout: &Layout, settled: &Settled, pool: usize) -> f64 {
    let capacity = layout.pools[pool].capacity.unwrap_or(0.0);
    capacity * settled.weights[pool].part(false) * layout.utilisation
}

/// In whole numbers: what is counted is far below their limit.
fn whole(flows: f64) -> u64 {
    flows.max(0.0).round() as u64
}

/// The weight of each member of a pool, and which share of new flows it takes, its domains considered.
fn shares<'a>(
    layout: &'a Layout,
    pool: usize,
    word: &'a dyn Fn(Cell) -> Admission,
) -> impl Iterator<Item = (u32, u8)> + 'a {
    layout.members(pool).map(|member| {
        let own = word(Cell::Backend(member.backend)).new_share();
        let domains = member.domains.iter().map(|&domain| word(Cell::Domain(domain)).new_share());
        (member.weight, domains.fold(own, u8::min))
    })
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

/// The pool of a plan's that has least in percent of what it has to carry, and how much; no pool where some flows find none.
type Remaining = (Option<usize>, u64);

/// What remains of each plan of a service, whose pools begin at `first_pool`.
fn remaining(
    layout: &Layout,
    plans: std::ops::Range<usize>,
    first_pool: usize,
    rooms: &[Room],
    settled: &Settled,
) -> Vec<Remaining> {
    let room = |pool: usize| &rooms[pool - first_pool];
    // What comes to lie in each pool of those that begin with each other one, by the plan that sends most: a pool's flows count once, however
    // many plans begin with it.
    let mut landed = BTreeMap::new();
    for at in plans.clone() {
        let (plan, course) = (&layout.plans[at], &settled.plans[at].course);
        let mut flows = room(plan.pools[0]).built;
        for (&pool, kept) in plan.pools.iter().zip(course.kept) {
            let most: &mut f64 = landed.entry((plan.pools[0], pool)).or_default();
            *most = most.max(flows * kept);
            flows *= 1.0 - kept;
        }
    }
    let percent = |pool: usize| {
        let flows: f64 = landed.iter().filter(|((_, to), _)| *to == pool).map(|(_, flows)| flows).sum();
        let taken = (1.0 - room(pool).over).max(f64::MIN_POSITIVE);
        (100.0 / (flows * room(pool).most / taken).max(1.0)).round() as u64
    };
    let one = |at: usize| {
        let (plan, course) = (&layout.plans[at], &settled.plans[at].course);
        let (mut part, mut least) = (1.0, None);
        for (&pool, kept) in plan.pools.iter().zip(course.kept).filter(|(pool, _)| room(**pool).over < 1.0) {
            if part > 0.0 {
                let found = (percent(pool), pool);
                least = Some(least.map_or(found, |before: (u64, usize)| before.min(found)));
            }
            part *= 1.0 - kept;
        }
        match least {
            Some((percent, pool)) if part <= f64::EPSILON => (Some(pool), percent),
            _ => (None, 0),
        }
    };
    plans.map(one).collect()
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
        Config::parse(&text_of(TEXT), "t").unwrap()
    }

    fn text_of(beginning: &str) -> String {
        let mut text = beginning.to_owned();
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
        text
    }

    fn all(config: &Config, down: &[&str], shift: (&str, u8), demand: &[f64]) -> Vec<Shortage> {
        let layout = Layout::new(config);
        let word = |cell: Cell| match cell {
            // By an operator: nobody panics about that.
            Cell::Backend(id) if down.contains(&config[id].name.as_str()) => Admission::CLOSED.held(),
            _ => Admission::OPEN,
        };
        let domain = config.topology.find(shift.0).unwrap();
        shortages(config, &layout, &word, demand, (domain, shift.1))
    }

    fn found(
        config: &Config,
        down: &[&str],
        domain: &str,
        keep: u8,
    ) -> Vec<(String, Option<String>, u64, u64)> {
        let all = all(config, down, (domain, keep), &vec![0.0; Layout::new(config).plans.len()]).into_iter();
        all.map(|shortage| match shortage.lack {
            Lack::Weight { pool, before_percent, after_percent } => {
                (shortage.client_region, pool, before_percent, after_percent)
            }
            lack @ Lack::Room { .. } => panic!("nothing was measured: {lack:?}"),
        })
        .collect()
    }

    #[test]
    fn half_of_a_pool_may_go_and_not_more() {
        let config = config();
        assert_eq!(found(&config, &[], "west/w1", 0), []);
        // What is down already counts; of what is left of west, east takes what is beyond 140 %.
        assert_eq!(found(&config, &["w2"], "west/w1", 192), []);
        // Of what nothing is left, the next pool carries the flows besides its own: 100 of 300.
        let east = || Some("east".to_owned());
        let short =
            |before| [("default".to_owned(), east(), before, 33), ("east".to_owned(), east(), before, 33)];
        assert_eq!(found(&config, &[], "west", 0), short(100));
        // With half of west down it keeps 70 %, so east has 160 to carry.
        assert_eq!(found(&config, &["w2"], "west/w1", 0), short(63));
        // The other way round there is twice as much: 200 of 300.
        assert_eq!(found(&config, &[], "east", 0), []);
        let none = found(&config, &["w2", "e1"], "west/w1", 0);
        assert!(none.len() == 2 && none.iter().all(|s| s.1.is_none() && s.3 == 0), "{none:?}");
    }

    #[test]
    fn what_is_measured_counts_more_than_weights() {
        let mut config = config();
        for pool in &mut config.services[0].pools {
            pool.capacity = Some(if pool.name == "west" { 1_000 } else { 400 });
        }
        // At 80 % of it, west has room for 800 and east for 320; without w1 for 400.
        let shift = |demand: &[f64]| all(&config, &[], ("west/w1", 0), demand);
        assert_eq!(shift(&[300.0, 100.0]), []);
        assert_eq!(shift(&[600.0, 100.0]), [], "200 of them fit into east");
        let lack = Lack::Room {
            demand: 750,
            unfit: 130,
            unfit_now: 0,
            room: vec![("west".to_owned(), 400), ("east".to_owned(), 320)],
        };
        let short = shift(&[750.0, 100.0]);
        assert_eq!(short.len(), 1, "{short:?}");
        assert_eq!((short[0].client_region.as_str(), &short[0].lack), ("default", &lack));
        // All of west may go if east has room for what there is, whatever weights say.
        let region = |demand: &[f64]| all(&config, &[], ("west", 0), demand);
        assert_eq!(region(&[200.0, 100.0]), []);
        assert_eq!(region(&[300.0, 100.0]).len(), 2, "both share what east has");
        // What fits nowhere now fits nowhere then: that is no reason.
        assert_eq!(all(&config, &["w1"], ("west/w1", 0), &[1_500.0, 100.0]), []);
        // One client region has no flows: for that, weights count.
        let one = region(&[200.0, 0.0]);
        assert!(matches!(&one[..], [Shortage { lack: Lack::Weight { .. }, .. }]), "{one:?}");
        // So they do where not every pool says what it can take.
        config.services[0].pools[1].capacity = None;
        let unknown = all(&config, &[], ("west", 0), &[300.0, 100.0]);
        let by_weight = |shortage: &Shortage| matches!(shortage.lack, Lack::Weight { .. });
        assert!(unknown.len() == 2 && unknown.iter().all(by_weight), "{unknown:?}");
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

    /// However many plans begin with a pool, its flows are those that it is built for.
    #[test]
    fn a_pools_flows_count_once() {
        let more = TEXT.replace("[client_regions]\n", "[client_regions]\nsouth = [\"203.0.113.0/24\"]\n");
        let plans = |text: &str| format!("{text}south = [\"west\"]\n");
        let config = Config::parse(&plans(&text_of(&more)), "t").unwrap();
        assert_eq!(found(&config, &[], "west/w1", 0), []);
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
        // That the region is not well is no reason to keep traffic from a zone of it; that a rack of it is not is one.
        let config = config();
        let [rack, zone, region] =
            ["west/w1/r1", "west/w1", "west"].map(|path| config.topology.find(path).unwrap());
        let ready = |ill: DomainId| {
            let members = [(100, [rack, zone, region], true)].into_iter();
            readiness(members, |domain| domain != ill, zone)
        };
        assert_eq!(ready(region), Readiness { well: 100, all: 100 });
        assert_eq!([ready(zone), ready(rack)], [Readiness { well: 0, all: 100 }; 2]);
    }
}
