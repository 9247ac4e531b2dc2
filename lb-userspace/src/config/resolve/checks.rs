//! Checks and their timing.

use std::time::Duration;

use super::names::{Kind, Names, called};
use crate::config::fields::{At, Text};
use crate::config::limits::{MAX_CHECK_TIME, MAX_STREAK, MIN_HEARTBEAT_INTERVAL, MIN_TCP_INTERVAL};
use crate::config::model::{Check, CheckKind};
use crate::config::raw::RawCheck;
use crate::config::report::{Finding, Report, quote};

/// UDP port of `weir agent` when the file does not say.
const DEFAULT_HEARTBEAT_PORT: u16 = 6777;
/// A TCP connection may take this long when the file does not say.
const DEFAULT_TCP_TIMEOUT: Duration = Duration::from_secs(1);
const DEFAULT_HEARTBEAT_FALL: u32 = 2;
const DEFAULT_TCP_FALL: u32 = 3;
const DEFAULT_RISE: u32 = 3;

/// All checks.
pub(super) struct Checks<'a> {
    pub(super) names: Names<'a>,
    /// In file order.
    pub(super) checks: Vec<Option<Check>>,
}

/// Resolves all checks.
pub(super) fn resolve<'a>(raw: &[RawCheck<'a>], report: &mut Report) -> Checks<'a> {
    let kind = Kind { one: "check", many: "checks" };
    let names = Names::collect(kind, raw.iter().map(|check| check.name.as_ref()), report);
    Checks { names, checks: raw.iter().map(|check| resolve_one(check, report)).collect() }
}

fn resolve_one(raw: &RawCheck<'_>, report: &mut Report) -> Option<Check> {
    let who = called("check", raw.name.as_ref());
    let given_port = raw.port.as_ref().map(|given| port(&who, given, report));
    let given_kind = raw.kind.as_ref().and_then(|kind| {
        let kinds = [("heartbeat", false), ("tcp", true)];
        choice(&format!("kind of {who}"), kind, &kinds, report)
    });
    let is_tcp = given_kind?;
    let kind = match (is_tcp, given_port) {
        (false, None) => Some(CheckKind::Heartbeat { port: DEFAULT_HEARTBEAT_PORT }),
        (false, Some(port)) => port.map(|port| CheckKind::Heartbeat { port }),
        (true, Some(port)) => port.map(|port| CheckKind::Tcp { port }),
        (true, None) if raw.mistyped => None,
        (true, None) => {
            report.add(|| {
                Finding::new(&raw.span, format!("{who} has no \"port\""))
                    .help("add port = 80: the TCP port to connect to")
            });
            None
        }
    };

    let shortest = if is_tcp { MIN_TCP_INTERVAL } else { MIN_HEARTBEAT_INTERVAL };
    let interval = raw.interval.as_ref().and_then(|text| duration("interval", &who, text, shortest, report));
    let timeout = match &raw.timeout {
        Some(text) => duration("timeout", &who, text, Duration::from_micros(1), report),
        None if is_tcp => Some(DEFAULT_TCP_TIMEOUT),
        None => interval,
    };
    let default_fall = if is_tcp { DEFAULT_TCP_FALL } else { DEFAULT_HEARTBEAT_FALL };
    let fall = streak("fall", &who, raw.fall.as_ref(), default_fall, report);
    let rise = streak("rise", &who, raw.rise.as_ref(), DEFAULT_RISE, report);
    let name = raw.name.as_ref()?.value.to_owned();
    Some(Check { name, kind: kind?, interval: interval?, timeout: timeout?, fall: fall?, rise: rise? })
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
fn duration(
    key: &str,
    who: &str,
    text: &Text<'_>,
    shortest: Duration,
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
    if duration < shortest || duration > MAX_CHECK_TIME {
        report.add(|| {
            Finding::new(&text.span, format!("{key} {} of {who} is out of range", quote(text.value)))
                .help(format!("it goes from {shortest:?} to {MAX_CHECK_TIME:?} for a check of this kind"))
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
