//! QUIC connection ids that name a backend (draft-ietf-quic-load-balancers, plaintext): which server id is whose.

use super::limits::MAX_QUIC_SERVER_ID_BYTES;

/// Key of the `QUIC_SERVERS` map.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct QuicServerKey {
    /// Index of the service.
    pub service: u32,
    /// The configuration, as [`QuicConfigEntry`] has it.
    pub config: u8,
    /// Zero.
    pub reserved: [u8; 3],
    /// The server id, then zeroes, in words whose bytes in memory are as in a connection id.
    pub server_id: [u64; 2],
}

/// Value of the `QUIC_SERVERS` map.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuicServer {
    /// Index of the backend.
    pub backend: u32,
    /// Index of the service's pool that it belongs to: a client may only go there if its plan names the pool.
    pub pool: u32,
}

/// One configuration of a service's connection ids, in one byte of its entry: the configuration's id in the upper three bits,
/// as in the first byte of a connection id; the length of server ids in the lower four; 0 for none.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct QuicConfigEntry(pub u8);

impl QuicConfigEntry {
    /// The bits of the id.
    pub const ID: u8 = 0xe0;

    /// The entry for a configuration; `length` is 1 to [`MAX_QUIC_SERVER_ID_BYTES`].
    #[must_use]
    pub const fn new(id: u8, length: u8) -> Self {
        debug_assert!(id < 7 && length > 0 && length as usize <= MAX_QUIC_SERVER_ID_BYTES);
        Self(id << 5 | length)
    }

    /// Bytes of its server ids; 0 for none.
    #[must_use]
    #[inline(always)]
    pub const fn length(self) -> usize {
        (self.0 & 0x0f) as usize
    }

    /// Whether a connection id that begins with `first` follows this configuration.
    #[must_use]
    #[inline(always)]
    pub const fn matches(self, first: u8) -> bool {
        self.length() != 0 && (first ^ self.0) & Self::ID == 0
    }
}
