//! Whom a pool hands on that gets more than it can take.
//!
//! Flows start at the first step of their plan as far as the pools there have room, those that are left at the second, and so on.
//! All plans take the first step before any takes the second, so that a pool serves its own clients before those of others.
//! Where flows that start at a step come to lie depends on the health of the pools from there on: see
//! [`Course::land`](super::health::Course::land).

use lb_common::abi::limits::MAX_PLAN_STEPS;

use super::health::{Course, Weights};
use super::{Layout, PoolLayout, Steps};

/// Fewer new flows a second than this are none.
const NOTHING: f64 = 1e-9;

/// Where the flows of a plan start.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Allotment {
    /// A part for each step; together 1.
    pub starts: Steps<f64>,
    /// New flows a second that no pool has room for.
    pub unfit: f64,
}

impl Allotment {
    /// Everything starts at the first step.
    pub const HOME: Self = {
        let mut starts = [0.0; MAX_PLAN_STEPS];
        starts[0] = 1.0;
        Self { starts, unfit: 0.0 }
    };
}

/// New flows a second that each pool has room for, when `utilisation` of its healthy members' capacity is used.
#[must_use]
pub fn room(layout: &Layout, weights: &[Weights], courses: &[Course], utilisation: f64) -> Vec<f64> {
    // Where health is not believed, a pool is what operators left of it.
    let mut panic = vec![false; layout.pools.len()];
    for (plan, course) in layout.plans.iter().zip(courses) {
        plan.pools.iter().for_each(|&pool| panic[pool] |= course.panic);
    }
    let room = |(at, pool): (usize, &PoolLayout)| {
        pool.capacity.map_or(f64::INFINITY, |most| most * weights[at].part(panic[at]) * utilisation)
    };
    layout.pools.iter().enumerate().map(room).collect()
}

/// Where the flows of each plan start, of `demand` new flows a second each.
#[must_use]
pub fn allot(layout: &Layout, courses: &[Course], mut room: Vec<f64>, demand: &[f64]) -> Vec<Allotment> {
    let mut left = demand.to_vec();
    let mut started = vec![[0.0; MAX_PLAN_STEPS]; demand.len()];
    for step in 0..MAX_PLAN_STEPS {
        let mut wanted = vec![0.0; room.len()];
        let primary = |at: usize| primary(layout, courses, at, step);
        for (at, &flows) in left.iter().enumerate().filter(|(_, flows)| **flows > NOTHING) {
            if let Some((pool, part)) = primary(at) {
                wanted[pool] += flows * part;
            }
        }
        let accepted: Vec<_> = wanted
            .iter()
            .zip(&room)
            .map(|(&wanted, &room)| if wanted > room { room / wanted } else { 1.0 })
            .collect();
        for at in 0..left.len() {
            let Some((pool, _)) = primary(at) else { continue };
            let flows = left[at] * accepted[pool];
            started[at][step] += flows;
            left[at] -= flows;
            let mut starts = [0.0; MAX_PLAN_STEPS];
            starts[step] = flows;
            for (&pool, flows) in layout.plans[at].pools.iter().zip(courses[at].land(&starts)) {
                room[pool] = (room[pool] - flows).max(0.0);
            }
        }
    }
    started.iter().zip(left).map(|(started, unfit)| allotment(started, unfit)).collect()
}

/// The pool in which most flows of a plan come to lie that start at a step, and which part of them: the first one from there on
/// that keeps any.
fn primary(layout: &Layout, courses: &[Course], plan: usize, step: usize) -> Option<(usize, f64)> {
    let pools = &layout.plans[plan].pools;
    let from = (step..pools.len()).find(|&at| courses[plan].kept[at] > 0.0)?;
    Some((pools[from], courses[plan].kept[from]))
}

fn allotment(started: &Steps<f64>, unfit: f64) -> Allotment {
    let total: f64 = started.iter().sum();
    if total <= NOTHING {
        return Allotment { unfit, ..Allotment::HOME };
    }
    Allotment { starts: started.map(|flows| flows / total), unfit: if unfit > NOTHING { unfit } else { 0.0 } }
}
