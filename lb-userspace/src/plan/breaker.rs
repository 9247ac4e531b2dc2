//! The breaker of one backend or domain, expressed in admission bytes. Pure.
//!
//! ```text
//!                    DOWN
//!   closed ------------------------> open (0, 0)
//!   (255, 255)  SUSPECT: (0, 255)      |  UP, and it did not flap too often
//!     ^                                v
//!     |  ramped up                 half-open (x, 255) --- SUSPECT, DOWN ---> open
//!     +----------------------------- ramp (x.., 255) ---- SUSPECT, DOWN ---> open
//! ```
//! Flap damping is that of routes (RFC 2439 section 4.2): each failure adds a penalty that decays by half in a half-life. Above
//! one bound what has recovered stays open, until the penalty has decayed below another one.

use super::ramp::Pace;
use super::state::State;

/// What one failure adds to the penalty.
pub const PENALTY: f64 = 1000.0;
/// With this penalty or more, what recovers is held: four failures in a short time.
pub const SUPPRESS: f64 = 3000.0;
/// Below this it is let go.
pub const REUSE: f64 = 1500.0;
/// The penalty never grows beyond this, so that nothing is held for more than three half-lives.
pub const CEILING: f64 = 12_000.0;

/// What a breaker is configured to.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Settings {
    /// How it comes back.
    pub pace: Pace,
    /// After which time the penalty of failures has halved, in nanoseconds; 0 switches damping off.
    pub half_life_ns: u64,
}

/// What damping remembers of failures.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Damping {
    /// The penalty now: [`PENALTY`] for each failure, halved in each half-life.
    pub penalty: f64,
    /// Whether what has recovered is held because of it.
    pub suppressed: bool,
    /// Until when it is held.
    pub until_ns: Option<u64>,
}

/// See the [module's description](self).
#[derive(Clone, Debug)]
pub struct Breaker {
    settings: Settings,
    /// What health says.
    health: State,
    /// Since when it comes back; none if it does not.
    since_ns: Option<u64>,
    penalty: f64,
    /// When the penalty was that.
    penalty_ns: u64,
    /// It has recovered, and is held until the penalty has decayed.
    suppressed: bool,
    share: u8,
    next_ns: Option<u64>,
}

impl Breaker {
    /// A breaker of something that is believed to be in this state.
    #[must_use]
    pub const fn new(settings: Settings, health: State) -> Self {
        Self {
            settings,
            health,
            since_ns: None,
            penalty: 0.0,
            penalty_ns: 0,
            suppressed: false,
            share: u8::MAX,
            next_ns: None,
        }
    }

    /// What health says: [`State::Up`], [`State::Suspect`] or [`State::Down`].
    #[must_use]
    pub const fn health(&self) -> State {
        self.health
    }

    /// The state that follows from it.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.health {
            State::Up | State::Suspect if self.suppressed => State::Down,
            State::Up if self.since_ns.is_some() => State::Ramp,
            state => state,
        }
    }

    /// The shares of new and of established flows.
    #[must_use]
    pub const fn shares(&self) -> (u8, u8) {
        match self.state() {
            State::Ramp => (self.share, u8::MAX),
            state => state.shares(),
        }
    }

    /// When [`tick`](Self::tick) has something to do; none if only health can change anything.
    #[must_use]
    pub const fn next_ns(&self) -> Option<u64> {
        self.next_ns
    }

    /// Takes in what health says at `now_ns`.
    pub fn observe(&mut self, health: State, now_ns: u64) {
        let was_out = self.health == State::Down;
        let failed = health == State::Down && self.health != State::Down;
        self.health = health;
        if failed {
            self.penalty = (self.penalty_at(now_ns) + PENALTY).min(CEILING);
            self.penalty_ns = now_ns;
        }
        match health {
            State::Up if self.since_ns.is_some() || self.suppressed => {}
            // A suspicion that was not confirmed leaves everything as it was; what was out comes back slowly.
            State::Up if !was_out => self.next_ns = None,
            State::Up if self.settings.half_life_ns > 0 && self.penalty_at(now_ns) >= SUPPRESS => {
                self.suppressed = true;
            }
            State::Up => self.begin(now_ns),
            State::Suspect if self.since_ns.is_some() => {
                // What comes back and is suspect again begins from the start.
                self.since_ns = Some(now_ns);
                self.next_ns = None;
            }
            State::Suspect => {}
            // What is held stays held: to fail once more is no way to be let go earlier.
            State::Down | State::Draining | State::Ramp => {
                self.since_ns = None;
                self.next_ns = None;
            }
        }
        self.tick(now_ns);
    }

    /// Does what is due at `now_ns`.
    pub fn tick(&mut self, now_ns: u64) {
        if self.suppressed {
            if self.penalty_at(now_ns) >= REUSE {
                self.next_ns = Some(self.reuse_ns().max(now_ns + 1));
                return;
            }
            self.suppressed = false;
            self.next_ns = None;
            if self.health != State::Down {
                self.begin(now_ns);
            }
        }
        let (State::Up, Some(since_ns)) = (self.health, self.since_ns) else { return };
        (self.share, self.next_ns) = self.settings.pace.share(since_ns, now_ns);
        if self.share == u8::MAX {
            (self.since_ns, self.next_ns) = (None, None);
        }
    }

    /// What damping remembers; none if nothing.
    #[must_use]
    pub fn damping(&self, now_ns: u64) -> Option<Damping> {
        let penalty = self.penalty_at(now_ns);
        let until_ns = self.suppressed.then(|| self.reuse_ns());
        (penalty >= 1.0 || self.suppressed).then_some(Damping {
            penalty,
            suppressed: self.suppressed,
            until_ns,
        })
    }

    /// Forgets all failures: what was held because of them comes back as if it had just recovered. Says whether there was
    /// something to forget.
    pub fn forget(&mut self, now_ns: u64) -> bool {
        let remembered = self.damping(now_ns).is_some();
        self.penalty = 0.0;
        self.tick(now_ns);
        remembered
    }

    fn begin(&mut self, now_ns: u64) {
        self.next_ns = None;
        self.since_ns = (!self.settings.pace.is_instant()).then_some(now_ns);
    }

    fn penalty_at(&self, now_ns: u64) -> f64 {
        if self.settings.half_life_ns == 0 {
            return 0.0;
        }
        let half_lives = now_ns.saturating_sub(self.penalty_ns) as f64 / self.settings.half_life_ns as f64;
        self.penalty * (-half_lives).exp2()
    }

    /// When the penalty has decayed.
    fn reuse_ns(&self) -> u64 {
        let half_lives = (self.penalty / REUSE).log2().max(0.0);
        self.penalty_ns.saturating_add((half_lives * self.settings.half_life_ns as f64).ceil() as u64)
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;
