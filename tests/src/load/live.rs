//! Connections that live for as long as a test: both ends check every byte.
//!
//! The bytes of a connection follow from its client port and their position, so that a lost, repeated or strange byte shows at
//! once, at whichever end. A backend that gets a packet of a connection that it does not know resets it: a connection that lives
//! was never anywhere else.
use super::http;
use crate::lab::{Lab, Netns};
use anyhow::{Context, Result, bail, ensure};
use nix::{
    errno::Errno,
    sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
};
use std::{
    collections::{BTreeMap, HashMap},
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Bytes that are sent at a time.
const BLOCK: usize = 64;
/// How long an answer may take: the kernel repeats a lost packet several times within it.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How soon the server notices that it is to end.
const POLL_MS: u16 = 50;
/// Between two rounds over all connections.
const PAUSE: Duration = Duration::from_millis(20);
/// Bytes of a backend's name, with which its server greets.
const NAME: usize = 16;

/// Byte `at` of the connection from client port `port`.
const fn byte(port: u16, at: u64) -> u8 {
    ((at ^ port as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8
}

/// A server on every backend that sends back what it gets, as long as that is what it must be.
pub struct LiveServers {
    stop: Arc<AtomicBool>,
    wrong: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Peer {
    stream: TcpStream,
    port: u16,
    position: u64,
}

impl Lab {
    /// Starts servers on this VIP and port on all backends.
    ///
    /// # Errors
    /// The port is in use.
    pub fn live_servers(&self, vip: SocketAddr) -> Result<LiveServers> {
        let mut listeners = Vec::new();
        for backend in &self.topology().backends {
            let listener = self.backend_netns(&backend.name)?.run(|| {
                let listener = TcpListener::bind(vip).with_context(|| format!("cannot bind {vip}"))?;
                listener.set_nonblocking(true)?;
                Ok(listener)
            })?;
            listeners.push((backend.name.clone(), listener));
        }
        let (stop, wrong) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let thread = thread::spawn({
            let (stop, wrong) = (stop.clone(), wrong.clone());
            move || {
                if let Err(error) = serve(&listeners, &stop, &wrong) {
                    lock(&wrong).push(format!("the servers ended: {error:#}"));
                }
            }
        });
        Ok(LiveServers { stop, wrong, thread: Some(thread) })
    }

    /// Opens a connection from each of these ports of a client, and keeps all of them busy until they are stopped.
    ///
    /// # Errors
    /// No such client, or one of them is not answered.
    pub fn live_flows(
        &self,
        client: &str,
        vip: SocketAddr,
        ports: std::ops::Range<u16>,
    ) -> Result<LiveFlows> {
        let of = self.topology().client(client)?.clone();
        let netns = self.client_netns(client)?.clone();
        let streams = netns.run(|| {
            ports.map(|port| open(http::source(&of, vip, port), vip, port)).collect::<Result<Vec<_>>>()
        })?;
        Ok(LiveFlows::start(streams, None))
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl LiveServers {
    /// What the servers found wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }
}

impl Drop for LiveServers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was printed.
            let _ = thread.join();
        }
    }
}

fn serve(listeners: &[(String, TcpListener)], stop: &AtomicBool, wrong: &Mutex<Vec<String>>) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (index, (_, listener)) in listeners.iter().enumerate() {
        epoll.add(listener, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
    }
    let mut peers: HashMap<u64, Peer> = HashMap::new();
    let mut next = listeners.len() as u64;
    let mut events = [EpollEvent::empty(); 256];
    while !stop.load(Ordering::Relaxed) {
        let count = match epoll.wait(&mut events, EpollTimeout::from(POLL_MS)) {
            Err(Errno::EINTR) => 0,
            other => other?,
        };
        for event in &events[..count] {
            let id = event.data();
            if let Some((name, listener)) = listeners.get(id as usize) {
                while let Ok((mut stream, from)) = listener.accept() {
                    let mut greeting = [b' '; NAME];
                    greeting[..name.len()].copy_from_slice(name.as_bytes());
                    stream.write_all(&greeting)?;
                    stream.set_nonblocking(true)?;
                    epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, next))?;
                    peers.insert(next, Peer { stream, port: from.port(), position: 0 });
                    next += 1;
                }
            } else if let Some(peer) = peers.get_mut(&id)
                && let Err(error) = peer.answer()
            {
                // A client that ends its connections resets them; anything else is told.
                if error.downcast_ref::<std::io::Error>().is_none() {
                    lock(wrong).push(format!("port {}: {error:#}", peer.port));
                }
                peers.remove(&id);
            }
        }
    }
    Ok(())
}

impl Peer {
    fn answer(&mut self) -> Result<()> {
        let mut part = [0; 4096];
        loop {
            let count = match self.stream.read(&mut part) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                other => other?,
            };
            if count == 0 {
                return Err(std::io::Error::from(ErrorKind::UnexpectedEof).into());
            }
            for &got in &part[..count] {
                ensure!(got == byte(self.port, self.position), "byte {} is another one", self.position);
                self.position += 1;
            }
            self.stream.write_all(&part[..count])?;
        }
    }
}

