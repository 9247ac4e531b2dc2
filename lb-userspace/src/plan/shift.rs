//! Shifts: a share of a domain's new flows goes elsewhere for a while. Pure.
//!
//! A shift says which share the domain *keeps*. It is one admission word, (x, 255): which flows stay follows from their hashes alone, so
//! a smaller share only sends flows out and a larger one only brings flows in (guarantee 2), and every host that shifts by as
//! much sends away the same ones (guarantee 3). Established flows stay where they are.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The longest time for which a shift stands. What is needed for longer belongs into the configuration.
pub const MAX_SHIFT_TIME: Duration = Duration::from_secs(7 * 86_400);
/// The shortest time by which a shift is prolonged when what returns is not ready.
pub const MIN_PROLONGATION: Duration = Duration::from_secs(1);
/// The longest time by which it is prolonged at once.
pub const MAX_PROLONGATION: Duration = Duration::from_secs(600);
/// How often it is prolonged; then it ends, whatever state the domain is in. With a quarter of its time each, all prolongations together
/// are as long as the shift, or, of a short one, at most 4 s.
pub const MAX_PROLONGATIONS: u32 = 4;
/// How long a shift lasts that was found in the data plane without a record.
pub const UNRECORDED_SHIFT_TIME: Duration = Duration::from_secs(3600);

/// Who said so.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Origin {
    /// An operator: no automation replaces it, ends it, or overrides it in an emergency.
    Operator,
    /// Automation.
    Automatic,
}

/// A shift that stands.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Shift {
    /// Share of its new flows that the domain keeps, in percent, 0 to 99.
    pub keep_percent: u8,
    /// Who said so.
    pub origin: Origin,
    /// Why.
    pub reason: String,
    /// When it began.
    pub since: jiff::Timestamp,
    /// When it ends by itself.
    pub until: jiff::Timestamp,
    /// By how many seconds it is prolonged at once.
    pub prolonged_by_s: u64,
    /// How often it was prolonged.
    #[serde(default)]
    pub prolonged: u32,
}

/// What is to be done about the shift of a domain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ShiftOrder {
    /// Shift, or replace the shift that stands.
    Set {
        /// See [`Shift::keep_percent`].
        keep_percent: u8,
        /// See [`Shift::origin`].
        origin: Origin,
        /// See [`Shift::reason`].
        reason: String,
        /// See [`Shift::until`].
        until: jiff::Timestamp,
    },
    /// Let it stand for longer.
    Extend {
        /// See [`Shift::until`].
        until: jiff::Timestamp,
    },
    /// End it.
    Cancel {
        /// Who says so.
        origin: Origin,
    },
}

impl Shift {
    /// A shift that begins at `since`.
    #[must_use]
    pub fn new(
        keep_percent: u8,
        origin: Origin,
        reason: String,
        since: jiff::Timestamp,
        until: jiff::Timestamp,
    ) -> Self {
        let prolonged_by_s = prolongation(since, until);
        Self { keep_percent, origin, reason, since, until, prolonged_by_s, prolonged: 0 }
    }

    /// The share of new flows in an admission word.
    #[must_use]
    pub const fn share(&self) -> u8 {
        share(self.keep_percent)
    }

    /// The same shift until another moment, as if it had not been prolonged yet.
    #[must_use]
    pub fn extended(&self, until: jiff::Timestamp, now: jiff::Timestamp) -> Self {
        Self { until, prolonged_by_s: prolongation(now, until), prolonged: 0, ..self.clone() }
    }

    /// The same shift, prolonged; `None` if it was as often as it may.
    #[must_use]
    pub fn prolonged(&self) -> Option<Self> {
        let by = jiff::SignedDuration::from_secs(i64::try_from(self.prolonged_by_s).ok()?);
        let until = self.until.checked_add(by).ok()?;
        (self.prolonged < MAX_PROLONGATIONS).then(|| Self {
            until,
            prolonged: self.prolonged + 1,
            ..self.clone()
        })
    }
}

/// A quarter of a shift's time, within bounds, in seconds.
fn prolongation(since: jiff::Timestamp, until: jiff::Timestamp) -> u64 {
    let lasts = u64::try_from(until.duration_since(since).as_secs()).unwrap_or(0);
    (lasts / 4).clamp(MIN_PROLONGATION.as_secs(), MAX_PROLONGATION.as_secs())
}

/// The share in an admission word of a share in percent: the data plane compares a byte of the flow's hash with it, so that a share of
/// x takes x of 256 flows; 255 means all.
#[must_use]
pub const fn share(keep_percent: u8) -> u8 {
    let share = (keep_percent as u32 * 256 + 50) / 100;
    if share > 254 { 254 } else { share as u8 }
}

/// The percentage that a share in an admission word is.
#[must_use]
pub const fn percent(share: u8) -> u8 {
    ((share as u32 * 100 + 128) / 256) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_256_and_never_all() {
        assert_eq!([0, 1, 25, 50, 75, 99, 100].map(share), [0, 3, 64, 128, 192, 253, 254]);
        for keep in 0..100 {
            assert_eq!(percent(share(keep)), keep, "{keep}");
            assert!(keep == 0 || share(keep) > share(keep - 1));
        }
    }

    #[test]
    fn all_prolongations_together_are_bounded() {
        let since = jiff::Timestamp::UNIX_EPOCH;
        for (lasts_s, by_s) in [(1, 1), (8, 2), (7_200, 600), (600, 150)] {
            let until = since + jiff::SignedDuration::from_secs(lasts_s);
            let mut shift = Shift::new(50, Origin::Operator, "r".to_owned(), since, until);
            assert_eq!(shift.prolonged_by_s, by_s);
            let mut times = 0;
            while let Some(longer) = shift.prolonged() {
                shift = longer;
                times += 1;
            }
            assert_eq!(times, MAX_PROLONGATIONS);
            assert_eq!(shift.extended(until, since).prolonged, 0, "who extends it begins anew");
            let more_s = shift.until.duration_since(until).as_secs();
            assert!(more_s <= lasts_s.max(4), "{more_s} more than {lasts_s}");
        }
    }
}
