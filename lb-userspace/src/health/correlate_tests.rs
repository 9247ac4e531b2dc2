use proptest::prelude::*;

use super::*;
use crate::config::Config;
use crate::health::testing::{Shape, below, config, domain, shapes};

/// Tallies for a moment in which these backends are missing; an operator holds `held`.
fn tallies(config: &Config, missing: &[usize], held: &[DomainId]) -> Vec<Tally> {
    let members = config.backends.iter().enumerate().map(|(index, backend)| {
        let missing = missing.contains(&index);
        Member {
            rack: backend.rack,
            counts: true,
            missing,
            silent: missing,
            confirmed: false,
            steady: !missing,
            answered: !missing,
            first_miss_ns: if missing { index as u64 } else { u64::MAX },
        }
    });
    tally(&config.topology, members, |id| held.contains(&id))
}

fn explained(config: &Config, missing: &[usize]) -> Vec<String> {
    match explain(&config.topology, &tallies(config, missing, &[])) {
        Explanation::Isolated => vec!["isolated".to_owned()],
        Explanation::Domains(found) => found.iter().map(|&id| config.topology[id].path.clone()).collect(),
    }
}

/// Two regions, two zones each, two racks each, five backends each.
fn grid() -> Config {
    let shape: Shape = vec![vec![vec![5, 5], vec![5, 5]], vec![vec![5, 5], vec![5, 5]]];
    config(&shape, Vec::new())
}

#[test]
fn the_largest_domain_that_is_silent_explains_it() {
    let config = grid();
    for path in ["r0/z0/k0", "r0/z0/k1", "r1/z1", "r0", "r1"] {
        assert_eq!(explained(&config, &below(&config, path)), [path]);
    }
    let two = [below(&config, "r0/z0"), below(&config, "r1/z0/k1")].concat();
    assert_eq!(explained(&config, &two), ["r0/z0", "r1/z0/k1"]);
}

#[test]
fn four_of_five_are_enough_and_three_are_not() {
    let config = grid();
    let rack = below(&config, "r0/z1/k0");
    assert_eq!(explained(&config, &rack[..4]), ["r0/z1/k0"]);
    assert_eq!(explained(&config, &rack[..3]), [""; 0]);
}

#[test]
fn one_backend_does_not_speak_for_its_rack() {
    let config = config(&vec![vec![vec![1, 1], vec![2]]], Vec::new());
    assert_eq!(explained(&config, &[0]), [""; 0]);
    assert_eq!(explained(&config, &[0, 1]), ["r0/z0"]);
}

#[test]
fn silence_of_all_is_this_hosts_own() {
    let everybody: Vec<_> = (0..40).collect();
    assert_eq!(explained(&grid(), &everybody), ["isolated"]);
    // Nor does one rack's witness bring the others down with it unless it stands outside of what fails.
    assert_eq!(explained(&grid(), &everybody[1..]), ["isolated"]);
    assert_eq!(explained(&grid(), &everybody[5..]), ["r0/z0/k1", "r0/z1", "r1"]);
    // Also where no domain has enough members to fail as one.
    let sparse = config(&vec![vec![vec![1]], vec![vec![1]]], Vec::new());
    assert_eq!(explained(&sparse, &[0, 1]), ["isolated"]);
    assert_eq!(explained(&sparse, &[1]), [""; 0]);
}

#[test]
fn one_silent_rack_alone_is_not_isolation_but_single_failures() {
    let config = config(&vec![vec![vec![3]]], Vec::new());
    assert_eq!(explained(&config, &[0, 1, 2]), [""; 0]);
}

#[test]
fn a_region_without_another_one_is_judged_by_its_zones() {
    let config = config(&vec![vec![vec![4], vec![4]]], Vec::new());
    assert_eq!(explained(&config, &[0, 1, 2, 3, 4, 5, 6]), ["r0/z0"]);
}

#[test]
fn all_saying_themselves_that_they_are_unwell_is_not_isolation() {
    let config = grid();
    let mut tallies = tallies(&config, &(0..40).collect::<Vec<_>>(), &[]);
    for tally in &mut tallies {
        tally.answered = tally.checked;
    }
    let regions = vec![domain(&config, "r0"), domain(&config, "r1")];
    assert_eq!(explain(&config.topology, &tallies), Explanation::Domains(regions));
}

