//! One-shot checks over sockets, on a thread of their own: TCP connects, UDP datagrams and DNS queries.
//!
//! The thread waits on one epoll for its timerfd and for the sockets of all probes in flight, none of which ever blocks. A
//! target has at most one probe in flight and a place of its own for it, so a probe that hangs costs nothing but its socket
//! until its timeout, and delays no other. Answers are taken before any timeout is declared.
//!
//! What a target costs is bounded: one socket, one timer entry, and per interval one `socket`, `connect`, `epoll_ctl`
//! and `close`, with one `getsockopt`, or one `send` and at most [`MAX_DATAGRAMS`] `recv`.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, SockaddrStorage, connect, getsockopt, recv, send,
    setsockopt, socket, sockopt,
};

use super::gather::Reporter;
use super::timetable::{Due, Thread, Timetable};
use crate::config::{CheckKind, DnsCheck, UdpCheck};
use crate::health::dns;
use crate::health::round::Miss;
use crate::health::target::{Group, Targets};
use crate::runtime::clock::monotonic_ns;

/// Targets that one thread probes, and so sockets that it has open at most.
pub const MAX_EXCHANGES: usize = 32_768;
/// Descriptors that the rest of the process may need besides.
const OTHER_DESCRIPTORS: u64 = 512;
/// Probes begun in a row before answers are looked for again, so that many that are due at once delay no answer.
const STARTS_PER_TURN: usize = 64;
/// Sockets that one wake-up tells of at most; if there are more, the next one follows at once.
const WAKE_EVENTS: usize = 256;
/// Datagrams of one target that one wake-up looks at; whoever sends more is not who was asked.
const MAX_DATAGRAMS: usize = 16;
/// Bytes read of an answer; the rest is not looked at.
const DATAGRAM_BYTES: usize = 4096;
/// What epoll calls the timer and the bell.
const ALARM: u64 = u64::MAX;
const BELL: u64 = u64::MAX - 1;

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// More targets than the thread takes.
    #[error(
        "{count} targets of TCP, UDP and DNS checks are more than MAX_EXCHANGES = {MAX_EXCHANGES}; take the check from some sets"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// Fewer descriptors than sockets.
    #[error(
        "TCP, UDP and DNS checks need {needed} file descriptors and the limit is {limit}; raise it with LimitNOFILE={needed} in the unit or `ulimit -n {needed}`"
    )]
    Descriptors {
        /// How many are needed, with what else the daemon opens.
        needed: u64,
        /// The hard limit.
        limit: u64,
    },
    /// A descriptor or the thread.
    #[error("cannot start the thread for TCP, UDP and DNS checks: {0}")]
    System(#[from] io::Error),
}

impl From<Errno> for ExchangeError {
    fn from(error: Errno) -> Self {
        Self::System(error.into())
    }
}

/// Whether this thread probes the group.
pub(super) fn takes(group: &Group) -> bool {
    Means::of(&group.kind).is_some()
}

/// Starts the thread for the groups that it [`takes`]; `None` if there are none.
pub(super) fn spawn(targets: &Targets, reporter: Reporter) -> Result<Option<Thread>, ExchangeError> {
    let exchanges = Exchanges::new(targets, reporter, monotonic_ns())?;
    if exchanges.slots.is_empty() {
        return Ok(None);
    }
    Ok(Some(Thread::start("weir-probe", |bell, stop| exchanges.run(bell, stop))?))
}

/// What a probe does. Copied for each target: what it holds is shared.
#[derive(Clone, Debug)]
enum Means {
    /// Opens a connection and resets it, so that neither side keeps anything.
    Connect,
    /// Sends a datagram and looks at the first one that comes back.
    Datagram(Arc<UdpCheck>),
    /// Asks for a name.
    Dns(Arc<DnsCheck>),
}

/// A probe that waits for its answer.
#[derive(Debug)]
struct Flight {
    /// Closing it takes it out of the epoll.
    socket: OwnedFd,
    /// What was sent.
    sent: Vec<u8>,
    /// What came was no answer to it.
    wrong: bool,
}

