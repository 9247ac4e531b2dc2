//! What operators order, and how far it is: drains, failures, restores and shifts.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::REASON_PATTERN;
use crate::{
    config::Level,
    plan::{
        facts::Order,
        shift::Shift,
        state::{Action, DEFAULT_OVERRIDE_TIME, MAX_DRAIN_TIME, MAX_OVERRIDE_TIME, Watch},
    },
};

/// Terms of an action on a backend or a domain. All may be left out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ActionTerms {
    /// After how many seconds the word ends by itself; [`DEFAULT_OVERRIDE_TIME`] if it is left out and `no_expiry` is not set.
    pub for_s: Option<u64>,
    /// The word ends only when it is restored.
    pub no_expiry: bool,
    /// Of a drain: after how many seconds it counts as done, whatever is left.
    pub deadline_s: Option<u64>,
    /// Of a drain: for how many seconds no packet must have come; 60 if it is left out.
    pub quiet_s: Option<u64>,
    /// Of a restore: the failures that damping remembers are forgotten, too.
    pub forget_failures: bool,
}

impl ActionTerms {
    /// The order that an action with these terms and a reason is at `now`.
    ///
    /// # Errors
    /// What does not go together or is out of range, in words.
    pub fn order(self, action: Action, reason: String, now: jiff::Timestamp) -> Result<Order, String> {
        let after = |what: &str, seconds: u64, most: Duration| {
            let time = Duration::from_secs(seconds);
            if seconds == 0 || time > most {
                return Err(format!(
                    "{what} is {seconds} s; it must be 1 s to {} d",
                    most.as_secs() / 86_400
                ));
            }
            now.checked_add(time).map_err(|error| format!("{what}: {error}"))
        };
        let for_s =
            self.for_s.map(|s| after("the time for which it stands", s, MAX_OVERRIDE_TIME)).transpose()?;
        let deadline = self.deadline_s.map(|s| after("the deadline", s, MAX_DRAIN_TIME)).transpose()?;
        if let Some(quiet_s) = self.quiet_s {
            after("the time without a packet", quiet_s, MAX_DRAIN_TIME)?;
        }
        if action != Action::Drain && (deadline.is_some() || self.quiet_s.is_some()) {
            return Err(format!("only a drain has a deadline or a quiet time, not \"{}\"", action.name()));
        }
        let restores = action == Action::Restore;
        if restores && (for_s.is_some() || self.no_expiry) {
            return Err("restoring has no end: drain or fail for a time instead".to_owned());
        }
        if !restores && self.forget_failures {
            return Err("failures are forgotten by restoring only".to_owned());
        }
        if for_s.is_some() && self.no_expiry {
            return Err("it cannot have an end and none".to_owned());
        }
        let until = match (restores || self.no_expiry, for_s) {
            (true, _) => None,
            (false, Some(until)) => Some(until),
            (false, None) => now.checked_add(DEFAULT_OVERRIDE_TIME).ok(),
        };
        let watch = Watch { deadline, quiet_s: self.quiet_s };
        Ok(Order { action, reason, until, watch, forget_failures: self.forget_failures })
    }
}

macro_rules! action_request {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
            /// Why.
            #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
            pub reason: String,
            /// See [`ActionTerms::for_s`].
            #[schemars(range(min = 1, max = 2_592_000))]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub for_s: Option<u64>,
            /// See [`ActionTerms::no_expiry`].
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub no_expiry: bool,
            /// See [`ActionTerms::deadline_s`].
            #[schemars(range(min = 1, max = 604_800))]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub deadline_s: Option<u64>,
            /// See [`ActionTerms::quiet_s`].
            #[schemars(range(min = 1, max = 604_800))]
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub quiet_s: Option<u64>,
            /// See [`ActionTerms::forget_failures`].
            #[serde(default, skip_serializing_if = "std::ops::Not::not")]
            pub forget_failures: bool,
        }

        impl $name {
            /// An action with these terms.
            #[must_use]
            #[allow(clippy::needless_update, reason = "one of the two has no other fields")]
            pub fn new(reason: String, terms: ActionTerms) -> Self {
                let ActionTerms { for_s, no_expiry, deadline_s, quiet_s, forget_failures } = terms;
                Self { reason, for_s, no_expiry, deadline_s, quiet_s, forget_failures, ..Self::default() }
            }

            /// The terms alone.
            #[must_use]
            pub const fn terms(&self) -> ActionTerms {
                ActionTerms {
                    for_s: self.for_s,
                    no_expiry: self.no_expiry,
                    deadline_s: self.deadline_s,
                    quiet_s: self.quiet_s,
                    forget_failures: self.forget_failures,
                }
            }
        }
    };
}

