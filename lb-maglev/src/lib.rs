//! Weighted Maglev tables.
#![no_std]

/// Bits of a table slot that hold the member's id.
pub const SLOT_MEMBER_MASK: u16 = 0x7fff;

/// Maps a hash to a slot by multiply-shift.
#[inline(always)]
#[must_use]
pub const fn reduce(hash: u64, slots: u32) -> u32 {
    (((hash >> 32) * slots as u64) >> 32) as u32
}
