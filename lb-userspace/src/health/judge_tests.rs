use proptest::prelude::*;

use super::*;
use crate::config::CheckKind;
use crate::health::testing::{Shape, below, check, config, domain, shapes};

/// From one round to the next, in nanoseconds.
pub(super) const INTERVAL_NS: u64 = 3_000_000;

/// A judge over heartbeat rounds with fall 2 and rise 3, and what it said so far.
pub(super) struct Scene {
    pub(super) config: Config,
    pub(super) judge: Judge,
    pub(super) now_ns: u64,
    pub(super) held: Vec<Subject>,
    pub(super) isolated: bool,
}

impl Scene {
    pub(super) fn new(shape: &Shape) -> Self {
        let config = config(shape, vec![check(CheckKind::Heartbeat { port: 6777 }, 3)]);
        let (judge, facts) = Judge::new(&config, Targets::new(&config), |_| State::Up);
        assert_eq!(facts, []);
        Self { config, judge, now_ns: INTERVAL_NS, held: Vec::new(), isolated: false }
    }

    /// One round in which these backends miss in this way; returns who changed to what, in order.
    fn miss(&mut self, missing: &[usize], how: Miss) -> Vec<(String, State)> {
        let due_ns = self.now_ns + INTERVAL_NS;
        let outcomes: Vec<_> = (0..self.config.backends.len())
            .map(|index| match missing.contains(&index) {
                true => Outcome::Missed { how, due_ns },
                false => Outcome::Answered { at_ns: self.now_ns + 1000, rtt_ns: 1000 },
            })
            .collect();
        let round = Round { group: 0, since_ns: self.now_ns, due_ns, outcomes: &outcomes };
        let held = &self.held;
        let verdict = self.judge.round(&round, |subject| held.contains(&subject));
        self.now_ns = due_ns;
        self.isolated = verdict.isolated.unwrap_or(self.isolated);
        assert_eq!(self.isolated, self.judge.is_isolated());
        let name = |fact: &Fact| (fact.subject.name(&self.config).to_owned(), fact.state);
        verdict.facts.iter().map(name).collect()
    }

    pub(super) fn silent(&mut self, missing: &[usize]) -> Vec<(String, State)> {
        self.miss(missing, Miss::Silent)
    }

    pub(super) fn below(&self, path: &str) -> Vec<usize> {
        below(&self.config, path)
    }

    /// Whether flows may go to the backend, by all its words.
    fn is_open(&self, backend: usize) -> bool {
        let rack = self.config.backends[backend].rack;
        let domains = self.config.topology.ancestors(rack);
        self.judge.backends[backend] == State::Up
            && domains.iter().all(|id| self.judge.domains[id.index()] == State::Up)
    }
}

pub(super) fn said(what: &[(&str, State)]) -> Vec<(String, State)> {
    what.iter().map(|&(name, state)| (name.to_owned(), state)).collect()
}

/// Two regions of two zones of two racks of five backends.
pub(super) fn grid() -> Scene {
    Scene::new(&vec![vec![vec![5; 2]; 2]; 2])
}

#[test]
fn a_silent_rack_is_suspect_then_down_and_returns_after_rise() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    assert_eq!(scene.silent(&[]), []);
    assert_eq!(scene.silent(&rack), said(&[("r0/z0/k0", State::Suspect)]));
    assert_eq!(scene.silent(&rack), said(&[("r0/z0/k0", State::Down)]));
    for _ in 0..20 {
        assert_eq!(scene.silent(&rack), []);
    }
    assert_eq!(scene.silent(&[]), []);
    assert_eq!(scene.silent(&[]), []);
    assert_eq!(scene.silent(&[]), said(&[("r0/z0/k0", State::Up)]));
}

#[test]
fn a_false_alarm_ends_with_the_next_good_round() {
    let mut scene = grid();
    let rack = scene.below("r1/z1/k1");
    assert_eq!(scene.silent(&rack[..4]), said(&[("r1/z1/k1", State::Suspect)]));
    assert_eq!(scene.silent(&rack[4..]), said(&[("r1/z1/k1", State::Up)]));
    assert_eq!(scene.silent(&[]), []);
}

