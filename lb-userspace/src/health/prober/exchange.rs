//! One-shot checks over sockets, on a thread of their own: TCP connects.
//!
//! The thread waits on one epoll for its timerfd and for the sockets of all probes in flight, none of which ever blocks. A
//! target has at most one probe in flight and a place of its own for it, so a probe that hangs costs nothing but its socket
//! until its timeout, and delays no other. Answers are taken before any timeout is declared.
//!
//! What a target costs is bounded: one socket, one timer entry, and per interval one `socket`, `connect`, `epoll_ctl`,
//! `getsockopt` and `close`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrStorage, connect, getsockopt, setsockopt, socket, sockopt,
};

use super::gather::Reporter;
use crate::config::CheckKind;
use crate::health::round::{Miss, Outcome};
use crate::health::target::{Group, Targets};
use crate::health::ticks::{Dice, Ticks};
use crate::runtime::clock::{Alarm, as_ns, monotonic_ns};

/// Targets that one thread probes, and so sockets that it has open at most.
pub const MAX_EXCHANGES: usize = 32_768;
/// Descriptors that the rest of the process may need besides.
const OTHER_DESCRIPTORS: u64 = 512;
/// Probes begun in a row before answers are looked for again, so that many that are due at once delay no answer.
const STARTS_PER_TURN: usize = 64;
/// Sockets that one wake-up tells of at most; if there are more, the next one follows at once.
const WAKE_EVENTS: usize = 256;
/// What epoll calls the timer and the bell.
const ALARM: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// More targets than the thread takes.
    #[error(
        "{count} targets of TCP checks are more than MAX_EXCHANGES = {MAX_EXCHANGES}; take the check from some sets"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Fewer descriptors than sockets.
    #[error(
        "TCP checks need {needed} file descriptors and the limit is {limit}; raise it with LimitNOFILE={needed} in the unit or `ulimit -n {needed}`"
    )]
    Descriptors {
        /// How many are needed, with what else the daemon opens.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// A descriptor or the thread.
    #[error("cannot start the thread for TCP checks: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for ExchangeError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// Whether this thread probes the group.
pub(super) const fn takes(group: &Group) -> bool {
    matches!(group.kind, CheckKind::Tcp { .. })
}

/// The thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Thread {
    bell: Arc<EventFd>,
    stop: Arc<AtomicBool>,
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Adding 1 fails only near the counter's limit of 2^64: then the thread is awake anyway.
        let _ = self.bell.write(1);
    }
}

/// Starts the thread for the groups that it [`takes`]; `None` if there are none.
pub(super) fn spawn(targets: &Targets, reporter: Reporter) -> Result<Option<Thread>, ExchangeError> {
    let now_ns = monotonic_ns();
    let exchanges = Exchanges::new(targets, reporter, now_ns)?;
    if exchanges.slots.is_empty() {
        return Ok(None);
    }
    let bell = Arc::new(EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?);
    let stop = Arc::new(AtomicBool::new(false));
    exchanges.epoll.add(&*bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL))?;
    let thread = Thread { bell: Arc::clone(&bell), stop: Arc::clone(&stop) };
    std::thread::Builder::new().name("weir-probe".to_owned()).spawn(move || {
        // Held here, so that its descriptor outlives the epoll that watches it.
        let _bell = bell;
        exchanges.run(&stop);
    })?;
    Ok(Some(thread))
}

/// What a probe does.
#[derive(Clone, Copy, Debug)]
enum Means {
    /// Opens a connection and resets it, so that neither side keeps anything.
    Connect,
}

/// A probe that waits for its answer.
#[derive(Debug)]
struct Flight {
    /// Closing it takes it out of the epoll.
    socket: OwnedFd,
    start_ns: u64,
    due_ns: u64,
}

/// One target.
#[derive(Debug)]
struct Slot {
    target: usize,
    to: SocketAddr,
    means: Means,
    timeout_ns: u64,
    ticks: Ticks,
    flight: Option<Flight>,
    /// When its one timer entry that counts is due: the next probe, or the timeout of the one in flight.
    timer_ns: u64,
}

