//! Counters: one block of slots per CPU, in one memory-mapped array.
//!
//! Slot of a block: reasons first ([`REASON_SLOTS`](super::limits::REASON_SLOTS)), then services, then backends. The
//! element's index is `cpu * Root::counter_stride + slot`, so only one CPU ever writes an element and plain additions
//! are enough.

use super::{limits::REASON_SLOTS, reason::Reason};

/// One element of the `COUNTERS` map, 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets; for services and backends the forwarded ones.
    pub packets: u64,
    /// Bytes of those packets as they arrived, Ethernet header included.
    pub bytes: u64,
    /// Those packets that may open a flow (TCP SYN, every UDP datagram).
    pub opening: u64,
    /// Packets dropped after the service was known; 0 in reason and backend slots.
    pub dropped: u64,
}

/// Slot of a reason.
#[must_use]
pub const fn reason_slot(reason: Reason) -> u32 {
    reason as u32
}

/// Slot of a service.
#[must_use]
pub const fn service_slot(service: u32) -> u32 {
    REASON_SLOTS as u32 + service
}

/// Slot of a backend, behind `services` service slots.
#[must_use]
pub const fn backend_slot(services: u32, backend: u32) -> u32 {
    REASON_SLOTS as u32 + services + backend
}
