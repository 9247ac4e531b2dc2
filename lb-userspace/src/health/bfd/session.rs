//! The state machine of one session (RFC 5880 section 6.8). Pure: moments and packets go in, packets and changes come out.

use super::packet::{Diagnostic, Packet, State};
use crate::health::ticks::Dice;

/// A session that is not up sends no faster than this (section 6.8.3).
pub const SLOW_TX_US: u32 = 1_000_000;
/// Handshakes that may be quick one right behind the other. After those there is one for each [`SLOW_TX_US`].
pub const QUICK_HANDSHAKES: u64 = 4;
const NS_PER_US: u64 = 1_000;
const SLOW_TX_NS: u64 = SLOW_TX_US as u64 * NS_PER_US;

/// What a session is configured to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settings {
    /// This side's number of the session: unique on this host, not 0.
    pub discriminator: u32,
    /// The shortest interval at which this side wants to send.
    pub desired_min_tx_us: u32,
    /// The shortest interval at which this side takes packets.
    pub required_min_rx_us: u32,
    /// Packets of this side that the peer may miss.
    pub multiplier: u8,
    /// Does not send before the peer was heard (section 6.1).
    pub passive: bool,
}

/// Why a session is not up.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Cause {
    /// It never was.
    Never,
    /// Nothing was heard for the detection time.
    Expired,
    /// The peer said that it is down.
    Signaled,
    /// The peer said that an operator holds it down.
    AdminDown,
    /// An operator of this side holds it down.
    LocalAdminDown,
}

/// What came out of an event.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Step {
    /// To be sent now.
    pub send: Option<Packet>,
    /// The state is another one now.
    pub changed: bool,
}

/// What the peer said last (section 6.8.1, `bfd.Remote*`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Remote {
    /// Its number of the session; 0 if that is not known.
    pub discriminator: u32,
    /// Its state.
    pub state: State,
    /// Why it left its last state.
    pub diagnostic: Diagnostic,
    /// The shortest interval at which it takes packets, in microseconds.
    pub min_rx_us: u32,
    /// The shortest interval at which it wants to send, in microseconds.
    pub min_tx_us: u32,
    /// Packets of it that may be missed.
    pub multiplier: u8,
    /// It asks for silence while both sides are up.
    pub demand: bool,
}

impl Remote {
    /// As nothing is known of it (section 6.8.1).
    const UNKNOWN: Self = Self {
        discriminator: 0,
        state: State::Down,
        diagnostic: Diagnostic::NONE,
        min_rx_us: 1,
        min_tx_us: 0,
        multiplier: 0,
        demand: false,
    };
}

/// See the [module's description](self).
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    state: State,
    diagnostic: Diagnostic,
    cause: Cause,
    remote: Remote,
    /// A poll sequence runs (section 6.5).
    poll: bool,
    /// What was announced before the poll sequence and stays in force until its end (section 6.8.3).
    tx_before_poll_us: Option<u32>,
    rx_before_poll_us: Option<u32>,
    last_heard_ns: u64,
    /// When the peer counts as gone; none while nothing is expected of it.
    detect_ns: Option<u64>,
    next_tx_ns: u64,
    /// The handshake that runs, or that comes next, polls.
    is_quick: bool,
    /// When all quick handshakes so far are paid for, at one each [`SLOW_TX_US`].
    quick_paid_ns: u64,
    dice: Dice,
}