/// How a probe began.
enum Begun {
    Waiting(OwnedFd),
    Ended(Result<(), Miss>),
}

/// All targets of the thread.
struct Exchanges {
    epoll: Epoll,
    alarm: Alarm,
    slots: Vec<Slot>,
    /// Moments and slots. Entries whose moment is not the slot's own any more are passed over.
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    dice: Dice,
    reporter: Reporter,
}

impl Exchanges {
    fn new(targets: &Targets, reporter: Reporter, now_ns: u64) -> Result<Self, ExchangeError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let alarm = Alarm::new()?;
        epoll.add(&alarm, EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        let mut dice = Dice::new(now_ns);
        let (mut slots, mut timers) = (Vec::new(), BinaryHeap::new());
        for group in targets.groups.iter().filter(|group| takes(group)) {
            let CheckKind::Tcp { port } = group.kind else { continue };
            for &target in &group.targets {
                let mut ticks = Ticks::new(now_ns, group.interval, 0, &mut dice);
                let timer_ns = ticks.next(now_ns, &mut dice);
                timers.push(Reverse((timer_ns, slots.len())));
                slots.push(Slot {
                    target,
                    to: SocketAddr::new(targets.targets[target].address, port),
                    means: Means::Connect,
                    timeout_ns: as_ns(group.timeout),
                    ticks,
                    flight: None,
                    timer_ns,
                });
            }
        }
        make_room(slots.len())?;
        Ok(Self { epoll, alarm, slots, timers, dice, reporter })
    }

