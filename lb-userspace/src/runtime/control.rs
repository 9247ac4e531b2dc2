//! The control thread: the one way from a failed probe, or an operator's word, to a store into the data plane.
//!
//! A thread of its own, with real-time priority where the system allows it, so that neither the API nor slow checks nor
//! a busy machine delay a failover. It waits on one epoll for its timer, the heartbeat sockets and commands; it reads no
//! file and writes no log. What it did comes out as [`NewEvent`]s, after the store.

mod priority;
mod snapshot;
mod words;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use nix::sys::eventfd::{EfdFlags, EventFd};
use tokio::sync::{mpsc, oneshot, watch};

use crate::config::{Config, DomainId};
use crate::health::judge::Judge;
use crate::health::prober::bfd::BfdProber;
use crate::health::prober::cpus::Cpus;
use crate::health::prober::{self, ElsewhereError, Prober, ProberError};
use crate::health::target::Targets;
use crate::plan::planner::{AdmissionStore, InitialHealth, Order, Planner, Refusal, Subject, Words};
use crate::plan::shift::{Shift, ShiftOrder};
use crate::plan::state::{Moment, State};
use crate::plan::steering::eject::Ejector;
use crate::telemetry::event::NewEvent;

pub use crate::health::prober::ProbingStatus;
pub use snapshot::{
    AdmissionStatus, BackendStatus, CheckStatus, ControlStatus, DomainStatus, SessionStatus, Snapshot,
    Standing,
};

/// Commands that wait for the control thread at most.
pub const COMMAND_QUEUE: usize = 256;
/// Events that wait for the journal at most.
pub const EVENT_QUEUE: usize = 4096;

/// What an operator's action came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
pub struct Acted {
    /// The effective state before.
    pub from: State,
    /// The effective state after.
    pub to: State,
    /// Whether anything is different now.
    pub changed: bool,
    /// When it was decided, by `CLOCK_MONOTONIC`.
    pub decided_ns: u64,
    /// When the store was done; the same as `decided_ns` if the word did not have to change.
    pub stored_ns: u64,
}

/// What an action on a shift came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ShiftActed {
    /// The shift before.
    pub before: Option<Shift>,
    /// The shift now.
    pub now: Option<Shift>,
    /// When it was decided, by `CLOCK_MONOTONIC`.
    pub decided_ns: u64,
    /// When the store was done; the same as `decided_ns` if the word did not have to change.
    pub stored_ns: u64,
}

/// Why an operator's action did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ActError {
    /// It makes no sense.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Too many commands wait.
    #[error("{COMMAND_QUEUE} commands are waiting already: try again")]
    Busy,
    /// There is no control thread any more.
    #[error("the control thread has stopped")]
    Stopped,
}

