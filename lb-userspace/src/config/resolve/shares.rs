//! Whether a table has enough slots for its members' weights.
//!
//! The quotas are those of `lb_maglev`: largest remainder with a floor of one slot. This is arithmetic on the weights
//! only, so that checking a configuration does not cost the building of all its tables.

use std::cmp::Reverse;
use std::fmt;

use crate::config::error::counted;
use crate::config::limits::TABLE_SIZES;
use crate::config::report::quote;

/// A share may be off by one part in this many.
const TOLERANCE: u128 = 10;

/// A member whose share would be more than 10 % off.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Coarse<'a> {
    name: &'a str,
    weight: u32,
    total_weight: u64,
    slots: u32,
    members: usize,
    /// Slots that it would get; none if there are more members than slots.
    quota: Option<u32>,
    /// The smallest of [`TABLE_SIZES`] that would do.
    pub(super) needed: Option<u32>,
}

impl fmt::Display for Coarse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(quota) = self.quota else {
            return write!(f, "the pool has {} backends", self.members);
        };
        let exact_hundredths =
            u128::from(self.weight) * u128::from(self.slots) * 100 / u128::from(self.total_weight);
        let exact = format!("{}.{:02}", exact_hundredths / 100, exact_hundredths % 100);
        let (name, slots) = (quote(self.name), counted(quota as usize, "slot"));
        let Self { weight, total_weight, .. } = self;
        write!(f, "backend {name} (weight {weight} of {total_weight}) would get {slots} instead of {exact}")
    }
}

/// The lightest member, by name among equals, whose share would be more than 10 % off in a table of `slots` slots.
/// `members` (names with weights of at least 1) are sorted on the way.
pub(super) fn too_coarse<'a>(members: &mut [(&'a str, u32)], slots: u32) -> Option<Coarse<'a>> {
    members.sort_unstable_by_key(|&(name, weight)| (weight, name));
    let weights: Vec<u32> = members.iter().map(|&(_, weight)| weight).collect();
    let at = first_off(&weights, slots)?;
    let (name, weight) = members[at];
    Some(Coarse {
        name,
        weight,
        total_weight: total(&weights),
        slots,
        members: members.len(),
        quota: quotas(&weights, slots).map(|quotas| quotas[at]),
        needed: TABLE_SIZES.into_iter().find(|&size| first_off(&weights, size).is_none()),
    })
}

/// Whether the smallest share of a table of `slots` slots is within 10 % of what these weights say.
pub(crate) fn smallest_share_fits(mut weights: Vec<u32>, slots: u32) -> bool {
    weights.sort_unstable();
    first_off(&weights, slots).is_none()
}

fn total(weights: &[u32]) -> u64 {
    weights.iter().map(|&weight| u64::from(weight)).sum()
}

/// The first of the ascending weights whose quota is off; the first of all if there are more than slots.
fn first_off(weights: &[u32], slots: u32) -> Option<usize> {
    let Some(quotas) = quotas(weights, slots) else {
        return Some(0);
    };
    let total = u128::from(total(weights));
    let off = |(&weight, quota): (&u32, u32)| {
        let exact = u128::from(weight) * u128::from(slots);
        (u128::from(quota) * total).abs_diff(exact) * TOLERANCE > exact
    };
    weights.iter().zip(quotas).position(off)
}

/// The slots of each of the ascending weights; `None` if there are more weights than slots.
fn quotas(weights: &[u32], slots: u32) -> Option<Vec<u32>> {
    if weights.len() > slots as usize {
        return None;
    }
    // Who deserves less than one slot gets one, and the heavier share what is left.
    let (mut slots_left, mut weight_left) = (u64::from(slots), total(weights));
    let mut floored = 0;
    for &weight in weights {
        if u64::from(weight) * slots_left >= weight_left {
            break;
        }
        floored += 1;
        slots_left -= 1;
        weight_left -= u64::from(weight);
    }
    let mut quotas = vec![1; weights.len()];
    let mut remainders = Vec::new();
    let mut unassigned = slots_left;
    for (at, &weight) in weights.iter().enumerate().skip(floored) {
        let share = u64::from(weight) * slots_left;
        let whole = share / weight_left;
        quotas[at] = u32::try_from(whole).unwrap_or(slots);
        unassigned -= whole;
        remainders.push((Reverse(share % weight_left), at));
    }
    remainders.sort_unstable();
    // Each remainder is below one slot, so there are fewer slots left than members.
    for (_, at) in remainders.into_iter().take(usize::try_from(unassigned).unwrap_or(usize::MAX)) {
        quotas[at] += 1;
    }
    Some(quotas)
}

