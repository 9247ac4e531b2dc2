//! What the benchmark's wrapper program and its driver share.

/// Flag of [`BenchRoot`]: the packet is IPv6.
pub const BENCH_IPV6: u32 = 1;

/// The single element of the `BENCH` map.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BenchRoot {
    /// Number of the next packet.
    pub next: u32,
    /// Number of flows minus one; the number is a power of two.
    pub flow_mask: u32,
    /// [`BENCH_IPV6`] or 0.
    pub flags: u32,
    /// Bytes that encapsulation adds and the wrapper takes off again.
    pub outer_length: u32,
    /// Packets whose verdict was neither TX nor PASS; a measurement with any is void.
    pub unexpected: u64,
    /// Ethernet header of the packet as it comes.
    pub ethernet: [u8; 14],
    /// Zero.
    pub reserved: [u8; 2],
}
