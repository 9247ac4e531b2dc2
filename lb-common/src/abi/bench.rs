//! What the benchmark's wrapper program and its driver share.

/// Flag of [`BenchRoot`]: the packet is IPv6.
pub const BENCH_IPV6: u32 = 1;
/// Flag of [`BenchRoot`]: clients are spread over the whole address space, as [`spread`] says.
pub const BENCH_SPREAD: u32 = 2;

/// The 32 bits that tell clients apart that are spread: an IPv4 address, or what follows `2001:` in an IPv6 address.
#[must_use]
#[inline(always)]
pub const fn spread(flow: u32) -> u32 {
    flow.wrapping_add(1).wrapping_mul(0x9e37_79b1)
}

/// The single element of the `BENCH` map.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BenchRoot {
    /// Number of the next packet.
    pub next: u32,
    /// Number of flows minus one; the number is a power of two.
    pub flow_mask: u32,
    /// [`BENCH_IPV6`] and [`BENCH_SPREAD`], or 0.
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
