//! The filling of a table: members take turns, and at a turn take the next free slot of their walk.

use alloc::vec::Vec;

use crate::hash::Walk;
use crate::tail::Steps;

/// What the filling needs of one member. Its place in the slice is its place in the order of turns.
#[derive(Debug)]
pub(crate) struct Filler {
    pub(crate) walk: Walk,
    pub(crate) weight: u32,
    pub(crate) quota: u32,
    pub(crate) id: u16,
}

/// Memory that one filling leaves to the next: 6 bytes per slot, and little more.
#[derive(Default)]
pub(crate) struct Scratch {
    /// Per tick of time, where in `turns` its turns start.
    starts: Vec<u32>,
    /// Whose turn it is, as indices of fillers.
    turns: Vec<u16>,
    /// One bit per slot: it is taken. Small enough for the first-level cache, where it is probed ten times per slot.
    taken: Vec<u64>,
    /// Near the end: the slots that are still free.
    free: Vec<u32>,
}

/// Fills `table` with ids. The quotas sum to its length, which is prime.
pub(crate) fn fill(fillers: &mut [Filler], scratch: &mut Scratch, table: &mut [u16]) {
    let slots = table.len() as u32;
    schedule(fillers, slots, scratch);
    let Scratch { turns, taken, free, .. } = scratch;
    taken.clear();
    taken.resize(table.len().div_ceil(64), 0);

    let tail_length = slots.isqrt() as usize;
    let (most_turns, last_turns) = turns.split_at(turns.len() - tail_length);
    for &turn in most_turns {
        let filler = &mut fillers[usize::from(turn)];
        let slot = walk_to_free(&mut filler.walk, taken, slots);
        table[slot as usize] = filler.id;
    }

    free.clear();
    free.extend((0..slots).filter(|&slot| taken[(slot / 64) as usize] >> (slot % 64) & 1 == 0));
    for &turn in last_turns {
        let filler = &fillers[usize::from(turn)];
        let slot = jump_to_free(filler.walk, free, slots);
        table[slot as usize] = filler.id;
    }
}

/// Walks to the next free slot and takes it. There is one as long as fewer turns were taken than there are slots.
#[inline]
fn walk_to_free(walk: &mut Walk, taken: &mut [u64], slots: u32) -> u32 {
    loop {
        let slot = walk.next;
        walk.next += walk.skip;
        if walk.next >= slots {
            walk.next -= slots;
        }
        let (word, bit) = (&mut taken[(slot / 64) as usize], 1 << (slot % 64));
        if *word & bit == 0 {
            *word |= bit;
            return slot;
        }
    }
}

/// Takes the slot that [`walk_to_free`] would come to, given all free slots, of which there is at least one. The walk
/// need not move on: what lies between is taken, and stays so.
fn jump_to_free(walk: Walk, free: &mut Vec<u32>, slots: u32) -> u32 {
    let steps = Steps::of(walk, slots);
    // A step count is unique to its slot, so the nearest is found without its place and looked up after.
    let nearest = free.iter().map(|&slot| steps.until(walk.next, slot)).min().unwrap_or(0);
    let slot = walk.after(nearest, slots);
    free.retain(|&other| other != slot);
    slot
}

/// Puts all turns in order of time: a counting sort by tick, in which members keep their order.
fn schedule(fillers: &[Filler], slots: u32, scratch: &mut Scratch) {
    let total_weight = fillers.iter().map(|filler| u64::from(filler.weight)).sum();
    let last_tick = slots as usize - 1;
    let Scratch { starts, turns, .. } = scratch;

    starts.clear();
    starts.resize(slots as usize, 0);
    for filler in fillers {
        for tick in ticks(filler, total_weight) {
            starts[last_tick.min(tick as usize)] += 1;
        }
    }
    let mut start = 0;
    for count in starts.iter_mut() {
        start += core::mem::replace(count, start);
    }

    turns.clear();
    turns.resize(slots as usize, 0);
    for (index, filler) in fillers.iter().enumerate() {
        for tick in ticks(filler, total_weight) {
            let place = &mut starts[last_tick.min(tick as usize)];
            turns[*place as usize] = index as u16;
            *place += 1;
        }
    }
}

