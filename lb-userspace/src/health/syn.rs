//! Segments of TCP connections that are never opened: a SYN to a VIP, what answers it, and the reset that ends it. Pure.

use std::net::{IpAddr, SocketAddr};

/// Flags of a TCP header (RFC 9293, section 3.1).
pub const SYN: u8 = 0x02;
/// See [`SYN`].
pub const RST: u8 = 0x04;
/// See [`SYN`].
pub const ACK: u8 = 0x10;

/// Protocol number of TCP.
const TCP: u8 = 6;
/// Bytes of a TCP header without options.
const TCP_LENGTH: usize = 20;
const IPV4_LENGTH: usize = 20;
const IPV6_LENGTH: usize = 40;
/// Hops that a packet may take.
const TTL: u8 = 64;
/// "Don't fragment".
const DONT_FRAGMENT: u16 = 0x4000;
/// Window that is offered; nothing is ever received.
const WINDOW: u16 = 1024;

/// An IP packet with a TCP header and nothing else. Both addresses are of one family.
#[must_use]
pub fn packet(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let mut tcp = Vec::with_capacity(TCP_LENGTH);
    tcp.extend(from.port().to_be_bytes());
    tcp.extend(to.port().to_be_bytes());
    tcp.extend(sequence.to_be_bytes());
    tcp.extend([0; 4]);
    tcp.extend([(TCP_LENGTH / 4) as u8 * 16, flags]);
    tcp.extend(WINDOW.to_be_bytes());
    tcp.extend([0; 4]);
    let mut covered = octets(from.ip());
    covered.extend(octets(to.ip()));
    covered.extend([0, TCP]);
    covered.extend((TCP_LENGTH as u16).to_be_bytes());
    covered.extend(&tcp);
    let sum = checksum(&covered);
    tcp[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = if from.is_ipv4() { ipv4() } else { ipv6() };
    packet.extend(octets(from.ip()));
    packet.extend(octets(to.ip()));
    if from.is_ipv4() {
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
    }
    packet.extend(tcp);
    packet
}

fn ipv4() -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend(((IPV4_LENGTH + TCP_LENGTH) as u16).to_be_bytes());
    header.extend([0, 0]);
    header.extend(DONT_FRAGMENT.to_be_bytes());
    header.extend([TTL, TCP, 0, 0]);
    header
}

fn ipv6() -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((TCP_LENGTH as u16).to_be_bytes());
    header.extend([TCP, TTL]);
    header
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = pairs.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A segment that came.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Segment {
    /// Source port.
    pub from: u16,
    /// Destination port.
    pub to: u16,
    /// What it acknowledges.
    pub acknowledged: u32,
    /// [`SYN`], [`RST`], [`ACK`] and others.
    pub flags: u8,
}

/// The segment in the payload of an IP packet; `None` if it is cut short.
#[must_use]
pub fn segment(payload: &[u8]) -> Option<Segment> {
    let header: &[u8; TCP_LENGTH] = payload.first_chunk()?;
    Some(Segment {
        from: u16::from_be_bytes([header[0], header[1]]),
        to: u16::from_be_bytes([header[2], header[3]]),
        acknowledged: u32::from_be_bytes([header[8], header[9], header[10], header[11]]),
        flags: header[13],
    })
}

/// What follows the header of an IPv4 packet; `None` if it is cut short.
#[must_use]
pub fn payload_v4(packet: &[u8]) -> Option<&[u8]> {
    let length = usize::from(packet.first()? & 15) * 4;
    packet.get(length.max(IPV4_LENGTH)..)
}

/// Bytes of the longest packet made here.
pub const LONGEST: usize = IPV6_LENGTH + TCP_LENGTH;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_has_lengths_and_checksums_that_fit_and_is_read_as_it_was_made() {
        for (from, to, header) in [
            ("10.0.0.2:40000", "192.0.2.10:80", IPV4_LENGTH),
            ("[fd00::2]:40000", "[2001:db8::10]:80", IPV6_LENGTH),
        ] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = packet(from, to, 0x0102_0304, SYN);
            assert_eq!(packet.len(), header + TCP_LENGTH);
            if from.is_ipv4() {
                assert_eq!(checksum(&packet[..header]), 0);
                assert_eq!(payload_v4(&packet), Some(&packet[header..]));
            }
            let mut covered =
                [octets(from.ip()), octets(to.ip()), vec![0, TCP, 0, TCP_LENGTH as u8]].concat();
            covered.extend(&packet[header..]);
            assert_eq!(checksum(&covered), 0, "{from}");
            let read = segment(&packet[header..]).unwrap();
            assert_eq!((read.from, read.to, read.flags), (40_000, 80, SYN));
            assert!(packet.len() <= LONGEST);
        }
        assert_eq!(segment(&[0; 19]), None);
        assert_eq!(payload_v4(&[0x46; 20]), None);
    }
}
