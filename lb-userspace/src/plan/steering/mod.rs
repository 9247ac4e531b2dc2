//! Which pool of its plan takes a flow beyond the order of the list: what a pool that is in part down keeps, what a pool that is
//! full hands on, and when a plan stops believing health. Pure.
//!
//! | question | answer | moves | memory |
//! |---|---|---|---|
//! | whom does a pool keep that its failed members leave? | [`health`]: as many as bring it to [`OVERPROVISION`] of what is healthy | flows whose own home refuses them | none |
//! | which plan stops believing health? | [`health`]: where less than the threshold of what operators let is healthy | the same | none |
//! | whom does a pool hand on that gets more than it can take? | [`load`]: whom the target utilisation has no room for | new flows, at home too | [`pace`] |
//! | who fits nowhere? | [`load`], handed over to [`shed`](super::shed) | | |
//!
//! What has no memory is a function of the configuration and the admission words alone, so that two hosts that know the same do
//! the same (guarantee 3). Load is measured on each host, and is of each host.
//!
//! A flow whose home admits it never moves because something else failed (guarantee 2): spill by health divides only the flows
//! that have to move anyway between the pool's other members and the next pool.

pub mod demand;
pub mod eject;
pub mod health;
pub mod load;
pub mod pace;
pub mod simulate;

#[cfg(test)]
mod edge_tests;
#[cfg(test)]
mod tests;

use std::ops::Range;

use lb_common::abi::{
    limits::MAX_PLAN_STEPS,
    plan::{PLAN_PANIC, PlanEntry},
};

use crate::config::{BackendId, Config, DomainId, PlanMode, Pool, PoolIndex, Service, ServiceId, SetId};

/// A pool takes so much more than its healthy members' part of its flows before the rest goes down the list: with 5 of 7 members
/// all of them.
pub const OVERPROVISION: f64 = 1.4;

/// One number for each step of a plan.
pub type Steps<T> = [T; MAX_PLAN_STEPS];

/// What of a configuration steering needs, with numbers instead of names.
#[derive(Clone, Debug, PartialEq)]
pub struct Layout {
    /// The members of each set, by [`SetId`](crate::config::SetId). Services share sets, so they are looked at once.
    pub sets: Vec<Vec<Member>>,
    /// All pools; those of service 0 first.
    pub pools: Vec<PoolLayout>,
    /// All plans; those of service 0 first.
    pub plans: Vec<PlanLayout>,
    /// Positions of each service's pools.
    pub service_pools: Vec<Range<usize>>,
    /// Positions of each service's plans.
    pub service_plans: Vec<Range<usize>>,
    /// Part of a pool's capacity that is used before flows spill, above 0 and at most 1.
    pub utilisation: f64,
}

/// A pool.
#[derive(Clone, Debug, PartialEq)]
pub struct PoolLayout {
    /// Whose.
    pub service: ServiceId,
    /// Which of the service's pools.
    pub index: PoolIndex,
    /// Who serves: positions in [`Layout::sets`], each with the factor of its members' weights, which is not 1 where a canary says so.
    pub sets: Vec<(usize, f64)>,
    /// New flows a second that all members together take.
    pub capacity: Option<f64>,
    /// Whether its members are hosts of another region, whose weights say nothing of what they can take.
    pub relay: bool,
}

/// A member of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Who.
    pub backend: BackendId,
    /// Its share in the pool.
    pub weight: u32,
    /// Its rack, zone and region.
    pub domains: [DomainId; 3],
}

/// A plan: that of a service for one client region, or for all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PlanLayout {
    /// Whose.
    pub service: ServiceId,
    /// Its place among the service's plans in the data plane.
    pub number: usize,
    /// Its pools in order, as positions in [`Layout::pools`]; one to [`MAX_PLAN_STEPS`].
    pub pools: Vec<usize>,
    /// How it leaves the first one.
    pub mode: PlanMode,
    /// For each of its pools, whether it is a relay.
    pub relays: Vec<bool>,
    /// Below which healthy part it stops believing health; 0 for never.
    pub panic_threshold: f64,
}