action_request! {
    /// Body of an action on a backend: `POST /v1/backends/{name}/{drain|fail|restore}`.
    BackendActionRequest {}
}

action_request! {
    /// Body of an action on a domain: `POST /v1/domains/actions/{drain|fail|restore}`.
    DomainActionRequest {
        /// Path of the domain.
        domain: String,
    }
}

/// How far a drain is.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum DrainState {
    /// Established flows are left, or nobody knows yet.
    Draining,
    /// As far as can be known, none are left.
    Drained,
    /// The deadline has passed, and some are left.
    DeadlinePassed,
}

/// How far what an operator drained is.
///
/// Flows that are at home are in no table: of them only their packets are seen. One that is silent for longer than `quiet_s` is
/// known to nobody.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DrainView {
    /// How far.
    pub state: DrainState,
    /// Entries of the flow table that name its backends, by the last walk.
    pub flows: u64,
    /// Whether a walk began since the drain did. Before it `flows` says nothing.
    pub walked: bool,
    /// Packets a second that were forwarded to its backends lately.
    pub packets_per_second: u64,
    /// Seconds since the last of them.
    pub silent_s: u64,
    /// For how many seconds there must be none.
    pub quiet_s: u64,
    /// When it counts as done, whatever is left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<jiff::Timestamp>,
}

/// What damping remembers.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct DampingView {
    /// 1000 for each failure, halved in each half-life.
    pub penalty: u64,
    /// Whether it has recovered, and is held out until the penalty has decayed.
    pub suppressed: bool,
    /// Seconds until it comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// The shift of a domain: an element of `GET /v1/shifts`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ShiftView {
    /// Path of the domain.
    pub domain: String,
    /// Region, zone or rack; left out if the configuration does not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Share of its new flows that it keeps, who said so and why, its beginning and its end.
    #[serde(flatten)]
    pub shift: Shift,
    /// Seconds until its end.
    pub left_s: u64,
    /// Whether the configuration has the domain. If not, the shift waits until it does.
    pub active: bool,
    /// When the word was stored, after an action: effective from the next packet on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stored_ns: Option<u64>,
}

/// Body of `POST /v1/shifts`: shift a domain, or replace its shift.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShiftRequest {
    /// Path of the domain.
    pub domain: String,
    /// What it must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<Level>,
    /// Share of its new flows that it keeps, in percent, 0 to 99.
    #[schemars(range(min = 0, max = 99))]
    pub keep_percent: u8,
    /// For how many seconds.
    #[schemars(range(min = 1, max = 604_800))]
    pub for_s: u64,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
    /// Even if what remains is too little.
    #[serde(default)]
    pub force: bool,
}

/// Body of `POST /v1/shifts/extend`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShiftExtendRequest {
    /// Path of the domain.
    pub domain: String,
    /// For how many seconds from now on.
    #[schemars(range(min = 1, max = 604_800))]
    pub for_s: u64,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
}

/// Body of `POST /v1/shifts/cancel`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ShiftCancelRequest {
    /// Path of the domain.
    pub domain: String,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
    /// Even if too few of the domain's backends are well.
    #[serde(default)]
    pub force: bool,
}
