//! How two tables differ, and why.

use alloc::string::String;
use alloc::vec::Vec;
use core::cmp::Reverse;
use core::fmt;

use crate::{DiffError, SLOT_MEMBER_MASK, Table, TableMember, member_id};

/// How many members [`Diff`]'s text lists, those with the most moved slots first.
const LISTED_MEMBERS: usize = 10;

/// Marks an id that no member has. More than any index, as ids have 15 bits.
const NOBODY: u16 = u16::MAX;

/// How two tables of the same size differ. Members are matched by name; ids may differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diff {
    /// Slots of each table.
    pub slots: u32,
    /// Slots whose member is another one.
    pub changed: u32,
    /// Why they changed. The causes sum to `changed`.
    pub causes: Causes,
    /// What each member of either table gained and lost, ordered by name.
    pub members: Vec<MemberChange>,
}

/// Changed slots by cause. A slot counts once, for the first cause that holds of its old and new owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Causes {
    /// The old owner was removed.
    pub removed: u32,
    /// The new owner was added.
    pub added: u32,
    /// The weight of the old or the new owner changed.
    pub reweighted: u32,
    /// Neither weight changed, but a quota did, because the sum of all weights did.
    pub rescaled: u32,
    /// Both owners are in both tables with the same weight and quota: the slot moved for no reason of its own.
    pub collateral: u32,
}

/// What one member gained and lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberChange {
    /// The member's name.
    pub name: String,
    /// Its slots in the old table, `None` if it was added.
    pub old_quota: Option<u32>,
    /// Its slots in the new table, `None` if it was removed.
    pub new_quota: Option<u32>,
    /// Slots that it has only in the new table.
    pub gained: u32,
    /// Slots that it had only in the old table.
    pub lost: u32,
}

/// A member's entries in the two tables, of which at least one exists.
#[derive(Clone, Copy)]
struct Pair<'a> {
    old: Option<&'a TableMember>,
    new: Option<&'a TableMember>,
}

impl<'a> Pair<'a> {
    fn name(&self) -> &'a str {
        self.old.or(self.new).map_or("", |member| &member.name)
    }

    fn changed(&self, what: fn(&TableMember) -> u32) -> bool {
        self.old.map(what) != self.new.map(what)
    }
}

/// Compares two tables slot by slot. Transition marks are ignored.
///
/// # Errors
/// [`DiffError`] if the tables have different sizes.
///
/// # Panics
/// If a slot holds an id that is not among its table's members, which no built table does.
pub fn diff(old: &Table, new: &Table) -> Result<Diff, DiffError> {
    let (old_slots, new_slots) = (old.slots.len() as u32, new.slots.len() as u32);
    if old_slots != new_slots {
        return Err(DiffError::SizesDiffer { old: old_slots, new: new_slots });
    }
    let pairs = pair_by_name(old, new);
    let old_index = index_by_id(&pairs, |pair| pair.old);
    let new_index = index_by_id(&pairs, |pair| pair.new);

    let mut causes = Causes::default();
    let mut members: Vec<MemberChange> = pairs.iter().map(unchanged).collect();
    let mut changed = 0;
    for (&old_slot, &new_slot) in old.slots.iter().zip(&new.slots) {
        let loser = usize::from(old_index[usize::from(member_id(old_slot))]);
        let gainer = usize::from(new_index[usize::from(member_id(new_slot))]);
        if loser != gainer {
            changed += 1;
            *cause(&pairs[loser], &pairs[gainer], &mut causes) += 1;
            members[loser].lost += 1;
            members[gainer].gained += 1;
        }
    }
    Ok(Diff { slots: new_slots, changed, causes, members })
}

/// All members of both tables, ordered by name.
fn pair_by_name<'a>(old: &'a Table, new: &'a Table) -> Vec<Pair<'a>> {
    let only_old = old.members.iter().map(|member| Pair { old: Some(member), new: None });
    let only_new = new.members.iter().map(|member| Pair { old: None, new: Some(member) });
    let mut pairs: Vec<Pair<'a>> = only_old.chain(only_new).collect();
    // Stable: of two entries with one name, the old one comes first and takes the new one in.
    pairs.sort_by_key(|pair| pair.name());
    pairs.dedup_by(|next, kept| {
        let same = next.name() == kept.name();
        if same {
            kept.new = next.new;
        }
        same
    });
    pairs
}

/// Per id, the index in `pairs` of the member that has it in one of the tables.
fn index_by_id<'a>(pairs: &[Pair<'a>], side: fn(&Pair<'a>) -> Option<&'a TableMember>) -> Vec<u16> {
    let mut index = alloc::vec![NOBODY; usize::from(SLOT_MEMBER_MASK) + 1];
    for (i, pair) in pairs.iter().enumerate() {
        if let Some(member) = side(pair) {
            // Two tables of 32767 members each stay below NOBODY.
            index[usize::from(member.id)] = i as u16;
        }
    }
    index
}

fn unchanged(pair: &Pair<'_>) -> MemberChange {
    MemberChange {
        name: pair.name().into(),
        old_quota: pair.old.map(|member| member.quota),
        new_quota: pair.new.map(|member| member.quota),
        gained: 0,
        lost: 0,
    }
}

fn cause<'c>(loser: &Pair<'_>, gainer: &Pair<'_>, causes: &'c mut Causes) -> &'c mut u32 {
    let either = |what: fn(&TableMember) -> u32| loser.changed(what) || gainer.changed(what);
    if loser.new.is_none() {
        &mut causes.removed
    } else if gainer.old.is_none() {
        &mut causes.added
    } else if either(|member| member.weight) {
        &mut causes.reweighted
    } else if either(|member| member.quota) {
        &mut causes.rescaled
    } else {
        &mut causes.collateral
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per_mille = u64::from(self.changed) * 1000 / u64::from(self.slots.max(1));
        write!(
            f,
            "{} of {} slots change ({}.{} %)",
            self.changed,
            self.slots,
            per_mille / 10,
            per_mille % 10
        )?;
        let Causes { removed, added, reweighted, rescaled, collateral } = self.causes;
        let causes = [
            (removed, "from removed members"),
            (added, "to added members"),
            (reweighted, "by changed weights"),
            (rescaled, "by the new total weight"),
            (collateral, "collateral"),
        ];
        let mut separator = ": ";
        for (count, what) in causes.into_iter().filter(|&(count, _)| count > 0) {
            write!(f, "{separator}{count} {what}")?;
            separator = ", ";
        }

        let mut moved: Vec<&MemberChange> =
            self.members.iter().filter(|member| member.gained + member.lost > 0).collect();
        moved.sort_by_key(|member| Reverse(member.gained + member.lost));
        for member in moved.iter().take(LISTED_MEMBERS) {
            write!(f, "\n  {}: ", member.name)?;
            match (member.old_quota, member.new_quota) {
                (None, Some(new)) => write!(f, "added, {new} slots")?,
                (Some(old), None) => write!(f, "removed, {old} slots")?,
                (old, new) => write!(f, "{} -> {} slots", old.unwrap_or(0), new.unwrap_or(0))?,
            }
            write!(f, " (+{} -{})", member.gained, member.lost)?;
        }
        match moved.len().saturating_sub(LISTED_MEMBERS) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more members"),
        }
    }
}
