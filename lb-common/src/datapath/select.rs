//! Stage 5: which member of a pool takes the flow?

use super::{
    flow,
    hash::{probe_hash, share_byte},
    ports::Tables,
    steer::Placement,
    trace::{Step, Trace},
};
use crate::abi::{
    admission::Admission, backend::BackendEntry, limits::MAX_PROBES, plan::PoolEntry, reason::Reason,
};

/// Result of probing a pool.
pub enum Selection<'a> {
    /// The flow table named the backend.
    Known(Placement<'a>),
    /// A member takes the flow.
    Taken {
        /// Its index.
        backend: u32,
        /// Its entry.
        entry: &'a BackendEntry,
        /// How many members refused before.
        probe: u32,
    },
    /// [`MAX_PROBES`] members refused.
    Exhausted,
}

/// The member in slot `slot` of the slot array.
#[inline(always)]
fn member<'a, T: Tables>(tables: &'a T, pool: &PoolEntry, h: u64) -> Result<(u32, &'a BackendEntry), Reason> {
    let slot = pool.table_base.wrapping_add(lb_maglev::reduce(h, pool.table_slots));
    let backend = (tables.slot(slot).ok_or(Reason::Inconsistent)? & lb_maglev::SLOT_MEMBER_MASK) as u32;
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    Ok((backend, entry))
}

/// The four words that speak for a backend, in the order backend, rack, zone, region.
#[inline(always)]
fn words<T: Tables>(tables: &T, entry: &BackendEntry) -> Result<[Admission; 4], Reason> {
    Ok([
        entry.admission,
        tables.admission(entry.rack).ok_or(Reason::Inconsistent)?,
        tables.admission(entry.zone).ok_or(Reason::Inconsistent)?,
        tables.admission(entry.region).ok_or(Reason::Inconsistent)?,
    ])
}

/// One word for a backend and all its domains: the smallest shares; clean if all are; held if one is held at 0.
///
/// # Errors
/// [`Reason::Inconsistent`] when the entry names a domain that does not exist.
#[inline(always)]
pub fn combined<T: Tables>(tables: &T, entry: &BackendEntry) -> Result<Admission, Reason> {
    let words = words(tables, entry)?;
    let mut new = 255;
    let mut old = 255;
    let mut clean = Admission::CLEAN;
    let mut held = 0;
    for word in words {
        new = if word.new_share() < new { word.new_share() } else { new };
        old = if word.old_share() < old { word.old_share() } else { old };
        clean &= word.0;
        if word.new_share() == 0 {
            held |= word.0 & Admission::HELD;
        }
    }
    Ok(Admission(Admission::new(new, old).0 | clean | held))
}

/// What a backend's share is compared by: its tunnel endpoint, which stays the same when the configuration renumbers.
#[must_use]
#[inline(always)]
pub const fn subject(entry: &BackendEntry) -> u32 {
    let a = &entry.outer_destination;
    u32::from_le_bytes([a[0] ^ a[4], a[1] ^ a[5], a[2] ^ a[6], a[3] ^ a[7]])
        ^ u32::from_le_bytes([a[8] ^ a[12], a[9] ^ a[13], a[10] ^ a[14], a[11] ^ a[15]])
}

/// The common case in as few steps as it takes: the flow's first slot in the first pool, if that pool, its member and
/// all domains above it are open and always were.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn at_home<'a, T: Tables>(tables: &'a T, pool: &PoolEntry, h: u64) -> Result<Option<Placement<'a>>, Reason> {
    if pool.table_slots == 0 {
        return Ok(None);
    }
    let (backend, entry) = member(tables, pool, h)?;
    let [own, rack, zone, region] = words(tables, entry)?;
    let pool = tables.admission(pool.admission).ok_or(Reason::Inconsistent)?;
    let all = own.0 & rack.0 & zone.0 & region.0 & pool.0;
    Ok((all & Admission::OPEN.0 == Admission::OPEN.0).then_some(Placement { backend, entry, home: true }))
}

/// Tries up to [`MAX_PROBES`] slots of a pool's table until a member admits the flow.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn probe<'a, T: Tables>(
    tables: &'a T,
    pool: &PoolEntry,
    h: u64,
    opening: bool,
    flow: &mut flow::State,
    trace: &mut impl Trace,
) -> Result<Selection<'a>, Reason> {
    if pool.table_slots == 0 {
        return Ok(Selection::Exhausted);
    }
    for probe in 0..MAX_PROBES {
        let (backend, entry) = member(tables, pool, probe_hash(h, probe))?;
        let word = combined(tables, entry)?;
        if let Some(known) = flow.consult(tables, word, h, trace)? {
            return Ok(Selection::Known(known));
        }
        let share = word.share(opening);
        let taken = share == 255 || share_byte(h, subject(entry)) < share;
        trace.step(Step::Probe { probe, backend, admission: word, taken });
        if taken {
            return Ok(Selection::Taken { backend, entry, probe });
        }
    }
    Ok(Selection::Exhausted)
}

/// The first probed member that no operator took out, whatever its health.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn ignoring_health<'a, T: Tables>(
    tables: &'a T,
    pool: &PoolEntry,
    h: u64,
) -> Result<Option<(u32, &'a BackendEntry)>, Reason> {
    if pool.table_slots == 0 {
        return Ok(None);
    }
    for probe in 0..MAX_PROBES {
        let (backend, entry) = member(tables, pool, probe_hash(h, probe))?;
        if !combined(tables, entry)?.is_held() {
            return Ok(Some((backend, entry)));
        }
    }
    Ok(None)
}
