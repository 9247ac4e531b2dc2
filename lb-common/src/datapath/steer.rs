//! Stage 3: which plan applies, and which of its pools takes the flow?

use super::{
    flow::{self, FlowTable, Known},
    hash::{leave_bytes, pool_byte, share_limit, spill_hash},
    parse::Transport,
    ports::Tables,
    select::{self, Home, NO_HOME, Probe},
    trace::{Step, Trace},
    transition,
};
use crate::abi::{
    backend::BackendEntry,
    limits::{MAX_PLAN_STEPS, MAX_PROBES, MAX_THOROUGH_PROBES},
    plan::{PLAN_PANIC, POOL_RELAY, PlanEntry, PoolEntry},
    reason::Reason,
    service::{
        SERVICE_FAIL_OPEN, SERVICE_LEAVING, SERVICE_MULTI_PLAN, SERVICE_SPILLS, SERVICE_STEERED, ServiceEntry,
    },
};

mod words;

pub use words::{Away, How, Walk, Walked};

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

/// Flags of services whose packets never go straight home.
const NOT_STRAIGHT: u32 = SERVICE_SPILLS | SERVICE_LEAVING;

/// Places a packet of `service`: at home if the way there is and always was open, else as [`away`] says.
///
/// # Errors
/// [`Reason::AllDown`] or [`Reason::RelayRefused`] when no pool of the plan may take it, [`Reason::PassLeaving`] when it
/// would open a flow of a service that is no longer configured, [`Reason::Inconsistent`] when maps contradict each other.
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
        let region = tables.client_region(&transport.tuple.source);
        plan_index += if region < service.plans { region } else { 0 };
        first = tables.plan(plan_index).ok_or(Reason::Inconsistent)?.first;
        trace.step(Step::ClientRegion { region });
    }
    trace.step(Step::Plan { plan: plan_index });
    let straight = service.flags & NOT_STRAIGHT == 0 && may_enter(&first, origin);
    let home = if straight {
        match select::at_home(tables, &first, h, trace)? {
            Home::Open(placement) => return Ok(placement),
            Home::Doubtful(slot) => slot,
        }
    } else if may_enter(&first, origin) {
        select::first_slot(tables, &first, h)?
    } else {
        NO_HOME
    };
    let request = Away::new(service, &first, transport, h, origin, plan_index, home);
    let mut walked = tables.away(&request, trace);
    trace.placed(walked);
    if walked.is_undecided() {
        walked = tables.walk(&request.walk(), trace);
        trace.placed(walked);
    }
    let Some(backend) = walked.backend() else {
        return Err(walked.reason());
    };
    if request.may_be_new() && !walked.is_known() {
        let written = tables.settle(&request, walked, trace);
        if written {
            trace.remembered();
        }
    }
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    Ok(Placement { backend, entry, home: walked.is_home() })
}

/// Whether a packet may enter a pool at all, whatever the health of its members.
#[inline(always)]
fn may_enter(pool: &PoolEntry, origin: Origin) -> bool {
    origin as u8 == Origin::Client as u8 || pool.flags & POOL_RELAY == 0
}

/// Places a packet that does not go straight home, as far as that takes no [`walk`]: an established flow where it is known to
/// live, or where its home was before a transition; else any flow in one of the first slots of the plan's first pool.
#[inline(always)]
pub fn away<T: Tables>(tables: &T, request: &Away, trace: &mut impl Trace) -> Walked {
    if request.opening() && request.service_flags & SERVICE_LEAVING != 0 {
        return Walked::refused(Reason::PassLeaving);
    }
    match try_away(tables, request, trace) {
        Ok(walked) => walked,
        Err(reason) => Walked::refused(reason),
    }
}

#[inline(always)]
fn try_away<T: Tables>(tables: &T, request: &Away, trace: &mut impl Trace) -> Result<Walked, Reason> {
    if request.tracked() && !request.opening() {
        let root = tables.root().ok_or(Reason::Inconsistent)?;
        match flow::known(tables, root, request, trace)? {
            Known::At(backend, FlowTable::Flows) => return Ok(Walked::known(backend, How::Flows)),
            Known::At(backend, FlowTable::Openings) => return Ok(Walked::known(backend, How::Openings)),
            Known::Nothing if transition::lasts(request) => {
                if let Some(backend) = transition::stays(tables, request, trace)? {
                    let written = flow::insert(tables, root, request, backend, trace);
                    let how = if written { How::OldHome } else { How::OldHomeLimited };
                    return Ok(Walked::known(backend, how));
                }
            }
            Known::Nothing | Known::Refused => {}
        }
    }
    near(tables, request, trace)
}

