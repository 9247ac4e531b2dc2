//! The thread behind [`Handle`](super::Handle).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;

use lb_common::abi::admission::Admission;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use tokio::sync::{mpsc, watch};

use super::snapshot::{ControlStatus, Raw, RawStanding};
use super::{ActError, Acted, COMMAND_QUEUE, Command, ShiftActed, priority, words};
use crate::config::{Config, DomainId};
use crate::health::judge::{Judge, Verdict};
use crate::health::prober::Prober;
use crate::health::prober::bfd::BfdProber;
use crate::health::prober::cpus::Cpus;
use crate::health::prober::gather::Gather;
use crate::health::round::Round;
use crate::plan::planner::{AdmissionStore, Change, Fact, Order, Planner, Subject, Tick};
use crate::plan::shift::ShiftOrder;
use crate::plan::state::State;
use crate::plan::steering::eject::Ejector;
use crate::runtime::clock::{Alarm, monotonic_ns};
use crate::telemetry::event::{EventKind, NewEvent};

/// Descriptors that one wake-up tells of at most: timer, commands, sockets.
const WAKE_EVENTS: usize = 16;

/// Steps of ramps, and ends of what was for a time, in one turn; if more are due, they follow in the next one.
const DUE_PER_TURN: usize = 256;

/// What the worker is made of.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) store: Box<dyn AdmissionStore>,
    pub(super) planner: Planner,
    pub(super) judge: Judge,
    pub(super) prober: Prober,
    pub(super) bfd: BfdProber,
    pub(super) cpus: Cpus,
    pub(super) gather: Gather,
    pub(super) commands: Receiver<Command>,
    pub(super) bell: Arc<EventFd>,
    pub(super) stop: Arc<AtomicBool>,
    pub(super) events: mpsc::Sender<NewEvent>,
    pub(super) judged: watch::Sender<bool>,
    pub(super) words: watch::Sender<u64>,
    pub(super) ejector: Ejector,
}

/// A store that was done, to be told of when all stores are.
struct Done {
    change: Change,
    decided_ns: u64,
    stored_ns: u64,
}

pub(super) struct Worker {
    parts: Parts,
    epoll: Epoll,
    alarm: Alarm,
    scheduling: String,
    everyone_judged: bool,
    stores: u64,
    events_lost: u64,
    /// Events lost since the last one that found room.
    unreported: u64,
    since_backends: Vec<jiff::Timestamp>,
    since_domains: Vec<jiff::Timestamp>,
    /// When each word was last stored; 0 if it was not.
    stored_backends_ns: Vec<u64>,
    stored_domains_ns: Vec<u64>,
}

