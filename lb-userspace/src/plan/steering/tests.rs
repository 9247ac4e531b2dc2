use lb_common::abi::admission::Admission;
use lb_common::abi::limits::MAX_PLAN_STEPS;
use proptest::prelude::*;

use super::demand::{Counted, Meter};
use super::eject::Ejector;
use super::health::{Course, Weights, course, weigh_all};
use super::load::{Allotment, allot, room};
use super::pace::{HOMEWARD_PER_SECOND, OUTWARD_PER_SECOND, Pace, RETURN_BELOW};
use super::simulate::{settle, settle_unspilled};
use super::*;
use crate::plan::planner::{Cause, Cell, Fact, Subject};
use crate::plan::state::State;

pub(super) fn weights(total: u32, allowed: u32, open: u32) -> Weights {
    Weights { total: total.into(), allowed: allowed.into(), open: open.into(), members: open }
}

/// A plan over pools 0, 1, 2 and so on.
pub(super) fn plan(pools: usize, mode: PlanMode) -> PlanLayout {
    PlanLayout {
        service: ServiceId(0),
        number: 0,
        pools: (0..pools).collect(),
        mode,
        relays: vec![false; pools],
        panic_threshold: 0.0,
    }
}

fn nearest(pools: usize) -> PlanLayout {
    plan(pools, PlanMode::Nearest)
}

/// Pools with these capacities, of one service with these plans.
pub(super) fn layout(capacities: &[Option<f64>], plans: &[&[usize]]) -> Layout {
    let pool = |(at, &capacity): (usize, &Option<f64>)| PoolLayout {
        service: ServiceId(0),
        index: PoolIndex(at as u16),
        sets: vec![(at, 1.0)],
        capacity,
        relay: false,
    };
    let plan = |(number, pools): (usize, &&[usize])| PlanLayout {
        number,
        pools: pools.to_vec(),
        ..nearest(pools.len())
    };
    Layout {
        sets: vec![Vec::new(); capacities.len()],
        service_pools: std::iter::once(0..capacities.len()).collect(),
        service_plans: std::iter::once(0..plans.len()).collect(),
        pools: capacities.iter().enumerate().map(pool).collect(),
        plans: plans.iter().enumerate().map(plan).collect(),
        utilisation: 0.8,
    }
}

fn close(a: f64, b: f64) -> bool {
    (a - b).abs() < 1e-6
}

fn landed(course: &Course) -> Steps<f64> {
    course.land(&Allotment::HOME.starts)
}

#[test]
fn a_pool_keeps_140_percent_of_what_is_healthy() {
    for (healthy, kept, leaves) in
        [(100, 1.0, 0), (72, 1.0, 0), (70, 0.98, 17), (50, 0.7, 154), (40, 0.56, 188), (0, 0.0, 255)]
    {
        let course = course(&nearest(2), &[weights(100, 100, healthy), weights(10, 10, 10)]);
        assert!(close(landed(&course)[0], kept), "{healthy} % healthy: {course:?}");
        assert!(close(landed(&course)[1], 1.0 - kept), "{healthy} % healthy: {course:?}");
        assert_eq!(course.leaves()[0], leaves, "{healthy} % healthy");
        assert!(!course.panic);
    }
}

#[test]
fn a_lone_pool_keeps_what_it_can_and_a_strict_plan_never_leaves() {
    for mode in [PlanMode::Nearest, PlanMode::Strict, PlanMode::ZoneAffine { permille: 900 }] {
        let course = course(&plan(1, mode), &[weights(10, 10, 2)]);
        assert_eq!((landed(&course)[0], course.leaves()), (1.0, [0; MAX_PLAN_STEPS]), "{mode:?}");
    }
}

#[test]
fn a_zone_affine_plan_stays_down_to_rho_and_then_leaves_what_its_failed_members_leave() {
    let plan = plan(2, PlanMode::ZoneAffine { permille: 600 });
    let other = weights(100, 100, 100);
    let at = |healthy| course(&plan, &[weights(100, 100, healthy), other]);
    assert_eq!(at(60).leaves()[0], 0);
    assert_eq!(at(59).leaves()[0], 255);
    assert!(close(landed(&at(59))[0], 0.59) && close(landed(&at(60))[0], 1.0));
    assert!(close(landed(&at(0))[1], 1.0));
}

