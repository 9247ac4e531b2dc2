//! What of a pool is healthy, what it keeps, and whether its plan believes that at all. Functions of the configuration and the
//! admission words alone.

use lb_common::abi::admission::Admission;
use lb_common::abi::limits::MAX_PLAN_STEPS;
use lb_common::datapath::hash::share_limit;

use super::{Layout, Member, OVERPROVISION, PlanLayout, PlanWords, PoolLayout, Steps};
use crate::config::PlanMode;
use crate::plan::planner::Cell;

/// What of a pool takes new flows, by weight.
#[derive(Clone, Copy, Debug, PartialEq, Default)]
pub struct Weights {
    /// Of all members.
    pub total: f64,
    /// Of what operators let in.
    pub allowed: f64,
    /// Of what everyone lets in: operators and automation.
    pub open: f64,
    /// Members that take any new flow.
    pub members: u32,
}

impl Weights {
    /// The healthy part, or, for a plan that stopped believing health, the part that operators let in.
    #[must_use]
    pub fn part(&self, panic: bool) -> f64 {
        if self.total == 0.0 {
            return 0.0;
        }
        (if panic { self.allowed } else { self.open }) / self.total
    }
}

/// Weighs a set by the words as they are.
fn weigh(members: &[Member], word: &impl Fn(Cell) -> Admission) -> Weights {
    let mut weights = Weights::default();
    for member in members {
        let weight = f64::from(member.weight);
        let open = part_of(member, word, false);
        weights.total += weight;
        weights.allowed += weight * part_of(member, word, true);
        weights.open += weight * open;
        weights.members += u32::from(open > 0.0);
    }
    weights
}

/// Weighs all pools by the words as they are.
pub fn weigh_all(layout: &Layout, word: &impl Fn(Cell) -> Admission) -> Vec<Weights> {
    let sets: Vec<_> = layout.sets.iter().map(|members| weigh(members, word)).collect();
    let pool = |pool: &PoolLayout| {
        pool.sets.iter().fold(Weights::default(), |sum, &(set, factor)| Weights {
            total: sum.total + sets[set].total * factor,
            allowed: sum.allowed + sets[set].allowed * factor,
            open: sum.open + sets[set].open * factor,
            members: sum.members + sets[set].members,
        })
    };
    layout.pools.iter().map(pool).collect()
}

/// Which part of new flows a member admits: domains judge a flow by one byte of its hash, the member by another one.
fn part_of(member: &Member, word: &impl Fn(Cell) -> Admission, only_held: bool) -> f64 {
    let share = |cell: Cell| {
        let word = word(cell);
        if only_held && !word.is_held() { 256 } else { share_limit(word.new_share()) }
    };
    let domains = member.domains.map(|domain| share(Cell::Domain(domain)));
    let least = domains.into_iter().min().unwrap_or(256);
    f64::from(share(Cell::Backend(member.backend))) * f64::from(least) / 65_536.0
}

/// What a plan does about the health of its pools.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// Whether it has stopped believing health.
    pub panic: bool,
    /// The healthy part of what operators let in, over all its pools but relays; 1 if they let nothing in.
    pub healthy: f64,
    /// Steps of the plan; what stands behind them means nothing.
    pub steps: usize,
    /// For each step, the part of the flows that come there that finds its own home open.
    pub open: Steps<f64>,
    /// For each step, the part of the flows that come there that stays; never less than `open`.
    pub kept: Steps<f64>,
}

impl Course {
    /// For each step, the share of the flows that find their home there shut that go on at once, as the data plane has it.
    #[must_use]
    pub fn leaves(&self) -> Steps<u8> {
        // With nothing open anywhere there is nowhere to go on to.
        let any = self.kept.iter().any(|&kept| kept > 0.0);
        let leaves = |step: usize| {
            let shut = 1.0 - self.open[step];
            if !any || shut < 1e-9 || step >= self.steps {
                0.0
            } else {
                ((1.0 - self.kept[step]) / shut).clamp(0.0, 1.0)
            }
        };
        std::array::from_fn(|step| (leaves(step) * 256.0).round().min(255.0) as u8)
    }

