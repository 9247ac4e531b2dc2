//! BFD sessions with their sockets, on the control thread: its timer and its priority are what fast detection needs.
//!
//! A group's sessions are looked at once per interval as one round, and at once when one of them changes. A session that is
//! up and whose packets are late is missing, which makes its domain suspect if others are missing too; one that is not up
//! is decisive. Neither is believed before it is known that [this host did not stand still](crate::health::testimony); and a session that the
//! peer ended because this side was silent, or right after it was silent itself, is no evidence until it had time to come up again.
//!
//! There is one prober with sessions in a process. Another one, that of the next configuration, [takes them over](handover) when the first one ends.
//!
//! Bounded: [`MAX_BFD_SESSIONS`] sessions, one socket each to send from, and four to take packets.

use std::cmp::Reverse;
use std::collections::hash_map::Entry;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::errno::Errno;

mod error;
mod handover;
mod report;
mod sockets;
mod status;

pub use self::error::BfdError;
pub use self::report::{Awaited, Excuse, Report};
pub use self::status::BfdStatus;

use self::handover::Tenure;
use self::sockets::{Ports, listen_on, receive};
use super::MAX_DRAIN;
use super::cpus::Cpus;
use crate::config::{BfdCheck, CheckKind};
use crate::health::bfd::packet::{Diagnostic, Discard, Packet, State, admit};
use crate::health::bfd::session::{Cause, Session, Settings};
use crate::health::bfd::{MULTIHOP_PORT, SINGLE_HOP_PORT, TTL};
use crate::health::round::{Miss, Outcome, Round};
use crate::health::target::{Group, Targets};
use crate::health::testimony::{self, Hold, Ruling};
use crate::runtime::clock::{as_ns, monotonic_ns};

/// Sessions of one edge host.
pub const MAX_BFD_SESSIONS: usize = 1024;
/// How long a session that never was up, or was broken by this side, is no evidence: a handshake takes a few packets back and forth at once
/// ([`Session`]), but with a peer that answers polls late, or if a packet is lost, it takes up to three at one a second.
pub const FIRST_HANDSHAKE: Duration = Duration::from_secs(5);
/// A peer that is to come up again and has been silent for so long is gone: it sends once a second at least.
pub const HANDSHAKE_SILENCE: Duration = Duration::from_millis(1_500);
/// A session whose last packet is older than this many percent of the peer's interval is missing.
const LATE_PERCENT: u64 = 150;
/// A peer whose last packet is older than this many percent of its interval was silent: it stood still, or its packets did.
const SILENT_PERCENT: u64 = 200;
/// Every address of this host, of IPv4 and of IPv6.
const ANY: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// Bytes read of a datagram; a packet says its own length in one byte.
const DATAGRAM_BYTES: usize = 256;

/// A session with what it takes to send.
#[derive(Debug)]
struct Peer {
    session: Session,
    to: SocketAddr,
    socket: UdpSocket,
    /// The source address that the configuration names.
    local: Option<IpAddr>,
    /// Index into the targets.
    target: usize,
    pace: usize,
    timer_ns: u64,
    was_up: bool,
    is_up: bool,
    /// When it last came up, or was up and went down.
    changed_ns: u64,
    /// When it left its last state.
    since_ns: u64,
    /// Times that it was up and went down.
    flaps: u64,
    last_sent_ns: u64,
    /// When this side ended a silence that was longer than the peer waits; 0 if it never did.
    silence_ended_ns: u64,
    /// When the peer ended a silence that was longer than it should be; 0 if it never did.
    heard_again_ns: u64,
    /// Until when it is no evidence that the session is not up, and why.
    excused_ns: u64,
    excuse: Excuse,
    /// An expiry that is not believed yet, and when it was due.
    hold: Option<(Hold, u64)>,
    /// It was missing in the last round that was believed.
    was_late: bool,
}

/// A group's rounds.
#[derive(Debug)]
struct Pace {
    group: usize,
    interval_ns: u64,
    timeout_ns: u64,
    next_ns: u64,
    peers: std::ops::Range<usize>,
    patience: testimony::Pace,
    /// Packets that are late, and when they were due: not believed yet.
    hold: Option<(Hold, u64)>,
}

/// Sessions whose packets arrive at one socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kind {
    multihop: bool,
    v6: bool,
}

impl Kind {
    const ALL: [Self; 4] = [
        Self { multihop: false, v6: false },
        Self { multihop: false, v6: true },
        Self { multihop: true, v6: false },
        Self { multihop: true, v6: true },
    ];
}

