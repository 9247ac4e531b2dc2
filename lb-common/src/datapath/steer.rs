//! Stage 3: which plan applies, and which of its pools takes the flow?

use super::{
    flow,
    hash::{share_byte, spill_hash},
    parse::Transport,
    ports::Tables,
    select,
    trace::{Step, Trace},
};
use crate::abi::{
    backend::BackendEntry,
    limits::MAX_PLAN_STEPS,
    plan::{POOL_RELAY, PlanEntry, PoolEntry},
    reason::Reason,
    service::{SERVICE_FAIL_OPEN, SERVICE_MULTI_PLAN, SERVICE_SPILLS, ServiceEntry},
};
use crate::net::words_address;

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

/// Places a packet of `service`: at home if the way there is and always was open, else by the flow table, else by its
/// plan.
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
    let mut plan_index = service.plan_base;
    let mut first = service.first;
    if service.flags & SERVICE_MULTI_PLAN != 0 {
        let region = tables.client_region(&words_address(&transport.tuple.source));
        plan_index += if region < service.plans { region } else { 0 };
        first = tables.plan(plan_index).ok_or(Reason::Inconsistent)?.first;
        trace.step(Step::ClientRegion { region });
    }
    trace.step(Step::Plan { plan: plan_index });
    let spills = service.flags & SERVICE_SPILLS != 0;
    if !spills && (origin == Origin::Client || first.flags & POOL_RELAY == 0) {
        if let Some(home) = select::at_home(tables, &first, h, trace)? {
            return Ok(home);
        }
    }
    if let Some(known) = flow::known(tables, transport, h, origin, trace)? {
        return Ok(known);
    }
    let request = Walk {
        plan: plan_index,
        h,
        opening: transport.opening,
        origin,
        service_flags: service.flags,
    };
    let walked = tables.walk(&request, trace);
    let Some(backend) = walked.backend() else {
        return Err(walked.reason());
    };
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    let placement = Placement {
        backend,
        entry,
        home: walked.is_home(),
    };
    if !walked.is_fail_open() {
        flow::settle(tables, service_index, transport, origin, &placement, trace);
    }
    Ok(placement)
}

/// Input of [`walk`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walk {
    /// Index of the plan.
    pub plan: u32,
    /// The flow's hash.
    pub h: u64,
    /// Whether the packet may open a flow.
    pub opening: bool,
    /// Where it comes from.
    pub origin: Origin,
    /// Flags of the service.
    pub service_flags: u8,
}

/// Result of [`walk`] in one word, so that it fits a register where the walk is a function of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walked(pub u64);

impl Walked {
    const HOME: u64 = 1 << 32;
    const FAIL_OPEN: u64 = 1 << 33;
    const REFUSED: u64 = 1 << 34;

    const fn placed(backend: u32, home: bool) -> Self {
        Self(backend as u64 | if home { Self::HOME } else { 0 })
    }

    const fn refused(reason: Reason) -> Self {
        Self(reason as u64 | Self::REFUSED)
    }

    /// Where the flow goes, if anywhere.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> Option<u32> {
        if self.0 & Self::REFUSED == 0 {
            Some(self.0 as u32)
        } else {
            None
        }
    }

    /// Whether that is the first slot of the plan's first pool.
    #[must_use]
    #[inline(always)]
    pub const fn is_home(self) -> bool {
        self.0 & Self::HOME != 0
    }

    /// Whether it goes there only because all pools are down.
    #[must_use]
    #[inline(always)]
    pub const fn is_fail_open(self) -> bool {
        self.0 & Self::FAIL_OPEN != 0
    }

    /// Why it goes nowhere.
    #[must_use]
    #[inline(always)]
    pub const fn reason(self) -> Reason {
        if self.0 as u32 == Reason::AllDown as u32 {
            Reason::AllDown
        } else if self.0 as u32 == Reason::RelayRefused as u32 {
            Reason::RelayRefused
        } else {
            Reason::Inconsistent
        }
    }
}

/// Finds a place for a flow that does not go straight home: along its plan, then, for services that fail open, wherever
/// no operator forbids it.
#[inline(always)]
pub fn walk<T: Tables>(tables: &T, request: &Walk, trace: &mut impl Trace) -> Walked {
    match try_walk(tables, request, trace) {
        Ok(walked) => walked,
        Err(reason) => Walked::refused(reason),
    }
}

#[inline(always)]
fn try_walk<T: Tables>(tables: &T, request: &Walk, trace: &mut impl Trace) -> Result<Walked, Reason> {
    let plan = tables.plan(request.plan).ok_or(Reason::Inconsistent)?;
    if let Some(walked) = along_plan(tables, plan, request, trace)? {
        return Ok(walked);
    }
    if request.service_flags & SERVICE_FAIL_OPEN != 0 {
        if let Some(walked) = fail_open(tables, plan, request, trace)? {
            return Ok(walked);
        }
    }
    Err(if request.origin == Origin::Relay {
        Reason::RelayRefused
    } else {
        Reason::AllDown
    })
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

/// Walks the plan's pools from the flow's starting step on, then those before it, until one takes the flow.
#[inline(always)]
fn along_plan<T: Tables>(
    tables: &T,
    plan: &PlanEntry,
    request: &Walk,
    trace: &mut impl Trace,
) -> Result<Option<Walked>, Reason> {
    let &Walk {
        h,
        opening,
        origin,
        service_flags,
        ..
    } = request;
    let start = if service_flags & SERVICE_SPILLS != 0 {
        starting_step(plan, spill_hash(h))
    } else {
        0
    };
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    for i in 0..MAX_PLAN_STEPS as u32 {
        if i >= plan.steps {
            break;
        }
        let pool = pool_at(tables, plan, step_at(start, i, plan.steps))?;
        if origin == Origin::Relay && pool.flags & POOL_RELAY != 0 {
            continue;
        }
        let admission = admissions.get(pool.admission);
        let share = admission.share(opening);
        let entered = share == 255 || share_byte(h, pool.pool) < share;
        trace.step(Step::Pool {
            pool: pool.pool,
            admission,
            entered,
        });
        if !entered {
            continue;
        }
        if let Some((backend, probe)) = select::probe(tables, &pool, h, opening, trace)? {
            return Ok(Some(Walked::placed(backend, start + i + probe == 0)));
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
fn pool_at<T: Tables>(tables: &T, plan: &PlanEntry, step: u32) -> Result<PoolEntry, Reason> {
    let index = *plan.pools.get(step as usize).ok_or(Reason::Inconsistent)?;
    tables.pool(index as u32).copied().ok_or(Reason::Inconsistent)
}

/// The last resort: the first member in the plan's order that no operator took out, whatever its health.
#[inline(always)]
fn fail_open<T: Tables>(
    tables: &T,
    plan: &PlanEntry,
    request: &Walk,
    trace: &mut impl Trace,
) -> Result<Option<Walked>, Reason> {
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    for step in 0..MAX_PLAN_STEPS as u32 {
        if step >= plan.steps {
            break;
        }
        let pool = pool_at(tables, plan, step)?;
        let crosses = request.origin == Origin::Relay && pool.flags & POOL_RELAY != 0;
        if crosses || admissions.get(pool.admission).is_held() {
            continue;
        }
        if let Some(backend) = select::ignoring_health(tables, &pool, request.h)? {
            trace.step(Step::FailOpen {
                pool: pool.pool,
                backend,
            });
            return Ok(Some(Walked(backend as u64 | Walked::FAIL_OPEN)));
        }
    }
    Ok(None)
}
