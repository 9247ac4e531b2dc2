//! Heartbeats over UDP and in ICMP echo requests: sends rounds, takes answers, and says what became of each probe. No decision is taken here.
//!
//! A group's rounds are sent on absolute ticks. A round is judged when its answers were due, after the sockets have been
//! drained; it may be that several rounds are in flight, when the timeout is longer than the interval. If somebody is missing, it is
//! [held](crate::health::flights) until it is known that this host was not what stood still.

mod batch;
pub mod bfd;
pub mod cpus;
pub mod exchange;
pub(crate) mod exec;
pub mod gather;
pub mod http;
pub mod slow;
mod stream;
mod timetable;
pub mod tunnel;
mod wire;

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use lb_common::abi::heartbeat::{Heartbeat, MAGIC, REPLY, REQUEST, STATUS_OK, VERSION};

use tokio::task::JoinSet;

use self::batch::{BATCH, Outgoing, receive};
use self::cpus::Cpus;
use self::wire::{Means, Socket};

use crate::config::CheckKind;
use crate::health::echo::Family;
use crate::health::flights::{Flights, MAX_ROUNDS_IN_FLIGHT, Pacing, Probe, Taken};
use crate::health::round::{Outcome, Round};
use crate::health::target::{Group, Targets};
use crate::runtime::clock::{as_ns, monotonic_ns};

/// Datagrams taken in one go, so that a flood cannot keep the thread from its timer.
pub const MAX_DRAIN: usize = 65_536;
/// Probes sent in one go: answers and operators' commands are not to wait until all of a large round is out.
const PROBES_PER_TURN: usize = BATCH;
/// Bytes read of a datagram: a heartbeat behind the longest IPv4 header and that of ICMP. Longer ones are no heartbeats.
const DATAGRAM_BYTES: usize = 128;

/// Why heartbeats cannot be sent at all.
#[derive(Debug, thiserror::Error)]
pub enum ProberError {
    /// A socket could not be made.
    #[error("cannot open the {family} socket for heartbeats: {source}")]
    Socket {
        /// `IPv4` or `IPv6`.
        family: &'static str,
        /// Why.
        source: io::Error,
    },
    /// A socket for echo requests could not be made.
    #[error(
        "cannot open the {family} socket for icmp checks: {source}; give CAP_NET_RAW, or allow ping sockets to this group with `sysctl net.ipv4.ping_group_range`"
    )]
    Echo {
        /// `ICMP` or `ICMPv6`.
        family: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The sessions.
    #[error(transparent)]
    Bfd(#[from] bfd::BfdError),
    /// The timeout is out of proportion.
    #[error(
        "check {check}: its timeout is more than {} intervals long; make the interval longer or the timeout shorter",
        MAX_ROUNDS_IN_FLIGHT - 2
    )]
    TooManyInFlight {
        /// Name of the check.
        check: String,
    },
}

/// What probes outside the control thread; it ends when this is dropped.
#[derive(Debug)]
pub struct Elsewhere {
    _exchanges: Option<timetable::Thread>,
    _tunnels: Option<timetable::Thread>,
    _tasks: JoinSet<()>,
}

