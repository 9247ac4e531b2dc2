//! Words for a time, and shifts.

use proptest::prelude::*;

use super::tests::{act, at, fact, fresh, one_rack, shares, time, words};
use super::*;
use crate::health::testing::{config, domain, shapes};
use crate::plan::shift::{MAX_PROLONGATIONS, UNRECORDED_SHIFT_TIME, share};
use crate::plan::state::DEFAULT_OVERRIDE_TIME;

const SECOND: u64 = 1_000_000_000;
const BACKEND: Subject = Subject::Backend(BackendId(0));

fn for_s(action: Action, seconds: u64, now: Moment) -> Order {
    Order { until: Some(time(now.ns + seconds * SECOND)), ..Order::new(action, "for a time") }
}

fn set(keep_percent: u8, origin: Origin, until_s: u64) -> ShiftOrder {
    ShiftOrder::Set { keep_percent, origin, reason: "a test".to_owned(), until: time(until_s * SECOND) }
}

/// Lets everything happen that is due until `now`, and returns it.
fn run_until(planner: &mut Planner, ns: u64) -> Vec<Tick> {
    let mut ticks = Vec::new();
    while let Some(next_ns) = planner.next_ns().filter(|next_ns| *next_ns <= ns) {
        ticks.push(planner.tick(at(next_ns)).expect("it is due"));
    }
    ticks
}

#[test]
fn a_word_ends_on_time_and_then_automation_rules_at_once() {
    let mut planner = fresh(&one_rack());
    let order = for_s(Action::Drain, 60, at(0));
    planner.act(BACKEND, &order, at(0)).expect("allowed");
    planner.observe(fact(BACKEND, State::Down), SECOND);
    assert_eq!(planner.effective(BACKEND), State::Draining);
    assert_eq!(planner.next_ns(), Some(60 * SECOND));
    assert_eq!(planner.tick(at(60 * SECOND - 1)), None);
    let tick = planner.tick(at(60 * SECOND)).expect("due");
    assert_eq!((tick.from, tick.to), (State::Draining, State::Down));
    assert!(matches!(&tick.due, Due::OverrideEnded(held) if held.reason == "for a time"), "{tick:?}");
    assert_eq!(planner.word(BACKEND), Admission::CLOSED, "not held any more");
    assert_eq!((planner.held(BACKEND), planner.next_ns()), (None, None));
}

#[test]
fn the_same_word_again_sets_its_end_anew_and_a_restore_forgets_it() {
    let mut planner = fresh(&one_rack());
    planner.act(BACKEND, &for_s(Action::Fail, 60, at(0)), at(0)).expect("allowed");
    let again =
        planner.act(BACKEND, &for_s(Action::Fail, 60, at(50 * SECOND)), at(50 * SECOND)).expect("allowed");
    assert!(again.changed && again.change.is_none());
    assert_eq!(planner.next_ns(), Some(110 * SECOND));
    assert_eq!(planner.held(BACKEND).expect("held").since, time(0), "it stands since it was first given");
    let over = planner.act(
        BACKEND,
        &Order { until: Some(time(SECOND)), ..Order::new(Action::Fail, "r") },
        at(60 * SECOND),
    );
    assert_eq!(over, Err(Refusal::Over));
    act(&mut planner, BACKEND, Action::Restore);
    assert_eq!((planner.next_ns(), planner.effective(BACKEND)), (None, State::Up));
}

/// A step of the wall clock does not move what is done on time.
#[test]
fn ends_are_kept_by_the_monotonic_clock() {
    let mut planner = fresh(&one_rack());
    let order = for_s(Action::Fail, 60, at(0));
    planner.act(BACKEND, &order, at(0)).expect("allowed");
    let stepped = Moment { time: time(7_200 * SECOND), ns: 59 * SECOND };
    assert_eq!(planner.tick(stepped), None);
    assert!(planner.tick(Moment { time: time(0), ns: 60 * SECOND }).is_some());
}

#[test]
fn what_ended_while_nobody_ran_is_due_at_once() {
    let config = one_rack();
    let until = Some(time(60 * SECOND));
    let held = Override { until, ..Override::new(Action::Drain, "r".to_owned(), time(0)) };
    let said = Words { overrides: vec![(BACKEND, held)], ..Words::default() };
    let word = Admission::new(0, 255).held();
    // After a reboot the monotonic clock begins anew.
    let now = Moment { time: time(100 * SECOND), ns: 5 * SECOND };
    let (mut planner, changes) = Planner::new(&config, &said, InitialHealth::Adopted, |_| word, now);
    assert_eq!(changes.iter().filter(|change| change.subject == BACKEND).count(), 0);
    let tick = planner.tick(now).expect("due");
    assert_eq!((tick.subject, tick.to), (BACKEND, State::Up));
}

