//! IPv4 (RFC 791).

use super::word;

/// Length of the header without options, in bytes.
pub const LENGTH: usize = network_types::ip::Ipv4Hdr::LEN;
/// Flag "don't fragment" in the fragment field, network order.
pub const DONT_FRAGMENT: [u8; 2] = [0x40, 0x00];
/// TTL of packets that Weir makes itself.
pub const TTL: u8 = 64;

/// The first 20 bytes of an IPv4 header.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
pub struct Header(pub [u8; LENGTH]);

impl Header {
    /// Version field; 4.
    #[must_use]
    #[inline(always)]
    pub const fn version(&self) -> u8 {
        self.0[0] >> 4
    }

    /// Whether the header is one of IPv4 without options.
    #[must_use]
    #[inline(always)]
    pub const fn is_plain(&self) -> bool {
        self.0[0] == 0x45
    }

    /// Header length in bytes with options, 0 to 60. Valid from 20 on.
    #[must_use]
    #[inline(always)]
    pub const fn header_length(&self) -> usize {
        ((self.0[0] & 0x0f) as usize) * 4
    }

    /// DSCP and ECN.
    #[must_use]
    #[inline(always)]
    pub const fn traffic_class(&self) -> u8 {
        self.0[1]
    }

    /// Length of the packet, header included.
    #[must_use]
    #[inline(always)]
    pub const fn total_length(&self) -> usize {
        u16::from_be_bytes([self.0[2], self.0[3]]) as usize
    }

    /// Whether the packet is a fragment, the first one included.
    #[must_use]
    #[inline(always)]
    pub const fn is_fragment(&self) -> bool {
        (self.0[6] & 0x3f) | self.0[7] != 0
    }

    /// Whether the packet has the beginning of its datagram, as the first fragment and a whole packet do.
    #[must_use]
    #[inline(always)]
    pub const fn is_beginning(&self) -> bool {
        (self.0[6] & 0x1f) | self.0[7] == 0
    }

    /// Whether routers must not fragment the packet.
    #[must_use]
    #[inline(always)]
    pub const fn is_dont_fragment(&self) -> bool {
        self.0[6] & DONT_FRAGMENT[0] != 0
    }

    /// Identification, by which fragments of a datagram are known.
    #[must_use]
    #[inline(always)]
    pub const fn identification(&self) -> u16 {
        u16::from_be_bytes([self.0[4], self.0[5]])
    }

    /// Protocol number of the payload.
    #[must_use]
    #[inline(always)]
    pub const fn protocol(&self) -> u8 {
        self.0[9]
    }

    /// Source address, a word in network order.
    #[must_use]
    #[inline(always)]
    pub const fn source(&self) -> u32 {
        word(&self.0, 12)
    }

    /// Destination address, a word in network order.
    #[must_use]
    #[inline(always)]
    pub const fn destination(&self) -> u32 {
        word(&self.0, 16)
    }
}