/// Why checks could not be started.
#[derive(Debug, thiserror::Error)]
pub enum ElsewhereError {
    /// The thread for TCP, UDP and DNS checks.
    #[error(transparent)]
    Exchange(#[from] exchange::ExchangeError),
    /// The thread for checks through the tunnel.
    #[error(transparent)]
    Tunnel(#[from] tunnel::TunnelError),
    /// The tasks for HTTP and exec checks.
    #[error(transparent)]
    Slow(#[from] slow::SlowError),
}

/// Starts all probes that do not run on the control thread; their results come out of the [`Gather`](gather::Gather).
///
/// # Errors
/// When a thread cannot be started, there are more targets than it takes, HTTP or exec checks are configured and there is no
/// tokio runtime, or no certificate authorities can be had.
pub fn spawn(targets: &Targets) -> Result<(gather::Gather, Elsewhere), ElsewhereError> {
    let takes = |group: &Group| exchange::takes(group) || tunnel::takes(group) || slow::takes(group);
    let (gather, reporter) = gather::Gather::new(targets, monotonic_ns(), takes);
    let tasks = slow::spawn(targets, &reporter)?;
    let tunnels = tunnel::spawn(targets, reporter.clone())?;
    let exchanges = exchange::spawn(targets, reporter)?;
    Ok((gather, Elsewhere { _exchanges: exchanges, _tunnels: tunnels, _tasks: tasks }))
}

/// Counters since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct ProbingStatus {
    /// Rounds judged.
    pub rounds: u64,
    /// Rounds that were judged later than an interval after they were due.
    pub late_rounds: u64,
    /// Rounds in which somebody was missing, and that were given a grace because this host stood still.
    pub stalled_rounds: u64,
    /// For how long a round was held at most until it was known that this host had not stood still, in nanoseconds.
    pub max_held_ns: u64,
    /// Rounds that were never sent, because this thread was late by more than an interval.
    pub missed_ticks: u64,
    /// How late the last round was sent, in nanoseconds.
    pub lateness_ns: u64,
    /// How late a round was sent at most, in nanoseconds.
    pub max_lateness_ns: u64,
    /// Heartbeats sent.
    pub sent: u64,
    /// Heartbeats that could not be sent.
    pub send_errors: u64,
    /// Answers that came in time, be it that the agent is unwell.
    pub answers: u64,
    /// Answers that came after their round was judged.
    pub late_answers: u64,
    /// Answers that came twice.
    pub duplicate_answers: u64,
    /// Datagrams that are no answers: wrong source, size, magic, version, kind, nonce or target.
    pub invalid_answers: u64,
}

/// A group's rounds, and where they go.
#[derive(Debug)]
struct Pace {
    group: usize,
    interval_ns: u64,
    flights: Flights,
    means: Means,
    /// The targets' numbers and where they are.
    peers: Vec<(usize, SocketAddr)>,
    sending: Option<Sending>,
}

/// A round of which a part has been sent.
#[derive(Clone, Copy, Debug)]
struct Sending {
    round: u64,
    due_ns: u64,
    /// The next of the peers.
    next: usize,
}

impl Pace {
    fn new(
        index: usize,
        group: &Group,
        targets: &Targets,
        means: Means,
        now_ns: u64,
    ) -> Result<Self, ProberError> {
        let port = group.kind.port();
        let peer = |&target: &usize| (target, SocketAddr::new(targets.targets[target].address, port));
        let peers: Vec<_> = group.targets.iter().map(peer).collect();
        let interval_ns = as_ns(group.interval).max(1);
        let pacing = Pacing {
            interval_ns,
            timeout_ns: as_ns(group.timeout),
            jitter_ns: (u128::from(interval_ns) * u128::from(group.jitter) / 100) as u64,
            fall: group.fall,
        };
        let flights = Flights::new(pacing, peers.len(), now_ns, now_ns ^ index as u64)
            .ok_or_else(|| ProberError::TooManyInFlight { check: group.check.clone() })?;
        Ok(Self { group: index, interval_ns, flights, means, peers, sending: None })
    }
}

/// Sends heartbeats and takes their answers.
#[derive(Debug)]
pub struct Prober {
    /// As [`Means::socket`] numbers them.
    sockets: [Option<Socket>; 4],
    /// Key of the nonces, random for each start.
    key: RandomState,
    paces: Vec<Pace>,
    /// For each target, its pace and its position there.
    places: Vec<Option<(usize, usize)>>,
    outcomes: Vec<Outcome>,
    /// What is to be sent by each socket; empty between two turns, as is what came.
    outgoing: [Outgoing; 4],
    inbox: Vec<(Option<Heartbeat>, SocketAddr)>,
    /// The pace that got the last of the room to send.
    first: usize,
    status: ProbingStatus,
}

impl Prober {
    /// Opens the sockets that the heartbeat targets need; the first round is due at once.
    ///
    /// # Errors
    /// When a socket cannot be made, or a check wants too many rounds in flight.
    pub fn new(targets: &Targets) -> Result<Self, ProberError> {
        let now_ns = monotonic_ns();
        let mut paces = Vec::new();
        let mut places = vec![None; targets.targets.len()];
        for (index, group) in targets.groups.iter().enumerate() {
            let means = match group.kind {
                CheckKind::Heartbeat { .. } => Means::Udp,
                CheckKind::Icmp => Means::Echo,
                _ => continue,
            };
            for (position, &target) in group.targets.iter().enumerate() {
                places[target] = Some((paces.len(), position));
            }
            paces.push(Pace::new(index, group, targets, means, now_ns)?);
        }
        let any = |means: Means, v6: bool| {
            let mut probed = paces.iter().filter(|pace: &&Pace| pace.means == means);
            probed.any(|pace| pace.peers.iter().any(|(_, to)| to.is_ipv6() == v6))
        };
        let key = RandomState::new();
        let sockets = [
            any(Means::Udp, false).then(|| Socket::udp("IPv4", Ipv4Addr::UNSPECIFIED.into())),
            any(Means::Udp, true).then(|| Socket::udp("IPv6", Ipv6Addr::UNSPECIFIED.into())),
            any(Means::Echo, false).then(|| Socket::echo(Family::V4, &key)),
            any(Means::Echo, true).then(|| Socket::echo(Family::V6, &key)),
        ];
        let [udp_v4, udp_v6, echo_v4, echo_v6] = sockets.map(Option::transpose);
        let sockets = [udp_v4?, udp_v6?, echo_v4?, echo_v6?];
        let status = ProbingStatus::default();
        Ok(Self {
            sockets,
            key,
            paces,
            places,
            outcomes: Vec::new(),
            outgoing: Default::default(),
            inbox: Vec::new(),
            first: 0,
            status,
        })
    }

    /// The sockets, readable when there are answers.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().flatten().map(|socket| socket.socket.as_fd())
    }

    /// When something is due next, if CPUs' answers are told of as they come; `None` if there are no heartbeat targets.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        // What is left of a round goes out at once, after what came meanwhile.
        self.paces.iter().map(|pace| if pace.sending.is_some() { 0 } else { pace.flights.next_ns() }).min()
    }