#[test]
fn panic_begins_below_the_threshold_and_never_counts_what_an_operator_took_out() {
    let plan = PlanLayout { panic_threshold: 0.5, ..nearest(2) };
    let course = |first, second| course(&plan, &[first, second]);
    assert!(!course(weights(10, 10, 3), weights(10, 10, 7)).panic, "half is not below half");
    let panic = course(weights(10, 10, 2), weights(10, 10, 7));
    assert!(panic.panic && panic.leaves() == [0; MAX_PLAN_STEPS], "all counts again: {panic:?}");
    // Operators took out most, automation nothing.
    assert!(!course(weights(10, 1, 1), weights(10, 0, 0)).panic);
    // What they took out stays out.
    let held = course(weights(10, 5, 1), weights(10, 10, 1));
    assert!(held.panic && held.open[0] == 0.5 && held.leaves()[0] == 154, "{held:?}");
    // Another region takes what is left over, as long as it answers.
    let relay = PlanLayout { relays: vec![false, true], ..plan.clone() };
    let relayed = |first, second| super::health::course(&relay, &[first, second]);
    assert!(!relayed(weights(10, 10, 2), weights(2, 2, 1)).panic);
    assert!(relayed(weights(10, 10, 2), weights(2, 2, 0)).panic);
    // With nobody left there is nobody to spare.
    assert!(!course(weights(10, 10, 0), weights(10, 10, 0)).panic);
    assert!(!course(weights(10, 0, 0), weights(10, 0, 0)).panic);
}

#[test]
fn words_say_what_is_healthy() {
    let config = crate::health::testing::config(&vec![vec![vec![2], vec![2]]], Vec::new());
    let member = |at: u16, zone: &str| {
        let find = |path: &str| config.topology.find(path).unwrap();
        let domains = [find(&format!("r0/{zone}/k0")), find(&format!("r0/{zone}")), find("r0")];
        Member { backend: BackendId(at), weight: 100, domains }
    };
    let members = vec![member(0, "z0"), member(1, "z0"), member(2, "z1"), member(3, "z1")];
    let mut layout = layout(&[None], &[&[0]]);
    layout.sets[0] = members;
    let zone = config.topology.find("r0/z1").unwrap();
    let words = |of_zone: Admission, of_backend: Admission| {
        weigh_all(&layout, &|cell| match cell {
            Cell::Domain(domain) if domain == zone => of_zone,
            Cell::Backend(BackendId(0)) => of_backend,
            _ => Admission::OPEN,
        })[0]
    };
    let down = Admission::CLOSED;
    assert_eq!(
        words(down, Admission::OPEN),
        Weights { total: 400.0, allowed: 400.0, open: 200.0, members: 2 }
    );
    assert_eq!(words(down.held(), down), Weights { total: 400.0, allowed: 200.0, open: 100.0, members: 1 });
    // A share of a zone counts as that share.
    let half = Admission::new(128, 255);
    assert_eq!(words(half.held(), half), Weights { total: 400.0, allowed: 300.0, open: 250.0, members: 4 });
}

#[test]
fn a_full_pool_hands_on_and_what_fits_nowhere_is_told() {
    let layout = layout(&[Some(100.0), Some(50.0), None], &[&[0, 1]]);
    let healthy = [weights(1, 1, 1); 3];
    let settled = |demand: f64| {
        let courses = [course(&layout.plans[0], &healthy)];
        allot(&layout, &courses, room(&layout, &healthy, &courses, 0.8), &[demand])[0]
    };
    assert_eq!(settled(0.0), Allotment::HOME);
    assert_eq!(settled(80.0), Allotment::HOME);
    let spilled = settled(100.0);
    assert!(close(spilled.starts[0], 0.8) && close(spilled.starts[1], 0.2) && spilled.unfit == 0.0);
    let over = settled(200.0);
    assert!(close(over.unfit, 80.0) && close(over.starts[0], 80.0 / 120.0), "{over:?}");
}

