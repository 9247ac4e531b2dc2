//! Access lists, limits and priority classes of services.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::checks::choice;
use super::clients;
use super::node::path;
use crate::config::fields::At;
use crate::config::limits::{MAX_BURST, MAX_LIST_FILE_BYTES, MAX_LIST_PREFIXES, MAX_RATE};
use crate::config::prefix::IpPrefix;
use crate::config::protection::{AccessList, Limits, Priority, Protection, Rate, SourceLimits};
use crate::config::raw_protection::{
    RawAccess, RawLimits, RawList, RawProtection, RawRates, RawSourceLimits,
};
use crate::config::report::{Finding, Report, Span, quote};

/// Length of a source prefix when the file does not say: what one site usually has.
const DEFAULT_SOURCE_V4: u8 = 24;
/// The same for IPv6.
const DEFAULT_SOURCE_V6: u8 = 56;
/// The longest source prefix of IPv6: who has a /64 can choose among its addresses at will.
const MAX_SOURCE_V6: u8 = 64;
/// Where the file does not say how many may come at once: what comes in this part of a second.
const DEFAULT_BURST_PART: u64 = 10;
/// The addresses in which IPv4 addresses stand.
const MAPPED: [u16; 6] = [0, 0, 0, 0, 0, 0xffff];

/// Resolves a service's protection.
pub(super) fn resolve(who: &str, raw: &RawProtection<'_>, report: &mut Report) -> Option<Protection> {
    let priority = match &raw.priority {
        None => Some(Priority::default()),
        Some(text) => {
            let classes = Priority::ALL.map(|class| (class.name(), class));
            choice(&format!("priority of {who}"), text, &classes, report)
        }
    };
    let access = match &raw.access {
        None => Some(AccessList::default()),
        Some(raw) => access(who, raw, report),
    };
    let limits = match &raw.limits {
        None => Some(Limits::default()),
        Some(raw) => limits(who, raw, report),
    };
    Some(Protection { priority: priority?, access: access?, limits: limits? })
}

fn access(who: &str, raw: &RawAccess<'_>, report: &mut Report) -> Option<AccessList> {
    let allow = list("allow", who, &raw.allow, report);
    let deny = list("deny", who, &raw.deny, report);
    let says_nothing = [&raw.allow, &raw.deny].iter().all(|l| l.prefixes.is_none() && l.file.is_none());
    if says_nothing && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("[service.access] of {who} says nothing"))
                .help("add allow, deny, allow_file or deny_file, or remove it")
        });
        return None;
    }
    let (allow, deny) = (allow?, deny?);
    if let Some(both) = allow.iter().find(|prefix| deny.binary_search(prefix).is_ok()) {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} both allows and denies {both}"))
                .help("remove it from one of the lists; a longer or shorter prefix inside it is fine, the longest match wins")
        });
        return None;
    }
    let count = allow.len() + deny.len();
    if count > MAX_LIST_PREFIXES {
        report.add(|| {
            Finding::new(&raw.span, format!("the access list of {who} has {count} prefixes"))
                .help(format!("MAX_LIST_PREFIXES is {MAX_LIST_PREFIXES}; merge adjacent ones"))
        });
        return None;
    }
    Some(AccessList { allow, deny })
}

/// All prefixes of a list, sorted, each once. One that is there but names nobody is a mistake: an empty allow list would refuse everybody.
fn list(key: &str, who: &str, raw: &RawList<'_>, report: &mut Report) -> Option<Vec<IpPrefix>> {
    let mut prefixes = Vec::new();
    let mut good = true;
    for text in raw.prefixes.iter().flat_map(|texts| &texts.value) {
        match clients::parse(text, "prefix", report).filter(|&prefix| is_plain(prefix, &text.span, report)) {
            Some(prefix) => prefixes.push(prefix),
            None => good = false,
        }
    }
    if let Some(file) = &raw.file {
        match path(&format!("{key}_file"), Some(file), "", report).map(|path| read(&path)) {
            Some(Ok(read)) => prefixes.extend(read),
            Some(Err((problem, remedy))) => {
                good = false;
                report.add(|| {
                    let message = format!("{key}_file {} of {who} {problem}", quote(file.value));
                    Finding::new(&file.span, message).help(remedy)
                });
            }
            None => good = false,
        }
    }
    let place = raw.prefixes.as_ref().map(|texts| &texts.span).or(raw.file.as_ref().map(|text| &text.span));
    if let Some(place) = place.filter(|_| good && prefixes.is_empty()) {
        good = false;
        report.add(|| {
            Finding::new(place, format!("{key} of {who} is empty"))
                .help("list at least one prefix, or remove the key; to stop a service for a while there is `weir emergency`")
        });
    }
    prefixes.sort_unstable();
    prefixes.dedup();
    good.then_some(prefixes)
}

/// Reports a prefix of IPv4 addresses that is written as IPv6.
fn is_plain(prefix: IpPrefix, span: &Span, report: &mut Report) -> bool {
    let good = !is_mapped(prefix);
    if !good {
        report.add(|| {
            Finding::new(span, format!("prefix {prefix} is IPv4-mapped")).help("write it as an IPv4 prefix")
        });
    }
    good
}

fn is_mapped(prefix: IpPrefix) -> bool {
    match prefix {
        IpPrefix::V4(_) => false,
        IpPrefix::V6(prefix) => prefix.length() >= 96 && prefix.address().segments()[..6] == MAPPED,
    }
}

