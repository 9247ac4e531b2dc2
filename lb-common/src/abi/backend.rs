//! A backend as the data plane sees it: one cache line that holds all that forwarding to it takes.

use super::admission::Admission;

/// EtherType of IPv4, as it stands in a frame.
pub const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
/// EtherType of IPv6, as it stands in a frame.
pub const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];

/// One element of the `BACKENDS` map, 64 bytes.
///
/// The daemon writes an entry once when it builds a generation, then changes only `admission` (one 32-bit store) and the
/// next hop: it first stores 0 to `ifindex`, then the rest, then `ifindex`. A packet that meets 0 is dropped with
/// [`Reason::NoNextHop`](super::reason::Reason::NoNextHop).
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackendEntry {
    /// The backend's own admission word.
    pub admission: Admission,
    /// Index of its rack in the admission array.
    pub rack: u16,
    /// Index of its zone in the admission array.
    pub zone: u16,
    /// Index of its region in the admission array.
    pub region: u16,
    /// Largest outer IP packet, in bytes, that the way to the backend takes.
    pub mtu: u16,
    /// Interface of the next hop; 0 while there is none.
    pub ifindex: u32,
    /// Ethernet header of the outer packet: the next hop's address, the egress interface's address, and the EtherType,
    /// which tells whether the backend is reached over IPv4 or IPv6.
    pub ethernet: [u8; 14],
    /// One's complement sum (not yet complemented, native byte order over network-order words) of the constant part of
    /// an outer IPv4 header: version, flags, TTL, both addresses without entropy. Total length, type of service,
    /// protocol and entropy are added per packet.
    pub outer_sum: u16,
    /// Outer destination: an IPv6 address, or an IPv4 address in the first four bytes.
    pub outer_destination: [u8; 16],
    /// `BACKEND_*` flags.
    pub flags: u32,
    /// VLAN tag (TCI, network order) of frames to the next hop; meant only with [`BACKEND_TAGGED`].
    pub vlan: [u8; 2],
    /// Zero.
    pub reserved: [u8; 10],
}

/// [`BackendEntry::flags`]: the next hop is the backend itself and no router, so that it can be reached by rewriting the
/// Ethernet header.
pub const BACKEND_ON_LINK: u32 = 1;
/// [`BackendEntry::flags`]: frames to the next hop carry the VLAN tag [`BackendEntry::vlan`]; without it they carry none.
pub const BACKEND_TAGGED: u32 = 2;
/// [`BackendEntry::flags`]: no longer in the configuration; only flows that are known to live here still come.
pub const BACKEND_LEAVING: u32 = 4;
/// [`BackendEntry::flags`]: a Weir host of another region. A packet that has crossed a region border once never goes there, whichever
/// pool, flow or fragment names it.
pub const BACKEND_RELAY: u32 = 8;

impl BackendEntry {
    /// Whether packets to this backend get an outer IPv6 header.
    #[must_use]
    #[inline(always)]
    pub const fn is_outer_ipv6(&self) -> bool {
        self.ethernet[12] == ETHERTYPE_IPV6[0]
    }
}