#[test]
fn a_shift_limits_new_flows_only_and_is_one_store() {
    let config = config(&vec![vec![vec![2], vec![2]]], Vec::new());
    let mut planner = fresh(&config);
    let zone = domain(&config, "r0/z0");
    let shifted = planner.shift(zone, &set(50, Origin::Operator, 60), at(0)).expect("allowed");
    let change = shifted.change.expect("a store");
    assert_eq!((change.cell, change.word), (Cell::Domain(zone), Admission::new(128, 255).held()));
    assert_eq!(planner.effective(Subject::Domain(zone)), State::Up, "a shift is no state");
    let before = words(&planner);
    // What automation says besides is in the same word; its own words are not held.
    for (state, word) in [
        (State::Suspect, Admission::new(0, 255)),
        (State::Down, Admission::CLOSED),
        (State::Up, Admission::new(128, 255).held()),
    ] {
        planner.observe(fact(Subject::Domain(zone), state), 0).expect("a store");
        assert_eq!(planner.word(Subject::Domain(zone)), word, "{state:?}");
    }
    assert_eq!(words(&planner), before);
    // An override outranks it, and it is still there afterwards.
    act(&mut planner, Subject::Domain(zone), Action::Fail);
    assert_eq!(planner.word(Subject::Domain(zone)), Admission::CLOSED.held());
    act(&mut planner, Subject::Domain(zone), Action::Restore);
    assert_eq!(words(&planner), before);
    let ticks = run_until(&mut planner, 60 * SECOND);
    assert!(matches!(&ticks[..], [Tick { due: Due::ShiftEnded(_, false), .. }]), "{ticks:?}");
    assert_eq!(planner.word(Subject::Domain(zone)), Admission::new(255, 255));
}

/// What the operator lets no new flow into is the operator's word, also when automation takes it out.
#[test]
fn a_shift_that_keeps_nothing_is_held_whatever_automation_says() {
    let mut planner = fresh(&one_rack());
    planner.shift(DomainId(0), &set(0, Origin::Operator, 60), at(0)).expect("allowed");
    planner.observe(fact(Subject::Domain(DomainId(0)), State::Down), 0).expect("a store");
    assert_eq!(planner.word(Subject::Domain(DomainId(0))), Admission::CLOSED.held());
}

#[test]
fn of_each_domain_there_is_one_shift_and_an_operators_outranks() {
    let mut planner = fresh(&one_rack());
    let id = DomainId(1);
    let mut shift =
        |order| planner.shift(id, &order, at(0)).map(|s| s.now.map(|s| (s.keep_percent, s.origin)));
    assert_eq!(shift(ShiftOrder::Cancel { origin: Origin::Operator }), Err(Refusal::NoShift));
    assert_eq!(shift(ShiftOrder::Extend { until: time(SECOND) }), Err(Refusal::NoShift));
    assert_eq!(shift(set(40, Origin::Automatic, 60)), Ok(Some((40, Origin::Automatic))));
    assert_eq!(shift(set(30, Origin::Automatic, 60)), Ok(Some((30, Origin::Automatic))));
    assert_eq!(shift(set(50, Origin::Operator, 60)), Ok(Some((50, Origin::Operator))));
    assert_eq!(shift(set(10, Origin::Automatic, 60)), Err(Refusal::Outranked));
    assert_eq!(shift(ShiftOrder::Cancel { origin: Origin::Automatic }), Err(Refusal::Outranked));
    assert_eq!(shift(ShiftOrder::Extend { until: time(30 * SECOND) }), Err(Refusal::Shorter));
    assert_eq!(shift(set(50, Origin::Operator, 0)), Err(Refusal::Over));
    assert_eq!(shift(ShiftOrder::Extend { until: time(90 * SECOND) }), Ok(Some((50, Origin::Operator))));
    assert_eq!(planner.next_ns(), Some(90 * SECOND));
    assert_eq!(
        planner.shift(id, &ShiftOrder::Cancel { origin: Origin::Operator }, at(0)).expect("allowed").now,
        None
    );
    assert_eq!(planner.next_ns(), None);
    assert!(planner.shift(DomainId(99), &set(1, Origin::Operator, 9), at(0)).is_err());
}

