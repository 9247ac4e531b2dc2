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

/// [`Root::features`]: some service has a port range or any port.
pub const FEATURE_WIDE_PORTS: u32 = 1;
/// [`Root::features`]: some service has a VIP prefix.
pub const FEATURE_VIP_PREFIXES: u32 = 1 << 1;
// Bits 2 and 3 are free.
/// [`Root::features`]: an emergency switch is on, or new flows are being shed: look at every service's guard. Set and cleared
/// while the program runs. The same bit as [`SERVICE_GUARDED`](super::service::SERVICE_GUARDED), so that one test covers both.
pub const FEATURE_EMERGENCY: u32 = 1 << 4;

/// [`Root::features`]: Weir answers "who has it?" for some VIP (`reach = "arp"`).
pub const FEATURE_ARP: u32 = 1 << 5;

/// [`Root::features`]: this host takes what other regions relay to it. Packets for no VIP are looked at once more.
pub const FEATURE_RELAY: u32 = 1 << 12;

/// The single element of the `ROOT` map, 256 bytes. Written once per generation, but for `features`, `previous_clients`
/// and `flow_filter_epoch`.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Root {
    /// [`ABI_VERSION`](super::ABI_VERSION).
    pub abi_version: u32,
    /// Number of buckets of the service index minus one; the number is a power of two.
    pub bucket_mask: u32,
    /// Seed of the service index's hash, chosen so that no bucket overflows.
    pub service_seed: u64,
    /// `FEATURE_*`: what some packets need beyond the common way. 0 costs nothing.
    pub features: u32,
    /// Counter slots per CPU.
    pub counter_stride: u32,
    /// Service slots in a CPU's counter block.
    pub counter_services: u32,
    /// CPUs that have a counter block.
    pub counter_cpus: u32,
    /// Which bits of the last four bytes of an outer IPv4 source carry entropy, network order.
    pub entropy_mask_v4: [u8; 4],
    /// Which bits of the last four bytes of an outer IPv6 source carry entropy, network order.
    pub entropy_mask_v6: [u8; 4],
    /// Outer IPv4 source without entropy.
    pub outer_source_v4: [u8; 4],
    /// Prefix table of client regions; 0 for none.
    pub clients: u32,
    /// Prefix table of client regions before the last change, while flows of that time are in transition; else equal to
    /// `clients`.
    pub previous_clients: u32,
    /// Prefix table of VIP prefixes, whose values are [`ServiceKey::prefix`](super::service::ServiceKey::prefix); meant only with
    /// [`FEATURE_VIP_PREFIXES`].
    pub vip_prefixes: u32,
    /// Answers (echo replies, "too big") a second that Weir itself gives at most, for each CPU; and as many once more to neighbours who
    /// ask for a VIP.
    pub answers_per_second: u32,
    /// Sets of `OPENINGS`; see [`openings`](crate::datapath::openings).
    pub opening_sets: u32,
    /// Keys of the flow hash.
    pub hash_key: FlowHashKey,
    /// Outer IPv6 source without entropy.
    pub outer_source_v6: [u8; 16],
    /// Bytes of the flow filter minus one; the number is a power of two. See [`FlowFilter`](super::flow::FlowFilter).
    pub flow_filter_mask: u32,
    /// What stands in the flow filter for an entry that is written now, 1 to 255. Changed while the program runs.
    pub flow_filter_epoch: u32,
    /// Flows a second that enter the flow table at most without having been seen to open, for each CPU.
    pub flow_inserts_per_second: u32,
    /// Guards, and so elements of the map `GUARD_COUNTS` for each CPU.
    pub guards: u32,
    /// Digest of the client regions' prefixes, in their order: equal ones tell that no client is of another region than before.
    pub clients_digest: [u32; 2],
    /// Prefix table of this host's relay addresses; meant, as the two below, only with [`FEATURE_RELAY`].
    pub relay_addresses: u32,
    /// Prefix table of the outer sources that may relay to this host.
    pub relay_peers: u32,
    /// UDP port on which relayed packets in generic UDP encapsulation are taken, network order.
    pub relay_gue_port: [u8; 2],
    /// Zero.
    pub reserved3: [u8; 2],
    /// Zero.
    pub reserved2: [u32; 15],
    /// Digest of the configuration that this generation was built from.
    pub config_digest: [u8; 32],
}