#[test]
fn a_pool_serves_its_own_clients_before_those_of_others() {
    let layout = layout(&[Some(100.0), Some(100.0)], &[&[0, 1], &[1, 0]]);
    let healthy = [weights(1, 1, 1); 2];
    let courses: Vec<_> = layout.plans.iter().map(|plan| course(plan, &healthy)).collect();
    let rooms = room(&layout, &healthy, &courses, 0.8);
    let [west, east] = allot(&layout, &courses, rooms, &[150.0, 70.0])[..] else { panic!() };
    assert_eq!(east, Allotment::HOME, "{east:?}");
    assert!(close(west.unfit, 150.0 - 80.0 - 10.0), "{west:?}");
}

#[test]
fn a_pool_that_is_half_down_has_half_the_room() {
    let layout = layout(&[Some(100.0), None], &[&[0, 1]]);
    let half = [weights(100, 100, 50), weights(100, 100, 100)];
    let courses = [course(&layout.plans[0], &half)];
    assert_eq!(room(&layout, &half, &courses, 0.8), [40.0, f64::INFINITY]);
    let [allotment] = allot(&layout, &courses, room(&layout, &half, &courses, 0.8), &[100.0])[..] else {
        panic!()
    };
    // Of what starts there 70 % stay.
    assert!(close(courses[0].land(&allotment.starts)[0], 0.4), "{allotment:?}");
}

#[test]
fn what_two_plans_want_is_told_from_what_their_pools_got() {
    let layout = layout(&[None, None], &[&[0, 1], &[1, 0]]);
    let healthy = [weights(100, 100, 50), weights(1, 1, 1)];
    let course_of = |at: usize| course(&layout.plans[at], &healthy);
    let words = |shares: u16| PlanWords {
        shares: [shares, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535, 65_535],
        ..PlanWords::NEUTRAL
    };
    let now = [(words(39_321), course_of(0)), (words(65_535), course_of(1))];
    let (west, east) = (300.0, 100.0);
    let sent = |at: usize, flows: f64| now[at].1.land(&now[at].0.starts(2)).map(|part| part * flows);
    let (a, b) = (sent(0, west), sent(1, east));
    let counted = Counted { services: vec![400.0], pools: vec![a[0] + b[1], a[1] + b[0]] };
    let mut meter = Meter::new(&layout);
    for _ in 0..60 {
        meter.take(&layout, &now, &counted, 0.5);
    }
    let known = meter.plans();
    assert!((known[0] - west).abs() < 5.0 && (known[1] - east).abs() < 5.0, "{known:?}");
}

fn step_weights() -> impl Strategy<Value = Weights> {
    (1_u32..200, 0_u32..=100, 0_u32..=100).prop_map(|(total, held, down)| {
        let allowed = total * held / 100;
        weights(total, allowed, allowed * down / 100)
    })
}

fn modes() -> impl Strategy<Value = PlanMode> {
    prop_oneof![
        3 => Just(PlanMode::Nearest),
        2 => (1_u16..=1000).prop_map(|permille| PlanMode::ZoneAffine { permille }),
    ]
}

fn capacities() -> impl Strategy<Value = Vec<Option<f64>>> {
    prop::collection::vec(prop::option::weighted(0.7, 1.0..1_000.0_f64), 4)
}

