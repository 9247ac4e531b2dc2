//! BFD sessions with their sockets, on the control thread: its timer and its priority are what fast detection needs.
//!
//! A group's sessions are looked at once per interval as one round, and at once when one of them changes. A session that is
//! up and whose packets are late is missing, which makes its domain suspect if others are missing too; one that is not up
//! is decisive.
//!
//! Bounded: [`MAX_BFD_SESSIONS`] sessions, one socket each to send from, and four to take packets.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::time::Duration;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use super::MAX_DRAIN;
use crate::config::{BfdCheck, CheckKind};
use crate::health::bfd::packet::{Discard, Packet, State, admit};
use crate::health::bfd::session::{Session, Settings};
use crate::health::bfd::{MULTIHOP_PORT, SINGLE_HOP_PORT, SOURCE_PORTS, TTL};
use crate::health::round::{Miss, Outcome, Round};
use crate::health::target::{Group, Targets};
use crate::runtime::clock::{as_ns, monotonic_ns};

/// Sessions of one edge host.
pub const MAX_BFD_SESSIONS: usize = 1024;
/// How long a session that never was up is no evidence: a handshake at one packet a second takes up to three of them.
pub const FIRST_HANDSHAKE: Duration = Duration::from_secs(5);
/// A session whose last packet is older than this many percent of the peer's interval is missing.
const LATE_PERCENT: u64 = 150;
/// Bytes read of a datagram; a packet says its own length in one byte.
const DATAGRAM_BYTES: usize = 256;

/// Why sessions cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BfdError {
    /// The socket that packets arrive at.
    #[error(
        "cannot listen on UDP port {port} for BFD: {source}; if another BFD daemon (bird, bfdd) runs on this host, stop it or use other checks"
    )]
    Listen {
        /// 3784 or 4784.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A socket that packets are sent from.
    #[error(
        "check {check}: cannot open a socket for the BFD session with {address}: {source}; is `local` an address of this host?"
    )]
    Send {
        /// Name of the check.
        check: String,
        /// The peer.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// Two sessions that the peer could not tell apart.
    #[error(
        "checks {first} and {second} both want a BFD session with {address}, and it can have one: use the same check for both sets"
    )]
    Twice {
        /// Name of a check.
        first: String,
        /// Name of the other.
        second: String,
        /// The peer.
        address: IpAddr,
    },
    /// Too many.
    #[error(
        "{count} BFD sessions are more than MAX_BFD_SESSIONS = {MAX_BFD_SESSIONS}; take the check from some sets"
    )]
    TooMany {
        /// How many.
        count: usize,
    },
}

/// Counters since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct BfdStatus {
    /// Packets sent.
    pub sent: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets taken.
    pub taken: u64,
    /// Packets with a session's number that came from elsewhere.
    pub foreign: u64,
    /// Packets discarded, in the order of [`Discard::ALL`].
    pub discarded: [u64; Discard::ALL.len()],
}

impl BfdStatus {
    /// The counters that counted something, by name.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let discarded = Discard::ALL.iter().zip(self.discarded).map(|(why, count)| (why.name(), count));
        let named = [
            ("sent", self.sent),
            ("send_errors", self.send_errors),
            ("taken", self.taken),
            ("foreign", self.foreign),
        ];
        let all = named.into_iter().chain(discarded).filter(|(_, count)| *count > 0);
        all.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}

/// A session with what it takes to send.
#[derive(Debug)]
struct Peer {
    session: Session,
    to: SocketAddr,
    socket: UdpSocket,
    pace: usize,
    timer_ns: u64,
    was_up: bool,
    /// When it left its last state.
    changed_ns: u64,
}

/// A group's rounds.
#[derive(Debug)]
struct Pace {
    group: usize,
    interval_ns: u64,
    timeout_ns: u64,
    next_ns: u64,
    peers: std::ops::Range<usize>,
}

/// A socket that packets arrive at.
#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    multihop: bool,
}

/// All sessions.
#[derive(Debug)]
pub struct BfdProber {
    listeners: Vec<Listener>,
    peers: Vec<Peer>,
    paces: Vec<Pace>,
    by_discriminator: HashMap<u32, usize>,
    by_source: HashMap<(bool, IpAddr), usize>,
    /// Moments and peers. Entries whose moment is not the peer's own any more are passed over.
    timers: BinaryHeap<Reverse<(u64, usize)>>,
    outcomes: Vec<Outcome>,
    status: BfdStatus,
    start_ns: u64,
}

