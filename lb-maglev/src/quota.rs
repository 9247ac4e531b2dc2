//! How many slots each member gets.

use alloc::vec::Vec;
use core::cmp::Reverse;

/// A share may be off by one part in this many; a coarser table is refused.
const TOLERANCE: u128 = 10;

/// Shares `slots` out by weight: largest remainder with a floor of one slot each. The sum is exactly `slots`.
///
/// Ties go to the earlier weight, so the caller's order must be a stable one. `None` if there are more weights than
/// slots. Weights are positive and at most 2^32, slots at most 2^24, so that all products fit.
pub(crate) fn quotas(weights: &[u32], slots: u32) -> Option<Vec<u32>> {
    if weights.len() > slots as usize {
        return None;
    }
    let mut quotas = alloc::vec![1; weights.len()];
    let mut slots_left = u64::from(slots);
    let mut weight_left = total(weights);

    // Lightest first: who deserves less than one slot gets one, and the rest share what is left. That may push the next
    // heavier one below one slot, but never one that was passed.
    let mut by_weight: Vec<usize> = (0..weights.len()).collect();
    by_weight.sort_unstable_by_key(|&i| (weights[i], i));
    let mut floored = 0;
    for &i in &by_weight {
        let weight = u64::from(weights[i]);
        if weight * slots_left >= weight_left {
            break;
        }
        slots_left -= 1;
        weight_left -= weight;
        floored += 1;
    }

    let mut remainders = Vec::with_capacity(weights.len() - floored);
    let mut assigned = 0;
    for &i in &by_weight[floored..] {
        let share = u64::from(weights[i]) * slots_left;
        quotas[i] = (share / weight_left) as u32;
        assigned += share / weight_left;
        remainders.push((Reverse(share % weight_left), i));
    }
    remainders.sort_unstable();
    for &(_, i) in &remainders[..(slots_left - assigned) as usize] {
        quotas[i] += 1;
    }
    Some(quotas)
}

/// The sum of all weights.
pub(crate) fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|&weight| u64::from(weight)).sum()
}

/// The lightest member whose quota is off by more than 10 % of its exact share.
pub(crate) fn first_off(weights: &[u32], quotas: &[u32], slots: u32) -> Option<usize> {
    let total = u128::from(total(weights));
    let off = |&i: &usize| {
        let exact = u128::from(weights[i]) * u128::from(slots);
        (u128::from(quotas[i]) * total).abs_diff(exact) * TOLERANCE > exact
    };
    (0..weights.len()).filter(off).min_by_key(|&i| weights[i])
}

/// The smallest of the table sizes in which no share is off.
pub(crate) fn needed_slots(weights: &[u32]) -> Option<u32> {
    crate::TABLE_SIZES.into_iter().find(|&slots| {
        quotas(weights, slots).is_some_and(|quotas| first_off(weights, &quotas, slots).is_none())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_decide_and_ties_go_to_the_earlier() {
        assert_eq!(quotas(&[1, 1, 1], 11), Some(alloc::vec![4, 4, 3]));
        assert_eq!(quotas(&[1, 2, 4], 11), Some(alloc::vec![2, 3, 6]));
    }

    #[test]
    fn the_floor_is_paid_by_the_heavy() {
        assert_eq!(quotas(&[1, 1000, 1], 11), Some(alloc::vec![1, 9, 1]));
        // The floors of the two lightest leave too little for the third, which falls to its floor too.
        assert_eq!(quotas(&[1, 1, 100, 1000], 13), Some(alloc::vec![1, 1, 1, 10]));
    }

    #[test]
    fn more_members_than_slots_have_no_quotas() {
        assert_eq!(quotas(&[1; 12], 11), None);
        assert_eq!(quotas(&[1; 11], 11), Some(alloc::vec![1; 11]));
    }

    #[test]
    fn the_largest_numbers_do_not_overflow() {
        let weights = [u32::MAX; crate::MAX_MEMBERS];
        let quotas = quotas(&weights, crate::MAX_SLOTS).expect("fewer members than slots");
        assert_eq!(total(&quotas), u64::from(crate::MAX_SLOTS));
        assert_eq!(first_off(&weights, &quotas, crate::MAX_SLOTS), None);
    }
}
