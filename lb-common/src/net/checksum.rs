//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).
//!
//! Sums are taken over native-endian 16-bit words of network-order bytes, which RFC 1071, section 2 (B) allows: the
//! result, stored natively, has its bytes in network order.

/// Folds a 32-bit running sum to 16 bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of two network-order bytes as one word.
#[must_use]
#[inline(always)]
pub const fn word(bytes: [u8; 2]) -> u32 {
    u16::from_ne_bytes(bytes) as u32
}

/// Sum of an even number of bytes. At most 64 KiB, so that 32 bits do not overflow.
#[must_use]
#[inline(always)]
pub const fn sum<const N: usize>(bytes: &[u8; N]) -> u32 {
    const { assert!(N.is_multiple_of(2) && N <= 65_536) };
    let mut total = 0;
    let mut at = 0;
    while at < N {
        total += word([bytes[at], bytes[at + 1]]);
        at += 2;
    }
    total
}

/// The checksum after one 16-bit word of what it covers changed from `old` to `new`: HC' = ~(~HC + ~m + m'), RFC 1624,
/// equation 3.
#[must_use]
#[inline(always)]
pub const fn update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let total = (!u16::from_ne_bytes(checksum)) as u32 + (!u16::from_ne_bytes(old)) as u32 + word(new);
    (!fold(total)).to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The example of RFC 1071, section 3: the sum of these bytes is ddf2.
    #[test]
    fn matches_the_example_of_rfc_1071() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(fold(sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
    }

    proptest! {
        #[test]
        fn an_update_gives_what_a_full_sum_gives(mut bytes: [u8; 20], at in 0_usize..10, new: [u8; 2]) {
            let checksum = (!fold(sum(&bytes))).to_ne_bytes();
            let old = [bytes[2 * at], bytes[2 * at + 1]];
            bytes[2 * at..2 * at + 2].copy_from_slice(&new);
            let updated = update(checksum, old, new);
            // Zero has two representations; both verify.
            let verified = fold(sum(&bytes) + word(updated));
            prop_assert!(verified == 0xffff || (verified == 0 && bytes == [0; 20]), "{verified:x}");
        }
    }
}
