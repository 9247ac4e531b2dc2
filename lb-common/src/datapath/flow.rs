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
    abi::{flow::FlowEntry, reason::Reason},
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

/// Keeps the invariant once a flow is placed whose way home was not open all along: an opening away from home is written
/// down, an opening at home wipes out what an earlier flow with the same tuple left.
#[inline(always)]
pub fn settle<T: Tables>(
    tables: &T,
    service: u32,
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
        tables.remember(&key, FlowEntry { backend: placement.backend, service });
        trace.step(Step::Remembered);
    } else if tables.flow(&key).is_some() {
        tables.forget(&key);
    }
}
