//! What the threads that probe targets one by one have in common: one timer for all of them, at most one probe of a target in flight,
//! results that are told of as they come, and an end.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::gather::Reporter;
use crate::health::round::{Miss, Outcome};
use crate::health::target::Group;
use crate::health::testimony::GRACE_MAX;
use crate::health::ticks::{Dice, Ticks};
use crate::runtime::clock::{Alarm, as_ns, monotonic_ns};

/// A thread that finds a timeout later than this stood still itself: answers may wait behind it, so the probe gets a grace, once.
const SLACK_NS: u64 = 1_000_000;

/// A thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    bell: Arc<EventFd>,
    stop: Arc<AtomicBool>,
}

impl Thread {
    /// Starts `work`, which is to end when it is told to; the bell is rung then.
    pub(super) fn start(
        name: &str,
        work: impl FnOnce(&EventFd, &AtomicBool) + Send + 'static,
    ) -> io::Result<Self> {
        let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = Self { bell: Arc::clone(&bell), stop: Arc::clone(&stop) };
        // The bell is held there, so that its descriptor outlives whatever watches it.
        std::thread::Builder::new().name(name.to_owned()).spawn(move || work(&bell, &stop))?;
        Ok(thread)
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Adding 1 fails only near the counter's limit of 2^64: then the thread is awake anyway.
        let _ = self.bell.write(1);
    }
}

/// What is due for a target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Due {
    /// A probe.
    Begin(usize),
    /// The timeout of the one in flight.
    Expired(usize),
}

/// One target.
#[derive(Debug)]
struct Entry {
    target: usize,
    timeout_ns: u64,
    ticks: Ticks,
    /// When the probe in flight began, when its answer is due, and whether it had its grace.
    flight: Option<(u64, u64, bool)>,
    /// When its one timer that counts is due: the next probe, or the timeout of the one in flight.
    timer_ns: u64,
}

/// All targets of a thread, numbered from 0 in the order in which they were added.
#[derive(Debug)]
pub(super) struct Timetable {
    alarm: Alarm,
    entries: Vec<Entry>,
    /// Moments and targets. Those whose moment is not the target's own any more are passed over.
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    dice: Dice,
    reporter: Reporter,
}

impl Timetable {
    /// No targets yet. The seed spreads probes over time.
    pub(super) fn new(reporter: Reporter, seed: u64) -> io::Result<Self> {
        let (entries, timers) = (Vec::new(), BinaryHeap::new());
        Ok(Self { alarm: Alarm::new()?, entries, timers, dice: Dice::new(seed), reporter })
    }

    /// Adds a target of this group.
    pub(super) fn add(&mut self, group: &Group, target: usize, now_ns: u64) {
        let mut ticks = Ticks::new(now_ns, group.interval, group.jitter, &mut self.dice);
        let timer_ns = ticks.next(now_ns, &mut self.dice);
        self.timers.push(Reverse((timer_ns, self.entries.len())));
        let timeout_ns = as_ns(group.timeout);
        self.entries.push(Entry { target, timeout_ns, ticks, flight: None, timer_ns });
    }

    /// The timer; it rings as it was last [set](Self::set_alarm).
    pub(super) const fn alarm(&self) -> &Alarm {
        &self.alarm
    }

    /// Numbers that nobody foresees if nobody knows the seed.
    pub(super) const fn roll(&mut self) -> u64 {
        self.dice.roll()
    }

    /// Sets the timer to what is due next. Returns whether that is due already.
    pub(super) fn set_alarm(&self) -> bool {
        let Some(&Reverse((next_ns, _))) = self.timers.peek() else { return false };
        // A timer cannot be refused a moment that fits a timespec.
        let _ = self.alarm.set(next_ns);
        next_ns <= monotonic_ns()
    }