proptest! {
    /// Shares of any plan sum to one as soon as anything is open, and nothing comes to a pool where nothing is.
    #[test]
    fn shares_sum_to_one(pools in prop::collection::vec(step_weights(), 1..=MAX_PLAN_STEPS), mode in modes(), threshold in 0.0..1.0_f64) {
        let plan = PlanLayout { panic_threshold: threshold, ..plan(pools.len(), mode) };
        let course = course(&plan, &pools);
        let landed = landed(&course);
        let any = course.open.iter().any(|&open| open > 0.0);
        prop_assert!((landed.iter().sum::<f64>() - f64::from(u8::from(any))).abs() < 1e-9, "{:?} {:?}", landed, course);
        for (landed, (kept, open)) in landed.iter().zip(course.kept.iter().zip(&course.open)) {
            prop_assert!(*kept >= open - 1e-9, "who finds its home open stays: {:?}", course);
            prop_assert!(*open > 0.0 || *landed == 0.0);
        }
    }

    /// What a pool loses comes to others: none of them gets less, and it does not get more. So a plan whose pool gets worse moves
    /// flows away from that pool only.
    #[test]
    fn a_pool_that_gets_worse_gives_to_the_others(
        pools in prop::collection::vec((1_u32..200, 0_u32..=100), 2..=MAX_PLAN_STEPS),
        at: prop::sample::Index,
        worse in 0_u32..=100,
    ) {
        let of = |pools: &[(u32, u32)]| -> Steps<f64> {
            let pools: Vec<_> = pools.iter().map(|&(total, open)| weights(total * 100, total * 100, total * open)).collect();
            landed(&course(&nearest(pools.len()), &pools))
        };
        let before = of(&pools);
        let mut after = pools.clone();
        let at = at.index(pools.len());
        after[at].1 = after[at].1.min(worse);
        let after = of(&after);
        prop_assume!(after.iter().sum::<f64>() > 0.5);
        for step in 0..pools.len() {
            if step == at {
                prop_assert!(after[step] <= before[step] + 1e-9, "{:?} {:?}", before, after);
            } else {
                prop_assert!(after[step] >= before[step] - 1e-9, "{:?} {:?}", before, after);
            }
        }
    }

    /// Words go into the data plane and come back within their grain.
    #[test]
    fn words_hold_what_they_are_given(parts in prop::collection::vec(0.0..1.0_f64, 1..=MAX_PLAN_STEPS)) {
        let total: f64 = parts.iter().sum::<f64>() + 1e-12;
        let mut words = PlanWords::NEUTRAL;
        let mut upto = 0.0;
        for (share, part) in words.shares.iter_mut().zip(&parts) {
            upto += part / total;
            *share = share_of(upto);
        }
        let starts = words.starts(parts.len());
        prop_assert!((starts.iter().sum::<f64>() - 1.0).abs() < 1e-9);
        for (start, part) in starts.iter().zip(&parts) {
            prop_assert!((start - part / total).abs() < 1e-3, "{:?} {:?}", starts, parts);
        }
    }

    /// Flows start somewhere, all of them; a pool takes what it has room for or, if some fit nowhere, those are told; and if all
    /// pools have room, none leaves home.
    #[test]
    fn allotments_are_whole_and_heed_room(
        capacities in capacities(),
        pools in prop::collection::vec(step_weights(), 4),
        demand in prop::collection::vec(0.0..2_000.0_f64, 3),
    ) {
        let layout = layout(&capacities, &[&[0, 1, 2], &[1, 2, 3], &[3, 0]]);
        let courses: Vec<_> = layout.plans.iter().map(|plan| course(plan, &pools)).collect();
        let rooms = room(&layout, &pools, &courses, 0.8);
        let allotments = allot(&layout, &courses, rooms.clone(), &demand);
        let mut direct = vec![0.0; 4];
        for ((allotment, plan), demand) in allotments.iter().zip(&layout.plans).zip(&demand) {
            prop_assert!(close(allotment.starts.iter().sum::<f64>(), 1.0), "{:?}", allotment);
            prop_assert!((0.0..=demand + 1e-6).contains(&allotment.unfit), "{:?}", allotment);
            for (step, &pool) in plan.pools.iter().enumerate() {
                let at = plan.pools.len();
                prop_assert!(step < at);
                direct[pool] += (demand - allotment.unfit) * allotment.starts[step] * courses[plan.number].kept[step];
            }
        }
        for pool in 0..4 {
            prop_assert!(direct[pool] <= rooms[pool] * (1.0 + 1e-6) + 1e-6, "{:?} of {:?}", direct, rooms);
        }
        let plenty = allot(&layout, &courses, vec![f64::INFINITY; 4], &demand);
        prop_assert!(plenty.iter().zip(&demand).all(|(allotment, demand)| {
            *demand == 0.0 || allotment.starts[0] == 1.0 || allotment.unfit > 0.0
        }), "{:?}", plenty);
    }

    /// More demand never brings flows of a lone plan home.
    #[test]
    fn more_load_moves_flows_only_outward(capacities in capacities(), pools in prop::collection::vec(1_u32..=100, 4), low in 0.0..2_000.0_f64, more in 0.0..2_000.0_f64) {
        let layout = layout(&capacities, &[&[0, 1, 2, 3]]);
        let pools: Vec<_> = pools.iter().map(|&open| weights(100, 100, if open > 71 { 100 } else { 0 })).collect();
        let courses = [course(&layout.plans[0], &pools)];
        let upto = |demand: f64| {
            let [allotment] = allot(&layout, &courses, room(&layout, &pools, &courses, 0.8), &[demand])[..] else { panic!() };
            allotment.starts.iter().scan(0.0, |sum, start| { *sum += start; Some(*sum) }).collect::<Vec<_>>()
        };
        let (few, many) = (upto(low), upto(low + more));
        prop_assert!(few.iter().zip(&many).all(|(few, many)| *many <= few + 1e-9), "{:?} {:?}", few, many);
    }

    /// Under a constant load shares come to rest, and each step is bounded.
    #[test]
    fn a_constant_load_is_met_by_constant_shares(
        capacities in capacities(),
        demand in 0.0..2_000.0_f64,
        begin in prop::collection::vec(any::<u16>(), 4),
        jitter in prop::collection::vec(-0.05..0.05_f64, 40),
    ) {
        let layout = layout(&capacities, &[&[0, 1, 2, 3]]);
        let healthy = [weights(1, 1, 1); 4];
        let courses = [course(&layout.plans[0], &healthy)];
        let starts = |utilisation: f64, demand: f64| {
            allot(&layout, &courses, room(&layout, &healthy, &courses, utilisation), &[demand])[0].starts
        };
        let mut shares = PlanWords::NEUTRAL.shares;
        let mut sorted = begin;
        sorted.sort_unstable();
        shares[..4].copy_from_slice(&sorted);
        shares[3] = u16::MAX;
        let mut pace = Pace::new(&shares);
        let mut step = |demand: f64| {
            let before = pace.shares();
            pace.step(&starts(0.8, demand), &starts(0.8 * RETURN_BELOW, demand), 0.5);
            for (before, after) in before.iter().zip(pace.shares()) {
                let change = (f64::from(after) - f64::from(*before)) / 65_536.0;
                let bounds = -OUTWARD_PER_SECOND * 0.5 - 1e-3..=HOMEWARD_PER_SECOND * 0.5 + 1e-3;
                assert!(bounds.contains(&change));
            }
            pace.shares()
        };
        for _ in 0..60 {
            step(demand);
        }
        let rest = step(demand);
        for _ in 0..5 {
            prop_assert_eq!(step(demand), rest);
        }
        // What goes to and fro by less than the band comes to rest, too: shares go to the outermost and stay.
        for jitter in jitter.iter().cycle().take(60 * jitter.len()) {
            step(demand * (1.0 + jitter));
        }
        let rest = step(demand);
        for jitter in &jitter {
            prop_assert_eq!(step(demand * (1.0 + jitter)), rest);
        }
    }

    /// Whom max_ejected takes out depends on who is down, not on the order in which that was learnt; and it is never more than it may be.
    #[test]
    fn ejection_is_bounded_and_order_does_not_matter(
        percent in 0_u8..=100,
        history in prop::collection::vec((0_u16..6, any::<bool>()), 1..30),
    ) {
        let config = ejecting(percent);
        let mut out = [false; 6];
        let mut ejector = Ejector::new(&config, |_| false);
        let mut down = [false; 6];
        let learn = |ejector: &mut Ejector, out: &mut [bool; 6], at: u16, is_down: bool| {
            for fact in ejector.rule(fact(at, is_down)).facts {
                let Subject::Backend(id) = fact.subject else { panic!() };
                out[id.index()] = fact.state == State::Down;
            }
        };
        for (at, is_down) in history {
            down[usize::from(at)] = is_down;
            learn(&mut ejector, &mut out, at, is_down);
            let weight: u32 = (0..6).filter(|&at| out[at]).map(|at| config.backends[at].weight).sum();
            let total: u32 = config.backends.iter().map(|backend| backend.weight).sum();
            prop_assert!(weight * 100 <= u32::from(percent) * total, "{:?}", out);
            prop_assert!((0..6).all(|at| !out[at] || down[at]), "only who is down is out: {:?} {:?}", out, down);
        }
        let mut other = [false; 6];
        let mut ejector = Ejector::new(&config, |_| false);
        for at in (0..6).rev().filter(|&at| down[usize::from(at)]) {
            learn(&mut ejector, &mut other, at, true);
        }
        prop_assert_eq!(out, other);
    }
}

