//! The limits of a configuration. Meeting one is an error that names it.

use std::time::Duration;

pub use lb_common::abi::limits::{
    MAX_BACKENDS, MAX_CLIENT_PREFIXES, MAX_CLIENT_REGIONS, MAX_DOMAINS, MAX_LIST_PREFIXES, MAX_PLAN_STEPS,
    MAX_PLANS, MAX_POOLS, MAX_PORT_RANGES, MAX_SERVICES, MAX_VIP_NESTING,
};
use lb_common::abi::limits::{MAX_SLOT_CHUNKS, SLOTS_PER_CHUNK};
pub use lb_maglev::TABLE_SIZES;

/// Size of the file, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;
/// Files of a configuration that is a folder.
pub const MAX_CONFIG_FILES: usize = 256;
/// Size of the file of client prefixes, in bytes.
pub const MAX_CLIENT_FILE_BYTES: u64 = 128 << 20;
/// Sets; each has at least one backend.
pub const MAX_SETS: usize = MAX_BACKENDS;
/// Slots of all tables together, 512 MiB of them.
pub const MAX_TABLE_SLOTS: u64 = (MAX_SLOT_CHUNKS * SLOTS_PER_CHUNK) as u64;
/// Interfaces of the node.
pub const MAX_INTERFACES: usize = 8;
/// Addresses at which one host takes what other regions relay.
pub const MAX_RELAY_ADDRESSES: usize = 16;
/// Prefixes from which one host takes what other regions relay.
pub const MAX_RELAY_PEERS: usize = 256;
/// Checks in the file.
pub const MAX_CHECKS: usize = 1024;
/// Bytes of a name of a node, domain segment, client region, check, set, backend, service or pool.
pub const MAX_NAME_BYTES: usize = 63;
/// Bytes of an interface name: IFNAMSIZ without its NUL.
pub const MAX_INTERFACE_NAME_BYTES: usize = 15;
/// Bytes of the socket's path: `sun_path` of unix(7) without its NUL.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;
/// Size of `hash_key_file`, in bytes; the key is 64 digits, the rest leaves room for white space.
pub const MAX_KEY_FILE_BYTES: u64 = 256;
/// Weight of a backend.
pub const MAX_WEIGHT: u32 = 65_535;
/// `config_id` of QUIC connection ids; 7 marks those that cannot be routed (draft-ietf-quic-load-balancers).
pub const MAX_QUIC_CONFIG_ID: u8 = 6;
/// Bytes of a QUIC server id.
pub const MAX_QUIC_SERVER_ID_BYTES: usize = lb_common::abi::limits::MAX_QUIC_SERVER_ID_BYTES;
/// Consecutive probes of `fall` and `rise`.
pub const MAX_STREAK: u32 = 100;
/// Size of a file of prefixes, in bytes.
pub const MAX_LIST_FILE_BYTES: u64 = 8 << 20;
/// Packets or new flows a second of any limit.
pub const MAX_RATE: u64 = 100_000_000;
/// Packets or new flows at once of any limit.
pub const MAX_BURST: u64 = 100_000_000;
/// Problems that one report shows; the others are counted.
pub const MAX_PROBLEMS: usize = 50;

/// Shortest VIP prefix, IPv4: what is announced on the Internet has no fewer bits.
pub const MIN_VIP_LENGTH_V4: u8 = 8;
/// Shortest VIP prefix, IPv6.
pub const MIN_VIP_LENGTH_V6: u8 = 16;

/// Size of a table when the file does not say.
pub const DEFAULT_TABLE_SIZE: u32 = 65_537;

/// Shortest interval of a heartbeat, an ICMP echo or a BFD session.
pub const MIN_HEARTBEAT_INTERVAL: Duration = Duration::from_millis(1);
/// Shortest interval of a TCP, UDP or DNS check.
pub const MIN_TCP_INTERVAL: Duration = Duration::from_millis(10);
/// Shortest interval of an HTTP, HTTPS or exec check.
pub const MIN_SLOW_INTERVAL: Duration = Duration::from_millis(50);
/// Longest interval and timeout of a check.
pub const MAX_CHECK_TIME: Duration = Duration::from_secs(60);
/// Largest jitter of a check, in percent of its interval.
pub const MAX_JITTER: u8 = 50;
/// Bytes that a UDP check sends or expects: what every path carries in one piece.
pub const MAX_DATAGRAM_BYTES: usize = 512;
/// Bytes of a path, a host name, an expected body or one argument of a check.
pub const MAX_CHECK_TEXT_BYTES: usize = 1024;
/// Ranges of status codes of an HTTP check.
pub const MAX_STATUS_RANGES: usize = 16;
/// Bytes of a body that an HTTP check looks at.
pub const MAX_BODY_BYTES: usize = 1 << 20;
/// Bytes of a body that an HTTP check looks at when the file does not say.
pub const DEFAULT_BODY_BYTES: usize = 16 << 10;
/// Size of a `ca_file`, in bytes.
pub const MAX_CA_FILE_BYTES: u64 = 4 << 20;
/// Size of a PEM file of `[http]`, in bytes.
pub const MAX_TLS_FILE_BYTES: u64 = 1 << 20;
/// Names in `operators`.
pub const MAX_OPERATORS: usize = 64;
/// Characters of one of them.
pub const MAX_OPERATOR_CHARS: usize = 256;
/// Words of an exec check's command.
pub const MAX_COMMAND_ARGUMENTS: usize = 32;
/// Longest time in which something comes back.
pub const MAX_RECOVERY_TIME: Duration = Duration::from_secs(3600);

/// Time that a transition takes when the file does not say.
pub const DEFAULT_TRANSITION: Duration = Duration::from_secs(5 * 60);
/// Shortest transition: a flow that sends nothing for longer may lose its backend.
pub const MIN_TRANSITION: Duration = Duration::from_millis(100);
/// Longest transition.
pub const MAX_TRANSITION: Duration = Duration::from_secs(24 * 60 * 60);
/// Time without a packet after which a flow away from home is forgotten when the file does not say.
pub const DEFAULT_FLOW_IDLE: Duration = Duration::from_secs(24 * 60 * 60);
/// Shortest such time: entries know their age to about a second.
pub const MIN_FLOW_IDLE: Duration = Duration::from_secs(60);
/// Longest such time.
pub const MAX_FLOW_IDLE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Fewest answers a second.
pub const MIN_ANSWERS: u32 = 1;
/// Most answers a second: what one CPU can send at all.
pub const MAX_ANSWERS: u32 = 10_000_000;
/// Fewest flows away from home that are remembered.
pub const MIN_FLOW_ENTRIES: u32 = 1024;
/// Most flows away from home that are remembered: about 2 GiB of memory.
pub const MAX_FLOW_ENTRIES: u32 = 16 << 20;