    /// The same, but for what the data plane's words let pools keep.
    #[must_use]
    pub fn in_force(&self, words: &PlanWords) -> Self {
        let kept = |step: usize| {
            let leaving = f64::from(share_limit(words.leaves[step])) / 256.0;
            if self.open[step] > 0.0 { 1.0 - (1.0 - self.open[step]) * leaving } else { 0.0 }
        };
        Self { kept: std::array::from_fn(kept), ..*self }
    }

    /// Where flows end up that start at these steps: a part for each step. What no step keeps is in none of them.
    #[must_use]
    pub fn land(&self, starts: &Steps<f64>) -> Steps<f64> {
        let mut landed = [0.0; MAX_PLAN_STEPS];
        let mut coming = 0.0;
        for step in 0..MAX_PLAN_STEPS {
            coming += starts[step];
            landed[step] = coming * self.kept[step];
            coming -= landed[step];
        }
        landed
    }
}

/// What a plan does, with its pools weighed.
#[must_use]
pub fn course(plan: &PlanLayout, weights: &[Weights]) -> Course {
    let of_plan = || plan.pools.iter().map(|&pool| &weights[pool]);
    let own = || of_plan().zip(&plan.relays).filter(|(_, relay)| !**relay).map(|(weights, _)| weights);
    let allowed: f64 = own().map(|weights| weights.allowed).sum();
    let healthy_weight: f64 = own().map(|weights| weights.open).sum();
    let healthy = if allowed > 0.0 { healthy_weight / allowed } else { 1.0 };
    // Another region can take what is left over: that is what it is there for.
    let elsewhere = of_plan().zip(&plan.relays).any(|(weights, relay)| *relay && weights.open > 0.0);
    // With nothing left at all there are no survivors to spare: the service's `on_all_down` says what then.
    let panic = healthy > 0.0 && healthy < plan.panic_threshold && !elsewhere;
    let mut open = [0.0; MAX_PLAN_STEPS];
    for (open, weights) in open.iter_mut().zip(of_plan()) {
        *open = weights.part(panic);
    }
    let kept = balance(wanted(plan.mode, &open, plan.pools.len()));
    Course { panic, healthy, steps: plan.pools.len(), open, kept }
}

/// Which part of what comes to it each pool would keep on its own.
fn wanted(mode: PlanMode, open: &Steps<f64>, steps: usize) -> Steps<f64> {
    let mut wanted = [0.0; MAX_PLAN_STEPS];
    for step in 0..steps {
        let open = open[step];
        wanted[step] = match mode {
            PlanMode::ZoneAffine { permille } if step == 0 && open > 0.0 => {
                if open >= f64::from(permille) / 1000.0 - 1e-9 { 1.0 } else { open }
            }
            PlanMode::Strict if open > 0.0 => 1.0,
            _ => (open * OVERPROVISION).min(1.0),
        };
    }
    wanted
}

/// Raises what each pool keeps so that nothing is left over, in proportion to what each one gets.
fn balance(wanted: Steps<f64>) -> Steps<f64> {
    let left: f64 = wanted.iter().map(|kept| 1.0 - kept).product();
    let taken = 1.0 - left;
    let mut kept = [0.0; MAX_PLAN_STEPS];
    // What comes to a step before and after the raise.
    let (mut coming, mut raised) = (1.0, 1.0);
    for step in 0..MAX_PLAN_STEPS {
        let is_last = wanted[step + 1..].iter().all(|&later| later == 0.0);
        kept[step] = match wanted[step] {
            0.0 => 0.0,
            _ if is_last => 1.0,
            // Only flows that load sends here come here.
            own if raised < 1e-9 => own,
            own => (coming * own / taken / raised).min(1.0),
        };
        coming *= 1.0 - wanted[step];
        raised *= 1.0 - kept[step];
    }
    kept
}