/// A socket that packets arrive at.
#[derive(Debug)]
struct Listener {
    socket: UdpSocket,
    kind: Kind,
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
    /// Peers whose expiry waits for the CPUs.
    held: Vec<usize>,
    outcomes: Vec<Outcome>,
    status: BfdStatus,
    /// Whether it has the sessions of this process, or comes after the one that has them.
    tenure: Tenure,
}

impl BfdProber {
    /// Opens the sockets. Sessions begin at once, unless another prober of this process has sessions: then they are taken over, or begin,
    /// when that one ends.
    ///
    /// # Errors
    /// When a socket cannot be had, there are too many sessions, or two with one peer.
    pub fn new(targets: &Targets) -> Result<Self, BfdError> {
        let mut new = Self::deaf(targets)?;
        if !new.peers.is_empty() {
            new.enter()?;
        }
        Ok(new)
    }

    /// Without the sockets that packets arrive at.
    fn deaf(targets: &Targets) -> Result<Self, BfdError> {
        let now_ns = monotonic_ns();
        let mut new = Self {
            listeners: Vec::new(),
            peers: Vec::new(),
            paces: Vec::new(),
            by_discriminator: HashMap::new(),
            by_source: HashMap::new(),
            timers: BinaryHeap::new(),
            held: Vec::new(),
            outcomes: Vec::new(),
            status: BfdStatus::default(),
            tenure: Tenure::Own,
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
                new.add(target, (group, bfd), &mut ports, now_ns, targets)?;
            }
            new.paces.push(Pace {
                group: index,
                interval_ns,
                timeout_ns: as_ns(group.timeout),
                next_ns: now_ns + interval_ns,
                peers: first..new.peers.len(),
                patience: testimony::Pace::new(interval_ns, interval_ns),
                hold: None,
            });
        }
        Ok(new)
    }

    fn add(
        &mut self,
        target: usize,
        (group, bfd): (&Group, &BfdCheck),
        ports: &mut Ports,
        now_ns: u64,
        targets: &Targets,
    ) -> Result<(), BfdError> {
        let (index, address) = (self.peers.len(), targets.targets[target].address);
        if let Some(other) = self.by_source.insert((bfd.multihop, address), index) {
            let first = self
                .paces
                .get(self.peers[other].pace)
                .map_or(&group.check, |pace| &targets.groups[pace.group].check);
            let (first, second) = (first.clone(), group.check.clone());
            return Err(BfdError::Twice { first, second, address });
        }
        let same_family = |local: &&IpAddr| local.is_ipv4() == address.is_ipv4();
        let local = bfd.local.iter().find(same_family).copied();
        let any = if address.is_ipv4() { ANY[0] } else { ANY[1] };
        let socket = ports.open(local.unwrap_or(any)).map_err(|source| BfdError::Send {
            check: group.check.clone(),
            address,
            source,
        })?;
        let discriminator = self.new_discriminator(index);
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        let settings = Settings {
            discriminator,
            desired_min_tx_us: micros(group.interval),
            required_min_rx_us: micros(bfd.receive_interval),
            multiplier: bfd.multiplier,
            passive: bfd.passive,
        };
        let session = Session::new(settings, now_ns, RandomState::new().hash_one(index));
        let timer_ns = session.next_ns();
        self.timers.push(Reverse((timer_ns, index)));
        self.peers.push(Peer {
            session,
            to: SocketAddr::new(address, if bfd.multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT }),
            socket,
            local,
            target,
            pace: self.paces.len(),
            timer_ns,
            was_up: false,
            is_up: false,
            changed_ns: now_ns,
            since_ns: now_ns,
            flaps: 0,
            last_sent_ns: now_ns,
            silence_ended_ns: 0,
            heard_again_ns: 0,
            excused_ns: now_ns + as_ns(FIRST_HANDSHAKE),
            excuse: Excuse::First,
            hold: None,
            was_late: false,
        });
        Ok(())
    }

    /// A number that no session here has. The low half tells sessions apart; the high one makes it hard to guess for whoever does not see
    /// the packets.
    fn new_discriminator(&mut self, index: usize) -> u32 {
        loop {
            let random = RandomState::new().hash_one(index) as u32;
            let number = (random & 0xffff_0000) | (index as u32 + 1);
            if let Entry::Vacant(place) = self.by_discriminator.entry(number) {
                place.insert(index);
                return number;
            }
        }
    }

    /// Opens what packets arrive at, as far as there are sessions that need it and nobody else here `has` it.
    fn listen(&mut self, has: &[Kind]) -> Result<(), BfdError> {
        for kind in self.kinds().into_iter().filter(|kind| !has.contains(kind)) {
            let port = if kind.multihop { MULTIHOP_PORT } else { SINGLE_HOP_PORT };
            let any = ANY[usize::from(kind.v6)];
            let socket = listen_on(any, port).map_err(|source| BfdError::Listen { port, source })?;
            self.listeners.push(Listener { socket, kind });
        }
        Ok(())
    }

    /// The kinds of sessions that there are.
    fn kinds(&self) -> Vec<Kind> {
        let is_wanted = |kind: &Kind| {
            self.by_source
                .keys()
                .any(|(multihop, from)| *multihop == kind.multihop && from.is_ipv6() == kind.v6)
        };
        Kind::ALL.into_iter().filter(is_wanted).collect()
    }

    /// The sockets, readable when there are packets.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.listeners.iter().map(|listener| listener.socket.as_fd())
    }

    /// When something is due next; `None` if there are no sessions.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        if let Tenure::Waiting { look_ns, .. } = self.tenure {
            return Some(look_ns);
        }
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
                let multihop = listener.kind.multihop;
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
        let peer = &mut self.peers[index];
        // As it was agreed while the session was up.
        let patience_ns = peer.session.patience_ns();
        let silence_ns = u64::from(peer.session.rx_interval_us()) * 1000 * SILENT_PERCENT / 100;
        if now_ns.saturating_sub(peer.session.last_heard_ns()) > silence_ns {
            peer.heard_again_ns = now_ns;
        }
        let step = peer.session.receive(&packet, now_ns);
        peer.hold = None;
        let told = step.changed && peer.session.state() == State::Down;
        if told && peer.session.cause() == Cause::Signaled && packet.diagnostic == Diagnostic::EXPIRED {
            let silent = now_ns - peer.last_sent_ns > patience_ns;
            let ended_ns = now_ns.saturating_sub(peer.silence_ended_ns);
            let was_silent = peer.silence_ended_ns > 0 && ended_ns < 2 * patience_ns;
            // Who stood still himself finds that nothing was heard, and says so as soon as he runs again.
            let stood_still = now_ns - peer.heard_again_ns < patience_ns;
            if silent || was_silent || stood_still {
                peer.excused_ns = now_ns + as_ns(FIRST_HANDSHAKE);
                peer.excuse = if silent || was_silent { Excuse::OwnSilence } else { Excuse::PeerSilence };
            }
            self.status.own_silence += u64::from(silent || was_silent);
            self.status.peer_silence += u64::from(stood_still && !silent && !was_silent);
        }
        self.carry_out(index, step.send, step.changed, now_ns);
    }

    /// Sends what is due at `now_ns` and gives up peers that are gone. The sockets must have been drained, and the CPUs heard, after that moment.
    pub fn run(&mut self, now_ns: u64, cpus: &mut Cpus) {
        if self.is_waiting() {
            return;
        }
        for index in std::mem::take(&mut self.held) {
            self.doubt(index, now_ns, cpus);
        }
        while let Some(&Reverse((at_ns, index))) = self.timers.peek() {
            if at_ns > now_ns {
                return;
            }
            self.timers.pop();
            if self.peers[index].timer_ns != at_ns {
                continue;
            }
            self.doubt(index, now_ns, cpus);
        }
    }

    /// Does what is due for a peer; it is given up only once it is known that this host did not stand still.
    fn doubt(&mut self, index: usize, now_ns: u64, cpus: &mut Cpus) {
        let peer = &mut self.peers[index];
        let due_ns = peer.hold.map(|(_, due_ns)| due_ns).or(peer.session.expires_ns());
        if let Some(due_ns) = due_ns.filter(|&due_ns| due_ns <= now_ns) {
            let (testimony, mut ask) = cpus.parts();
            let (hold, held_ns) = peer.hold.get_or_insert((Hold::new(now_ns), due_ns));
            let patience = self.paces[peer.pace].patience;
            match hold.rule(patience, (due_ns, now_ns), testimony, &mut ask) {
                Ruling::Believe => {
                    peer.session.expires_at(now_ns);
                    peer.hold = None;
                }
                Ruling::Wait(until_ns) => {
                    peer.session.expires_at(until_ns);
                    if !self.held.contains(&index) {
                        self.held.push(index);
                    }
                }
                Ruling::Grace(at_ns) => {
                    peer.session.expires_at(at_ns);
                    *held_ns = at_ns;
                }
            }
        }
        let step = peer.session.tick(now_ns);
        self.carry_out(index, step.send, step.changed, now_ns);
    }

    fn carry_out(&mut self, index: usize, send: Option<Packet>, changed: bool, now_ns: u64) {
        let peer = &mut self.peers[index];
        if let Some(packet) = send {
            if now_ns - peer.last_sent_ns > peer.session.patience_ns() {
                peer.silence_ended_ns = now_ns;
            }
            peer.last_sent_ns = now_ns;
            let sent = peer.send(&packet);
            self.status.sent += u64::from(sent);
            self.status.send_errors += u64::from(!sent);
        }
        if changed {
            let is_up = peer.session.state() == State::Up;
            peer.flaps += u64::from(peer.is_up);
            peer.is_up = is_up;
            peer.since_ns = now_ns;
            if is_up || peer.was_up {
                peer.changed_ns = now_ns;
                // A round out of turn: whoever waits for this does not wait for the next tick.
                let pace = &mut self.paces[peer.pace];
                pace.next_ns = pace.next_ns.min(now_ns);
            }
            peer.was_up |= is_up;
            if is_up {
                peer.excused_ns = 0;
            }
        }
        let timer_ns = peer.session.next_ns();
        if timer_ns < peer.timer_ns || peer.timer_ns <= now_ns {
            peer.timer_ns = timer_ns;
            self.timers.push(Reverse((timer_ns, index)));
        }
    }

    /// Hands out the next round that is due at `now_ns`. Sessions must have been [run](Self::run) at that moment.
    pub fn judge(&mut self, now_ns: u64, cpus: &mut Cpus) -> Option<Round<'_>> {
        if self.is_waiting() {
            return None;
        }
        let (testimony, mut ask) = cpus.parts();
        let is_answered = !testimony.is_open();
        let is_due = |pace: &Pace| {
            pace.next_ns <= now_ns || is_answered && pace.hold.is_some_and(|(_, due_ns)| due_ns <= now_ns)
        };
        let index = self.paces.iter().position(is_due)?;
        let pace = &mut self.paces[index];
        let due_ns = pace.next_ns.min(now_ns);
        if pace.next_ns <= now_ns {
            pace.next_ns += ((now_ns - due_ns) / pace.interval_ns + 1) * pace.interval_ns;
        }
        let peers = &mut self.peers[pace.peers.clone()];
        let is_new = |peer: &Peer| peer.is_late(now_ns) && !peer.was_late;
        let mut believed = true;
        if peers.iter().any(is_new) {
            let (hold, held_ns) = pace.hold.get_or_insert((Hold::new(now_ns), due_ns));
            if *held_ns > now_ns {
                believed = false;
            } else {
                match hold.rule(pace.patience, (*held_ns, now_ns), testimony, &mut ask) {
                    Ruling::Believe => pace.hold = None,
                    Ruling::Wait(until_ns) => {
                        believed = false;
                        pace.next_ns = pace.next_ns.min(until_ns);
                    }
                    Ruling::Grace(at_ns) => {
                        believed = false;
                        *held_ns = at_ns;
                        pace.next_ns = pace.next_ns.min(at_ns);
                    }
                }
            }
        } else {
            pace.hold = None;
        }
        self.outcomes.clear();
        for peer in peers {
            peer.was_late = peer.is_late(now_ns) && (believed || peer.was_late);
            self.outcomes.push(peer.outcome(now_ns));
        }
        let since_ns = now_ns.saturating_sub(2 * pace.timeout_ns);
        Some(Round { group: pace.group, since_ns, due_ns, outcomes: &self.outcomes })
    }
}

