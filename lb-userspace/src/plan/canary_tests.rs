use proptest::prelude::*;

use super::*;
use crate::plan::compile::compile;

fn config(table_size: u32, weights: &[&[u32]], standby: usize) -> Config {
    let mut text = String::from(
        "[node]\nname = \"e\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\ntunnel_source_v4 = \"10.255.0.0/16\"\n\
         hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n[topology.r]\nz = [\"k\"]\n",
    );
    for (set, weights) in weights.iter().enumerate() {
        text += &format!("[[set]]\nname = \"s{set}\"\ndomain = \"r/z/k\"\nchecks = []\n");
        for (b, weight) in weights.iter().enumerate() {
            text += &format!(
                "[[set.backend]]\nname = \"s{set}b{b}\"\nrack = \"r/z/k\"\naddress = \"10.1.{set}.{}\"\nweight = {weight}\n",
                b + 1
            );
        }
    }
    let names =
        |range: std::ops::Range<usize>| range.map(|set| format!("\"s{set}\"")).collect::<Vec<_>>().join(", ");
    let serving = weights.len() - standby;
    text += &format!(
        "[[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n[[service.pool]]\nname = \"p\"\n\
         sets = [{}]\nstandby = [{}]\ntable_size = {table_size}\n",
        names(0..serving),
        names(serving..weights.len())
    );
    Config::parse(&text, "t").unwrap_or_else(|error| panic!("{error}"))
}

fn set(set: &str, permille: u32) -> CanaryOrder {
    CanaryOrder::Set { set: set.to_owned(), permille, steps: None }
}

fn now() -> jiff::Timestamp {
    jiff::Timestamp::UNIX_EPOCH
}

fn one(set: &str, permille: u32) -> Vec<Canary> {
    order(&[], "web", super::CanaryOrder::Set { set: set.to_owned(), permille, steps: None }, "r", now())
        .unwrap()
}

/// Slots of each backend, by name.
fn slots(config: &Config) -> std::collections::BTreeMap<String, usize> {
    let image = compile(config).unwrap();
    let mut counts = std::collections::BTreeMap::new();
    for slot in &image.slots[..config.services[0].pools[0].table_size as usize] {
        *counts.entry(config.backends[usize::from(*slot)].name.clone()).or_default() += 1;
    }
    counts
}

#[test]
fn a_set_takes_its_share_and_the_rest_stays_in_proportion() {
    let base = config(16_381, &[&[100, 300], &[50]], 0);
    let (with, misfits) = apply(&base, &one("s1", 100));
    assert_eq!(misfits, []);
    // A canary of the first set leaves the order of sets as the file has it, so nothing else seems to have changed.
    let (of_first, _) = apply(&base, &one("s0", 100));
    assert_eq!(of_first.services[0].pools[0].sets, base.services[0].pools[0].sets);
    let shares = slots(&with)
        .into_values()
        .map(|count| (count as f64 * 1_000.0 / 16_381.0).round())
        .collect::<Vec<_>>();
    assert_eq!(shares, [225.0, 675.0, 100.0]);
    let alone = slots(&apply(&base, &one("s1", 1_000)).0);
    assert_eq!(alone.keys().collect::<Vec<_>>(), ["s1b0"]);
    let none = slots(&apply(&base, &one("s1", 0)).0);
    assert_eq!(none.keys().collect::<Vec<_>>(), ["s0b0", "s0b1"]);
}

#[test]
fn a_set_that_stands_by_takes_nothing_until_its_canary_begins() {
    let base = config(4_093, &[&[100], &[100]], 1);
    assert_eq!(slots(&base).len(), 1);
    assert_eq!(apply(&base, &one("s1", 0)).0, base, "it says what the file says");
    assert_eq!(slots(&apply(&base, &one("s1", 250)).0)["s1b0"], 1_023);
}

#[test]
fn steps_go_forth_and_back_and_end() {
    let go = |canaries: &[Canary], what| order(canaries, "web", what, "r", now());
    let share = |canaries: &[Canary]| canaries.iter().map(|canary| canary.permille).collect::<Vec<_>>();
    let mut canaries = one("s1", 20);
    for expected in [50, 100, 250, 500, 1_000] {
        canaries = go(&canaries, CanaryOrder::Step { back: false }).unwrap();
        assert_eq!(share(&canaries), [expected]);
    }
    assert!(matches!(go(&canaries, CanaryOrder::Step { back: false }), Err(Refusal::NoStep { .. })));
    canaries = go(&canaries, CanaryOrder::Step { back: true }).unwrap();
    assert_eq!(share(&canaries), [500]);
    assert!(matches!(go(&canaries, set("s0", 10)), Err(Refusal::Another { .. })));
    assert_eq!(share(&go(&canaries, set("s1", 10)).unwrap()), [10]);
    assert_eq!(share(&go(&canaries, CanaryOrder::Promote).unwrap()), [1_000]);
    assert_eq!(go(&canaries, CanaryOrder::Abort), Ok(Vec::new()));
    for what in [CanaryOrder::Abort, CanaryOrder::Promote, CanaryOrder::Step { back: false }] {
        assert!(matches!(go(&[], what), Err(Refusal::None(_))));
    }
    for bad in [vec![], vec![10, 10], vec![0, 10], vec![10, 1_001], (1..40).collect()] {
        let what = CanaryOrder::Set { set: "s1".to_owned(), permille: 10, steps: Some(bad) };
        assert_eq!(go(&[], what), Err(Refusal::Steps));
    }
    assert_eq!(go(&[], set("s1", 1_001)), Err(Refusal::Share(1_001)));
}

