//! Datagrams at a steady rate, each with its flow's next number: whatever is lost, comes twice, comes late or comes to another
//! backend is told by the backends themselves, not by who asks.
//!
//! Nothing is sent twice, and nothing is waited for: what a kernel would repeat or hide shows here.
use super::{http, live::lock};
use crate::lab::Lab;
use anyhow::{Context, Result, bail, ensure};
use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::socket::{setsockopt, sockopt::RcvBufForce},
};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    ops::Range,
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

/// Between two ticks; a tick that is missed is left out, so that a machine that stood still makes no burst.
const TICK: Duration = Duration::from_millis(2);
/// Datagrams of one tick: 2,000 a second in all.
const PER_TICK: usize = 4;
/// Bytes that each socket of a backend may hold back: more than 5 s of everything, so that a slow reader loses nothing.
const HOLD_BYTES: usize = 32 << 20;
/// How soon the receivers notice that they are to end.
const POLL_MS: u16 = 20;
/// How long flows may take until the first answer, and datagrams on their way until they have arrived.
const PATIENCE: Duration = Duration::from_secs(15);
/// Faults that are told; more are counted.
const TOLD_MAX: usize = 20;
/// Bytes of a datagram: its number, big-endian. Number 0 asks whether anybody is there.
const NUMBER: usize = 8;

/// A flow: the VIP that it goes to, and its client port.
type Flow = (SocketAddr, u16);

/// What the backends saw of one flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Seen {
    backend: usize,
    last: u64,
}

/// What all flows came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Datagrams that were sent.
    pub sent: u64,
    /// Datagrams that came to a backend.
    pub arrived: u64,
    /// Datagrams by backend.
    pub by_backend: BTreeMap<String, u64>,
    /// How many were not the next one of their flow, or came to another backend than those before.
    pub faults: u64,
    /// The first of those.
    pub told: Vec<String>,
}

/// Flows that are on their way until they are stopped or dropped.
pub struct Numbered {
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
    receiver: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    stop_sending: AtomicBool,
    stop_receiving: AtomicBool,
    sent: AtomicU64,
    arrived: AtomicU64,
    account: Mutex<Account>,
}

struct Listener {
    backend: usize,
    vip: SocketAddr,
    socket: UdpSocket,
}

impl Lab {
    /// Sends numbered datagrams from each of these ports of a client to each of these VIPs, in turn, 2,000 a second in all, with a
    /// socket for each VIP on each backend. Every flow has been answered once when this returns.
    ///
    /// # Errors
    /// No such client, a port in use, or a flow that nobody answers.
    pub fn numbered(&self, client: &str, vips: &[SocketAddr], ports: Range<u16>) -> Result<Numbered> {
        let mut listeners = Vec::new();
        for (backend, of) in self.topology().backends.iter().enumerate() {
            for &vip in vips {
                let socket = self.backend_netns(&of.name)?.run(|| listen(vip))?;
                listeners.push(Listener { backend, vip, socket });
            }
        }
        let names = self.topology().backend_names();
        let shared = Arc::<Shared>::default();
        let receiver = thread::spawn({
            let shared = shared.clone();
            move || receive(&listeners, names, &shared)
        });
        let mut numbered = Numbered { shared, sender: None, receiver: Some(receiver) };
        let (of, netns) = (self.topology().client(client)?.clone(), self.client_netns(client)?.clone());
        let flows: Vec<UdpSocket> = netns.run(|| {
            let all = vips.iter().flat_map(|vip| ports.clone().map(move |port| (*vip, port)));
            all.map(|(vip, port)| open(http::source(&of, vip, port), vip)).collect::<Result<_>>()
        })?;
        numbered.sender = Some(thread::spawn({
            let shared = numbered.shared.clone();
            move || send(&flows, &shared)
        }));
        Ok(numbered)
    }
}

fn listen(vip: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(vip).with_context(|| format!("cannot bind UDP {vip}"))?;
    socket.set_nonblocking(true)?;
    setsockopt(&socket, RcvBufForce, &HOLD_BYTES)?;
    Ok(socket)
}

