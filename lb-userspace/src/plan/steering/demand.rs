//! How many new flows a second want to follow each plan.
//!
//! The data plane counts flows by service and by backend, not by plan: that would cost every packet. A service with one plan is
//! told by its own counter. Where client regions have plans of their own, what the pools got is explained by what the plans sent
//! there, by expectation maximisation: each round gives every plan its part of what came to its pools. What cannot be told apart
//! (plans that send the same parts to the same pools) keeps the proportion that was last known.

use super::health::Course;
use super::{Layout, PlanWords, Steps};

/// After so many seconds a change has gone in by half.
pub const HALF_LIFE_S: f64 = 1.0;
/// Rounds of expectation maximisation; each step goes on from the last one, so few will do.
const ROUNDS: usize = 8;
/// A plan's least part of its service, so that one that had nothing can be found again.
const LEAST: f64 = 1e-4;

/// The demand of each plan, smoothed.
#[derive(Clone, Debug, PartialEq)]
pub struct Meter {
    plans: Vec<f64>,
}

/// What was counted, in new flows a second.
#[derive(Clone, Debug, PartialEq, Default)]
pub struct Counted {
    /// Offered to each service, those included that were shed.
    pub services: Vec<f64>,
    /// Let in to the members of each pool.
    pub pools: Vec<f64>,
}

impl Meter {
    /// Knows of no flows.
    #[must_use]
    pub fn new(layout: &Layout) -> Self {
        Self { plans: vec![0.0; layout.plans.len()] }
    }

    /// New flows a second of each plan.
    #[must_use]
    pub fn plans(&self) -> &[f64] {
        &self.plans
    }

    /// Takes in what was counted over the last `seconds`, while these words were in force.
    pub fn take(&mut self, layout: &Layout, now: &[(PlanWords, Course)], counted: &Counted, seconds: f64) {
        let kept = 0.5_f64.powf(seconds / HALF_LIFE_S);
        for (service, plans) in layout.service_plans.iter().enumerate() {
            let offered = counted.services.get(service).copied().unwrap_or(0.0);
            let parts = self.parts(layout, now, counted, service, plans.clone());
            for (at, part) in plans.clone().zip(parts) {
                self.plans[at] = self.plans[at] * kept + offered * part * (1.0 - kept);
            }
        }
    }

    /// Which part of a service's flows follows each of its plans.
    fn parts(
        &self,
        layout: &Layout,
        now: &[(PlanWords, Course)],
        counted: &Counted,
        service: usize,
        plans: std::ops::Range<usize>,
    ) -> Vec<f64> {
        let count = plans.len();
        if count == 1 {
            return vec![1.0];
        }
        let known: f64 = self.plans[plans.clone()].iter().sum();
        let even = 1.0 / count as f64;
        let part = |at: usize| if known > 0.0 { (self.plans[at] / known).max(LEAST) } else { even };
        let mut parts: Vec<f64> = plans.clone().map(part).collect();
        let landed: Vec<Steps<f64>> = plans
            .clone()
            .map(|at| {
                let (words, course) = &now[at];
                course.land(&words.starts(layout.plans[at].pools.len()))
            })
            .collect();
        let pools = layout.service_pools[service].clone();
        let came: f64 = pools.clone().map(|pool| counted.pools.get(pool).copied().unwrap_or(0.0)).sum();
        if came <= 0.0 {
            return normal(parts);
        }
        for _ in 0..ROUNDS {
            let mut next = vec![0.0; count];
            for pool in pools.clone() {
                let sent = |index: usize| -> f64 {
                    let steps = &layout.plans[plans.start + index].pools;
                    steps.iter().position(|&step| step == pool).map_or(0.0, |step| landed[index][step])
                };
                let expected: f64 = (0..count).map(|index| parts[index] * sent(index)).sum();
                if expected <= 0.0 {
                    continue;
                }
                let observed = counted.pools.get(pool).copied().unwrap_or(0.0) / came;
                for (index, next) in next.iter_mut().enumerate() {
                    *next += parts[index] * sent(index) * observed / expected;
                }
            }
            parts = normal(next);
        }
        parts
    }
}

/// Parts that sum to one; even ones if there is nothing.
fn normal(parts: Vec<f64>) -> Vec<f64> {
    let total: f64 = parts.iter().sum();
    let even = 1.0 / parts.len() as f64;
    parts.into_iter().map(|part| if total > 0.0 { part / total } else { even }).collect()
}