#[test]
fn what_is_said_of_one_service_leaves_the_canaries_of_others_alone() {
    let mail = Canary { service: "mail".to_owned(), ..one("s1", 20).remove(0) };
    for what in [CanaryOrder::Abort, CanaryOrder::Promote, CanaryOrder::Step { back: false }, set("s1", 70)] {
        let both = [mail.clone(), one("s1", 10).remove(0)];
        let after = order(&both, "web", what, "r", now()).unwrap();
        assert_eq!(after.first(), Some(&mail));
        assert!(after.iter().all(|canary| canary.service == "mail" || canary.permille != 10), "{after:?}");
    }
}

#[test]
fn what_does_not_go_with_the_configuration_is_left_out_and_named() {
    let base = config(4_093, &[&[100], &[100]], 0);
    let why = |canary: Canary| apply(&base, &[canary]).1.pop().map(|(_, why)| why);
    let canary = one("s1", 100).remove(0);
    assert_eq!(why(canary.clone()), None);
    assert!(matches!(
        why(Canary { service: "mail".to_owned(), ..canary.clone() }),
        Some(Misfit::NoService(_))
    ));
    assert!(matches!(why(Canary { set: "s7".to_owned(), ..canary.clone() }), Some(Misfit::NoSet { .. })));
    let alone = config(4_093, &[&[100]], 0);
    let of_alone = |permille| apply(&alone, &one("s0", permille)).1.pop().unwrap().1;
    assert!(matches!(of_alone(500), Misfit::Alone { .. }));
    assert!(matches!(of_alone(1_000), Misfit::Fulfilled(_)));
    // After a promotion the file says the same: nothing moves, and the canary is over.
    let before = apply(&config(4_093, &[&[100], &[100]], 1), &one("s1", 1_000)).0;
    let mut after = before.clone();
    after.services[0].pools[0].canary = None;
    assert_eq!(slots(&before), slots(&after));
}

#[test]
fn a_share_that_the_table_is_too_coarse_for_is_refused_with_the_next_one_that_does() {
    let base = config(4_093, &[&[100; 2], &[100; 30]], 0);
    let refusal = check(&base, &one("s1", 5).remove(0)).unwrap_err();
    let Refusal::Coarse { achievable: Some(achievable), .. } = refusal else { panic!("{refusal:?}") };
    assert!(achievable > 5 && refusal.to_string().contains(&percent(achievable)), "{refusal}");
    assert_eq!(check(&base, &one("s1", achievable).remove(0)), Ok(()));
    // The last word has the table's builder, and it says the same.
    let mut laid = base.clone();
    let (service, pool, changed) = place(&base, &one("s1", 5)[0]).unwrap();
    laid.services[service].pools[pool] = changed;
    assert!(compile(&laid).is_err());
    // One that was possible with the file before is left out, and named.
    let (left, misfits) = apply(&base, &one("s1", 5));
    assert_eq!(left, base);
    assert!(matches!(misfits[..], [(_, Misfit::Coarse { permille: 5, slots: 4_093, .. })]), "{misfits:?}");
    assert!(compile(&apply(&base, &one("s1", achievable)).0).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever way a canary took, aborting it gives back the configuration, and so the tables, from before; and a share gives the
    /// same tables whatever share there was before.
    #[test]
    fn reversible_exactly(
        a in prop::collection::vec(50u32..200, 1..5), b in prop::collection::vec(50u32..200, 1..5),
        way in prop::collection::vec(10u32..990, 1..5),
    ) {
        let base = config(4_093, &[&a, &b], 0);
        let mut canaries = Vec::new();
        for &permille in &way {
            canaries = order(&canaries, "web", set("s1", permille), "r", now()).unwrap();
        }
        let last = *way.last().unwrap();
        let (with, straight) = (apply(&base, &canaries).0, apply(&base, &one("s1", last)).0);
        prop_assert_eq!(&with, &straight);
        if check(&base, &canaries[0]).is_ok() {
            let share: usize = slots(&with).iter().filter(|(name, _)| name.starts_with("s1")).map(|(_, n)| n).sum();
            // Each member is within a slot of its share.
            let exact = 4_093.0 * f64::from(last) / 1_000.0;
            prop_assert!((share as f64 - exact).abs() <= b.len() as f64 + 1.0, "{} of {}", share, exact);
        }
        let aborted = order(&canaries, "web", CanaryOrder::Abort, "r", now()).unwrap();
        prop_assert_eq!(apply(&base, &aborted).0, base);
    }
}
