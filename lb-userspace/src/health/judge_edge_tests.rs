//! Rounds of several checks, what was adopted, and returns in part.

use super::tests::{INTERVAL_NS, Scene, grid, said};
use super::*;
use crate::config::{CheckId, CheckKind};
use crate::health::testing::{Shape, check, config, domain};

const ANSWERED: Outcome = Outcome::Answered { at_ns: 1000, rtt_ns: 1 };

fn silent(due_ns: u64) -> Outcome {
    Outcome::Missed { how: Miss::Silent, due_ns }
}

/// Heartbeats with fall 2 and rise 3, and connections.
fn two_checks(shape: &Shape) -> Config {
    let checks =
        vec![check(CheckKind::Heartbeat { port: 6777 }, 3), check(CheckKind::Tcp { port: 80 }, 1_000)];
    config(shape, checks)
}

fn round(judge: &mut Judge, group: usize, since_ns: u64, outcomes: &[Outcome]) -> Vec<Fact> {
    judge.round(&Round { group, since_ns, due_ns: since_ns + 10, outcomes }, |_| false).facts
}

/// Whoever fell just before his rack came under suspicion does not keep it there once he answers, though he has not risen yet.
#[test]
fn a_false_alarm_ends_with_answers_and_not_with_rise() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    assert_eq!(scene.silent(&rack[..2]), []);
    assert_eq!(scene.silent(&rack[..4]), said(&[("r0/z0/k0", State::Suspect)]));
    let expected = [("b0000", State::Down), ("b0001", State::Down), ("r0/z0/k0", State::Up)];
    assert_eq!(scene.silent(&[]), said(&expected));
}

/// What fails in a zone that is DOWN anyway is not said, until the zone has been half there for long: then one by one.
#[test]
fn a_rack_of_a_zone_that_is_down_is_not_said_to_fail() {
    let mut scene = grid();
    let (rack, zone) = (scene.below("r0/z0/k0"), scene.below("r0/z0"));
    scene.silent(&zone);
    assert_eq!(scene.silent(&zone), said(&[("r0/z0", State::Down)]));
    for _ in 1..PARTIAL_RECOVERY_FACTOR * 3 {
        assert_eq!(scene.silent(&rack), []);
    }
    let dead = ["b0000", "b0001", "b0002", "b0003", "b0004"].map(|name| (name, State::Down));
    assert_eq!(scene.silent(&rack), said(&[&dead[..], &[("r0/z0", State::Up)]].concat()));
}

/// The same, where the members that are there come and go all together in between: patience begins anew.
#[test]
fn patience_is_for_rounds_in_a_row() {
    let mut scene = grid();
    let (rack, zone) = (scene.below("r0/z0/k0"), scene.below("r0/z0"));
    scene.silent(&zone);
    scene.silent(&zone);
    for _ in 0..2 {
        for _ in 1..PARTIAL_RECOVERY_FACTOR * 3 {
            assert_eq!(scene.silent(&rack), []);
        }
        assert_eq!(scene.silent(&zone), []);
    }
}

/// Rounds of a check that says nothing of a domain do not bring it back.
#[test]
fn only_rounds_that_touch_a_domain_count_towards_its_return() {
    let mut config = two_checks(&vec![vec![vec![5]], vec![vec![5]]]);
    for (set, check) in config.sets.iter_mut().zip([CheckId(0), CheckId(1)]) {
        set.checks = vec![check];
    }
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    round(&mut judge, 1, 0, &[ANSWERED; 5]);
    round(&mut judge, 0, 100, &[silent(110); 5]);
    let region = Subject::Domain(domain(&config, "r0"));
    let down = round(&mut judge, 0, 200, &[silent(210); 5]);
    assert_eq!(
        down.iter().map(|fact| (fact.subject, fact.state)).collect::<Vec<_>>(),
        [(region, State::Down)]
    );
    let half = [ANSWERED, ANSWERED, ANSWERED, silent(310), silent(310)];
    assert_eq!(round(&mut judge, 0, 300, &half), []);
    for _ in 0..2 * PARTIAL_RECOVERY_FACTOR * 3 {
        assert_eq!(round(&mut judge, 1, 300, &[ANSWERED; 5]), []);
    }
}