#[test]
fn traffic_returns_only_to_what_is_well_and_waits_a_bounded_time() {
    let config = config(&vec![vec![vec![2, 2], vec![2]]], Vec::new());
    let mut planner = fresh(&config);
    let (zone, rack) = (domain(&config, "r0/z0"), domain(&config, "r0/z0/k0"));
    planner.shift(zone, &set(20, Origin::Operator, 100), at(0)).expect("allowed");
    // One rack of two down: half of the weight is well, and that is enough. One backend more: it is not.
    planner.observe(fact(Subject::Domain(rack), State::Down), 0);
    assert!(planner.readiness(zone).is_enough());
    planner.observe(fact(Subject::Backend(BackendId(2)), State::Down), 0);
    assert_eq!((planner.readiness(zone).well, planner.readiness(zone).all), (100, 400));
    let ticks = run_until(&mut planner, 1_000 * SECOND);
    let prolonged = ticks.iter().filter(|tick| matches!(tick.due, Due::ShiftProlonged { .. })).count();
    assert_eq!(prolonged, MAX_PROLONGATIONS as usize);
    assert!(ticks[..prolonged].iter().all(|tick| tick.change.is_none()));
    assert!(matches!(ticks.last().expect("an end").due, Due::ShiftEnded(_, true)));
    // It ended after twice its time, as nobody mended anything.
    planner.shift(zone, &set(20, Origin::Operator, 1_100), at(1_000 * SECOND)).expect("allowed");
    run_until(&mut planner, 1_100 * SECOND);
    assert!(planner.shift_of(zone).is_some(), "prolonged");
    planner.observe(fact(Subject::Domain(rack), State::Up), 0);
    let ticks = run_until(&mut planner, 1_125 * SECOND);
    assert!(matches!(ticks.last().expect("an end").due, Due::ShiftEnded(_, false)), "{ticks:?}");
}

/// The daemon died between store and record.
#[test]
fn a_shift_that_nobody_recorded_stands_for_a_while() {
    let config = one_rack();
    let zone = Subject::Domain(domain(&config, "r0/z0"));
    let word = Admission::new(share(30), 255).held();
    let load = |cell| if cell == zone.cell() { word } else { Admission::OPEN };
    let (planner, changes) = Planner::new(&config, &Words::default(), InitialHealth::Adopted, load, at(0));
    assert_eq!(changes, []);
    let shift = planner.shift_of(domain(&config, "r0/z0")).expect("taken over");
    assert_eq!((shift.keep_percent, shift.reason.as_str()), (30, UNRECORDED_REASON));
    assert_eq!(planner.next_ns(), Some(UNRECORDED_SHIFT_TIME.as_secs() * SECOND));
    assert_eq!(planner.effective(zone), State::Up);
}

#[test]
fn an_operator_lets_damping_forget() {
    use crate::plan::breaker::Settings;
    let mut config = one_rack();
    config.recovery = Settings { half_life_ns: 60 * SECOND, ..Settings::default() };
    let mut planner = fresh(&config);
    for _ in 0..4 {
        planner.observe(fact(BACKEND, State::Down), 0);
        planner.observe(fact(BACKEND, State::Up), 0);
    }
    assert_eq!(planner.effective(BACKEND), State::Down, "held out");
    let damping = planner.damping(BACKEND, 0).expect("remembered");
    assert!(damping.suppressed && damping.penalty > 3_000.0 && damping.until_ns.is_some());
    let order = Order { forget_failures: true, ..Order::new(Action::Restore, "loose cable") };
    let acted = planner.act(BACKEND, &order, at(0)).expect("allowed");
    assert!(acted.changed && acted.change.is_some());
    assert_eq!((planner.effective(BACKEND), planner.damping(BACKEND, 0)), (State::Up, None));
    assert!(!planner.act(BACKEND, &order, at(0)).expect("allowed").changed, "nothing is left to forget");
}

#[test]
fn a_word_that_nobody_recorded_stands_for_a_while_and_not_for_ever() {
    let config = one_rack();
    for word in [Admission::CLOSED.held(), Admission::new(0, 255).held()] {
        let load = |cell| if cell == BACKEND.cell() { word } else { Admission::OPEN };
        let (planner, changes) =
            Planner::new(&config, &Words::default(), InitialHealth::Adopted, load, at(SECOND));
        assert_eq!(changes, []);
        let held = planner.held(BACKEND).expect("taken over");
        assert_eq!(held.until, Some(at(SECOND).time + DEFAULT_OVERRIDE_TIME));
        assert_eq!(planner.next_ns(), Some(SECOND + DEFAULT_OVERRIDE_TIME.as_nanos() as u64));
    }
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Believe(State),
    Act(Action, u64),
    Shift(u8, u64),
    Cancel,
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        prop_oneof![Just(State::Up), Just(State::Suspect), Just(State::Down)].prop_map(Said::Believe),
        (prop_oneof![Just(Action::Drain), Just(Action::Fail)], 1..100u64).prop_map(|(a, s)| Said::Act(a, s)),
        Just(Said::Act(Action::Restore, 0)),
        (0..100u8, 1..100u64).prop_map(|(keep, s)| Said::Shift(keep, s)),
        Just(Said::Cancel),
    ]
}

