//! Why a table is refused.

use alloc::string::String;
use core::fmt;

use crate::{MAX_MEMBERS, MAX_SLOTS, MIN_SLOTS, SLOT_MEMBER_MASK, TABLE_SIZES};

/// Why a table cannot be built. Each message names the member and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The pool is empty.
    NoMembers,
    /// More members than a slot can tell apart.
    TooManyMembers {
        /// How many members were given.
        count: usize,
    },
    /// The number of slots is outside [`MIN_SLOTS`]`..=`[`MAX_SLOTS`].
    SlotsOutOfRange {
        /// The number of slots asked for.
        slots: u32,
    },
    /// The number of slots is not a prime, so that some walks would miss slots.
    SlotsNotPrime {
        /// The number of slots asked for.
        slots: u32,
    },
    /// A member without weight can have no share.
    ZeroWeight {
        /// The member.
        name: String,
    },
    /// Two members with one name would have one placement.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Two members with one id could not be told apart in the table.
    DuplicateId {
        /// The id.
        id: u16,
    },
    /// An id that does not fit into a slot's 15 bits.
    IdTooLarge {
        /// The member.
        name: String,
        /// Its id.
        id: u16,
    },
    /// The table is too coarse: a member's share would be off by more than 10 %.
    ShareOff {
        /// The member with the smallest weight among those that are off.
        name: String,
        /// Its weight.
        weight: u32,
        /// The sum of all weights.
        total_weight: u64,
        /// The number of slots asked for.
        slots: u32,
        /// The slots that it would get.
        quota: u32,
        /// The smallest of [`TABLE_SIZES`] that would do, if one does.
        needed_slots: Option<u32>,
    },
}

impl core::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoMembers => write!(f, "the table has no members; give it at least one"),
            Self::TooManyMembers { count } => {
                write!(
                    f,
                    "{count} members are too many for one table; split them into pools of at most {MAX_MEMBERS}"
                )
            }
            Self::SlotsOutOfRange { slots } => {
                write!(
                    f,
                    "a table of {slots} slots is not possible ({MIN_SLOTS} to {MAX_SLOTS}); use one of {TABLE_SIZES:?}"
                )
            }
            Self::SlotsNotPrime { slots } => {
                write!(
                    f,
                    "the number of slots must be a prime, and {slots} is not; use one of {TABLE_SIZES:?}"
                )
            }
            Self::ZeroWeight { name } => {
                write!(f, "member `{name}` has weight 0; give it a weight of at least 1, or remove it")
            }
            Self::DuplicateName { name } => {
                write!(f, "two members are called `{name}`; placement follows names, so give each its own")
            }
            Self::DuplicateId { id } => write!(f, "two members have the id {id}; give each its own"),
            Self::IdTooLarge { name, id } => {
                write!(f, "member `{name}` has the id {id}; ids go from 0 to {SLOT_MEMBER_MASK}")
            }
            Self::ShareOff { name, weight, total_weight, slots, quota, needed_slots } => {
                let exact_milli = u128::from(*weight) * u128::from(*slots) * 1000 / u128::from(*total_weight);
                write!(
                    f,
                    "{slots} slots cannot hold these shares: member `{name}` (weight {weight} of {total_weight} in all) would get \
                     {quota} instead of {}.{:03}, which is more than 10 % off; ",
                    exact_milli / 1000,
                    exact_milli % 1000
                )?;
                match needed_slots {
                    Some(needed) => write!(f, "use {needed} slots, or bring the weights closer together"),
                    None => write!(
                        f,
                        "no table size would do: bring the weights closer together, or split the pool"
                    ),
                }
            }
        }
    }
}

/// Why two tables cannot be compared slot by slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiffError {
    /// A hash has different slots in tables of different sizes.
    SizesDiffer {
        /// Slots of the old table.
        old: u32,
        /// Slots of the new table.
        new: u32,
    },
}

impl core::error::Error for DiffError {}

impl fmt::Display for DiffError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::SizesDiffer { old, new } = self;
        write!(
            f,
            "a table of {old} slots and one of {new} cannot be compared slot by slot; nearly every flow moves"
        )
    }
}
