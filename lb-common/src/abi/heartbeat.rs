//! The UDP heartbeat between the daemon's prober and `weir agent`.
//!
//! The agent answers in XDP: it swaps addresses and ports, turns the request into a reply and adds its status. Request
//! and reply have the same size, so an agent amplifies nothing; the nonce, which only the prober knows beforehand, keeps
//! others from answering for a dead host.

/// UDP port of heartbeats unless configured otherwise.
pub const DEFAULT_PORT: u16 = 6777;
/// First four bytes of every heartbeat.
pub const MAGIC: [u8; 4] = *b"WEIR";
/// Version of the message.
pub const VERSION: u8 = 1;
/// [`Heartbeat::kind`] of a request.
pub const REQUEST: u8 = 1;
/// [`Heartbeat::kind`] of a reply.
pub const REPLY: u8 = 2;
/// [`Heartbeat::status`]: the agent is well.
pub const STATUS_OK: u8 = 0;
/// [`Heartbeat::status`]: the agent is stopping or its local service is not well.
pub const STATUS_UNWELL: u8 = 1;

/// UDP payload of a heartbeat, 32 bytes; multi-byte fields in network order.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Heartbeat {
    /// [`MAGIC`].
    pub magic: [u8; 4],
    /// [`VERSION`].
    pub version: u8,
    /// [`REQUEST`] or [`REPLY`].
    pub kind: u8,
    /// 0 in a request; [`STATUS_OK`] or [`STATUS_UNWELL`] in a reply.
    pub status: u8,
    /// Zero.
    pub reserved: u8,
    /// Round in which the request was sent, as given by the prober.
    pub round: [u8; 8],
    /// Unpredictable value of the prober, echoed.
    pub nonce: [u8; 8],
    /// Prober's index of the target, echoed.
    pub target: [u8; 8],
}

impl Heartbeat {
    /// A request of `round` to `target`.
    #[must_use]
    pub const fn request(round: u64, nonce: u64, target: u64) -> Self {
        Self {
            magic: MAGIC,
            version: VERSION,
            kind: REQUEST,
            status: 0,
            reserved: 0,
            round: round.to_be_bytes(),
            nonce: nonce.to_be_bytes(),
            target: target.to_be_bytes(),
        }
    }
}