#[test]
fn what_an_operator_took_out_is_no_evidence_about_what_lies_above() {
    let config = config(&vec![vec![vec![4], vec![1]], vec![vec![2]]], Vec::new());
    let zone = domain(&config, "r0/z0");
    let silent = [0, 1, 2, 3];
    let found = explain(&config.topology, &tallies(&config, &silent, &[]));
    assert_eq!(found, Explanation::Domains(vec![domain(&config, "r0")]));
    let found = explain(&config.topology, &tallies(&config, &silent, &[zone]));
    assert_eq!(found, Explanation::Domains(vec![zone]));
}

#[test]
fn whoever_answers_proves_the_connection_even_if_it_counts_for_nothing_else() {
    let config = config(&vec![vec![vec![3, 1]], vec![vec![1]]], Vec::new());
    let members = |last_answers: bool| {
        config.backends.iter().enumerate().map(move |(index, backend)| Member {
            rack: backend.rack,
            // The last one is DOWN on its own account.
            counts: index != 4,
            missing: true,
            silent: true,
            confirmed: true,
            steady: false,
            answered: index == 4 && last_answers,
            first_miss_ns: 0,
        })
    };
    let explained =
        |answers| explain(&config.topology, &tally(&config.topology, members(answers), |_| false));
    assert_eq!(explained(true), Explanation::Domains(vec![domain(&config, "r0")]));
    assert_eq!(explained(false), Explanation::Isolated);
}

#[test]
fn racks_of_which_nobody_counts_make_no_isolation() {
    let config = config(&vec![vec![vec![3, 1]], vec![vec![1]]], Vec::new());
    let held = [domain(&config, "r0/z0/k1"), domain(&config, "r1")];
    let members = config.backends.iter().enumerate().map(|(index, backend)| Member {
        rack: backend.rack,
        counts: index < 3,
        missing: true,
        silent: true,
        confirmed: true,
        steady: false,
        answered: false,
        first_miss_ns: 0,
    });
    let tallies = tally(&config.topology, members, |id| held.contains(&id));
    assert_eq!(explain(&config.topology, &tallies), Explanation::Domains(Vec::new()));
}

proptest! {
    /// What is found fails, is disjoint, does not hold the one who testifies, and leaves no failing rack unexplained
    /// unless its own members are the only witnesses.
    #[test]
    fn explanations_are_sound(shape in shapes(), seed in prop::collection::vec(0u8..10, 256), quiet in 0u8..11) {
        let config = config(&shape, Vec::new());
        let missing: Vec<_> = (0..config.backends.len()).filter(|&index| seed[index] < quiet).collect();
        let tallies = tallies(&config, &missing, &[]);
        match explain(&config.topology, &tallies) {
            Explanation::Domains(found) => {
                for &id in &found {
                    prop_assert!(tallies[id.index()].is_failing());
                    let others = found.iter().filter(|&&other| other != id);
                    for &other in others {
                        prop_assert!(!config.topology.is_within(id, other));
                    }
                }
                let witness = config.backends.iter().enumerate().any(|(index, backend)| {
                    !missing.contains(&index) && !found.iter().any(|&id| config.topology.is_within(backend.rack, id))
                });
                prop_assert!(found.is_empty() || witness);
            }
            Explanation::Isolated => {
                let answering = config.backends.len() - missing.len();
                prop_assert!(answering * 100 <= config.backends.len() * 20);
            }
        }
    }

    /// Each sum is the sum over the domain's backends.
    #[test]
    fn tallies_add_up(shape in shapes(), seed in prop::collection::vec(any::<bool>(), 256)) {
        let config = config(&shape, Vec::new());
        let missing: Vec<_> = (0..config.backends.len()).filter(|&index| seed[index]).collect();
        let tallies = tallies(&config, &missing, &[]);
        for (domain, tally) in config.topology.domains.iter().zip(&tallies) {
            let inside = below(&config, &domain.path);
            let silent: Vec<_> = inside.iter().filter(|index| missing.contains(index)).collect();
            prop_assert_eq!(tally.members as usize, inside.len());
            prop_assert_eq!(tally.missing as usize, silent.len());
            prop_assert_eq!(tally.first_miss_ns, silent.first().map_or(u64::MAX, |&&index| index as u64));
        }
    }
}