impl Worker {
    pub(super) fn new(parts: Parts) -> io::Result<Self> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = Alarm::new()?;
        let readable = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        epoll.add(&alarm, readable())?;
        epoll.add(&*parts.bell, readable())?;
        epoll.add(parts.cpus.answers(), readable())?;
        for socket in parts.prober.sockets() {
            epoll.add(socket, readable())?;
        }
        if !parts.bfd.is_waiting() {
            for socket in parts.bfd.sockets() {
                epoll.add(socket, readable())?;
            }
        }
        let now = jiff::Timestamp::now();
        Ok(Self {
            epoll,
            alarm,
            scheduling: String::new(),
            everyone_judged: false,
            stores: 0,
            events_lost: 0,
            unreported: 0,
            since_backends: vec![now; parts.config.backends.len()],
            stored_backends_ns: vec![0; parts.config.backends.len()],
            stored_domains_ns: vec![0; parts.config.topology.domains.len()],
            since_domains: vec![now; parts.config.topology.domains.len()],
            parts,
        })
    }

    /// Runs until told to stop. `changes` and `facts` are what stands to be stored before any evidence.
    pub(super) fn run(mut self, changes: Vec<Change>, facts: Vec<Fact>) {
        self.scheduling = priority::raise();
        let decided_ns = monotonic_ns();
        let mut done: Vec<_> = changes.into_iter().map(|change| self.store(change, decided_ns)).collect();
        done.extend(self.believe(facts, decided_ns));
        self.report(done, decided_ns);
        self.note_judged();
        while !self.parts.stop.load(Ordering::Relaxed) {
            if let Err(error) = self.wait() {
                // Only a closed descriptor could be the reason: a defect, after which probing would be blind.
                let cause = format!("the control thread cannot wait any more and ends: {error}");
                let node = self.parts.config.node.name.clone();
                self.emit(NewEvent::daemon(node, cause, monotonic_ns()));
                return;
            }
            self.turn();
        }
    }

    fn wait(&self) -> io::Result<()> {
        let Parts { prober, bfd, gather, planner, .. } = &self.parts;
        let next = [prober.next_ns(), bfd.next_ns(), gather.next_ns(), planner.next_ns()];
        let next = next.into_iter().flatten().min();
        if let Some(next_ns) = next {
            self.alarm.set(next_ns)?;
        }
        let mut events = [EpollEvent::empty(); WAKE_EVENTS];
        match self.epoll.wait(&mut events, EpollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// One wake-up: answers, commands, rounds that are due, rounds to send.
    fn turn(&mut self) {
        let now_ns = monotonic_ns();
        if self.parts.bfd.take_over(now_ns) {
            self.watch_sessions();
        }
        self.parts.prober.drain();
        self.parts.bfd.drain();
        self.parts.cpus.hear();
        self.obey();
        let mut judged = false;
        while let Some(round) = self.parts.prober.judge(now_ns, &mut self.parts.cpus) {
            let due_ns = round.due_ns;
            let verdict = decide(&mut self.parts.judge, &self.parts.planner, &round);
            self.carry_out(verdict, due_ns);
            judged = true;
        }
        // Detection times count from here: what had arrived was taken.
        self.parts.bfd.run(now_ns, &mut self.parts.cpus);
        while let Some(round) = self.parts.bfd.judge(now_ns, &mut self.parts.cpus) {
            let due_ns = round.due_ns;
            let verdict = decide(&mut self.parts.judge, &self.parts.planner, &round);
            self.carry_out(verdict, due_ns);
            judged = true;
        }
        if self.parts.gather.next_ns().is_some_and(|next_ns| next_ns <= now_ns) {
            self.parts.gather.drain();
        }
        while let Some(round) = self.parts.gather.judge(now_ns) {
            let due_ns = round.due_ns;
            let verdict = decide(&mut self.parts.judge, &self.parts.planner, &round);
            self.carry_out(verdict, due_ns);
            judged = true;
        }
        self.due();
        if *self.parts.words.borrow() != self.stores {
            self.parts.words.send_replace(self.stores);
        }
        self.parts.prober.send(monotonic_ns());
        if judged {
            self.note_judged();
        }
    }

    /// Waits for the sockets of BFD as well. Without that they are looked at whenever a session has something to do.
    fn watch_sessions(&self) {
        for socket in self.parts.bfd.sockets() {
            let _ = self.epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, 0));
        }
    }

    /// Lets more flows to what comes back, and ends what was for a time.
    fn due(&mut self) {
        let now = super::now();
        for _ in 0..DUE_PER_TURN {
            let Some(Tick { subject, due, from, to, change }) = self.parts.planner.tick(now) else { return };
            let decided_ns = monotonic_ns();
            let done = change.map(|change| self.store(change, decided_ns));
            let stored_ns = done.as_ref().map_or(decided_ns, |done| done.stored_ns);
            let Some((kind, cause)) = words::due(&due) else {
                // The steps between are in the words; events tell of states.
                let done = done.filter(|done| done.change.from != done.change.to);
                self.report(done.into_iter().collect(), decided_ns);
                continue;
            };
            self.said(subject, kind, Some((from, to)), cause, (decided_ns, stored_ns));
        }
    }

    fn obey(&mut self) {
        // An empty bell is an error here; the queue is looked at all the same.
        let _ = self.parts.bell.read();
        for _ in 0..COMMAND_QUEUE {
            match self.parts.commands.try_recv() {
                // Whoever asked may have gone away meanwhile: then nobody misses the answer.
                Ok(Command::Snapshot(answer)) => {
                    let _ = answer.send(self.snapshot());
                }
                Ok(Command::Pulse(answer)) => {
                    let _ = answer.send(());
                }
                Ok(Command::Clean { before_ns }) => self.clean(before_ns),
                Ok(Command::Act { subject, order, answer }) => {
                    let _ = answer.send(self.act(subject, &order));
                }
                Ok(Command::Shift { domain, order, reason, answer }) => {
                    let _ = answer.send(self.shift(domain, &order, &reason));
                }
                Err(_) => return,
            }
        }
    }

    /// Makes open words clean that were last stored before `before_ns`.
    fn clean(&mut self, before_ns: u64) {
        for subject in self.parts.planner.subjects() {
            let stored_ns = match subject {
                Subject::Backend(id) => self.stored_backends_ns[id.index()],
                Subject::Domain(id) => self.stored_domains_ns[id.index()],
            };
            if stored_ns >= before_ns || !self.parts.planner.make_clean(subject) {
                continue;
            }
            let cell = subject.cell();
            if self.parts.store.load(cell) != Admission::OPEN {
                self.parts.store.store(cell, Admission::OPEN);
            }
        }
    }

    fn act(&mut self, subject: Subject, order: &Order) -> Result<Acted, ActError> {
        let now = super::now();
        let acted = self.parts.planner.act(subject, order, now)?;
        let decided_ns = monotonic_ns();
        let stored_ns = match acted.change {
            Some(change) => self.store(change, decided_ns).stored_ns,
            None => decided_ns,
        };
        if acted.changed {
            let states = Some((acted.from, acted.to));
            let cause = words::ordered(order, now.time);
            self.said(subject, EventKind::Override, states, cause, (decided_ns, stored_ns));
        }
        Ok(Acted { from: acted.from, to: acted.to, changed: acted.changed, decided_ns, stored_ns })
    }

    fn shift(&mut self, domain: DomainId, order: &ShiftOrder, reason: &str) -> Result<ShiftActed, ActError> {
        let now = super::now();
        let shifted = self.parts.planner.shift(domain, order, now)?;
        let decided_ns = monotonic_ns();
        let stored_ns = match shifted.change {
            Some(change) => self.store(change, decided_ns).stored_ns,
            None => decided_ns,
        };
        let cause = words::shifted(shifted.before.as_ref(), shifted.now.as_ref(), reason, now.time);
        self.said(Subject::Domain(domain), EventKind::Shift, None, cause, (decided_ns, stored_ns));
        Ok(ShiftActed { before: shifted.before, now: shifted.now, decided_ns, stored_ns })
    }

    /// Tells of what somebody said, or of its end.
    fn said(
        &mut self,
        subject: Subject,
        kind: EventKind,
        states: Option<(State, State)>,
        cause: String,
        (decided_ns, stored_ns): (u64, u64),
    ) {
        self.emit(NewEvent {
            kind,
            subject: subject.name(&self.parts.config).to_owned(),
            from: states.map(|(from, _)| from),
            to: states.map(|(_, to)| to),
            cause,
            evidence_ns: None,
            decided_ns: Some(decided_ns),
            stored_ns: Some(stored_ns),
            monotonic_ns: stored_ns,
        });
    }

    fn carry_out(&mut self, verdict: Verdict, due_ns: u64) {
        if !verdict.facts.is_empty() {
            let decided_ns = monotonic_ns();
            let done = self.believe(verdict.facts, decided_ns);
            self.report(done, decided_ns);
        }
        if let Some(isolated) = verdict.isolated {
            let cause = if isolated {
                "isolated: nobody answers in any domain, so this host itself may be cut off; every state is held as it is"
            } else {
                "connected again: answers arrive, misses count again"
            };
            let mut event =
                NewEvent::daemon(self.parts.config.node.name.clone(), cause.to_owned(), monotonic_ns());
            event.evidence_ns = Some(due_ns);
            self.emit(event);
        }
    }

    fn believe(&mut self, facts: Vec<Fact>, decided_ns: u64) -> Vec<Done> {
        let mut done = Vec::new();
        let mut spared = Vec::new();
        for fact in facts {
            if !self.parts.ejector.is_bounded() {
                done.extend(self.observe(fact, decided_ns));
                continue;
            }
            let ruling = self.parts.ejector.rule(fact);
            for fact in ruling.facts {
                done.extend(self.observe(fact, decided_ns));
            }
            spared.extend(ruling.spared);
        }
        for (backend, pool) in spared {
            let percent = self.parts.config.node.max_ejected;
            let cause = format!(
                "its checks fail, but it stays in: max_ejected = {percent} % of pool {pool} is out already"
            );
            let name = self.parts.config[backend].name.clone();
            let event = NewEvent::daemon(name, cause, monotonic_ns());
            self.emit(NewEvent { kind: EventKind::Plan, ..event });
        }
        done
    }

    fn observe(&mut self, fact: Fact, decided_ns: u64) -> Option<Done> {
        let change = self.parts.planner.observe(fact, decided_ns)?;
        Some(self.store(change, decided_ns))
    }

    fn store(&mut self, change: Change, decided_ns: u64) -> Done {
        self.parts.store.store(change.cell, change.word);
        let stored_ns = monotonic_ns();
        self.stores += 1;
        match change.subject {
            Subject::Backend(id) => self.stored_backends_ns[id.index()] = stored_ns,
            Subject::Domain(id) => self.stored_domains_ns[id.index()] = stored_ns,
        }
        if change.from != change.to {
            match change.subject {
                Subject::Backend(id) => self.since_backends[id.index()] = jiff::Timestamp::now(),
                Subject::Domain(id) => self.since_domains[id.index()] = jiff::Timestamp::now(),
            }
        }
        Done { change, decided_ns, stored_ns }
    }

    /// Tells of stores, after all of them are done.
    fn report(&mut self, done: Vec<Done>, now_ns: u64) {
        for Done { change, decided_ns, stored_ns } in done {
            let kind = match change.subject {
                Subject::Backend(_) => EventKind::BackendState,
                Subject::Domain(_) => EventKind::DomainState,
            };
            self.emit(NewEvent {
                kind,
                subject: change.subject.name(&self.parts.config).to_owned(),
                from: Some(change.from),
                to: Some(change.to),
                cause: change.cause.to_string(),
                evidence_ns: change.evidence_ns,
                decided_ns: Some(decided_ns),
                stored_ns: Some(stored_ns),
                monotonic_ns: stored_ns.max(now_ns),
            });
        }
    }

    fn emit(&mut self, mut event: NewEvent) {
        if self.unreported > 0 {
            event.cause.push_str(&format!(" ({} events before this one were lost)", self.unreported));
        }
        if self.parts.events.try_send(event).is_ok() {
            self.unreported = 0;
        } else {
            self.unreported += 1;
            self.events_lost += 1;
        }
    }

    fn note_judged(&mut self) {
        if !self.everyone_judged && self.parts.judge.is_everyone_judged(!self.parts.bfd.is_waiting()) {
            self.everyone_judged = true;
            self.parts.judged.send_replace(true);
        }
    }

    fn snapshot(&self) -> Raw {
        let (planner, now_ns) = (&self.parts.planner, monotonic_ns());
        let standing = |subject: Subject, since: jiff::Timestamp| RawStanding {
            state: planner.effective(subject),
            automatic: planner.automatic(subject),
            held: planner.held(subject).cloned(),
            shift: match subject {
                Subject::Domain(id) => planner.shift_of(id).cloned(),
                Subject::Backend(_) => None,
            },
            damping: planner.damping(subject, now_ns),
            word: planner.word(subject),
            since,
        };
        let (mut backends, mut domains) = (Vec::new(), Vec::new());
        for subject in planner.subjects() {
            match subject {
                Subject::Backend(id) => backends.push(standing(subject, self.since_backends[id.index()])),
                Subject::Domain(id) => domains.push(standing(subject, self.since_domains[id.index()])),
            }
        }
        Raw {
            spared: self.parts.ejector.spared().collect(),
            backends,
            domains,
            targets: Arc::clone(self.parts.judge.targets()),
            states: self.parts.judge.target_states().to_vec(),
            sessions: self.parts.bfd.reports(now_ns).collect(),
            control: ControlStatus {
                isolated: self.parts.judge.is_isolated(),
                scheduling: self.scheduling.clone(),
                everyone_judged: self.everyone_judged,
                probing: self.parts.prober.status(),
                bfd: self.parts.bfd.status(),
                cpus: self.parts.cpus.count(),
                stores: self.stores,
                events_lost: self.events_lost,
                results_lost: self.parts.gather.lost(),
            },
        }
    }
}

fn decide(judge: &mut Judge, planner: &Planner, round: &Round<'_>) -> Verdict {
    judge.round(round, |subject| planner.held(subject).is_some())
}
