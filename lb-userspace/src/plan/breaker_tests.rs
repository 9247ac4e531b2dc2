use proptest::prelude::*;

use super::*;
use State::{Down, Ramp, Suspect, Up};

const SECOND: u64 = 1_000_000_000;

fn settings() -> Settings {
    let pace = Pace { half_open_share: 10, half_open_ns: SECOND, slow_start_ns: 8 * SECOND };
    Settings { pace, half_life_ns: 60 * SECOND }
}

#[test]
fn what_was_down_comes_back_half_open_and_then_by_steps() {
    let mut breaker = Breaker::new(settings(), Up);
    assert_eq!(breaker.shares(), (255, 255));
    breaker.observe(Down, 0);
    assert_eq!((breaker.state(), breaker.shares(), breaker.next_ns()), (Down, (0, 0), None));
    breaker.observe(Up, SECOND);
    assert_eq!((breaker.state(), breaker.shares(), breaker.health()), (Ramp, (10, 255), Up));
    assert_eq!(breaker.next_ns(), Some(2 * SECOND));
    breaker.tick(2 * SECOND);
    assert_eq!(breaker.shares(), (24, 255));
    breaker.tick(10 * SECOND);
    assert_eq!((breaker.state(), breaker.shares(), breaker.next_ns()), (Up, (255, 255), None));
}

#[test]
fn a_false_alarm_ends_at_once_and_a_failure_while_it_ramps_opens_it() {
    let mut breaker = Breaker::new(settings(), Up);
    breaker.observe(Suspect, 0);
    assert_eq!(breaker.shares(), (0, 255));
    breaker.observe(Up, SECOND);
    assert_eq!((breaker.state(), breaker.shares()), (Up, (255, 255)));
    breaker.observe(Down, 2 * SECOND);
    breaker.observe(Up, 3 * SECOND);
    breaker.tick(8 * SECOND);
    assert!(breaker.shares().0 > 10);
    breaker.observe(Suspect, 8 * SECOND);
    assert_eq!(breaker.shares(), (0, 255));
    breaker.observe(Up, 9 * SECOND);
    assert_eq!(breaker.shares().0, 10 + 245 / 17, "from the start, which was the suspicion");
    breaker.observe(Down, 9 * SECOND);
    assert_eq!((breaker.state(), breaker.shares(), breaker.next_ns()), (Down, (0, 0), None));
}

#[test]
fn without_settings_it_says_what_health_says() {
    let mut breaker = Breaker::new(Settings::default(), Down);
    for (at, state) in [Up, Suspect, Down, Up, Down, Up, Down, Up, Suspect, Up].into_iter().enumerate() {
        breaker.observe(state, at as u64);
        assert_eq!((breaker.state(), breaker.shares(), breaker.next_ns()), (state, state.shares(), None));
    }
}

#[test]
fn what_flaps_is_held_until_its_penalty_has_decayed() {
    let mut breaker = Breaker::new(Settings { pace: Pace::default(), ..settings() }, Up);
    for round in 0..3 {
        breaker.observe(Down, round * 2);
        breaker.observe(Up, round * 2 + 1);
        assert_eq!(breaker.state(), Up, "round {round}");
    }
    breaker.observe(Down, 10);
    breaker.observe(Up, 11);
    assert_eq!((breaker.state(), breaker.health(), breaker.shares()), (Down, Up, (0, 0)));
    let reuse_ns = breaker.next_ns().expect("it ends");
    // From 4000 to 1500: 1.415 half-lives.
    assert!((84 * SECOND..86 * SECOND).contains(&reuse_ns), "{reuse_ns}");
    breaker.tick(reuse_ns - SECOND);
    assert_eq!(breaker.state(), Down);
    breaker.tick(breaker.next_ns().expect("still held"));
    assert_eq!((breaker.state(), breaker.next_ns()), (Up, None));
}

