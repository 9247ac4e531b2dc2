//! The rounds of one group that wait for answers: when they go out, when they are due, and when they may be judged. Pure.
//!
//! Rounds go out on absolute ticks and are judged in their order. One whose answers are all there, or in which only those are silent who
//! have been silent before, is judged when it is due. Any other one says that something has failed, unless it was this host that did not get
//! to the answers: it is [held](Hold) until that is known.

use super::round::{Miss, Outcome};
use super::testimony::{Hold, Pace, Ruling, SLACK_DIVISOR, Testimony};
use super::ticks::Dice;

/// Rounds of one group that may wait for answers at the same time.
pub const MAX_ROUNDS_IN_FLIGHT: usize = 64;
/// How a group is probed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Pacing {
    /// From one round to the next.
    pub interval_ns: u64,
    /// How long an answer may take.
    pub timeout_ns: u64,
    /// Each round is delayed by a random time of up to this.
    pub jitter_ns: u64,
    /// Misses in a row that are news: more of them change nothing.
    pub fall: u32,
}

/// One probe of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Probe {
    /// Sent, and not answered yet.
    Waiting {
        /// When it was sent.
        sent_ns: u64,
    },
    /// Answered.
    Answered {
        /// When the answer was taken.
        at_ns: u64,
        /// From sending to taking.
        rtt_ns: u64,
    },
    /// The agent says that it is not well.
    Unwell,
    /// It could not be sent.
    Unsent,
}

/// A round that is to be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Tick {
    /// When it was due.
    pub due_ns: u64,
    /// How late that is.
    pub lateness_ns: u64,
    /// Ticks before it that were missed.
    pub missed: u64,
    /// Its number; none if there is no place for it, so that it is left out.
    pub round: Option<u64>,
}

/// What became of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It came in time.
    InTime,
    /// The round has been judged.
    Late,
    /// There was one already.
    Twice,
}

/// A round that is judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Judged {
    /// When it was sent: answers from here on prove that this host is connected.
    pub since_ns: u64,
    /// When its answers were due.
    pub due_ns: u64,
    /// For how long it was held.
    pub held_ns: u64,
    /// It was given a grace, because this host was late or stood still.
    pub stalled: bool,
}

/// A round that waits.
#[derive(Debug)]
struct Flight {
    round: u64,
    sent_ns: u64,
    /// When the answers were due first.
    due_ns: u64,
    /// When it is judged; later than due if there was a grace.
    judge_ns: u64,
    /// When to look at it again, unless a CPU answers before.
    wake_ns: u64,
    waiting: bool,
    hold: Option<Hold>,
    probes: Vec<Probe>,
}

/// See the [module's description](self).
#[derive(Debug)]
pub struct Flights {
    pacing: Pacing,
    pace: Pace,
    /// The next tick, without its delay.
    next_send_ns: u64,
    /// How far the next round is delayed.
    delay_ns: u64,
    dice: Dice,
    next_round: u64,
    /// Misses in a row of each target.
    streaks: Vec<u32>,
    /// Round r lies at r modulo the length.
    flights: Vec<Flight>,
}