impl Session {
    /// A session that begins at `now_ns`; `seed` spreads its packets over time.
    #[must_use]
    pub fn new(settings: Settings, now_ns: u64, seed: u64) -> Self {
        let mut dice = Dice::new(seed);
        // All sessions of a host begin at once: they spread over the first interval.
        let next_tx_ns = now_ns + dice.below(SLOW_TX_NS / 4);
        let mut new = Self {
            settings,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            cause: Cause::Never,
            remote: Remote::UNKNOWN,
            poll: false,
            tx_before_poll_us: None,
            rx_before_poll_us: None,
            last_heard_ns: 0,
            detect_ns: None,
            next_tx_ns,
            is_quick: false,
            quick_paid_ns: 0,
            dice,
        };
        new.begin(now_ns);
        new
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// Why it is not up; why it last was not, if it is.
    #[must_use]
    pub const fn cause(&self) -> Cause {
        self.cause
    }

    /// What was given as the reason of the last change.
    #[must_use]
    pub const fn diagnostic(&self) -> Diagnostic {
        self.diagnostic
    }

    /// What it is configured to.
    #[must_use]
    pub const fn settings(&self) -> Settings {
        self.settings
    }

    /// What the peer said last of itself; `None` if nothing is known of it, be it that it was forgotten.
    #[must_use]
    pub fn remote(&self) -> Option<Remote> {
        (self.remote.discriminator != 0).then_some(self.remote)
    }

    /// When the last packet that was taken came.
    #[must_use]
    pub const fn last_heard_ns(&self) -> u64 {
        self.last_heard_ns
    }

    /// When something is to be done next; `u64::MAX` if only a packet can change anything.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        let sends = if self.is_periodic() { self.next_tx_ns } else { u64::MAX };
        sends.min(self.detect_ns.unwrap_or(u64::MAX))
    }

    /// When the peer counts as gone, if nothing is heard before; none while that would change nothing.
    #[must_use]
    pub fn expires_ns(&self) -> Option<u64> {
        self.detect_ns.filter(|_| matches!(self.state, State::Init | State::Up))
    }

    /// Says anew when the peer counts as gone: this side was not there to hear it, or is sure by now.
    pub fn expires_at(&mut self, at_ns: u64) {
        self.detect_ns = self.detect_ns.map(|_| at_ns);
    }

    /// How long this side may be silent until the peer counts it as gone (section 6.8.4), in nanoseconds.
    #[must_use]
    pub fn patience_ns(&self) -> u64 {
        u64::from(self.settings.multiplier) * u64::from(self.tx_interval_us()) * NS_PER_US
    }

    /// The interval of transmission, before jitter (section 6.8.2): the larger of what this side wants and the peer takes.
    #[must_use]
    pub fn tx_interval_us(&self) -> u32 {
        // While a poll sequence tells of a longer one, the shorter one stays in force.
        let desired_us = self.tx_before_poll_us.unwrap_or_else(|| self.desired_min_tx_us());
        desired_us.max(self.remote.min_rx_us)
    }

    /// The interval at which the peer sends, before jitter (section 6.8.4): the larger of what it wants and this side takes.
    #[must_use]
    pub fn rx_interval_us(&self) -> u32 {
        let required_us = self.rx_before_poll_us.unwrap_or(self.settings.required_min_rx_us);
        required_us.max(self.remote.min_tx_us)
    }

    /// How long the peer may be silent (section 6.8.4), in nanoseconds; none before it was heard.
    #[must_use]
    pub fn detection_ns(&self) -> Option<u64> {
        (self.remote.multiplier != 0)
            .then(|| u64::from(self.remote.multiplier) * u64::from(self.rx_interval_us()) * NS_PER_US)
    }

    /// Takes a packet that [`admit`](super::packet::admit) found to be this session's: the rest of section 6.8.6.
    pub fn receive(&mut self, packet: &Packet, now_ns: u64) -> Step {
        let tx_before_us = self.tx_interval_us();
        self.remote = Remote {
            discriminator: packet.my_discriminator,
            state: packet.state,
            diagnostic: packet.diagnostic,
            min_rx_us: packet.required_min_rx_us,
            min_tx_us: packet.desired_min_tx_us,
            multiplier: packet.multiplier,
            demand: packet.demand,
        };
        if self.poll && packet.is_final {
            self.poll = false;
            self.tx_before_poll_us = None;
            self.rx_before_poll_us = None;
        }
        if self.state == State::AdminDown {
            return Step::default();
        }
        self.last_heard_ns = now_ns;
        let before = self.state;
        self.follow(packet.state, now_ns);
        self.detect_ns = self.detection_ns().map(|detection_ns| now_ns.saturating_add(detection_ns));
        let changed = self.state != before;
        if self.tx_interval_us() < tx_before_us {
            // A shorter interval is in force at once.
            self.next_tx_ns = self.next_tx_ns.min(now_ns.saturating_add(self.jittered_ns()));
        }
        let send = if packet.poll {
            Some(self.packet(true))
        } else if changed && self.remote.min_rx_us != 0 {
            // What it says differs from what was said before, so it is not kept for the next interval (section 6.8.7).
            self.next_tx_ns = now_ns.saturating_add(self.jittered_ns());
            Some(self.packet(false))
        } else {
            None
        };
        Step { send, changed }
    }