    /// Counters since start.
    #[must_use]
    pub const fn status(&self) -> ProbingStatus {
        self.status
    }

    /// Takes all answers that wait in the sockets.
    pub fn drain(&mut self) {
        let mut inbox = std::mem::take(&mut self.inbox);
        for index in 0..self.sockets.len() {
            for _ in 0..MAX_DRAIN / BATCH {
                let Some(socket) = &self.sockets[index] else { break };
                let means = socket.means;
                let more =
                    receive(&socket.socket, |datagram, from| inbox.push((socket.heartbeat(datagram), from)));
                let now_ns = monotonic_ns();
                for (heartbeat, from) in inbox.drain(..) {
                    match heartbeat {
                        Some(heartbeat) => self.take(heartbeat, means, from, now_ns),
                        // Raw sockets are shown all echo messages of the host.
                        None if means == Means::Echo => {}
                        None => self.status.invalid_answers += 1,
                    }
                }
                if !more {
                    break;
                }
            }
        }
        self.inbox = inbox;
    }

    /// Hands out the next round that was due at `now_ns` and need not be held. The sockets must have been drained, and the CPUs heard, after that
    /// moment.
    pub fn judge(&mut self, now_ns: u64, cpus: &mut Cpus) -> Option<Round<'_>> {
        let (testimony, mut ask) = cpus.parts();
        let outcomes = &mut self.outcomes;
        let (pace, judged) = self.paces.iter_mut().find_map(|pace| {
            let judged = pace.flights.judge(now_ns, testimony, &mut ask, outcomes)?;
            Some((pace, judged))
        })?;
        self.status.rounds += 1;
        self.status.late_rounds += u64::from(now_ns - judged.due_ns > pace.interval_ns);
        self.status.stalled_rounds += u64::from(judged.stalled);
        self.status.max_held_ns = self.status.max_held_ns.max(judged.held_ns);
        let (group, since_ns, due_ns) = (pace.group, judged.since_ns, judged.due_ns);
        Some(Round { group, since_ns, due_ns, outcomes: &self.outcomes })
    }

    /// Sends what is due at `now_ns`, a part of it if it is much; the rest is due at once.
    pub fn send(&mut self, now_ns: u64) {
        let mut room = PROBES_PER_TURN;
        for _ in 0..self.paces.len() {
            // Whoever did not get all of the room this time comes first the next time.
            self.first = (self.first + 1) % self.paces.len();
            let index = self.first;
            if self.paces[index].sending.is_none() {
                self.begin(index, now_ns);
            }
            let Some(sending) = self.paces[index].sending else { continue };
            room -= self.send_some(index, sending, room);
            if room == 0 {
                return;
            }
        }
    }

    /// Begins the group's round if one is due.
    fn begin(&mut self, index: usize, now_ns: u64) {
        let Pace { flights, sending, .. } = &mut self.paces[index];
        let Some(tick) = flights.tick(now_ns) else { return };
        self.status.lateness_ns = tick.lateness_ns;
        self.status.max_lateness_ns = self.status.max_lateness_ns.max(tick.lateness_ns);
        self.status.missed_ticks += tick.missed;
        if let Some(round) = tick.round {
            flights.open(round, monotonic_ns());
            *sending = Some(Sending { round, due_ns: tick.due_ns, next: 0 });
        }
    }

    /// Sends at most `room` probes of the group's round; returns how many.
    fn send_some(&mut self, index: usize, sending: Sending, room: usize) -> usize {
        let Pace { flights, means, peers, sending: left, .. } = &mut self.paces[index];
        let Sending { round, due_ns, next } = sending;
        let end = peers.len().min(next + room);
        let sent_ns = monotonic_ns();
        for (position, &(target, to)) in peers.iter().enumerate().take(end).skip(next) {
            let nonce = self.key.hash_one((round, target));
            let request = Heartbeat::request(round, nonce, target as u64);
            let number = means.socket(to);
            if let Some(socket) = &self.sockets[number] {
                self.outgoing[number].push(position, socket.message(round, &request), to);
            }
        }
        for (outgoing, socket) in self.outgoing.iter_mut().zip(&self.sockets) {
            outgoing.send(socket.as_ref().map(|socket| &socket.socket), |position, sent| {
                self.status.sent += u64::from(sent);
                self.status.send_errors += u64::from(!sent);
                flights.set(round, position, if sent { Probe::Waiting { sent_ns } } else { Probe::Unsent });
            });
        }
        *left = (end < peers.len()).then_some(Sending { next: end, ..sending });
        if left.is_none() {
            flights.sent(round, due_ns, monotonic_ns());
        }
        end - next
    }

    fn take(&mut self, heartbeat: Heartbeat, means: Means, from: SocketAddr, now_ns: u64) {
        let Some((pace, position)) = self.recognise(&heartbeat, means, from) else {
            self.status.invalid_answers += 1;
            return;
        };
        let (round, well) = (u64::from_be_bytes(heartbeat.round), heartbeat.status == STATUS_OK);
        let counter = match self.paces[pace].flights.answer(round, position, well, now_ns) {
            Taken::InTime => &mut self.status.answers,
            Taken::Late => &mut self.status.late_answers,
            Taken::Twice => &mut self.status.duplicate_answers,
        };
        *counter += 1;
    }

    /// The pace and the position of the target, if it is an answer to a probe that was sent to there.
    fn recognise(&self, heartbeat: &Heartbeat, means: Means, from: SocketAddr) -> Option<(usize, usize)> {
        // An echo reply brings back what was sent.
        let kind = if means == Means::Echo { REQUEST } else { REPLY };
        if (heartbeat.magic, heartbeat.version, heartbeat.kind) != (MAGIC, VERSION, kind) {
            return None;
        }
        let target = usize::try_from(u64::from_be_bytes(heartbeat.target)).ok()?;
        let (pace, position) = (*self.places.get(target)?)?;
        let (_, to) = self.paces[pace].peers[position];
        let nonce = self.key.hash_one((u64::from_be_bytes(heartbeat.round), target));
        let same_port = means == Means::Echo || from.port() == to.port();
        let same = from.ip() == to.ip() && same_port && self.paces[pace].means == means;
        (same && heartbeat.nonce == nonce.to_be_bytes()).then_some((pace, position))
    }
}

#[cfg(test)]
#[path = "prober_tests.rs"]
mod tests;
