//! How many answers Weir itself gives: echo replies and "too big".
//!
//! A bucket for each CPU, kept as one point in time (the virtual scheduling form of the leaky bucket, ITU-T I.371): each answer moves it
//! on by the time that one answer costs, and it may not run ahead of the clock by more than [`ANSWER_BURST_NS`].

use super::ports::Tables;
use crate::abi::limits::ANSWER_BURST_NS;

const NS_PER_SECOND: u64 = 1_000_000_000;

/// Whether another answer may be given now. If so, it is counted as given.
#[inline(always)]
pub fn allow<T: Tables>(tables: &T) -> bool {
    let rate = tables.root().map_or(0, |root| root.answers_per_second) as u64;
    if rate == 0 {
        return false;
    }
    let cost = NS_PER_SECOND / rate;
    let burst = if cost > ANSWER_BURST_NS { cost } else { ANSWER_BURST_NS };
    let now = tables.now_ns();
    let booked = tables.answers_booked_ns();
    let from = if booked > now { booked } else { now };
    if from + cost > now + burst {
        return false;
    }
    tables.book_answers_ns(from + cost);
    true
}
