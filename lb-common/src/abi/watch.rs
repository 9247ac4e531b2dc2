//! Watching packets: what the program `weir_watched` is told, and what it tells.
//!
//! While somebody watches, `weir_watched` stands in the place of `weir_edge`, over the same maps: it does the same with each packet, and
//! beside that copies what it was told to. What it is told lies in `WATCH` and `WATCH_FILTERS`, which the daemon maps to memory; what it tells goes
//! into the ring buffer `WATCH_RING`, one [`WatchRecord`] with up to two frames behind it for each packet that somebody wants to see.

use super::limits::MAX_WATCHERS;
use crate::net::AddressWords;

/// Bytes of a frame that are copied at most: one that fills an Ethernet link.
pub const MAX_SNAP: usize = 1_514;
/// Room for one frame in a record: [`MAX_SNAP`] rounded up to whole words of eight bytes.
pub const FRAME_ROOM: usize = 1_520;

/// The single element of the map `WATCH`. Written by the daemon while the program runs, word by word.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchControl {
    /// Until when anything is told, in the units of [`guard`](super::guard) (134 ms); 0 for not at all. The daemon renews it, so that a daemon
    /// that died leaves nobody watching.
    pub until: u32,
    /// One bit for each element of `WATCH_FILTERS` that has a meaning.
    pub active: u32,
    /// Bytes of each frame that are copied, 0 to [`MAX_SNAP`]: as many as the watcher wants who wants most.
    pub snap: u32,
    /// The largest [`WatchFilter::sample`].
    pub sample: u32,
    /// Records a second at most, for each CPU.
    pub per_second: u32,
    /// Zero.
    pub reserved: [u32; 3],
}

/// An address prefix to compare with: `address & mask == value`. All zero matches everything.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddressMatch {
    /// The bits that count.
    pub mask: AddressWords,
    /// What they must be. IPv4 addresses stand as IPv4-mapped IPv6 addresses.
    pub value: AddressWords,
}

/// One element of the map `WATCH_FILTERS`: what one watcher wants to see. 128 bytes. A packet must match all of it.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct WatchFilter {
    /// One bit for the number of each [`Reason`](super::reason::Reason).
    pub reasons: u64,
    /// Packets are seen whose random number is not above this: `u32::MAX` for all of them.
    pub sample: u32,
    /// Index of the service, or [`ANY_SERVICE`](Self::ANY_SERVICE).
    pub service: u32,
    /// IP protocol number, or [`ANY_PROTOCOL`](Self::ANY_PROTOCOL).
    pub protocol: u16,
    /// One bit for each `VERDICT_*`.
    pub verdicts: u16,
    /// First and last port of the client, host order.
    pub source_ports: [u16; 2],
    /// First and last port of the service, host order.
    pub destination_ports: [u16; 2],
    /// First and last port, one of the two, host order.
    pub ports: [u16; 2],
    /// The client.
    pub source: AddressMatch,
    /// The VIP.
    pub destination: AddressMatch,
    /// One of the two.
    pub host: AddressMatch,
}

impl WatchFilter {
    /// [`service`](Self::service) that matches all packets, also those of no service.
    pub const ANY_SERVICE: u32 = u32::MAX;
    /// [`protocol`](Self::protocol) that matches all packets.
    pub const ANY_PROTOCOL: u16 = u16::MAX;
    /// Ports that match all packets, also those without.
    pub const ANY_PORT: [u16; 2] = [0, u16::MAX];
    /// Matches all packets.
    pub const ALL: Self = Self {
        reasons: u64::MAX,
        sample: u32::MAX,
        service: Self::ANY_SERVICE,
        protocol: Self::ANY_PROTOCOL,
        verdicts: u16::MAX,
        source_ports: Self::ANY_PORT,
        destination_ports: Self::ANY_PORT,
        ports: Self::ANY_PORT,
        source: AddressMatch { mask: [0; 4], value: [0; 4] },
        destination: AddressMatch { mask: [0; 4], value: [0; 4] },
        host: AddressMatch { mask: [0; 4], value: [0; 4] },
    };
}

