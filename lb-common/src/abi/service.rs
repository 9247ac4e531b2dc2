//! Services and the index that finds them.

use super::{limits::MAX_PORT_RANGES, plan::PoolEntry};

/// Tags in one bucket of the service index.
pub const BUCKET_WIDTH: usize = 8;

/// [`ServiceEntry::flags`]: plans differ by client region; look the client up.
pub const SERVICE_MULTI_PLAN: u32 = 1;
/// [`ServiceEntry::flags`]: when every pool is down, send to a member that no operator took out, whatever its health.
pub const SERVICE_FAIL_OPEN: u32 = 2;
/// [`ServiceEntry::flags`]: not a service but the VIP itself: key with protocol and port 0, for what has no port.
pub const SERVICE_VIP_ONLY: u32 = 4;
/// [`ServiceEntry::flags`]: the plan may start a flow at a step other than the first. Set while the program runs, before shares say
/// so, and cleared once no flow is known to live away from home because of them.
pub const SERVICE_SPILLS: u32 = 8;
/// [`ServiceEntry::flags`]: access lists, limits or a priority class apply: look at the service's guard.
pub const SERVICE_GUARDED: u32 = 1 << 4;
/// [`ServiceEntry::flags`]: datagrams belong to established flows (`udp = "stick"`).
pub const SERVICE_STICKY_UDP: u32 = 1 << 5;
/// [`ServiceEntry::flags`]: the service is QUIC; place by connection id where it can be read.
pub const SERVICE_QUIC: u32 = 1 << 6;
/// [`ServiceEntry::flags`]: no longer in the configuration; only packets of established flows are forwarded.
pub const SERVICE_LEAVING: u32 = 1 << 7;
/// [`ServiceEntry::flags`]: Weir answers ARP requests and neighbour solicitations for the VIP (`reach = "arp"`).
pub const SERVICE_ARP: u32 = 1 << 8;
/// [`ServiceEntry::flags`]: matches a range of ports or any; found by its address and protocol alone. Together with
/// [`SERVICE_VIP_ONLY`] not a service but where those of an address and protocol are listed: element
/// [`ServiceEntry::plan_base`] of `PORT_RANGES`.
pub const SERVICE_WIDE_PORTS: u32 = 1 << 9;
/// [`ServiceEntry::flags`]: what goes away from home looks into its plan first: some flows leave a pool that is in part down, or health
/// is not believed. Set and cleared while the program runs.
pub const SERVICE_STEERED: u32 = 1 << 15;

/// Mark in [`ServiceKey::protocol`]: the address is the first one of a VIP prefix. None of the protocols that services have, nor 0,
/// becomes another one of them by the marks.
pub const KEY_OF_PREFIX: u8 = 0x40;
/// Mark in [`ServiceKey::protocol`]: key of the list of port ranges. As above.
pub const KEY_OF_RANGES: u8 = 0x20;

/// [`ServiceEntry::forwarding`]: IP in IP.
pub const FORWARD_IPIP: u8 = 0;
/// [`ServiceEntry::forwarding`]: generic UDP encapsulation.
pub const FORWARD_GUE: u8 = 1;
/// [`ServiceEntry::forwarding`]: only the Ethernet header is rewritten (direct server return on one link).
pub const FORWARD_L2: u8 = 2;

/// One element of the `SERVICE_INDEX` map: a cache line of eight (tag, service) pairs.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceBucket {
    /// Upper half of the key's hash, lowest bit set; 0 marks an empty place.
    pub tags: [u32; BUCKET_WIDTH],
    /// Index into the `SERVICES` map.
    pub services: [u32; BUCKET_WIDTH],
}

/// What a service is found by. IPv4 addresses stand as IPv4-mapped IPv6 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ServiceKey {
    /// VIP.
    pub address: [u8; 16],
    /// Port, network order; 0 with protocol 0 for the VIP itself, and for a list of port ranges.
    pub port: [u8; 2],
    /// IP protocol number, with [`KEY_OF_PREFIX`] and [`KEY_OF_RANGES`] flipped where they apply.
    pub protocol: u8,
    /// With [`KEY_OF_PREFIX`]: length of the VIP prefix as an IPv4-mapped one, plus one; else 0.
    pub prefix: u8,
}

/// One element of the `SERVICES` map, 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// VIP, to verify the tag's claim.
    pub address: [u8; 16],
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number; marked as in [`ServiceKey::protocol`].
    pub protocol: u8,
    /// `FORWARD_*`: how packets travel to backends.
    pub forwarding: u8,
    /// `SERVICE_*` flags.
    pub flags: u32,
    /// Index of the plan for client region 0; the others follow in order of their region.
    pub plan_base: u32,
    /// Number of plans: that of client regions, or 1.
    pub plans: u32,
    /// First pool of plan 0, whole.
    pub first: PoolEntry,
    /// Index into the `PREVIOUS` map, plus one, of the home that flows of client region 0 had before the last change of the
    /// configuration; 0 when the service is not in transition. Cleared while the program runs.
    pub previous_base: u32,
    /// Number of elements of `PREVIOUS`: that of client regions before the last change, or 1.
    pub previous_plans: u16,
    /// With [`SERVICE_WIDE_PORTS`] the highest port, network order, `port` being the lowest; else 0.
    pub last_port: [u8; 2],
    /// Index into the map of guards; meant only with [`SERVICE_GUARDED`].
    pub guard: u16,
    /// See [`ServiceKey::prefix`].
    pub prefix: u8,
    /// With [`SERVICE_VIP_ONLY`] and a VIP prefix: the same of the next shorter VIP prefix that it lies in; else 0.
    pub parent: u8,
    /// UDP port of [`FORWARD_GUE`], network order.
    pub gue_port: [u8; 2],
    /// Configurations of connection ids, as [`QuicConfigEntry`](super::quic::QuicConfigEntry) has them; meant only with
    /// [`SERVICE_QUIC`].
    pub quic: [u8; 2],
}

/// Ports from `first` to `last`, both included, in host order. None if `first` is greater.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRange {
    /// Lowest.
    pub first: u16,
    /// Highest.
    pub last: u16,
    /// Index into the `SERVICES` map.
    pub service: u32,
}

/// One element of the `PORT_RANGES` map, 128 bytes: the services of one address (or VIP prefix) and protocol that have more than one
/// port. The first range that holds a port counts: narrower ones stand first.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PortRanges(pub [PortRange; MAX_PORT_RANGES]);

impl PortRange {
    /// A range without ports.
    pub const NONE: Self = Self { first: 1, last: 0, service: 0 };
}
