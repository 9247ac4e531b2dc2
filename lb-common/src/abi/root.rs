//! The root: what every packet needs, whatever its service.

/// Keys of the flow hash, expanded from the fleet-wide secret. See [`crate::datapath::hash`].
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct FlowHashKey {
    /// Added word by word to the tuple (NH).
    pub words: [u32; 10],
    /// Added before the finaliser.
    pub finish: u64,
}

impl core::fmt::Debug for FlowHashKey {
    /// Tells nothing: the key is a secret.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("FlowHashKey(..)")
    }
}

/// The single element of the `ROOT` map, 192 bytes. Written once per generation.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// [`ABI_VERSION`](super::ABI_VERSION).
    pub abi_version: u32,
    /// Number of buckets of the service index minus one; the number is a power of two.
    pub bucket_mask: u32,
    /// Seed of the service index's hash, chosen so that no bucket overflows.
    pub service_seed: u64,
    /// Keys of the flow hash.
    pub hash_key: FlowHashKey,
    /// Counter slots per CPU.
    pub counter_stride: u32,
    /// Service slots in a CPU's counter block.
    pub counter_services: u32,
    /// Which bits of the last four bytes of an outer IPv4 source carry entropy, network order.
    pub entropy_mask_v4: [u8; 4],
    /// Which bits of the last four bytes of an outer IPv6 source carry entropy, network order.
    pub entropy_mask_v6: [u8; 4],
    /// CPUs that have a counter block.
    pub counter_cpus: u32,
    /// Zero.
    pub reserved: [u32; 19],
    /// Digest of the configuration that this generation was built from.
    pub config_digest: [u8; 32],
}