impl Flights {
    /// Rounds of `targets` probes, the first one due at `now_ns`; `None` if more of them would be in flight than
    /// [`MAX_ROUNDS_IN_FLIGHT`]. `seed` chooses the delays.
    #[must_use]
    pub fn new(pacing: Pacing, targets: usize, now_ns: u64, seed: u64) -> Option<Self> {
        let Pacing { interval_ns, timeout_ns, jitter_ns, .. } = pacing;
        let pace = Pace::new(interval_ns, timeout_ns);
        // One more than fit in a timeout, because a round that was sent late is judged late; one if it was delayed, and those of a grace.
        let spare = 2 + u64::from(jitter_ns > 0) + pace.grace_ns().div_ceil(interval_ns);
        let least = usize::try_from(timeout_ns.div_ceil(interval_ns)).ok()?.saturating_add(2);
        if least > MAX_ROUNDS_IN_FLIGHT {
            return None;
        }
        let depth = usize::try_from(timeout_ns.div_ceil(interval_ns) + spare).ok()?.min(MAX_ROUNDS_IN_FLIGHT);
        let flight = || Flight {
            round: 0,
            sent_ns: 0,
            due_ns: 0,
            judge_ns: 0,
            wake_ns: 0,
            waiting: false,
            hold: None,
            probes: vec![Probe::Unsent; targets],
        };
        Some(Self {
            pacing,
            pace,
            next_send_ns: now_ns,
            delay_ns: 0,
            dice: Dice::new(seed),
            next_round: 1,
            streaks: vec![0; targets],
            flights: (0..depth).map(|_| flight()).collect(),
        })
    }

    fn slot(&self, round: u64) -> usize {
        // The remainder is below the number of flights, which is a usize.
        (round % self.flights.len() as u64) as usize
    }

