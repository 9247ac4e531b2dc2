//! From a hash to a slot, and what a slot holds. Runs in the kernel: no division, no 128-bit arithmetic.

/// The table sizes that Weir offers, smallest first. All are prime, so that every step width walks all slots.
pub const TABLE_SIZES: [u32; 4] = [4093, 16381, 65537, 655373];

/// The bits of a slot that hold the member's id.
pub const SLOT_MEMBER_MASK: u16 = 0x7fff;

/// The top bit of a slot: a transition changed it. Building never sets it.
pub const SLOT_MARK: u16 = 0x8000;

/// The most members that a table can hold.
pub const MAX_MEMBERS: usize = SLOT_MEMBER_MASK as usize;

/// The slot, in `0..slots`, of a 64-bit flow hash.
///
/// Both halves of the hash are folded into one before the reduction, which looks at the upper bits most: a hash whose
/// entropy lies in one half only is still spread. Bias as for [`reduce32`].
#[inline(always)]
#[must_use]
pub const fn reduce(hash: u64, slots: u32) -> u32 {
    reduce32(((hash >> 32) ^ hash) as u32, slots)
}

/// The slot, in `0..slots`, of a 32-bit hash: `floor(hash * slots / 2^32)`, one multiplication and one shift.
///
/// Bias: a slot receives `floor(2^32 / slots)` or one more of the 2^32 hash values. The fullest slot is thus ahead of
/// the emptiest by at most 0.0016 % at 65537 slots and by 0.016 % at 655373.
///
/// The hash must be well mixed: numbers that differ in their low bits only share a slot.
#[inline(always)]
#[must_use]
pub const fn reduce32(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

/// The member's id in a slot.
#[inline(always)]
#[must_use]
pub const fn member_id(slot: u16) -> u16 {
    slot & SLOT_MEMBER_MASK
}

/// Whether a transition marked the slot.
#[inline(always)]
#[must_use]
pub const fn is_marked(slot: u16) -> bool {
    slot & SLOT_MARK != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduce_stays_in_range_at_both_ends() {
        for slots in TABLE_SIZES {
            assert_eq!(reduce32(0, slots), 0);
            assert_eq!(reduce32(u32::MAX, slots), slots - 1);
        }
    }

    #[test]
    fn reduce_uses_both_halves_of_the_hash() {
        let high = 0xdead_beef_0000_0000;
        let low = 0x0000_0000_dead_beef;
        assert_eq!(reduce(high, 65537), reduce32(0xdead_beef, 65537));
        assert_eq!(reduce(low, 65537), reduce32(0xdead_beef, 65537));
    }

    #[test]
    fn reduce_gives_each_slot_its_part_of_the_hash_space() {
        for slots in TABLE_SIZES {
            let first_hash = |slot: u64| (slot << 32).div_ceil(u64::from(slots));
            let floor = (1u64 << 32) / u64::from(slots);
            for slot in 0..u64::from(slots) {
                let (start, end) = (first_hash(slot), first_hash(slot + 1));
                assert_eq!(u64::from(reduce32(start as u32, slots)), slot);
                assert_eq!(u64::from(reduce32((end - 1) as u32, slots)), slot);
                assert!((floor..=floor + 1).contains(&(end - start)), "slot {slot} of {slots}");
            }
        }
    }

    #[test]
    fn mark_and_id_share_a_slot() {
        assert_eq!(SLOT_MARK ^ SLOT_MEMBER_MASK, u16::MAX);
        assert_eq!(member_id(SLOT_MARK | 17), 17);
        assert!(is_marked(SLOT_MARK | 17) && !is_marked(17));
    }
}