/// One target.
#[derive(Debug)]
struct Slot {
    to: SocketAddr,
    means: Means,
    flight: Option<Flight>,
}

/// How a probe began.
enum Begun {
    Waiting { socket: OwnedFd, sent: Vec<u8> },
    Ended(Result<(), Miss>),
}

/// All targets of the thread.
struct Exchanges {
    epoll: Epoll,
    slots: Vec<Slot>,
    timetable: Timetable,
}

impl Exchanges {
    fn new(targets: &Targets, reporter: Reporter, now_ns: u64) -> Result<Self, ExchangeError> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let mut timetable = Timetable::new(reporter, now_ns)?;
        epoll.add(timetable.alarm(), EpollEvent::new(EpollFlags::EPOLLIN, ALARM))?;
        let mut slots = Vec::new();
        for group in targets.groups.iter().filter(|group| takes(group)) {
            let Some(means) = Means::of(&group.kind) else { continue };
            for &target in &group.targets {
                timetable.add(group, target, now_ns);
                let to = SocketAddr::new(targets.targets[target].address, group.kind.port());
                slots.push(Slot { to, means: means.clone(), flight: None });
            }
        }
        make_room(slots.len())?;
        Ok(Self { epoll, slots, timetable })
    }

    /// Runs until told to stop, or until nobody wants results any more.
    fn run(mut self, bell: &EventFd, stop: &AtomicBool) {
        if let Err(error) = self.epoll.add(bell, EpollEvent::new(EpollFlags::EPOLLIN, BELL)) {
            return tracing::error!(%error, "the thread for TCP, UDP and DNS checks cannot begin");
        }
        let mut events = [EpollEvent::empty(); WAKE_EVENTS];
        let mut full = false;
        while !stop.load(Ordering::Relaxed) {
            let busy = self.timetable.set_alarm() || full;
            let patience = if busy { EpollTimeout::ZERO } else { EpollTimeout::NONE };
            let woken = match self.epoll.wait(&mut events, patience) {
                Ok(woken) => woken,
                Err(Errno::EINTR) => 0,
                // Only a closed descriptor could be the reason: a defect. The targets then stay as they were judged last.
                Err(error) => return tracing::error!(%error, "the thread for TCP, UDP and DNS checks ends"),
            };
            if self.turn(&events[..woken], monotonic_ns()).is_none() {
                return;
            }
            full = woken == WAKE_EVENTS;
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
            match self.timetable.due(now_ns) {
                None => break,
                Some(Due::Begin(slot)) => self.begin(slot)?,
                Some(Due::Expired(slot)) => {
                    let wrong = self.slots[slot].flight.as_ref().is_some_and(|flight| flight.wrong);
                    self.end(slot, Err(if wrong { Miss::Wrong } else { Miss::Silent }), now_ns)?;
                }
            }
        }
        Some(())
    }

    fn begin(&mut self, index: usize) -> Option<()> {
        let slot = &mut self.slots[index];
        self.timetable.begin(index, monotonic_ns());
        let (socket, sent) = match slot.means.begin(slot.to, &mut self.timetable) {
            Begun::Waiting { socket, sent } => (socket, sent),
            Begun::Ended(ended) => return self.end(index, ended, monotonic_ns()),
        };
        let wanted = match slot.means {
            Means::Connect => EpollFlags::EPOLLOUT,
            Means::Datagram(_) | Means::Dns(_) => EpollFlags::EPOLLIN,
        };
        if self.epoll.add(&socket, EpollEvent::new(wanted, index as u64)).is_err() {
            return self.end(index, Err(Miss::Unsent), monotonic_ns());
        }
        slot.flight = Some(Flight { socket, sent, wrong: false });
        Some(())
    }

    /// Ends the probe in flight.
    fn end(&mut self, index: usize, ended: Result<(), Miss>, now_ns: u64) -> Option<()> {
        self.slots[index].flight = None;
        self.timetable.end(index, ended, now_ns)
    }
}

