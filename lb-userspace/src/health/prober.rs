//! Heartbeats over UDP and in ICMP echo requests: sends rounds, takes answers, and says what became of each probe. No decision is taken here.
//!
//! A group's rounds are sent on absolute ticks. A round is judged when its answers were due, after the sockets have been
//! drained; it may be that several rounds are in flight, when the timeout is longer than the interval. If this thread was
//! itself so late that a whole interval passed, it cannot tell whose fault a missing answer is, and says nothing.

pub mod bfd;
pub mod exchange;
mod exec;
pub mod gather;
pub mod http;
pub mod slow;
pub mod tunnel;
mod wire;

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use lb_common::abi::heartbeat::{Heartbeat, MAGIC, REPLY, REQUEST, STATUS_OK, VERSION};

use tokio::task::JoinSet;

use self::wire::{Means, Socket};

use crate::config::CheckKind;
use crate::health::echo::Family;
use crate::health::round::{Miss, Outcome, Round};
use crate::health::target::{Group, Targets};
use crate::health::ticks::Dice;
use crate::runtime::clock::{as_ns, monotonic_ns};

/// Rounds of one group that may wait for answers at the same time.
pub const MAX_ROUNDS_IN_FLIGHT: usize = 64;
/// Datagrams taken in one go, so that a flood cannot keep the thread from its timer.
pub const MAX_DRAIN: usize = 65_536;
/// After how many datagrams the clock is read again.
const DATAGRAMS_PER_CLOCK: usize = 64;
/// A round that was sent late by less than this part of an interval is judged on time all the same.
const SLACK_DIVISOR: u64 = 8;
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
    _exchanges: Option<exchange::Thread>,
    _tunnels: Option<tunnel::Thread>,
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
    /// Rounds whose misses were not believed, because this thread was late by more than an interval itself.
    pub late_rounds: u64,
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

/// One probe of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Probe {
    Waiting { sent_ns: u64 },
    Answered { at_ns: u64, rtt_ns: u64 },
    Unwell,
    Unsent,
}

/// One round that waits for answers.
#[derive(Debug)]
struct Flight {
    round: u64,
    sent_ns: u64,
    judge_ns: u64,
    waiting: bool,
    probes: Vec<Probe>,
}

