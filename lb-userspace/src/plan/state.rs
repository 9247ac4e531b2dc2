//! States of backends and domains.

use std::time::Duration;

use lb_common::abi::admission::Admission;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// State of a backend or of a domain.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
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

    /// Whether new flows may come, all of them or more and more.
    #[must_use]
    pub const fn is_well(self) -> bool {
        matches!(self, Self::Up | Self::Ramp)
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
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
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

/// How long an operator's word stands if nobody says: a night's work and the day after it. It is shown and counted down all the time.
pub const DEFAULT_OVERRIDE_TIME: Duration = Duration::from_secs(24 * 3600);
/// The longest end that an operator's word can have. For longer it has none, or stands in the configuration.
pub const MAX_OVERRIDE_TIME: Duration = Duration::from_secs(30 * 86_400);
/// How long nothing must have come to what is drained, if nobody says.
pub const DEFAULT_QUIET: Duration = Duration::from_secs(60);
/// The longest such time, and the longest deadline of a drain.
pub const MAX_DRAIN_TIME: Duration = Duration::from_secs(7 * 86_400);

/// An operator's word that stands until its end, or until it is restored.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Override {
    /// [`Action::Drain`] or [`Action::Fail`].
    pub action: Action,
    /// Why, as the operator gave it.
    pub reason: String,
    /// When it was given.
    pub since: jiff::Timestamp,
    /// When it ends by itself; none if only [`Action::Restore`] ends it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<jiff::Timestamp>,
    /// How a drain is watched.
    #[serde(flatten)]
    pub watch: Watch,
}

impl Override {
    /// A word without an end.
    #[must_use]
    pub const fn new(action: Action, reason: String, since: jiff::Timestamp) -> Self {
        Self { action, reason, since, until: None, watch: Watch { deadline: None, quiet_s: None } }
    }
}

/// When a drain counts as done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct Watch {
    /// When it counts as done, whatever flows are left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<jiff::Timestamp>,
    /// For how many seconds no packet must have come; [`DEFAULT_QUIET`] if nobody said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiet_s: Option<u64>,
}

/// The present on both clocks. Times of people are of the wall clock; what is done on time is done by the monotonic one, which
/// no step of the wall clock moves.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment {
    /// The wall clock.
    pub time: jiff::Timestamp,
    /// `CLOCK_MONOTONIC` in nanoseconds.
    pub ns: u64,
}

impl Moment {
    /// The reading of the monotonic clock at `time`; 0 if that was before it began.
    #[must_use]
    pub fn ns_at(self, time: jiff::Timestamp) -> u64 {
        let left = time.as_nanosecond() - self.time.as_nanosecond();
        u64::try_from(i128::from(self.ns) + left).unwrap_or(0)
    }
}
