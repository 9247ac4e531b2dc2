//! The sockets of heartbeats: UDP to the agent, or ICMP echo to the host.

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use lb_common::abi::heartbeat::Heartbeat;
use lb_common::abi::pod::Pod;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, setsockopt, socket, sockopt};

use super::ProberError;
use super::batch::Message;
use crate::health::echo::{self, Family};

/// Room for heartbeats in each direction of a socket, in bytes. The kernel may grant less to an unprivileged process.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;

/// How a heartbeat travels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Means {
    /// To `weir agent`.
    Udp,
    /// In an echo request.
    Echo,
}

impl Means {
    /// Which of the prober's sockets it takes to get there.
    pub(super) const fn socket(self, to: SocketAddr) -> usize {
        let family = to.is_ipv6() as usize;
        match self {
            Self::Udp => family,
            Self::Echo => 2 + family,
        }
    }
}

/// A socket that sends and takes heartbeats.
#[derive(Debug)]
pub(super) struct Socket {
    /// Not always UDP: what sends to an address and receives from one is the same call for all datagrams.
    pub(super) socket: UdpSocket,
    pub(super) means: Means,
    family: Family,
    /// Identifier of this process's echo requests; the kernel chooses it for ping sockets.
    id: Option<u16>,
    /// What is received begins with an IPv4 header.
    ip_header: bool,
}

impl Socket {
    /// A UDP socket on any port of this address.
    pub(super) fn udp(family: &'static str, any: IpAddr) -> Result<Self, ProberError> {
        let open = || {
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        let socket = open().map_err(|source| ProberError::Socket { family, source })?;
        widen(&socket, family);
        let family = if any.is_ipv4() { Family::V4 } else { Family::V6 };
        Ok(Self { socket, means: Means::Udp, family, id: None, ip_header: false })
    }

    /// A raw socket, or a ping socket where this process may have no raw one.
    pub(super) fn echo(family: Family, key: &RandomState) -> Result<Self, ProberError> {
        let (domain, protocol, name) = match family {
            Family::V4 => (AddressFamily::Inet, SockProtocol::Icmp, "ICMP"),
            Family::V6 => (AddressFamily::Inet6, SockProtocol::IcmpV6, "ICMPv6"),
        };
        let open = |kind| {
            socket(domain, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, protocol)
                .map(UdpSocket::from)
                .map_err(io::Error::from)
        };
        // The raw one first: it needs no setting of the system.
        let (socket, is_raw) = match open(SockType::Raw) {
            Ok(socket) => (socket, true),
            Err(_) => (
                open(SockType::Datagram).map_err(|source| ProberError::Echo { family: name, source })?,
                false,
            ),
        };
        widen(&socket, name);
        let id = is_raw.then(|| key.hash_one(name) as u16);
        Ok(Self { socket, means: Means::Echo, family, id, ip_header: is_raw && family == Family::V4 })
    }

    /// What a heartbeat is sent as.
    pub(super) fn message(&self, round: u64, heartbeat: &Heartbeat) -> Message {
        match self.means {
            Means::Udp => Message::new(heartbeat.as_bytes()),
            Means::Echo => {
                let id = self.id.unwrap_or(0);
                Message::new(&echo::request(self.family, id, round, heartbeat))
            }
        }
    }

    /// The heartbeat in a datagram, if it is one.
    pub(super) fn heartbeat(&self, datagram: &[u8]) -> Option<Heartbeat> {
        match self.means {
            Means::Udp => Heartbeat::from_bytes(datagram),
            Means::Echo => echo::reply(self.family, self.id, self.ip_header, datagram),
        }
    }
}

fn widen(socket: &UdpSocket, family: &'static str) {
    // Beyond the system's limit only with CAP_NET_ADMIN; with less room, large rounds may lose answers and count them.
    if setsockopt(socket, sockopt::RcvBufForce, &SOCKET_BUFFER_BYTES).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &SOCKET_BUFFER_BYTES);
    }
    if setsockopt(socket, sockopt::SndBuf, &SOCKET_BUFFER_BYTES).is_err() {
        tracing::debug!(family, "the heartbeat socket keeps its default send buffer");
    }
}