/// [`WatchRecord::walked`]: the rest of the word has a meaning.
pub const WALKED: u64 = 1 << 63;

/// [`WatchRecord::verdict`]: handed to the kernel's stack.
pub const VERDICT_PASS: u8 = 0;
/// [`WatchRecord::verdict`]: dropped.
pub const VERDICT_DROP: u8 = 1;
/// [`WatchRecord::verdict`]: answered by the program itself.
pub const VERDICT_ANSWER: u8 = 2;
/// [`WatchRecord::verdict`]: sent to a backend.
pub const VERDICT_FORWARD: u8 = 3;

/// [`WatchRecord::flags`]: the packet may open a flow.
pub const SEEN_OPENING: u8 = 1;
/// [`WatchRecord::flags`]: placed by its QUIC connection id.
pub const SEEN_BY_ID: u8 = 1 << 1;
/// [`WatchRecord::flags`]: the addresses are known.
pub const SEEN_ADDRESSES: u8 = 1 << 2;
/// [`WatchRecord::flags`]: the ports are known.
pub const SEEN_PORTS: u8 = 1 << 3;
/// [`WatchRecord::flags`]: written into the table of flows that are opening.
pub const SEEN_REMEMBERED: u8 = 1 << 4;

/// [`WatchRecord::flags`]: another region relayed it; addresses and ports are those inside the tunnel.
pub const SEEN_RELAYED: u8 = 1 << 5;

/// "No index" in [`WatchRecord::service`] and [`WatchRecord::backend`].
pub const NO_INDEX: u32 = u32::MAX;

/// What is told of one packet: 112 bytes. Behind it, in the ring buffer, the frame as it came, in `stride` bytes of room, then, in as much room,
/// the frame as it left.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchRecord {
    /// When it came: CLOCK_MONOTONIC in nanoseconds.
    pub arrived_ns: u64,
    /// The word of [`Walked`](crate::datapath::steer::Walked) that placed it, and [`WALKED`]; 0 if it went straight home, or was not placed by its plan.
    pub walked: u64,
    /// Client, IPv4 as IPv4-mapped. Of an ICMP error: that of the flow that it is about.
    pub source: AddressWords,
    /// What it is for.
    pub destination: AddressWords,
    /// Client port, then service port, in network order.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// What kind of packet of its flow: the number of a [`Shape`](crate::datapath::parse::Shape).
    pub shape: u8,
    /// `VERDICT_*`.
    pub verdict: u8,
    /// `SEEN_*`.
    pub flags: u8,
    /// Index of the service, or [`NO_INDEX`].
    pub service: u32,
    /// Index of the backend, or [`NO_INDEX`].
    pub backend: u32,
    /// Number of the reason.
    pub reason: u32,
    /// Interface by which it came.
    pub ingress: u32,
    /// Interface by which it left; 0 if it did not.
    pub egress: u32,
    /// One bit for each element of `WATCH_FILTERS` that it matches.
    pub watchers: u32,
    /// Length of the frame as it came.
    pub arrived_length: u32,
    /// Bytes of it that follow.
    pub arrived_captured: u32,
    /// Length of the frame as it left; 0 if it did not.
    pub left_length: u32,
    /// Bytes of it that follow.
    pub left_captured: u32,
    /// Room for each frame behind the record; 0 if none follow.
    pub stride: u32,
    /// CPU that it was on.
    pub cpu: u32,
    /// Zero.
    pub reserved: [u32; 2],
}

/// One element of the map `WATCH_LOST`, one for each CPU: records that a watcher should have got, but the limit of records was reached or the ring
/// buffer was full.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchLost {
    /// By the watcher's element of `WATCH_FILTERS`.
    pub records: [u64; MAX_WATCHERS],
}
