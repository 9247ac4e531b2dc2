//! Flows over UDP that live for as long as a test: each datagram is answered, and its answer says by whom.
//!
//! | kind | a flow is known by | what comes to another backend |
//! |---|---|---|
//! | [`UdpKind::Sticky`] | its addresses and ports | is answered by another name: the flow broke |
//! | [`UdpKind::Quic`] | the connection id that its server gave it (draft-ietf-quic-load-balancers, plaintext), also from another port | the same, and that backend complains |
use super::{
    http,
    live::{Exchange, LiveFlows, lock},
};
use crate::lab::{Client, Lab};
use anyhow::{Context, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::{
    io::ErrorKind,
    net::{SocketAddr, UdpSocket},
    os::fd::AsFd,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Configuration of connection ids: `config_id` in `[service.quic]`.
pub const QUIC_CONFIG_ID: u8 = 1;
/// Bytes of a server id: `server_id_length` in `[service.quic]`.
pub const QUIC_SERVER_ID_BYTES: usize = 2;

/// How long an answer may take. Nothing is sent twice: a datagram that is lost breaks its flow.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How soon the servers notice that they are to end.
const POLL_MS: u16 = 50;
/// Bytes of a backend's name in an answer.
const NAME: usize = 16;
/// Bytes of a connection id.
const ID: usize = 16;
/// Bytes of the number of a datagram.
const NUMBER: usize = 8;
/// First byte and version of a packet with a long header: an Initial of version 1 (RFC 9000, section 17.2.2).
const INITIAL: [u8; 5] = [0xc0, 0, 0, 0, 1];
/// First byte of a packet with a short header (RFC 9000, section 17.3.1).
const SHORT: u8 = 0x40;

/// What tells the datagrams of one flow from those of others.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UdpKind {
    /// Addresses and ports.
    Sticky,
    /// A connection id.
    Quic,
}

/// A server on every backend for both kinds.
pub struct LiveUdpServers {
    stop: Arc<AtomicBool>,
    wrong: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

struct Server {
    name: String,
    id: [u8; QUIC_SERVER_ID_BYTES],
    kind: UdpKind,
    socket: UdpSocket,
}

/// The server id of the backend at a position of the topology, as the configuration has it too.
pub(crate) const fn server_id(position: usize) -> [u8; QUIC_SERVER_ID_BYTES] {
    (position as u16 + 0x0a01).to_be_bytes()
}

impl Lab {
    /// Starts servers on all backends: of sticky flows at one address, of QUIC-like ones at the other.
    ///
    /// # Errors
    /// A port is in use.
    pub fn live_udp_servers(&self, sticky: SocketAddr, quic: SocketAddr) -> Result<LiveUdpServers> {
        let mut servers = Vec::new();
        for (position, backend) in self.topology().backends.iter().enumerate() {
            for (kind, vip) in [(UdpKind::Sticky, sticky), (UdpKind::Quic, quic)] {
                let socket = self.backend_netns(&backend.name)?.run(|| {
                    let socket = UdpSocket::bind(vip).with_context(|| format!("cannot bind UDP {vip}"))?;
                    socket.set_nonblocking(true)?;
                    Ok(socket)
                })?;
                servers.push(Server { name: backend.name.clone(), id: server_id(position), kind, socket });
            }
        }
        let (stop, wrong) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<String>>>::default());
        let thread = thread::spawn({
            let (stop, wrong) = (stop.clone(), wrong.clone());
            move || serve(&servers, &stop, &wrong)
        });
        Ok(LiveUdpServers { stop, wrong, thread: Some(thread) })
    }

    /// Opens a flow from each of these ports of a client, and keeps all of them busy until they are stopped.
    ///
    /// # Errors
    /// No such client, or one of them is not answered.
    pub fn live_udp_flows(
        &self,
        client: &str,
        kind: UdpKind,
        vip: SocketAddr,
        ports: std::ops::Range<u16>,
    ) -> Result<LiveUdpFlows> {
        let netns = self.client_netns(client)?.clone();
        let of = self.topology().client(client)?.clone();
        let shift = Arc::<AtomicU16>::default();
        let open = |port| UdpFlow::open(of.clone(), kind, vip, port, shift.clone());
        let flows = netns.run(|| ports.map(open).collect::<Result<Vec<_>>>())?;
        Ok(LiveUdpFlows { flows: LiveFlows::start(flows, Some(netns)), shift })
    }
}

impl LiveUdpServers {
    /// What the servers found wrong so far.
    pub fn wrong(&self) -> Vec<String> {
        lock(&self.wrong).clone()
    }
}

impl Drop for LiveUdpServers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was printed.
            let _ = thread.join();
        }
    }
}

fn serve(servers: &[Server], stop: &AtomicBool, wrong: &Mutex<Vec<String>>) {
    let mut polled: Vec<_> =
        servers.iter().map(|server| PollFd::new(server.socket.as_fd(), PollFlags::POLLIN)).collect();
    let mut datagram = [0; 2048];
    while !stop.load(Ordering::Relaxed) {
        if !matches!(poll(&mut polled, PollTimeout::from(POLL_MS)), Ok(1..)) {
            continue;
        }
        for server in servers {
            while let Ok((length, from)) = server.socket.recv_from(&mut datagram) {
                let (answer, complaint) = server.answer(&datagram[..length]);
                if let Some(complaint) = complaint {
                    lock(wrong).push(format!("{} from {from}: {complaint}", server.name));
                }
                // A client that is gone is no concern of a server.
                drop(server.socket.send_to(&answer, from));
            }
        }
    }
}