    /// When something is due next, if CPUs' answers are told of as they come.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        let judged = self.oldest().map_or(u64::MAX, |slot| self.flights[slot].wake_ns);
        judged.min(self.next_send_ns + self.delay_ns)
    }

    /// The round that waits longest: those behind it wait for it too.
    fn oldest(&self) -> Option<usize> {
        let waiting = self.flights.iter().enumerate().filter(|(_, flight)| flight.waiting);
        waiting.min_by_key(|(_, flight)| flight.round).map(|(slot, _)| slot)
    }

    /// The round that is to be sent at `now_ns`, if one is.
    pub fn tick(&mut self, now_ns: u64) -> Option<Tick> {
        let lateness_ns = now_ns.checked_sub(self.next_send_ns + self.delay_ns)?;
        let missed = lateness_ns / self.pacing.interval_ns;
        let tick_ns = self.next_send_ns + missed * self.pacing.interval_ns;
        let due_ns = tick_ns + self.delay_ns;
        self.next_send_ns = tick_ns + self.pacing.interval_ns;
        self.delay_ns = self.dice.below(self.pacing.jitter_ns);
        let round = self.next_round;
        if self.flights[self.slot(round)].waiting {
            // Only while rounds are held: a round less is the harmless way out.
            return Some(Tick { due_ns, lateness_ns, missed: missed + 1, round: None });
        }
        self.next_round += 1;
        Some(Tick { due_ns, lateness_ns, missed, round: Some(round) })
    }

    /// A round is being sent from `sent_ns` on: answers to it may come before all of it is.
    pub fn open(&mut self, round: u64, sent_ns: u64) {
        let slot = self.slot(round);
        let flight = &mut self.flights[slot];
        (flight.round, flight.sent_ns, flight.waiting, flight.hold) = (round, sent_ns, true, None);
        (flight.due_ns, flight.judge_ns, flight.wake_ns) = (u64::MAX, u64::MAX, u64::MAX);
        flight.probes.fill(Probe::Unsent);
    }

    /// What became of sending a probe.
    pub fn set(&mut self, round: u64, position: usize, probe: Probe) {
        let slot = self.slot(round);
        self.flights[slot].probes[position] = probe;
    }

    /// All of a round that was due at `due_ns` has been sent by `done_ns`.
    pub fn sent(&mut self, round: u64, due_ns: u64, done_ns: u64) {
        // A round that went out late gets its full timeout; a little lateness is not worth a second wake-up.
        let late = done_ns.saturating_sub(due_ns) > self.pacing.interval_ns / SLACK_DIVISOR;
        let judge_ns = if late { done_ns } else { due_ns } + self.pacing.timeout_ns;
        let slot = self.slot(round);
        let flight = &mut self.flights[slot];
        (flight.due_ns, flight.judge_ns, flight.wake_ns) = (judge_ns, judge_ns, judge_ns);
    }

    /// An answer to a probe of a round, taken at `now_ns`; `well` is what the target says of itself.
    pub fn answer(&mut self, round: u64, position: usize, well: bool, now_ns: u64) -> Taken {
        let slot = self.slot(round);
        let flight = &mut self.flights[slot];
        if !flight.waiting || flight.round != round {
            return Taken::Late;
        }
        let Probe::Waiting { sent_ns } = flight.probes[position] else { return Taken::Twice };
        if let Some(hold) = &mut flight.hold {
            hold.hear_late();
        }
        flight.probes[position] = if well {
            Probe::Answered { at_ns: now_ns, rtt_ns: now_ns.saturating_sub(sent_ns) }
        } else {
            Probe::Unwell
        };
        Taken::InTime
    }

    /// Judges the next round if it is due at `now_ns` and need not be held any longer, and puts an outcome for each target into
    /// `outcomes`. What had arrived at `now_ns` must have been taken. Returns `None` too if CPUs are to be asked, or to answer.
    pub fn judge(
        &mut self,
        now_ns: u64,
        testimony: &mut Testimony,
        ask: &mut impl FnMut(u64),
        outcomes: &mut Vec<Outcome>,
    ) -> Option<Judged> {
        let slot = self.oldest()?;
        let is_news = self.is_news(slot);
        let flight = &self.flights[slot];
        // What was waited for may come before its time is up.
        let is_due = flight.judge_ns <= now_ns || flight.hold.is_some() && !is_news;
        if !is_due || is_news && self.holds(slot, now_ns, testimony, ask) {
            return None;
        }
        let flight = &mut self.flights[slot];
        flight.waiting = false;
        let due_ns = flight.due_ns;
        outcomes.clear();
        for (&probe, streak) in flight.probes.iter().zip(&mut self.streaks) {
            let outcome = match probe {
                Probe::Answered { at_ns, rtt_ns } => Outcome::Answered { at_ns, rtt_ns },
                Probe::Waiting { .. } => Outcome::Missed { how: Miss::Silent, due_ns },
                Probe::Unwell => Outcome::Missed { how: Miss::Unwell, due_ns },
                Probe::Unsent => Outcome::Missed { how: Miss::Unsent, due_ns },
            };
            let missed = matches!(outcome, Outcome::Missed { .. });
            *streak = if missed { streak.saturating_add(1) } else { 0 };
            outcomes.push(outcome);
        }
        let hold = flight.hold.take();
        let held_ns = hold.map_or(0, |hold| now_ns.saturating_sub(hold.since_ns()));
        let stalled = hold.is_some_and(|hold| hold.graces() > 0);
        Some(Judged { since_ns: flight.sent_ns, due_ns, held_ns, stalled })
    }

    /// Whether somebody is silent who was not so before.
    fn is_news(&self, slot: usize) -> bool {
        let fall = self.pacing.fall.max(1);
        let silent = self.flights[slot].probes.iter().zip(&self.streaks);
        silent.into_iter().any(|(probe, &streak)| matches!(probe, Probe::Waiting { .. }) && streak < fall)
    }

    /// Whether a round that is due is not to be judged yet.
    fn holds(
        &mut self,
        slot: usize,
        now_ns: u64,
        testimony: &mut Testimony,
        ask: &mut impl FnMut(u64),
    ) -> bool {
        let flight = &mut self.flights[slot];
        let hold = flight.hold.get_or_insert(Hold::new(now_ns));
        match hold.rule(self.pace, (flight.judge_ns, now_ns), testimony, ask) {
            Ruling::Believe => return false,
            Ruling::Wait(until_ns) => flight.wake_ns = until_ns,
            Ruling::Grace(due_ns) => (flight.judge_ns, flight.wake_ns) = (due_ns, due_ns),
        }
        true
    }
}

#[cfg(test)]
#[path = "flights_tests.rs"]
mod tests;
