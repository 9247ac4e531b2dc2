//! The stable hash of a member's name, and the permutation that follows from it.
//!
//! Every constant here decides where flows go. Changing one moves most flows of every installation.

use crate::reduce32;

/// FNV-1a, 64 bits: offset basis and prime (draft-eastlake-fnv, section 5).
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0000_0100_0000_01b3;

/// The multipliers of MurmurHash3's 64-bit finaliser.
const MIX_1: u64 = 0xff51_afd7_ed55_8ccd;
const MIX_2: u64 = 0xc4ce_b9fe_1a85_ec53;

/// Fractional bits of the square roots of 2 and 3: they part the two numbers drawn from one name.
const OFFSET_SALT: u64 = 0x6a09_e667_f3bc_c908;
const SKIP_SALT: u64 = 0xbb67_ae85_84ca_a73b;

/// The 64-bit hash of a member's name: FNV-1a over its UTF-8 bytes, then MurmurHash3's finaliser, because FNV alone
/// leaves the upper bits of short names alike.
#[must_use]
pub fn name_hash(name: &str) -> u64 {
    let fnv = name.bytes().fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME));
    mix(fnv)
}

const fn mix(mut hash: u64) -> u64 {
    hash = (hash ^ (hash >> 33)).wrapping_mul(MIX_1);
    hash = (hash ^ (hash >> 33)).wrapping_mul(MIX_2);
    hash ^ (hash >> 33)
}

/// One member's walk over all slots: `offset + j * skip mod slots`, for j from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Walk {
    /// The next slot to look at, in `0..slots`.
    pub(crate) next: u32,
    /// The step, in `1..slots`. As `slots` is prime, every step visits all slots before it returns.
    pub(crate) skip: u32,
}

impl Walk {
    pub(crate) fn new(name_hash: u64, slots: u32) -> Self {
        let upper = |salt: u64| (mix(name_hash ^ salt) >> 32) as u32;
        Self { next: reduce32(upper(OFFSET_SALT), slots), skip: 1 + reduce32(upper(SKIP_SALT), slots - 1) }
    }

    /// The slot that lies `steps` ahead of the next one.
    pub(crate) fn after(self, steps: u32, slots: u32) -> u32 {
        ((u64::from(self.next) + u64::from(steps) * u64::from(self.skip)) % u64::from(slots)) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_hash_is_fnv_1a_then_the_finaliser() {
        // FNV-1a of "" and "a" are published test vectors.
        assert_eq!(name_hash(""), mix(0xcbf2_9ce4_8422_2325));
        assert_eq!(name_hash("a"), mix(0xaf63_dc4c_8601_ec8c));
    }

    #[test]
    fn a_walk_visits_every_slot_once() {
        for slots in [2, 3, 251, 4093] {
            let walk = Walk::new(name_hash("w1r1b1"), slots);
            let mut seen = alloc::vec![false; slots as usize];
            for steps in 0..slots {
                assert!(!core::mem::replace(&mut seen[walk.after(steps, slots) as usize], true));
            }
        }
    }
}