    /// Does what is due at `now_ns`: declares the peer gone, or sends.
    pub fn tick(&mut self, now_ns: u64) -> Step {
        let mut step = Step::default();
        if self.detect_ns.is_some_and(|detect_ns| detect_ns <= now_ns) {
            self.detect_ns = None;
            if matches!(self.state, State::Init | State::Up) {
                self.go_down(Diagnostic::EXPIRED, Cause::Expired, now_ns);
                step.changed = true;
            }
            // What was known of the peer is forgotten (section 6.8.1, bfd.RemoteDiscr).
            self.remote = Remote { min_tx_us: self.remote.min_tx_us, ..Remote::UNKNOWN };
        }
        if self.is_periodic() && (step.changed || self.next_tx_ns <= now_ns) {
            step.send = Some(self.packet(false));
            self.next_tx_ns = now_ns.saturating_add(self.jittered_ns());
        }
        step
    }

    /// Holds the session down, or lets it go (section 6.8.16).
    pub fn hold_down(&mut self, held: bool, now_ns: u64) -> Step {
        let before = self.state;
        if held {
            self.go_down(Diagnostic::ADMIN, Cause::LocalAdminDown, now_ns);
            self.state = State::AdminDown;
            self.poll = false;
            self.detect_ns = None;
        } else if before == State::AdminDown {
            self.state = State::Down;
            self.remote = Remote::UNKNOWN;
            self.begin(now_ns);
        }
        let changed = self.state != before;
        let send = (changed && self.is_periodic()).then(|| self.packet(false));
        if send.is_some() {
            self.next_tx_ns = now_ns.saturating_add(self.jittered_ns());
        }
        Step { send, changed }
    }

    /// Goes on with other settings. The number of the session stays, or the peer would not know it any more.
    pub fn configure(&mut self, settings: Settings) {
        self.poll |= self.state == State::Up && settings.multiplier != self.settings.multiplier;
        self.settings.multiplier = settings.multiplier;
        self.settings.passive = settings.passive;
        self.change_intervals(settings.desired_min_tx_us, settings.required_min_rx_us);
    }

    /// Changes the intervals while the session runs; a poll sequence tells the peer (section 6.8.3).
    pub fn change_intervals(&mut self, desired_min_tx_us: u32, required_min_rx_us: u32) {
        let up = self.state == State::Up;
        let before = self.settings;
        self.settings.desired_min_tx_us = desired_min_tx_us;
        self.settings.required_min_rx_us = required_min_rx_us;
        if before == self.settings {
            return;
        }
        if up && desired_min_tx_us > before.desired_min_tx_us {
            self.tx_before_poll_us.get_or_insert(before.desired_min_tx_us);
        }
        if up && required_min_rx_us < before.required_min_rx_us {
            self.rx_before_poll_us.get_or_insert(before.required_min_rx_us);
        }
        self.poll |= up;
    }

