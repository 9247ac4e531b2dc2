//! Where the traffic would go if something failed or load grew: the same decisions on other facts.

use lb_common::abi::admission::Admission;

use super::health::{Course, Weights, course, weigh_all};
use super::load::{Allotment, allot, room};
use super::{Layout, Steps};
use crate::plan::planner::Cell;

/// How things come to stand once they have settled.
#[derive(Clone, Debug, PartialEq)]
pub struct Settled {
    /// What of each pool is healthy.
    pub weights: Vec<Weights>,
    /// What each plan does.
    pub plans: Vec<Settling>,
    /// New flows a second that come to each pool.
    pub arrivals: Vec<f64>,
}

/// See [`Settled::plans`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Settling {
    /// About health.
    pub course: Course,
    /// About load.
    pub allotment: Allotment,
    /// The part of its new flows that comes to each step's pool; none of those that are dropped.
    pub landed: Steps<f64>,
    /// New flows a second of it.
    pub demand: f64,
}

/// How things come to stand with these words and demands.
pub fn settle(layout: &Layout, word: &impl Fn(Cell) -> Admission, demand: &[f64]) -> Settled {
    settle_with(layout, word, demand, layout.utilisation)
}

/// As [`settle`], if pools handed nothing on for load.
pub fn settle_unspilled(layout: &Layout, word: &impl Fn(Cell) -> Admission, demand: &[f64]) -> Settled {
    settle_with(layout, word, demand, f64::INFINITY)
}

fn settle_with(
    layout: &Layout,
    word: &impl Fn(Cell) -> Admission,
    demand: &[f64],
    utilisation: f64,
) -> Settled {
    let weights = weigh_all(layout, word);
    let courses: Vec<_> = layout.plans.iter().map(|plan| course(plan, &weights)).collect();
    let allotments = if utilisation.is_finite() {
        allot(layout, &courses, room(layout, &weights, &courses, utilisation), demand)
    } else {
        vec![Allotment::HOME; demand.len()]
    };
    let mut arrivals = vec![0.0; layout.pools.len()];
    let mut plans = Vec::with_capacity(courses.len());
    for (((plan, &course), &allotment), &demand) in
        layout.plans.iter().zip(&courses).zip(&allotments).zip(demand)
    {
        let landed = course.land(&allotment.starts);
        let fitting = (demand - allotment.unfit).max(0.0);
        for (&pool, part) in plan.pools.iter().zip(landed) {
            arrivals[pool] += fitting * part;
        }
        plans.push(Settling { course, allotment, landed, demand });
    }
    Settled { weights, plans, arrivals }
}
