//! Stage 1: what is this packet?

use super::{ports::Packet, steer::Origin};
use crate::{
    abi::{flow::FlowKey, reason::Reason, service::ServiceKey},
    net::{ethernet, icmp, ipv4, ipv6, mapped, protocol},
};

/// A TCP or UDP flow's 5-tuple. IPv4 addresses stand as IPv4-mapped IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(C, align(8))]
pub struct Tuple {
    /// Client address.
    pub source: [u8; 16],
    /// VIP.
    pub destination: [u8; 16],
    /// Client port, network order.
    pub source_port: [u8; 2],
    /// Service port, network order.
    pub destination_port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// Whether the packet is IPv6.
    pub is_ipv6: bool,
}

impl Tuple {
    /// What the service is found by.
    #[must_use]
    #[inline(always)]
    pub const fn service_key(&self) -> ServiceKey {
        ServiceKey { address: self.destination, port: self.destination_port, protocol: self.protocol }
    }

    /// Key of the flow table.
    #[must_use]
    #[inline(always)]
    pub const fn flow_key(&self, origin: Origin) -> FlowKey {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            origin: origin as u8,
            reserved: [0; 2],
        }
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
}

/// An IP packet of which only the addresses can be told, or that asks for an echo.
#[derive(Clone, Copy, Debug)]
pub struct Portless {
    /// Destination; IPv4 as IPv4-mapped.
    pub destination: [u8; 16],
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
    let destination = mapped(header.destination());
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
    let at = ethernet::LENGTH + header_length;
    let payload = ip_length - header_length;
    let read = match header.protocol() {
        protocol::TCP => tcp(packet, at, payload),
        protocol::UDP => udp(packet, at, payload),
        protocol::ICMP => {
            return portless(match icmp_type(packet, at, payload) {
                Some([icmp::ECHO_REQUEST_V4, 0]) => What::EchoV4(at),
                Some(_) => What::Refuse(Reason::IcmpUnsupported),
                None => What::Refuse(Reason::Malformed),
            });
        }
        _ => return portless(What::Other),
    };
    let Some(ports) = read else {
        return portless(What::Refuse(Reason::Malformed));
    };
    Parsed::Transport(Transport {
        tuple: Tuple {
            source: mapped(header.source()),
            destination,
            source_port: ports.source,
            destination_port: ports.destination,
            protocol: header.protocol(),
            is_ipv6: false,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: ip_length as u16,
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
    let read = match header.next_header() {
        protocol::TCP => tcp(packet, at, payload),
        protocol::UDP => udp(packet, at, payload),
        protocol::ICMPV6 => {
            return portless(match icmp_type(packet, at, payload) {
                Some([icmp::ECHO_REQUEST_V6, 0]) => What::EchoV6,
                Some(_) => What::Refuse(Reason::IcmpUnsupported),
                None => What::Refuse(Reason::Malformed),
            });
        }
        ipv6::FRAGMENT => return portless(What::Refuse(Reason::Fragment)),
        next if ipv6::is_extension(next) => return portless(What::Refuse(Reason::ExtensionHeader)),
        _ => return portless(What::Other),
    };
    let Some(ports) = read else {
        return portless(What::Refuse(Reason::Malformed));
    };
    Parsed::Transport(Transport {
        tuple: Tuple {
            source: header.source(),
            destination,
            source_port: ports.source,
            destination_port: ports.destination,
            protocol: header.next_header(),
            is_ipv6: true,
        },
        opening: ports.opening,
        traffic_class: header.traffic_class(),
        ip_length: (ipv6::LENGTH + payload) as u16,
    })
}

struct Ports {
    source: [u8; 2],
    destination: [u8; 2],
    opening: bool,
}

/// Length of a TCP header without options.
const TCP_LENGTH: usize = network_types::tcp::TcpHdr::LEN;
/// Length of a UDP header.
const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
const TCP_SYN: u8 = 0x02;
const TCP_ACK: u8 = 0x10;

#[inline(always)]
fn tcp<P: Packet>(packet: &P, at: usize, payload: usize) -> Option<Ports> {
    if payload < TCP_LENGTH {
        return None;
    }
    let h = packet.read::<TCP_LENGTH>(at)?;
    Some(Ports {
        source: [h[0], h[1]],
        destination: [h[2], h[3]],
        opening: h[13] & (TCP_SYN | TCP_ACK) == TCP_SYN,
    })
}

#[inline(always)]
fn udp<P: Packet>(packet: &P, at: usize, payload: usize) -> Option<Ports> {
    if payload < UDP_LENGTH {
        return None;
    }
    let h = packet.read::<UDP_LENGTH>(at)?;
    Some(Ports { source: [h[0], h[1]], destination: [h[2], h[3]], opening: true })
}

/// Type and code of an ICMP message that has at least an echo header.
#[inline(always)]
fn icmp_type<P: Packet>(packet: &P, at: usize, payload: usize) -> Option<[u8; 2]> {
    if payload < icmp::ECHO_LENGTH {
        return None;
    }
    let h = packet.read::<{ icmp::ECHO_LENGTH }>(at)?;
    Some([h[0], h[1]])
}