fn say(planner: &mut Planner, subject: Subject, said: Said) {
    match (said, subject) {
        (Said::Believe(state), _) => drop(planner.observe(fact(subject, state), 0)),
        (Said::Act(Action::Restore, _), _) => drop(act(planner, subject, Action::Restore)),
        (Said::Act(action, s), _) => {
            planner.act(subject, &for_s(action, s, at(0)), at(0)).expect("allowed");
        }
        (Said::Shift(keep, s), Subject::Domain(id)) => {
            planner.shift(id, &set(keep, Origin::Operator, s), at(0)).expect("allowed");
        }
        // There may be none.
        (Said::Cancel, Subject::Domain(id)) => {
            drop(planner.shift(id, &ShiftOrder::Cancel { origin: Origin::Operator }, at(0)));
        }
        (Said::Shift(..) | Said::Cancel, Subject::Backend(_)) => {}
    }
}

proptest! {
    /// Guarantee 3: what is said of different subjects may come in any order, words for a time and shifts included.
    #[test]
    fn order_of_subjects_does_not_matter(
        shape in shapes(), events in prop::collection::vec((any::<prop::sample::Index>(), said()), 0..40),
    ) {
        let config = config(&shape, Vec::new());
        let (mut one, mut other) = (fresh(&config), fresh(&config));
        let subjects: Vec<_> = one.subjects().collect();
        let mut events: Vec<_> = events.into_iter().map(|(i, said)| (*i.get(&subjects), said)).collect();
        events.iter().for_each(|&(subject, said)| say(&mut one, subject, said));
        // Stable: each subject's own events stay in sequence.
        events.sort_by_key(|(subject, _)| *subject);
        events.iter().for_each(|&(subject, said)| say(&mut other, subject, said));
        prop_assert_eq!(words(&one), words(&other));
        prop_assert_eq!(one.next_ns(), other.next_ns());
    }

    /// Guarantee 2: when everything that was for a time has ended, what is left is what automation believes, exactly.
    #[test]
    fn everything_for_a_time_ends(
        shape in shapes(), events in prop::collection::vec((any::<prop::sample::Index>(), said()), 0..40),
    ) {
        let config = config(&shape, Vec::new());
        let (mut planner, mut automatic) = (fresh(&config), fresh(&config));
        let subjects: Vec<_> = planner.subjects().collect();
        for (index, said) in events {
            let subject = *index.get(&subjects);
            say(&mut planner, subject, said);
            if let Said::Believe(_) = said {
                say(&mut automatic, subject, said);
            }
        }
        run_until(&mut planner, 1_000 * SECOND);
        prop_assert_eq!(planner.next_ns(), None);
        prop_assert_eq!(shares(&planner), shares(&automatic));
        prop_assert!(words(&planner).iter().all(|word| !word.is_held()));
    }

    /// A restart in the middle of everything changes no word, and what was for a time ends when it would have.
    #[test]
    fn a_restart_changes_no_word(
        shape in shapes(), events in prop::collection::vec((any::<prop::sample::Index>(), said()), 0..40),
    ) {
        let config = config(&shape, Vec::new());
        let mut before = fresh(&config);
        let subjects: Vec<_> = before.subjects().collect();
        events.iter().for_each(|(index, said)| say(&mut before, *index.get(&subjects), *said));
        let overrides = subjects.iter().filter_map(|&s| before.held(s).map(|held| (s, held.clone()))).collect();
        let shifts = config.topology.ids().filter_map(|id| before.shift_of(id).map(|shift| (id, shift.clone())));
        let recorded = Words { overrides, shifts: shifts.collect() };
        let of = |cell: Cell| match cell {
            Cell::Backend(id) => before.word(Subject::Backend(id)),
            Cell::Domain(id) => before.word(Subject::Domain(id)),
            Cell::Pool(_) => Admission::OPEN,
        };
        let (after, changes) = Planner::new(&config, &recorded, InitialHealth::Adopted, of, at(0));
        prop_assert_eq!(&changes, &[]);
        prop_assert_eq!(words(&after), words(&before));
        prop_assert_eq!(after.next_ns(), before.next_ns());
    }
}
