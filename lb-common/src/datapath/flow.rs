//! Stage 4: is the flow known to live away from home?
//!
//! Invariant: a flow is in the tables of flows if and only if it is not where an untracked flow goes: at home, or, while its
//! slot is in transition, where its home was before. They are asked only for flows whose way home was not open all along
//! (see [`Admission::CLEAN`](crate::abi::admission::Admission::CLEAN)) or whose slot is marked, so on a healthy day no
//! packet touches them; and then `FLOWS` only if the [`filter`] says that it may have an entry.
//!
//! An opening packet is written into `OPENINGS` only. The next packet of the flow moves it to `FLOWS`: a flood of opening
//! packets thus turns over `OPENINGS` and leaves `FLOWS` alone. UDP has no opening packet: unless its service is sticky,
//! each datagram is placed afresh and leaves no entry.

use super::{
    filter, openings,
    ports::Tables,
    select,
    steer::{self, Away},
    trace::{Silent, Step, Trace},
};
use crate::{
    abi::{
        counter::{Note, note_slot},
        flow::{FLOW_CLOSING, FlowEntry},
        reason::Reason,
        root::Root,
        service::{SERVICE_QUIC, SERVICE_STICKY_UDP},
    },
    net::protocol,
};

/// The tables of flows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FlowTable {
    /// `FLOWS`: flows that live away from home.
    Flows,
    /// `OPENINGS`: flows that opened away from home, until their next packet.
    Openings,
}

/// Whether the tables of flows hold flows of a protocol.
#[must_use]
#[inline(always)]
pub const fn is_tracked(protocol: u8, service_flags: u32) -> bool {
    protocol != protocol::UDP || service_flags & (SERVICE_STICKY_UDP | SERVICE_QUIC) != 0
}

/// What [`FlowEntry::seen`] says for a packet seen now.
#[must_use]
#[inline(always)]
pub const fn seen_at(now_ns: u64, closing: bool) -> u32 {
    // A shift and not a division: 1.07 s are second enough for what is forgotten after minutes.
    let seconds = (now_ns >> 30) as u32 & !FLOW_CLOSING;
    if closing { seconds | FLOW_CLOSING } else { seconds }
}

/// Counts a note.
#[inline(always)]
fn note<T: Tables>(tables: &T, note: Note) {
    tables.count(note_slot(note), 0, false, false);
}

/// Where an established flow lives, if the tables of flows know it and its backend still admits it.
///
/// # Errors
/// [`Reason::Inconsistent`] when a table names a backend that does not exist.
#[inline(always)]
pub fn known<T: Tables>(
    tables: &T,
    root: &Root,
    request: &Away,
    trace: &mut impl Trace,
) -> Result<Known, Reason> {
    let seen = seen_at(tables.now_ns(), request.closing());
    let touch = |before: u32| seen | before & FLOW_CLOSING;
    let mut table = FlowTable::Flows;
    let mut entry = None;
    if filter::may_know(tables, root, request.h, trace) {
        entry = tables.flow(&request.key, touch);
        if entry.is_none() {
            trace.step(Step::FlowTable { table, backend: None, admitted: false });
            note(tables, Note::FlowMissed);
        }
    }
    if entry.is_none() {
        table = FlowTable::Openings;
        let set = openings::set_of(request.h, root.opening_sets);
        entry = tables.opening_set(set, |set| openings::find(set, request.h, &request.key)).flatten();
    }
    let Some(FlowEntry { backend, seen: before }) = entry else {
        trace.step(Step::FlowTable { table, backend: None, admitted: false });
        return Ok(Known::Nothing);
    };
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    let admitted = select::admits(admissions, entry, request.h, false)
        || select::admits_eased(admissions, entry, request.h, steer::eased(tables, request));
    trace.step(Step::FlowTable { table, backend: Some(backend), admitted });
    if !admitted {
        return Ok(Known::Refused);
    }
    if matches!(table, FlowTable::Openings) {
        filter::announce(tables, root, request.h);
        tables.remember(&request.key, FlowEntry { backend, seen: touch(before) });
        forget_opening(tables, root, request);
        note(tables, Note::FlowEstablished);
        trace.step(Step::Remembered { table: FlowTable::Flows });
    }
    Ok(Known::At(backend, table))
}

/// What the tables of flows know about an established flow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing: it is untracked.
    Nothing,
    /// It lives at a backend that refuses it now.
    Refused,
    /// It lives at this backend; the table that said so.
    At(u32, FlowTable),
}

/// Writes down an untracked flow that was found to live where its home was before a transition, as far as the limit of
/// inserts lets it; whether it did.
#[inline(always)]
pub fn insert<T: Tables>(
    tables: &T,
    root: &Root,
    request: &Away,
    backend: u32,
    trace: &mut impl Trace,
) -> bool {
    let now = tables.now_ns();
    let per_second = root.flow_inserts_per_second;
    if !tables.insert_allowance(|allowance| allowance.spend(now, per_second)) {
        note(tables, Note::FlowInsertLimited);
        trace.step(Step::InsertLimited);
        return false;
    }
    filter::announce(tables, root, request.h);
    let entry = FlowEntry { backend, seen: seen_at(now, request.closing()) };
    tables.remember(&request.key, entry);
    note(tables, Note::FlowInserted);
    trace.step(Step::Remembered { table: FlowTable::Flows });
    true
}

/// Writes down a flow that opens where untracked flows do not go. What an earlier flow with the same tuple left in `FLOWS`
/// would be found first, so it goes.
#[inline(always)]
pub fn remember_opening<T: Tables>(
    tables: &T,
    root: &Root,
    request: &Away,
    backend: u32,
    trace: &mut impl Trace,
) {
    if forget_established(tables, root, request) {
        note(tables, Note::FlowWiped);
    }
    let (now, h) = (tables.now_ns(), request.h);
    let entry = FlowEntry { backend, seen: seen_at(now, request.closing()) };
    tables.opening_set(openings::set_of(h, root.opening_sets), |set| {
        openings::write(set, h, now, &request.key, entry);
    });
    note(tables, Note::OpeningRemembered);
    trace.step(Step::Remembered { table: FlowTable::Openings });
}

/// Wipes out what an earlier flow with the same tuple left, for a flow that opens where untracked flows go.
#[inline(always)]
pub fn wipe<T: Tables>(tables: &T, root: &Root, request: &Away) {
    let established = forget_established(tables, root, request);
    if forget_opening(tables, root, request) | established {
        note(tables, Note::FlowWiped);
    }
}

#[inline(always)]
fn forget_established<T: Tables>(tables: &T, root: &Root, request: &Away) -> bool {
    filter::may_know(tables, root, request.h, &mut Silent) && tables.forget(&request.key)
}

#[inline(always)]
fn forget_opening<T: Tables>(tables: &T, root: &Root, request: &Away) -> bool {
    let (set, h) = (openings::set_of(request.h, root.opening_sets), request.h);
    tables.opening_set(set, |set| openings::remove(set, h, &request.key)).unwrap_or(false)
}
