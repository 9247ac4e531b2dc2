//! Services and the index that finds them.

use super::plan::PoolEntry;

/// Tags in one bucket of the service index.
pub const BUCKET_WIDTH: usize = 8;

/// [`ServiceEntry::flags`]: plans differ by client region; look the client up.
pub const SERVICE_MULTI_PLAN: u8 = 1;
/// [`ServiceEntry::flags`]: when every pool is down, send to a member that no operator took out, whatever its health.
pub const SERVICE_FAIL_OPEN: u8 = 2;
/// [`ServiceEntry::flags`]: not a service but the VIP itself: key with protocol and port 0, for what has no port.
pub const SERVICE_VIP_ONLY: u8 = 4;
/// [`ServiceEntry::flags`]: the plan may start a flow at a step other than the first.
pub const SERVICE_SPILLS: u8 = 8;

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
    /// Port, network order; 0 with protocol 0 for the VIP itself.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
}

/// One element of the `SERVICES` map, 64 bytes.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ServiceEntry {
    /// VIP, to verify the tag's claim.
    pub address: [u8; 16],
    /// Port, network order.
    pub port: [u8; 2],
    /// IP protocol number.
    pub protocol: u8,
    /// `SERVICE_*` flags.
    pub flags: u8,
    /// Index of the plan for client region 0; the others follow in order of their region.
    pub plan_base: u32,
    /// Number of plans: that of client regions, or 1.
    pub plans: u32,
    /// Zero.
    pub reserved: u32,
    /// First pool of plan 0, whole.
    pub first: PoolEntry,
    /// Zero.
    pub reserved2: [u32; 4],
}