/// Why the control thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The prober's sockets.
    #[error(transparent)]
    Prober(#[from] ProberError),
    /// A descriptor or the thread itself.
    #[error("cannot start the control thread: {0}")]
    System(#[from] std::io::Error),
    /// What probes outside the control thread.
    #[error(transparent)]
    Elsewhere(#[from] ElsewhereError),
}

/// A command for the thread.
enum Command {
    Snapshot(oneshot::Sender<snapshot::Raw>),
    /// Only answer.
    Pulse(oneshot::Sender<()>),
    /// Make open words clean that were stored before this moment.
    Clean {
        before_ns: u64,
    },
    Act {
        subject: Subject,
        order: Box<Order>,
        answer: oneshot::Sender<Result<Acted, ActError>>,
    },
    Shift {
        domain: DomainId,
        order: Box<ShiftOrder>,
        reason: String,
        answer: oneshot::Sender<Result<ShiftActed, ActError>>,
    },
}

/// Starts probing and deciding.
///
/// The words stand as they are in `store` until evidence, an override or an operator changes them. The receiver gets an
/// event for each change; if it is not read, events are lost and counted. It ends when the thread has ended.
///
/// # Errors
/// When a socket or a thread cannot be made.
pub fn spawn(
    config: Arc<Config>,
    store: Box<dyn AdmissionStore>,
    said: &Words,
    initial: InitialHealth,
) -> Result<(Handle, mpsc::Receiver<NewEvent>), SpawnError> {
    let (planner, changes) = Planner::new(&config, said, initial, |cell| store.load(cell), now());
    let (judge, facts) = Judge::new(&config, Targets::new(&config), |subject| planner.automatic(subject));
    let prober = Prober::new(judge.targets())?;
    let bfd = BfdProber::new(judge.targets()).map_err(ProberError::from)?;
    let is_quick = prober.next_ns().is_some() || bfd.next_ns().is_some();
    let cpus = if is_quick { Cpus::start() } else { Cpus::none() }?;
    let (gather, elsewhere) = prober::spawn(judge.targets())?;
    let (commands, command_queue) = sync_channel(COMMAND_QUEUE);
    let (events, event_receiver) = mpsc::channel(EVENT_QUEUE);
    let (judged, judged_watch) = watch::channel(false);
    let (words, words_watch) = watch::channel(0);
    let ejector = Ejector::new(&config, |id| planner.automatic(Subject::Backend(id)) == State::Down);
    let bell = Arc::new(
        EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC).map_err(std::io::Error::from)?,
    );
    let stop = Arc::new(AtomicBool::new(false));
    let worker = worker::Worker::new(worker::Parts {
        config: Arc::clone(&config),
        store,
        planner,
        judge,
        prober,
        bfd,
        cpus,
        gather,
        commands: command_queue,
        bell: Arc::clone(&bell),
        stop: Arc::clone(&stop),
        events,
        judged,
        words,
        ejector,
    })?;
    std::thread::Builder::new().name("weir-control".to_owned()).spawn(move || {
        // Ends with this thread.
        let _elsewhere = elsewhere;
        worker.run(changes, facts);
    })?;
    let shared = Shared { config, commands, bell, stop, judged: judged_watch, words: words_watch };
    Ok((Handle(Arc::new(shared)), event_receiver))
}

/// The present.
pub(super) fn now() -> Moment {
    Moment { time: jiff::Timestamp::now(), ns: super::clock::monotonic_ns() }
}

/// Gives the calling thread a priority just above the control thread's, if the system allows it.
pub(crate) fn raise_witness() {
    priority::raise_witness();
}

/// Makes the calling thread the least important one.
pub(super) fn lower_priority() {
    priority::lower();
}

struct Shared {
    config: Arc<Config>,
    commands: SyncSender<Command>,
    bell: Arc<EventFd>,
    stop: Arc<AtomicBool>,
    judged: watch::Receiver<bool>,
    words: watch::Receiver<u64>,
}

impl Shared {
    fn send(&self, command: Command) -> Result<(), ActError> {
        self.commands.try_send(command).map_err(|error| match error {
            TrySendError::Full(_) => ActError::Busy,
            TrySendError::Disconnected(_) => ActError::Stopped,
        })?;
        // Adding 1 fails only when the counter is near its limit of 2^64: then the thread is awake anyway.
        let _ = self.bell.write(1);
        Ok(())
    }
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.bell.write(1);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The control thread, seen from outside. Clones share it; when the last one is dropped the thread stops.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

impl Handle {
    /// The states of everything.
    ///
    /// # Errors
    /// [`ActError::Busy`] or [`ActError::Stopped`].
    pub async fn snapshot(&self) -> Result<Snapshot, ActError> {
        let (answer, raw) = oneshot::channel();
        self.0.send(Command::Snapshot(answer))?;
        let raw = raw.await.map_err(|_| ActError::Stopped)?;
        Ok(raw.name(&self.0.config))
    }

    /// Comes back when the thread has come round to it: it is alive.
    ///
    /// # Errors
    /// [`ActError::Busy`] or [`ActError::Stopped`].
    pub async fn pulse(&self) -> Result<(), ActError> {
        let (answer, alive) = oneshot::channel();
        self.0.send(Command::Pulse(answer))?;
        alive.await.map_err(|_| ActError::Stopped)
    }

    /// Drains, fails or restores a backend or a domain, for a reason that goes into the journal.
    ///
    /// # Errors
    /// See [`ActError`]; then nothing changed.
    pub async fn act(&self, subject: Subject, order: Order) -> Result<Acted, ActError> {
        let (answer, acted) = oneshot::channel();
        self.0.send(Command::Act { subject, order: Box::new(order), answer })?;
        acted.await.map_err(|_| ActError::Stopped)?
    }

    /// Shifts a domain, or extends or cancels its shift, for a reason that goes into the journal.
    ///
    /// # Errors
    /// See [`ActError`]; then nothing changed.
    pub async fn shift(
        &self,
        domain: DomainId,
        order: ShiftOrder,
        reason: String,
    ) -> Result<ShiftActed, ActError> {
        let (answer, acted) = oneshot::channel();
        self.0.send(Command::Shift { domain, order: Box::new(order), reason, answer })?;
        acted.await.map_err(|_| ActError::Stopped)?
    }

    /// Makes words clean that are open and were last stored before `before_ns`, by `CLOCK_MONOTONIC`: since then no flow can have been
    /// placed away from home because of them. What cannot be asked for now waits for the next walk.
    pub fn make_clean(&self, before_ns: u64) {
        let _ = self.0.send(Command::Clean { before_ns });
    }

    /// Waits until every target answered, or missed as many probes as it takes to call it DOWN; at most `timeout`.
    /// Returns whether that came about.
    pub async fn first_verdicts(&self, timeout: Duration) -> bool {
        let mut judged = self.0.judged.clone();
        let all = judged.wait_for(|&judged| judged);
        matches!(tokio::time::timeout(timeout, all).await, Ok(Ok(_)))
    }

    /// Tells whenever admission words changed: how many were stored so far.
    pub fn words_stored(&self) -> watch::Receiver<u64> {
        self.0.words.clone()
    }

    /// Ends the thread and the probes. The words in the data plane stay as they are.
    pub fn stop(&self) {
        self.0.stop();
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
