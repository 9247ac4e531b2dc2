//! Cases at the edges: what mutants of this folder lived through.

use lb_common::abi::limits::MAX_PLAN_STEPS;

use super::demand::{Counted, HALF_LIFE_S, Meter};
use super::eject::Ejector;
use super::health::{Weights, course};
use super::load::{Allotment, allot, room};
use super::pace::{HOMEWARD_PER_SECOND, OUTWARD_PER_SECOND, Pace};
use super::tests::{ejecting, fact, layout, plan, weights};
use super::*;
use crate::plan::planner::{Cause, Fact};
use crate::plan::state::State;

const WELL: Weights = Weights { total: 100.0, allowed: 100.0, open: 100.0, members: 100 };

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

#[test]
fn only_the_first_pool_of_a_zone_affine_plan_is_held_to_rho() {
    let plan = plan(3, PlanMode::ZoneAffine { permille: 600 });
    let course = course(&plan, &[weights(100, 100, 0), weights(100, 100, 60), WELL]);
    let landed = course.land(&Allotment::HOME.starts);
    assert!(close(landed[1], 0.84) && close(landed[2], 0.16), "{landed:?}");
}

#[test]
fn nobody_goes_on_where_nothing_is_open_anywhere() {
    let plan = plan(2, PlanMode::Nearest);
    let dead = weights(100, 100, 0);
    assert_eq!(course(&plan, &[dead, dead]).leaves(), [0; MAX_PLAN_STEPS]);
    assert_eq!(course(&plan, &[dead, WELL]).leaves()[0], 255);
}

#[test]
fn a_pool_where_nothing_is_open_keeps_nothing_whatever_the_words_say() {
    let course = course(&plan(2, PlanMode::Nearest), &[weights(100, 100, 0), WELL]);
    let landed = course.in_force(&PlanWords::NEUTRAL).land(&Allotment::HOME.starts);
    assert_eq!(landed[..2], [0.0, 1.0]);
}

#[test]
fn the_health_of_other_regions_hosts_is_no_reason_for_panic() {
    let mut plan = plan(2, PlanMode::Nearest);
    (plan.panic_threshold, plan.relays) = (0.5, vec![false, true]);
    let course = course(&plan, &[weights(100, 100, 60), weights(1_000, 1_000, 0)]);
    assert!(!course.panic && close(course.healthy, 0.6), "{course:?}");
}

#[test]
fn a_pool_has_the_room_of_what_operators_left_if_any_plan_over_it_panics() {
    let mut layout = layout(&[Some(100.0), None, None], &[&[0, 1], &[0, 2]]);
    layout.plans.iter_mut().for_each(|plan| plan.panic_threshold = 0.5);
    let sick = weights(100, 50, 10);
    let pools = [sick, sick, weights(10_000, 10_000, 10_000)];
    let courses: Vec<_> = layout.plans.iter().map(|plan| course(plan, &pools)).collect();
    assert_eq!((courses[0].panic, courses[1].panic), (true, false));
    assert!(close(room(&layout, &pools, &courses, 0.8)[0], 40.0));
}

#[test]
fn what_a_dead_pool_would_start_counts_where_it_lands() {
    let layout = layout(&[Some(1_000.0), Some(50.0), None], &[&[0, 1, 2]]);
    let pools = [weights(100, 100, 0), WELL, WELL];
    let courses = [course(&layout.plans[0], &pools)];
    let [allotment] = allot(&layout, &courses, room(&layout, &pools, &courses, 0.8), &[100.0])[..] else {
        panic!("one plan")
    };
    let [first, second, third, ..] = allotment.starts;
    assert!(close(first + second, 0.4) && close(third, 0.6) && allotment.unfit == 0.0, "{allotment:?}");
}

#[test]
fn flows_go_out_fast_and_come_home_slowly() {
    let mut pace = Pace::new(&PlanWords::NEUTRAL.shares);
    let mut out = [0.0; MAX_PLAN_STEPS];
    out[1] = 1.0;
    pace.step(&out, &out, 1.0);
    assert!(close(pace.outward(), OUTWARD_PER_SECOND), "{pace:?}");
    let home = Allotment::HOME.starts;
    pace.step(&home, &home, 1.0);
    assert!(close(pace.outward(), OUTWARD_PER_SECOND - HOMEWARD_PER_SECOND), "{pace:?}");
}

#[test]
fn demand_is_smoothed_by_its_half_life_however_often_it_is_counted() {
    let layout = layout(&[None], &[&[0]]);
    let now = [(PlanWords::NEUTRAL, course(&layout.plans[0], &[WELL]))];
    let counted = Counted { services: vec![100.0], pools: vec![100.0] };
    for parts in [1_u32, 2, 5] {
        let mut meter = Meter::new(&layout);
        for _ in 0..parts {
            meter.take(&layout, &now, &counted, HALF_LIFE_S / f64::from(parts));
        }
        assert!(close(meter.plans()[0], 50.0), "in {parts} parts: {:?}", meter.plans());
        meter.take(&layout, &now, &Counted::default(), HALF_LIFE_S);
        assert!(close(meter.plans()[0], 25.0), "{:?}", meter.plans());
    }
}

