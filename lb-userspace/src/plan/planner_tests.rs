use std::collections::HashMap;

use lb_common::abi::limits::MAX_DOMAINS;
use proptest::prelude::*;

use super::*;
use crate::health::testing::{config, shapes};

/// An input of the planner.
#[derive(Clone, Copy, Debug)]
enum Input {
    Believe(State),
    Act(Action),
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![Just(State::Up), Just(State::Suspect), Just(State::Down)]
}

fn inputs() -> impl Strategy<Value = Input> {
    let actions = prop_oneof![Just(Action::Drain), Just(Action::Fail), Just(Action::Restore)];
    prop_oneof![states().prop_map(Input::Believe), actions.prop_map(Input::Act)]
}

/// So many nanoseconds after the beginning of both clocks.
pub(super) fn at(ns: u64) -> Moment {
    Moment { time: time(ns), ns }
}

pub(super) fn time(ns: u64) -> jiff::Timestamp {
    jiff::Timestamp::from_nanosecond(ns.into()).expect("in range")
}

pub(super) fn fresh(config: &Config) -> Planner {
    let (planner, changes) =
        Planner::new(config, &Words::default(), InitialHealth::Fresh, |_| Admission::OPEN, at(0));
    assert_eq!(changes, [], "a fresh data plane is already as it should be");
    planner
}

pub(super) fn fact(subject: Subject, state: State) -> Fact {
    Fact { subject, state, cause: Cause::Passed, evidence_ns: Some(1) }
}

fn feed(planner: &mut Planner, subject: Subject, input: Input) -> Option<Change> {
    match input {
        Input::Believe(state) => planner.observe(fact(subject, state), 0),
        Input::Act(action) => act(planner, subject, action).change,
    }
}

pub(super) fn act(planner: &mut Planner, subject: Subject, action: Action) -> Acted {
    planner.act(subject, &Order::new(action, "a test"), at(0)).expect("a valid action")
}

pub(super) fn words(planner: &Planner) -> Vec<Admission> {
    planner.subjects().map(|subject| planner.word(subject)).collect()
}

pub(super) fn shares(planner: &Planner) -> Vec<(u8, u8)> {
    words(planner).into_iter().map(|word| (word.new_share(), word.old_share())).collect()
}

pub(super) fn one_rack() -> Config {
    config(&vec![vec![vec![2]]], Vec::new())
}

const BACKEND: Subject = Subject::Backend(BackendId(0));