    /// Runs until told to stop, or until nobody wants results any more.
    fn run(mut self, stop: &AtomicBool) {
        let mut events = [EpollEvent::empty(); WAKE_EVENTS];
        let mut busy = false;
        while !stop.load(Ordering::Relaxed) {
            if !busy && let Some(&Reverse((next_ns, _))) = self.timers.peek() {
                // A timer cannot be refused a moment that fits a timespec.
                let _ = self.alarm.set(next_ns);
            }
            let patience = if busy { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let woken = match self.epoll.wait(&mut events, patience) {
                Ok(woken) => woken,
                Err(Errno::EINTR) => 0,
                // Only a closed descriptor could be the reason: a defect. The targets then stay as they were judged last.
                Err(error) => return tracing::error!(%error, "the thread for TCP checks ends"),
            };
            if self.turn(&events[..woken], monotonic_ns()).is_none() {
                return;
            }
            busy = woken == WAKE_EVENTS
                || self.timers.peek().is_some_and(|&Reverse((next_ns, _))| next_ns <= monotonic_ns());
        }
    }

    /// One wake-up: answers first, then timeouts and new probes. `None` when nobody wants results any more.
    fn turn(&mut self, events: &[EpollEvent], now_ns: u64) -> Option<()> {
        for event in events.iter().map(EpollEvent::data).filter(|&data| data < BELL) {
            // The number is a slot's own, as it was given to epoll.
            let slot = event as usize;
            if let Some(ended) = self.slots[slot].answer() {
                self.end(slot, ended, now_ns)?;
            }
        }
        if events.len() == WAKE_EVENTS {
            // More answers may wait: they come before timeouts.
            return Some(());
        }
        for _ in 0..STARTS_PER_TURN {
            let Some(&Reverse((at_ns, slot))) = self.timers.peek() else { break };
            if at_ns > now_ns {
                break;
            }
            self.timers.pop();
            if self.slots[slot].timer_ns != at_ns {
                continue;
            }
            if self.slots[slot].flight.is_some() {
                self.end(slot, Err(Miss::Silent), now_ns)?;
            } else {
                self.begin(slot)?;
            }
        }
        Some(())
    }

    fn begin(&mut self, index: usize) -> Option<()> {
        let slot = &mut self.slots[index];
        let start_ns = monotonic_ns();
        let socket = match slot.means.begin(slot.to) {
            Begun::Waiting(socket) => socket,
            Begun::Ended(ended) => {
                let now_ns = monotonic_ns();
                return self.conclude(index, start_ns, now_ns, ended, now_ns);
            }
        };
        let wanted = EpollEvent::new(EpollFlags::EPOLLOUT | EpollFlags::EPOLLONESHOT, index as u64);
        if self.epoll.add(&socket, wanted).is_err() {
            let now_ns = monotonic_ns();
            return self.conclude(index, start_ns, now_ns, Err(Miss::Unsent), now_ns);
        }
        let due_ns = start_ns + slot.timeout_ns;
        slot.flight = Some(Flight { socket, start_ns, due_ns });
        self.set_timer(index, due_ns);
        Some(())
    }

    /// Ends the probe in flight.
    fn end(&mut self, index: usize, ended: Result<(), Miss>, now_ns: u64) -> Option<()> {
        let Some(flight) = self.slots[index].flight.take() else { return Some(()) };
        let due_ns = if ended == Err(Miss::Silent) { flight.due_ns } else { now_ns };
        self.conclude(index, flight.start_ns, now_ns, ended, due_ns)
    }

    fn conclude(
        &mut self,
        index: usize,
        start_ns: u64,
        at_ns: u64,
        ended: Result<(), Miss>,
        due_ns: u64,
    ) -> Option<()> {
        let outcome = match ended {
            Ok(()) => Outcome::Answered { at_ns, rtt_ns: at_ns.saturating_sub(start_ns) },
            Err(how) => Outcome::Missed { how, due_ns },
        };
        self.reporter.report(self.slots[index].target, outcome).ok()?;
        let next_ns = self.slots[index].ticks.next(at_ns, &mut self.dice);
        self.set_timer(index, next_ns);
        Some(())
    }

    fn set_timer(&mut self, index: usize, at_ns: u64) {
        self.slots[index].timer_ns = at_ns;
        self.timers.push(Reverse((at_ns, index)));
    }
}

impl Slot {
    /// What the socket says now that it is ready; `None` if it says nothing yet.
    fn answer(&self) -> Option<Result<(), Miss>> {
        let flight = self.flight.as_ref()?;
        match self.means {
            Means::Connect => Some(match getsockopt(&flight.socket, sockopt::SocketError) {
                Ok(0) => Ok(()),
                Ok(error) => Err(classify(Errno::from_raw(error))),
                Err(error) => Err(classify(error)),
            }),
        }
    }
}

impl Means {
    fn begin(self, to: SocketAddr) -> Begun {
        match self {
            Self::Connect => match begin_connect(to) {
                Ok((socket, true)) => {
                    drop(socket);
                    Begun::Ended(Ok(()))
                }
                Ok((socket, false)) => Begun::Waiting(socket),
                Err(error) => Begun::Ended(Err(classify(error))),
            },
        }
    }
}

/// A connection that is being opened; whether it is open already.
fn begin_connect(to: SocketAddr) -> nix::Result<(OwnedFd, bool)> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let socket = socket(family, SockType::Stream, flags, None)?;
    // Closing then resets the connection, which leaves no TIME_WAIT behind; where it cannot be set, an orderly close does
    // as well.
    let _ = setsockopt(&socket, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 });
    match connect(socket.as_raw_fd(), &SockaddrStorage::from(to)) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::EINPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error),
    }
}

fn classify(error: Errno) -> Miss {
    match error {
        Errno::ECONNREFUSED | Errno::ECONNRESET => Miss::Refused,
        Errno::EHOSTUNREACH | Errno::ENETUNREACH => Miss::Unreachable,
        Errno::ETIMEDOUT => Miss::Silent,
        _ => Miss::Unsent,
    }
}

/// Makes sure that so many sockets can be open at once.
fn make_room(count: usize) -> Result<(), ExchangeError> {
    if count > MAX_EXCHANGES {
        return Err(ExchangeError::TooMany { count });
    }
    let needed = count as u64 + OTHER_DESCRIPTORS;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    if soft >= needed || count == 0 {
        return Ok(());
    }
    // Root may raise the hard limit too.
    if setrlimit(Resource::RLIMIT_NOFILE, needed, hard.max(needed)).is_ok() {
        return Ok(());
    }
    Err(ExchangeError::Descriptors { needed, limit: hard })
}

#[cfg(test)]
#[path = "exchange_tests.rs"]
mod tests;
