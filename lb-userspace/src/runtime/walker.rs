//! The thread that walks the tables of flows: ends transitions, forgets flows that are over, and keeps marks, clean words and
//! the flow filter as exact as they can be.
//!
//! It runs at the lowest priority. Admission words belong to the control thread, which is asked to make them clean and refuses
//! what changed since the walk began.

use std::{
    io,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use lb_common::abi::backend::BACKEND_LEAVING;
use lb_common::abi::service::{SERVICE_LEAVING, SERVICE_VIP_ONLY};
use lb_common::datapath::flow::FlowTable;
use lb_common::datapath::ports::Tables;

use super::clock::monotonic_ns;
use super::control::Handle;
use crate::{
    config::Config,
    dataplane::{counters::CounterReader, live::LiveTables, loader::DataPlane, upkeep::Upkeep},
    plan::{
        ids::{BackendIndex, ServiceIndex},
        transition::Unneeded,
        walker::{Found, Verdict, Walk},
    },
    telemetry::{event::NewEvent, journal::Journal},
};

/// From one walk to the next, unless a transition ends earlier.
const PERIOD: Duration = Duration::from_secs(10);
/// The shortest time from one walk to the next.
const SHORTEST: Duration = Duration::from_millis(250);
/// After a new epoch of the flow filter, how long a program that read the old one may still write it.
const EPOCH_GRACE: Duration = Duration::from_millis(100);

/// What is known of the tables of flows.
#[derive(Clone, Debug, Default)]
pub(super) struct FlowState {
    /// What the last walk found; none before the first.
    pub(super) found: Option<Found>,
    /// When that walk began, by `CLOCK_MONOTONIC`; 0 before the first.
    pub(super) walk_ns: u64,
    /// Marked slots after the last walk.
    pub(super) marked: u64,
    /// When the transition ends, if one runs.
    pub(super) transition_ends: Option<jiff::Timestamp>,
    /// For how long the packet counter of each backend has stood still, by index, as far as walks tell.
    pub(super) quiet: Vec<Duration>,
    /// What left the configuration and is not needed any more.
    pub(super) unneeded: Unneeded,
    /// Backends that left the configuration.
    pub(super) leaving_backends: u64,
    /// Services that left the configuration, without the entries of VIPs.
    pub(super) leaving_services: u64,
}

/// The running thread; ends when dropped.
pub(super) struct Walker {
    shared: Arc<Shared>,
    work: Work,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    stopped: Mutex<bool>,
    wake: Condvar,
    state: Mutex<FlowState>,
    /// See [`Walker::walked`].
    walked_ns: Arc<AtomicU64>,
}

/// What the thread works with.
#[derive(Clone)]
struct Work {
    node: String,
    transition: Duration,
    flow_idle: Duration,
    upkeep: Upkeep,
    live: LiveTables,
    counters: CounterReader,
    control: Handle,
    journal: Journal,
}

impl Walker {
    pub(super) fn start(
        config: &Config,
        data_plane: &DataPlane,
        control: Handle,
        journal: Journal,
    ) -> io::Result<Self> {
        let work = Work {
            node: config.node.name.clone(),
            transition: config.node.transition,
            flow_idle: config.node.flow_idle,
            upkeep: data_plane.upkeep(),
            live: data_plane.live(),
            counters: data_plane.counters(),
            control,
            journal,
        };
        let walker = Self { shared: Arc::default(), work, thread: Mutex::default() };
        walker.spawn()?;
        Ok(walker)
    }

    /// Begins again after a [`stop`](Self::stop).
    pub(super) fn restart(&self) {
        *lock(&self.shared.stopped) = false;
        if let Err(error) = self.spawn() {
            tracing::error!(%error, "the flow table is not walked any more: restart the daemon");
        }
    }

    fn spawn(&self) -> io::Result<()> {
        let work = self.work.clone();
        // Nobody wrote down when the transition began: after a restart it begins its time anew.
        let transition = work.upkeep.is_in_transition().then(|| Instant::now() + work.transition);
        lock(&self.shared.state).transition_ends =
            transition.map(|_| jiff::Timestamp::now() + work.transition);
        let mut thread = Thread {
            period: PERIOD.min(work.transition).max(SHORTEST),
            transition,
            work,
            backends: Vec::new(),
            services: Vec::new(),
            shared: Arc::clone(&self.shared),
        };
        let thread =
            std::thread::Builder::new().name("weir-walker".to_owned()).spawn(move || thread.run())?;
        *lock(&self.thread) = Some(thread);
        Ok(())
    }

    /// What is known now.
    pub(super) fn state(&self) -> FlowState {
        lock(&self.shared.state).clone()
    }

    /// When the last walk began that is over, by `CLOCK_MONOTONIC`: every entry that is older is found by the mark of its slot.
    pub(super) fn walked(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.shared.walked_ns)
    }

    /// Ends the thread and waits for it, at most as long as one batch of entries takes.
    pub(super) fn stop(&self) {
        *lock(&self.shared.stopped) = true;
        self.shared.wake.notify_all();
        if let Some(thread) = lock(&self.thread).take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that walks the flow table ended by a panic");
        }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    /// Waits, unless told to stop. Returns whether to go on.
    fn pause(&self, time: Duration) -> bool {
        let stopped = lock(&self.stopped);
        let waited = self.wake.wait_timeout_while(stopped, time, |stopped| !*stopped);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    fn is_stopped(&self) -> bool {
        *lock(&self.stopped)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Thread {
    work: Work,
    period: Duration,
    /// When the transition ends.
    transition: Option<Instant>,
    /// Packets of each backend and service, and since when there are so many.
    backends: Vec<(u64, Instant)>,
    services: Vec<(u64, Instant)>,
    shared: Arc<Shared>,
}

impl Thread {
    fn run(&mut self) {
        super::control::lower_priority();
        while self.shared.pause(self.next_pause()) {
            if self.transition.is_some_and(|ends| ends <= Instant::now()) {
                self.end_transition();
            }
            if let Err(error) = self.walk() {
                tracing::warn!(%error, "the flow table cannot be walked; marks and entries stay as they are");
            }
        }
    }

    fn next_pause(&self) -> Duration {
        let left = self.transition.map(|ends| ends.saturating_duration_since(Instant::now()));
        left.map_or(self.period, |left| left.min(self.period))
    }

    fn end_transition(&mut self) {
        self.work.upkeep.end_transition();
        self.transition = None;
        lock(&self.shared.state).transition_ends = None;
        let cause = "the transition is over: flows that were silent all along are at home by the new tables"
            .to_owned();
        self.work.journal.record(NewEvent::daemon(self.work.node.clone(), cause, monotonic_ns()));
    }

    fn walk(&mut self) -> io::Result<()> {
        let began_ns = monotonic_ns();
        let in_transition = self.transition.is_some();
        let epoch = self.work.upkeep.next_epoch();
        if !self.shared.pause(EPOCH_GRACE) {
            return Ok(());
        }
        let observation = self.work.live.observe();
        let mut walk = Walk::new(&observation, self.work.flow_idle);
        for table in [FlowTable::Openings, FlowTable::Flows] {
            let mut gone = Vec::new();
            self.work.upkeep.walk(table, |key, entry| match walk.entry(table, key, entry) {
                Verdict::Keep { filter } => {
                    filter.into_iter().for_each(|at| self.work.upkeep.set_filter(at, epoch));
                }
                Verdict::Remove => gone.push(*key),
            })?;
            gone.iter().try_for_each(|key| self.work.upkeep.remove(table, key))?;
            if self.shared.is_stopped() {
                return Ok(());
            }
        }
        let found = walk.finish();
        self.work.upkeep.sweep_filter(epoch);
        found.needed.iter().for_each(|&slot| self.work.upkeep.mark(slot));
        // Every entry is found by its slot's mark now, so no open word is needed for one.
        self.work.control.make_clean(began_ns);
        self.shared.walked_ns.store(began_ns, Ordering::Release);
        let mut marked = self.work.upkeep.marked();
        if !in_transition {
            let superfluous = found.superfluous(&marked);
            superfluous.iter().for_each(|&slot| self.work.upkeep.unmark(slot));
            marked.retain(|slot| found.needed.contains(slot));
        }
        self.tell(&observation, (found, began_ns), marked.len() as u64, in_transition);
        Ok(())
    }

    fn tell(
        &mut self,
        tables: &impl Tables,
        (found, began_ns): (Found, u64),
        marked: u64,
        in_transition: bool,
    ) {
        let now = Instant::now();
        let counters = &self.work.counters;
        let count = |at: u32| tables.backend(at).map(|_| counters.backend(BackendIndex(at)).packets);
        note_quiet(&mut self.backends, count, now);
        let count = |at: u32| tables.service(at).map(|_| counters.service(ServiceIndex(at)).packets);
        note_quiet(&mut self.services, count, now);
        let quiet = |since: &(u64, Instant)| now.saturating_duration_since(since.1);
        let mut unneeded = Unneeded::default();
        if !in_transition {
            let leaving =
                |at: usize| tables.service(at as u32).is_some_and(|s| s.flags & SERVICE_LEAVING != 0);
            let all: Vec<_> = (0..self.services.len()).filter(|&at| leaving(at)).collect();
            let is_vip =
                |at: usize| tables.service(at as u32).is_some_and(|s| s.flags & SERVICE_VIP_ONLY != 0);
            let is_over = |&at: &usize| is_vip(at) || quiet(&self.services[at]) >= self.work.flow_idle;
            // The entry of a VIP stays as long as any service that left does.
            if all.iter().all(is_over) {
                unneeded.services = all.iter().map(|&at| ServiceIndex(at as u32)).collect();
                let has_left = |at: &u32| tables.backend(*at).is_some_and(|b| b.flags & BACKEND_LEAVING != 0);
                let backends = (0..self.backends.len() as u32).filter(has_left).map(BackendIndex);
                // Connections of QUIC are found without an entry: only silence tells that they are over.
                let may_be_named = |at: &BackendIndex| {
                    self.work.live.is_named_by_quic(at.0)
                        && quiet(&self.backends[at.position()]) < self.work.flow_idle
                };
                let backends = backends.filter(|at| !found.by_backend.contains_key(at) && !may_be_named(at));
                unneeded.backends = backends.collect();
            }
        }
        let has_left = |at: &u32| tables.backend(*at).is_some_and(|b| b.flags & BACKEND_LEAVING != 0);
        let leaving_backends = (0..self.backends.len() as u32).filter(has_left).count() as u64;
        let has_left = |at: &u32| {
            let flags = tables.service(*at).map_or(0, |service| service.flags);
            flags & SERVICE_LEAVING != 0 && flags & SERVICE_VIP_ONLY == 0
        };
        let leaving_services = (0..self.services.len() as u32).filter(has_left).count() as u64;
        let mut state = lock(&self.shared.state);
        (state.leaving_backends, state.leaving_services) = (leaving_backends, leaving_services);
        state.quiet = self.backends.iter().map(quiet).collect();
        state.found = Some(found);
        state.walk_ns = began_ns;
        state.marked = marked;
        state.unneeded = unneeded;
    }
}

fn note_quiet(known: &mut Vec<(u64, Instant)>, count: impl Fn(u32) -> Option<u64>, now: Instant) {
    for (at, packets) in (0..).map_while(|at| count(at).map(|packets| (at as usize, packets))) {
        match known.get_mut(at) {
            Some(last) if last.0 == packets => {}
            Some(last) => *last = (packets, now),
            None => known.push((packets, now)),
        }
    }
}