impl BfdProber {
    /// Opens the sockets; sessions begin at once.
    ///
    /// # Errors
    /// When a socket cannot be had, there are too many sessions, or two with one peer.
    pub fn new(targets: &Targets) -> Result<Self, BfdError> {
        let now_ns = monotonic_ns();
        let mut new = Self {
            listeners: Vec::new(),
            peers: Vec::new(),
            paces: Vec::new(),
            by_discriminator: HashMap::new(),
            by_source: HashMap::new(),
            timers: BinaryHeap::new(),
            outcomes: Vec::new(),
            status: BfdStatus::default(),
            start_ns: now_ns,
        };
        let groups = targets.groups.iter().enumerate().filter_map(|(index, group)| match &group.kind {
            CheckKind::Bfd(bfd) => Some((index, group, bfd)),
            _ => None,
        });
        let count = groups.clone().map(|(_, group, _)| group.targets.len()).sum();
        if count > MAX_BFD_SESSIONS {
            return Err(BfdError::TooMany { count });
        }
        let mut ports = Ports::new();
        for (index, group, bfd) in groups {
            let first = new.peers.len();
            let interval_ns = as_ns(group.interval).max(1);
            for &target in &group.targets {
                let address = targets.targets[target].address;
                new.add(address, group, bfd, &mut ports, now_ns, targets)?;
            }
            new.paces.push(Pace {
                group: index,
                interval_ns,
                timeout_ns: as_ns(group.timeout),
                next_ns: now_ns + interval_ns,
                peers: first..new.peers.len(),
            });
        }
        new.listen()?;
        Ok(new)
    }

