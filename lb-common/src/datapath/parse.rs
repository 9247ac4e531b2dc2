//! Stage 1: what is this packet?

use super::{ports::Packet, steer::Origin};
use crate::{
    abi::{flow::FlowWords, reason::Reason},
    net::{AddressWords, ethernet, icmp, ipv4, ipv6, mapped_words, protocol, word},
};

/// A TCP or UDP flow's 5-tuple. IPv4 addresses stand as IPv4-mapped IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Client address.
    pub source: AddressWords,
    /// VIP.
    pub destination: AddressWords,
    /// The first four bytes of the TCP or UDP header: client port, then service port, in network order.
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
}

/// A packet with ports.
#[derive(Clone, Copy, Debug)]
pub struct Transport {
    /// Its flow.
    pub tuple: Tuple,
    /// Whether it may open a flow: TCP SYN without ACK; any UDP datagram, as UDP has no opening packet.
    pub opening: bool,
    /// DSCP and ECN of the IP header.
    pub traffic_class: u8,
    /// Length of the IP packet in bytes; the frame may be longer by padding.
    pub ip_length: u16,
    /// Offset of the IP header in the frame: that of an untagged frame, or more.
    pub ip_at: u16,
    /// Whether the client closes the flow with it: TCP FIN or RST.
    pub closing: bool,
}

/// An IP packet of which only the addresses can be told, or that asks for an echo.
#[derive(Clone, Copy, Debug)]
pub struct Portless {
    /// Destination; IPv4 as IPv4-mapped.
    pub destination: AddressWords,
    /// What is to be done if the destination is a VIP.
    pub what: What,
}

/// See [`Portless::what`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// Answer the ICMP echo request whose ICMP header lies at this offset.
    EchoV4(usize),
    /// Answer the ICMPv6 echo request that follows the fixed header.
    EchoV6,
    /// Drop it for this reason.
    Refuse(Reason),
    /// Not for Weir, whatever the destination: another protocol.
    Other,
}

/// Result of [`parse`].
#[derive(Clone, Copy, Debug)]
pub enum Parsed {
    /// TCP or UDP.
    Transport(Transport),
    /// Other IP.
    Portless(Portless),
    /// Neither IPv4 nor IPv6, or too short to tell.
    NotIp,
}

/// Tells what a frame is.
#[inline(always)]
pub fn parse<P: Packet>(packet: &P) -> Parsed {
    let Some(ethernet) = packet.read::<{ ethernet::LENGTH }>(0) else {
        return Parsed::NotIp;
    };
    match ethernet::ethertype(&ethernet) {
        [0x08, 0x00] => parse_ipv4(packet),
        [0x86, 0xdd] => parse_ipv6(packet),
        _ => Parsed::NotIp,
    }
}

