//! Steers: looks at admission words and counters twice a second, and at once when words change, decides what plans do about health
//! and load, and stores that. What is stored stands while no daemon runs.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use lb_common::abi::{
    guard::FIRST_REASON,
    reason::Reason,
    service::{SERVICE_SPILLS, SERVICE_STEERED},
};
use tokio::sync::watch;

use super::clock::{as_ns, monotonic_ns};
use crate::{
    config::Config,
    dataplane::{guard::GuardPort, steering::SteeringPort},
    plan::steering::{
        Layout, Member, PlanWords, PoolLayout,
        demand::{Counted, Meter},
        health::{Course, Weights, course, weigh_all},
        load::{Allotment, allot, room},
        pace::{Pace, RETURN_BELOW},
    },
    telemetry::{
        event::{EventKind, NewEvent},
        journal::Journal,
    },
};

mod views;

/// Time between two steps if no word changes.
const STEP: Duration = Duration::from_millis(500);
/// Least time between two steps: words that change by the hundred, while many backends come back, are looked at together.
const LEAST_GAP: Duration = Duration::from_millis(10);
/// Least time over which flows are counted.
const LEAST_COUNT: Duration = Duration::from_millis(400);
/// Least time between two events of one plan, so that what goes to and fro does not fill the journal.
const EVENT_GAP: Duration = Duration::from_secs(1);
/// Least time between two events that tell only of another share.
const CHANGE_GAP: Duration = Duration::from_secs(10);
/// A share that changes by less is no event.
const CHANGE: f64 = 0.05;
/// Less than this is no spill: the parts of a hash are not exact.
const NO_SPILL: f64 = 0.002;
/// The place of [`Reason::Shed`] among what a guard counts.
const SHED: usize = (Reason::Shed as u32 - FIRST_REASON) as usize;

/// New flows a second of each service that its pools have room for, where not all have: for the overload controllers.
pub(super) type Fits = Arc<Mutex<Vec<Option<u64>>>>;

/// See the module's documentation.
pub(super) struct Steering {
    config: Arc<Config>,
    layout: Layout,
    port: SteeringPort,
    guards: GuardPort,
    journal: Journal,
    fits: Fits,
    state: Mutex<State>,
}

/// What is known, and what was decided.
struct State {
    weights: Vec<Weights>,
    plans: Vec<PlanState>,
    meter: Meter,
    counted: Counted,
    last: Counts,
    /// Since when no plan of a service spills.
    home_since_ns: Vec<u64>,
}

#[derive(Clone, Copy)]
struct PlanState {
    /// As stored.
    words: PlanWords,
    course: Course,
    allotment: Allotment,
    pace: Pace,
    told: Told,
}

/// What was last told of a plan.
#[derive(Clone, Copy)]
struct Told {
    panic: bool,
    outward: f64,
    at_ns: u64,
}

/// Flows so far, by service and by pool.
struct Counts {
    services: Vec<u64>,
    pools: Vec<u64>,
    at_ns: u64,
}

impl Steering {
    /// Looks for the first time, and stores what follows: to be called before the first packet meets the data plane. What load did
    /// before goes on from there.
    pub(super) fn new(config: &Arc<Config>, port: SteeringPort, guards: GuardPort, journal: Journal) -> Self {
        let layout = Layout::new(config);
        let weights = weigh_all(&layout, &|cell| port.word(cell));
        let now_ns = monotonic_ns();
        let has_capacities = layout.has_capacities();
        let plans = layout.plans.iter().map(|plan| {
            let found = port.plan(plan.service.index(), plan.number).unwrap_or(PlanWords::NEUTRAL);
            let course = course(plan, &weights);
            let before = course.in_force(&found);
            PlanState {
                words: found,
                course,
                allotment: Allotment::HOME,
                // Where nothing has a capacity any more, there is nothing to come back from step by step.
                pace: Pace::new(if has_capacities { &found.shares } else { &PlanWords::NEUTRAL.shares }),
                told: Told {
                    panic: found.panic,
                    outward: outward(&before, &found, plan.pools.len()),
                    at_ns: 0,
                },
            }
        });
        let state = State {
            plans: plans.collect(),
            weights,
            meter: Meter::new(&layout),
            counted: Counted::default(),
            last: Counts { services: Vec::new(), pools: Vec::new(), at_ns: 0 },
            home_since_ns: vec![now_ns; config.services.len()],
        };
        let config = Arc::clone(config);
        let fits = Fits::default();
        let steering = Self { layout, port, guards, journal, fits, state: Mutex::new(state), config };
        steering.step(None);
        steering
    }

