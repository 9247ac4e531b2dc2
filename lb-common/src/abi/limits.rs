//! Every bound that the data plane and the daemon must agree on.

/// Backends of one edge host. 15 bits: the top bit of a table slot is the transition mark.
pub const MAX_BACKENDS: usize = 32_767;
/// Words in the admission array: regions, zones, racks and pools share one index space.
pub const MAX_DOMAINS: usize = 4_096;
/// Words of the admission array that pools use; they lie behind those of the domains.
pub const MAX_POOLS: usize = 12_288;
/// All words of the admission array, a power of two so that an index is bounded by a mask.
pub const ADMISSION_WORDS: usize = MAX_DOMAINS + MAX_POOLS;
/// Services of one edge host.
pub const MAX_SERVICES: usize = 10_240;
/// Pools that one plan may name.
pub const MAX_PLAN_STEPS: usize = 8;
/// Client regions, "default" included.
pub const MAX_CLIENT_REGIONS: usize = 1_024;
/// Client prefixes over all client regions.
pub const MAX_CLIENT_PREFIXES: usize = 1_048_576;
/// Prefixes of one list of sources.
pub const MAX_LIST_PREFIXES: usize = 102_400;
/// Prefix tables: that of the client regions, lists of sources, prefixes of VIPs.
pub const MAX_PREFIX_TABLES: usize = 16_384;
/// Entries of the roots of all prefix tables: 512 MiB.
pub const MAX_PREFIX_ENTRIES: usize = 1 << 27;
/// Nodes of all prefix tables: 512 MiB.
pub const MAX_PREFIX_NODES: usize = 1 << 24;
/// Values of the nodes of all prefix tables: 256 MiB.
pub const MAX_PREFIX_VALUES: usize = 1 << 27;
/// Plans of all services: a service that distinguishes client regions has one for each of them.
pub const MAX_PLANS: usize = 65_536;
/// Slots of one chunk of the slot array; tables of any size lie in it back to back.
pub const SLOTS_PER_CHUNK: usize = 65_536;
/// Chunks of the slot array: 4,096 x 64 Ki slots are 512 MiB.
pub const MAX_SLOT_CHUNKS: usize = 4_096;
/// Buckets of the service index, a power of two.
pub const MAX_SERVICE_BUCKETS: usize = 65_536;
/// Slots of a table that are tried for one flow before its plan's next pool.
pub const MAX_PROBES: u32 = 16;
/// Slots of a table that are tried for one flow, once every pool of its plan was tried, before it is refused. With nine
/// tenths of a pool down, 16 slots miss the rest for one flow in five, 256 for one in 500 billion.
pub const MAX_THOROUGH_PROBES: u32 = 256;
/// Counters for reasons, the first ones of each CPU's block. Reasons are append-only.
pub const REASON_SLOTS: usize = 64;
/// Counters for notes, behind those for reasons. Notes are append-only.
pub const NOTE_SLOTS: usize = 32;
/// CPUs whose counters fit.
pub const MAX_CPUS: usize = 1_024;
/// Flows away from home that are remembered, by default, for each CPU that the host may have: the kernel divides an LRU table without a
/// common list among them. The oldest are forgotten first.
pub const DEFAULT_FLOW_ENTRIES_PER_CPU: u32 = 16_384;
/// IPv6 extension headers of one packet that are stepped over.
pub const MAX_EXTENSION_HEADERS: usize = 8;
/// Datagrams in fragments that are known at a time; the least recently used is forgotten first.
pub const MAX_FRAGMENTED: u32 = 8_192;
/// How long later fragments may come behind their datagram's first one, in nanoseconds. Stacks send them at once; an
/// identification comes again after minutes (RFC 6864, section 4).
pub const FRAGMENT_AGE_NS: u64 = 5_000_000_000;
/// Port ranges of one address and protocol, "any" included.
pub const MAX_PORT_RANGES: usize = 16;
/// VIP prefixes that lie in one another.
pub const MAX_VIP_NESTING: usize = 4;
/// How far answers may run ahead of their rate, in nanoseconds: several ticks of the coarse clock.
pub const ANSWER_BURST_NS: u64 = 100_000_000;
/// Flows that opened away from home and of which nothing but the opening packet was seen yet; a flood of such packets
/// turns over these and no other entries. By default, for each CPU: 2.3 MB.
pub const DEFAULT_OPENING_ENTRIES_PER_CPU: u32 = 32_768;
/// Bytes of one element of the flow filter.
pub const FLOW_FILTER_CHUNK: usize = 65_536;
/// Bytes of the whole flow filter at most, a power of two: 64 MiB.
pub const MAX_FLOW_FILTER: usize = 1 << 26;
/// Bytes of the flow filter for each entry of the table that it stands before: with that full, two packets in five of flows
/// without an entry are looked up in vain. More bytes would miss the CPU's caches more often.
pub const FLOW_FILTER_BYTES_PER_ENTRY: usize = 2;
/// Flows a second that enter the flow table at most without having been seen to open, for each CPU.
pub const DEFAULT_FLOW_INSERTS_PER_SECOND: u32 = 10_000;
/// Answers a second that Weir itself gives at most, for each CPU, and once more for neighbours.
pub const DEFAULT_ANSWERS_PER_SECOND: u32 = 1_000;
/// Interfaces of one edge host on which frames arrive.
pub const MAX_INTERFACES: usize = 64;
/// Bytes of a QUIC server id.
pub const MAX_QUIC_SERVER_ID_BYTES: usize = 15;
/// Watchers of packets (`weir trace`, `weir capture`) at once.
pub const MAX_WATCHERS: usize = 8;
/// Packets a second that watchers see at most, for each CPU; what is more is counted as lost.
pub const WATCHED_PER_SECOND: u32 = 20_000;
/// Bytes of the ring buffer through which watched packets come, a power of two.
pub const WATCH_RING_BYTES: u32 = 1 << 22;
/// Source prefixes that emergency switches block at once.
pub const MAX_BLOCKED: usize = 1_024;
/// Places in each of the two rows of source buckets (2 MiB in all), where some service limits its source prefixes.
pub const SOURCE_PLACES: u32 = 65_536;
/// Addresses on which one agent takes tunnelled packets and heartbeats.
pub const MAX_AGENT_ADDRESSES: usize = 16;
/// Source prefixes from which one agent accepts tunnelled packets and heartbeats.
pub const MAX_AGENT_SOURCES: usize = 256;

const _: () = assert!(ADMISSION_WORDS.is_power_of_two());
const _: () = assert!(FLOW_FILTER_CHUNK.is_power_of_two() && MAX_FLOW_FILTER.is_power_of_two());

/// Bytes of the flow filter for a table of so many entries: a power of two, one element at least.
#[must_use]
pub const fn flow_filter_bytes(flow_entries: u32) -> usize {
    let wanted = flow_entries as usize * FLOW_FILTER_BYTES_PER_ENTRY;
    let bytes = wanted.next_power_of_two();
    if bytes < FLOW_FILTER_CHUNK {
        FLOW_FILTER_CHUNK
    } else if bytes > MAX_FLOW_FILTER {
        MAX_FLOW_FILTER
    } else {
        bytes
    }
}
