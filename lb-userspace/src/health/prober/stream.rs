//! A TCP connection to a VIP through the tunnel to one backend: what checks of HTTP through the tunnel talk over.
//!
//! Packets to the VIP are encapsulated to the backend, as clients' are; its answers come from the VIP straight to this host. The kernel knows of
//! no such connection, so TCP itself is a library here (smoltcp). The port is a socket's of this process that listens and takes nothing: its
//! filter drops everything before the kernel would answer with a reset. A raw socket sees the packets all the same.
//!
//! Bounded: three descriptors and [`WINDOW_BYTES`] in each direction for each connection; how many there are at once is what
//! [`slow`](super::slow) lets.

use std::collections::VecDeque;
use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Checksum, ChecksumCapabilities, Device, DeviceCapabilities, Medium, RxToken, TxToken};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr, IpListenEndpoint};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

use crate::health::round::Miss;
use crate::runtime::clock::monotonic_ns;

/// Bytes that may wait in each direction.
pub(super) const WINDOW_BYTES: usize = 32 << 10;
/// Bytes of the largest packet that is sent: with any tunnel's header it fits where 1500 do.
const MTU: usize = 1400;
/// Bytes of the largest packet that the kernel hands over, which may be several put together.
const PACKET_BYTES: usize = 1 << 16;
/// Packets taken in one go.
const PACKETS_PER_TURN: usize = 64;
/// How long nothing is done at most.
const PATIENCE: Duration = Duration::from_millis(500);
const IPV6_HEADER: usize = 40;
/// IP protocols.
const IPV4_INSIDE: i32 = 4;
const IPV6_INSIDE: i32 = 41;
const TCP: i32 = 6;

/// Talks over a connection to `vip` by way of `backend`.
///
/// # Errors
/// What `talk` says, or why there is no connection.
pub(super) async fn through<F: Future<Output = Result<(), Miss>>>(
    backend: IpAddr,
    vip: SocketAddr,
    talk: impl FnOnce(DuplexStream) -> F,
) -> Result<(), Miss> {
    let mut connection = Connection::open(backend, vip).map_err(|error| match error.kind() {
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => Miss::Unreachable,
        _ => Miss::Unsent,
    })?;
    let (near, mut far) = duplex(WINDOW_BYTES);
    tokio::select! {
        biased;
        said = talk(near) => said,
        how = connection.drive(&mut far) => Err(how),
    }
}

/// Packets on their way in and out.
#[derive(Debug, Default)]
struct Queues {
    arrived: VecDeque<Vec<u8>>,
    leaving: VecDeque<Vec<u8>>,
}

struct Arrived(Vec<u8>);
struct Leaving<'a>(&'a mut VecDeque<Vec<u8>>);

impl RxToken for Arrived {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, take: F) -> R {
        take(&self.0)
    }
}

impl TxToken for Leaving<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, fill: F) -> R {
        let mut packet = vec![0; length];
        let result = fill(&mut packet);
        self.0.push_back(packet);
        result
    }
}

impl Device for Queues {
    type RxToken<'a> = Arrived;
    type TxToken<'a> = Leaving<'a>;

    fn receive(&mut self, _: Instant) -> Option<(Arrived, Leaving<'_>)> {
        self.arrived.pop_front().map(|packet| (Arrived(packet), Leaving(&mut self.leaving)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Leaving<'_>> {
        Some(Leaving(&mut self.leaving))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = MTU;
        // The kernel has looked at those that arrive, or knows that they never were on a wire.
        let mut checksum = ChecksumCapabilities::default();
        (checksum.ipv4, checksum.tcp) = (Checksum::Tx, Checksum::Tx);
        capabilities.checksum = checksum;
        capabilities
    }
}

/// One connection.
struct Connection {
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    queues: Queues,
    backend: SocketAddr,
    local: SocketAddr,
    vip: SocketAddr,
    /// Raw sockets and not UDP: what sends to an address and receives from one is the same call.
    tunnel: UdpSocket,
    answers: tokio::net::UdpSocket,
    /// Has the port.
    _guard: Socket,
}

fn now() -> Instant {
    // Microseconds since boot are far below the limit.
    Instant::from_micros(i64::try_from(monotonic_ns() / 1_000).unwrap_or(i64::MAX))
}

fn domain(address: IpAddr) -> Domain {
    if address.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 }
}

fn raw(address: IpAddr, protocol: i32) -> io::Result<Socket> {
    let socket = Socket::new(domain(address), Type::RAW, Some(Protocol::from(protocol)))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// A port of this address for which the kernel neither takes nor answers anything.
fn guard(local: IpAddr) -> io::Result<(Socket, u16)> {
    let socket = Socket::new(domain(local), Type::STREAM, Some(Protocol::TCP))?;
    silence(&socket)?;
    socket.bind(&SocketAddr::new(local, 0).into())?;
    socket.listen(1)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((socket, port))
}

/// Lets a socket drop whatever arrives.
pub(super) fn silence(socket: &Socket) -> io::Result<()> {
    // BPF_RET | BPF_K: take 0 bytes of each packet.
    socket.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])
}

