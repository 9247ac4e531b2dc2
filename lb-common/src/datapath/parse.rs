//! Stage 1: what is this packet?
//!
//! Here stands what nearly every packet is: an untagged frame with TCP or UDP in IPv4 without options or in IPv6 without extension
//! headers, whole. Everything else is sorted out by [`unusual`](super::unusual), out of the common way.

use super::{ports::Packet, steer::Origin};
use crate::{
    abi::flow::FlowWords,
    net::{AddressWords, ethernet, ipv4, ipv6, mapped_words, protocol, word},
};

/// A TCP, UDP or SCTP flow's 5-tuple. IPv4 addresses stand as IPv4-mapped IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Client address.
    pub source: AddressWords,
    /// VIP.
    pub destination: AddressWords,
    /// The first four bytes of the TCP, UDP or SCTP header: client port, then service port, in network order.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Whether the packet is IPv6.
    pub is_ipv6: bool,
}

impl Tuple {
    /// Client port, network order.
    #[must_use]
    #[inline(always)]
    pub const fn source_port(&self) -> [u8; 2] {
        let [a, b, _, _] = self.ports.to_ne_bytes();
        [a, b]
    }

    /// Service port, network order.
    #[must_use]
    #[inline(always)]
    pub const fn destination_port(&self) -> [u8; 2] {
        let [_, _, c, d] = self.ports.to_ne_bytes();
        [c, d]
    }

    /// Key of the flow table.
    #[must_use]
    #[inline(always)]
    pub const fn flow_words(&self, origin: Origin) -> FlowWords {
        FlowWords::new(&self.source, &self.destination, self.ports, self.protocol, origin as u8)
    }

    /// The tuple that a key of the flow table is of: [`flow_words`](Self::flow_words) the other way.
    #[must_use]
    pub fn of(words: &FlowWords) -> Self {
        let [s0, s1, s2, s3, d0, d1, d2, d3, ports, _] = words.0;
        let is_ipv6 = [d0, d1, d2] != mapped_words(0)[..3];
        let (source, destination, protocol) = ([s0, s1, s2, s3], [d0, d1, d2, d3], words.protocol());
        Self { source, destination, ports, protocol, is_ipv6 }
    }
}

/// What kind of packet of its flow a packet is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Shape {
    /// A whole one, sent by the client.
    Whole = 0,
    /// The first fragment of one: it has the ports. [`Transport::fragment`] is the datagram's identification.
    FirstFragment = 1,
    /// Another fragment, whose first one is known. [`Transport::fragment`] is the index of the backend that took that.
    LaterFragment = 2,
    /// An ICMP error about a packet that the backend sent in the flow. The tuple is the flow's, not that of the error itself.
    Error = 3,
}

/// A packet that belongs to a flow.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// Its flow.
    pub tuple: Tuple,
    /// Whether it may open a flow: TCP SYN without ACK; SCTP INIT; any UDP datagram, as UDP has no opening packet.
    pub opening: bool,
    /// DSCP and ECN of the IP header.
    pub traffic_class: u8,
    /// Length of the IP packet in bytes; the frame may be longer by padding.
    pub ip_length: u16,
    /// Offset of the IP header in the frame: that of an untagged frame, or more.
    pub ip_at: u16,
    /// Whether the client closes the flow with it: TCP FIN or RST; SCTP ABORT or SHUTDOWN COMPLETE.
    pub closing: bool,
    /// Offset in the frame of what follows the IP header and its extension headers: the header with the ports, but for
    /// [`Shape::LaterFragment`] and [`Shape::Error`].
    pub payload_at: u16,
    /// What kind of packet it is.
    pub shape: Shape,
    /// See [`Shape`]; 0 where that says nothing.
    pub fragment: u32,
}

/// Words of a [`Transport`] that is [packed](Transport::pack).
pub const TRANSPORT_WORDS: usize = 14;

impl Transport {
    /// The same in words, as they are handed from one BPF function to another.
    #[must_use]
    #[inline(always)]
    pub const fn pack(&self) -> [u32; TRANSPORT_WORDS] {
        let (s, d) = (&self.tuple.source, &self.tuple.destination);
        let flags = self.opening as u32 | (self.closing as u32) << 1 | (self.tuple.is_ipv6 as u32) << 2;
        let numbers =
            self.tuple.protocol as u32 | (self.traffic_class as u32) << 8 | (self.shape as u32) << 16;
        let offsets = self.ip_at as u32 | (self.payload_at as u32) << 16;
        let ports = self.tuple.ports;
        let length = self.ip_length as u32;
        let fragment = self.fragment;
        [s[0], s[1], s[2], s[3], d[0], d[1], d[2], d[3], ports, flags, numbers, offsets, length, fragment]
    }

