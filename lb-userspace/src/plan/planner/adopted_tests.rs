//! What a daemon that is started anew makes of the words that it finds, and shifts of automation.

use super::tests::{act, at, fact, fresh, one_rack, time};
use super::*;
use crate::health::testing::domain;

const SECOND: u64 = 1_000_000_000;

/// The zone of [`one_rack`] with this word, of which this shift is on record.
fn adopt(word: Admission, keep_percent: u8) -> (Planner, DomainId, Vec<Change>) {
    let config = one_rack();
    let zone = domain(&config, "r0/z0");
    let shift =
        Shift::new(keep_percent, Origin::Operator, "on record".to_owned(), time(0), time(60 * SECOND));
    let said = Words { shifts: vec![(zone, shift)], ..Words::default() };
    let load = |cell| if cell == Cell::Domain(zone) { word } else { Admission::OPEN };
    let (planner, changes) = Planner::new(&config, &said, InitialHealth::Adopted, load, at(0));
    (planner, zone, changes)
}

/// The daemon died after it stored a drain or a failure of what was shifted, and before it wrote that down.
#[test]
fn a_held_word_that_no_shift_leaves_is_an_operators_besides_the_shift() {
    for (word, state) in
        [(Admission::new(0, 255).held(), State::Draining), (Admission::CLOSED.held(), State::Down)]
    {
        let (planner, zone, changes) = adopt(word, 50);
        assert_eq!(changes, [], "what stands stays");
        let subject = Subject::Domain(zone);
        assert_eq!(planner.held(subject).expect("taken over").reason, UNRECORDED_REASON);
        assert_eq!(planner.effective(subject), state);
        assert_eq!(planner.automatic(subject), State::Up, "nobody said anything of health");
        assert_eq!(planner.shift_of(zone).expect("recorded").reason, "on record");
    }
}

/// A shift that keeps nothing looks like a suspicion, but is none.
#[test]
fn a_shift_on_record_says_nothing_of_health() {
    for (word, keep_percent) in [(Admission::new(0, 255).held(), 0), (Admission::new(128, 255).held(), 50)] {
        let (planner, zone, changes) = adopt(word, keep_percent);
        assert_eq!(changes, []);
        let subject = Subject::Domain(zone);
        assert_eq!((planner.held(subject), planner.automatic(subject)), (None, State::Up));
    }
    // A word that no operator holds is health's.
    let (planner, zone, _) = adopt(Admission::new(0, 255), 50);
    assert_eq!(planner.automatic(Subject::Domain(zone)), State::Suspect);
}

/// What automation shifts counts again when everything else is down.
#[test]
fn a_shift_of_automation_is_not_held() {
    for keep_percent in [0, 50] {
        let mut planner = fresh(&one_rack());
        let order = ShiftOrder::Set {
            keep_percent,
            origin: Origin::Automatic,
            reason: "a test".to_owned(),
            until: time(60 * SECOND),
        };
        let shifted = planner.shift(DomainId(0), &order, at(0)).expect("allowed");
        let word = shifted.change.expect("a store").word;
        assert_eq!(word.new_share(), crate::plan::shift::share(keep_percent));
        assert!(!word.is_held());
    }
}

/// A daemon that did not run at its end has not looked since: it is prolonged from now on.
#[test]
fn a_shift_is_prolonged_from_when_somebody_looked() {
    let config = one_rack();
    let mut planner = fresh(&config);
    let zone = domain(&config, "r0/z0");
    let order = ShiftOrder::Set {
        keep_percent: 20,
        origin: Origin::Operator,
        reason: "a test".to_owned(),
        until: time(100 * SECOND),
    };
    planner.shift(zone, &order, at(0)).expect("allowed");
    for backend in 0..2 {
        planner.observe(fact(Subject::Backend(BackendId(backend)), State::Down), 0);
    }
    let tick = planner.tick(at(500 * SECOND)).expect("due");
    let Due::ShiftProlonged { shift, ready } = tick.due else { panic!("{tick:?}") };
    assert_eq!((shift.until, ready.well), (time(525 * SECOND), 0));
    assert_eq!(planner.next_ns(), Some(525 * SECOND), "what is told is what is done");
}

/// Traffic does not return to what an operator took out.
#[test]
fn what_an_operator_took_out_is_not_ready() {
    let config = one_rack();
    let mut planner = fresh(&config);
    let zone = domain(&config, "r0/z0");
    for (subject, well) in [(Subject::Backend(BackendId(0)), 100), (Subject::Domain(zone), 0)] {
        act(&mut planner, subject, Action::Drain);
        assert_eq!((planner.readiness(zone).well, planner.readiness(zone).all), (well, 200));
    }
}

#[test]
fn an_end_at_this_moment_is_over() {
    let mut planner = fresh(&one_rack());
    for (until_s, expected) in [(59, Err(Refusal::Over)), (60, Err(Refusal::Over)), (61, Ok(true))] {
        let order = Order { until: Some(time(until_s * SECOND)), ..Order::new(Action::Drain, "a test") };
        let acted = planner.act(Subject::Backend(BackendId(0)), &order, at(60 * SECOND));
        assert_eq!(acted.map(|acted| acted.changed), expected, "{until_s}");
    }
}

/// Of several words on record the last one stands, and a restore is none.
#[test]
fn a_restore_on_record_is_no_word() {
    let backend = Subject::Backend(BackendId(0));
    let word = |action| (backend, Override::new(action, "on record".to_owned(), time(0)));
    let said = Words { overrides: vec![word(Action::Drain), word(Action::Restore)], ..Words::default() };
    let (planner, changes) =
        Planner::new(&one_rack(), &said, InitialHealth::Fresh, |_| Admission::OPEN, at(0));
    assert_eq!((planner.held(backend), changes), (None, Vec::new()));
}
