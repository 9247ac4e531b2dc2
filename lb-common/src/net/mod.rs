//! Header fields by value, and checksums.

pub mod checksum;
pub mod ethernet;
pub mod icmp;
pub mod ipv4;
pub mod ipv6;

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

/// The address that [`address_bytes`] made these bytes of.
#[must_use]
pub fn address_from_bytes(bytes: [u8; 16]) -> core::net::IpAddr {
    core::net::IpAddr::V6(core::net::Ipv6Addr::from(bytes)).to_canonical()
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
    /// UDP (RFC 768).
    pub const UDP: u8 = IpProto::Udp as u8;
    /// IPv6 inside IP (RFC 2473, RFC 4213).
    pub const IPV6: u8 = IpProto::Ipv6 as u8;
    /// ICMPv6 (RFC 4443).
    pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
}
