use std::collections::HashMap;
use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;

use lb_common::abi::admission::Admission;
use lb_common::abi::heartbeat::{Heartbeat, REPLY};
use lb_common::abi::pod::Pod;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::*;
use crate::config::{BackendId, CheckKind};
use crate::health::testing::{address, below, check, config, domain};
use crate::plan::planner::Cell;
use crate::plan::state::Action;
use crate::telemetry::event::EventKind;

const DEADLINE: Duration = Duration::from_secs(60);
/// Long enough that a busy machine answers in time.
const INTERVAL_MS: u64 = 200;

/// The words, and every store in order.
type Words = (HashMap<Cell, Admission>, Vec<(Cell, Admission)>);

/// A store that tests can look into.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Words>>);

impl AdmissionStore for Memory {
    fn store(&mut self, cell: Cell, word: Admission) {
        let mut memory = self.0.lock().expect("no panic elsewhere");
        memory.0.insert(cell, word);
        memory.1.push((cell, word));
    }

    fn load(&self, cell: Cell) -> Admission {
        self.0.lock().expect("no panic elsewhere").0.get(&cell).copied().unwrap_or(Admission::OPEN)
    }
}

impl Memory {
    fn stores(&self) -> Vec<(Cell, Admission)> {
        self.0.lock().expect("no panic elsewhere").1.clone()
    }
}

/// Backends that answer heartbeats unless they are silenced; all in one thread, so that a busy machine makes all of them
/// late and not one rack.
struct Backends {
    silent: Arc<Vec<AtomicBool>>,
    port: u16,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Backends {
    fn new(count: usize) -> Self {
        let ip = |index: usize| address(BackendId::from_index(index).expect("few"));
        let first = UdpSocket::bind((ip(0), 0)).expect("a loopback address");
        let port = first.local_addr().expect("bound").port();
        let others =
            (1..count).map(|index| UdpSocket::bind((ip(index), port)).expect("the same port elsewhere"));
        let sockets: Vec<_> = std::iter::once(first).chain(others).collect();
        let silent: Arc<Vec<_>> = Arc::new((0..count).map(|_| AtomicBool::new(false)).collect());
        let stop = Arc::new(AtomicBool::new(false));
        let (mute, end) = (Arc::clone(&silent), Arc::clone(&stop));
        let thread = std::thread::spawn(move || answer(&sockets, &mute, &end));
        Self { silent, port, stop, thread: Some(thread) }
    }

    fn silence(&self, backends: &[usize], silent: bool) {
        for &backend in backends {
            self.silent[backend].store(silent, Ordering::Relaxed);
        }
    }
}

impl Drop for Backends {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))));
    }
}

fn answer(sockets: &[UdpSocket], silent: &[AtomicBool], stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let mut fds: Vec<_> =
            sockets.iter().map(|socket| PollFd::new(socket.as_fd(), PollFlags::POLLIN)).collect();
        poll(&mut fds, PollTimeout::from(50u16)).expect("poll");
        let ready: Vec<_> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        for (index, socket) in sockets.iter().enumerate().filter(|(index, _)| ready[*index]) {
            let mut datagram = [0; 100];
            let (length, from) = socket.recv_from(&mut datagram).expect("a datagram is ready");
            let request = Heartbeat::from_bytes(&datagram[..length]).expect("a heartbeat");
            if !silent[index].load(Ordering::Relaxed) {
                let reply = Heartbeat { kind: REPLY, ..request };
                socket.send_to(reply.as_bytes(), from).expect("sent");
            }
        }
    }
}

/// The next event of one kind.
async fn next(events: &mut mpsc::Receiver<NewEvent>, kind: EventKind) -> NewEvent {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let event = tokio::time::timeout(left, events.recv())
            .await
            .expect("an event in time")
            .expect("a live thread");
        if event.kind == kind {
            return event;
        }
    }
}

fn three_racks(port: u16) -> Arc<Config> {
    Arc::new(config(
        &vec![vec![vec![3, 3], vec![2]]],
        vec![check(CheckKind::Heartbeat { port }, INTERVAL_MS)],
    ))
}

fn start(
    config: &Arc<Config>,
    memory: &Memory,
    initial: InitialHealth,
) -> (Handle, mpsc::Receiver<NewEvent>) {
    spawn(Arc::clone(config), Box::new(memory.clone()), &crate::plan::planner::Words::default(), initial)
        .expect("a control thread")
}

