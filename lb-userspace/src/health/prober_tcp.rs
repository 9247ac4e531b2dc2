//! TCP connect checks, on tokio: slow compared with heartbeats, and many may wait at once.
//!
//! Each target has a task that connects once per interval and resets the connection at once, so that neither side keeps
//! anything. Results go through a bounded channel to the control thread, which gathers them per interval.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use crate::config::CheckKind;
use crate::health::round::{Miss, Outcome, Round};
use crate::health::target::Targets;
use crate::runtime::clock::{as_ns, monotonic_ns};

/// Connections that may be opening at the same time.
pub const MAX_CONNECTING: usize = 256;
/// Results that may wait for the control thread, per target.
pub const RESULTS_PER_TARGET: usize = 4;

/// What became of one connection.
type TcpResult = (usize, Outcome);

/// The tasks; they end when this is dropped.
#[derive(Debug, Default)]
pub struct Tasks(#[expect(dead_code, reason = "held for its Drop, which aborts the tasks")] JoinSet<()>);

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

/// Gathers the results of TCP checks into rounds.
#[derive(Debug)]
pub struct Gather {
    results: Receiver<TcpResult>,
    lost: Arc<AtomicU64>,
    windows: Vec<Window>,
    /// For each target, its window and its position there.
    places: Vec<Option<(usize, usize)>>,
    handed_out: Vec<Outcome>,
}

/// Starts the tasks of all TCP targets; `None` if there are some but no tokio runtime is at hand.
#[must_use]
pub fn spawn(targets: &Targets) -> Option<(Gather, Tasks)> {
    let now_ns = monotonic_ns();
    let mut windows = Vec::new();
    let mut places = vec![None; targets.targets.len()];
    let mut probes = Vec::new();
    for (index, group) in targets.groups.iter().enumerate() {
        let CheckKind::Tcp { port } = group.kind else {
            continue;
        };
        for (position, &target) in group.targets.iter().enumerate() {
            places[target] = Some((windows.len(), position));
            let to = SocketAddr::new(targets.targets[target].address, port);
            probes.push(Probe { target, to, interval: group.interval, timeout: group.timeout });
        }
        let interval_ns = as_ns(group.interval).max(1);
        windows.push(Window {
            group: index,
            interval_ns,
            proof_ns: 2 * interval_ns.max(as_ns(group.timeout)),
            next_ns: now_ns + interval_ns,
            outcomes: vec![Outcome::Unknown; group.targets.len()],
        });
    }
    let (sender, results) = sync_channel(probes.len() * RESULTS_PER_TARGET);
    let lost = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    if !probes.is_empty() {
        let runtime = Handle::try_current().ok()?;
        let permits = Arc::new(Semaphore::new(MAX_CONNECTING));
        for probe in probes {
            let run = probe.run(Arc::clone(&permits), sender.clone(), Arc::clone(&lost));
            tasks.spawn_on(run, &runtime);
        }
    }
    Some((Gather { results, lost, windows, places, handed_out: Vec::new() }, Tasks(tasks)))
}

impl Gather {
    /// When a round is due next; `None` if there are no TCP targets.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.windows.iter().map(|window| window.next_ns).min()
    }

    /// Results that found no room in the channel, since start.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
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

/// One target's task.
#[derive(Clone, Copy)]
struct Probe {
    target: usize,
    to: SocketAddr,
    interval: Duration,
    timeout: Duration,
}

impl Probe {
    async fn run(self, permits: Arc<Semaphore>, results: SyncSender<TcpResult>, lost: Arc<AtomicU64>) {
        // Spread over the first interval, so that not all connections open at once.
        let share = RandomState::new().hash_one(self.target) as u32;
        sleep(self.interval.mul_f64(f64::from(share) / f64::from(u32::MAX))).await;
        let mut ticks = interval(self.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // Waiting for a permit is this host's fault, so the clock starts after it.
            let Ok(permit) = permits.acquire().await else {
                return;
            };
            let outcome = self.connect().await;
            drop(permit);
            match results.try_send((self.target, outcome)) {
                Ok(()) => {}
                Err(TrySendError::Full(_)) => {
                    lost.fetch_add(1, Ordering::Relaxed);
                }
                Err(TrySendError::Disconnected(_)) => return,
            }
        }
    }

    async fn connect(self) -> Outcome {
        let start_ns = monotonic_ns();
        let connected = timeout(self.timeout, TcpStream::connect(self.to)).await;
        let at_ns = monotonic_ns();
        match connected {
            Ok(Ok(stream)) => {
                // A reset leaves no TIME_WAIT behind; where it cannot be set, an orderly close does as well.
                let _ = stream.set_zero_linger();
                Outcome::Answered { at_ns, rtt_ns: at_ns - start_ns }
            }
            Ok(Err(error)) => Outcome::Missed { how: classify(&error), due_ns: at_ns },
            Err(_) => Outcome::Missed { how: Miss::Silent, due_ns: start_ns + as_ns(self.timeout) },
        }
    }
}

fn classify(error: &io::Error) -> Miss {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::ConnectionReset => Miss::Refused,
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Miss::Unreachable,
        ErrorKind::TimedOut => Miss::Silent,
        _ => Miss::Unsent,
    }
}

#[cfg(test)]
#[path = "prober_tcp_tests.rs"]
mod tests;
