//! The flow table: exact-match entries for flows that are not at home.

/// Key of the `FLOWS` map: a flow's 5-tuple. IPv4 addresses stand as IPv4-mapped IPv6 addresses (RFC 4291, section
/// 2.5.5.2).
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct FlowKey {
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
    /// 0 for a packet from a client, 1 for one relayed from another region: the two never share an entry, so that a
    /// relayed packet cannot inherit a way that leads out of the region again.
    pub origin: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// Value of the `FLOWS` map.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FlowEntry {
    /// Where the flow went when it opened.
    pub backend: u32,
    /// The service it belongs to.
    pub service: u32,
}
