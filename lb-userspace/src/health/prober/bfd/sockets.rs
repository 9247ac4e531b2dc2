//! The sockets of BFD sessions: one each to send from, and those that packets arrive at.

use std::hash::{BuildHasher, RandomState};
use std::io::{self, ErrorKind, IoSliceMut};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SetSockOpt, SockaddrStorage, recvmsg, setsockopt, sockopt,
};

use crate::health::bfd::{SOURCE_PORTS, TTL};

/// The source ports that are not tried yet.
pub(super) struct Ports {
    next: u16,
    left: usize,
}

impl Ports {
    /// From a random one on, so that a restarted daemon is not taken for the old one.
    pub(super) fn new() -> Self {
        let count = usize::from(SOURCE_PORTS.end() - SOURCE_PORTS.start()) + 1;
        let offset = RandomState::new().hash_one("first port") % count as u64;
        Self { next: SOURCE_PORTS.start() + offset as u16, left: count }
    }

    /// A socket on a port that no other session of this host has.
    pub(super) fn open(&mut self, local: IpAddr) -> io::Result<UdpSocket> {
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

/// A socket that packets to this port of any address arrive at, with their TTL.
pub(super) fn listen_on(any: IpAddr, port: u16) -> io::Result<UdpSocket> {
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
pub(super) fn receive(socket: &UdpSocket, datagram: &mut [u8]) -> nix::Result<(usize, IpAddr, Option<u8>)> {
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
