//! From the sessions of one configuration to those of the next, without a flap.
//!
//! Both ports of BFD, and with them all sessions, belong to one prober of the process: the holder. A reload starts a second control thread
//! beside the first one; its prober waits. When the first thread ends, the holder leaves its sockets and sessions behind, and who waits takes over those
//! that it has too, as they are: neither side's state changes, and new intervals are told by a poll sequence. What is not wanted any more is told that
//! this side goes, and what is new begins. Until then the first thread goes on to watch, and is believed.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{
    BfdError, BfdProber, Excuse, FIRST_HANDSHAKE, Kind, Listener, Peer, Reverse, Settings, as_ns,
    monotonic_ns,
};
use crate::health::bfd::MULTIHOP_PORT;
use crate::health::bfd::packet::Packet;
use crate::health::bfd::session::Session;
use crate::health::prober::bfd::BfdStatus;

/// Between two looks whether there is something to take over: less than the shortest detection time.
const LOOK_NS: u64 = 1_000_000;

/// Whose the sessions are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Tenure {
    /// Nobody else can have them: there are none, or it is a test.
    Own,
    /// This prober's.
    Holder,
    /// Another one's still.
    Waiting {
        /// Who waits, of those that ever did.
        number: u64,
        /// When to look next.
        look_ns: u64,
    },
}

/// What a holder leaves behind.
#[derive(Debug, Default)]
pub(super) struct Left {
    listeners: Vec<Listener>,
    peers: Vec<Peer>,
    status: BfdStatus,
}

/// Who has the sessions of this process, and who waits for them.
#[derive(Debug, Default)]
struct Estate {
    is_held: bool,
    /// What the holder listens to, or did.
    kinds: Vec<Kind>,
    /// Who waits, in the order in which they began to; more than one only for moments.
    heirs: Vec<u64>,
    /// Heirs so far.
    count: u64,
    left: Option<Left>,
}

static ESTATE: Mutex<Estate> =
    Mutex::new(Estate { is_held: false, kinds: Vec::new(), heirs: Vec::new(), count: 0, left: None });

fn estate() -> MutexGuard<'static, Estate> {
    ESTATE.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Estate {
    /// Somebody comes: he is the holder, or waits under this number.
    fn enter(&mut self, kinds: Vec<Kind>) -> Option<u64> {
        if self.is_held || !self.heirs.is_empty() {
            self.count += 1;
            self.heirs.push(self.count);
            return Some(self.count);
        }
        (self.is_held, self.kinds) = (true, kinds);
        None
    }

    /// Who waits becomes the holder, if it is his turn; what was left to him.
    fn take(&mut self, number: u64, kinds: Vec<Kind>) -> Option<Left> {
        if self.is_held || self.heirs.first() != Some(&number) {
            return None;
        }
        self.heirs.remove(0);
        (self.is_held, self.kinds) = (true, kinds);
        Some(self.left.take().unwrap_or_default())
    }

    /// Somebody goes. Returns what nobody waits for.
    fn leave(&mut self, tenure: Tenure, left: Left) -> Option<Left> {
        match tenure {
            Tenure::Own => return Some(left),
            Tenure::Holder => (self.is_held, self.left) = (false, Some(left)),
            Tenure::Waiting { number, .. } => self.heirs.retain(|&heir| heir != number),
        }
        if self.heirs.is_empty() { self.left.take() } else { None }
    }
}

impl BfdProber {
    /// Becomes the holder, or waits for what the holder leaves behind. What the holder does not listen to is opened at once, so that a
    /// port that somebody else has is found out before anything depends on it.
    pub(super) fn enter(&mut self) -> Result<(), BfdError> {
        let mut estate = estate();
        let has = if estate.is_held || !estate.heirs.is_empty() { estate.kinds.clone() } else { Vec::new() };
        self.listen(&has)?;
        self.tenure = match estate.enter(self.kinds()) {
            None => Tenure::Holder,
            Some(number) => Tenure::Waiting { number, look_ns: monotonic_ns() + LOOK_NS },
        };
        Ok(())
    }

    /// Whether another prober has the sessions still: nothing is known of them here.
    #[must_use]
    pub const fn is_waiting(&self) -> bool {
        matches!(self.tenure, Tenure::Waiting { .. })
    }