#[cfg(test)]
mod tests {
    use lb_maglev::Member;

    use super::*;

    #[test]
    fn quotas_add_up_and_have_a_floor() {
        assert_eq!(quotas(&[1, 1, 1], 11), Some(vec![4, 4, 3]));
        assert_eq!(quotas(&[1, 2, 4], 11), Some(vec![2, 3, 6]));
        assert_eq!(quotas(&[1, 1, 1000], 11), Some(vec![1, 1, 9]));
        assert_eq!(quotas(&[1; 12], 11), None);
        assert_eq!(quotas(&[], 11), Some(vec![]));
    }

    #[test]
    fn ten_percent_off_is_fine_and_more_is_not() {
        // 4093 slots for 1000 equal members: some get 5 for an exact share of 4.093.
        assert_eq!(first_off(&[100; 1000], 65_537), None);
        assert_eq!(first_off(&[100; 1000], 4093), Some(0));
        // One slot for an exact share of 10/11 is off by exactly 10 %.
        assert_eq!(first_off(&[10, 11 * 4093 - 10], 4093), None);
        assert_eq!(first_off(&[10, 11 * 4093 - 9], 4093), Some(0));
    }

    #[test]
    fn the_remedy_is_the_smallest_size_that_does() {
        let mut members = [("heavy", 65_535), ("light", 10)];
        let coarse = too_coarse(&mut members, 4093).expect("0.62 slots are not 1");
        assert_eq!((coarse.name, coarse.quota, coarse.needed), ("light", Some(1), Some(65_537)));
        let mut members = [("heavy", 65_535), ("light", 1), ("other", 65_535)];
        assert_eq!(too_coarse(&mut members, 4093).and_then(|coarse| coarse.needed), Some(655_373));
        let mut members: Vec<_> = (0..20).map(|_| ("heavy", 65_535)).chain([("light", 1)]).collect();
        assert_eq!(too_coarse(&mut members, 65_537).map(|coarse| coarse.needed), Some(None));
    }

    /// The table builder has the last word on a table; what is accepted here must not fail there.
    #[test]
    fn the_table_builder_agrees() {
        let names: Vec<String> = (0..3000).map(|n| format!("b{n}")).collect();
        let mut refused = 0;
        for (count, spread) in [
            (1, 1),
            (2, 400),
            (7, 3000),
            (40, 30),
            (40, 97),
            (60, 3000),
            (500, 40),
            (450, 3000),
            (300, 1),
            (1200, 1),
            (400, 2),
            (3000, 5),
        ] {
            let weight = |n: usize| 1 + (n * 7 % spread) as u32;
            let mut members: Vec<_> =
                names[..count].iter().enumerate().map(|(n, name)| (&**name, weight(n))).collect();
            let named: Vec<_> =
                members.iter().zip(0..).map(|(&(name, weight), id)| Member { name, weight, id }).collect();
            for slots in [4093, 16_381] {
                let built = lb_maglev::build(&named, slots);
                let coarse = too_coarse(&mut members, slots);
                assert_eq!(
                    built.is_err(),
                    coarse.is_some(),
                    "{count} members, {slots} slots: {built:?} {coarse:?}"
                );
                if let (Err(lb_maglev::Error::ShareOff { needed_slots, weight, .. }), Some(coarse)) =
                    (built, coarse)
                {
                    assert_eq!((needed_slots, weight), (coarse.needed, coarse.weight));
                    refused += 1;
                }
            }
        }
        assert!(refused > 2, "the cases are too easy: {refused}");
    }
}