#[test]
fn a_suspicion_that_is_not_confirmed_gives_way_to_single_failures() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    scene.silent(&rack);
    assert_eq!(scene.silent(&rack[..3]), [], "still suspicious: 3 of 5 are silent");
    let expected =
        [("b0000", State::Down), ("b0001", State::Down), ("b0002", State::Down), ("r0/z0/k0", State::Up)];
    assert_eq!(scene.silent(&rack[..3]), said(&expected));
}

#[test]
fn a_zone_or_a_region_gets_one_store_and_its_racks_none() {
    for path in ["r0/z1", "r1"] {
        let mut scene = grid();
        let members = scene.below(path);
        assert_eq!(scene.silent(&members), said(&[(path, State::Suspect)]));
        assert_eq!(scene.silent(&members), said(&[(path, State::Down)]));
        assert_eq!(scene.silent(&members), []);
    }
}

#[test]
fn a_rack_stays_as_it_is_when_its_zone_follows() {
    let mut scene = grid();
    let (rack, zone) = (scene.below("r0/z0/k0"), scene.below("r0/z0"));
    scene.silent(&rack);
    assert_eq!(scene.silent(&rack), said(&[("r0/z0/k0", State::Down)]));
    assert_eq!(scene.silent(&zone), said(&[("r0/z0", State::Suspect)]));
    assert_eq!(scene.silent(&zone), said(&[("r0/z0", State::Down)]));
    // The other rack returns: the zone is half there, which is too little, until it has been for long.
    let mut facts = Vec::new();
    for _ in 0..PARTIAL_RECOVERY_FACTOR * 3 {
        facts.extend(scene.silent(&rack));
    }
    assert_eq!(facts, said(&[("r0/z0", State::Up)]));
    assert_eq!([scene.silent(&[]), scene.silent(&[])], [[], []]);
    assert_eq!(scene.silent(&[]), said(&[("r0/z0/k0", State::Up)]));
}

#[test]
fn members_that_stay_away_are_down_before_their_rack_returns() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    scene.silent(&rack);
    scene.silent(&rack);
    scene.silent(&rack[..1]);
    scene.silent(&rack[..1]);
    assert_eq!(scene.silent(&rack[..1]), said(&[("b0000", State::Down), ("r0/z0/k0", State::Up)]));
    assert_eq!([scene.silent(&[]), scene.silent(&[])], [[], []]);
    assert_eq!(scene.silent(&[]), said(&[("b0000", State::Up)]));
}

#[test]
fn one_backend_falls_and_rises_alone() {
    let mut scene = grid();
    assert_eq!(scene.silent(&[7]), []);
    assert_eq!(scene.silent(&[7]), said(&[("b0012", State::Down)]));
    assert_eq!([scene.silent(&[]), scene.silent(&[])], [[], []]);
    assert_eq!(scene.silent(&[]), said(&[("b0012", State::Up)]));
}

#[test]
fn evidence_is_when_the_first_missing_answer_was_due() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    let outcomes = |missing: &[usize], due_ns| -> Vec<_> {
        let answered = Outcome::Answered { at_ns: due_ns, rtt_ns: 1 };
        let missed = Outcome::Missed { how: Miss::Silent, due_ns };
        (0..40).map(|index| if missing.contains(&index) { missed } else { answered }).collect()
    };
    let mut facts = Vec::new();
    for due_ns in [100, 200] {
        let outcomes = outcomes(&rack, due_ns);
        let round = Round { group: 0, since_ns: due_ns - 50, due_ns, outcomes: &outcomes };
        facts.extend(scene.judge.round(&round, |_| false).facts);
    }
    assert_eq!(facts.iter().map(|fact| fact.evidence_ns).collect::<Vec<_>>(), [Some(100); 2]);
    assert_eq!(facts[1].cause.to_string(), "5 of 5 backends missed 2 probes in a row");
}