impl Layout {
    /// What a configuration says.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let utilisation = f64::from(config.node.target_utilisation) / 100.0;
        let member = |&backend: &BackendId| Member {
            backend,
            weight: config[backend].weight,
            domains: config.topology.ancestors(config[backend].rack),
        };
        let mut layout = Self {
            sets: config.sets.iter().map(|set| set.backends.iter().map(member).collect()).collect(),
            pools: Vec::new(),
            plans: Vec::new(),
            service_pools: Vec::new(),
            service_plans: Vec::new(),
            utilisation,
        };
        for (index, service) in config.services.iter().enumerate() {
            let id = ServiceId::from_index(index).expect("the number of services is limited");
            layout.add(config, id, service);
        }
        layout
    }

    fn add(&mut self, config: &Config, id: ServiceId, service: &Service) {
        let (first_pool, first_plan) = (self.pools.len(), self.plans.len());
        for (index, pool) in service.pools.iter().enumerate() {
            self.pools.push(PoolLayout {
                service: id,
                index: PoolIndex::from_index(index).expect("the number of pools is limited"),
                sets: sets(config, pool),
                capacity: pool.capacity.map(|flows| flows as f64),
                relay: pool.relay,
            });
        }
        let threshold = service.panic_threshold.unwrap_or(config.node.panic_threshold);
        for (number, plan) in service.distinct_plans().iter().enumerate() {
            self.plans.push(PlanLayout {
                service: id,
                number,
                pools: plan.iter().map(|pool| first_pool + pool.index()).collect(),
                mode: plan.mode,
                relays: plan.iter().map(|&pool| service[pool].relay).collect(),
                panic_threshold: f64::from(threshold) / 100.0,
            });
        }
        self.service_pools.push(first_pool..self.pools.len());
        self.service_plans.push(first_plan..self.plans.len());
    }

    /// The members of a pool.
    pub fn members(&self, pool: usize) -> impl Iterator<Item = &Member> {
        self.pools[pool].sets.iter().flat_map(|&(set, _)| &self.sets[set])
    }

    /// Whether some pool has a capacity: without, load moves nothing.
    #[must_use]
    pub fn has_capacities(&self) -> bool {
        self.pools.iter().any(|pool| pool.capacity.is_some())
    }
}

/// The sets of a pool with the factors of their weights. The whole pool weighs what it weighs without a canary.
fn sets(config: &Config, pool: &Pool) -> Vec<(usize, f64)> {
    let weights = config.weights(pool);
    let file = |id: BackendId| f64::from(config[id].weight);
    let total = |of: &dyn Fn(&(BackendId, u32)) -> f64, set: Option<SetId>| -> f64 {
        weights.iter().filter(|(id, _)| set.is_none_or(|set| config[*id].set == set)).map(of).sum()
    };
    let (in_file, in_table) =
        (|member: &(BackendId, u32)| file(member.0), |member: &(BackendId, u32)| f64::from(member.1));
    let whole = total(&in_file, None) / total(&in_table, None).max(1.0);
    let factor = |set: SetId| match pool.canary {
        None => 1.0,
        Some(_) => total(&in_table, Some(set)) * whole / total(&in_file, Some(set)).max(1.0),
    };
    pool.sets.iter().map(|&set| (set.index(), factor(set))).collect()
}

/// The live words of a plan in the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlanWords {
    /// Whether the plan has stopped believing health.
    pub panic: bool,
    /// For each step the share of the flows that its pool's member at probe 0 refuses that go on to the next pool at once.
    pub leaves: Steps<u8>,
    /// Cumulative shares of new flows that start at or before each step.
    pub shares: Steps<u16>,
}

impl PlanWords {
    /// Nothing is steered.
    pub const NEUTRAL: Self =
        Self { panic: false, leaves: [0; MAX_PLAN_STEPS], shares: [u16::MAX; MAX_PLAN_STEPS] };

    /// The words in an entry.
    #[must_use]
    pub const fn of(entry: &PlanEntry) -> Self {
        Self { panic: entry.eased & PLAN_PANIC != 0, leaves: entry.leaves, shares: entry.shares }
    }

    /// Whether new flows start behind the first step.
    #[must_use]
    pub fn spills(&self) -> bool {
        self.shares.iter().any(|&share| share != u16::MAX)
    }

    /// Whether anything but that is steered.
    #[must_use]
    pub fn steers(&self) -> bool {
        self.panic || self.leaves.iter().any(|&share| share != 0)
    }

    /// Which part of new flows starts at each step.
    #[must_use]
    pub fn starts(&self, steps: usize) -> Steps<f64> {
        let mut starts = [0.0; MAX_PLAN_STEPS];
        let mut before = 0.0;
        for (step, start) in starts.iter_mut().enumerate().take(steps) {
            let whole = step + 1 == steps;
            let upto = if whole { 1.0 } else { cumulative(self.shares[step]).max(before) };
            *start = upto - before;
            before = upto;
        }
        starts
    }
}

/// The part of the values of a 16-bit hash that are not above a share.
fn cumulative(share: u16) -> f64 {
    (f64::from(share) + 1.0) / 65_536.0
}

/// The share that this part of the values of a 16-bit hash is not above. None is below 1/65,536.
#[must_use]
pub fn share_of(part: f64) -> u16 {
    // In range: the product is at most 65,536, and less one at least -1, which becomes 0.
    (part.clamp(0.0, 1.0) * 65_536.0 - 1.0).round() as u16
}
