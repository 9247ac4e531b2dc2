//! Stage 3: which plan applies, and which of its pools takes the flow?

use super::{
    flow::{self, FlowTable, Known},
    hash::{pool_byte, share_limit, spill_hash},
    parse::Transport,
    ports::Tables,
    select::{self, Home, NO_HOME, Probe},
    trace::{Step, Trace},
    transition,
};
use crate::abi::{
    backend::BackendEntry,
    flow::FlowWords,
    limits::{MAX_PLAN_STEPS, MAX_PROBES, MAX_THOROUGH_PROBES},
    plan::{POOL_RELAY, PlanEntry, PoolEntry},
    reason::Reason,
    service::{
        SERVICE_FAIL_OPEN, SERVICE_LEAVING, SERVICE_MULTI_PLAN, SERVICE_SPILLS, SERVICE_STICKY_UDP,
        ServiceEntry,
    },
};
use crate::net::protocol;

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

/// Input of [`away`]: all that is known of a packet that does not go straight home. In words, as it lies in memory between
/// functions.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Away {
    /// Its flow, and where it comes from.
    pub key: FlowWords,
    /// The flow's hash.
    pub h: u64,
    /// Index of the plan.
    pub plan: u32,
    /// What the flow's first slot in the plan's first pool holds, mark included; or [`NO_HOME`].
    pub home: u32,
    /// As in the plan's first pool.
    pub table_base: u32,
    /// As in the plan's first pool.
    pub table_slots: u32,
    /// As in the plan's first pool.
    pub pool_admission: u32,
    /// As in the plan's first pool.
    pub pool: u32,
    /// Flags of the service.
    pub service_flags: u32,
    /// As in the service.
    pub previous_base: u32,
    /// As in the service.
    pub previous_plans: u32,
    /// Bits `OPENING`, `CLOSING`, `TRACKED` and `STICKY`.
    packet_flags: u32,
}

impl Away {
    const OPENING: u32 = 1;
    const CLOSING: u32 = 2;
    const TRACKED: u32 = 4;
    const STICKY: u32 = 8;

    #[inline(always)]
    fn new(
        service: &ServiceEntry,
        first: &PoolEntry,
        transport: &Transport,
        h: u64,
        origin: Origin,
        plan: u32,
        home: u32,
    ) -> Self {
        let protocol = transport.tuple.protocol;
        let sticky = protocol == protocol::UDP && service.flags & SERVICE_STICKY_UDP != 0;
        // A datagram of a sticky service is one of an established flow.
        let opening = transport.opening & !sticky;
        let tracked = flow::is_tracked(protocol, service.flags);
        let packet_flags = opening as u32 * Self::OPENING
            + transport.closing as u32 * Self::CLOSING
            + tracked as u32 * Self::TRACKED
            + sticky as u32 * Self::STICKY;
        Self {
            key: transport.tuple.flow_words(origin),
            h,
            plan,
            home,
            table_base: first.table_base,
            table_slots: first.table_slots,
            pool_admission: first.admission as u32,
            pool: first.pool,
            service_flags: service.flags,
            previous_base: service.previous_base,
            previous_plans: service.previous_plans as u32,
            packet_flags,
        }
    }

    /// Whether the packet may open a flow.
    #[must_use]
    #[inline(always)]
    pub const fn opening(&self) -> bool {
        self.packet_flags & Self::OPENING != 0
    }

    /// Whether the packet closes a flow.
    #[must_use]
    #[inline(always)]
    pub const fn closing(&self) -> bool {
        self.packet_flags & Self::CLOSING != 0
    }

    /// Whether the tables of flows hold such flows.
    #[must_use]
    #[inline(always)]
    pub const fn tracked(&self) -> bool {
        self.packet_flags & Self::TRACKED != 0
    }

    /// Whether the packet may be its flow's first, and the tables of flows hold such flows.
    #[must_use]
    #[inline(always)]
    pub const fn may_be_new(&self) -> bool {
        self.tracked() && self.packet_flags & (Self::OPENING | Self::STICKY) != 0
    }

    /// The walk for a packet that found no place without.
    #[inline(always)]
    #[must_use]
    pub const fn walk(&self) -> Walk {
        Walk {
            plan: self.plan,
            h: self.h,
            opening: self.opening(),
            origin: self.origin(),
            service_flags: self.service_flags,
        }
    }