    /// The next thing that is due at `now_ns`. Answers that had arrived at that moment must have been taken.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<Due> {
        loop {
            let &Reverse((at_ns, index)) = self.timers.peek()?;
            if at_ns > now_ns {
                return None;
            }
            self.timers.pop();
            let entry = &mut self.entries[index];
            if entry.timer_ns != at_ns {
                continue;
            }
            let Some((_, due_ns, had_grace)) = &mut entry.flight else { return Some(Due::Begin(index)) };
            if *had_grace || now_ns - *due_ns <= SLACK_NS {
                return Some(Due::Expired(index));
            }
            *had_grace = true;
            let until_ns = now_ns + entry.timeout_ns.min(as_ns(GRACE_MAX));
            self.set_timer(index, until_ns);
        }
    }

    /// A probe of this target is in flight since `now_ns`.
    pub(super) fn begin(&mut self, index: usize, now_ns: u64) {
        let due_ns = now_ns + self.entries[index].timeout_ns;
        self.entries[index].flight = Some((now_ns, due_ns, false));
        self.set_timer(index, due_ns);
    }

    /// The probe in flight has ended: tells of it, and sets the time of the next one. `None` when nobody wants results any more.
    pub(super) fn end(&mut self, index: usize, ended: Result<(), Miss>, now_ns: u64) -> Option<()> {
        let Some((start_ns, due_ns, _)) = self.entries[index].flight.take() else { return Some(()) };
        let outcome = match ended {
            Ok(()) => Outcome::Answered { at_ns: now_ns, rtt_ns: now_ns.saturating_sub(start_ns) },
            Err(how) => Outcome::Missed { how, due_ns: due_ns.min(now_ns) },
        };
        self.reporter.report(self.entries[index].target, outcome).ok()?;
        let next_ns = self.entries[index].ticks.next(now_ns, &mut self.dice);
        self.set_timer(index, next_ns);
        Some(())
    }

    fn set_timer(&mut self, index: usize, at_ns: u64) {
        self.entries[index].timer_ns = at_ns;
        self.timers.push(Reverse((at_ns, index)));
    }
}

#[cfg(test)]
mod tests {
    use super::super::gather::Gather;
    use super::*;
    use crate::config::CheckKind;
    use crate::health::target::Targets;
    use crate::health::testing::{check, config};

    const MS: u64 = 1_000_000;
    const INTERVAL_NS: u64 = 1_000 * MS;

    fn timetable() -> (Timetable, Gather) {
        let config = config(&vec![vec![vec![1]]], vec![check(CheckKind::Tcp { port: 80 }, 1_000)]);
        let targets = Targets::new(&config);
        let (gather, reporter) = Gather::new(&targets, 0, |_| true);
        let mut timetable = Timetable::new(reporter, 1).expect("a timer");
        timetable.add(&targets.groups[0], 0, INTERVAL_NS);
        (timetable, gather)
    }

    fn first_ns(timetable: &Timetable) -> u64 {
        timetable.timers.peek().expect("a probe is due").0.0
    }

    #[test]
    fn a_probe_begins_and_ends_and_another_follows() {
        let (mut timetable, mut gather) = timetable();
        let at_ns = first_ns(&timetable);
        assert_eq!(timetable.due(at_ns - 1), None);
        assert_eq!(timetable.due(at_ns), Some(Due::Begin(0)));
        timetable.begin(0, at_ns);
        assert_eq!(timetable.due(at_ns + INTERVAL_NS - 1), None);
        timetable.end(0, Ok(()), at_ns + 5).expect("somebody listens");
        assert_eq!(timetable.end(0, Err(Miss::Silent), at_ns + 6), Some(()), "it has ended already");
        gather.drain();
        let round = gather.judge(INTERVAL_NS).expect("due");
        assert_eq!(round.outcomes, [Outcome::Answered { at_ns: at_ns + 5, rtt_ns: 5 }]);
        assert_eq!(timetable.due(at_ns + INTERVAL_NS), Some(Due::Begin(0)));
        timetable.begin(0, at_ns + INTERVAL_NS);
        assert_eq!(timetable.due(at_ns + INTERVAL_NS), None, "its timeout before meant this moment too");
    }

    #[test]
    fn a_timeout_that_is_found_late_gets_a_grace_and_no_second_one() {
        let (mut timetable, _gather) = timetable();
        let at_ns = first_ns(&timetable);
        timetable.due(at_ns);
        timetable.begin(0, at_ns);
        let due_ns = at_ns + INTERVAL_NS;
        let late_ns = due_ns + SLACK_NS + 1;
        assert_eq!(timetable.due(late_ns), None, "this thread stood still");
        assert_eq!(timetable.due(late_ns + as_ns(GRACE_MAX) + 5 * MS), Some(Due::Expired(0)));
        timetable.end(0, Err(Miss::Silent), late_ns).expect("somebody listens");
        // On time there is none.
        let at_ns = first_ns(&timetable);
        timetable.due(at_ns);
        timetable.begin(0, at_ns);
        assert_eq!(timetable.due(at_ns + INTERVAL_NS + SLACK_NS), Some(Due::Expired(0)));
    }
}