#[test]
fn a_plan_that_had_no_flows_for_long_is_found_again() {
    let layout = layout(&[None, None], &[&[0, 1], &[1, 0]]);
    let now = layout.plans.iter().map(|plan| (PlanWords::NEUTRAL, course(plan, &[WELL, WELL])));
    let now: Vec<_> = now.collect();
    let mut meter = Meter::new(&layout);
    let mut last = |pools: [f64; 2], times: usize| {
        let counted = Counted { services: vec![100.0], pools: pools.to_vec() };
        (0..times).for_each(|_| meter.take(&layout, &now, &counted, 0.5));
        meter.plans().to_vec()
    };
    let first = last([100.0, 0.0], 4_000);
    assert!(first[0] > 99.0, "{first:?}");
    // Both have some now: one that nobody ever looked for again would leave all of it to the other.
    let then = last([40.0, 60.0], 40);
    assert!((then[1] - 60.0).abs() < 1.0, "{then:?}");
}

#[test]
fn nobody_more_is_out_for_a_moment_than_may_be() {
    // 100, 150, 200, 250, 300, 350 of 1,350: 30 % are 405.
    let mut ejector = Ejector::new(&ejecting(30), |_| false);
    assert_eq!(ejector.rule(fact(5, true)).facts, [fact(5, true)]);
    assert_eq!(
        ejector.rule(fact(5, true)).facts,
        [fact(5, true)],
        "what is said again, perhaps for another cause"
    );
    // The first one in the order of names goes before; the last one has no room any more.
    let ruling = ejector.rule(fact(0, true));
    let back = Fact { state: State::Up, cause: Cause::Spared, ..fact(5, true) };
    assert_eq!(ruling.facts, [back, fact(0, true)]);
    assert_eq!(ruling.spared.len(), 1);
}

#[test]
fn who_was_down_before_the_start_counts() {
    let mut ejector = Ejector::new(&ejecting(30), |id| id == BackendId(4));
    let ruling = ejector.rule(fact(5, true));
    assert_eq!((ruling.facts.len(), ruling.spared.len()), (0, 1), "650 of 1,350 would be out: {ruling:?}");
    assert_eq!(ejector.rule(fact(4, false)).facts, [fact(4, false), fact(5, true)]);
}

#[test]
fn shares_go_as_far_as_they_should_and_not_further() {
    let at = |first: f64| {
        let mut starts = [0.0; MAX_PLAN_STEPS];
        (starts[0], starts[1]) = (first, 1.0 - first);
        starts
    };
    let mut pace = Pace::new(&PlanWords::NEUTRAL.shares);
    pace.step(&at(0.8), &at(0.7), 1.0);
    assert!(close(pace.outward(), 0.2), "{pace:?}");
    // Less room that would let more flows start here is a contradiction, and says nothing.
    pace.step(&at(0.8), &at(0.9), 1.0);
    assert!(close(pace.outward(), 0.2), "{pace:?}");
    pace.step(&at(1.0), &at(0.81), 1.0);
    assert!(close(pace.outward(), 0.19), "{pace:?}");
}

#[test]
fn of_what_operators_took_out_altogether_nothing_is_unhealthy() {
    let mut plan = plan(1, PlanMode::Nearest);
    plan.panic_threshold = 0.5;
    let course = course(&plan, &[weights(100, 0, 0)]);
    assert!(!course.panic && close(course.healthy, 1.0), "{course:?}");
}

/// A backend takes room in every pool that it is in.
#[test]
fn whoever_is_out_is_out_of_all_its_pools() {
    let mut config = ejecting(50);
    let second = SetId(1);
    let mut other = config.sets[0].clone();
    other.backends = config.sets[0].backends.split_off(2);
    other.backends.iter().for_each(|id| config.backends[id.index()].set = second);
    config.sets.push(other);
    let mut both = config.services[0].pools[0].clone();
    both.sets.push(second);
    config.services[0].pools.push(both);
    // 100 and 150 in the first pool; these and 200, 250, 300, 350 in the other one, of which 675 may be out.
    let mut ejector = Ejector::new(&config, |_| false);
    for at in [0, 3] {
        assert_eq!(ejector.rule(fact(at, true)).facts, [fact(at, true)], "{at}");
    }
    let ruling = ejector.rule(fact(5, true));
    assert_eq!((ruling.facts.len(), ruling.spared.len()), (0, 1), "700 would be out: {ruling:?}");
}