proptest! {
    /// Guarantee 1: whatever lies below, failing and restoring a domain is one store each, into its own word.
    #[test]
    fn failing_a_domain_is_one_store(shape in shapes(), noise in prop::collection::vec((any::<prop::sample::Index>(), states()), 0..20)) {
        let config = config(&shape, Vec::new());
        let mut planner = fresh(&config);
        let subjects: Vec<_> = planner.subjects().collect();
        for (index, state) in noise {
            if let subject @ Subject::Backend(_) = *index.get(&subjects) {
                planner.observe(fact(subject, state), 0);
            }
        }
        for id in config.topology.ids() {
            let subject = Subject::Domain(id);
            let before = words(&planner);
            for action in [Action::Drain, Action::Fail, Action::Restore] {
                let change = act(&mut planner, subject, action).change.expect("the word changes");
                prop_assert_eq!(change.cell, Cell::Domain(id));
                let moved = before.iter().zip(words(&planner)).filter(|(old, new)| **old != *new).count();
                prop_assert!(moved <= 1, "{} words changed", moved);
            }
        }
    }

    /// Guarantee 2: restoring gives back exactly the shares from before.
    #[test]
    fn restoring_gives_back_the_shares(
        shape in shapes(),
        before in prop::collection::vec((any::<prop::sample::Index>(), states()), 0..20),
        acts in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..20),
    ) {
        let mut planner = fresh(&config(&shape, Vec::new()));
        let subjects: Vec<_> = planner.subjects().collect();
        for (index, state) in before {
            planner.observe(fact(*index.get(&subjects), state), 0);
        }
        let expected = shares(&planner);
        for (index, fail) in &acts {
            act(&mut planner, *index.get(&subjects), if *fail { Action::Fail } else { Action::Drain });
        }
        for (index, _) in &acts {
            act(&mut planner, *index.get(&subjects), Action::Restore);
        }
        prop_assert_eq!(shares(&planner), expected);
        prop_assert!(words(&planner).iter().all(|word| !word.is_held()));
    }

    /// Guarantee 3: the words do not depend on the order in which facts about different subjects arrive, and follow
    /// from the last facts alone.
    #[test]
    fn order_of_independent_facts_does_not_matter(
        shape in shapes(),
        events in prop::collection::vec((any::<prop::sample::Index>(), inputs(), any::<u32>()), 0..60),
    ) {
        let config = config(&shape, Vec::new());
        let (mut one, mut other) = (fresh(&config), fresh(&config));
        let subjects: Vec<_> = one.subjects().collect();
        let events: Vec<_> = events.into_iter().map(|(i, input, key)| (*i.get(&subjects), input, key)).collect();
        for &(subject, input, _) in &events {
            feed(&mut one, subject, input);
        }
        // Another order in which each subject's own facts stay in sequence: sort by the largest key so far.
        let mut largest = HashMap::new();
        let mut shuffled: Vec<_> = events
            .iter()
            .map(|&(subject, input, key)| {
                let entry = largest.entry(subject).or_insert(0);
                *entry = key.max(*entry);
                (*entry, subject, input)
            })
            .collect();
        shuffled.sort_by_key(|(key, ..)| *key);
        for (_, subject, input) in shuffled {
            feed(&mut other, subject, input);
        }
        prop_assert_eq!(words(&one), words(&other));
        for subject in subjects {
            let mine = || events.iter().filter(|(of, ..)| *of == subject).map(|(_, input, _)| *input);
            let believed = mine().filter_map(|i| if let Input::Believe(state) = i { Some(state) } else { None }).next_back();
            let acted = mine().filter_map(|i| if let Input::Act(action) = i { Some(action) } else { None }).next_back();
            let state = match acted {
                Some(Action::Drain) => State::Draining,
                Some(Action::Fail) => State::Down,
                Some(Action::Restore) | None => believed.unwrap_or(State::Up),
            };
            prop_assert_eq!(one.effective(subject), state);
            let word = one.word(subject);
            prop_assert_eq!((word.new_share(), word.old_share()), state.shares());
            prop_assert_eq!(word.is_held(), matches!(acted, Some(Action::Drain | Action::Fail)));
        }
    }

    /// A change is said exactly when the word is another one, and CLEAN never comes back.
    #[test]
    fn stores_are_minimal(shape in shapes(), events in prop::collection::vec((any::<prop::sample::Index>(), inputs()), 0..60)) {
        let mut planner = fresh(&config(&shape, Vec::new()));
        let subjects: Vec<_> = planner.subjects().collect();
        for (index, input) in events {
            let subject = *index.get(&subjects);
            let before = planner.word(subject);
            let change = feed(&mut planner, subject, input);
            prop_assert_eq!(change.is_some(), planner.word(subject) != before);
            if let Some(change) = change {
                prop_assert_eq!((change.cell, change.word), (subject.cell(), planner.word(subject)));
                prop_assert!(!change.word.is_clean());
            }
        }
    }

    /// A restart changes nothing: what the words and the recorded overrides say is taken over without a store.
    #[test]
    fn adopting_stores_nothing(shape in shapes(), events in prop::collection::vec((any::<prop::sample::Index>(), inputs()), 0..60)) {
        let config = config(&shape, Vec::new());
        let mut before = fresh(&config);
        let subjects: Vec<_> = before.subjects().collect();
        for (index, input) in events {
            feed(&mut before, *index.get(&subjects), input);
        }
        let overrides: Vec<_> =
            subjects.iter().filter_map(|&s| before.held(s).map(|held| (s, held.clone()))).collect();
        let recorded = Words { overrides, ..Words::default() };
        let of = |cell: Cell| match cell {
            Cell::Backend(id) => before.word(Subject::Backend(id)),
            Cell::Domain(id) => before.word(Subject::Domain(id)),
            Cell::Pool(_) => Admission::OPEN,
        };
        // Without the record of the overrides the held bit in the words still keeps them.
        for recorded in [recorded, Words::default()] {
            let (after, changes) = Planner::new(&config, &recorded, InitialHealth::Adopted, of, at(0));
            prop_assert_eq!(&changes, &[]);
            for &subject in &subjects {
                prop_assert_eq!(after.effective(subject), before.effective(subject));
                prop_assert_eq!(after.held(subject).is_some(), before.held(subject).is_some());
            }
        }
    }
}

#[test]
fn an_operator_outranks_automation() {
    let mut planner = fresh(&one_rack());
    assert_eq!(act(&mut planner, BACKEND, Action::Drain).to, State::Draining);
    assert_eq!(
        planner.observe(fact(BACKEND, State::Down), 0),
        None,
        "automation does not store over an operator"
    );
    let restored = act(&mut planner, BACKEND, Action::Restore);
    assert_eq!((restored.from, restored.to), (State::Draining, State::Down));
    assert_eq!(planner.word(BACKEND), Admission::CLOSED);
    planner.observe(fact(BACKEND, State::Up), 0).expect("it returns by itself");
    assert_eq!(planner.word(BACKEND), Admission::new(255, 255));
}

