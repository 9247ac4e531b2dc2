//! Results of probes that end one by one, gathered into rounds for the control thread.
//!
//! Probers outside the control thread report through one bounded channel. The control thread takes what waits there when a
//! group's interval is over, and judges it as one round, so that targets that fail together are seen together.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use crate::health::round::{Outcome, Round};
use crate::health::target::{Group, Targets};
use crate::runtime::clock::as_ns;

/// Results that may wait for the control thread, per target.
pub const RESULTS_PER_TARGET: usize = 4;

/// A target's number and what became of its probe.
type Ended = (usize, Outcome);

/// There is no control thread any more: whoever reports may end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Gone;

/// A prober's end of the channel.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    results: SyncSender<Ended>,
    lost: Arc<AtomicU64>,
}

impl Reporter {
    /// Hands over a result; if there is no room for it, it is lost and counted.
    pub(super) fn report(&self, target: usize, outcome: Outcome) -> Result<(), Gone> {
        match self.results.try_send((target, outcome)) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.lost.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(Gone),
        }
    }
}

/// A group's results since it was judged last.
#[derive(Debug)]
struct Window {
    group: usize,
    interval_ns: u64,
    /// How far back an answer proves that this host is connected: every target had a turn in that time.
    proof_ns: u64,
    next_ns: u64,
    outcomes: Vec<Outcome>,
}

/// Gathers results into rounds.
#[derive(Debug)]
pub struct Gather {
    results: Receiver<Ended>,
    lost: Arc<AtomicU64>,
    windows: Vec<Window>,
    /// For each target, its window and its position there.
    places: Vec<Option<(usize, usize)>>,
    handed_out: Vec<Outcome>,
}

impl Gather {
    /// A channel with room for the targets of the groups that `takes` says, whose first rounds are due one interval after
    /// `now_ns`.
    pub(super) fn new(targets: &Targets, now_ns: u64, takes: impl Fn(&Group) -> bool) -> (Self, Reporter) {
        let mut windows = Vec::new();
        let mut places = vec![None; targets.targets.len()];
        let mut room = 0;
        for (index, group) in targets.groups.iter().enumerate().filter(|(_, group)| takes(group)) {
            for (position, &target) in group.targets.iter().enumerate() {
                places[target] = Some((windows.len(), position));
            }
            room += group.targets.len() * RESULTS_PER_TARGET;
            let interval_ns = as_ns(group.interval).max(1);
            windows.push(Window {
                group: index,
                interval_ns,
                proof_ns: 2 * interval_ns.max(as_ns(group.timeout)),
                next_ns: now_ns + interval_ns,
                outcomes: vec![Outcome::Unknown; group.targets.len()],
            });
        }
        let (sender, results) = sync_channel(room);
        let lost = Arc::new(AtomicU64::new(0));
        let reporter = Reporter { results: sender, lost: Arc::clone(&lost) };
        (Self { results, lost, windows, places, handed_out: Vec::new() }, reporter)
    }

    /// When a round is due next; `None` if there is nothing to gather.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.windows.iter().map(|window| window.next_ns).min()
    }

    /// Results that found no room in the channel, since start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Whether every prober has ended. Takes a result if there is one.
    #[cfg(test)]
    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self.results.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected))
    }

    /// Takes all results that wait. Of several for one target the last one counts.
    pub fn drain(&mut self) {
        let most = self.places.len() * RESULTS_PER_TARGET;
        for (target, outcome) in self.results.try_iter().take(most) {
            if let Some((window, position)) = self.places[target] {
                self.windows[window].outcomes[position] = outcome;
            }
        }
    }

    /// Hands out the next round that is due at `now_ns`, and begins a new one.
    pub fn judge(&mut self, now_ns: u64) -> Option<Round<'_>> {
        let window = self.windows.iter_mut().find(|window| window.next_ns <= now_ns)?;
        let due_ns = window.next_ns;
        // Ticks that this thread missed are left out: their results are in this round.
        window.next_ns += ((now_ns - due_ns) / window.interval_ns + 1) * window.interval_ns;
        self.handed_out.clear();
        self.handed_out.extend_from_slice(&window.outcomes);
        window.outcomes.fill(Outcome::Unknown);
        let since_ns = now_ns.saturating_sub(window.proof_ns);
        Some(Round { group: window.group, since_ns, due_ns, outcomes: &self.handed_out })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::CheckKind;
    use crate::health::round::Miss;
    use crate::health::testing::{check, config};

    const SECOND_NS: u64 = 1_000_000_000;

    fn gather(count: usize) -> (Gather, Reporter) {
        let config = config(&vec![vec![vec![count]]], vec![check(CheckKind::Tcp { port: 80 }, 1000)]);
        Gather::new(&Targets::new(&config), SECOND_NS, |_| true)
    }

    fn silent() -> Outcome {
        Outcome::Missed { how: Miss::Silent, due_ns: 7 }
    }

    #[test]
    fn the_last_result_of_a_target_counts_and_each_only_once() {
        let (mut gather, reporter) = gather(3);
        let answered = Outcome::Answered { at_ns: 8, rtt_ns: 1 };
        for (target, outcome) in [(0, silent()), (2, silent()), (0, answered)] {
            reporter.report(target, outcome).expect("a live gatherer");
        }
        gather.drain();
        let round = gather.judge(2 * SECOND_NS).expect("due");
        assert_eq!(round.outcomes, [answered, Outcome::Unknown, silent()]);
        let round = gather.judge(3 * SECOND_NS).expect("due");
        assert_eq!(round.outcomes, [Outcome::Unknown; 3]);
    }

    #[test]
    fn ticks_that_were_missed_are_one_round() {
        let (mut gather, _reporter) = gather(1);
        let due_ns = gather.next_ns().expect("due");
        assert!(gather.judge(due_ns - 1).is_none());
        assert!(gather.judge(due_ns + 5 * SECOND_NS / 2).is_some());
        assert!(gather.judge(due_ns + 5 * SECOND_NS / 2).is_none());
        assert_eq!(gather.next_ns(), Some(due_ns + 3 * SECOND_NS));
    }

    #[test]
    fn results_without_room_are_counted_and_an_abandoned_channel_says_so() {
        let (mut gather, reporter) = gather(1);
        for _ in 0..RESULTS_PER_TARGET + 3 {
            reporter.report(0, silent()).expect("a live gatherer");
        }
        assert_eq!(gather.lost(), 3);
        gather.drain();
        reporter.report(0, silent()).expect("a live gatherer");
        assert_eq!(gather.lost(), 3);
        drop(gather);
        assert_eq!(reporter.report(0, silent()), Err(Gone));
    }

    #[test]
    fn nothing_to_gather_is_never_due() {
        let config = config(&vec![vec![vec![1]]], Vec::new());
        let (gather, _reporter) = Gather::new(&Targets::new(&config), 0, |_| true);
        assert_eq!(gather.next_ns(), None);
    }
}
