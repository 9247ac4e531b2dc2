//! What is counted of BFD sessions.

use std::collections::BTreeMap;

use crate::health::bfd::packet::Discard;

/// Counters since start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, serde::Serialize)]
pub struct BfdStatus {
    /// Packets sent.
    pub sent: u64,
    /// Packets that could not be sent.
    pub send_errors: u64,
    /// Packets taken.
    pub taken: u64,
    /// Packets with a session's number that came from elsewhere.
    pub foreign: u64,
    /// Sessions that peers ended because this side was silent for too long.
    pub own_silence: u64,
    /// Sessions that peers ended for that reason, but right after they had been silent themselves: they stood still.
    pub peer_silence: u64,
    /// Packets discarded, in the order of [`Discard::ALL`].
    pub discarded: [u64; Discard::ALL.len()],
}

impl BfdStatus {
    /// The counters that counted something, by name.
    #[must_use]
    pub fn counters(&self) -> BTreeMap<String, u64> {
        let discarded = Discard::ALL.iter().zip(self.discarded).map(|(why, count)| (why.name(), count));
        let named = [
            ("sent", self.sent),
            ("send_errors", self.send_errors),
            ("taken", self.taken),
            ("foreign", self.foreign),
            ("own_silence", self.own_silence),
            ("peer_silence", self.peer_silence),
        ];
        let all = named.into_iter().chain(discarded).filter(|(_, count)| *count > 0);
        all.map(|(name, count)| (name.to_owned(), count)).collect()
    }
}