/// When a member takes its turns: the k-th at `(k + 1/2) * total / weight`, rounded down, so that about one turn of
/// all members falls on each tick.
///
/// The times follow the weight, not the quota: quotas change by one when any other member changes, and would shift all
/// turns of a member by a little, which moves twice as many slots in large weighted pools.
fn ticks(filler: &Filler, total_weight: u64) -> impl Iterator<Item = u64> {
    let weight = u64::from(filler.weight);
    let (step, step_rest) = (total_weight / weight, 2 * (total_weight % weight));
    let (mut tick, mut rest) = (total_weight / (2 * weight), total_weight % (2 * weight));
    (0..filler.quota).map(move |_| {
        let now = tick;
        tick += step;
        rest += step_rest;
        if rest >= 2 * weight {
            rest -= 2 * weight;
            tick += 1;
        }
        now
    })
}

#[cfg(test)]
mod tests {
    use alloc::vec;
    use alloc::vec::Vec;

    use proptest::prelude::*;

    use super::*;
    use crate::quota::quotas;

    /// The paper's algorithm with exact times, without any of the short cuts.
    fn fill_plainly(fillers: &[Filler], slots: u32) -> Vec<u16> {
        let total_weight: u64 = fillers.iter().map(|filler| u64::from(filler.weight)).sum();
        let mut turns: Vec<(u128, usize)> = Vec::new();
        for (index, filler) in fillers.iter().enumerate() {
            for k in 0..u128::from(filler.quota) {
                let tick = (2 * k + 1) * u128::from(total_weight) / (2 * u128::from(filler.weight));
                turns.push((tick.min(u128::from(slots) - 1), index));
            }
        }
        turns.sort_unstable();

        let mut next_steps = vec![0; fillers.len()];
        let mut table = vec![None; slots as usize];
        for (_, index) in turns {
            let Filler { walk, id, .. } = &fillers[index];
            loop {
                let slot = u64::from(walk.next) + next_steps[index] * u64::from(walk.skip);
                next_steps[index] += 1;
                let owner = &mut table[(slot % u64::from(slots)) as usize];
                if owner.is_none() {
                    *owner = Some(*id);
                    break;
                }
            }
        }
        table.into_iter().map(|owner| owner.expect("as many turns as slots")).collect()
    }

    fn fillers(slots: u32) -> impl Strategy<Value = Vec<Filler>> {
        let one = (any::<u64>(), prop_oneof![1..=3u32, 1..=1000u32, Just(u32::MAX)]);
        prop::collection::vec(one, 1..60).prop_map(move |members| {
            let members: Vec<_> = members.into_iter().take(slots as usize).collect();
            let weights: Vec<u32> = members.iter().map(|member| member.1).collect();
            let quotas = quotas(&weights, slots).expect("no more members than slots");
            let filler = |(i, &(hash, weight)): (usize, &(u64, u32))| Filler {
                walk: Walk::new(hash, slots),
                weight,
                quota: quotas[i],
                id: i as u16,
            };
            members.iter().enumerate().map(filler).collect()
        })
    }

    proptest! {
        #[test]
        fn filling_is_the_papers_algorithm(
            (slots, mut fillers) in prop::sample::select(vec![3u32, 5, 61, 251, 4093])
                .prop_flat_map(|slots| (Just(slots), fillers(slots)))
        ) {
            let expected = fill_plainly(&fillers, slots);
            let mut table = vec![u16::MAX; slots as usize];
            fill(&mut fillers, &mut Scratch::default(), &mut table);
            prop_assert_eq!(table, expected);
        }
    }
}
