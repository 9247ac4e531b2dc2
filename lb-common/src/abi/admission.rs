//! Admission: which share of the flows may go to a backend, rack, zone, region or pool.

use super::limits::ADMISSION_WORDS;

/// One admission word, as it lies in a [`BackendEntry`](super::backend::BackendEntry) and in the admission array.
///
/// | bits | meaning |
/// |---|---|
/// | 0..8 | share of *new* flows, 0 (none) to 255 (all) |
/// | 8..16 | share of *old* (established) flows |
/// | 16 | [`CLEAN`](Self::CLEAN): no flow can be in the flow table because of this word |
/// | 17 | [`HELD`](Self::HELD): an operator set this; fail-open does not override it |
///
/// The whole word is written by one aligned 32-bit store. "Clean" is a set bit so that one AND over a backend's four
/// words and one comparison with [`Admission::OPEN`] decide the common case.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Admission(pub u32);

impl Admission {
    /// Set while no flow can have been placed away from home on account of this word.
    pub const CLEAN: u32 = 1 << 16;
    /// Set while an operator's word stands.
    pub const HELD: u32 = 1 << 17;
    /// Everything may go here and nothing ever went elsewhere because of this word: (255, 255), clean.
    pub const OPEN: Self = Self(0xffff | Self::CLEAN);
    /// Nothing may go here: (0, 0).
    pub const CLOSED: Self = Self(0);

    /// The word for the shares of new and of established flows, not clean, not held.
    #[must_use]
    pub const fn new(new: u8, old: u8) -> Self {
        Self(new as u32 | (old as u32) << 8)
    }

    /// The same shares with [`HELD`](Self::HELD) set.
    #[must_use]
    pub const fn held(self) -> Self {
        Self(self.0 | Self::HELD)
    }

    /// Share of new flows.
    #[must_use]
    pub const fn new_share(self) -> u8 {
        self.0 as u8
    }

    /// Share of established flows.
    #[must_use]
    pub const fn old_share(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// The share that counts for a packet: that of new flows if it may open one, else that of established flows.
    #[must_use]
    #[inline(always)]
    pub const fn share(self, opening: bool) -> u8 {
        // A shift where a choice would be a branch, in the innermost loop of the datapath.
        (self.0 >> (8 * !opening as u32)) as u8
    }

    /// As [`share`](Self::share), with 1 for a packet that may open a flow and 0 for any other.
    #[must_use]
    #[inline(always)]
    pub const fn share_for(self, opening: u32) -> u8 {
        (self.0 >> (8 * (opening & 1 ^ 1))) as u8
    }

    /// Whether an operator's word stands.
    #[must_use]
    pub const fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    /// Whether no flow can be in the flow table because of this word.
    #[must_use]
    pub const fn is_clean(self) -> bool {
        self.0 & Self::CLEAN != 0
    }
}

/// The single element of the `ADMISSION` map: the words of all domains, then those of all pools.
#[repr(transparent)]
pub struct AdmissionWords(pub [u32; ADMISSION_WORDS]);

impl AdmissionWords {
    /// The word at `index`. An index out of range, which no map holds, wraps around.
    #[must_use]
    #[inline(always)]
    pub const fn get(&self, index: u16) -> Admission {
        Admission(self.0[index as usize & (ADMISSION_WORDS - 1)])
    }
}