#[tokio::test]
async fn a_rack_that_dies_is_two_stores_and_its_return_is_one() {
    let backends = Backends::new(8);
    let (config, memory) = (three_racks(backends.port), Memory::default());
    let (handle, mut events) = start(&config, &memory, InitialHealth::Fresh);
    assert!(handle.first_verdicts(DEADLINE).await);
    assert_eq!(memory.stores(), [], "all is well");

    let (rack, cell) = (below(&config, "r0/z0/k0"), Cell::Domain(domain(&config, "r0/z0/k0")));
    backends.silence(&rack, true);
    for state in [State::Suspect, State::Down] {
        let event = next(&mut events, EventKind::DomainState).await;
        assert_eq!((event.subject.as_str(), event.to), ("r0/z0/k0", Some(state)), "{event:?}");
        let times =
            [event.evidence_ns, event.decided_ns, event.stored_ns].map(|time| time.expect("measured"));
        assert!(times.is_sorted(), "{event:?}");
    }
    let expected = [(cell, Admission::new(0, 255)), (cell, Admission::CLOSED)];
    assert_eq!(memory.stores(), expected);
    let snapshot = handle.snapshot().await.expect("a live thread");
    let standing = &snapshot.domains[domain(&config, "r0/z0/k0").index()].standing;
    assert_eq!((standing.state, standing.automatic), (State::Down, State::Down));
    assert_eq!(snapshot.backends[rack[0]].checks[0].last, "no answer");
    assert_eq!(snapshot.backends[rack[0]].standing.state, State::Up, "the rack's word speaks for it");
    assert_eq!(snapshot.backends[7].checks[0].last, "answered");
    assert!(snapshot.control.probing.rounds > 0 && snapshot.control.stores == 2);

    backends.silence(&rack, false);
    let event = next(&mut events, EventKind::DomainState).await;
    assert_eq!(event.to, Some(State::Up), "{event:?}");
    assert_eq!(memory.stores()[2..], [(cell, Admission::new(255, 255))]);
    handle.stop();
}

#[tokio::test]
async fn an_operators_word_is_one_store_and_outlives_evidence() {
    let backends = Backends::new(8);
    let (config, memory) = (three_racks(backends.port), Memory::default());
    let (handle, mut events) = start(&config, &memory, InitialHealth::Fresh);
    let zone = Subject::Domain(domain(&config, "r0/z0"));
    let acted = handle.act(zone, Order::new(Action::Drain, "fans".to_owned())).await.expect("done");
    assert_eq!((acted.from, acted.to, acted.changed), (State::Up, State::Draining, true));
    assert!(acted.decided_ns <= acted.stored_ns);
    assert_eq!(memory.stores(), [(zone.cell(), Admission::new(0, 255).held())]);
    let event = next(&mut events, EventKind::Override).await;
    assert_eq!(
        (event.subject.as_str(), event.cause.as_str()),
        ("r0/z0", "operator: drain, without an end: fans")
    );

    // Rack k0 dies below the drained zone: the rack falls, the zone stays as the operator said.
    backends.silence(&below(&config, "r0/z0/k0"), true);
    let event = next(&mut events, EventKind::DomainState).await;
    assert_eq!(event.subject, "r0/z0/k0");
    let again = handle.act(zone, Order::new(Action::Drain, "fans".to_owned())).await.expect("done");
    assert!(!again.changed);
    let restored = handle.act(zone, Order::new(Action::Restore, "done".to_owned())).await.expect("done");
    assert_eq!((restored.from, restored.to), (State::Draining, State::Up));
    assert_eq!(memory.load(zone.cell()), Admission::new(255, 255));
    let refused = handle.act(zone, Order::new(Action::Fail, String::new())).await;
    assert_eq!(refused, Err(ActError::Refused(Refusal::EmptyReason)));
}

