//! Many datagrams in one system call, which is most of what a heartbeat costs this process.

use std::io::{IoSlice, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};

use super::DATAGRAM_BYTES;
use crate::health::echo::ECHO_BYTES;

/// Datagrams of one call at most.
pub(super) const BATCH: usize = 64;

/// A datagram that waits to be sent: the longest is an echo request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Message {
    bytes: [u8; ECHO_BYTES],
    length: usize,
}

impl Message {
    /// With these bytes, or their beginning if they are too many.
    pub(super) fn new(content: &[u8]) -> Self {
        let (mut bytes, length) = ([0; ECHO_BYTES], content.len().min(ECHO_BYTES));
        bytes[..length].copy_from_slice(&content[..length]);
        Self { bytes, length }
    }
}

/// Datagrams for one socket, and whose probes they are.
#[derive(Debug, Default)]
pub(super) struct Outgoing {
    positions: Vec<usize>,
    messages: Vec<Message>,
    /// As the call takes it: none would go to where the socket is connected.
    to: Vec<Option<SockaddrStorage>>,
}

impl Outgoing {
    /// Adds the probe at a position of its group.
    pub(super) fn push(&mut self, position: usize, message: Message, to: SocketAddr) {
        self.positions.push(position);
        self.messages.push(message);
        self.to.push(Some(to.into()));
    }

    /// Sends all of them in their order, and says of each position whether it went out. Nothing is left.
    pub(super) fn send(&mut self, socket: Option<&UdpSocket>, mut said: impl FnMut(usize, bool)) {
        let mut next = 0;
        while next < self.positions.len() {
            let count = socket.map_or(Err(Errno::EBADF), |socket| self.send_from(socket, next));
            let sent = match count {
                Ok(count) => count,
                Err(Errno::EINTR) => continue,
                Err(_) => 0,
            };
            self.positions[next..next + sent].iter().for_each(|&position| said(position, true));
            next += sent;
            // The call ends before the first one that cannot be sent, and says why only when that one comes first.
            if sent == 0 {
                said(self.positions[next], false);
                next += 1;
            }
        }
        self.positions.clear();
        self.messages.clear();
        self.to.clear();
    }

    fn send_from(&self, socket: &UdpSocket, next: usize) -> nix::Result<usize> {
        let end = self.positions.len().min(next + BATCH);
        let slices =
            self.messages[next..end].iter().map(|message| [IoSlice::new(&message.bytes[..message.length])]);
        let slices: Vec<_> = slices.collect();
        let mut headers = MultiHeaders::preallocate(slices.len(), None);
        let none: [ControlMessage<'_>; 0] = [];
        let flags = MsgFlags::empty();
        Ok(sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &self.to[next..end], none, flags)?.count())
    }
}

/// Takes what waits in a socket, at most [`BATCH`] datagrams, cut off after [`DATAGRAM_BYTES`]. Returns whether more may wait.
pub(super) fn receive(socket: &UdpSocket, mut take: impl FnMut(&[u8], SocketAddr)) -> bool {
    let mut buffers = [[0; DATAGRAM_BYTES]; BATCH];
    let mut slices: Vec<_> = buffers.iter_mut().map(|buffer| [IoSliceMut::new(buffer)]).collect();
    let mut headers = MultiHeaders::<SockaddrStorage>::preallocate(BATCH, None);
    let messages = match recvmmsg(socket.as_raw_fd(), &mut headers, &mut slices, MsgFlags::MSG_DONTWAIT, None)
    {
        Ok(messages) => messages,
        Err(Errno::EINTR) => return true,
        // Nothing there; or an error that the next wake-up meets again and that says nothing about a target.
        Err(_) => return false,
    };
    let mut count = 0;
    for message in messages {
        count += 1;
        if let Some(from) = message.address.as_ref().and_then(address) {
            take(message.iovs().next().unwrap_or_default(), from);
        }
    }
    count == BATCH
}

fn address(from: &SockaddrStorage) -> Option<SocketAddr> {
    let v4 = from.as_sockaddr_in().map(|from| SocketAddr::from(std::net::SocketAddrV4::from(*from)));
    v4.or_else(|| from.as_sockaddr_in6().map(|from| std::net::SocketAddrV6::from(*from).into()))
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};
    use std::time::{Duration, Instant};

    use super::*;

    const DEADLINE: Duration = Duration::from_secs(20);

    fn open(last: u8) -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind((Ipv4Addr::new(127, 8, 8, last), 0)).expect("a loopback address");
        socket.set_nonblocking(true).expect("no blocking");
        let address = socket.local_addr().expect("bound");
        (socket, address)
    }

    /// Until `count` datagrams came.
    fn received(socket: &UdpSocket, count: usize) -> Vec<(Vec<u8>, SocketAddr)> {
        let (mut all, deadline) = (Vec::new(), Instant::now() + DEADLINE);
        while all.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} datagrams", all.len());
            receive(socket, |bytes, from| all.push((bytes.to_vec(), from)));
        }
        all
    }

    #[test]
    fn more_than_a_batch_arrives_whole_and_in_order() {
        let ((here, from), (there, to)) = (open(1), open(2));
        let mut outgoing = Outgoing::default();
        let count = 2 * BATCH + 5;
        for position in 0..count {
            outgoing.push(position, Message::new(&(position as u32).to_be_bytes()), to);
        }
        let mut said = Vec::new();
        outgoing.send(Some(&here), |position, sent| said.push((position, sent)));
        assert_eq!(said, (0..count).map(|position| (position, true)).collect::<Vec<_>>());
        let all = received(&there, count);
        let expected: Vec<_> = (0..count).map(|p| ((p as u32).to_be_bytes().to_vec(), from)).collect();
        assert_eq!(all, expected);
        assert!(!receive(&there, |_, _| panic!("nothing is left")));
        outgoing.send(Some(&here), |_, _| panic!("nothing is sent twice"));
    }

    #[test]
    fn what_cannot_be_sent_keeps_nothing_back() {
        let ((here, _), (there, to)) = (open(3), open(4));
        // Broadcast without SO_BROADCAST is refused.
        let refused = SocketAddr::new(IpAddr::V4(Ipv4Addr::BROADCAST), to.port());
        let mut outgoing = Outgoing::default();
        for (position, to) in [refused, to, refused, refused, to, refused].into_iter().enumerate() {
            outgoing.push(position, Message::new(&[position as u8]), to);
        }
        let mut said = Vec::new();
        outgoing.send(Some(&here), |position, sent| said.push((position, sent)));
        said.sort_unstable();
        let went = |position: usize| position == 1 || position == 4;
        assert_eq!(said, (0..6).map(|position| (position, went(position))).collect::<Vec<_>>());
        assert_eq!(received(&there, 2).into_iter().map(|(bytes, _)| bytes).collect::<Vec<_>>(), [[1], [4]]);
        outgoing.push(0, Message::new(&[0]), to);
        outgoing.send(None, |position, sent| assert_eq!((position, sent), (0, false), "without a socket"));
    }

    #[test]
    fn long_and_empty_datagrams_are_told_as_they_are() {
        let ((here, from), (there, to)) = (open(5), open(6));
        for content in [&[7; 2 * DATAGRAM_BYTES][..], &[]] {
            here.send_to(content, to).expect("sent");
        }
        assert_eq!(received(&there, 2), [(vec![7; DATAGRAM_BYTES], from), (Vec::new(), from)]);
    }
}
