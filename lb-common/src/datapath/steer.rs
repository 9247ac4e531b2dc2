//! Stage 3: which plan applies, and which of its pools takes the flow?

use super::{
    flow,
    hash::{pool_byte, share_limit, spill_hash},
    parse::Transport,
    ports::Tables,
    select::{self, Probe},
    trace::{Step, Trace},
};
use crate::abi::{
    backend::BackendEntry,
    limits::{MAX_PLAN_STEPS, MAX_PROBES},
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
    let may_go_home = !spills && (origin == Origin::Client || first.flags & POOL_RELAY == 0);
    if may_go_home && let Some(home) = select::at_home(tables, &first, h, trace)? {
        return Ok(home);
    }
    if let Some(known) = flow::known(tables, transport, h, origin, trace)? {
        return Ok(known);
    }
    let request =
        Walk { plan: plan_index, h, opening: transport.opening, origin, service_flags: service.flags };
    let walked = tables.walk(&request, trace);
    let Some(backend) = walked.backend() else {
        return Err(walked.reason());
    };
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    let placement = Placement { backend, entry, home: walked.is_home() };
    if !walked.is_fail_open() {
        flow::settle(tables, transport, origin, &placement, trace);
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
    pub service_flags: u32,
}

/// Result of [`walk`] in one word, so that it fits a register where the walk is a function of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walked(pub u64);

impl Walked {
    const HOME: u64 = 1 << 32;
    const FAIL_OPEN: u64 = 1 << 33;
    const REFUSED: u64 = 1 << 34;

    const fn placed(backend: u32, home: bool, fail_open: bool) -> Self {
        let home = if home { Self::HOME } else { 0 };
        let fail_open = if fail_open { Self::FAIL_OPEN } else { 0 };
        Self(backend as u64 | home | fail_open)
    }

    const fn refused(reason: Reason) -> Self {
        Self(reason as u64 | Self::REFUSED)
    }

    /// Where the flow goes, if anywhere.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> Option<u32> {
        if self.0 & Self::REFUSED == 0 { Some(self.0 as u32) } else { None }
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

/// Times that the plan is gone through.
const PASSES: u32 = 4;
/// From the flow's starting step on.
const PASS_ONWARD: u32 = 0;
/// The steps before that.
const PASS_BEFORE: u32 = 1;
/// All of them, with more probes: a flow is not refused for bad luck while a pool has members left.
const PASS_THOROUGH: u32 = 2;
/// For services that fail open, all of them whatever their health.
const PASS_FAIL_OPEN: u32 = 3;

#[inline(always)]
fn try_walk<T: Tables>(tables: &T, request: &Walk, trace: &mut impl Trace) -> Result<Walked, Reason> {
    let &Walk { h, opening, origin, service_flags, .. } = request;
    let plan = tables.plan(request.plan).ok_or(Reason::Inconsistent)?;
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let h2 = spill_hash(h);
    // One loop and not a function for each pass: what the verifier walks through is iterations times ways.
    for round in 0..PASSES * MAX_PLAN_STEPS as u32 {
        let (pass, step) = (round / MAX_PLAN_STEPS as u32, round % MAX_PLAN_STEPS as u32);
        let ignore_health = pass == PASS_FAIL_OPEN;
        if step >= plan.steps || (ignore_health && service_flags & SERVICE_FAIL_OPEN == 0) {
            continue;
        }
        let before = is_before_start(plan, step, h2);
        if (pass == PASS_ONWARD && before) || (pass == PASS_BEFORE && !before) {
            continue;
        }
        let pool = pool_at(tables, plan, step)?;
        if origin == Origin::Relay && pool.flags & POOL_RELAY != 0 {
            continue;
        }
        let admission = admissions.get(pool.admission);
        let entered = if ignore_health {
            !admission.is_held()
        } else {
            pool_byte(h) < share_limit(admission.share(opening))
        };
        trace.step(Step::Pool { pool: pool.pool, admission, ignore_health, entered });
        if !entered {
            continue;
        }
        let first = if pass == PASS_THOROUGH { MAX_PROBES } else { 0 };
        let probe = Probe { pool: plan.pools[step as usize] as u32, h, first, opening, ignore_health };
        if let Some((backend, probes)) = tables.probe(&probe, trace).taken()? {
            return Ok(Walked::placed(backend, round == 0 && probes == 0, ignore_health));
        }
    }
    Err(if origin == Origin::Relay { Reason::RelayRefused } else { Reason::AllDown })
}

/// Whether a flow starts behind `step`: at the first step whose cumulative share is not below the flow's second hash, at the
/// last one at the latest. Raising the share of later steps moves flows only outward.
#[inline(always)]
fn is_before_start(plan: &PlanEntry, step: u32, h2: u16) -> bool {
    step + 1 < plan.steps && h2 > plan.shares[step as usize]
}

#[inline(always)]
fn pool_at<T: Tables>(tables: &T, plan: &PlanEntry, step: u32) -> Result<PoolEntry, Reason> {
    let index = *plan.pools.get(step as usize).ok_or(Reason::Inconsistent)?;
    tables.pool(index as u32).copied().ok_or(Reason::Inconsistent)
}
