//! `[recovery]`: how what was down comes back.

use std::time::Duration;

use super::checks::bounded_duration;
use crate::config::limits::MAX_RECOVERY_TIME;
use crate::config::raw::RawRecovery;
use crate::config::report::{Finding, Report};
use crate::plan::breaker::Settings;
use crate::plan::ramp::Pace;

/// Percent of new flows that are let in at first, when the file does not say.
const DEFAULT_HALF_OPEN_SHARE: u32 = 5;

/// Resolves the table; without one, or with nothing in it, what recovers is back at once.
pub(super) fn resolve(raw: Option<&RawRecovery<'_>>, report: &mut Report) -> Option<Settings> {
    let Some(raw) = raw else { return Some(Settings::default()) };
    let percent = match &raw.half_open_share {
        None => Some(DEFAULT_HALF_OPEN_SHARE),
        Some(given) => {
            let percent = u32::try_from(given.value).ok().filter(|percent| (1..=100).contains(percent));
            if percent.is_none() {
                report.add(|| {
                    Finding::new(&given.span, format!("half_open_share = {} is out of range", given.value))
                        .help("it is the share of new flows that are let in at first, 1 to 100 percent")
                });
            }
            percent
        }
    };
    let mut time = |key, text: &Option<_>| {
        let Some(text) = text else { return Some(0) };
        let range = Duration::ZERO..=MAX_RECOVERY_TIME;
        let duration = bounded_duration(key, "[recovery]", text, range, "", report)?;
        Some(crate::runtime::clock::as_ns(duration))
    };
    let half_open_ns = time("half_open", &raw.half_open);
    let slow_start_ns = time("slow_start", &raw.slow_start);
    let half_life_ns = time("flap_half_life", &raw.flap_half_life);
    // At most 255, because the percentage is at most 100; at least 2.
    let half_open_share = (percent? * 255 / 100) as u8;
    let pace = Pace { half_open_share, half_open_ns: half_open_ns?, slow_start_ns: slow_start_ns? };
    Some(Settings { pace, half_life_ns: half_life_ns? })
}
