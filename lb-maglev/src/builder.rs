//! Building a table from named, weighted members.

use alloc::string::String;
use alloc::vec::Vec;

use crate::fill::{Filler, Scratch, fill};
use crate::hash::{Walk, name_hash};
use crate::quota::{first_off, needed_slots, quotas, total};
use crate::{Error, MAX_MEMBERS, SLOT_MEMBER_MASK};

/// The smallest number of slots.
pub const MIN_SLOTS: u32 = 3;

/// The largest number of slots, the largest prime below 2^24.
pub const MAX_SLOTS: u32 = 16_777_213;

/// A member of a pool, as the configuration gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its stable name, unique in the table. Placement follows it.
    pub name: &'a str,
    /// Its weight, relative to the other members', at least 1.
    pub weight: u32,
    /// What its slots hold, at most [`SLOT_MEMBER_MASK`], unique in the table. Placement does not depend on it.
    pub id: u16,
}

/// A table together with what is needed to explain it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Per slot, the id of its member.
    pub slots: Vec<u16>,
    /// The members, in the order of the hashes of their names.
    pub members: Vec<TableMember>,
}

/// A member and the share that it got.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableMember {
    /// Its stable name.
    pub name: String,
    /// What its slots hold.
    pub id: u16,
    /// Its weight.
    pub weight: u32,
    /// How many slots it has.
    pub quota: u32,
}

impl Table {
    /// Builds a table. Errors as for [`TableBuilder::build`].
    pub fn build(members: &[Member<'_>], slots: u32) -> Result<Self, Error> {
        let mut table = Self { slots: Vec::new(), members: Vec::new() };
        let placed = TableBuilder::new().place(members, slots, &mut table.slots)?;
        table.members = placed
            .into_iter()
            .map(|Placed { member, quota, .. }| TableMember {
                name: member.name.into(),
                id: member.id,
                weight: member.weight,
                quota,
            })
            .collect();
        Ok(table)
    }
}

/// Builds the slots of one table. For many tables in a row, keep a [`TableBuilder`].
pub fn build(members: &[Member<'_>], slots: u32) -> Result<Vec<u16>, Error> {
    let mut table = Vec::new();
    TableBuilder::new().build(members, slots, &mut table)?;
    Ok(table)
}

/// Builds tables one after the other in the same working memory (6 bytes per slot of the largest).
#[derive(Default)]
pub struct TableBuilder {
    scratch: Scratch,
}

/// A member with its hash and its share.
struct Placed<'a> {
    hash: u64,
    member: Member<'a>,
    quota: u32,
}

impl TableBuilder {
    /// A builder that holds no memory yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a table of `slots` slots into `table`, whose former contents are lost (on an error they stay).
    ///
    /// # Errors
    /// [`Error`] says which member or number is at fault and what to do. Bad numbers and names come before shares.
    pub fn build(&mut self, members: &[Member<'_>], slots: u32, table: &mut Vec<u16>) -> Result<(), Error> {
        self.place(members, slots, table).map(drop)
    }

    fn place<'a>(
        &mut self,
        members: &[Member<'a>],
        slots: u32,
        table: &mut Vec<u16>,
    ) -> Result<Vec<Placed<'a>>, Error> {
        check_slots(slots)?;
        check_members(members)?;
        let mut placed = in_stable_order(members)?;
        share_out(&mut placed, slots)?;

        let mut fillers: Vec<Filler> = placed
            .iter()
            .map(|&Placed { hash, member, quota }| Filler {
                walk: Walk::new(hash, slots),
                weight: member.weight,
                quota,
                id: member.id,
            })
            .collect();
        table.resize(slots as usize, 0);
        fill(&mut fillers, &mut self.scratch, table);
        Ok(placed)
    }
}

fn check_slots(slots: u32) -> Result<(), Error> {
    if !(MIN_SLOTS..=MAX_SLOTS).contains(&slots) {
        return Err(Error::SlotsOutOfRange { slots });
    }
    let divides = |divisor: &u32| slots.is_multiple_of(*divisor);
    if (2..=slots.isqrt()).any(|divisor| divides(&divisor)) {
        return Err(Error::SlotsNotPrime { slots });
    }
    Ok(())
}

fn check_members(members: &[Member<'_>]) -> Result<(), Error> {
    if members.is_empty() {
        return Err(Error::NoMembers);
    }
    if members.len() > MAX_MEMBERS {
        return Err(Error::TooManyMembers { count: members.len() });
    }
    let mut ids_seen = alloc::vec![false; usize::from(SLOT_MEMBER_MASK) + 1];
    for &Member { name, weight, id } in members {
        if weight == 0 {
            return Err(Error::ZeroWeight { name: name.into() });
        }
        let seen =
            ids_seen.get_mut(usize::from(id)).ok_or_else(|| Error::IdTooLarge { name: name.into(), id })?;
        if core::mem::replace(seen, true) {
            return Err(Error::DuplicateId { id });
        }
    }
    Ok(())
}

/// Orders members by the hash of their name, then by name: an order that is the same wherever the names are.
fn in_stable_order<'a>(members: &[Member<'a>]) -> Result<Vec<Placed<'a>>, Error> {
    let mut placed: Vec<Placed<'a>> =
        members.iter().map(|&member| Placed { hash: name_hash(member.name), member, quota: 0 }).collect();
    placed.sort_unstable_by_key(|placed| (placed.hash, placed.member.name));
    match placed.windows(2).find(|pair| pair[0].member.name == pair[1].member.name) {
        Some(pair) => Err(Error::DuplicateName { name: pair[0].member.name.into() }),
        None => Ok(placed),
    }
}

/// Gives each member its quota, or refuses shares that are too far off.
fn share_out(placed: &mut [Placed<'_>], slots: u32) -> Result<(), Error> {
    let weights: Vec<u32> = placed.iter().map(|placed| placed.member.weight).collect();
    // With more members than slots, none can be sure of a slot: say so for the first.
    let quotas = quotas(&weights, slots).unwrap_or_else(|| alloc::vec![0; weights.len()]);
    if let Some(i) = first_off(&weights, &quotas, slots) {
        return Err(Error::ShareOff {
            name: placed[i].member.name.into(),
            weight: weights[i],
            total_weight: total(&weights),
            slots,
            quota: quotas[i],
            needed_slots: needed_slots(&weights),
        });
    }
    for (placed, quota) in placed.iter_mut().zip(quotas) {
        placed.quota = quota;
    }
    Ok(())
}