/// A group's schedule and rounds in flight.
#[derive(Debug)]
struct Pace {
    group: usize,
    interval_ns: u64,
    timeout_ns: u64,
    /// The next tick, without its delay.
    next_send_ns: u64,
    /// How far the next round is delayed, of at most `jitter_ns`.
    delay_ns: u64,
    jitter_ns: u64,
    dice: Dice,
    next_round: u64,
    means: Means,
    /// The targets' numbers and where they are.
    peers: Vec<(usize, SocketAddr)>,
    /// Round r lies at r modulo the length.
    flights: Vec<Flight>,
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
        let interval_ns = as_ns(group.interval).max(1);
        let timeout_ns = as_ns(group.timeout);
        // One more than fit in a timeout, because a round that was sent late is judged late; and one if it was delayed.
        let spare = 2 + usize::from(group.jitter > 0);
        let depth =
            usize::try_from(timeout_ns.div_ceil(interval_ns)).unwrap_or(usize::MAX).saturating_add(spare);
        if depth > MAX_ROUNDS_IN_FLIGHT {
            return Err(ProberError::TooManyInFlight { check: group.check.clone() });
        }
        let peer = |&target: &usize| (target, SocketAddr::new(targets.targets[target].address, port));
        let peers: Vec<_> = group.targets.iter().map(peer).collect();
        let flight = || Flight {
            round: 0,
            sent_ns: 0,
            judge_ns: 0,
            waiting: false,
            probes: vec![Probe::Unsent; peers.len()],
        };
        let flights = (0..depth).map(|_| flight()).collect();
        Ok(Self {
            group: index,
            interval_ns,
            timeout_ns,
            next_send_ns: now_ns,
            delay_ns: 0,
            jitter_ns: (u128::from(interval_ns) * u128::from(group.jitter) / 100) as u64,
            dice: Dice::new(now_ns ^ index as u64),
            next_round: 1,
            means,
            peers,
            flights,
        })
    }

    fn slot(&self, round: u64) -> usize {
        // The remainder is below the number of flights, which is a usize.
        (round % self.flights.len() as u64) as usize
    }

    fn next_ns(&self) -> u64 {
        let judged = self.flights.iter().filter(|flight| flight.waiting).map(|flight| flight.judge_ns).min();
        judged.unwrap_or(u64::MAX).min(self.next_send_ns + self.delay_ns)
    }

    /// The oldest round that waits and was due at `now_ns`.
    fn due(&self, now_ns: u64) -> Option<usize> {
        let due = self.flights.iter().enumerate().filter(|(_, f)| f.waiting && f.judge_ns <= now_ns);
        due.min_by_key(|(_, flight)| flight.round).map(|(slot, _)| slot)
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
        Ok(Self { sockets, key, paces, places, outcomes: Vec::new(), status })
    }

    /// The sockets, readable when there are answers.
    pub fn sockets(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sockets.iter().flatten().map(|socket| socket.socket.as_fd())
    }

    /// When something is due next; `None` if there are no heartbeat targets.
    #[must_use]
    pub fn next_ns(&self) -> Option<u64> {
        self.paces.iter().map(Pace::next_ns).min()
    }

    /// Counters since start.
    #[must_use]
    pub const fn status(&self) -> ProbingStatus {
        self.status
    }

    /// Takes all answers that wait in the sockets.
    pub fn drain(&mut self) {
        for index in 0..self.sockets.len() {
            let mut now_ns = monotonic_ns();
            for taken in 0..MAX_DRAIN {
                let Some(socket) = &self.sockets[index] else {
                    break;
                };
                let mut datagram = [0; DATAGRAM_BYTES];
                match socket.socket.recv_from(&mut datagram) {
                    Ok((length, from)) => match socket.heartbeat(&datagram[..length]) {
                        Some(heartbeat) => self.take(heartbeat, socket.means, from, now_ns),
                        // Raw sockets are shown all echo messages of the host.
                        None if socket.means == Means::Echo => {}
                        None => self.status.invalid_answers += 1,
                    },
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    // Nothing left; or an error that the next wake-up meets again and that says nothing about a target.
                    Err(_) => break,
                }
                if taken % DATAGRAMS_PER_CLOCK == DATAGRAMS_PER_CLOCK - 1 {
                    now_ns = monotonic_ns();
                }
            }
        }
    }

    /// Hands out the next round that was due at `now_ns`. The sockets must have been drained after that moment.
    pub fn judge(&mut self, now_ns: u64) -> Option<Round<'_>> {
        let (pace, slot) =
            self.paces.iter_mut().find_map(|pace| pace.due(now_ns).map(|slot| (pace, slot)))?;
        let late = now_ns - pace.flights[slot].judge_ns > pace.interval_ns;
        let flight = &mut pace.flights[slot];
        flight.waiting = false;
        self.status.rounds += 1;
        self.status.late_rounds += u64::from(late);
        let due_ns = flight.judge_ns;
        self.outcomes.clear();
        self.outcomes.extend(flight.probes.iter().map(|&probe| match probe {
            Probe::Answered { at_ns, rtt_ns } => Outcome::Answered { at_ns, rtt_ns },
            Probe::Waiting { .. } if late => Outcome::Unknown,
            Probe::Waiting { .. } => Outcome::Missed { how: Miss::Silent, due_ns },
            Probe::Unwell => Outcome::Missed { how: Miss::Unwell, due_ns },
            Probe::Unsent => Outcome::Missed { how: Miss::Unsent, due_ns },
        }));
        Some(Round { group: pace.group, since_ns: flight.sent_ns, due_ns, outcomes: &self.outcomes })
    }

    /// Sends every round that is due at `now_ns`.
    pub fn send(&mut self, now_ns: u64) {
        for index in 0..self.paces.len() {
            let pace = &mut self.paces[index];
            if pace.next_send_ns + pace.delay_ns > now_ns {
                continue;
            }
            let lateness_ns = now_ns - pace.next_send_ns - pace.delay_ns;
            let missed = lateness_ns / pace.interval_ns;
            self.status.lateness_ns = lateness_ns;
            self.status.max_lateness_ns = self.status.max_lateness_ns.max(lateness_ns);
            self.status.missed_ticks += missed;
            let tick_ns = pace.next_send_ns + missed * pace.interval_ns;
            let due_ns = tick_ns + pace.delay_ns;
            pace.next_send_ns = tick_ns + pace.interval_ns;
            pace.delay_ns = pace.dice.below(pace.jitter_ns);
            let slot = pace.slot(pace.next_round);
            if pace.flights[slot].waiting {
                // Cannot be with the depth that was chosen; if it were, a round less is the harmless way out.
                self.status.missed_ticks += 1;
                continue;
            }
            self.send_round(index, slot, due_ns);
        }
    }

    fn send_round(&mut self, index: usize, slot: usize, due_ns: u64) {
        let pace = &mut self.paces[index];
        let round = pace.next_round;
        pace.next_round += 1;
        let flight = &mut pace.flights[slot];
        let mut sent_ns = monotonic_ns();
        flight.sent_ns = sent_ns;
        for (position, &(target, to)) in pace.peers.iter().enumerate() {
            if position % DATAGRAMS_PER_CLOCK == DATAGRAMS_PER_CLOCK - 1 {
                sent_ns = monotonic_ns();
            }
            let nonce = self.key.hash_one((round, target));
            let request = Heartbeat::request(round, nonce, target as u64);
            let socket = &self.sockets[pace.means.socket(to)];
            let sent = socket.as_ref().map(|socket| socket.send(round, &request, to));
            let sent = matches!(sent, Some(Ok(_)));
            self.status.sent += u64::from(sent);
            self.status.send_errors += u64::from(!sent);
            flight.probes[position] = if sent { Probe::Waiting { sent_ns } } else { Probe::Unsent };
        }
        let done_ns = monotonic_ns();
        // A round that went out late gets its full timeout; a little lateness is not worth a second wake-up.
        let late = done_ns.saturating_sub(due_ns) > pace.interval_ns / SLACK_DIVISOR;
        flight.judge_ns = if late { done_ns } else { due_ns } + pace.timeout_ns;
        flight.round = round;
        flight.waiting = true;
    }

    fn take(&mut self, heartbeat: Heartbeat, means: Means, from: SocketAddr, now_ns: u64) {
        let Some((pace, position)) = self.recognise(&heartbeat, means, from) else {
            self.status.invalid_answers += 1;
            return;
        };
        let pace = &mut self.paces[pace];
        let round = u64::from_be_bytes(heartbeat.round);
        let slot = pace.slot(round);
        let flight = &mut pace.flights[slot];
        if !flight.waiting || flight.round != round {
            self.status.late_answers += 1;
            return;
        }
        let Probe::Waiting { sent_ns } = flight.probes[position] else {
            self.status.duplicate_answers += 1;
            return;
        };
        self.status.answers += 1;
        flight.probes[position] = if heartbeat.status == STATUS_OK {
            Probe::Answered { at_ns: now_ns, rtt_ns: now_ns.saturating_sub(sent_ns) }
        } else {
            Probe::Unwell
        };
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
