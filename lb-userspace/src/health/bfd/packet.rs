//! The control packet (RFC 5880 section 4.1) and the checks on reception that need no session (section 6.8.6).

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Bytes of a packet without authentication.
pub const PACKET_BYTES: usize = 24;
/// The least that a packet with authentication has.
const AUTHENTICATED_BYTES: usize = 26;
const VERSION: u8 = 1;
const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATION: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

/// State of a session (section 4.1, `Sta`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
#[schemars(rename = "BfdState")]
pub enum State {
    /// Held down by an operator.
    AdminDown = 0,
    /// There is no session, or it was just made.
    Down = 1,
    /// The peer is heard and does not hear this side yet.
    Init = 2,
    /// Both sides hear each other.
    Up = 3,
}

impl State {
    /// All states, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    /// Name in CLI, API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AdminDown => "admin-down",
            Self::Down => "down",
            Self::Init => "init",
            Self::Up => "up",
        }
    }
}

/// Why the session left its last state (section 4.1, `Diag`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// Nothing to tell.
    pub const NONE: Self = Self(0);
    /// Control Detection Time Expired.
    pub const EXPIRED: Self = Self(1);
    /// Neighbor Signaled Session Down.
    pub const SIGNALED: Self = Self(3);
    /// Administratively Down.
    pub const ADMIN: Self = Self(7);

    /// In words, as section 4.1 has them.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "no diagnostic",
            1 => "control detection time expired",
            2 => "echo function failed",
            3 => "neighbor signaled session down",
            4 => "forwarding plane reset",
            5 => "path down",
            6 => "concatenated path down",
            7 => "administratively down",
            8 => "reverse concatenated path down",
            _ => "not assigned",
        }
    }
}

/// A control packet without authentication. Intervals are in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Packet {
    /// Why the sender's session left its last state.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// The sender wants an answer with `is_final`.
    pub poll: bool,
    /// This answers a `poll`.
    pub is_final: bool,
    /// The sender asks for silence while both sides are up.
    pub demand: bool,
    /// Packets of the sender that may be missed.
    pub multiplier: u8,
    /// The sender's number of the session; not 0.
    pub my_discriminator: u32,
    /// The number that the receiver gave the session, 0 if the sender does not know it.
    pub your_discriminator: u32,
    /// The shortest interval at which the sender wants to send.
    pub desired_min_tx_us: u32,
    /// The shortest interval at which the sender can take packets; 0 asks for none.
    pub required_min_rx_us: u32,
    /// The same for echo packets; 0 refuses them.
    pub required_min_echo_rx_us: u32,
}

/// Why a packet was discarded, in the order in which it is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Discard {
    /// It came over a router, or pretends not to (RFC 5881 section 5).
    Ttl,
    /// Another version.
    Version,
    /// Shorter than a packet can be, or than it says.
    Length,
    /// A multiplier of 0.
    Multiplier,
    /// The multipoint bit.
    Multipoint,
    /// The sender has no number for the session.
    MyDiscriminator,
    /// No session has the number that it says, or comes from where it came from.
    NoSession,
    /// It does not know the session's number, and yet claims to be past the beginning.
    State,
    /// It carries authentication, which no session uses.
    Authentication,
}

impl Discard {
    /// All reasons, in their order.
    pub const ALL: [Self; 9] = [
        Self::Ttl,
        Self::Version,
        Self::Length,
        Self::Multiplier,
        Self::Multipoint,
        Self::MyDiscriminator,
        Self::NoSession,
        Self::State,
        Self::Authentication,
    ];

    /// Name of its counter.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ttl => "ttl",
            Self::Version => "version",
            Self::Length => "length",
            Self::Multiplier => "multiplier",
            Self::Multipoint => "multipoint",
            Self::MyDiscriminator => "my_discriminator",
            Self::NoSession => "no_session",
            Self::State => "state",
            Self::Authentication => "authentication",
        }
    }
}

/// Finds the session of a datagram, or says why the datagram is discarded: section 6.8.6 up to authentication, in its
/// order. `by_discriminator` finds a session by its own number, `by_source` by where the datagram came from.
///
/// # Errors
/// The first reason to discard it.
pub fn admit<S>(
    datagram: &[u8],
    by_discriminator: impl FnOnce(u32) -> Option<S>,
    by_source: impl FnOnce() -> Option<S>,
) -> Result<(S, Packet), Discard> {
    let first = datagram.first().ok_or(Discard::Length)?;
    if first >> 5 != VERSION {
        return Err(Discard::Version);
    }
    let Some(header) = datagram.first_chunk::<PACKET_BYTES>() else {
        return Err(Discard::Length);
    };
    let flags = header[1];
    let length = usize::from(header[3]);
    let least = if flags & AUTHENTICATION == 0 { PACKET_BYTES } else { AUTHENTICATED_BYTES };
    if length < least || length > datagram.len() {
        return Err(Discard::Length);
    }
    if header[2] == 0 {
        return Err(Discard::Multiplier);
    }
    if flags & MULTIPOINT != 0 {
        return Err(Discard::Multipoint);
    }
    let packet = Packet::read(header);
    if packet.my_discriminator == 0 {
        return Err(Discard::MyDiscriminator);
    }
    let session = if packet.your_discriminator != 0 {
        by_discriminator(packet.your_discriminator).ok_or(Discard::NoSession)?
    } else if matches!(packet.state, State::Down | State::AdminDown) {
        by_source().ok_or(Discard::NoSession)?
    } else {
        return Err(Discard::State);
    };
    if flags & AUTHENTICATION != 0 {
        return Err(Discard::Authentication);
    }
    Ok((session, packet))
}

impl Packet {
    /// The packet as it is sent.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; PACKET_BYTES] {
        let flag = |set: bool, bit: u8| if set { bit } else { 0 };
        let flags = (self.state as u8) << 6
            | flag(self.poll, POLL)
            | flag(self.is_final, FINAL)
            | flag(self.demand, DEMAND);
        let mut bytes = [0; PACKET_BYTES];
        bytes[..4].copy_from_slice(&[
            VERSION << 5 | self.diagnostic.0 & 0x1f,
            flags,
            self.multiplier,
            PACKET_BYTES as u8,
        ]);
        let words = [
            self.my_discriminator,
            self.your_discriminator,
            self.desired_min_tx_us,
            self.required_min_rx_us,
            self.required_min_echo_rx_us,
        ];
        for (place, word) in bytes[4..].chunks_exact_mut(4).zip(words) {
            place.copy_from_slice(&word.to_be_bytes());
        }
        bytes
    }

    fn read(bytes: &[u8; PACKET_BYTES]) -> Self {
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let flag = |bit: u8| bytes[1] & bit != 0;
        Self {
            diagnostic: Diagnostic(bytes[0] & 0x1f),
            state: State::ALL[usize::from(bytes[1] >> 6)],
            poll: flag(POLL),
            is_final: flag(FINAL),
            demand: flag(DEMAND),
            multiplier: bytes[2],
            my_discriminator: word(4),
            your_discriminator: word(8),
            desired_min_tx_us: word(12),
            required_min_rx_us: word(16),
            required_min_echo_rx_us: word(20),
        }
    }
}

#[cfg(test)]
#[path = "packet_tests.rs"]
mod tests;
