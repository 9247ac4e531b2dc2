//! What is told of each session: how it stands, and what is waited for.

use std::net::IpAddr;

use super::{BfdProber, Peer};
use crate::health::bfd::MULTIHOP_PORT;
use crate::health::bfd::packet::{Diagnostic, State};
use crate::health::bfd::session::{Cause, Remote, Settings};

/// Why it is no evidence for a while that a session is not up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Excuse {
    /// It never was up.
    First,
    /// The peer ended it because this host was silent.
    OwnSilence,
    /// The peer ended it right after it was silent itself: it stood still.
    PeerSilence,
}

impl Excuse {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "its first handshake",
            Self::OwnSilence => "this host was silent",
            Self::PeerSilence => "the peer stood still",
        }
    }
}

/// A session that is not up, which is no evidence yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Awaited {
    /// Why.
    pub excuse: Excuse,
    /// Until when, by `CLOCK_MONOTONIC`, if nothing more is heard.
    pub until_ns: u64,
}

/// A session at one moment. Moments are by `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    /// Index into [`Targets::targets`](crate::health::target::Targets::targets).
    pub target: usize,
    /// The peer.
    pub address: IpAddr,
    /// Over several hops.
    pub multihop: bool,
    /// Its state.
    pub state: State,
    /// When it left its last state, or the session was made.
    pub since_ns: u64,
    /// Why it is not up; why it last was not, if it is.
    pub cause: Cause,
    /// What this side says of its last change.
    pub diagnostic: Diagnostic,
    /// What it is configured to.
    pub settings: Settings,
    /// What the peer said last of itself.
    pub remote: Option<Remote>,
    /// The interval at which this side sends, in microseconds, before jitter.
    pub tx_interval_us: u32,
    /// The interval at which the peer sends, in microseconds, before jitter.
    pub rx_interval_us: u32,
    /// How long the peer may be silent, in nanoseconds; none before it was heard.
    pub detection_ns: Option<u64>,
    /// How long this side may be silent, in nanoseconds.
    pub patience_ns: u64,
    /// When the peer was last heard; 0 if it never was.
    pub heard_ns: u64,
    /// Times that it was up and went down.
    pub flaps: u64,
    /// It is not up, and that is no evidence yet.
    pub awaited: Option<Awaited>,
}

impl BfdProber {
    /// All sessions as they are at `now_ns`, in the order of their checks and targets.
    pub fn reports(&self, now_ns: u64) -> impl Iterator<Item = Report> + '_ {
        self.peers.iter().map(move |peer| peer.report(now_ns))
    }
}

impl Peer {
    fn report(&self, now_ns: u64) -> Report {
        let session = &self.session;
        let awaited = |until_ns| Awaited { excuse: self.excuse, until_ns };
        Report {
            target: self.target,
            address: self.to.ip(),
            multihop: self.to.port() == MULTIHOP_PORT,
            state: session.state(),
            since_ns: self.since_ns,
            cause: session.cause(),
            diagnostic: session.diagnostic(),
            settings: session.settings(),
            remote: session.remote(),
            tx_interval_us: session.tx_interval_us(),
            rx_interval_us: session.rx_interval_us(),
            detection_ns: session.detection_ns(),
            patience_ns: session.patience_ns(),
            heard_ns: session.last_heard_ns(),
            flaps: self.flaps,
            awaited: self.awaited_until_ns(now_ns).map(awaited),
        }
    }
}