    /// The inverse of [`pack`](Self::pack).
    #[must_use]
    #[inline(always)]
    pub const fn unpack(w: &[u32; TRANSPORT_WORDS]) -> Self {
        let [flags, numbers, offsets] = [w[9], w[10], w[11]];
        Self {
            tuple: Tuple {
                source: [w[0], w[1], w[2], w[3]],
                destination: [w[4], w[5], w[6], w[7]],
                ports: w[8],
                protocol: numbers as u8,
                is_ipv6: flags & 4 != 0,
            },
            opening: flags & 1 != 0,
            traffic_class: (numbers >> 8) as u8,
            ip_length: w[12] as u16,
            ip_at: offsets as u16,
            closing: flags & 2 != 0,
            payload_at: (offsets >> 16) as u16,
            shape: match numbers >> 16 & 3 {
                0 => Shape::Whole,
                1 => Shape::FirstFragment,
                2 => Shape::LaterFragment,
                _ => Shape::Error,
            },
            fragment: w[13],
        }
    }
}

/// The packet of an ordinary frame. `None` for any other one, whatever is wrong or special about it.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Option<Transport> {
    let ethernet = packet.read::<{ ethernet::LENGTH }>(0)?;
    match ethernet::ethertype(&ethernet) {
        [0x08, 0x00] => parse_ipv4(packet),
        [0x86, 0xdd] => parse_ipv6(packet),
        _ => None,
    }
}

#[inline(always)]
fn parse_ipv4<P: Packet>(packet: &P) -> Option<Transport> {
    const AT: usize = ethernet::LENGTH + ipv4::LENGTH;
    let header = ipv4::Header(packet.read::<{ ipv4::LENGTH }>(ethernet::LENGTH)?);
    let ip_length = header.total_length();
    if !header.is_plain() || header.is_fragment() || ethernet::LENGTH + ip_length > packet.length() {
        return None;
    }
    let ports = ports(packet, header.protocol(), AT, ethernet::LENGTH + ip_length)?;
    Some(Transport {
        tuple: Tuple {
            source: mapped_words(header.source()),
            destination: mapped_words(header.destination()),
            ports: ports.ports,
            protocol: header.protocol(),
            is_ipv6: false,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: ip_length as u16,
        ip_at: ethernet::LENGTH as u16,
        closing: ports.closing,
        payload_at: AT as u16,
        shape: Shape::Whole,
        fragment: 0,
    })
}

#[inline(always)]
fn parse_ipv6<P: Packet>(packet: &P) -> Option<Transport> {
    const AT: usize = ethernet::LENGTH + ipv6::LENGTH;
    let header = ipv6::Header(packet.read::<{ ipv6::LENGTH }>(ethernet::LENGTH)?);
    let ip_length = ipv6::LENGTH + header.payload_length();
    if header.version() != 6 || ip_length > ipv6::MAX_PACKET || ethernet::LENGTH + ip_length > packet.length()
    {
        return None;
    }
    let ports = ports(packet, header.next_header(), AT, ethernet::LENGTH + ip_length)?;
    Some(Transport {
        tuple: Tuple {
            source: header.source(),
            destination: header.destination(),
            ports: ports.ports,
            protocol: header.next_header(),
            is_ipv6: true,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: ip_length as u16,
        ip_at: ethernet::LENGTH as u16,
        closing: ports.closing,
        payload_at: AT as u16,
        shape: Shape::Whole,
        fragment: 0,
    })
}

/// What is read from the header that has the ports.
pub(super) struct Ports {
    /// See [`Tuple::ports`].
    pub(super) ports: u32,
    /// See [`Transport::opening`].
    pub(super) opening: bool,
    /// See [`Transport::closing`].
    pub(super) closing: bool,
}

impl Ports {
    /// Those of a later fragment.
    pub(super) const UNKNOWN: Self = Self { ports: 0, opening: false, closing: false };
}

/// Length of a TCP header without options.
pub(super) const TCP_LENGTH: usize = network_types::tcp::TcpHdr::LEN;
/// Length of a UDP header.
pub(super) const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// What a TCP header says.
#[inline(always)]
pub(super) const fn tcp(h: &[u8; TCP_LENGTH]) -> Ports {
    Ports {
        ports: word(h, 0),
        opening: h[13] & (TCP_SYN | TCP_ACK) == TCP_SYN,
        closing: h[13] & (TCP_FIN | TCP_RST) != 0,
    }
}

/// What a UDP header says.
#[inline(always)]
pub(super) const fn udp(h: &[u8; UDP_LENGTH]) -> Ports {
    Ports { ports: word(h, 0), opening: true, closing: false }
}

/// Reads the header of `protocol` at offset `at` of a packet that ends at offset `end`.
#[inline(always)]
fn ports<P: Packet>(packet: &P, protocol: u8, at: usize, end: usize) -> Option<Ports> {
    match protocol {
        protocol::TCP if at + TCP_LENGTH <= end => packet.read::<TCP_LENGTH>(at).map(|h| tcp(&h)),
        protocol::UDP if at + UDP_LENGTH <= end => packet.read::<UDP_LENGTH>(at).map(|h| udp(&h)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_packed_transport_is_the_same_unpacked(words: [u32; TRANSPORT_WORDS]) {
            let transport = Transport::unpack(&words);
            let again = Transport::unpack(&transport.pack());
            prop_assert_eq!(format!("{transport:?}"), format!("{again:?}"));
            prop_assert_eq!(transport.pack()[..9].to_vec(), words[..9].to_vec());
        }
    }
}