    /// Takes over what the holder left behind, if it did. Returns whether that was now: then there are [sockets](Self::sockets) to wait for.
    pub fn take_over(&mut self, now_ns: u64) -> bool {
        let Tenure::Waiting { number, look_ns } = self.tenure else { return false };
        if look_ns > now_ns {
            return false;
        }
        let left = estate().take(number, self.kinds());
        let Some(left) = left else {
            self.tenure = Tenure::Waiting { number, look_ns: now_ns + LOOK_NS };
            return false;
        };
        self.tenure = Tenure::Holder;
        self.inherit(left, now_ns);
        true
    }

    /// Goes on with the sessions that it has too, ends the others, and begins what is new.
    fn inherit(&mut self, left: Left, now_ns: u64) {
        self.status = left.status;
        let kinds = self.kinds();
        self.listeners.extend(left.listeners.into_iter().filter(|listener| kinds.contains(&listener.kind)));
        let has: Vec<_> = self.listeners.iter().map(|listener| listener.kind).collect();
        // There is nothing left to open, unless another one had them in between who did not want all.
        let _ = self.listen(&has);
        let mut old: HashMap<_, _> = left.peers.into_iter().map(|peer| (peer.key(), peer)).collect();
        self.by_discriminator.clear();
        let mut fresh = Vec::new();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            match old.remove(&peer.key()) {
                Some(before) if before.local == peer.local => {
                    let (target, pace, settings) = (peer.target, peer.pace, peer.session.settings());
                    *peer = Peer { target, pace, hold: None, ..before };
                    peer.session.configure(settings);
                    self.by_discriminator.insert(peer.session.settings().discriminator, index);
                }
                before => {
                    old.extend(before.map(|before| (before.key(), before)));
                    fresh.push(index);
                }
            }
        }
        for index in fresh {
            let settings = Settings {
                discriminator: self.new_discriminator(index),
                ..self.peers[index].session.settings()
            };
            self.peers[index].begin(settings, now_ns);
        }
        old.into_values().for_each(|mut peer| self.dismiss(&mut peer, now_ns));
        self.timers.clear();
        for (index, peer) in self.peers.iter_mut().enumerate() {
            peer.timer_ns = peer.session.next_ns();
            self.timers.push(Reverse((peer.timer_ns, index)));
        }
        self.paces.iter_mut().for_each(|pace| pace.next_ns = now_ns);
    }

    /// Tells a peer that this side goes, so that it does not take it for a failure.
    fn dismiss(&mut self, peer: &mut Peer, now_ns: u64) {
        if let Some(packet) = peer.session.hold_down(true, now_ns).send {
            let sent = peer.send(&packet);
            self.status.sent += u64::from(sent);
            self.status.send_errors += u64::from(!sent);
        }
    }

    /// All that somebody else may go on with.
    fn leave(&mut self) -> Left {
        Left {
            listeners: std::mem::take(&mut self.listeners),
            peers: std::mem::take(&mut self.peers),
            status: self.status,
        }
    }

    /// Tells all of these peers that this side goes.
    fn dismiss_all(&mut self, peers: Vec<Peer>) {
        let now_ns = monotonic_ns();
        peers.into_iter().for_each(|mut peer| self.dismiss(&mut peer, now_ns));
    }
}

impl Peer {
    /// What its packets are known by.
    fn key(&self) -> (bool, IpAddr) {
        (self.to.port() == MULTIHOP_PORT, self.to.ip())
    }

    pub(super) fn send(&self, packet: &Packet) -> bool {
        self.socket.send_to(&packet.to_bytes(), self.to).is_ok()
    }

    /// As if it were made at `now_ns`.
    fn begin(&mut self, settings: Settings, now_ns: u64) {
        self.session = Session::new(settings, now_ns, u64::from(settings.discriminator) ^ now_ns);
        (self.changed_ns, self.since_ns, self.last_sent_ns) = (now_ns, now_ns, now_ns);
        (self.excused_ns, self.excuse) = (now_ns + as_ns(FIRST_HANDSHAKE), Excuse::First);
    }
}

impl Drop for BfdProber {
    /// Leaves the sessions to who waits for them; else tells the peers that this side goes.
    fn drop(&mut self) {
        let left = self.leave();
        if let Some(left) = estate().leave(self.tenure, left) {
            self.dismiss_all(left.peers);
        }
    }
}

#[cfg(test)]
#[path = "handover_tests.rs"]
mod tests;