struct Flow {
    stream: TcpStream,
    port: u16,
    backend: String,
    position: u64,
}

fn open(source: SocketAddr, vip: SocketAddr, port: u16) -> Result<Flow> {
    let told = || format!("port {port} to {vip}");
    let mut stream = http::connect(source, vip, TIMEOUT).with_context(told)?;
    let mut name = [0; NAME];
    stream.read_exact(&mut name).with_context(told)?;
    let backend = String::from_utf8_lossy(&name).trim_end().to_owned();
    Ok(Flow { stream, port, backend, position: 0 })
}

/// A flow that can be kept busy.
pub(super) trait Exchange: Send + 'static {
    /// The client port by which it is told from others.
    fn port(&self) -> u16;
    /// Where it lives.
    fn backend(&self) -> &str;
    /// Sends something and checks what comes back; how many bytes that was.
    fn exchange(&mut self) -> Result<usize>;
}

impl Exchange for Flow {
    fn port(&self) -> u16 {
        self.port
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    fn exchange(&mut self) -> Result<usize> {
        let block: [u8; BLOCK] = std::array::from_fn(|i| byte(self.port, self.position + i as u64));
        self.stream.write_all(&block).context("cannot send")?;
        let mut answer = [0; BLOCK];
        self.stream.read_exact(&mut answer).context("no answer")?;
        if answer != block {
            bail!("other bytes came back from position {} on", self.position);
        }
        self.position += BLOCK as u64;
        Ok(BLOCK)
    }
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Rounds over all connections that were begun and ended.
    begun: AtomicU64,
    ended: AtomicU64,
    bytes: AtomicU64,
    backends: Mutex<BTreeMap<u16, String>>,
    broken: Mutex<BTreeMap<u16, String>>,
}

/// Connections that are kept busy by a thread of their own. Dropping them resets them.
#[derive(Debug)]
pub struct LiveFlows {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl LiveFlows {
    /// Keeps flows busy by a thread of their own, in this namespace if one is given.
    pub(super) fn start<F: Exchange>(flows: Vec<F>, netns: Option<Netns>) -> Self {
        let shared = Arc::<Shared>::default();
        lock(&shared.backends).extend(flows.iter().map(|flow| (flow.port(), flow.backend().to_owned())));
        let thread = thread::spawn({
            let shared = shared.clone();
            move || match netns.map_or(Ok(()), |netns| netns.enter()) {
                Ok(()) => keep_busy(flows, &shared),
                Err(error) => drop(lock(&shared.broken).insert(0, format!("{error:#}"))),
            }
        });
        LiveFlows { shared, thread: Some(thread) }
    }

    /// The backend of each connection, by client port.
    pub fn backends(&self) -> BTreeMap<u16, String> {
        lock(&self.shared.backends).clone()
    }

    /// What went wrong so far, by client port.
    pub fn broken(&self) -> BTreeMap<u16, String> {
        lock(&self.shared.broken).clone()
    }

    /// Bytes that came back as they were sent.
    pub fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Number of a round that has not begun yet.
    pub fn next_round(&self) -> u64 {
        self.shared.begun.load(Ordering::SeqCst) + 1
    }

    /// Whether a round has ended: every connection exchanged bytes in it, or broke.
    pub fn has_ended(&self, round: u64) -> bool {
        self.shared.ended.load(Ordering::SeqCst) >= round
    }
}

impl Drop for LiveFlows {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was printed.
            let _ = thread.join();
        }
    }
}

fn keep_busy<F: Exchange>(mut flows: Vec<F>, shared: &Shared) {
    while !shared.stop.load(Ordering::SeqCst) {
        let round = shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        flows.retain_mut(|flow| {
            if shared.stop.load(Ordering::SeqCst) {
                return true;
            }
            match flow.exchange() {
                Ok(bytes) => {
                    shared.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                    true
                }
                Err(error) => {
                    lock(&shared.broken).insert(flow.port(), format!("{}: {error:#}", flow.backend()));
                    false
                }
            }
        });
        shared.ended.store(round, Ordering::SeqCst);
        thread::sleep(PAUSE);
    }
}