/// Reads a file of prefixes: one in each line; what follows `#` is a comment. The error goes on after the file's name; its second half
/// is the remedy.
fn read(path: &Path) -> Result<Vec<IpPrefix>, (String, String)> {
    let unreadable = |error: std::io::Error| {
        (format!("cannot be read: {error}"), "the file must be readable by the user who runs this".to_owned())
    };
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(("is no regular file".to_owned(), "name a file with one prefix in each line".to_owned()));
    }
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_LIST_FILE_BYTES + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > MAX_LIST_FILE_BYTES {
        let remedy = format!("MAX_LIST_FILE_BYTES is {MAX_LIST_FILE_BYTES}; merge adjacent prefixes");
        return Err(("is too large".to_owned(), remedy));
    }
    let mut prefixes = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        match IpPrefix::parse(entry) {
            Ok(prefix) if !is_mapped(prefix) => prefixes.push(prefix),
            _ => {
                let message = format!("has no prefix in line {}: {}", number + 1, quote(entry));
                let remedy = "write one prefix in each line without bits beyond its length, such as 198.51.100.0/24 or \
                              2001:db8:a::/48; what follows # is a comment";
                return Err((message, remedy.to_owned()));
            }
        }
    }
    Ok(prefixes)
}

fn limits(who: &str, raw: &RawLimits, report: &mut Report) -> Option<Limits> {
    let who = format!("[service.limits] of {who}");
    let rates = rates(&who, &raw.rates, report);
    let max_new_flows = optional(raw.max_new_flows.as_ref(), |given| {
        in_range(&who, "max_new_flows", given, MAX_RATE, report)
    });
    let per_source = match &raw.per_source {
        None => Some(None),
        Some(raw) => source_limits(&who, raw, report).map(Some),
    };
    let (packets, new_flows) = rates?;
    let limits = Limits { packets, new_flows, max_new_flows: max_new_flows?, per_source: per_source? };
    if limits == Limits::default() && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} says nothing")).help(
                "add packets_per_second, new_flows_per_second, max_new_flows or per_source, or remove it",
            )
        });
        return None;
    }
    Some(limits)
}

fn source_limits(who: &str, raw: &RawSourceLimits, report: &mut Report) -> Option<SourceLimits> {
    let who = format!("per_source in {who}");
    let v4 = length(&who, "v4", raw.v4.as_ref(), DEFAULT_SOURCE_V4, 32, report);
    let v6 = length(&who, "v6", raw.v6.as_ref(), DEFAULT_SOURCE_V6, MAX_SOURCE_V6, report);
    let (packets, new_flows) = rates(&who, &raw.rates, report)?;
    if packets.is_none() && new_flows.is_none() && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} limits nothing"))
                .help("add packets_per_second or new_flows_per_second, or remove it")
        });
        return None;
    }
    Some(SourceLimits { v4: v4?, v6: v6?, packets, new_flows })
}

fn length(
    who: &str,
    key: &str,
    given: Option<&At<i64>>,
    default: u8,
    max: u8,
    report: &mut Report,
) -> Option<u8> {
    let Some(given) = given else { return Some(default) };
    let length = u8::try_from(given.value).ok().filter(|length| (1..=max).contains(length));
    if length.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} of {who} is out of range", given.value))
                .help(format!("it is the length of the prefixes that share a limit, 1 to {max}"))
        });
    }
    length
}

type Rates = (Option<Rate>, Option<Rate>);

/// Limits on packets and new flows.
fn rates(who: &str, raw: &RawRates, report: &mut Report) -> Option<Rates> {
    let keys = [("packets_per_second", "burst"), ("new_flows_per_second", "new_flows_burst")];
    let packets = rate(who, keys[0], raw.packets_per_second.as_ref(), raw.burst.as_ref(), report);
    let flows = rate(who, keys[1], raw.new_flows_per_second.as_ref(), raw.new_flows_burst.as_ref(), report);
    Some((packets?, flows?))
}

fn rate(
    who: &str,
    (rate_key, burst_key): (&str, &str),
    rate: Option<&At<i64>>,
    burst: Option<&At<i64>>,
    report: &mut Report,
) -> Option<Option<Rate>> {
    let per_second = optional(rate, |given| in_range(who, rate_key, given, MAX_RATE, report));
    let at_once = optional(burst, |given| in_range(who, burst_key, given, MAX_BURST, report));
    if let (None, Some(burst)) = (rate, burst) {
        report.add(|| {
            Finding::new(&burst.span, format!("{who} has {burst_key} without {rate_key}"))
                .help(format!("add {rate_key}, or remove {burst_key}"))
        });
        return None;
    }
    let (per_second, at_once) = (per_second?, at_once?);
    let default_burst = |rate: u64| (rate / DEFAULT_BURST_PART).max(1);
    Some(
        per_second.map(|per_second| Rate {
            per_second,
            burst: at_once.unwrap_or_else(|| default_burst(per_second)),
        }),
    )
}

/// `Some(None)` for what is absent.
fn optional<T>(given: Option<&At<i64>>, read: impl FnOnce(&At<i64>) -> Option<T>) -> Option<Option<T>> {
    given.map_or(Some(None), |given| read(given).map(Some))
}

/// A number from 1 to `max`.
pub(super) fn in_range(who: &str, key: &str, given: &At<i64>, max: u64, report: &mut Report) -> Option<u64> {
    let number = u64::try_from(given.value).ok().filter(|number| (1..=max).contains(number));
    if number.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} of {who} is out of range", given.value))
                .help(format!("it goes from 1 to {max}; without the key there is no limit"))
        });
    }
    number
}

/// The overload limit of the node.
pub(super) fn node_limit(given: Option<&At<i64>>, report: &mut Report) -> Option<Option<u64>> {
    optional(given, |given| in_range("[node]", "max_new_flows", given, MAX_RATE, report))
}
