//! Stage 5: which member of a pool takes the flow?

use super::{
    hash::{domain_byte, probe_hash, share_byte, share_limit},
    ports::Tables,
    steer::{Away, Placement},
    trace::{Step, Trace},
};
use crate::abi::{
    admission::{Admission, AdmissionWords},
    backend::BackendEntry,
    limits::MAX_THOROUGH_PROBES,
    plan::PoolEntry,
    reason::Reason,
};
use crate::net::address_words;

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

/// A word as if automation had said nothing: that of an operator stays, any other one is open. With 0 for `eased` instead of
/// [`PLAN_PANIC`](crate::abi::plan::PLAN_PANIC), the word as it is.
#[inline(always)]
const fn unheld(word: u32, eased: u32) -> u32 {
    // All ones without HELD, none with it. No branch: four in each probe are too many for the verifier. That goes both ways, too,
    // where a number that is either 0 or -1 is masked by a constant (Linux 6.18): the mask comes from memory.
    let held = (word / Admission::HELD) & 1;
    word | (held.wrapping_sub(1) & eased)
}

/// A pool's word, eased as those of its members: see [`Probe::eased`].
#[must_use]
#[inline(always)]
pub const fn as_operators_say(word: Admission, eased: u32) -> Admission {
    Admission(unheld(word.0, eased))
}

/// Whether a backend and all its domains admit a flow.
#[must_use]
#[inline(always)]
pub fn admits(admissions: &AdmissionWords, entry: &BackendEntry, h: u64, opening: bool) -> bool {
    admits_bit(admissions, entry, h, opening) != 0
}

/// Whether a backend and all its domains admit an established flow if words are eased: see [`Probe::eased`].
#[must_use]
#[inline(always)]
pub fn admits_eased(admissions: &AdmissionWords, entry: &BackendEntry, h: u64, eased: u32) -> bool {
    admits_words(words(admissions, entry).map(|word| unheld(word, eased)), subject(entry), h, false) != 0
}

/// What can be told of a flow's admission without looking at the flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Gate {
    /// Every flow may go there.
    Open,
    /// No flow may.
    Shut,
    /// Some may.
    Ajar,
}

#[inline(always)]
fn gate(admissions: &AdmissionWords, entry: &BackendEntry, opening: bool) -> Gate {
    let shares = words(admissions, entry).map(|word| Admission(word).share(opening) as u32);
    let [own, rack, zone, region] = shares;
    if own & rack & zone & region == u8::MAX as u32 {
        return Gate::Open;
    }
    // The sign bit of "less one" says "none".
    let none = own.wrapping_sub(1) | rack.wrapping_sub(1) | zone.wrapping_sub(1) | region.wrapping_sub(1);
    if none >> 31 != 0 { Gate::Shut } else { Gate::Ajar }
}

/// 1 if a backend and all its domains admit a flow, else 0: the byte for the backend is less than the backend's limit, and the
/// byte for domains is less than the limit of each.
#[inline(always)]
fn admits_bit(admissions: &AdmissionWords, entry: &BackendEntry, h: u64, opening: bool) -> u32 {
    admits_words(words(admissions, entry), subject(entry), h, opening)
}

/// As [`admits_bit`], of the words of the backend with this [`subject`] and its domains.
#[inline(always)]
fn admits_words(words: [u32; 4], subject: u32, h: u64, opening: bool) -> u32 {
    let [own, rack, zone, region] = words.map(|word| share_limit(Admission(word).share(opening)));
    let own_byte = share_byte(h, subject);
    let byte = domain_byte(h);
    // The sign bit of each difference says "less". Four comparisons would be four branches, and each doubles what the
    // verifier has to walk through, for each probe.
    let all_less = own_byte.wrapping_sub(own)
        & byte.wrapping_sub(rack)
        & byte.wrapping_sub(zone)
        & byte.wrapping_sub(region);
    all_less >> 31
}

/// What a backend's share is compared by: its tunnel endpoint, which stays the same when the configuration renumbers.
#[must_use]
#[inline(always)]
pub const fn subject(entry: &BackendEntry) -> u32 {
    let [a, b, c, d] = address_words(&entry.outer_destination);
    u32::from_le(a ^ b ^ c ^ d)
}

/// Result of [`at_home`].
#[derive(Clone, Copy, Debug)]
pub enum Home<'a> {
    /// The flow goes there.
    Open(Placement<'a>),
    /// That must be looked at more closely: what the flow's first slot holds, mark included, or [`NO_HOME`].
    Doubtful(u32),
}

/// "No slot": a pool without members.
pub const NO_HOME: u32 = u32::MAX;

/// The common case in as few steps as it takes: the flow's first slot in the first pool, if it is not marked, and that
/// pool, its member and all domains above it are open and always were.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn at_home<'a, T: Tables>(
    tables: &'a T,
    pool: &PoolEntry,
    h: u64,
    trace: &mut impl Trace,
) -> Result<Home<'a>, Reason> {
    let slot = first_slot(tables, pool, h)?;
    // The mark needs no test of its own: no backend's index has its bit, so with it there is no such backend.
    let Some(entry) = tables.backend(slot) else {
        let backend = lb_maglev::member_id(slot as u16) as u32;
        trace.step(Step::Home { backend, open: false, marked: true });
        return Ok(Home::Doubtful(slot));
    };
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let [own, rack, zone, region] = words(admissions, entry);
    let all = own & rack & zone & region & admissions.get(pool.admission).0;
    let open = all & Admission::OPEN.0 == Admission::OPEN.0;
    trace.step(Step::Home { backend: slot, open, marked: false });
    if open {
        Ok(Home::Open(Placement { backend: slot, entry, home: true }))
    } else {
        Ok(Home::Doubtful(slot))
    }
}