/// Tries the first slots of the plan's first pool, if the flow starts there.
#[inline(always)]
fn near<T: Tables>(tables: &T, request: &Away, trace: &mut impl Trace) -> Result<Walked, Reason> {
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    let opening = request.opening();
    // A steered plan says which flows look where, and only the walk reads it.
    let steered = request.service_flags & SERVICE_STEERED != 0;
    if request.home == NO_HOME || steered || (opening && starts_elsewhere(tables, request)) {
        return Ok(Walked::UNDECIDED);
    }
    let admission = admissions.get(request.pool_admission as u16);
    if admission.share(opening) != u8::MAX {
        return Ok(Walked::UNDECIDED);
    }
    trace.step(Step::Pool { pool: request.pool, admission, ignore_health: false, entered: true });
    Ok(match select::probe_near(tables, admissions, request, trace)? {
        Some((backend, probes)) => Walked::placed(backend, 0, probes),
        None => Walked::UNDECIDED,
    })
}

/// Whether a flow opens at another step of its plan than the first. Shares of a plan say where flows open, and nothing of
/// established ones: one that nobody wrote down is at home.
#[inline(always)]
fn starts_elsewhere<T: Tables>(tables: &T, request: &Away) -> bool {
    request.service_flags & SERVICE_SPILLS != 0
        && tables.plan(request.plan).is_none_or(|plan| is_before_start(plan, 0, spill_hash(request.h)))
}

/// How words are eased for a packet: [`PLAN_PANIC`] if its plan has stopped believing health, else 0.
#[inline(always)]
pub fn eased<T: Tables>(tables: &T, request: &Away) -> u32 {
    if request.service_flags & SERVICE_STEERED == 0 {
        return 0;
    }
    tables.plan(request.plan).map_or(0, |plan| plan.eased)
}