    /// Where the packet comes from.
    #[must_use]
    #[inline(always)]
    pub const fn origin(&self) -> Origin {
        if self.key.origin() == Origin::Relay as u8 { Origin::Relay } else { Origin::Client }
    }
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
    if request.home == NO_HOME || (opening && starts_elsewhere(tables, request)) {
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

/// Why a flow is known to live somewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum How {
    /// The flow table says so.
    Flows = 0,
    /// The table of flows that are opening says so; it was moved to the flow table.
    Openings = 1,
    /// Its home was there before the last change of the configuration; it was written into the flow table.
    OldHome = 2,
    /// The same, but the limit of inserts was reached.
    OldHomeLimited = 3,
}

// They fit their bits of the word.
const _: () = assert!(PASSES as usize * MAX_PLAN_STEPS <= 32 && MAX_THOROUGH_PROBES <= 512);

/// Result of [`walk`] in one word, so that it fits a register where the walk is a function of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Walked(pub u64);

impl Walked {
    const HOME: u64 = 1 << 32;
    const FAIL_OPEN: u64 = 1 << 33;
    const REFUSED: u64 = 1 << 34;
    const KNOWN: u64 = 1 << 35;
    const ROUND_SHIFT: u32 = 37;
    const PROBES_SHIFT: u32 = 42;
    const HOW_SHIFT: u32 = 51;

    /// Nothing was found yet.
    const UNDECIDED: Self = Self(1 << 36);
    /// The maps contradict each other.
    pub const INCONSISTENT: Self = Self::refused(Reason::Inconsistent);

    /// Placed in a round of the walk, after so many members of the round's pool refused. Sums and no branches: the walk's frame is
    /// small.
    #[inline(always)]
    const fn placed(backend: u32, round: u32, refused: u32) -> Self {
        // The sign bit of "less one" says "none".
        let home = ((round | refused).wrapping_sub(1) >> 31) as u64 * Self::HOME;
        let last_resort = PASS_FAIL_OPEN * MAX_PLAN_STEPS as u32;
        let fail_open = ((last_resort - 1).wrapping_sub(round) >> 31) as u64 * Self::FAIL_OPEN;
        let place = (round as u64) << Self::ROUND_SHIFT | (refused as u64) << Self::PROBES_SHIFT;
        Self(backend as u64 | home | fail_open | place)
    }

    const fn refused(reason: Reason) -> Self {
        Self(reason as u64 | Self::REFUSED)
    }

    /// The flow lives there.
    const fn known(backend: u32, how: How) -> Self {
        Self(backend as u64 | Self::KNOWN | (how as u64) << Self::HOW_SHIFT)
    }

    /// The step of the plan whose pool took the flow, from 0. For those who watch; means nothing of a flow that is [known](Self::is_known).
    #[must_use]
    pub const fn step(self) -> u32 {
        (self.0 >> Self::ROUND_SHIFT) as u32 % MAX_PLAN_STEPS as u32
    }

    /// How many slots of that pool's table were tried, the one that took it included.
    #[must_use]
    pub const fn probes(self) -> u32 {
        ((self.0 >> Self::PROBES_SHIFT) as u32 & 0x1ff) + 1
    }

    /// Why the flow is [known](Self::is_known).
    #[must_use]
    pub const fn how(self) -> How {
        match self.0 >> Self::HOW_SHIFT & 3 {
            0 => How::Flows,
            1 => How::Openings,
            2 => How::OldHome,
            _ => How::OldHomeLimited,
        }
    }

    /// Whether nothing was found yet: a walk must follow.
    #[must_use]
    #[inline(always)]
    pub const fn is_undecided(self) -> bool {
        self.0 & Self::UNDECIDED.0 != 0
    }

    /// Whether the flow goes there because it lives there.
    #[must_use]
    #[inline(always)]
    pub const fn is_known(self) -> bool {
        self.0 & Self::KNOWN != 0
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
        } else if self.0 as u32 == Reason::PassLeaving as u32 {
            Reason::PassLeaving
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
    // Shares of a plan say where flows open, and nothing of established ones: those start at the first step.
    let h2 = if opening { spill_hash(h) } else { 0 };
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
        let (first, end) =
            if pass == PASS_THOROUGH { (MAX_PROBES, MAX_THOROUGH_PROBES) } else { (0, MAX_PROBES) };
        let probe = Probe { pool: plan.pools[step as usize] as u32, h, first, end, opening, ignore_health };
        if let Some((backend, probes)) = tables.probe(&probe, trace).taken()? {
            return Ok(Walked::placed(backend, round, probes));
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