/// What a flow's first slot in a pool holds, mark included; [`NO_HOME`] for a pool without members.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn first_slot<T: Tables>(tables: &T, pool: &PoolEntry, h: u64) -> Result<u32, Reason> {
    if pool.table_slots == 0 {
        return Ok(NO_HOME);
    }
    let slot = pool.table_base.wrapping_add(lb_maglev::reduce(h, pool.table_slots));
    Ok(tables.slot(slot).ok_or(Reason::Inconsistent)? as u32)
}

const _: () = assert!(crate::abi::limits::MAX_BACKENDS <= lb_maglev::SLOT_MEMBER_MASK as usize);

/// Probes of a flow's first pool that are made at once, before there is a walk: the home and two more.
const NEAR_PROBES: u32 = 3;

/// Tries the first slots of a plan's first pool as [`probe`] would, but only members that admit all flows or none: most flows
/// that a failure drives from home find their place so. The member that takes the flow and how many refused before, if one
/// does.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn probe_near<T: Tables>(
    tables: &T,
    admissions: &AdmissionWords,
    request: &Away,
    trace: &mut impl Trace,
) -> Result<Option<(u32, u32)>, Reason> {
    let mut backend = lb_maglev::member_id(request.home as u16) as u32;
    let mut i = 0;
    while i < NEAR_PROBES {
        if i > 0 {
            let slot = lb_maglev::reduce(probe_hash(request.h, i), request.table_slots);
            let slot = tables.slot(request.table_base.wrapping_add(slot)).ok_or(Reason::Inconsistent)?;
            backend = lb_maglev::member_id(slot) as u32;
        }
        let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
        let gate = gate(admissions, entry, request.opening());
        if matches!(gate, Gate::Ajar) {
            return Ok(None);
        }
        let taken = matches!(gate, Gate::Open);
        trace.step(Step::Probe { probe: i, backend, admission: combined(admissions, entry), taken });
        if taken {
            return Ok(Some((backend, i)));
        }
        i += 1;
    }
    Ok(None)
}

/// Input of [`probe`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probe {
    /// Index of the pool.
    pub pool: u32,
    /// The flow's hash.
    pub h: u64,
    /// Number of the first probe.
    pub first: u32,
    /// Number of the probe before which to stop, [`MAX_THOROUGH_PROBES`] at most.
    pub end: u32,
    /// Whether the packet may open a flow.
    pub opening: bool,
    /// [`PLAN_PANIC`](crate::abi::plan::PLAN_PANIC) if only operators' words count, and not those of automation; else 0.
    pub eased: u32,
}

/// Result of [`probe`] in one word, so that it fits a register where probing is a function of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Probed(pub u64);

impl Probed {
    const EXHAUSTED: u64 = u64::MAX;
    /// The maps contradict each other.
    pub const INCONSISTENT: u64 = u64::MAX - 1;

    /// The member that takes the flow and how many refused before, if one does.
    ///
    /// # Errors
    /// [`Reason::Inconsistent`] when maps contradict each other.
    #[inline(always)]
    pub const fn taken(self) -> Result<Option<(u32, u32)>, Reason> {
        match self.0 {
            Self::EXHAUSTED => Ok(None),
            Self::INCONSISTENT => Err(Reason::Inconsistent),
            word => Ok(Some((word as u32, (word >> 32) as u32))),
        }
    }
}

/// Tries slots of a pool's table until a member admits the flow.
///
/// Returns the word at once wherever it is known: an `Option` of two numbers carried to one place leaves registers unset
/// that the verifier wants set.
#[inline(always)]
pub fn probe<T: Tables>(tables: &T, request: &Probe, trace: &mut impl Trace) -> Probed {
    let &Probe { h, first, end, opening, eased, .. } = request;
    let (Some(pool), Some(admissions)) = (tables.pool(request.pool), tables.admissions()) else {
        return Probed(Probed::INCONSISTENT);
    };
    if pool.table_slots == 0 {
        return Probed(Probed::EXHAUSTED);
    }
    // One number that counts and not two: the frame is small. The bound is `end`'s, said so that the verifier sees it.
    let mut probe = first;
    while probe < end && probe < MAX_THOROUGH_PROBES {
        let Ok((backend, entry)) = member(tables, pool, probe_hash(h, probe)) else {
            return Probed(Probed::INCONSISTENT);
        };
        // Bits and no branches, here too: of an operator's words all, of the others what is wanted.
        let words = words(admissions, entry).map(|word| unheld(word, eased));
        let taken = admits_words(words, subject(entry), h, opening) != 0;
        trace.step(Step::Probe { probe, backend, admission: combined(admissions, entry), taken });
        if taken {
            return Probed(backend as u64 | (probe as u64) << 32);
        }
        probe += 1;
    }
    Probed(Probed::EXHAUSTED)
}
