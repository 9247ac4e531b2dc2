//! Checks and their timing.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::check_kinds::{self, KINDS, Kind};
use super::names::{self, Names, called};
use crate::config::checks::{Check, CheckKind};
use crate::config::fields::{At, Text};
use crate::config::limits::{
    MAX_CHECK_TIME, MAX_JITTER, MAX_STREAK, MIN_HEARTBEAT_INTERVAL, MIN_SLOW_INTERVAL, MIN_TCP_INTERVAL,
};
use crate::config::raw::RawCheck;
use crate::config::report::{Finding, Report, quote};

/// What is no heartbeat may take this long when the file does not say.
const DEFAULT_SLOW_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_FAST_FALL: u32 = 2;
const DEFAULT_SLOW_FALL: u32 = 3;
const DEFAULT_RISE: u32 = 3;
/// A BFD session that is up has shaken hands: that is enough.
const DEFAULT_BFD_RISE: u32 = 1;
/// Jitter of checks whose targets are probed one by one, when the file does not say. Those that are sent in rounds have none.
const DEFAULT_SLOW_JITTER: u8 = 10;

/// All checks.
pub(super) struct Checks<'a> {
    pub(super) names: Names<'a>,
    /// In file order.
    pub(super) checks: Vec<Option<Check>>,
}

/// Resolves all checks.
pub(super) fn resolve<'a>(raw: &[RawCheck<'a>], report: &mut Report) -> Checks<'a> {
    let kind = names::Kind { one: "check", many: "checks" };
    let names = Names::collect(kind, raw.iter().map(|check| check.name.as_ref()), report);
    Checks { names, checks: raw.iter().map(|check| resolve_one(check, report)).collect() }
}

fn resolve_one(raw: &RawCheck<'_>, report: &mut Report) -> Option<Check> {
    let who = called("check", raw.name.as_ref());
    let kind = raw.kind.as_ref().and_then(|kind| choice(&format!("kind of {who}"), kind, &KINDS, report))?;
    check_kinds::refuse_foreign_keys(&who, kind, raw, report);
    let meaning = check_kinds::resolve(&who, kind, raw, report);
    let (is_fast, shortest) = match kind {
        Kind::Heartbeat | Kind::Icmp | Kind::Bfd => (true, MIN_HEARTBEAT_INTERVAL),
        Kind::Tcp | Kind::Udp | Kind::Dns => (false, MIN_TCP_INTERVAL),
        Kind::Http | Kind::Https | Kind::Exec => (false, MIN_SLOW_INTERVAL),
    };
    let interval = raw.interval.as_ref().and_then(|text| duration("interval", &who, text, shortest, report));
    let timeout = match &raw.timeout {
        // Refused already, or replaced below.
        _ if kind == Kind::Bfd => interval,
        Some(text) => duration("timeout", &who, text, Duration::from_micros(1), report),
        None if is_fast => interval,
        None => Some(DEFAULT_SLOW_TIMEOUT),
    };
    let default_fall = if is_fast { DEFAULT_FAST_FALL } else { DEFAULT_SLOW_FALL };
    let fall = streak("fall", &who, raw.fall.as_ref(), default_fall, report);
    let default_rise = if kind == Kind::Bfd { DEFAULT_BFD_RISE } else { DEFAULT_RISE };
    let rise = streak("rise", &who, raw.rise.as_ref(), default_rise, report);
    let default_jitter = if is_fast { 0 } else { DEFAULT_SLOW_JITTER };
    let jitter = jitter(&who, raw.jitter.as_ref(), default_jitter, report);
    let name = raw.name.as_ref()?.value.to_owned();
    let mut check = Check {
        name,
        kind: meaning?,
        interval: interval?,
        timeout: timeout?,
        fall: fall?,
        rise: rise?,
        jitter: jitter?,
    };
    if let CheckKind::Bfd(bfd) = &check.kind {
        check.timeout = check.interval.max(bfd.receive_interval) * u32::from(bfd.multiplier);
        check.fall = bfd.multiplier.into();
    }
    Some(check)
}

