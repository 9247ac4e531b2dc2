//! Packets built by hand: header layouts written down once more, on purpose without the code under test.

use std::net::{Ipv4Addr, Ipv6Addr};

/// Ethernet header: destination, source, EtherType.
pub fn ethernet(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// The Internet checksum over `bytes`.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = 0_u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// Fields of an IPv4 header that cases vary.
#[derive(Clone)]
pub struct Ipv4 {
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset.
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Options; a multiple of 4 bytes.
    pub options: Vec<u8>,
}

impl Default for Ipv4 {
    fn default() -> Self {
        Self { tos: 0, id: 0x1234, fragment: 0x4000, ttl: 61, options: Vec::new() }
    }
}

impl Ipv4 {
    /// The packet with this header.
    pub fn packet(&self, source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
        let header_length = 20 + self.options.len();
        let mut h = vec![0x40 | (header_length / 4) as u8, self.tos];
        h.extend(((header_length + payload.len()) as u16).to_be_bytes());
        h.extend(self.id.to_be_bytes());
        h.extend(self.fragment.to_be_bytes());
        h.extend([self.ttl, protocol, 0, 0]);
        h.extend(source.octets());
        h.extend(destination.octets());
        h.extend(&self.options);
        let sum = checksum(&h);
        h[10..12].copy_from_slice(&sum.to_be_bytes());
        h.extend(payload);
        h
    }
}

/// An IPv4 packet with an ordinary header.
pub fn ipv4(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    Ipv4::default().packet(source, destination, protocol, payload)
}

/// An IPv6 packet.
pub fn ipv6(
    source: Ipv6Addr,
    destination: Ipv6Addr,
    next_header: u8,
    hop_limit: u8,
    payload: &[u8],
) -> Vec<u8> {
    let mut h = vec![0x60, 0, 0, 0];
    h.extend((payload.len() as u16).to_be_bytes());
    h.extend([next_header, hop_limit]);
    h.extend(source.octets());
    h.extend(destination.octets());
    h.extend(payload);
    h
}

/// TCP flag SYN.
pub const SYN: u8 = 0x02;
/// TCP flag ACK.
pub const ACK: u8 = 0x10;

/// A TCP segment; its checksum is not looked at by anything here.
pub fn tcp(source: u16, destination: u16, flags: u8, payload: &[u8]) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend(source.to_be_bytes());
    h.extend(destination.to_be_bytes());
    h.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0xab, 0xcd, 0, 0]);
    h.extend(payload);
    h
}

/// A UDP datagram without checksum.
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut h = Vec::new();
    h.extend(source.to_be_bytes());
    h.extend(destination.to_be_bytes());
    h.extend(((8 + payload.len()) as u16).to_be_bytes());
    h.extend([0, 0]);
    h.extend(payload);
    h
}

/// An ICMP message with its checksum.
pub fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut h = vec![kind, code, 0, 0];
    h.extend(rest);
    let sum = checksum(&h);
    h[2..4].copy_from_slice(&sum.to_be_bytes());
    h
}

/// An ICMPv6 message with its checksum, which covers the addresses too.
pub fn icmp6(source: Ipv6Addr, destination: Ipv6Addr, kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
    let mut h = vec![kind, code, 0, 0];
    h.extend(rest);
    let mut covered = Vec::new();
    covered.extend(source.octets());
    covered.extend(destination.octets());
    covered.extend((h.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, 58]);
    covered.extend(&h);
    let sum = checksum(&covered);
    h[2..4].copy_from_slice(&sum.to_be_bytes());
    h
}