impl Slot {
    /// What the socket says now that it is ready; `None` if it says nothing yet.
    fn answer(&mut self) -> Option<Result<(), Miss>> {
        let flight = self.flight.as_mut()?;
        if let Means::Connect = self.means {
            return Some(match getsockopt(&flight.socket, sockopt::SocketError) {
                Ok(0) => Ok(()),
                Ok(error) => Err(classify(Errno::from_raw(error))),
                Err(error) => Err(classify(error)),
            });
        }
        let mut datagram = [0; DATAGRAM_BYTES];
        for _ in 0..MAX_DATAGRAMS {
            let length = match recv(flight.socket.as_raw_fd(), &mut datagram, MsgFlags::MSG_DONTWAIT) {
                Ok(length) => length,
                Err(Errno::EAGAIN | Errno::EINTR) => return None,
                Err(error) => return Some(Err(classify(error))),
            };
            match self.means.judge(&flight.sent, &datagram[..length]) {
                Some(ended) => return Some(ended),
                None => flight.wrong = true,
            }
        }
        Some(Err(Miss::Wrong))
    }
}

impl Means {
    fn of(kind: &CheckKind) -> Option<Self> {
        match kind {
            CheckKind::Tcp { .. } => Some(Self::Connect),
            CheckKind::Udp(udp) => Some(Self::Datagram(Arc::new(udp.clone()))),
            CheckKind::Dns(dns) => Some(Self::Dns(Arc::new(dns.clone()))),
            CheckKind::Heartbeat { .. }
            | CheckKind::TcpTunnel { .. }
            | CheckKind::Icmp
            | CheckKind::Http(_)
            | CheckKind::Exec(_)
            | CheckKind::Bfd(_) => None,
        }
    }

    fn begin(&self, to: SocketAddr, timetable: &mut Timetable) -> Begun {
        let sent = match self {
            Self::Connect => {
                return match begin_connect(to) {
                    Ok((_, true)) => Begun::Ended(Ok(())),
                    Ok((socket, false)) => Begun::Waiting { socket, sent: Vec::new() },
                    Err(error) => Begun::Ended(Err(classify(error))),
                };
            }
            Self::Datagram(udp) => udp.send.clone(),
            // The kernel chooses a source port for each probe, which is as hard to guess as the id.
            Self::Dns(check) => dns::query(check, timetable.roll() as u16),
        };
        match send_datagram(to, &sent) {
            Ok(socket) => Begun::Waiting { socket, sent },
            Err(error) => Begun::Ended(Err(classify(error))),
        }
    }

    /// What a datagram from the target means; `None` if it is none that was asked for.
    fn judge(&self, sent: &[u8], datagram: &[u8]) -> Option<Result<(), Miss>> {
        let is_good = match self {
            Self::Connect => return None,
            Self::Datagram(udp) => udp.is_answer(datagram),
            Self::Dns(check) => {
                let code = dns::response_code(sent, datagram)?;
                check.rcode.is_none_or(|expected| expected == code)
            }
        };
        Some(if is_good { Ok(()) } else { Err(Miss::Wrong) })
    }
}

fn open(to: SocketAddr, kind: SockType) -> nix::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)
}

/// A socket of its own for each datagram, connected, so that the kernel lets nobody else answer and tells what the network
/// says about the target.
fn send_datagram(to: SocketAddr, payload: &[u8]) -> nix::Result<OwnedFd> {
    let socket = open(to, SockType::Datagram)?;
    connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
    send(socket.as_raw_fd(), payload, MsgFlags::MSG_DONTWAIT)?;
    Ok(socket)
}

/// A connection that is being opened; whether it is open already.
fn begin_connect(to: SocketAddr) -> nix::Result<(OwnedFd, bool)> {
    let socket = open(to, SockType::Stream)?;
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
