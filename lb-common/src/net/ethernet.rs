//! Ethernet II.

/// Length of the header in bytes.
pub const LENGTH: usize = network_types::eth::EthHdr::LEN;

/// EtherType of a header.
#[must_use]
#[inline(always)]
pub const fn ethertype(header: &[u8; LENGTH]) -> [u8; 2] {
    [header[12], header[13]]
}

/// The header of an answer: addresses swapped, EtherType kept.
#[must_use]
#[inline(always)]
pub const fn answer(h: &[u8; LENGTH]) -> [u8; LENGTH] {
    [h[6], h[7], h[8], h[9], h[10], h[11], h[0], h[1], h[2], h[3], h[4], h[5], h[12], h[13]]
}