impl Peer {
    /// When a packet of a session that is up is late.
    fn late_ns(&self) -> u64 {
        let interval_ns = u64::from(self.session.rx_interval_us()) * 1000;
        self.session.last_heard_ns() + interval_ns * LATE_PERCENT / 100
    }

    fn is_late(&self, now_ns: u64) -> bool {
        self.session.state() == State::Up && now_ns > self.late_ns()
    }

    /// Until when it is no evidence that the session is not up; `None` if it is, or the session is up.
    fn awaited_until_ns(&self, now_ns: u64) -> Option<u64> {
        let silent_ns = match self.session.last_heard_ns() {
            0 => u64::MAX,
            heard_ns => heard_ns + as_ns(HANDSHAKE_SILENCE),
        };
        let until_ns = self.excused_ns.min(silent_ns);
        (self.session.state() != State::Up && now_ns < until_ns).then_some(until_ns)
    }

    fn outcome(&self, now_ns: u64) -> Outcome {
        if self.session.state() != State::Up {
            if self.awaited_until_ns(now_ns).is_some() {
                return Outcome::Unknown;
            }
            return Outcome::Missed { how: Miss::Bfd(self.session.cause()), due_ns: self.changed_ns };
        }
        if !self.is_late(now_ns) {
            // A packet says nothing of the way there and back.
            Outcome::Answered { at_ns: self.session.last_heard_ns(), rtt_ns: 0 }
        } else if self.was_late {
            Outcome::Missed { how: Miss::Silent, due_ns: self.late_ns() }
        } else {
            Outcome::Unknown
        }
    }
}

#[cfg(test)]
#[path = "bfd_tests.rs"]
mod tests;
