//! What [`steer`](super) hands from function to function, in words: where functions are of their own in the XDP program, only
//! numbers go in and out.

use super::{Origin, PASS_FAIL_OPEN, PASSES};
use crate::{
    abi::{
        flow::FlowWords,
        limits::{MAX_PLAN_STEPS, MAX_THOROUGH_PROBES},
        plan::PoolEntry,
        reason::Reason,
        service::{SERVICE_STICKY_UDP, ServiceEntry},
    },
    datapath::{
        flow,
        parse::{Shape, Transport},
    },
    net::protocol,
};

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
    /// Bits `OPENING`, `CLOSING`, `TRACKED` and `UNTOLD`.
    packet_flags: u32,
}

impl Away {
    const OPENING: u32 = 1;
    const CLOSING: u32 = 2;
    const TRACKED: u32 = 4;
    /// A datagram of a sticky service: nothing tells whether it opens a flow.
    const UNTOLD: u32 = 8;

    #[inline(always)]
    pub(super) fn new(
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
        // An ICMP error is never a flow's first packet: it leaves no entry.
        let untold = sticky & (transport.shape as u8 != Shape::Error as u8);
        let tracked = flow::is_tracked(protocol, service.flags);
        let packet_flags = opening as u32 * Self::OPENING
            + transport.closing as u32 * Self::CLOSING
            + tracked as u32 * Self::TRACKED
            + untold as u32 * Self::UNTOLD;
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
        self.tracked() && self.packet_flags & (Self::OPENING | Self::UNTOLD) != 0
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
    pub(super) const UNDECIDED: Self = Self(1 << 36);
    /// The maps contradict each other.
    pub const INCONSISTENT: Self = Self::refused(Reason::Inconsistent);

    /// Placed in a round of the walk, after so many members of the round's pool refused. Sums and no branches: the walk's frame is
    /// small.
    #[inline(always)]
    pub(super) const fn placed(backend: u32, round: u32, refused: u32) -> Self {
        // The sign bit of "less one" says "none".
        let home = ((round | refused).wrapping_sub(1) >> 31) as u64 * Self::HOME;
        let last_resort = PASS_FAIL_OPEN * MAX_PLAN_STEPS as u32;
        let fail_open = ((last_resort - 1).wrapping_sub(round) >> 31) as u64 * Self::FAIL_OPEN;
        let place = (round as u64) << Self::ROUND_SHIFT | (refused as u64) << Self::PROBES_SHIFT;
        Self(backend as u64 | home | fail_open | place)
    }

    pub(super) const fn refused(reason: Reason) -> Self {
        Self(reason as u64 | Self::REFUSED)
    }

    /// The flow lives there.
    pub(super) const fn known(backend: u32, how: How) -> Self {
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