impl Connection {
    /// Sends nothing yet.
    fn open(backend: IpAddr, vip: SocketAddr) -> io::Result<Self> {
        let answers = raw(vip.ip(), TCP)?;
        answers.connect(&SocketAddr::new(vip.ip(), 0).into())?;
        let local = answers.local_addr()?.as_socket().ok_or(ErrorKind::AddrNotAvailable)?.ip();
        let (guard, port) = guard(local)?;
        let local = SocketAddr::new(local, port);
        let tunnel = raw(backend, if vip.is_ipv4() { IPV4_INSIDE } else { IPV6_INSIDE })?;
        let mut queues = Queues::default();
        let mut config = Config::new(HardwareAddress::Ip);
        config.random_seed = RandomState::new().hash_one(port);
        let mut interface = Interface::new(config, &mut queues, now());
        let prefix = if local.is_ipv4() { 32 } else { 128 };
        interface.update_ip_addrs(|addresses| {
            // There is room for at least one.
            let _ = addresses.push(IpCidr::new(local.ip().into(), prefix));
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; WINDOW_BYTES]);
        let mut socket = tcp::Socket::new(buffer(), buffer());
        let from = IpListenEndpoint { addr: Some(local.ip().into()), port };
        let to: (IpAddress, u16) = (vip.ip().into(), vip.port());
        socket.connect(interface.context(), to, from).map_err(|error| io::Error::other(error.to_string()))?;
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Self {
            interface,
            sockets,
            handle,
            queues,
            backend: SocketAddr::new(backend, 0),
            local,
            vip,
            tunnel: UdpSocket::from(OwnedFd::from(tunnel)),
            answers: tokio::net::UdpSocket::from_std(UdpSocket::from(OwnedFd::from(answers)))?,
            _guard: guard,
        })
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    /// Carries bytes to and fro until the connection ends, and says how; after an orderly end it waits for whoever reads what is left.
    async fn drive(&mut self, far: &mut DuplexStream) -> Miss {
        let (mut chunk, mut opened, mut read_all, mut said_all) = ([0; 4096], false, false, false);
        loop {
            self.turn();
            opened |= self.socket().may_send();
            while self.socket().can_recv() {
                let Ok(length) = self.socket().recv_slice(&mut chunk) else { break };
                if far.write_all(&chunk[..length]).await.is_err() {
                    break;
                }
                self.turn();
            }
            if opened && !self.socket().may_recv() && !read_all {
                read_all = true;
                let _ = far.shutdown().await;
            }
            if self.socket().state() == tcp::State::Closed && !read_all {
                return if opened { Miss::Broken } else { Miss::Refused };
            }
            let socket = self.socket();
            let room = chunk.len().min(socket.send_capacity() - socket.send_queue());
            let may_send = socket.may_send() && room > 0 && !said_all;
            let delay = self.interface.poll_delay(now(), &self.sockets).map_or(PATIENCE, Duration::from);
            tokio::select! {
                // What is there is taken in the next turn.
                _ = self.answers.readable() => {}
                length = far.read(&mut chunk[..room]), if may_send => match length {
                    Ok(length) if length > 0 => {
                        let sent = self.socket().send_slice(&chunk[..length]);
                        debug_assert_eq!(sent, Ok(length), "there was room");
                    }
                    _ => said_all = true,
                },
                () = tokio::time::sleep(delay.min(PATIENCE)) => {}
            }
        }
    }

    /// Takes what arrived, and sends what is to be sent.
    fn turn(&mut self) {
        let mut packet = vec![0; PACKET_BYTES];
        for _ in 0..PACKETS_PER_TURN {
            let Ok(length) = self.answers.try_recv(&mut packet) else { break };
            self.arrive(&packet[..length]);
        }
        self.interface.poll(now(), &mut self.queues, &mut self.sockets);
        for packet in self.queues.leaving.drain(..) {
            // One that cannot be sent is sent again, until the probe's time is over.
            let _ = self.tunnel.send_to(&packet, self.backend);
        }
    }

    /// A raw socket is shown all segments from the VIP to any port of this host.
    fn arrive(&mut self, bytes: &[u8]) {
        // One of IPv4 shows the IP header, one of IPv6 does not.
        let packet = if self.vip.is_ipv4() { bytes.to_vec() } else { self.with_header(bytes) };
        let header = if self.vip.is_ipv4() {
            usize::from(packet.first().map_or(0, |byte| byte & 15)) * 4
        } else {
            IPV6_HEADER
        };
        let is_mine = |ports: &[u8]| {
            ports[..2] == self.vip.port().to_be_bytes() && ports[2..4] == self.local.port().to_be_bytes()
        };
        if packet.get(header..header + 4).is_some_and(is_mine) {
            self.queues.arrived.push_back(packet);
        }
    }

    fn with_header(&self, segment: &[u8]) -> Vec<u8> {
        let mut packet = Vec::with_capacity(IPV6_HEADER + segment.len());
        packet.extend([0x60, 0, 0, 0]);
        packet.extend(u16::try_from(segment.len()).unwrap_or(0).to_be_bytes());
        packet.extend([TCP as u8, 64]);
        for address in [self.vip.ip(), self.local.ip()] {
            if let IpAddr::V6(address) = address {
                packet.extend(address.octets());
            }
        }
        packet.extend(segment);
        packet
    }
}

impl Drop for Connection {
    /// Resets it, so that neither side keeps anything.
    fn drop(&mut self) {
        self.socket().abort();
        self.turn();
    }
}
