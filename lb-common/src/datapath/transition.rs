//! Between two configurations: where was a flow at home before the last change?
//!
//! A slot of a table that the change of the configuration gave to another member is marked. While the transition lasts, a
//! flow whose slot is marked and that nobody wrote down is an old one: it lives where `PREVIOUS` says. So every flow that opens
//! at such a slot is written down, wherever it goes.

use super::{
    ports::Tables,
    select::{self, NO_HOME},
    steer::{self, Away, Origin},
    trace::{Step, Trace},
};
use crate::abi::{plan::POOL_RELAY, reason::Reason};

/// Whether an untracked flow is an old one: its slot is marked (or its pool has no slots any more) and the transition of its
/// service lasts.
#[must_use]
#[inline(always)]
pub const fn lasts(request: &Away) -> bool {
    let marked = request.home == NO_HOME || request.home as u16 & lb_maglev::SLOT_MARK != 0;
    marked && request.previous_base != 0 && request.tracked()
}

/// The backend where an untracked flow was at home before the last change of the configuration; `None` where its pool then
/// had no members, or may not be entered.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn old_home<T: Tables>(tables: &T, request: &Away) -> Result<Option<u32>, Reason> {
    let region =
        if request.previous_plans > 1 { tables.previous_client_region(&request.key.source()) } else { 0 };
    let region = if region < request.previous_plans { region } else { 0 };
    let index = (request.previous_base - 1).wrapping_add(region);
    let pool = tables.previous(index).ok_or(Reason::Inconsistent)?;
    if pool.table_slots == 0 || (request.origin() == Origin::Relay && pool.flags & POOL_RELAY != 0) {
        return Ok(None);
    }
    let slot = pool.table_base.wrapping_add(lb_maglev::reduce(request.h, pool.table_slots));
    let slot = tables.slot(slot).ok_or(Reason::Inconsistent)?;
    Ok(Some(lb_maglev::member_id(slot) as u32))
}

/// Where an untracked flow stays for as long as it lives: at the home that it had before the last change of the configuration,
/// if that is another one than today's and admits it still.
///
/// # Errors
/// [`Reason::Inconsistent`] when maps contradict each other.
#[inline(always)]
pub fn stays<T: Tables>(tables: &T, request: &Away, trace: &mut impl Trace) -> Result<Option<u32>, Reason> {
    let Some(backend) = old_home(tables, request)? else {
        return Ok(None);
    };
    if request.home != NO_HOME && backend == lb_maglev::member_id(request.home as u16) as u32 {
        return Ok(None);
    }
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    let taken = select::admits(admissions, entry, request.h, false)
        || select::admits_eased(admissions, entry, request.h, steer::eased(tables, request));
    trace.step(Step::OldHome { backend, taken });
    Ok(if taken { Some(backend) } else { None })
}
