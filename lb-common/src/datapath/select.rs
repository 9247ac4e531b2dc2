//! Stage 5: which member of a pool takes the flow?

use super::{
    hash::{domain_byte, probe_hash, share_byte, share_limit},
    ports::Tables,
    steer::Placement,
    trace::{Step, Trace},
};
use crate::abi::{
    admission::{Admission, AdmissionWords},
    backend::BackendEntry,
    limits::MAX_PROBES,
    plan::PoolEntry,
    reason::Reason,
};

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
const fn words(words: &AdmissionWords, entry: &BackendEntry) -> [u32; 4] {
    [entry.admission.0, words.get(entry.rack).0, words.get(entry.zone).0, words.get(entry.region).0]
}

/// One word for a backend and all its domains: the smallest shares; clean if all are; held if any is.
#[must_use]
#[inline(always)]
pub const fn combined(admissions: &AdmissionWords, entry: &BackendEntry) -> Admission {
    let [a, b, c, d] = words(admissions, entry);
    let new = min(min(a & 0xff, b & 0xff), min(c & 0xff, d & 0xff));
    let old = min(min(a & 0xff00, b & 0xff00), min(c & 0xff00, d & 0xff00));
    Admission(new | old | (a & b & c & d & Admission::CLEAN) | ((a | b | c | d) & Admission::HELD))
}

const fn min(a: u32, b: u32) -> u32 {
    if b < a { b } else { a }
}

/// Whether a backend and all its domains admit a flow: the byte for the backend is less than the backend's limit, and the
/// byte for domains is less than the limit of each.
#[must_use]
#[inline(always)]
pub fn admits(admissions: &AdmissionWords, entry: &BackendEntry, h: u64, opening: bool) -> bool {
    let [own, rack, zone, region] =
        words(admissions, entry).map(|word| share_limit(Admission(word).share(opening)));
    let own_byte = share_byte(h, subject(entry));
    let byte = domain_byte(h);
    // The sign bit of each difference says "less". Four comparisons would be four branches, and each doubles what the
    // verifier has to walk through, for each probe.
    let all_less = own_byte.wrapping_sub(own)
        & byte.wrapping_sub(rack)
        & byte.wrapping_sub(zone)
        & byte.wrapping_sub(region);
    all_less >> 31 != 0
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
pub fn at_home<'a, T: Tables>(
    tables: &'a T,
    pool: &PoolEntry,
    h: u64,
    trace: &mut impl Trace,
) -> Result<Option<Placement<'a>>, Reason> {
    if pool.table_slots == 0 {
        return Ok(None);
    }
    let (backend, entry) = member(tables, pool, h)?;
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let [own, rack, zone, region] = words(admissions, entry);
    let all = own & rack & zone & region & admissions.get(pool.admission).0;
    let open = all & Admission::OPEN.0 == Admission::OPEN.0;
    trace.step(Step::Home { backend, open });
    Ok(open.then_some(Placement { backend, entry, home: true }))
}

/// Tries up to [`MAX_PROBES`] slots of a pool's table until a member admits the flow, or, with `ignore_health`, until one that no
/// operator took out. Gives its index, and how many refused before.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn probe<T: Tables>(
    tables: &T,
    pool: &PoolEntry,
    h: u64,
    opening: bool,
    ignore_health: bool,
    trace: &mut impl Trace,
) -> Result<Option<(u32, u32)>, Reason> {
    if pool.table_slots == 0 {
        return Ok(None);
    }
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    for probe in 0..MAX_PROBES {
        let (backend, entry) = member(tables, pool, probe_hash(h, probe))?;
        let taken = if ignore_health {
            !combined(admissions, entry).is_held()
        } else {
            admits(admissions, entry, h, opening)
        };
        trace.step(Step::Probe { probe, backend, admission: combined(admissions, entry), taken });
        if taken {
            return Ok(Some((backend, probe)));
        }
    }
    Ok(None)
}