fn jitter(who: &str, given: Option<&At<i64>>, default: u8, report: &mut Report) -> Option<u8> {
    let Some(given) = given else { return Some(default) };
    let jitter = u8::try_from(given.value).ok().filter(|&jitter| jitter <= MAX_JITTER);
    if jitter.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("jitter = {} of {who} is out of range", given.value)).help(
                format!(
                    "it is the share of the interval by which a probe may be delayed, 0 to {MAX_JITTER} percent"
                ),
            )
        });
    }
    jitter
}

/// One of a few words; `what` is how messages call the value.
pub(super) fn choice<T: Copy>(
    what: &str,
    text: &Text<'_>,
    choices: &[(&'static str, T)],
    report: &mut Report,
) -> Option<T> {
    let found = choices.iter().find(|(word, _)| *word == text.value);
    if found.is_none() {
        report.add(|| {
            Finding::new(&text.span, format!("{what} cannot be {}", quote(text.value))).did_you_mean(
                text.value,
                "values",
                choices.iter().map(|(word, _)| *word),
            )
        });
    }
    found.map(|&(_, value)| value)
}

/// A port that is not 0.
pub(super) fn port(who: &str, given: &At<i64>, report: &mut Report) -> Option<u16> {
    let port = u16::try_from(given.value).ok().filter(|&port| port != 0);
    if port.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("port {} of {who} is out of range", given.value))
                .help("ports go from 1 to 65535")
        });
    }
    port
}

fn streak(key: &str, who: &str, given: Option<&At<i64>>, default: u32, report: &mut Report) -> Option<u32> {
    let Some(given) = given else { return Some(default) };
    let count = u32::try_from(given.value).ok().filter(|count| (1..=MAX_STREAK).contains(count));
    if count.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} of {who} is out of range", given.value))
                .help(format!("it counts consecutive probes, 1 to {MAX_STREAK}"))
        });
    }
    count
}

/// A duration from `shortest` to the longest that checks may take.
pub(super) fn duration(
    key: &str,
    who: &str,
    text: &Text<'_>,
    shortest: Duration,
    report: &mut Report,
) -> Option<Duration> {
    bounded_duration(key, who, text, shortest..=MAX_CHECK_TIME, " for a check of this kind", report)
}

/// A duration within a range; `whose` ends the sentence that says which.
pub(super) fn bounded_duration(
    key: &str,
    who: &str,
    text: &Text<'_>,
    range: RangeInclusive<Duration>,
    whose: &str,
    report: &mut Report,
) -> Option<Duration> {
    let Some(duration) = parse_duration(text.value) else {
        report.add(|| {
            Finding::new(&text.span, format!("{key} {} of {who} is no duration", quote(text.value))).help(
                "write a whole number and a unit (us, ms, s or m), such as \"250us\", \"3ms\" or \"1s\"",
            )
        });
        return None;
    };
    if !range.contains(&duration) {
        report.add(|| {
            let (shortest, longest) = (range.start(), range.end());
            Finding::new(&text.span, format!("{key} {} of {who} is out of range", quote(text.value)))
                .help(format!("it goes from {shortest:?} to {longest:?}{whose}"))
        });
        return None;
    }
    Some(duration)
}

/// `250us`, `3ms`, `1s`, `2m` or `24h`: a whole number and a unit.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let micros_per_unit = match unit {
        "us" => 1,
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(micros_per_unit).map(Duration::from_micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_a_number_and_a_unit() {
        assert_eq!(parse_duration("250us"), Some(Duration::from_micros(250)));
        assert_eq!(parse_duration("3ms"), Some(Duration::from_millis(3)));
        assert_eq!(parse_duration("1s"), Some(Duration::from_secs(1)));
        assert_eq!(parse_duration("2m"), Some(Duration::from_secs(120)));
        assert_eq!(parse_duration("24h"), Some(Duration::from_secs(86_400)));
        for bad in ["", "3", "ms", "3 ms", "-3ms", "1.5s", "3d", "3MS", "18446744073709551615s", "3ms "] {
            assert_eq!(parse_duration(bad), None, "{bad:?}");
        }
    }
}
