//! The end of the filling, when few slots are free.
//!
//! With F free slots a walk looks at `slots / F` slots on average before it meets a free one; the last √slots turns
//! would cost as much as all others together. From there on it is cheaper to ask each free slot how many steps of the
//! walk away it is, and to take the nearest. The outcome is the same.

use crate::hash::Walk;

/// Steps along one walk, computed instead of walked.
pub(crate) struct Steps {
    slots: u32,
    /// The inverse of the walk's skip modulo `slots`.
    inverse: u32,
    /// `floor(inverse * 2^32 / slots)`: turns the division by `slots` into a multiplication (Shoup's method).
    quotient: u32,
}

impl Steps {
    pub(crate) fn of(walk: Walk, slots: u32) -> Self {
        let inverse = inverse(walk.skip, slots);
        Self { slots, inverse, quotient: ((u64::from(inverse) << 32) / u64::from(slots)) as u32 }
    }

    /// How many steps `slot` lies ahead of the walk's next slot: `(slot - next) / skip mod slots`.
    #[inline]
    pub(crate) fn until(&self, next: u32, slot: u32) -> u32 {
        let distance = if slot >= next { slot - next } else { slot + self.slots - next };
        let quotient = (u64::from(distance) * u64::from(self.quotient)) >> 32;
        // The estimate of the quotient is right or one too low, so the rest is below 2 * slots and fits 32 bits.
        let rest =
            distance.wrapping_mul(self.inverse).wrapping_sub((quotient as u32).wrapping_mul(self.slots));
        rest.min(rest.wrapping_sub(self.slots))
    }
}

/// The inverse of `value`, in `1..modulus`, modulo a prime: the extended Euclidean algorithm, at most 35 rounds for
/// numbers of 24 bits.
fn inverse(value: u32, modulus: u32) -> u32 {
    let (mut rest, mut next_rest) = (modulus, value);
    let (mut factor, mut next_factor) = (0i32, 1i32);
    while next_rest != 0 {
        let quotient = rest / next_rest;
        (rest, next_rest) = (next_rest, rest - quotient * next_rest);
        (factor, next_factor) =
            (next_factor, factor.wrapping_sub((quotient as i32).wrapping_mul(next_factor)));
    }
    factor.rem_euclid(modulus as i32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_agree_with_walking() {
        for (slots, next, skip) in
            [(3, 2, 2), (251, 250, 1), (251, 0, 250), (4093, 17, 2046), (4093, 4000, 3777)]
        {
            let walk = Walk { next, skip };
            let steps = Steps::of(walk, slots);
            let mut slot = next;
            for step in 0..slots {
                assert_eq!(steps.until(next, slot), step, "slot {slot} of {slots}");
                slot = (slot + skip) % slots;
            }
        }
    }

    #[test]
    fn the_largest_table_does_not_overflow() {
        let slots = crate::MAX_SLOTS;
        for skip in [1, 2, 4_099, 8_388_607, slots - 2, slots - 1] {
            let steps = Steps::of(Walk { next: slots - 1, skip }, slots);
            for step in [0, 1, 2, 65_536, slots / 2, slots - 2, slots - 1] {
                let slot = (u64::from(slots - 1) + u64::from(step) * u64::from(skip)) % u64::from(slots);
                assert_eq!(steps.until(slots - 1, slot as u32), step, "skip {skip}");
            }
        }
    }
}