/// The first heartbeats that are answered end an isolation; connections that were missed meanwhile, and are tried again only later, are
/// no evidence against anybody.
#[test]
fn what_an_isolated_host_missed_is_nobodys_fault_afterwards() {
    let config = two_checks(&vec![vec![vec![2; 2]; 2]; 2]);
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    for group in [0, 1, 0] {
        assert_eq!(round(&mut judge, group, 100, &[silent(110); 16]), []);
        assert!(judge.is_isolated());
    }
    let late = [Outcome::Unknown; 16];
    assert_eq!(round(&mut judge, 0, 150, &late), []);
    assert!(judge.is_isolated(), "nobody was heard");
    for since_ns in [160, 170] {
        let answered = [Outcome::Answered { at_ns: since_ns + 5, rtt_ns: 1 }; 16];
        assert_eq!(round(&mut judge, 0, since_ns, &answered), []);
    }
    // Whoever fails then does so by itself, and from then on.
    let (since_ns, due_ns) = (6_000_000, 6_000_010);
    let mut outcomes = [Outcome::Answered { at_ns: since_ns + 5, rtt_ns: 1 }; 16];
    outcomes[..2].fill(silent(due_ns));
    let facts = round(&mut judge, 0, since_ns, &outcomes);
    let found: Vec<_> = facts.iter().map(|fact| (fact.subject, fact.state, fact.evidence_ns)).collect();
    assert_eq!(found, [(Subject::Domain(domain(&config, "r0/z0/k0")), State::Suspect, Some(due_ns))]);
}

/// Connections that were begun while this host was isolated, and time out only when it no more is.
#[test]
fn what_began_during_an_isolation_is_nobodys_fault_either() {
    const SECOND: u64 = 1_000_000_000;
    let config = two_checks(&vec![vec![vec![2; 2]; 2]; 2]);
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    round(&mut judge, 0, 100, &[silent(110); 16]);
    assert_eq!(round(&mut judge, 0, 110, &[Outcome::Unknown; 16]), []);
    assert!(judge.is_isolated(), "nobody was heard");
    let answered = [Outcome::Answered { at_ns: 125, rtt_ns: 1 }; 16];
    assert_eq!(round(&mut judge, 0, 120, &answered), []);
    assert!(!judge.is_isolated());
    // The timeout is a second: these began at 50 and at 200 ns.
    assert_eq!(round(&mut judge, 1, 115, &[silent(SECOND + 50); 16]), []);
    let facts = round(&mut judge, 1, 115, &[silent(SECOND + 200); 16]);
    let states: Vec<_> = facts.iter().map(|fact| fact.state).collect();
    assert_eq!(states, [State::Suspect; 2], "both regions, for the first time");
    // An answer is an answer, whenever it was asked for.
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    round(&mut judge, 0, 100, &[silent(110); 16]);
    round(&mut judge, 0, 120, &answered);
    let refused = Outcome::Missed { how: Miss::Refused, due_ns: SECOND + 50 };
    assert_eq!(round(&mut judge, 1, 115, &[refused; 16]).len(), 2, "both regions");
}

/// Nobody says UP for it but its own answer.
#[test]
fn a_backend_adopted_in_suspicion_is_up_with_its_first_answer() {
    let config = config(&vec![vec![vec![3, 3]]], vec![check(CheckKind::Tcp { port: 80 }, 100)]);
    let suspect = Subject::Backend(BackendId(0));
    let initial = |subject| if subject == suspect { State::Suspect } else { State::Up };
    let (judge, facts) = Judge::new(&config, Targets::new(&config), initial);
    assert_eq!(facts, []);
    let mut scene = Scene { config, judge, now_ns: INTERVAL_NS, held: Vec::new(), isolated: false };
    assert_eq!(scene.silent(&[0]), []);
    assert_eq!(scene.silent(&[]), said(&[("b0000", State::Up)]));
}

/// The first check that hears somebody ends an isolation, and not the last one.
#[test]
fn what_fails_after_an_isolation_counts_at_once() {
    const SECOND: u64 = 1_000_000_000;
    let config = two_checks(&vec![vec![vec![2; 2]; 2]; 2]);
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    for group in [0, 1] {
        round(&mut judge, group, 100, &[silent(110); 16]);
    }
    let answered = |at_ns| [Outcome::Answered { at_ns, rtt_ns: 1 }; 16];
    round(&mut judge, 0, 120, &answered(125));
    round(&mut judge, 1, SECOND, &answered(SECOND + 5));
    let mut heartbeats = answered(SECOND + 5);
    heartbeats[..2].fill(silent(SECOND + 10));
    assert_eq!(round(&mut judge, 0, SECOND, &heartbeats).len(), 1);
}

/// Who was not heard does not testify that this host is connected because it is excused.
#[test]
fn an_isolation_goes_on_from_check_to_check() {
    let mut config = two_checks(&vec![vec![vec![1]], vec![vec![1]]]);
    for (set, check) in config.sets.iter_mut().zip([CheckId(0), CheckId(1)]) {
        set.checks = vec![check];
    }
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    for (turn, group) in [1, 0, 1, 0, 1, 0].into_iter().enumerate() {
        let since_ns = 100 * (turn as u64 + 1);
        assert_eq!(round(&mut judge, group, since_ns, &[silent(since_ns + 10)]), []);
        assert_eq!(judge.is_isolated(), turn > 0, "{turn}");
    }
}
