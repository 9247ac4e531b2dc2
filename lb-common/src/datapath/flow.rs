//! Stage 4: is the flow known to live away from home?
//!
//! Invariant: a TCP flow is in the flow table if and only if it was opened away from home. The table is consulted only
//! for flows whose way home was not open all along (see
//! [`Admission::CLEAN`](crate::abi::admission::Admission::CLEAN)), so on a healthy day no packet touches it. UDP has no
//! opening packet: each datagram is placed afresh and leaves no entry.

use super::{
    parse::Transport,
    ports::Tables,
    select,
    steer::{Origin, Placement},
    trace::{Step, Trace},
};
use crate::{
    abi::{
        flow::{FLOW_CLOSING, FlowEntry},
        reason::Reason,
    },
    net::protocol,
};

/// Whether the flow table holds flows of this packet's protocol.
#[inline(always)]
const fn is_tracked(transport: &Transport) -> bool {
    transport.tuple.protocol == protocol::TCP
}

/// Where an established flow lives, if it is in the flow table and its backend still admits it.
///
/// # Errors
/// [`Reason::Inconsistent`] when the table names a backend that does not exist.
#[inline(always)]
pub fn known<'a, T: Tables>(
    tables: &'a T,
    transport: &Transport,
    h: u64,
    origin: Origin,
    trace: &mut impl Trace,
) -> Result<Option<Placement<'a>>, Reason> {
    if !is_tracked(transport) || transport.opening {
        return Ok(None);
    }
    let entry = tables.flow(&transport.tuple.flow_key(origin));
    trace.step(Step::FlowTable { backend: entry.map(|e| e.backend) });
    let Some(FlowEntry { backend, .. }) = entry else {
        return Ok(None);
    };
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let admitted = select::admits(admissions, entry, h, false);
    Ok(admitted.then_some(Placement { backend, entry, home: false }))
}

/// Seconds of the monotonic clock, as [`FlowEntry::seen`] has them.
#[inline(always)]
const fn seconds(ns: u64) -> u32 {
    // A shift and not a division: 1.07 s are second enough for what is forgotten after minutes.
    (ns >> 30) as u32 & !FLOW_CLOSING
}

/// Keeps the invariant once a flow is placed whose way home was not open all along: an opening away from home is written
/// down, an opening at home wipes out what an earlier flow with the same tuple left.
#[inline(always)]
pub fn settle<T: Tables>(
    tables: &T,
    transport: &Transport,
    origin: Origin,
    placement: &Placement<'_>,
    trace: &mut impl Trace,
) {
    if !is_tracked(transport) || !transport.opening {
        return;
    }
    let key = transport.tuple.flow_key(origin);
    if !placement.home {
        let seen = seconds(tables.now_ns());
        tables.remember(&key, FlowEntry { backend: placement.backend, seen });
        trace.step(Step::Remembered);
    } else if tables.flow(&key).is_some() {
        tables.forget(&key);
    }
}
