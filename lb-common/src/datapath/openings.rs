//! `OPENINGS`: where flows that opened away from home live until their next packet.
//!
//! A flood of opening packets writes one entry a packet, so what counts is what that costs. A kernel's LRU table takes two locks and touches
//! a dozen cache lines; here it is two lines, none of them locked, that the packet's own hash leads to. The map is an array of sets of
//! [`OPENING_WAYS`] entries. The lower half of a flow's hash says which set is its, the upper half tells it from the others there. A new
//! entry takes an empty way, else that of the oldest one: first in, first out, within the set.
//!
//! | words of a set | hold |
//! |---|---|
//! | 0 to 7 | for each way a tag: when it was written (upper half, units of 2^20 ns) and the upper half of the flow's hash; 0 for none |
//! | 8 to 15, 16 to 23, ... | each way's entry: five words of [key](FlowWords), the backend with `seen` above it, a proof, zero |
//!
//! Two CPUs may write one way at the same time, and what is read may be torn. The proof binds the hash of the key to the backend: of any
//! mixture of two entries, no reader finds either, and no packet goes to the other's backend. At worst an opening is lost, as
//! one is that the next packets overwrite.

use core::cell::Cell;

use lb_maglev::reduce32;

use crate::abi::flow::{FlowEntry, FlowWords, OPENING_LINES, OPENING_WAYS};

/// 64-bit words of a set.
pub const SET_WORDS: usize = 8 * OPENING_LINES;

/// A set, shared with other CPUs.
pub type OpeningSet = [Cell<u64>; SET_WORDS];

/// Words of an entry's key.
const KEY_WORDS: usize = 5;
/// Its word of backend and `seen`.
const VALUE: usize = 5;
/// Its word of proof.
const PROOF: usize = 6;
/// Units of time in tags, 2^20 ns. They wrap around after 52 days; what was written before that looks young until the daemon finds, two minutes
/// later, that its flow never came to be.
const TIME_SHIFT: u32 = 20;
/// Which bits of a word are a way's number.
const WAY_MASK: usize = OPENING_WAYS - 1;

/// The set of a flow with hash `h`, of so many.
#[must_use]
#[inline(always)]
pub const fn set_of(h: u64, sets: u32) -> u32 {
    reduce32(h as u32, sets)
}

/// The entry of the flow with this hash and key.
#[inline(always)]
pub fn find(set: &OpeningSet, h: u64, key: &FlowWords) -> Option<FlowEntry> {
    let way = way_of(set, h)?;
    if !has_key(set, way, key) {
        return None;
    }
    let value = word(set, way, VALUE);
    let (backend, seen) = (value as u32, (value >> 32) as u32);
    if word(set, way, PROOF) != proof(h, backend) {
        return None;
    }
    Some(FlowEntry { backend, seen })
}

/// Writes an entry down, over the flow's own if there is one, else over the oldest.
#[inline(always)]
pub fn write(set: &OpeningSet, h: u64, now_ns: u64, key: &FlowWords, entry: FlowEntry) {
    let way = match way_of(set, h) {
        Some(own) => own,
        None => oldest(set),
    };
    let mut at = 0;
    while at < KEY_WORDS {
        put(set, way, at, key_word(key, at));
        at += 1;
    }
    put(set, way, VALUE, entry.backend as u64 | (entry.seen as u64) << 32);
    put(set, way, PROOF, proof(h, entry.backend));
    // What would say that there is none looks a tick younger.
    let tag = match (now_ns >> TIME_SHIFT) << 32 | h >> 32 {
        0 => 1 << 32,
        tag => tag,
    };
    if let Some(place) = set.get(way & WAY_MASK) {
        place.set(tag);
    }
}

/// Removes a flow's entry; `false` when there is none.
#[inline(always)]
pub fn remove(set: &OpeningSet, h: u64, key: &FlowWords) -> bool {
    let Some(way) = way_of(set, h) else { return false };
    let found = has_key(set, way, key);
    if found && let Some(tag) = set.get(way & WAY_MASK) {
        tag.set(0);
    }
    found
}

/// What stands in a way, for whoever looks at all of them: the key and the entry, if there is one and it is whole; `hash` makes the
/// hash of a key.
pub fn entry(
    set: &[u64; SET_WORDS],
    way: usize,
    hash: impl FnOnce(&FlowWords) -> u64,
) -> Option<(FlowWords, FlowEntry)> {
    let tag = *set.get(..OPENING_WAYS)?.get(way)?;
    let words = set.get(8 + 8 * way..16 + 8 * way)?;
    if tag == 0 {
        return None;
    }
    let mut key = FlowWords([0; 10]);
    for (pair, word) in key.0.chunks_exact_mut(2).zip(words) {
        (pair[0], pair[1]) = (*word as u32, (word >> 32) as u32);
    }
    let (backend, seen) = (words[VALUE] as u32, (words[VALUE] >> 32) as u32);
    (words[PROOF] == proof(hash(&key), backend)).then_some((key, FlowEntry { backend, seen }))
}

/// Binds a backend to a flow's hash.
#[inline(always)]
const fn proof(h: u64, backend: u32) -> u64 {
    // An odd factor keeps different backends different.
    h.rotate_left(32) ^ (backend as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The way whose tag has the upper half of this hash.
#[inline(always)]
fn way_of(set: &OpeningSet, h: u64) -> Option<usize> {
    let mut way = 0;
    while way < OPENING_WAYS {
        let tag = set[way].get();
        if tag as u32 == (h >> 32) as u32 && tag != 0 {
            return Some(way);
        }
        way += 1;
    }
    None
}

/// The way that was written first; an empty one, if there is any. Among those of one tick of the clock their hashes choose.
#[inline(always)]
fn oldest(set: &OpeningSet) -> usize {
    let (mut oldest, mut least) = (0, set[0].get());
    let mut way = 1;
    while way < OPENING_WAYS {
        let tag = set[way].get();
        if tag < least {
            (oldest, least) = (way, tag);
        }
        way += 1;
    }
    oldest
}

/// A word of a key.
#[inline(always)]
fn key_word(key: &FlowWords, at: usize) -> u64 {
    key.0[2 * at] as u64 | (key.0[2 * at + 1] as u64) << 32
}

#[inline(always)]
fn has_key(set: &OpeningSet, way: usize, key: &FlowWords) -> bool {
    let mut difference = 0;
    let mut at = 0;
    while at < KEY_WORDS {
        difference |= word(set, way, at) ^ key_word(key, at);
        at += 1;
    }
    difference == 0
}

/// Where a word of a way's entry stands, inside the set whatever `way` is.
#[inline(always)]
const fn place(way: usize, at: usize) -> usize {
    8 + 8 * (way & WAY_MASK) + at
}

#[inline(always)]
fn word(set: &OpeningSet, way: usize, at: usize) -> u64 {
    set.get(place(way, at)).map_or(0, Cell::get)
}

#[inline(always)]
fn put(set: &OpeningSet, way: usize, at: usize, value: u64) {
    if let Some(word) = set.get(place(way, at)) {
        word.set(value);
    }
}

#[cfg(test)]
mod tests {
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
            assert_eq!(
                (backend(&set, oldest), backend(&set, number)),
                (None, Some(100 + number)),
                "{number}"
            );
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
}