#[tokio::test]
async fn a_restart_changes_nothing_and_stopping_leaves_the_words() {
    let backends = Backends::new(8);
    let (config, memory) = (three_racks(backends.port), Memory::default());
    let rack = Cell::Domain(domain(&config, "r0/z0/k0"));
    let drained = Cell::Backend(BackendId(7));
    memory.clone().store(rack, Admission::CLOSED);
    memory.clone().store(drained, Admission::new(0, 255).held());
    backends.silence(&below(&config, "r0/z0/k0"), true);
    let (handle, mut events) = start(&config, &memory, InitialHealth::Adopted);
    assert!(handle.first_verdicts(DEADLINE).await);
    let snapshot = handle.snapshot().await.expect("a live thread");
    assert_eq!(snapshot.backends[7].standing.state, State::Draining);
    assert_eq!(snapshot.domains[domain(&config, "r0/z0/k0").index()].standing.state, State::Down);
    assert_eq!(memory.stores().len(), 2, "none but this test's own");

    handle.stop();
    // The thread is gone when nobody holds the sending side of the events any more.
    while tokio::time::timeout(DEADLINE, events.recv()).await.expect("the thread ends").is_some() {}
    assert_eq!(
        handle.act(Subject::Backend(BackendId(0)), Order::new(Action::Fail, "late".to_owned())).await,
        Err(ActError::Stopped)
    );
    assert_eq!(memory.stores().len(), 2);
}

#[tokio::test]
async fn silence_of_everyone_is_said_and_stores_nothing() {
    let backends = Backends::new(8);
    let (config, memory) = (three_racks(backends.port), Memory::default());
    backends.silence(&(0..8).collect::<Vec<_>>(), true);
    let (handle, mut events) = start(&config, &memory, InitialHealth::Fresh);
    let event = next(&mut events, EventKind::Daemon).await;
    assert!(event.cause.starts_with("isolated") && event.subject == "edge", "{event:?}");
    assert!(handle.first_verdicts(DEADLINE).await, "silence is a result as well");
    assert!(handle.snapshot().await.expect("a live thread").control.isolated);
    assert_eq!(memory.stores(), []);
    backends.silence(&(0..8).collect::<Vec<_>>(), false);
    let event = next(&mut events, EventKind::Daemon).await;
    assert!(event.cause.starts_with("connected again"), "{event:?}");
}

#[tokio::test]
async fn events_that_nobody_reads_are_counted_and_said() {
    let config = Arc::new(config(&vec![vec![vec![1]]], Vec::new()));
    let (handle, mut events) = start(&config, &Memory::default(), InitialHealth::Fresh);
    let subject = Subject::Backend(BackendId(0));
    let lost = 10;
    for round in 0..EVENT_QUEUE + lost {
        let action = if round % 2 == 0 { Action::Drain } else { Action::Restore };
        handle.act(subject, Order::new(action, "again and again")).await.expect("done");
    }
    for _ in 0..EVENT_QUEUE {
        events.try_recv().expect("a full channel");
    }
    handle.act(subject, Order::new(Action::Fail, "the next one".to_owned())).await.expect("done");
    let event = next(&mut events, EventKind::Override).await;
    assert_eq!(
        event.cause,
        "operator: fail, without an end: the next one (10 events before this one were lost)"
    );
    assert_eq!(handle.snapshot().await.expect("a live thread").control.events_lost, lost as u64);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tcp_checks_correlate_too() {
    let first = tokio::net::TcpListener::bind((address(BackendId(0)), 0)).await.expect("a loopback address");
    let port = first.local_addr().expect("bound").port();
    let mut listeners = vec![first];
    for index in 1..4u16 {
        listeners.push(
            tokio::net::TcpListener::bind((address(BackendId(index)), port)).await.expect("the same port"),
        );
    }
    let accepting: Vec<_> = listeners
        .into_iter()
        .map(|listener| tokio::spawn(async move { while listener.accept().await.is_ok() {} }))
        .collect();
    let mut checks = vec![check(CheckKind::Tcp { port }, INTERVAL_MS)];
    checks[0].timeout = Duration::from_secs(5);
    let (config, memory) = (Arc::new(config(&vec![vec![vec![2], vec![2]]], checks)), Memory::default());
    let (handle, mut events) = start(&config, &memory, InitialHealth::Fresh);
    assert!(handle.first_verdicts(DEADLINE).await);
    assert_eq!(memory.stores(), []);
    for task in &accepting[..2] {
        task.abort();
    }
    // The zone's only rack is the zone: the larger one explains it.
    let mut states = Vec::new();
    while states.last() != Some(&State::Down) {
        let event = next(&mut events, EventKind::DomainState).await;
        assert_eq!(event.subject, "r0/z0");
        states.extend(event.to);
    }
    assert_eq!(memory.load(Cell::Domain(domain(&config, "r0/z0"))), Admission::CLOSED);
    assert!(memory.stores().iter().all(|(cell, _)| matches!(cell, Cell::Domain(_))), "{:?}", memory.stores());
}
