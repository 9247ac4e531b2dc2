//! TCP checks through the tunnel: a SYN to the VIP, encapsulated to the backend as clients' packets are, on a thread of its own.
//!
//! The backend's stack answers with a SYN-ACK from the VIP straight to this host. So a probe proves that the tunnel ends there, that
//! the VIP is on the backend, and that something listens on it there. No connection is opened: a reset follows through the same
//! tunnel.
//!
//! All probes have one source port, which is bound so that nobody else gets it, and listened on by a socket that drops everything: else the
//! kernel of this host, which knows of no connection, would answer with a reset to the VIP, and that could end up anywhere. Which backend answered is told by the sequence
//! number, which is random for each probe: nobody else knows it.

use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use socket2::{Domain, Protocol, Socket, Type};

use super::gather::Reporter;
use super::stream;
use super::timetable::{Due, Thread, Timetable};
use crate::config::CheckKind;
use crate::health::round::Miss;
use crate::health::syn;
use crate::health::target::{Group, Targets};
use crate::runtime::clock::monotonic_ns;

/// Targets that the thread probes at most.
pub const MAX_TUNNELS: usize = 32_768;
/// Probes begun in a row before answers are looked for again.
const STARTS_PER_TURN: usize = 64;
/// Packets taken in one go.
const PACKETS_PER_TURN: usize = 1024;
/// Bytes read of a packet: the longest IPv4 header and a TCP header.
const PACKET_BYTES: usize = 80;
/// IP protocols of what is in a tunnel.
const IPV4_INSIDE: i32 = 4;
const IPV6_INSIDE: i32 = 41;
/// IP protocol of what answers.
const TCP: i32 = 6;

