//! Counters: one block of slots per CPU, in one memory-mapped array.
//!
//! Slot of a block: reasons first ([`REASON_SLOTS`](super::limits::REASON_SLOTS)), then notes
//! ([`NOTE_SLOTS`](super::limits::NOTE_SLOTS)), then services, then backends. The element's index is `cpu * Root::counter_stride + slot`, so only one CPU ever writes an element and plain additions
//! are enough.

use super::{
    limits::{NOTE_SLOTS, REASON_SLOTS},
    reason::Reason,
};

/// One element of the `COUNTERS` map, 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counter {
    /// Packets; for services and backends the forwarded ones.
    pub packets: u64,
    /// Bytes of those packets as they arrived, Ethernet header included.
    pub bytes: u64,
    /// Those packets that may open a flow: TCP SYN, SCTP INIT, QUIC Initial, every datagram of other UDP that is not sticky.
    pub opening: u64,
    /// Packets dropped after the service was known; 0 in reason and backend slots.
    pub dropped: u64,
}

/// Slot of a reason.
#[must_use]
pub const fn reason_slot(reason: Reason) -> u32 {
    reason as u32
}

/// Slot of a note.
#[must_use]
pub const fn note_slot(note: Note) -> u32 {
    REASON_SLOTS as u32 + note as u32
}

/// Slot of a service.
#[must_use]
pub const fn service_slot(service: u32) -> u32 {
    (REASON_SLOTS + NOTE_SLOTS) as u32 + service
}

/// Slot of a backend, behind `services` service slots.
#[must_use]
pub const fn backend_slot(services: u32, backend: u32) -> u32 {
    service_slot(services) + backend
}

macro_rules! notes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// What happened beside a packet's verdict. Notes are counted as packets, without bytes, and say nothing about the
        /// verdict. Numbers are append-only: a number is never given a new meaning.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Note {
            $($(#[$doc])* $name = $number,)*
        }

        impl Note {
            /// All notes in the order of their numbers.
            pub const ALL: &'static [Note] = &[$(Note::$name,)*];

            /// Name in CLI, API and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Note::$name => $text,)* }
            }
        }
    };
}

notes! {
    /// A flow was written into `OPENINGS`: it opened away from home, or in transition.
    OpeningRemembered = 0, "opening_remembered";
    /// A flow moved from `OPENINGS` to `FLOWS`, at the first packet after the one that opened it.
    FlowEstablished = 1, "flow_established";
    /// A flow that was not seen to open was written into `FLOWS`: it lives where its home was before a transition.
    FlowInserted = 2, "flow_inserted";
    /// A flow that was not seen to open was not written into `FLOWS`, as the limit of such was reached. It was
    /// forwarded all the same, and its next packet tries again.
    FlowInsertLimited = 3, "flow_insert_limited";
    /// An opening packet took the place of what an earlier flow with the same tuple had left in `FLOWS` or `OPENINGS`.
    FlowWiped = 4, "flow_wiped";
    /// The flow filter said that there may be an entry, but there was none.
    FlowMissed = 5, "flow_missed";
    /// A packet that another region relayed was taken out of its tunnel; what became of it is counted as for any packet.
    RelayArrived = 6, "relay_arrived";
}

const _: () = assert!(Note::ALL.len() <= NOTE_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_so_that_a_counter_slot_names_its_note() {
        for (number, note) in Note::ALL.iter().enumerate() {
            assert_eq!(*note as usize, number, "{note:?}");
        }
        assert_eq!(service_slot(0) as usize, REASON_SLOTS + NOTE_SLOTS);
    }
}
