use std::collections::{BTreeMap, BTreeSet};
use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// A key that nothing but its number tells apart from others.
fn key(number: u32) -> FlowWords {
    FlowWords::new(&[0, 0, 0, number], &[9, 9, 9, 9], number, 6, 0)
}

/// A hash as good as any.
fn hash(key: &FlowWords) -> u64 {
    let number = u64::from(key.source()[3]).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (number ^ number >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

fn new_set() -> OpeningSet {
    [const { Cell::new(0) }; SET_WORDS]
}

fn contents(set: &OpeningSet) -> BTreeMap<u32, u32> {
    let words = set.each_ref().map(Cell::get);
    let entries = (0..OPENING_WAYS).filter_map(|way| entry(&words, way, hash));
    entries.map(|(key, entry)| (key.source()[3], entry.backend)).collect()
}

/// In units of tags.
fn ms(ms: u64) -> u64 {
    ms << 20
}

fn put_in(set: &OpeningSet, number: u32, at_ns: u64) {
    let key = key(number);
    write(set, hash(&key), at_ns, &key, FlowEntry { backend: 100 + number, seen: 7 });
}

fn backend(set: &OpeningSet, number: u32) -> Option<u32> {
    let key = key(number);
    find(set, hash(&key), &key).map(|entry| entry.backend)
}

#[test]
fn what_is_written_is_found_until_it_is_removed() {
    let set = new_set();
    assert_eq!(backend(&set, 1), None);
    put_in(&set, 1, ms(1));
    let found = find(&set, hash(&key(1)), &key(1));
    assert_eq!(found, Some(FlowEntry { backend: 101, seen: 7 }));
    assert_eq!(backend(&set, 2), None);
    assert!(!remove(&set, hash(&key(2)), &key(2)));
    assert!(remove(&set, hash(&key(1)), &key(1)));
    assert!(!remove(&set, hash(&key(1)), &key(1)));
    assert_eq!((backend(&set, 1), contents(&set)), (None, BTreeMap::new()));
}

#[test]
fn the_oldest_goes_first_and_a_flow_keeps_one_way() {
    let set = new_set();
    (0..8).for_each(|number| put_in(&set, number, ms(10 - u64::from(number))));
    // Written again, it is the youngest, and nothing went for it.
    put_in(&set, 7, ms(11));
    assert_eq!(contents(&set).len(), 8);
    for (number, oldest) in (8..15).zip((0..7).rev()) {
        put_in(&set, number, ms(u64::from(number) + 12));
        assert_eq!((backend(&set, oldest), backend(&set, number)), (None, Some(100 + number)), "{number}");
        assert_eq!(backend(&set, 7), Some(107));
    }
}

#[test]
fn of_equally_old_ones_no_way_is_always_the_one_that_goes() {
    let gone: BTreeSet<u32> = (0..400)
        .step_by(9)
        .map(|first| {
            let set = new_set();
            (first..first + 9).for_each(|number| put_in(&set, number, ms(5)));
            (first..first + 9).find(|&number| backend(&set, number).is_none()).expect("one of nine went")
                - first
        })
        .collect();
    assert_eq!(gone.len(), 8, "all but the last: {gone:?}");
}

#[test]
fn the_flow_whose_tag_would_be_zero_has_one() {
    let set = new_set();
    write(&set, 5, 0, &key(1), FlowEntry { backend: 3, seen: 0 });
    assert_eq!(find(&set, 5, &key(1)).map(|entry| entry.backend), Some(3));
}

#[test]
fn a_flow_of_the_same_tag_and_another_key_is_not_taken_for_it() {
    let set = new_set();
    let h = 0x1234_5678_0000_0001;
    write(&set, h, ms(1), &key(1), FlowEntry { backend: 3, seen: 0 });
    assert_eq!(find(&set, h + 1, &key(2)), None);
    assert!(!remove(&set, h + 1, &key(2)));
    // One of the two can be there, as tags tell ways apart.
    write(&set, h + 1, ms(2), &key(2), FlowEntry { backend: 4, seen: 0 });
    assert_eq!(find(&set, h, &key(1)), None);
    assert_eq!(find(&set, h + 1, &key(2)).map(|entry| entry.backend), Some(4));
}

#[test]
fn flows_are_spread_over_all_sets() {
    let mut counts = [0; 64];
    (0..64_000).for_each(|number| counts[set_of(hash(&key(number)), 64) as usize] += 1);
    assert!(counts.iter().all(|count| (800..1_200).contains(count)), "{counts:?}");
}

proptest! {
    /// Whatever two CPUs that write one way at once leave of their words: who is found is found with his own backend.
    #[test]
    fn of_a_mixture_nobody_gets_the_others_backend(
        (first, second) in (0..1000_u32, 1000..2000_u32),
        of_first in prop::collection::vec(any::<bool>(), SET_WORDS),
        same_tag in any::<bool>(),
    ) {
        let hash_of = |number| if same_tag { hash(&key(1)) & !0xffff_ffff | hash(&key(number)) & 0xffff_ffff } else { hash(&key(number)) };
        let sets = [first, second].map(|number| {
            let set = new_set();
            // Both take the first way.
            (1..8).for_each(|way| set[way].set(u64::MAX - way as u64));
            write(&set, hash_of(number), ms(3), &key(number), FlowEntry { backend: number, seen: 1 });
            set
        });
        let mixed = new_set();
        for (at, &of_first) in of_first.iter().enumerate() {
            mixed[at].set(sets[usize::from(!of_first)][at].get());
        }
        for number in [first, second] {
            let found = find(&mixed, hash_of(number), &key(number));
            prop_assert!(found.is_none_or(|entry| entry.backend == number));
        }
        let words = mixed.each_ref().map(Cell::get);
        if let Some((key, entry)) = entry(&words, 0, |key| hash_of(key.source()[3])) {
            prop_assert_eq!(key.source()[3], entry.backend);
        }
    }

    /// As one remembers them: the last eight of a set, in the order of their last writing.
    #[test]
    fn a_set_holds_the_last_eight(events in prop::collection::vec((0..20_u32, any::<bool>()), 1..80)) {
        let set = new_set();
        let mut held: Vec<u32> = Vec::new();
        for (at, (number, comes)) in events.into_iter().enumerate() {
            held.retain(|&other| other != number);
            if comes {
                put_in(&set, number, ms(1 + at as u64));
                held.push(number);
                // A way that became free is taken before any goes.
                if held.len() > OPENING_WAYS {
                    held.remove(0);
                }
            } else {
                remove(&set, hash(&key(number)), &key(number));
            }
            let expected: BTreeMap<u32, u32> = held.iter().map(|&number| (number, 100 + number)).collect();
            prop_assert_eq!(contents(&set), expected);
        }
    }
}