/// Keeps the invariant of [`flow`] for a packet that may be a flow's first and that [`away`] or [`walk`] placed. Whether it was written down.
#[inline(always)]
pub fn settle<T: Tables>(tables: &T, request: &Away, walked: Walked, trace: &mut impl Trace) -> bool {
    let (Some(root), Some(backend)) = (tables.root(), walked.backend()) else {
        return false;
    };
    // Whether an untracked flow would be looked for there.
    let mut expected = walked.is_home();
    if expected && transition::lasts(request) {
        expected = transition::old_home(tables, request) == Ok(Some(backend));
    }
    if expected {
        flow::wipe(tables, root, request);
    } else {
        flow::remember_opening(tables, root, request, backend, trace);
    }
    !expected
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

/// What a walk must know of its packet and plan, in one word that is asked for at each step: what lives through the whole of a walk
/// lies on the stack, and that is short. Bits are used without branches where that can be: each one that the verifier takes both ways
/// doubles what is behind it.
mod traits {
    use crate::abi::plan::POOL_RELAY;

    /// It came from another region: it may not enter pools with that flag.
    pub(super) const RELAYED: u64 = POOL_RELAY as u64;
    /// The packet may open a flow.
    pub(super) const OPENING: u64 = 2;
    /// The service fails open.
    pub(super) const FAIL_OPEN: u64 = 4;
    /// From here on one bit for each step: the flow goes on at once if the first slot of the step's pool refuses it.
    pub(super) const GOES_ON_SHIFT: u32 = 8;
    /// From here on [`PlanEntry::eased`](crate::abi::plan::PlanEntry::eased).
    pub(super) const EASED_SHIFT: u32 = 16;
    /// From here on what shares of the plan are compared with.
    pub(super) const SPILL_SHIFT: u32 = 32;
    /// From here on what shares of pools are compared with.
    pub(super) const POOL_SHIFT: u32 = 48;
}

/// The traits of a packet and its plan, for [`walk`]: a word that means something to it alone.
#[inline(always)]
pub fn traits<T: Tables>(tables: &T, request: &Walk) -> u64 {
    let Some(plan) = tables.plan(request.plan) else { return 0 };
    let fail_open = request.service_flags & SERVICE_FAIL_OPEN != 0;
    let mut traits = request.opening as u64 * traits::OPENING
        + (request.origin as u64 & 1) * traits::RELAYED
        + fail_open as u64 * traits::FAIL_OPEN
        + ((pool_byte(request.h) as u64) << traits::POOL_SHIFT);
    if request.opening {
        // Shares of a plan say where flows open, and nothing of established ones: those start at the first step.
        traits |= (spill_hash(request.h) as u64) << traits::SPILL_SHIFT;
    }
    if request.service_flags & SERVICE_STEERED != 0 {
        traits |= (plan.eased as u64) << traits::EASED_SHIFT;
        if request.opening {
            traits |= (goes_on(plan, request.h) as u64) << traits::GOES_ON_SHIFT;
        }
    }
    traits
}

/// One bit for each step: whether a flow that opens goes on to the next pool at once if the first slot of this one's pool refuses
/// it. Raising the share of a step moves flows only outward, and none that its first slot admits.
#[inline(always)]
fn goes_on(plan: &PlanEntry, h: u64) -> u32 {
    let mut bytes = leave_bytes(h);
    let mut steps = 0;
    let mut step = 0;
    while step < MAX_PLAN_STEPS {
        // The sign bit of the difference says "less".
        steps |= ((bytes as u32 & 0xff).wrapping_sub(share_limit(plan.leaves[step])) >> 31) << step;
        bytes >>= 8;
        step += 1;
    }
    steps
}

#[inline(always)]
fn try_walk<T: Tables>(tables: &T, request: &Walk, trace: &mut impl Trace) -> Result<Walked, Reason> {
    let plan = tables.plan(request.plan).ok_or(Reason::Inconsistent)?;
    let admissions = tables.admissions().ok_or(Reason::Inconsistent)?;
    // One loop and not a function for each pass: what the verifier walks through is iterations times ways.
    for round in 0..PASSES * MAX_PLAN_STEPS as u32 {
        let (pass, step) = (round / MAX_PLAN_STEPS as u32, round % MAX_PLAN_STEPS as u32);
        if step >= plan.steps {
            continue;
        }
        let traits = tables.traits(request);
        let fail_open = pass == PASS_FAIL_OPEN;
        if fail_open && traits & traits::FAIL_OPEN == 0 {
            break;
        }
        let before = is_before_start(plan, step, (traits >> traits::SPILL_SHIFT) as u16);
        if (pass == PASS_ONWARD && before) || (pass == PASS_BEFORE && !before) {
            continue;
        }
        let pool = pool_at(tables, plan, step)?;
        if traits & traits::RELAYED & pool.flags as u64 != 0 {
            trace.step(Step::NoSecondCrossing { pool: pool.pool });
            continue;
        }
        let opening = (traits / traits::OPENING) as u32 & 1;
        let eased = if fail_open { PLAN_PANIC } else { (traits >> traits::EASED_SHIFT) as u16 as u32 };
        let admission = admissions.get(pool.admission);
        let counts = select::as_operators_say(admission, eased);
        let entered = (traits >> traits::POOL_SHIFT) as u32 & 0xff < share_limit(counts.share_for(opening));
        trace.step(Step::Pool { pool: pool.pool, admission, ignore_health: eased != 0, entered });
        if !entered {
            continue;
        }
        // Who goes on at once tries the first slot only, until every pool was tried.
        let goes_on = (traits as u32) >> traits::GOES_ON_SHIFT >> step & 1;
        let (first, end) = if pass == PASS_THOROUGH {
            (MAX_PROBES, MAX_THOROUGH_PROBES)
        } else {
            (0, MAX_PROBES - (MAX_PROBES - 1) * goes_on)
        };
        let (pool, opening) = (plan.pools[step as usize] as u32, opening != 0);
        let probe = Probe { pool, h: request.h, first, end, opening, eased };
        if let Some((backend, probes)) = tables.probe(&probe, trace).taken()? {
            return Ok(Walked::placed(backend, round, probes));
        }
    }
    let is_relayed = tables.traits(request) & traits::RELAYED != 0;
    Err(if is_relayed { Reason::RelayRefused } else { Reason::AllDown })
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