#[inline(always)]
fn parse_ipv4<P: Packet>(packet: &P) -> Parsed {
    let Some(bytes) = packet.read::<{ ipv4::LENGTH }>(ethernet::LENGTH) else {
        return Parsed::NotIp;
    };
    let header = ipv4::Header(bytes);
    let destination = mapped_words(header.destination());
    let portless = |what| Parsed::Portless(Portless { destination, what });
    let header_length = header.header_length();
    let ip_length = header.total_length();
    if header.version() != 4
        || header_length < ipv4::LENGTH
        || ip_length < header_length
        || ethernet::LENGTH + ip_length > packet.length()
    {
        return portless(What::Refuse(Reason::Malformed));
    }
    if header.is_fragment() {
        return portless(What::Refuse(Reason::Fragment));
    }
    let payload = ip_length - header_length;
    // Without options, the offset is a constant, which the verifier follows without help.
    let read = if header_length == ipv4::LENGTH {
        ports::<P, false>(packet, header.protocol(), ethernet::LENGTH + ipv4::LENGTH, payload)
    } else {
        ports::<P, true>(packet, header.protocol(), ethernet::LENGTH + header_length, payload)
    };
    let ports = match read {
        Read::Ports(ports) => ports,
        Read::Icmp([icmp::ECHO_REQUEST_V4, 0]) if header.protocol() == protocol::ICMP => {
            return portless(What::EchoV4(ethernet::LENGTH + header_length));
        }
        Read::Icmp(_) if header.protocol() == protocol::ICMP => {
            return portless(What::Refuse(Reason::IcmpUnsupported));
        }
        Read::CutShort => return portless(What::Refuse(Reason::Malformed)),
        Read::Icmp(_) | Read::Other => return portless(What::Other),
    };
    Parsed::Transport(Transport {
        tuple: Tuple {
            source: mapped_words(header.source()),
            destination,
            ports: ports.ports,
            protocol: header.protocol(),
            is_ipv6: false,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: ip_length as u16,
        ip_at: ethernet::LENGTH as u16,
        closing: ports.closing,
    })
}

#[inline(always)]
fn parse_ipv6<P: Packet>(packet: &P) -> Parsed {
    let Some(bytes) = packet.read::<{ ipv6::LENGTH }>(ethernet::LENGTH) else {
        return Parsed::NotIp;
    };
    let header = ipv6::Header(bytes);
    let destination = header.destination();
    let portless = |what| Parsed::Portless(Portless { destination, what });
    let payload = header.payload_length();
    let at = ethernet::LENGTH + ipv6::LENGTH;
    if header.version() != 6 || at + payload > packet.length() {
        return portless(What::Refuse(Reason::Malformed));
    }
    let next = header.next_header();
    let ports = match ports::<P, false>(packet, next, at, payload) {
        Read::Ports(ports) => ports,
        Read::Icmp([icmp::ECHO_REQUEST_V6, 0]) if next == protocol::ICMPV6 => return portless(What::EchoV6),
        Read::Icmp(_) if next == protocol::ICMPV6 => {
            return portless(What::Refuse(Reason::IcmpUnsupported));
        }
        Read::CutShort => return portless(What::Refuse(Reason::Malformed)),
        Read::Icmp(_) | Read::Other if next == ipv6::FRAGMENT => {
            return portless(What::Refuse(Reason::Fragment));
        }
        Read::Icmp(_) | Read::Other if ipv6::is_extension(next) => {
            return portless(What::Refuse(Reason::ExtensionHeader));
        }
        Read::Icmp(_) | Read::Other => return portless(What::Other),
    };
    Parsed::Transport(Transport {
        tuple: Tuple {
            source: header.source(),
            destination,
            ports: ports.ports,
            protocol: header.next_header(),
            is_ipv6: true,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: (ipv6::LENGTH + payload) as u16,
        ip_at: ethernet::LENGTH as u16,
        closing: ports.closing,
    })
}

struct Ports {
    ports: u32,
    opening: bool,
    closing: bool,
}

/// What follows the IP header.
enum Read {
    Ports(Ports),
    /// Type and code of an ICMP or ICMPv6 message.
    Icmp([u8; 2]),
    /// A protocol that should have a header here, but the packet ends before it does.
    CutShort,
    Other,
}

/// Length of a TCP header without options.
const TCP_LENGTH: usize = network_types::tcp::TcpHdr::LEN;
/// Length of a UDP header.
const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_ACK: u8 = 0x10;

/// Reads the header of `protocol` at offset `at`, behind which the IP packet has `payload` bytes.
#[inline(always)]
fn ports<P: Packet, const FAR: bool>(packet: &P, protocol: u8, at: usize, payload: usize) -> Read {
    match protocol {
        protocol::TCP => match bytes::<P, TCP_LENGTH, FAR>(packet, at, payload) {
            Some(h) => Read::Ports(Ports {
                ports: word(&h, 0),
                opening: h[13] & (TCP_SYN | TCP_ACK) == TCP_SYN,
                closing: h[13] & (TCP_FIN | TCP_RST) != 0,
            }),
            None => Read::CutShort,
        },
        protocol::UDP => match bytes::<P, UDP_LENGTH, FAR>(packet, at, payload) {
            Some(h) => Read::Ports(Ports { ports: word(&h, 0), opening: true, closing: false }),
            None => Read::CutShort,
        },
        protocol::ICMP | protocol::ICMPV6 => {
            match bytes::<P, { icmp::ECHO_LENGTH }, FAR>(packet, at, payload) {
                Some(h) => Read::Icmp([h[0], h[1]]),
                None => Read::CutShort,
            }
        }
        _ => Read::Other,
    }
}

#[inline(always)]
fn bytes<P: Packet, const N: usize, const FAR: bool>(
    packet: &P,
    at: usize,
    payload: usize,
) -> Option<[u8; N]> {
    if payload < N {
        return None;
    }
    if FAR { packet.read_far(at) } else { packet.read(at) }
}