    /// The transition table of section 6.2 as section 6.8.6 spells it out.
    fn follow(&mut self, remote: State, now_ns: u64) {
        match (self.state, remote) {
            (State::Init | State::Up, State::AdminDown) => {
                self.go_down(Diagnostic::SIGNALED, Cause::AdminDown, now_ns);
            }
            (State::Down, State::AdminDown) => self.cause = Cause::AdminDown,
            (State::Down, State::Down) => {
                self.state = State::Init;
                // A peer that keeps a change of its state until its next packet answers this at once.
                self.poll = self.is_quick;
            }
            (State::Down, State::Init) | (State::Init, State::Init | State::Up) => {
                self.state = State::Up;
                self.diagnostic = Diagnostic::NONE;
                // From here on packets go out as configured, which the peer is told (section 6.8.3).
                self.poll = true;
            }
            (State::Up, State::Down) => self.go_down(Diagnostic::SIGNALED, Cause::Signaled, now_ns),
            (State::Down | State::Up, State::Up)
            | (State::Init, State::Down)
            | (State::Up, State::Init)
            | (State::AdminDown, _) => {}
        }
    }

    fn go_down(&mut self, diagnostic: Diagnostic, cause: Cause, now_ns: u64) {
        self.state = State::Down;
        self.diagnostic = diagnostic;
        self.cause = cause;
        // The slow interval is in force at once: only sessions that are up keep the old one until the poll sequence has ended.
        self.tx_before_poll_us = None;
        self.rx_before_poll_us = None;
        self.begin(now_ns);
    }

    /// Begins to come up. The interval is another one now, so a poll sequence tells the peer (section 6.8.3). A poll is answered at once
    /// in whatever state the peer is (section 6.8.7), hence both are up again a few packets later, and not when the peer's next packet is
    /// due, up to a second away. The slow interval also bounds how often a session can come up and go down again; so that this stays so, no
    /// more than [`QUICK_HANDSHAKES`] in a row poll.
    fn begin(&mut self, now_ns: u64) {
        self.is_quick = self.quick_paid_ns <= now_ns.saturating_add((QUICK_HANDSHAKES - 1) * SLOW_TX_NS);
        self.poll = self.is_quick;
        if self.is_quick {
            self.quick_paid_ns = self.quick_paid_ns.max(now_ns) + SLOW_TX_NS;
        }
    }

    /// What is announced: never fast before the session is up (section 6.8.3).
    fn desired_min_tx_us(&self) -> u32 {
        let desired_us = self.settings.desired_min_tx_us;
        if self.state == State::Up { desired_us } else { desired_us.max(SLOW_TX_US) }
    }

    /// Whether packets go out by themselves (section 6.8.7).
    fn is_periodic(&self) -> bool {
        let waits = self.settings.passive && self.remote.discriminator == 0;
        let is_demanded =
            self.remote.demand && self.state == State::Up && self.remote.state == State::Up && !self.poll;
        !waits && !is_demanded && self.remote.min_rx_us != 0
    }

    /// The time until the next packet: the interval less 0 to 25 percent, or 10 to 25 with a multiplier of 1, so that one
    /// late packet is not a failure (section 6.8.7).
    fn jittered_ns(&mut self) -> u64 {
        let interval_ns = u64::from(self.tx_interval_us()) * NS_PER_US;
        let (least, most) = if self.settings.multiplier == 1 { (10, 25) } else { (0, 25) };
        let percent_ns = interval_ns / 100;
        interval_ns - percent_ns * least - self.dice.below(percent_ns * (most - least))
    }

    fn packet(&self, is_final: bool) -> Packet {
        Packet {
            diagnostic: self.diagnostic,
            state: self.state,
            poll: self.poll && !is_final,
            is_final,
            demand: false,
            multiplier: self.settings.multiplier,
            my_discriminator: self.settings.discriminator,
            your_discriminator: self.remote.discriminator,
            desired_min_tx_us: self.desired_min_tx_us(),
            required_min_rx_us: self.settings.required_min_rx_us,
            required_min_echo_rx_us: 0,
        }
    }
}

impl Cause {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Never => "it never came up",
            Self::Expired => "detection time expired",
            Self::Signaled => "the peer said so",
            Self::AdminDown => "the peer is administratively down",
            Self::LocalAdminDown => "administratively down here",
        }
    }

    /// Whether it was the peer that said so, which proves this host's connection.
    #[must_use]
    pub const fn is_answer(self) -> bool {
        matches!(self, Self::Signaled | Self::AdminDown)
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
