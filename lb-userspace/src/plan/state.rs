//! States of backends and domains.

use lb_common::abi::admission::Admission;
use serde::{Deserialize, Serialize};

/// State of a backend or of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum State {
    /// Takes new and established flows.
    Up,
    /// First correlated evidence of a failure: no new flows, established ones stay, so that a false alarm breaks nothing.
    Suspect,
    /// Failure confirmed, or failed by an operator: no flows.
    Down,
    /// Drained by an operator: no new flows, established ones stay.
    Draining,
    /// Coming back: a share of new flows that grows, and all established ones.
    Ramp,
}

impl State {
    /// The shares of new and of established flows that the state admits; of [`State::Ramp`] the least, for its share grows.
    #[must_use]
    pub const fn shares(self) -> (u8, u8) {
        match self {
            Self::Up => (255, 255),
            Self::Suspect | Self::Draining => (0, 255),
            Self::Down => (0, 0),
            Self::Ramp => (1, 255),
        }
    }

    /// The admission word of the state; not clean, not held.
    #[must_use]
    pub const fn admission(self) -> Admission {
        let (new, old) = self.shares();
        Admission::new(new, old)
    }

    /// Name in CLI, API and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "UP",
            Self::Suspect => "SUSPECT",
            Self::Down => "DOWN",
            Self::Draining => "DRAINING",
            Self::Ramp => "RAMP",
        }
    }
}

/// What an operator can do to a backend or a domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// No new flows; established ones stay.
    Drain,
    /// No flows at all.
    Fail,
    /// Back to what the checks say.
    Restore,
}

impl Action {
    /// All actions.
    pub const ALL: [Self; 3] = [Self::Drain, Self::Fail, Self::Restore];

    /// Name in CLI, API and events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Fail => "fail",
            Self::Restore => "restore",
        }
    }
}

/// An operator's word that stands until it is restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Override {
    /// [`Action::Drain`] or [`Action::Fail`].
    pub action: Action,
    /// Why, as the operator gave it.
    pub reason: String,
    /// When it was given.
    pub since: jiff::Timestamp,
}