    /// What the overload controllers are told.
    pub(super) fn fits(&self) -> Fits {
        Arc::clone(&self.fits)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on until it is dropped. `stored` tells that words changed, `walked` when the last walk over the flow table began.
    pub(super) async fn watch(self: Arc<Self>, mut stored: watch::Receiver<u64>, walked: Arc<AtomicU64>) {
        loop {
            // The control thread may end before this; then there is only the clock.
            let changed = async {
                if stored.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let _ = tokio::time::timeout(STEP, changed).await;
            tokio::task::block_in_place(|| self.step(Some(walked.load(Ordering::Acquire))));
            tokio::time::sleep(LEAST_GAP).await;
        }
    }

    /// One step. `walked_ns` says when the last walk over the flow table began.
    fn step(&self, walked_ns: Option<u64>) {
        let mut state = self.state();
        let now_ns = monotonic_ns();
        state.weights = weigh_all(&self.layout, &|cell| self.port.word(cell));
        let courses: Vec<_> = self.layout.plans.iter().map(|plan| course(plan, &state.weights)).collect();
        let seconds = self.count(&mut state, now_ns);
        for (plan, course) in state.plans.iter_mut().zip(&courses) {
            plan.course = *course;
        }
        if let Some(seconds) = seconds {
            self.balance(&mut state, &courses, seconds);
        }
        let wanted: Vec<_> = state
            .plans
            .iter()
            .map(|plan| PlanWords {
                panic: plan.course.panic,
                leaves: plan.course.leaves(),
                shares: plan.pace.shares(),
            })
            .collect();
        self.store(&mut state, &wanted, now_ns, walked_ns);
        let stored_ns = monotonic_ns();
        let events = self.events(&mut state, now_ns, stored_ns);
        drop(state);
        events.into_iter().for_each(|event| {
            self.journal.record(event);
        });
    }

    /// Counts flows since the last time, if that is long enough ago; returns how long.
    fn count(&self, state: &mut State, now_ns: u64) -> Option<f64> {
        let since_ns = now_ns.saturating_sub(state.last.at_ns);
        if since_ns < as_ns(LEAST_COUNT) {
            return None;
        }
        let services = (0..self.config.services.len())
            .map(|at| self.guards.opened(at) + self.guards.counts(at).packets[SHED])
            .collect();
        let of_set = |members: &Vec<Member>| -> u64 {
            members.iter().map(|member| self.port.opened(member.backend)).sum()
        };
        let sets: Vec<_> = self.layout.sets.iter().map(of_set).collect();
        let of_pool = |pool: &PoolLayout| pool.sets.iter().map(|&(set, _)| sets[set]).sum();
        let pools = self.layout.pools.iter().map(of_pool).collect();
        let counts = Counts { services, pools, at_ns: now_ns };
        let last = std::mem::replace(&mut state.last, counts);
        if last.services.is_empty() {
            return None;
        }
        let seconds = since_ns as f64 / 1e9;
        let rates = |now: &[u64], last: &[u64]| {
            now.iter().zip(last).map(|(now, last)| now.saturating_sub(*last) as f64 / seconds).collect()
        };
        state.counted = Counted {
            services: rates(&state.last.services, &last.services),
            pools: rates(&state.last.pools, &last.pools),
        };
        let in_force: Vec<_> =
            state.plans.iter().map(|plan| (plan.words, plan.course.in_force(&plan.words))).collect();
        state.meter.take(&self.layout, &in_force, &state.counted, seconds);
        Some(seconds)
    }

    /// Lets shares take a step towards what load wants.
    fn balance(&self, state: &mut State, courses: &[Course], seconds: f64) {
        if !self.layout.has_capacities() {
            return;
        }
        let demand = state.meter.plans();
        let wanted = |utilisation: f64| {
            let room = room(&self.layout, &state.weights, courses, utilisation);
            allot(&self.layout, courses, room, demand)
        };
        let out = wanted(self.layout.utilisation);
        let back = wanted(self.layout.utilisation * RETURN_BELOW);
        let mut fits = vec![None; self.config.services.len()];
        for ((plan, layout), (out, back)) in
            state.plans.iter_mut().zip(&self.layout.plans).zip(out.into_iter().zip(back))
        {
            plan.pace.step(&out.starts, &back.starts, seconds);
            plan.allotment = out;
            if out.unfit > 0.0 {
                fits[layout.service.index()] = Some(0);
            }
        }
        for (at, plan) in state.plans.iter().enumerate() {
            if let Some(fits) = &mut fits[self.layout.plans[at].service.index()] {
                *fits += (state.meter.plans()[at] - plan.allotment.unfit).max(0.0) as u64;
            }
        }
        *self.fits.lock().unwrap_or_else(PoisonError::into_inner) = fits;
    }

    /// Stores what differs. Flags say that there is something to look at before it is there, and until it has gone.
    fn store(&self, state: &mut State, wanted: &[PlanWords], now_ns: u64, walked_ns: Option<u64>) {
        for (service, plans) in self.layout.service_plans.iter().enumerate() {
            let of_service = || wanted[plans.clone()].iter();
            let (spills, steers) = (of_service().any(PlanWords::spills), of_service().any(PlanWords::steers));
            let before = self.port.flags(service);
            let on = if spills { SERVICE_SPILLS } else { 0 } | if steers { SERVICE_STEERED } else { 0 };
            if on & !before != 0 {
                let _ = self.port.set_flags(service, on, true);
            }
            for at in plans.clone() {
                if self.port.plan(service, self.layout.plans[at].number) != Some(wanted[at]) {
                    let _ = self.port.store(service, self.layout.plans[at].number, &wanted[at]);
                }
                if state.plans[at].words.spills() {
                    state.home_since_ns[service] = now_ns;
                }
                state.plans[at].words = wanted[at];
            }
            if spills {
                state.home_since_ns[service] = now_ns;
            }
            let mut off = if steers { 0 } else { SERVICE_STEERED };
            // Flows that opened away from home because of shares are found by the marks of their slots once a walk has seen them all.
            if !spills && walked_ns.is_some_and(|walked_ns| walked_ns > state.home_since_ns[service]) {
                off |= SERVICE_SPILLS;
            }
            if off & self.port.flags(service) != 0 {
                let _ = self.port.set_flags(service, off, false);
            }
        }
    }

    /// What is to be told of what changed.
    fn events(&self, state: &mut State, decided_ns: u64, stored_ns: u64) -> Vec<NewEvent> {
        let mut events = Vec::new();
        for at in 0..state.plans.len() {
            let plan = &state.plans[at];
            let since_ns = decided_ns.saturating_sub(plan.told.at_ns);
            let outward = outward(&plan.course, &plan.words, self.layout.plans[at].pools.len());
            let spills = |outward: f64| outward > NO_SPILL;
            let turned = spills(outward) != spills(plan.told.outward);
            let changed = (outward - plan.told.outward).abs() >= CHANGE && since_ns >= as_ns(CHANGE_GAP);
            let panicked = plan.words.panic != plan.told.panic;
            if !(turned || changed || panicked) || since_ns < as_ns(EVENT_GAP) {
                continue;
            }
            let mut causes = Vec::new();
            if panicked {
                causes.push(self.panic_in_words(state, at));
            }
            if turned || changed {
                causes.push(if spills(outward) {
                    let verb = if spills(plan.told.outward) { "spills now" } else { "begins to spill" };
                    let spilled =
                        format!("{verb}: {:.0} % of new flows leave the first pool", outward * 100.0);
                    format!("{spilled}: {}", self.why(state, at).join("; "))
                } else {
                    "spills no more: all new flows come to the first pool".to_owned()
                });
            }
            events.push(NewEvent {
                kind: EventKind::Plan,
                subject: self.name(at),
                from: None,
                to: None,
                cause: causes.join("; "),
                evidence_ns: None,
                decided_ns: Some(decided_ns),
                stored_ns: Some(stored_ns),
                monotonic_ns: stored_ns,
            });
            let panic = plan.words.panic;
            state.plans[at].told = Told { panic, outward, at_ns: decided_ns };
        }
        events
    }
}

/// The part of new flows that does not come to the first pool, where any pool keeps any.
fn outward(course: &Course, words: &PlanWords, steps: usize) -> f64 {
    let landed = course.in_force(words).land(&words.starts(steps));
    let all: f64 = landed.iter().sum();
    if all > 0.0 { 1.0 - landed[0] / all } else { 0.0 }
}