pub(super) fn fact(at: u16, is_down: bool) -> Fact {
    let state = if is_down { State::Down } else { State::Up };
    Fact { subject: Subject::Backend(BackendId(at)), state, cause: Cause::Passed, evidence_ns: Some(1) }
}

const ONE_POOL: &str = r#"
[node]
name = "edge"
region = "r0"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
max_ejected = PERCENT
[topology.r0]
z0 = ["k0"]
[[set]]
name = "s"
domain = "r0/z0/k0"
BACKENDS
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "p"
sets = ["s"]
capacity_new_flows_per_second = 100
"#;

pub(super) fn ejecting(percent: u8) -> Config {
    let backend = |at: u32| {
        format!(
            "[[set.backend]]\nname = \"b{at}\"\nrack = \"r0/z0/k0\"\naddress = \"10.1.0.{}\"\nweight = {}\n",
            at + 1,
            100 + 50 * at
        )
    };
    let backends: String = (0..6).map(backend).collect();
    let text = ONE_POOL.replace("PERCENT", &percent.to_string()).replace("BACKENDS", &backends);
    Config::parse(&text, "ejecting.toml").unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn whom_the_pool_cannot_spare_stays_in_and_is_told_of() {
    // 100, 150, 200, 250, 300, 350 of 1,350: 30 % are 405.
    let mut ejector = Ejector::new(&ejecting(30), |_| false);
    assert_eq!(ejector.rule(fact(4, true)).facts, [fact(4, true)]);
    assert_eq!(ejector.rule(fact(0, true)).facts, [fact(0, true)]);
    let ruling = ejector.rule(fact(5, true));
    assert_eq!((ruling.facts.len(), &ruling.spared[..]), (0, &[(BackendId(5), "web/p".to_owned())][..]));
    assert_eq!(ejector.spared().collect::<Vec<_>>(), [BackendId(5)]);
    // One that comes back makes room.
    let ruling = ejector.rule(fact(4, false));
    assert_eq!(ruling.facts, [fact(4, false)], "450 would be too much");
    let ruling = ejector.rule(fact(0, false));
    assert_eq!(ruling.facts, [fact(0, false), fact(5, true)]);
    // A domain is not bounded.
    let region = Fact { subject: Subject::Domain(DomainId(0)), ..fact(0, true) };
    assert_eq!(ejector.rule(region.clone()).facts, [region]);
}

#[test]
fn a_simulation_is_where_steps_come_to() {
    let config = ejecting(100);
    let layout = Layout::new(&config);
    let word = |cell: Cell| match cell {
        Cell::Backend(BackendId(5)) => Admission::CLOSED,
        _ => Admission::OPEN,
    };
    let settled = settle(&layout, &word, &[90.0]);
    let healthy = 1_000.0 / 1_350.0;
    assert!(close(settled.weights[0].part(false), healthy));
    assert!(close(settled.plans[0].allotment.unfit, 90.0 - 80.0 * healthy), "{settled:?}");
    assert!(close(settled.arrivals[0], 80.0 * healthy));
    assert!(close(settle_unspilled(&layout, &word, &[90.0]).arrivals[0], 90.0));
}

#[test]
fn a_canary_weighs_what_it_takes() {
    let mut config = ejecting(100);
    config.sets.push(crate::config::Set { backends: vec![BackendId(5)], ..config.sets[0].clone() });
    config.sets[0].backends.pop();
    config.backends[5].set = crate::config::SetId(1);
    config.services[0].pools[0].sets.push(crate::config::SetId(1));
    config.services[0].pools[0].canary =
        Some(crate::config::SetShare { set: crate::config::SetId(1), permille: 100 });
    let layout = Layout::new(&config);
    let word = |cell: Cell| match cell {
        Cell::Backend(BackendId(5)) => Admission::CLOSED,
        _ => Admission::OPEN,
    };
    let weights = weigh_all(&layout, &word)[0];
    assert!((weights.total - 1_350.0).abs() < 1.0 && (weights.part(false) - 0.9).abs() < 1e-3, "{weights:?}");
}