#[test]
fn isolation_holds_everything_and_is_said_once() {
    let mut scene = grid();
    let everybody: Vec<_> = (0..40).collect();
    for _ in 0..50 {
        assert_eq!(scene.silent(&everybody), []);
        assert!(scene.isolated);
    }
    // What was missed meanwhile was nobody's fault: one more miss takes nobody out.
    assert_eq!(scene.silent(&[3]), []);
    assert!(!scene.isolated);
    assert_eq!(scene.silent(&[3]), said(&[("b0003", State::Down)]));
}

#[test]
fn isolation_keeps_what_was_down_before() {
    let mut scene = grid();
    let zone = scene.below("r0/z0");
    scene.silent(&zone);
    scene.silent(&zone);
    let everybody: Vec<_> = (0..40).collect();
    assert_eq!(scene.silent(&everybody), []);
    assert!(scene.isolated);
    assert_eq!([scene.silent(&[]), scene.silent(&[])], [[], []]);
    assert_eq!(scene.silent(&[]), said(&[("r0/z0", State::Up)]));
}

#[test]
fn an_answer_to_another_check_since_the_silence_began_ends_it() {
    let checks =
        vec![check(CheckKind::Heartbeat { port: 6777 }, 3), check(CheckKind::Tcp { port: 80 }, 1_000)];
    let config = config(&vec![vec![vec![2; 2]; 2]; 2], checks);
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    let all = |outcome: Outcome| vec![outcome; config.backends.len()];
    let mut is_isolated_after = |group, since_ns, outcome| {
        let round = Round { group, since_ns, due_ns: since_ns + 10, outcomes: &all(outcome) };
        judge.round(&round, |_| false);
        judge.is_isolated()
    };
    let silent = |due_ns| Outcome::Missed { how: Miss::Silent, due_ns };
    assert!(is_isolated_after(0, 100, silent(110)));
    is_isolated_after(1, 120, Outcome::Answered { at_ns: 125, rtt_ns: 5 });
    // Heartbeats are missed as before, but since they are, everybody answered something.
    assert!(!is_isolated_after(0, 200, silent(210)));
}

#[test]
fn refusals_everywhere_are_believed() {
    let mut scene = grid();
    let everybody: Vec<_> = (0..40).collect();
    assert_eq!(
        scene.miss(&everybody, Miss::Refused),
        said(&[("r0", State::Suspect), ("r1", State::Suspect)])
    );
    assert_eq!(scene.miss(&everybody, Miss::Refused), said(&[("r0", State::Down), ("r1", State::Down)]));
    assert!(!scene.isolated);
}

#[test]
fn backends_that_died_one_by_one_do_not_take_the_last_one_with_them() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    let mut facts = Vec::new();
    for dead in 1..5 {
        for _ in 0..3 {
            facts.extend(scene.silent(&rack[..dead]));
        }
    }
    let expected = ["b0000", "b0001", "b0002", "b0003"].map(|name| (name, State::Down));
    assert_eq!(facts, said(&expected));
    assert!(scene.is_open(rack[4]));
}

#[test]
fn backends_that_an_operator_took_out_are_no_evidence() {
    let mut scene = grid();
    let rack = scene.below("r0/z0/k0");
    scene.held = rack[..4].iter().map(|&index| Subject::Backend(BackendId(index as u16))).collect();
    let mut facts = Vec::new();
    for _ in 0..5 {
        facts.extend(scene.silent(&rack[..4]));
    }
    assert!(facts.iter().all(|(name, _)| name.starts_with('b')), "{facts:?}");
    assert!(scene.is_open(rack[4]));
}

#[test]
fn rounds_in_which_the_prober_was_late_say_nothing() {
    let mut scene = grid();
    let outcomes = vec![Outcome::Unknown; 40];
    for _ in 0..10 {
        let round = Round { group: 0, since_ns: 1, due_ns: 2, outcomes: &outcomes };
        assert_eq!(scene.judge.round(&round, |_| false), Verdict::default());
    }
    assert!(!scene.judge.is_everyone_judged(true));
}

