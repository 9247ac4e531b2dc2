//! How many answers Weir itself gives: echo replies and "too big", and, apart from those, to neighbours who ask for a VIP. The
//! two do not share what they may: a flood of pings must not make a VIP unreachable on its link, nor the other way round.
//!
//! Two buckets for each CPU, each kept as one point in time (the virtual scheduling form of the leaky bucket, ITU-T I.371): each answer moves it
//! on by the time that one answer costs, and it may not run ahead of the clock by more than [`ANSWER_BURST_NS`].

use super::ports::Tables;
use crate::abi::limits::ANSWER_BURST_NS;

/// What an answer is taken from. Each may have [`Root::answers_per_second`](crate::abi::root::Root::answers_per_second).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Budget {
    /// Echo replies, "too big".
    Senders = 0,
    /// Answers to ARP requests and neighbour solicitations.
    Neighbours = 1,
}

/// How many budgets there are.
pub const BUDGETS: usize = 2;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Whether another answer may be given now. If so, it is counted as given.
#[inline(always)]
pub fn allow<T: Tables>(tables: &T, budget: Budget) -> bool {
    let rate = tables.root().map_or(0, |root| root.answers_per_second) as u64;
    if rate == 0 {
        return false;
    }
    let cost = NS_PER_SECOND / rate;
    let burst = if cost > ANSWER_BURST_NS { cost } else { ANSWER_BURST_NS };
    let now = tables.now_ns();
    let booked = tables.answers_booked_ns(budget);
    let from = if booked > now { booked } else { now };
    if from + cost > now + burst {
        return false;
    }
    tables.book_answers_ns(budget, from + cost);
    true
}
