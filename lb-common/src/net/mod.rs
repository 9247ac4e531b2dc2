//! Header fields by value, and checksums.

pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;
pub mod vlan;

/// An IPv4 address as an IPv4-mapped IPv6 address (RFC 4291, section 2.5.5.2), the one form in which maps hold addresses.
#[must_use]
#[inline(always)]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// `address` in the form in which maps hold addresses.
#[must_use]
pub const fn address_bytes(address: core::net::IpAddr) -> [u8; 16] {
    match address {
        core::net::IpAddr::V4(v4) => mapped(v4.octets()),
        core::net::IpAddr::V6(v6) => v6.octets(),
    }
}

/// An address in four 32-bit words whose bytes in memory are in network order. The form in which the datapath computes:
/// BPF has registers for words, and byte arrays become one register a byte.
pub type AddressWords = [u32; 4];

/// The words of an IPv4-mapped IPv6 address, `address` being the IPv4 address's word.
#[must_use]
#[inline(always)]
pub const fn mapped_words(address: u32) -> AddressWords {
    [0, 0, 0xffff_u32.to_be(), address]
}

/// The words of an address in the form in which maps hold addresses.
#[must_use]
#[inline(always)]
pub const fn address_words(bytes: &[u8; 16]) -> AddressWords {
    [word(bytes, 0), word(bytes, 4), word(bytes, 8), word(bytes, 12)]
}

/// The bytes of an address's words.
#[must_use]
#[inline(always)]
pub const fn words_address(words: &AddressWords) -> [u8; 16] {
    let [a, b, c, d] =
        [words[0].to_ne_bytes(), words[1].to_ne_bytes(), words[2].to_ne_bytes(), words[3].to_ne_bytes()];
    [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
}

/// The 32-bit word at byte `at` of a header, its bytes in memory as in the header.
#[must_use]
#[inline(always)]
pub const fn word<const N: usize>(bytes: &[u8; N], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// Protocol numbers, from the [IANA registry](https://www.iana.org/assignments/protocol-numbers).
pub mod protocol {
    use network_types::ip::IpProto;

    /// ICMP (RFC 792).
    pub const ICMP: u8 = IpProto::Icmp as u8;
    /// IPv4 inside IP (RFC 2003, RFC 2473).
    pub const IPV4: u8 = IpProto::Ipv4 as u8;
    /// TCP (RFC 9293).
    pub const TCP: u8 = IpProto::Tcp as u8;
    /// SCTP (RFC 9260).
    pub const SCTP: u8 = IpProto::Sctp as u8;
    /// UDP (RFC 768).
    pub const UDP: u8 = IpProto::Udp as u8;
    /// IPv6 inside IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = IpProto::Ipv6 as u8;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
}
