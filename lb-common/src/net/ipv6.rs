//! IPv6 (RFC 8200).

use super::{AddressWords, word};

/// Length of the fixed header, in bytes.
pub const LENGTH: usize = network_types::ip::Ipv6Hdr::LEN;
/// Largest packet whose length fits 16 bits with its fixed header, in bytes. Larger ones (a payload of the last 40 lengths) do not
/// occur on links that carry Ethernet frames, and are refused.
pub const MAX_PACKET: usize = 65_535;
/// MTU that every link has at least, in bytes (RFC 8200, section 5).
pub const LEAST_MTU: usize = 1_280;
/// Hop limit of packets that Weir makes itself.
pub const HOP_LIMIT: u8 = 64;
/// Next header: hop-by-hop options.
pub const HOP_BY_HOP: u8 = 0;
/// Next header: routing.
pub const ROUTING: u8 = 43;
/// Next header: fragment.
pub const FRAGMENT: u8 = 44;
/// Next header: destination options.
pub const DESTINATION_OPTIONS: u8 = 60;
/// Length of a fragment header, and of the shortest other extension header, in bytes.
pub const EXTENSION_UNIT: usize = 8;

/// A fixed IPv6 header.
#[derive(Clone, Copy)]
#[repr(C, align(8))]
pub struct Header(pub [u8; LENGTH]);

impl Header {
    /// Version field; 6.
    #[must_use]
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.0[0] >> 4
    }

    /// DSCP and ECN.
    #[must_use]
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        self.0[0] << 4 | self.0[1] >> 4
    }

    /// Length of what follows the fixed header.
    #[must_use]
    #[inline(always)]
    pub const fn payload_length(&self) -> usize {
        u16::from_be_bytes([self.0[4], self.0[5]]) as usize
    }

    /// Protocol number of what follows.
    #[must_use]
    #[inline(always)]
    pub const fn next_header(&self) -> u8 {
        self.0[6]
    }

    /// How many routers may still forward it.
    #[must_use]
    #[inline(always)]
    pub const fn hop_limit(&self) -> u8 {
        self.0[7]
    }

    /// Source address.
    #[must_use]
    #[inline(always)]
    pub const fn source(&self) -> AddressWords {
        address_at(&self.0, 8)
    }

    /// Destination address.
    #[must_use]
    #[inline(always)]
    pub const fn destination(&self) -> AddressWords {
        address_at(&self.0, 24)
    }
}

#[inline(always)]
const fn address_at(header: &[u8; LENGTH], at: usize) -> AddressWords {
    [word(header, at), word(header, at + 4), word(header, at + 8), word(header, at + 12)]
}

/// Whether a next-header value is an extension header, behind which the ports lie (RFC 8200, section 4; RFC 7045,
/// section 4).
#[must_use]
#[inline(always)]
pub const fn is_extension(next_header: u8) -> bool {
    matches!(next_header, 0 | 43 | FRAGMENT | 51 | 60 | 135 | 139 | 140)
}