/// A flow that somebody answers.
fn open(source: SocketAddr, vip: SocketAddr) -> Result<UdpSocket> {
    let socket = UdpSocket::bind(source).with_context(|| format!("cannot bind UDP {source}"))?;
    socket.connect(vip)?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    let deadline = Instant::now() + PATIENCE;
    let mut answer = [0; NUMBER];
    loop {
        let asked = socket.send(&0_u64.to_be_bytes()).and_then(|_| socket.recv(&mut answer));
        match asked {
            Ok(NUMBER) => break,
            _ if Instant::now() < deadline => {}
            _ => bail!("nobody answers {source} at {vip} within {PATIENCE:?}"),
        }
    }
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The sockets stay in the namespace where they were opened, whichever this thread is in.
fn send(flows: &[UdpSocket], shared: &Shared) {
    let mut next = Instant::now();
    let mut turns = (1_u64..).flat_map(|number| flows.iter().map(move |flow| (flow, number)));
    while !shared.stop_sending.load(Ordering::SeqCst) {
        for (flow, number) in turns.by_ref().take(PER_TICK) {
            match flow.send(&number.to_be_bytes()) {
                Ok(_) => drop(shared.sent.fetch_add(1, Ordering::SeqCst)),
                Err(error) => shared.fault(format!("{:?}: cannot send: {error}", flow.local_addr())),
            }
        }
        next = (next + TICK).max(Instant::now());
        thread::sleep(next - Instant::now());
    }
}

fn receive(listeners: &[Listener], names: Vec<String>, shared: &Shared) {
    let mut polled: Vec<_> =
        listeners.iter().map(|l| PollFd::new(l.socket.as_fd(), PollFlags::POLLIN)).collect();
    let mut flows: BTreeMap<Flow, Seen> = BTreeMap::new();
    let mut counts = vec![0_u64; names.len()];
    let mut datagram = [0; 64];
    while !shared.stop_receiving.load(Ordering::SeqCst) {
        if !matches!(poll(&mut polled, PollTimeout::from(POLL_MS)), Ok(1..)) {
            continue;
        }
        for listener in listeners {
            while let Ok((length, from)) = listener.socket.recv_from(&mut datagram) {
                let Ok(number) = <[u8; NUMBER]>::try_from(&datagram[..length]).map(u64::from_be_bytes) else {
                    shared.fault(format!("{from}: a datagram of {length} bytes"));
                    continue;
                };
                if number == 0 {
                    // A client that is gone is no concern of a backend.
                    drop(listener.socket.send_to(&datagram[..length], from));
                    continue;
                }
                counts[listener.backend] += 1;
                shared.arrived.fetch_add(1, Ordering::SeqCst);
                let now = Seen { backend: listener.backend, last: number };
                if let Some(fault) =
                    judge(flows.insert((listener.vip, from.port()), now.clone()).as_ref(), &now)
                {
                    shared
                        .fault(format!("{from} to {} at {}: {fault}", listener.vip, names[listener.backend]));
                }
            }
        }
    }
    lock(&shared.account).by_backend =
        names.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect();
}

/// What is wrong with a datagram, given the one of the same flow before it.
fn judge(before: Option<&Seen>, now: &Seen) -> Option<String> {
    let (expected, backend) = before.map_or((1, now.backend), |before| (before.last + 1, before.backend));
    if now.backend != backend {
        Some(format!("number {} came to another backend than number {}", now.last, expected - 1))
    } else if now.last != expected {
        Some(format!("number {} came instead of {expected}", now.last))
    } else {
        None
    }
}

impl Shared {
    fn fault(&self, text: String) {
        let mut account = lock(&self.account);
        account.faults += 1;
        if account.told.len() < TOLD_MAX {
            account.told.push(text);
        }
    }
}

impl Numbered {
    /// Datagrams sent so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// What went wrong so far: the first faults, told.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        lock(&self.shared.account).told.clone()
    }

    /// Stops sending, waits for what is on its way, and sums up.
    ///
    /// # Errors
    /// A thread of it panicked, or nothing was sent.
    pub fn stop(mut self) -> Result<Account> {
        self.shared.stop_sending.store(true, Ordering::SeqCst);
        join(self.sender.take())?;
        let (deadline, sent) = (Instant::now() + PATIENCE, self.sent());
        // Less than was sent at the end of this is a loss, and for who called to see.
        while self.shared.arrived.load(Ordering::SeqCst) < sent && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        self.shared.stop_receiving.store(true, Ordering::SeqCst);
        join(self.receiver.take())?;
        ensure!(sent > 0, "nothing was sent");
        let arrived = self.shared.arrived.load(Ordering::SeqCst);
        Ok(Account { sent, arrived, ..lock(&self.shared.account).clone() })
    }
}

fn join(thread: Option<JoinHandle<()>>) -> Result<()> {
    match thread.map(JoinHandle::join) {
        Some(Err(_)) => bail!("a thread of the numbered datagrams panicked"),
        _ => Ok(()),
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.shared.stop_sending.store(true, Ordering::SeqCst);
        self.shared.stop_receiving.store(true, Ordering::SeqCst);
        for thread in [self.sender.take(), self.receiver.take()] {
            // A panic of it was printed.
            drop(join(thread));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_next_one_at_the_same_backend_is_a_fault() {
        let seen = |backend, last| Seen { backend, last };
        assert_eq!(judge(None, &seen(3, 1)), None);
        assert_eq!(judge(Some(&seen(3, 7)), &seen(3, 8)), None);
        for (before, now) in [
            (None, seen(3, 2)),
            (Some(seen(3, 7)), seen(3, 9)),
            (Some(seen(3, 7)), seen(3, 7)),
            (Some(seen(3, 7)), seen(3, 6)),
            (Some(seen(3, 7)), seen(2, 8)),
        ] {
            assert!(judge(before.as_ref(), &now).is_some(), "{before:?} {now:?}");
        }
    }
}