#[test]
fn repeating_an_action_changes_nothing_but_a_new_reason_is_kept() {
    let mut planner = fresh(&one_rack());
    assert!(!act(&mut planner, BACKEND, Action::Restore).changed);
    assert!(act(&mut planner, BACKEND, Action::Fail).changed);
    assert!(!act(&mut planner, BACKEND, Action::Fail).changed);
    let again = planner.act(BACKEND, &Order::new(Action::Fail, "another reason"), at(0)).expect("valid");
    assert!(again.changed && again.change.is_none());
    assert_eq!(planner.held(BACKEND).map(|held| held.reason.as_str()), Some("another reason"));
}

#[test]
fn senseless_actions_are_refused_and_change_nothing() {
    let mut planner = fresh(&one_rack());
    let mut refusal = |subject, reason: &str| {
        planner.act(subject, &Order::new(Action::Fail, reason), at(0)).expect_err("refused")
    };
    assert_eq!(refusal(BACKEND, " \t"), Refusal::EmptyReason);
    assert_eq!(refusal(BACKEND, &"x".repeat(MAX_REASON_BYTES + 1)), Refusal::LongReason);
    assert_eq!(refusal(Subject::Backend(BackendId(9)), "why not"), Refusal::Unknown);
    assert_eq!(refusal(Subject::Domain(DomainId(9)), "why not"), Refusal::Unknown);
    assert!(words(&planner).iter().all(|&word| word == Admission::OPEN));
}

#[test]
fn an_override_that_was_recorded_but_not_stored_is_stored_at_start() {
    let config = one_rack();
    let held = Override::new(Action::Drain, "fans".to_owned(), jiff::Timestamp::UNIX_EPOCH);
    for initial in [InitialHealth::Fresh, InitialHealth::Adopted] {
        let said = Words { overrides: vec![(BACKEND, held.clone())], ..Words::default() };
        let (planner, changes) = Planner::new(&config, &said, initial, |_| Admission::OPEN, at(0));
        assert_eq!(changes.len(), 1);
        assert_eq!(changes[0].word, Admission::new(0, 255).held());
        assert_eq!(planner.effective(BACKEND), State::Draining);
    }
}

#[test]
fn pools_lie_behind_the_domains() {
    assert_eq!(Cell::Domain(DomainId(3)).admission_index(), Some(3));
    assert_eq!(Cell::Pool(3).admission_index(), Some(MAX_DOMAINS + 3));
    assert_eq!(Cell::Backend(BackendId(3)).admission_index(), None);
}

/// With a recovery that takes time: what was down comes back by steps, each one store of its own word, and an operator's word
/// outranks them.
#[test]
fn what_was_down_ramps_up_by_single_stores() {
    use crate::plan::breaker::Settings;
    use crate::plan::ramp::{Pace, RAMP_STEPS};
    let second = 1_000_000_000;
    let mut config = config(&vec![vec![vec![2]]], Vec::new());
    let pace = Pace { half_open_share: 13, half_open_ns: second, slow_start_ns: 16 * second };
    config.recovery = Settings { pace, half_life_ns: 0 };
    let load = |_| Admission::OPEN;
    let (mut planner, _) = Planner::new(&config, &Words::default(), InitialHealth::Fresh, load, at(0));
    planner.observe(fact(BACKEND, State::Down), 0).expect("a store");
    assert_eq!(planner.next_ns(), None);
    let change = planner.observe(fact(BACKEND, State::Up), 0).expect("a store");
    assert_eq!((change.word, change.from, change.to), (Admission::new(13, 255), State::Down, State::Ramp));
    assert_eq!((planner.automatic(BACKEND), planner.effective(BACKEND)), (State::Up, State::Ramp));
    let mut shares = vec![13];
    while let Some(next_ns) = planner.next_ns() {
        assert_eq!(planner.tick(at(next_ns - 1)), None, "not yet");
        let change = planner.tick(at(next_ns)).expect("due").change.expect("a store");
        assert_eq!(change.cell, BACKEND.cell());
        shares.push(change.word.new_share());
    }
    assert_eq!(shares.len() as u64, RAMP_STEPS + 2);
    assert!(shares.is_sorted() && shares.last() == Some(&255), "{shares:?}");
    assert_eq!(planner.effective(BACKEND), State::Up);

    planner.observe(fact(BACKEND, State::Down), 0).expect("a store");
    planner.act(BACKEND, &Order::new(Action::Fail, "by hand"), at(0)).expect("allowed");
    assert_eq!(planner.observe(fact(BACKEND, State::Up), 0), None);
    while let Some(next_ns) = planner.next_ns() {
        assert_eq!(planner.tick(at(next_ns)).expect("due").change, None, "the operator's word stands");
    }
    let restored = planner.act(BACKEND, &Order::new(Action::Restore, "done"), at(0)).expect("allowed");
    assert_eq!(restored.to, State::Up, "it has ramped up meanwhile");
}