/// Whatever becomes of it while it is held, it is let go when its penalty has decayed, and not before.
#[test]
fn what_is_held_stays_held_through_failures_and_suspicions() {
    let mut breaker = Breaker::new(settings(), Up);
    for round in 0..4 {
        breaker.observe(Down, round * 2);
        breaker.observe(Up, round * 2 + 1);
    }
    breaker.observe(Suspect, 10);
    assert_eq!((breaker.state(), breaker.shares()), (Down, (0, 0)), "it is out anyway");
    breaker.observe(Up, 11);
    // A little before it is let go it fails: the penalty is 2,600 now, less than it takes to be held anew.
    let fails_ns = 80 * SECOND;
    breaker.observe(Down, fails_ns);
    breaker.observe(Up, fails_ns + SECOND);
    let damping = breaker.damping(fails_ns + SECOND).expect("remembered");
    assert!(damping.suppressed && damping.penalty < SUPPRESS, "{damping:?}");
    assert_eq!(breaker.state(), Down);
    breaker.tick(breaker.next_ns().expect("it ends"));
    assert_eq!(breaker.shares(), (10, 255), "half-open");

    // If it is down when its time is over, it comes back as ever once it is up: from the start.
    for round in 0..4 {
        breaker.observe(Down, 1_000 * SECOND + round * 2);
        breaker.observe(Up, 1_000 * SECOND + round * 2 + 1);
    }
    breaker.observe(Down, 1_001 * SECOND);
    breaker.tick(breaker.next_ns().expect("it ends"));
    assert_eq!((breaker.state(), breaker.next_ns()), (Down, None));
    breaker.observe(Up, 2_000 * SECOND);
    assert_eq!((breaker.shares(), breaker.next_ns()), ((10, 255), Some(2_001 * SECOND)));
}

#[test]
fn whoever_failed_very_often_is_held_for_three_half_lives_at_most() {
    let mut breaker = Breaker::new(Settings { pace: Pace::default(), ..settings() }, Up);
    for round in 0..100 {
        breaker.observe(Down, 2 * round);
        // What is said again is no other failure.
        breaker.observe(Down, 2 * round);
        breaker.observe(Up, 2 * round + 1);
        let penalty = breaker.damping(2 * round + 1).expect("it failed").penalty.round();
        assert_eq!(penalty, (PENALTY * (round + 1) as f64).min(CEILING), "round {round}");
    }
    let held_ns = breaker.next_ns().expect("it ends") - 200;
    assert!((179 * SECOND..=180 * SECOND).contains(&held_ns), "{held_ns}");
}

proptest! {
    /// After any history: only what health calls UP takes flows, a failure is out at once, nothing is held for longer than
    /// the ceiling allows, and in the end everything is open.
    #[test]
    fn any_history_ends_open_and_never_admits_what_is_down(
        history in prop::collection::vec((0usize..3, 0..20 * SECOND), 1..80),
        half_open_ns in 0..5 * SECOND, slow_start_ns in 0..20 * SECOND, half_life in 0u64..60,
    ) {
        let pace = Pace { half_open_share: 9, half_open_ns, slow_start_ns };
        let half_life_ns = half_life * SECOND;
        let mut breaker = Breaker::new(Settings { pace, half_life_ns }, Up);
        let mut now_ns = 0;
        for (state, pause_ns) in history {
            let health = [Up, Suspect, Down][state];
            breaker.observe(health, now_ns);
            let (new, old) = breaker.shares();
            match health {
                Down => prop_assert_eq!((new, old), (0, 0)),
                Suspect => prop_assert_eq!(new, 0),
                _ => prop_assert!(old == 255 && new > 0 || breaker.state() == Down && (new, old) == (0, 0)),
            }
            let until_ns = now_ns + pause_ns;
            let mut share = breaker.shares().0;
            while let Some(next_ns) = breaker.next_ns().filter(|&next_ns| next_ns <= until_ns) {
                prop_assert!(next_ns > now_ns);
                now_ns = next_ns;
                breaker.tick(now_ns);
                prop_assert!(breaker.shares().0 >= share, "a share fell while nothing failed");
                share = breaker.shares().0;
            }
            now_ns = until_ns;
        }
        breaker.observe(Up, now_ns);
        let limit_ns = now_ns + 3 * half_life_ns + 2 + half_open_ns + slow_start_ns;
        let mut turns = 0;
        while let Some(next_ns) = breaker.next_ns() {
            prop_assert!(next_ns <= limit_ns && turns < 64, "held beyond the ceiling");
            breaker.tick(next_ns);
            turns += 1;
        }
        prop_assert_eq!((breaker.state(), breaker.shares()), (Up, (255, 255)));
    }
}