    fn add(
        &mut self,
        address: IpAddr,
        group: &Group,
        bfd: &BfdCheck,
        ports: &mut Ports,
        now_ns: u64,
        targets: &Targets,
    ) -> Result<(), BfdError> {
        let index = self.peers.len();
        if let Some(other) = self.by_source.insert((bfd.multihop, address), index) {
            let first = self
                .paces
                .get(self.peers[other].pace)
                .map_or(&group.check, |pace| &targets.groups[pace.group].check);
            let (first, second) = (first.clone(), group.check.clone());
            return Err(BfdError::Twice { first, second, address });
        }
        let same_family = |local: &&IpAddr| local.is_ipv4() == address.is_ipv4();
        let local = bfd.local.iter().find(same_family).copied().unwrap_or(match address {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        });
        let socket = ports.open(local).map_err(|source| BfdError::Send {
            check: group.check.clone(),
            address,
            source,
        })?;
        // Unique by the low half; the high one makes it hard to guess for whoever does not see the packets.
        let random = RandomState::new().hash_one(index);
        let discriminator = (random as u32 & 0xffff_0000) | (index as u32 + 1);
        self.by_discriminator.insert(discriminator, index);
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let settings = Settings {
            discriminator,
            desired_min_tx_us: micros(group.interval),
            required_min_rx_us: micros(bfd.receive_interval),
            multiplier: bfd.multiplier,
            passive: bfd.passive,
        };
        let session = Session::new(settings, now_ns, random);
        let timer_ns = session.next_ns();
        self.timers.push(Reverse((timer_ns, index)));
        self.peers.push(Peer {
            session,
            to: SocketAddr::new(address, if bfd.multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }),
            socket,
            pace: self.paces.len(),
            timer_ns,
            was_up: false,
            changed_ns: now_ns,
        });
        Ok(())
    }

    /// Opens what packets arrive at, as far as there are sessions that need it.
    fn listen(&mut self) -> Result<(), BfdError> {
        for (multihop, port) in [(false, SINGLE_HOP_PORT), (true, MULTIHOP_PORT)] {
            for any in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
                let mut wanted = self.by_source.keys();
                if wanted
                    .any(|(is_multihop, from)| *is_multihop == multihop && from.is_ipv4() == any.is_ipv4())
                {
                    let socket = listen_on(any, port).map_err(|source| BfdError::Listen { port, source })?;
                    self.listeners.push(Listener { socket, multihop });
                }
            }
        }
        Ok(())
    }

    /// The sockets, readable when there are packets.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.socket.as_fd())
    }

    /// When something is due next; `None` if there are no sessions.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        let round = self.paces.iter().map(|pace| pace.next_ns).min();
        let timer = self.timers.peek().map(|Reverse((at_ns, _))| *at_ns);
        round.into_iter().chain(timer).min()
    }

    /// Counters since start.
    #[must_use]
    pub const fn status(&self) -> BfdStatus {
        self.status
    }

    /// Takes all packets that wait in the sockets, and answers those that want an answer.
    pub fn drain(&mut self) {
        for index in 0..self.listeners.len() {
            for _ in 0..MAX_DRAIN {
                let mut datagram = [0; DATAGRAM_BYTES];
                let listener = &self.listeners[index];
                let multihop = listener.multihop;
                match receive(&listener.socket, &mut datagram) {
                    Ok((length, from, ttl)) => self.take(&datagram[..length], from, ttl, multihop),
                    Err(Errno::EINTR) => {}
                    Err(_) => break,
                }
            }
        }
    }

    fn take(&mut self, datagram: &[u8], from: IpAddr, ttl: Option<u8>, multihop: bool) {
        // Over one hop a packet that was routed has lost some of its TTL (RFC 5881 section 5).
        let admitted = if multihop || ttl == Some(TTL) {
            let by_discriminator = |number: u32| self.by_discriminator.get(&number).copied();
            admit(datagram, by_discriminator, || self.by_source.get(&(multihop, from)).copied())
        } else {
            Err(Discard::Ttl)
        };
        let (index, packet) = match admitted {
            Ok(found) => found,
            Err(why) => {
                self.status.discarded[why as usize] += 1;
                return;
            }
        };
        if self.by_source.get(&(multihop, from)) != Some(&index) {
            self.status.foreign += 1;
            return;
        }
        self.status.taken += 1;
        let now_ns = monotonic_ns();
        let step = self.peers[index].session.receive(&packet, now_ns);
        self.carry_out(index, step.send, step.changed, now_ns);
    }

    /// Sends what is due at `now_ns` and gives up peers that are gone. The sockets must have been drained after that moment.
    pub fn run(&mut self, now_ns: u64) {
        while let Some(&Reverse((at_ns, index))) = self.timers.peek() {
            if at_ns > now_ns {
                return;
            }
            self.timers.pop();
            if self.peers[index].timer_ns != at_ns {
                continue;
            }
            let step = self.peers[index].session.tick(now_ns);
            self.carry_out(index, step.send, step.changed, now_ns);
        }
    }

    fn carry_out(&mut self, index: usize, send: Option<Packet>, changed: bool, now_ns: u64) {
        let peer = &mut self.peers[index];
        if let Some(packet) = send {
            let sent = peer.socket.send_to(&packet.to_bytes(), peer.to).is_ok();
            self.status.sent += u64::from(sent);
            self.status.send_errors += u64::from(!sent);
        }
        if changed {
            let is_up = peer.session.state() == State::Up;
            if is_up || peer.was_up {
                peer.changed_ns = now_ns;
                // A round out of turn: whoever waits for this does not wait for the next tick.
                let pace = &mut self.paces[peer.pace];
                pace.next_ns = pace.next_ns.min(now_ns);
            }
            peer.was_up |= is_up;
        }
        let timer_ns = peer.session.next_ns();
        if timer_ns < peer.timer_ns || peer.timer_ns <= now_ns {
            peer.timer_ns = timer_ns;
            self.timers.push(Reverse((timer_ns, index)));
        }
    }

    /// Hands out the next round that is due at `now_ns`. Sessions must have been [run](Self::run) at that moment.
    pub fn judge(&mut self, now_ns: u64) -> Option<Round<'_>> {
        let index = self.paces.iter().position(|pace| pace.next_ns <= now_ns)?;
        let pace = &mut self.paces[index];
        let due_ns = pace.next_ns;
        let late_ns = now_ns - due_ns;
        pace.next_ns = due_ns + (late_ns / pace.interval_ns + 1) * pace.interval_ns;
        let is_late = late_ns > pace.interval_ns;
        let is_new = now_ns < self.start_ns + as_ns(FIRST_HANDSHAKE);
        let pace = &self.paces[index];
        self.outcomes.clear();
        let peers = &self.peers[pace.peers.clone()];
        self.outcomes.extend(peers.iter().map(|peer| peer.outcome(now_ns, is_late, is_new)));
        let since_ns = now_ns.saturating_sub(2 * pace.timeout_ns);
        Some(Round { group: pace.group, since_ns, due_ns, outcomes: &self.outcomes })
    }
}