impl Server {
    /// Name, the datagram's number, and the connection id that this server gives out; and what is wrong with the datagram.
    fn answer(&self, datagram: &[u8]) -> (Vec<u8>, Option<String>) {
        let (number, complaint) = match datagram.split_last_chunk::<NUMBER>() {
            None => ([0; NUMBER], Some(format!("a datagram of {} bytes", datagram.len()))),
            Some((header, number)) => (*number, self.judge(header)),
        };
        let mut answer = [b' '; NAME].to_vec();
        answer[..self.name.len()].copy_from_slice(self.name.as_bytes());
        answer.extend_from_slice(&number);
        if self.kind == UdpKind::Quic {
            answer.push(QUIC_CONFIG_ID << 5 | number[NUMBER - 1] & 0x1f);
            answer.extend_from_slice(&self.id);
            answer.resize(NAME + NUMBER + ID, number[NUMBER - 1].wrapping_mul(0x35));
        }
        (answer, complaint)
    }

    /// Whether a datagram with this header belongs here.
    fn judge(&self, header: &[u8]) -> Option<String> {
        if self.kind == UdpKind::Sticky || header.starts_with(&INITIAL) {
            return None;
        }
        let belongs = header.len() == 1 + ID
            && header[1] >> 5 == QUIC_CONFIG_ID
            && header[2..2 + QUIC_SERVER_ID_BYTES] == self.id;
        (!belongs).then(|| format!("a datagram of another connection: {header:02x?}"))
    }
}

/// Flows over UDP that are kept busy by a thread of their own.
#[derive(Debug)]
pub struct LiveUdpFlows {
    flows: LiveFlows,
    shift: Arc<AtomicU16>,
}

impl LiveUdpFlows {
    /// From its next datagram on, each flow comes from the port that lies so far behind its first one.
    pub fn change_ports(&self, by: u16) {
        self.shift.store(by, Ordering::SeqCst);
    }
}

impl std::ops::Deref for LiveUdpFlows {
    type Target = LiveFlows;

    fn deref(&self) -> &LiveFlows {
        &self.flows
    }
}

struct UdpFlow {
    client: Client,
    kind: UdpKind,
    vip: SocketAddr,
    socket: UdpSocket,
    port: u16,
    /// How far from its first port it is, and how far it is to be.
    shifted: u16,
    shift: Arc<AtomicU16>,
    backend: String,
    /// The connection id, once the server gave one.
    id: Option<[u8; ID]>,
    number: u64,
}

impl UdpFlow {
    fn open(
        client: Client,
        kind: UdpKind,
        vip: SocketAddr,
        port: u16,
        shift: Arc<AtomicU16>,
    ) -> Result<Self> {
        let socket = socket(&client, vip, port)?;
        let backend = String::new();
        let mut flow =
            Self { client, kind, vip, socket, port, shifted: 0, shift, backend, id: None, number: 0 };
        flow.backend = flow.ask().with_context(|| format!("UDP port {port} to {vip}"))?;
        Ok(flow)
    }

    /// Sends a datagram; returns who answered it.
    fn ask(&mut self) -> Result<String> {
        self.number += 1;
        let number = self.number.to_be_bytes();
        let datagram = match (self.kind, &self.id) {
            (UdpKind::Sticky, _) => number.to_vec(),
            (UdpKind::Quic, Some(id)) => [&[SHORT], &id[..], &number].concat(),
            // A connection id that the client made up looks like that of a server which does not exist.
            (UdpKind::Quic, None) => {
                let made_up = [QUIC_CONFIG_ID << 5, 0xff, 0xff, 1, 2, 3, 4, 5];
                [&INITIAL[..], &[made_up.len() as u8], &made_up, &[0], &number].concat()
            }
        };
        self.socket.send(&datagram).context("cannot send")?;
        let mut answer = [0; 256];
        let length = self.socket.recv(&mut answer).context("no answer")?;
        let (name, rest) = answer[..length].split_at_checked(NAME).context("cut short")?;
        ensure!(rest.starts_with(&number), "an answer to another datagram");
        if self.id.is_none() && self.kind == UdpKind::Quic {
            self.id = Some(rest[NUMBER..].try_into().context("no connection id")?);
        }
        Ok(String::from_utf8_lossy(name).trim_end().to_owned())
    }
}

fn socket(client: &Client, vip: SocketAddr, port: u16) -> Result<UdpSocket> {
    let source = http::source(client, vip, port);
    let socket = UdpSocket::bind(source).with_context(|| format!("cannot bind UDP {source}"))?;
    socket.connect(vip)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

impl Exchange for UdpFlow {
    fn port(&self) -> u16 {
        self.port
    }

    fn backend(&self) -> &str {
        &self.backend
    }

    fn exchange(&mut self) -> Result<usize> {
        let shift = self.shift.load(Ordering::SeqCst);
        if shift != self.shifted {
            self.socket = socket(&self.client, self.vip, self.port + shift)?;
            self.shifted = shift;
        }
        let now = self.ask().map_err(|error| match error.downcast_ref::<std::io::Error>() {
            Some(io) if io.kind() == ErrorKind::WouldBlock => error.context("a datagram was lost"),
            _ => error,
        })?;
        ensure!(now == self.backend, "came to {now}");
        Ok(NUMBER)
    }
}