/// Why the thread could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TunnelError {
    /// More targets than the thread takes.
    #[error(
        "{count} targets of checks through the tunnel are more than MAX_TUNNELS = {MAX_TUNNELS}; take the check from some sets"
    )]
    TooMany {
        /// How many there are.
        count: usize,
    },
    /// A socket.
    #[error(
        "cannot open a raw socket for checks through the tunnel: {0}; give CAP_NET_RAW, or check without `via`"
    )]
    Socket(#[source] io::Error),
    /// A descriptor or the thread.
    #[error("cannot start the thread for checks through the tunnel: {0}")]
    System(#[from] io::Error),
}

/// Whether this thread probes the group.
pub(super) fn takes(group: &Group) -> bool {
    matches!(group.kind, CheckKind::TcpTunnel { .. })
}

/// Starts the thread for the groups that it [`takes`]; `None` if there are none.
pub(super) fn spawn(targets: &Targets, reporter: Reporter) -> Result<Option<Thread>, TunnelError> {
    let Some(probes) = Probes::new(targets, reporter, monotonic_ns())? else { return Ok(None) };
    Ok(Some(Thread::start("weir-tunnel", |bell, stop| probes.run(bell, stop))?))
}

/// One target.
#[derive(Debug)]
struct Slot {
    backend: IpAddr,
    vip: SocketAddr,
    /// The sequence number of the probe in flight.
    flight: Option<u32>,
}

struct Probes {
    slots: Vec<Slot>,
    timetable: Timetable,
    /// Probes in flight, by sequence number.
    flights: HashMap<u32, usize>,
    port: u16,
    /// The port is this process's, and the kernel answers nothing there.
    _reserved: Vec<Socket>,
    /// Raw sockets and not UDP: what sends to an address and receives from one is the same call. By family of the tunnel, then of the
    /// VIP.
    tunnels: [[Option<UdpSocket>; 2]; 2],
    /// By family of the VIP.
    answers: [Option<UdpSocket>; 2],
}

const fn family(address: IpAddr) -> usize {
    address.is_ipv6() as usize
}

impl Probes {
    fn new(targets: &Targets, reporter: Reporter, now_ns: u64) -> Result<Option<Self>, TunnelError> {
        // Sequence numbers must not be guessed.
        let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now_ns);
        let mut timetable = Timetable::new(reporter, seed)?;
        let mut slots = Vec::new();
        for group in &targets.groups {
            let CheckKind::TcpTunnel { vip, port } = group.kind else { continue };
            for &target in &group.targets {
                timetable.add(group, target, now_ns);
                let (backend, vip) = (targets.targets[target].address, SocketAddr::new(vip, port));
                slots.push(Slot { backend, vip, flight: None });
            }
        }
        if slots.is_empty() {
            return Ok(None);
        }
        if slots.len() > MAX_TUNNELS {
            return Err(TunnelError::TooMany { count: slots.len() });
        }
        let (reserved, port) = reserve()?;
        let needed = |tunnel: usize, vip: usize| {
            slots.iter().any(|slot| (family(slot.backend), family(slot.vip.ip())) == (tunnel, vip))
        };
        let tunnel = |tunnel, vip| {
            needed(tunnel, vip)
                .then(|| open(tunnel, if vip == 0 { IPV4_INSIDE } else { IPV6_INSIDE }))
                .transpose()
        };
        let answer = |vip| (needed(0, vip) || needed(1, vip)).then(|| open(vip, TCP)).transpose();
        Ok(Some(Self {
            tunnels: [[tunnel(0, 0)?, tunnel(0, 1)?], [tunnel(1, 0)?, tunnel(1, 1)?]],
            answers: [answer(0)?, answer(1)?],
            flights: HashMap::new(),
            slots,
            timetable,
            port,
            _reserved: reserved,
        }))
    }

    fn run(mut self, bell: &EventFd, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let wait = if self.timetable.set_alarm() { PollTimeout::ZERO } else { PollTimeout::NONE };
            let fds = self.answers.iter().flatten().map(AsFd::as_fd);
            let fds = fds.chain([bell.as_fd(), self.timetable.alarm().as_fd()]);
            let mut fds: Vec<_> = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
            // What goes wrong here goes on doing so: the timers tell what became of the probes.
            let _ = poll(&mut fds, wait);
            drop(fds);
            let now_ns = monotonic_ns();
            self.take_answers();
            if self.turn(now_ns).is_none() {
                return;
            }
        }
    }

    /// Takes what came.
    fn take_answers(&mut self) {
        for family in 0..2 {
            for _ in 0..PACKETS_PER_TURN {
                let Some(socket) = &self.answers[family] else { break };
                let mut packet = [0; PACKET_BYTES];
                let (length, from) = match socket.recv_from(&mut packet) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(_) => break,
                };
                // A raw socket of IPv4 shows the IP header, one of IPv6 does not.
                let bytes = &packet[..length];
                let payload = if family == 0 { syn::payload_v4(bytes) } else { Some(bytes) };
                if let Some(segment) = payload.and_then(syn::segment) {
                    self.answer(from.ip(), segment);
                }
            }
        }
    }

    fn answer(&mut self, from: IpAddr, segment: syn::Segment) {
        if segment.to != self.port {
            return;
        }
        let Some(&slot) = self.flights.get(&segment.acknowledged.wrapping_sub(1)) else { return };
        let vip = self.slots[slot].vip;
        if vip != SocketAddr::new(from, segment.from) {
            return;
        }
        let now_ns = monotonic_ns();
        if segment.flags & syn::RST != 0 {
            let _ = self.end(slot, Err(Miss::Refused), now_ns);
        } else if segment.flags & (syn::SYN | syn::ACK) == syn::SYN | syn::ACK {
            // The backend forgets about it.
            let _ = self.send(slot, segment.acknowledged, syn::RST);
            let _ = self.end(slot, Ok(()), now_ns);
        }
    }

    /// Timeouts and new probes. `None` when nobody wants results any more.
    fn turn(&mut self, now_ns: u64) -> Option<()> {
        for _ in 0..STARTS_PER_TURN {
            match self.timetable.due(now_ns) {
                None => break,
                Some(Due::Begin(slot)) => self.begin(slot)?,
                Some(Due::Expired(slot)) => self.end(slot, Err(Miss::Silent), now_ns)?,
            }
        }
        Some(())
    }

    fn begin(&mut self, index: usize) -> Option<()> {
        let mut sequence = self.timetable.roll() as u32;
        while self.flights.contains_key(&sequence) {
            sequence = sequence.wrapping_add(1);
        }
        self.slots[index].flight = Some(sequence);
        self.flights.insert(sequence, index);
        self.timetable.begin(index, monotonic_ns());
        match self.send(index, sequence, syn::SYN) {
            Ok(()) => Some(()),
            Err(error) => self.end(index, Err(unsent(&error)), monotonic_ns()),
        }
    }

    fn send(&self, index: usize, sequence: u32, flags: u8) -> io::Result<()> {
        let Slot { backend, vip, .. } = self.slots[index];
        let source = SocketAddr::new(source_towards(vip)?, self.port);
        let packet = syn::packet(source, vip, sequence, flags);
        let tunnel = &self.tunnels[family(backend)][family(vip.ip())];
        let Some(tunnel) = tunnel else { return Err(ErrorKind::NotConnected.into()) };
        tunnel.send_to(&packet, SocketAddr::new(backend, 0)).map(drop)
    }

    fn end(&mut self, index: usize, ended: Result<(), Miss>, now_ns: u64) -> Option<()> {
        if let Some(sequence) = self.slots[index].flight.take() {
            self.flights.remove(&sequence);
        }
        self.timetable.end(index, ended, now_ns)
    }
}

/// A raw socket.
fn open(family: usize, protocol: i32) -> Result<UdpSocket, TunnelError> {
    let domain = if family == 0 { Domain::IPV4 } else { Domain::IPV6 };
    let open = || {
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(protocol)))?;
        socket.set_nonblocking(true)?;
        Ok(UdpSocket::from(OwnedFd::from(socket)))
    };
    open().map_err(TunnelError::Socket)
}

/// A TCP port that nobody else gets, in both families; only in IPv4 where the host has no IPv6.
fn reserve() -> io::Result<(Vec<Socket>, u16)> {
    let v4 = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    stream::silence(&v4)?;
    v4.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    v4.listen(1)?;
    let port = v4.local_addr()?.as_socket().map_or(0, |address| address.port());
    let v6 = Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).and_then(|v6| {
        v6.set_only_v6(true)?;
        stream::silence(&v6)?;
        v6.bind(&SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)).into())?;
        v6.listen(1)?;
        Ok(v6)
    });
    Ok((std::iter::once(v4).chain(v6).collect(), port))
}

/// This host's address from which packets to a VIP leave: answers from there come to it.
fn source_towards(vip: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = if vip.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect(vip)?;
    Ok(socket.local_addr()?.ip())
}

fn unsent(error: &io::Error) -> Miss {
    match error.kind() {
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Miss::Unreachable,
        _ => Miss::Unsent,
    }
}

#[cfg(test)]
#[path = "tunnel_tests.rs"]
mod tests;