impl Peer {
    fn outcome(&self, now_ns: u64, is_late: bool, is_new: bool) -> Outcome {
        if self.session.state() != State::Up {
            if !self.was_up && is_new {
                return Outcome::Unknown;
            }
            return Outcome::Missed { how: Miss::Bfd(self.session.cause()), due_ns: self.changed_ns };
        }
        let heard_ns = self.session.last_heard_ns();
        let interval_ns = u64::from(self.session.rx_interval_us()) * 1000;
        let due_ns = heard_ns + interval_ns * LATE_PERCENT / 100;
        if now_ns <= due_ns {
            // A packet says nothing of the way there and back.
            Outcome::Answered { at_ns: heard_ns, rtt_ns: 0 }
        } else if is_late {
            Outcome::Unknown
        } else {
            Outcome::Missed { how: Miss::Silent, due_ns }
        }
    }
}

impl Drop for BfdProber {
    /// Tells the peers that this side goes, so that they do not take it for a failure.
    fn drop(&mut self) {
        let now_ns = monotonic_ns();
        for index in 0..self.peers.len() {
            let step = self.peers[index].session.hold_down(true, now_ns);
            self.carry_out(index, step.send, false, now_ns);
        }
    }
}

/// The source ports that are not tried yet.
struct Ports {
    next: u16,
    left: usize,
}

impl Ports {
    /// From a random one on, so that a restarted daemon is not taken for the old one.
    fn new() -> Self {
        let count = usize::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        let offset = RandomState::new().hash_one("first port") % count as u64;
        Self { next: SOURCE_PORTS.start() + offset as u16, left: count }
    }

    /// A socket on a port that no other session of this host has.
    fn open(&mut self, local: IpAddr) -> io::Result<UdpSocket> {
        while self.left > 0 {
            let port = self.next;
            self.left -= 1;
            self.next = if port == *SOURCE_PORTS.end() { *SOURCE_PORTS.start() } else { port + 1 };
            match UdpSocket::bind((local, port)) {
                Ok(socket) => {
                    socket.set_nonblocking(true)?;
                    let ttl = i32::from(TTL);
                    if local.is_ipv4() {
                        set(&socket, sockopt::Ipv4Ttl, &ttl)?;
                    } else {
                        set(&socket, sockopt::Ipv6Ttl, &ttl)?;
                    }
                    return Ok(socket);
                }
                Err(error) if error.kind() == ErrorKind::AddrInUse => {}
                Err(error) => return Err(error),
            }
        }
        Err(ErrorKind::AddrInUse.into())
    }
}

fn set<O: SetSockOpt>(socket: &UdpSocket, option: O, value: &O::Val) -> io::Result<()> {
    setsockopt(socket, option, value).map_err(io::Error::from)
}

fn listen_on(any: IpAddr, port: u16) -> io::Result<UdpSocket> {
    use nix::sys::socket::{AddressFamily, SockFlag, SockType, bind, socket};
    let family = if any.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, SockType::Datagram, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    let socket = UdpSocket::from(socket);
    if any.is_ipv4() {
        set(&socket, sockopt::Ipv4RecvTtl, &true)?;
    } else {
        // Or it would take the IPv4 port too.
        set(&socket, sockopt::Ipv6V6Only, &true)?;
        set(&socket, sockopt::Ipv6RecvHopLimit, &true)?;
    }
    bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(any, port)))?;
    Ok(socket)
}

/// One datagram: its length, where it came from, and its TTL or hop limit.
fn receive(socket: &UdpSocket, datagram: &mut [u8]) -> nix::Result<(usize, IpAddr, Option<u8>)> {
    let mut slices = [IoSliceMut::new(datagram)];
    let mut control = cmsg_space!(i32);
    let flags = MsgFlags::MSG_DONTWAIT;
    let message = recvmsg::<SockaddrStorage>(socket.as_raw_fd(), &mut slices, Some(&mut control), flags)?;
    let ttl = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::Ipv4Ttl(ttl) | ControlMessageOwned::Ipv6HopLimit(ttl) => u8::try_from(ttl).ok(),
        _ => None,
    });
    let from = message.address.as_ref().and_then(|address| {
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::V6(address.ip())))
    });
    Ok((message.bytes, from.ok_or(Errno::EAFNOSUPPORT)?, ttl))
}
