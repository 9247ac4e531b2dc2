//! Weighted Maglev tables: how a flow's hash becomes one member of a pool.
//!
//! A table has M *slots*, M a prime, and each slot holds the id of one member. A flow takes the slot that
//! [`reduce`] makes of its hash, so a lookup is one multiplication and one load. This is the consistent hashing
//! of Eisenbud et al., *Maglev: A Fast and Reliable Software Network Load Balancer*, NSDI 2016, section 3.4: each
//! member walks its own permutation of the slots, in turns, and at a turn takes the first slot that is still free.
//!
//! What is added to the paper:
//! - **Weights.** A member takes as many turns as its *quota*: its exact share `weight * M / total` rounded by
//!   largest remainder, at least one slot, so every share is within one slot of exact. Its turns are spread evenly
//!   over the filling of the table.
//! - **Stable placement.** Permutations and the order of turns come from a hash of the member's name. The order of
//!   the configuration and the ids that a host gives its members change nothing.
//! - **Honesty.** [`build`] refuses a table in which a share would be off by more than 10 %, and says which of
//!   [`TABLE_SIZES`] would do.
//!
//! # What a removal moves
//! Removing a member moves its slots, which is the ideal, and some others: a freed slot goes to whoever walks past it
//! first, who then stops earlier and frees another one. The price follows from the number of members and, less so,
//! from the slots that each has. In multiples of the ideal, average and worst of hundreds of removals (fewer at 655373):
//!
//! | slots, weights    | 10 members | 50          | 100         | 200         | 500         | 1000        |
//! |-------------------|------------|-------------|-------------|-------------|-------------|-------------|
//! | 65537, equal      | 1.02, 1.09 | 1.22, 1.34  | 1.56, 1.71  | 2.50, 2.62  | 5.32, 5.54  | 6.96, 7.64  |
//! | 65537, up to 1:4  | 1.03, 1.16 | 1.26, 1.52  | 1.69, 2.23  | 2.89, 4.60  | 5.31, 7.22  | 6.91, 8.73  |
//! | 65537, up to 1:10 | 1.03, 1.10 | 1.30, 1.97  | 1.83, 3.52  | 3.19, 6.45  | 5.96, 9.00  | 7.21, 9.67  |
//! | 655373, equal     |            |             | 1.14, 1.15  | 1.34, 1.36  | 2.19, 2.23  | 4.29, 4.36  |
//!
//! So at 65537 slots a removal moves at most twice the ideal in pools of up to 100 members of equal weight, or of up to
//! 50 whose weights are within 1:4. Larger pools want the next size. [`diff()`] tells what a given change moves, and why.
//!
//! # Features
//! `build` (default): building and comparing tables, needs `alloc`. Without it only the lookup remains, which is what
//! the XDP programs use.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
extern crate alloc;

mod lookup;

#[cfg(feature = "build")]
mod builder;
#[cfg(feature = "build")]
mod diff;
#[cfg(feature = "build")]
mod error;
#[cfg(feature = "build")]
mod fill;
#[cfg(feature = "build")]
mod hash;
#[cfg(feature = "build")]
mod quota;
#[cfg(feature = "build")]
mod tail;

pub use lookup::{
    MAX_MEMBERS, SLOT_MARK, SLOT_MEMBER_MASK, TABLE_SIZES, is_marked, member_id, reduce, reduce32,
};

#[cfg(feature = "build")]
pub use builder::{MAX_SLOTS, MIN_SLOTS, Member, Table, TableBuilder, TableMember, build};
#[cfg(feature = "build")]
pub use diff::{Causes, Diff, MemberChange, diff};
#[cfg(feature = "build")]
pub use error::{DiffError, Error};
#[cfg(feature = "build")]
pub use hash::name_hash;
