//! What crosses from one region to another: tunnelled packets between edge hosts, counted where the router sends them on.
use super::Lab;
use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
        sockopt::RcvBuf,
    },
};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd as _, OwnedFd},
};

/// `PACKET_OUTGOING` of packet(7).
const OUTGOING: u8 = 4;
/// Bytes of packets that may wait to be counted.
const BUFFER_BYTES: usize = 8 << 20;
/// Bytes of an outer header that are looked at.
const HEADER: usize = 40;
/// IP protocols of IP in IP.
const TUNNELLED: [u8; 2] = [4, 41];

/// Sees every packet that the router sends.
#[derive(Debug)]
pub struct Wire {
    socket: OwnedFd,
    edges: Vec<IpAddr>,
}

impl Lab {
    /// Begins to watch what the router sends to edge hosts in tunnels: that is what crosses from one region to another.
    ///
    /// # Errors
    /// No privilege.
    pub fn wire(&self) -> Result<Wire> {
        let socket = self.router_netns().run(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Datagram,
                SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
                SockProtocol::EthAll,
            )
            .context("cannot open a packet socket")?;
            setsockopt(&socket, RcvBuf, &BUFFER_BYTES)?;
            Ok(socket)
        })?;
        let addresses = |edge: &super::Edge| [IpAddr::V4(edge.v4), IpAddr::V6(edge.v6)];
        Ok(Wire { socket, edges: self.topology().edges.iter().flat_map(addresses).collect() })
    }
}

impl Wire {
    /// How many packets crossed since it was asked last.
    ///
    /// # Errors
    /// What the kernel says; that it dropped packets which this did not read in time shows as `ENOBUFS`.
    pub fn crossed(&self) -> Result<u64> {
        let mut count = 0;
        let mut header = [0; HEADER];
        loop {
            match recvfrom::<LinkAddr>(self.socket.as_raw_fd(), &mut header) {
                Ok((length, Some(from))) if from.pkttype() == OUTGOING => {
                    count += u64::from(self.is_to_edge(&header[..length]));
                }
                Ok(_) => {}
                Err(Errno::EAGAIN) => return Ok(count),
                Err(error) => return Err(error).context("reading what the router sends"),
            }
        }
    }

    fn is_to_edge(&self, packet: &[u8]) -> bool {
        let (protocol, to): (u8, IpAddr) = match *packet {
            [0x45, _, _, _, _, _, _, _, _, protocol, _, _, _, _, _, _, a, b, c, d, ..] => {
                (protocol, Ipv4Addr::new(a, b, c, d).into())
            }
            [first, _, _, _, _, _, protocol, ..] if first >> 4 == 6 => {
                let Some(to) = packet.get(24..40).and_then(|bytes| <[u8; 16]>::try_from(bytes).ok()) else {
                    return false;
                };
                (protocol, Ipv6Addr::from(to).into())
            }
            _ => return false,
        };
        TUNNELLED.contains(&protocol) && self.edges.contains(&to)
    }
}
