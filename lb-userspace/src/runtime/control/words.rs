//! What the journal says of operators' words, shifts and their ends.

use crate::plan::planner::{Due, Order};
use crate::plan::shift::Shift;
use crate::plan::state::Action;
use crate::telemetry::event::EventKind;

/// Of an operator's order.
pub(super) fn ordered(order: &Order, now: jiff::Timestamp) -> String {
    let lasts = match (order.action, order.until) {
        (Action::Restore, _) => String::new(),
        (_, None) => ", without an end".to_owned(),
        (_, Some(until)) => format!(" for {}", seconds(now, until)),
    };
    let forgot = if order.forget_failures { ", its failures are forgotten" } else { "" };
    format!("operator: {}{lasts}{forgot}: {}", order.action.name(), order.reason.trim())
}

/// Of what was done to a shift.
pub(super) fn shifted(
    before: Option<&Shift>,
    now: Option<&Shift>,
    reason: &str,
    at: jiff::Timestamp,
) -> String {
    let who = match now.or(before).map(|shift| shift.origin) {
        Some(crate::plan::shift::Origin::Automatic) => "automatic",
        _ => "operator",
    };
    let keeps = |shift: &Shift| format!("keeps {} % of its new flows", shift.keep_percent);
    let said = match (before, now) {
        (_, None) => "takes all of its new flows again".to_owned(),
        (None, Some(shift)) => format!("{} for {}", keeps(shift), seconds(at, shift.until)),
        (Some(old), Some(shift)) if old.keep_percent == shift.keep_percent => {
            format!("{} for {} from now on", keeps(shift), seconds(at, shift.until))
        }
        (Some(old), Some(shift)) => {
            format!("{} for {}, before {} %", keeps(shift), seconds(at, shift.until), old.keep_percent)
        }
    };
    format!("{who}: {said}: {reason}")
}

/// Of what ended by itself; nothing of what comes back by steps.
pub(super) fn due(due: &Due) -> Option<(EventKind, String)> {
    match due {
        Due::Recovered => None,
        Due::OverrideEnded(held) => {
            let cause = format!(
                "the time of \"{}\" is over, the checks have the say: {}",
                held.action.name(),
                held.reason
            );
            Some((EventKind::Override, cause))
        }
        Due::ShiftEnded(shift, unready) => {
            let how = if *unready {
                ", though too few of its backends are well: it was prolonged as often as it may be"
            } else {
                ""
            };
            let cause = format!(
                "the time of the shift is over, it takes all of its new flows again{how}: {}",
                shift.reason
            );
            Some((EventKind::Shift, cause))
        }
        Due::ShiftProlonged { shift, ready } => {
            let cause = format!(
                "the time of the shift is over, but only {} % of its weight ({} of {}) is well: it goes on for {} s more: {}",
                ready.percent(),
                ready.well,
                ready.all,
                shift.prolonged_by_s,
                shift.reason
            );
            Some((EventKind::Shift, cause))
        }
    }
}

fn seconds(from: jiff::Timestamp, until: jiff::Timestamp) -> String {
    // To the nearest second: what was asked for, whatever the way here took.
    let ms = until.duration_since(from).as_millis();
    format!("{} s", (ms + 500) / 1_000)
}
