//! Stage 3: which plan applies, and which of its pools takes the flow?

use super::{
    flow,
    hash::{share_byte, spill_hash},
    parse::Transport,
    ports::Tables,
    select::{self, Selection},
    trace::{Step, Trace},
};
use crate::abi::{
    backend::BackendEntry,
    limits::MAX_PLAN_STEPS,
    plan::{POOL_RELAY, PlanEntry, PoolEntry},
    reason::Reason,
    service::{SERVICE_FAIL_OPEN, SERVICE_MULTI_PLAN, SERVICE_SPILLS, ServiceEntry},
};

/// Where a packet comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Origin {
    /// From a client, directly.
    Client = 0,
    /// From another region's Weir: it has crossed a region border once and must not do so again.
    Relay = 1,
}

/// Where a packet goes.
#[derive(Clone, Copy, Debug)]
pub struct Placement<'a> {
    /// The backend's index.
    pub backend: u32,
    /// Its entry.
    pub entry: &'a BackendEntry,
    /// Whether this is where the flow goes when everything is healthy.
    pub home: bool,
}

/// Places a packet of `service`: by the flow table where that can matter, else by its plan.
///
/// # Errors
/// [`Reason::AllDown`] or [`Reason::RelayRefused`] when no pool of the plan may take it, [`Reason::Inconsistent`] when
/// maps contradict each other.
#[inline(always)]
pub fn place<'a, T: Tables>(
    tables: &'a T,
    service: &'a ServiceEntry,
    service_index: u32,
    transport: &Transport,
    h: u64,
    origin: Origin,
    trace: &mut impl Trace,
) -> Result<Placement<'a>, Reason> {
    // At home in the first pool of the only plan, with nothing ever having been amiss: the common case.
    if service.flags & (SERVICE_MULTI_PLAN | SERVICE_SPILLS) == 0 && !trace.is_on() && origin == Origin::Client {
        if let Some(home) = select::at_home(tables, &service.first, h)? {
            return Ok(home);
        }
    }
    place_by_plan(tables, service, service_index, transport, h, origin, trace)
}

#[inline(always)]
fn place_by_plan<'a, T: Tables>(
    tables: &'a T,
    service: &'a ServiceEntry,
    service_index: u32,
    transport: &Transport,
    h: u64,
    origin: Origin,
    trace: &mut impl Trace,
) -> Result<Placement<'a>, Reason> {
    let plan = plan_for(tables, service, transport, trace)?;
    let start = if service.flags & SERVICE_SPILLS == 0 { 0 } else { starting_step(plan, spill_hash(h)) };
    if start == 0 && !trace.is_on() && origin == Origin::Client {
        if let Some(home) = select::at_home(tables, &plan.first, h)? {
            return Ok(home);
        }
    }
    let mut flow = flow::State::new(transport, origin);
    let found = walk(tables, plan, start, transport, h, origin, &mut flow, trace)?;
    if let Some(placement) = found {
        flow.settle(tables, service_index, &placement, trace);
        return Ok(placement);
    }
    if service.flags & SERVICE_FAIL_OPEN != 0 {
        if let Some(placement) = fail_open(tables, plan, h, origin, trace)? {
            return Ok(placement);
        }
    }
    Err(if origin == Origin::Relay { Reason::RelayRefused } else { Reason::AllDown })
}

/// The plan for the packet's client region.
#[inline(always)]
fn plan_for<'a, T: Tables>(
    tables: &'a T,
    service: &ServiceEntry,
    transport: &Transport,
    trace: &mut impl Trace,
) -> Result<&'a PlanEntry, Reason> {
    let mut index = service.plan_base;
    let mut region = 0;
    if service.flags & SERVICE_MULTI_PLAN != 0 {
        region = tables.client_region(&transport.tuple.source);
        if region < service.plans {
            index += region;
        } else {
            region = 0;
        }
    }
    trace.step(Step::Plan { client_region: region, plan: index });
    tables.plan(index).ok_or(Reason::Inconsistent)
}

/// The step at which a flow starts: the first one whose cumulative share is not below the flow's second hash. Raising
/// the share of later steps moves flows only outward.
#[inline(always)]
fn starting_step(plan: &PlanEntry, h2: u16) -> u32 {
    let mut step = 0;
    while step < MAX_PLAN_STEPS as u32 - 1 {
        if step + 1 >= plan.steps || h2 <= plan.shares[step as usize] {
            break;
        }
        step += 1;
    }
    step
}

/// Walks the plan's pools from `start`, then those before it, until one takes the flow.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "one stage of the pipeline; a struct would only rename its inputs")]
fn walk<'a, T: Tables>(
    tables: &'a T,
    plan: &'a PlanEntry,
    start: u32,
    transport: &Transport,
    h: u64,
    origin: Origin,
    flow: &mut flow::State,
    trace: &mut impl Trace,
) -> Result<Option<Placement<'a>>, Reason> {
    for i in 0..MAX_PLAN_STEPS as u32 {
        if i >= plan.steps {
            break;
        }
        let pool = pool_at(tables, plan, step_at(start, i, plan.steps))?;
        if origin == Origin::Relay && pool.flags & POOL_RELAY != 0 {
            continue;
        }
        let admission = tables.admission(pool.admission).ok_or(Reason::Inconsistent)?;
        if let Some(known) = flow.consult(tables, admission, h, trace)? {
            return Ok(Some(known));
        }
        let share = admission.share(transport.opening);
        let entered = share == 255 || share_byte(h, pool.pool) < share;
        trace.step(Step::Pool { pool: pool.pool, admission, entered });
        if !entered {
            continue;
        }
        match select::probe(tables, pool, h, transport.opening, flow, trace)? {
            Selection::Known(placement) => return Ok(Some(placement)),
            Selection::Taken { backend, entry, probe } => {
                return Ok(Some(Placement { backend, entry, home: i == 0 && start == 0 && probe == 0 }));
            }
            Selection::Exhausted => {}
        }
    }
    Ok(None)
}

/// The `i`th step of a walk that starts at `start` and wraps around.
#[inline(always)]
fn step_at(start: u32, i: u32, steps: u32) -> u32 {
    let step = start + i;
    if step >= steps { step - steps } else { step }
}

#[inline(always)]
fn pool_at<'a, T: Tables>(tables: &'a T, plan: &'a PlanEntry, step: u32) -> Result<&'a PoolEntry, Reason> {
    if step == 0 {
        return Ok(&plan.first);
    }
    let index = *plan.pools.get(step as usize).ok_or(Reason::Inconsistent)?;
    tables.pool(index as u32).ok_or(Reason::Inconsistent)
}

/// The last resort: the first member in the walk's order that no operator took out, whatever its health.
#[inline(always)]
fn fail_open<'a, T: Tables>(
    tables: &'a T,
    plan: &'a PlanEntry,
    h: u64,
    origin: Origin,
    trace: &mut impl Trace,
) -> Result<Option<Placement<'a>>, Reason> {
    for step in 0..MAX_PLAN_STEPS as u32 {
        if step >= plan.steps {
            break;
        }
        let pool = pool_at(tables, plan, step)?;
        if origin == Origin::Relay && pool.flags & POOL_RELAY != 0 {
            continue;
        }
        let admission = tables.admission(pool.admission).ok_or(Reason::Inconsistent)?;
        if admission.is_held() && admission.new_share() == 0 {
            continue;
        }
        if let Some((backend, entry)) = select::ignoring_health(tables, pool, h)? {
            trace.step(Step::FailOpen { pool: pool.pool, backend });
            return Ok(Some(Placement { backend, entry, home: false }));
        }
    }
    Ok(None)
}
