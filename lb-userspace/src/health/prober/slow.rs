//! Checks that take many steps, on tokio: HTTP, HTTPS and programs.
//!
//! Each target has a task that probes once per interval. How many probes run at once is capped for each kind, in two lanes:
//! a target whose last probe hung until its timeout waits in a lane of its own, so that those that hang leave the lane of
//! the others free.

use std::net::IpAddr;
use std::sync::Arc;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, sleep_until, timeout};

use super::exec;
use super::gather::Reporter;
use super::http::{Http, HttpError};
use crate::config::{CheckKind, ExecCheck};
use crate::health::round::{Miss, Outcome};
use crate::health::target::{Group, Targets};
use crate::health::ticks::{Dice, Ticks};
use crate::runtime::clock::{as_ns, monotonic_ns};

/// HTTP and HTTPS probes that run at once for targets that do not hang, and for those that do.
pub const MAX_HTTP: [usize; 2] = [256, 64];
/// Programs that run at once, likewise.
pub const MAX_EXEC: [usize; 2] = [32, 8];

/// Why these checks could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SlowError {
    /// There is no runtime.
    #[error("HTTP and exec checks need a tokio runtime: start the control thread from inside one")]
    NoRuntime,
    /// TLS cannot be prepared.
    #[error("check {check}: {source}")]
    Tls {
        /// Name of the check.
        check: String,
        /// Why.
        source: HttpError,
    },
}

/// Whether these tasks probe the group.
pub(super) fn takes(group: &Group) -> bool {
    matches!(group.kind, CheckKind::Http(_) | CheckKind::Exec(_))
}

/// The two lanes of a kind.
#[derive(Clone, Debug)]
struct Lanes([Arc<Semaphore>; 2]);

impl Lanes {
    fn new(room: [usize; 2]) -> Self {
        Self(room.map(|room| Arc::new(Semaphore::new(room))))
    }
}

/// What a probe does.
#[derive(Clone)]
enum Means {
    Http(Arc<Http>),
    Exec(Arc<ExecCheck>),
}

/// One target's task.
struct Probe {
    target: usize,
    address: IpAddr,
    check: String,
    means: Means,
    timeout: Duration,
    ticks: Ticks,
    dice: Dice,
    lanes: Lanes,
    reporter: Reporter,
}

/// Starts the tasks of the groups that it [`takes`]; they end when what is returned is dropped.
pub(super) fn spawn(targets: &Targets, reporter: &Reporter) -> Result<JoinSet<()>, SlowError> {
    let mut tasks = JoinSet::new();
    let now_ns = monotonic_ns();
    let (http, programs) = (Lanes::new(MAX_HTTP), Lanes::new(MAX_EXEC));
    for group in &targets.groups {
        let (means, lanes) = match &group.kind {
            CheckKind::Http(check) => {
                let named = |source| SlowError::Tls { check: group.check.clone(), source };
                (Means::Http(Arc::new(Http::new(check).map_err(named)?)), &http)
            }
            CheckKind::Exec(check) => (Means::Exec(Arc::new(check.clone())), &programs),
            _ => continue,
        };
        let runtime = Handle::try_current().map_err(|_| SlowError::NoRuntime)?;
        for &target in &group.targets {
            let mut dice = Dice::new(now_ns ^ target as u64);
            let probe = Probe {
                target,
                address: targets.targets[target].address,
                check: group.check.clone(),
                means: means.clone(),
                timeout: group.timeout,
                ticks: Ticks::new(now_ns, group.interval, group.jitter, &mut dice),
                dice,
                lanes: lanes.clone(),
                reporter: reporter.clone(),
            };
            tasks.spawn_on(probe.run(), &runtime);
        }
    }
    Ok(tasks)
}

impl Probe {
    async fn run(mut self) {
        let mut lane = 0;
        loop {
            let now_ns = monotonic_ns();
            let next_ns = self.ticks.next(now_ns, &mut self.dice);
            sleep_until(Instant::now() + Duration::from_nanos(next_ns.saturating_sub(now_ns))).await;
            // Waiting for room is this host's fault, so the clock starts after it.
            let Ok(permit) = self.lanes.0[lane].acquire().await else { return };
            let start_ns = monotonic_ns();
            let ended = timeout(self.timeout, self.probe()).await.unwrap_or(Err(Miss::Silent));
            drop(permit);
            let at_ns = monotonic_ns();
            lane = usize::from(ended == Err(Miss::Silent));
            let outcome = match ended {
                Ok(()) => Outcome::Answered { at_ns, rtt_ns: at_ns - start_ns },
                Err(how) => Outcome::Missed { how, due_ns: at_ns.min(start_ns + as_ns(self.timeout)) },
            };
            if self.reporter.report(self.target, outcome).is_err() {
                return;
            }
        }
    }

    async fn probe(&self) -> Result<(), Miss> {
        match &self.means {
            Means::Http(http) => http.probe(self.address).await,
            Means::Exec(check) => exec::probe(check, &self.check, self.address, self.timeout).await,
        }
    }
}

#[cfg(test)]
#[path = "slow_tests.rs"]
mod tests;