#[test]
fn everyone_is_judged_when_each_answered_or_fell() {
    let mut scene = grid();
    scene.silent(&[1]);
    assert!(!scene.judge.is_everyone_judged(true));
    scene.silent(&[1]);
    assert!(scene.judge.is_everyone_judged(true));
}

#[test]
fn sessions_that_somebody_else_has_are_not_waited_for() {
    let bfd = crate::config::BfdCheck {
        multihop: true,
        receive_interval: std::time::Duration::from_millis(10),
        multiplier: 3,
        passive: false,
        local: Vec::new(),
    };
    let config = config(&vec![vec![vec![2]]], vec![check(CheckKind::Bfd(bfd), 10)]);
    let (judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    assert!(!judge.is_everyone_judged(true));
    assert!(judge.is_everyone_judged(false));
}

#[test]
fn adopted_states_stay_until_there_is_evidence() {
    let config =
        config(&vec![vec![vec![3, 3]], vec![vec![2]]], vec![check(CheckKind::Tcp { port: 80 }, 100)]);
    let rack = Subject::Domain(domain(&config, "r0/z0/k0"));
    let backend = Subject::Backend(BackendId(5));
    let initial = |subject| if subject == rack || subject == backend { State::Down } else { State::Up };
    let (judge, facts) = Judge::new(&config, Targets::new(&config), initial);
    assert_eq!(facts, []);
    let mut scene = Scene { config, judge, now_ns: INTERVAL_NS, held: Vec::new(), isolated: false };
    assert_eq!(scene.silent(&[0, 1, 2, 5]), []);
    // Whoever answered all along has recovered; who was adopted DOWN has to pass `rise` times.
    assert_eq!(scene.silent(&[5]), said(&[("r0/z0/k0", State::Up)]));
    assert_eq!([scene.silent(&[]), scene.silent(&[])], [[], []]);
    assert_eq!(scene.silent(&[]), said(&[("b0012", State::Up)]));
}

#[test]
fn what_no_check_covers_is_up() {
    let config = config(&vec![vec![vec![1]]], Vec::new());
    let (_, facts) = Judge::new(&config, Targets::new(&config), |_| State::Down);
    assert_eq!(facts.len(), 4);
    assert!(facts.iter().all(|fact| fact.state == State::Up));
}

#[test]
fn a_backend_is_up_only_if_all_its_checks_pass() {
    let checks = vec![check(CheckKind::Heartbeat { port: 6777 }, 3), check(CheckKind::Tcp { port: 80 }, 100)];
    let config = config(&vec![vec![vec![3], vec![3]]], checks);
    let (mut judge, _) = Judge::new(&config, Targets::new(&config), |_| State::Up);
    let answered = Outcome::Answered { at_ns: 1000, rtt_ns: 1 };
    let refused = Outcome::Missed { how: Miss::Refused, due_ns: 1000 };
    let mut facts = Vec::new();
    for _ in 0..2 {
        let heartbeats = [answered; 6];
        facts.extend(
            judge.round(&Round { group: 0, since_ns: 1, due_ns: 2, outcomes: &heartbeats }, |_| false).facts,
        );
        let mut connections = [answered; 6];
        connections[1] = refused;
        facts.extend(
            judge.round(&Round { group: 1, since_ns: 1, due_ns: 2, outcomes: &connections }, |_| false).facts,
        );
    }
    assert_eq!(facts.len(), 1);
    assert_eq!(facts[0].subject, Subject::Backend(BackendId(1)));
    assert_eq!(facts[0].cause.to_string(), "check check80: refused, 2 in a row");
}

/// Rounds enough for everything to settle.
const SETTLED: u32 = 4 * PARTIAL_RECOVERY_FACTOR * 3;

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    /// After any history, once all answer again everything is UP.
    #[test]
    fn everything_returns(shape in shapes(), history in prop::collection::vec((prop::collection::vec(0u8..10, 162), 0u8..11), 0..20)) {
        let mut scene = Scene::new(&shape);
        for (seed, quiet) in history {
            let missing: Vec<_> = (0..scene.config.backends.len()).filter(|&index| seed[index] < quiet).collect();
            scene.silent(&missing);
        }
        for _ in 0..SETTLED {
            scene.silent(&[]);
        }
        prop_assert!(!scene.isolated);
        prop_assert!((0..scene.config.backends.len()).all(|index| scene.is_open(index)));
    }

    /// After any history, when the same backends stay silent and this host is not isolated: none of them is open, and
    /// who answers is open unless a domain fails around it.
    #[test]
    fn the_silent_are_out_and_the_others_in(
        shape in shapes(),
        history in prop::collection::vec((prop::collection::vec(0u8..10, 162), 0u8..11), 0..10),
        seed in prop::collection::vec(0u8..10, 162), quiet in 0u8..10,
    ) {
        let mut scene = Scene::new(&shape);
        let count = scene.config.backends.len();
        let pick = |seed: &[u8], quiet| (0..count).filter(|&index| seed[index] < quiet).collect::<Vec<_>>();
        for (seed, quiet) in history {
            scene.silent(&pick(&seed, quiet));
        }
        let missing = pick(&seed, quiet);
        for _ in 0..SETTLED {
            scene.silent(&missing);
        }
        if !scene.isolated {
            for index in 0..count {
                if missing.contains(&index) {
                    prop_assert!(!scene.is_open(index), "{} is open", index);
                } else if !scene.is_open(index) {
                    let domains = scene.config.topology.ancestors(scene.config.backends[index].rack);
                    let failing = domains.iter().any(|&id| {
                        let inside = scene.below(&scene.config.topology[id].path);
                        let dead = inside.iter().filter(|index| missing.contains(index)).count();
                        dead >= 2 && dead * 100 >= inside.len() * 80
                    });
                    prop_assert!(failing, "{} is out", index);
                }
            }
        }
    }

    /// While a domain is not UP, nothing is said of what lies in it before the domain itself returns; except that a
    /// smaller domain under suspicion is confirmed or cleared.
    #[test]
    fn backends_are_held_while_their_domain_speaks_for_them(
        shape in shapes(),
        history in prop::collection::vec((prop::collection::vec(0u8..10, 162), 0u8..11), 0..30),
    ) {
        let mut scene = Scene::new(&shape);
        for (seed, quiet) in history {
            let missing: Vec<_> = (0..scene.config.backends.len()).filter(|&index| seed[index] < quiet).collect();
            let before = scene.judge.backends.clone();
            scene.silent(&missing);
            for (index, state) in before.iter().enumerate() {
                let domains = scene.config.topology.ancestors(scene.config.backends[index].rack);
                let held = domains.iter().any(|id| scene.judge.domains[id.index()] != State::Up);
                prop_assert!(!held || scene.judge.backends[index] == *state);
            }
        }
    }

    /// A cut of one whole domain from a healthy state, with others that answer: exactly two facts, SUSPECT and DOWN, of
    /// one domain that holds just those backends.
    #[test]
    fn a_cut_is_two_stores(shape in shapes(), which in any::<prop::sample::Index>()) {
        let mut scene = Scene::new(&shape);
        let id = which.index(scene.config.topology.domains.len());
        let members = scene.below(&scene.config.topology.domains[id].path.clone());
        prop_assume!(members.len() >= 2 && members.len() < scene.config.backends.len());
        // A domain around it that is nearly all of it fails with it: not this test's case.
        let mut facts = Vec::new();
        for _ in 0..10 {
            facts.extend(scene.silent(&members));
        }
        let states: Vec<_> = facts.iter().map(|(_, state)| *state).collect();
        prop_assert_eq!(states, [State::Suspect, State::Down]);
        prop_assert_eq!(&facts[0].0, &facts[1].0);
        prop_assert!(members.iter().all(|&index| !scene.is_open(index)));
    }
}
