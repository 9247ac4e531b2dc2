//! The file of client prefixes: for more than one wants to write by hand, one line `prefix,client_region` each.
//!
//! Empty lines and lines that begin with `#` are skipped, as is a first line `prefix,client_region`. White space around
//! both fields does not count; there are no quotes. The client regions are those of `[client_regions]`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::net::IpAddr;
use std::path::Path;

use super::error::ConfigError;
use super::limits::{MAX_CLIENT_FILE_BYTES, MAX_CLIENT_PREFIXES};
use super::model::ClientRegion;
use super::prefix::{IpPrefix, PrefixError};
use super::report::{Finding, Report, Span, quote};

/// The first line of a file that names its columns.
const HEADER: &str = "prefix,client_region";
/// What a line looks like.
const LINE: &str = "write one line for each prefix, such as 198.51.100.0/24,west";

/// A prefix of the file: where it stands, and to which region it belongs.
struct Entry {
    prefix: IpPrefix,
    span: Span,
    region: usize,
}

/// Reads the file at `path` and adds its prefixes to `regions`.
///
/// # Errors
/// All problems that were found, with their places in that file. `regions` are then as they were.
pub(super) fn extend(regions: &mut [ClientRegion], path: &Path) -> Result<(), ConfigError> {
    let name = path.display().to_string();
    let text = read(path, &name)?;
    let mut report = Report::default();
    let mut entries = parse(&text, regions, &mut report);
    report_repeated(&mut entries, regions, &mut report);
    if !report.is_clean() {
        return Err(report.into_error(&name, &text));
    }
    let count = entries.len() + regions.iter().map(|region| region.prefixes.len()).sum::<usize>();
    if count > MAX_CLIENT_PREFIXES {
        let message = format!("there are {count} client prefixes, with those in [client_regions]");
        let remedy = format!("MAX_CLIENT_PREFIXES is {MAX_CLIENT_PREFIXES}; merge adjacent ones");
        return Err(ConfigError::of_file(&name, message, &remedy));
    }
    for entry in entries {
        regions[entry.region].prefixes.push(entry.prefix);
    }
    regions.iter_mut().for_each(|region| region.prefixes.sort_unstable());
    Ok(())
}

/// The text of a regular file that is neither too large nor binary.
fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => "create it, or correct client_prefixes_file in [node]",
            ErrorKind::PermissionDenied => "run as a user who may read it (the daemon runs as root)",
            _ => "name another file as client_prefixes_file in [node]",
        };
        ConfigError::of_file(name, format!("cannot read the client prefixes: {error}"), remedy)
    };
    // Opening something else than a file, such as a FIFO, could block for ever.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        let message = "the file of client prefixes is no regular file".to_owned();
        return Err(ConfigError::of_file(name, message, "name a file as client_prefixes_file in [node]"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_CLIENT_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_CLIENT_FILE_BYTES {
        let message =
            format!("the file of client prefixes is larger than {} MiB", MAX_CLIENT_FILE_BYTES >> 20);
        let remedy = "MAX_CLIENT_FILE_BYTES is the limit; merge adjacent prefixes, and leave comments out";
        return Err(ConfigError::of_file(name, message, remedy));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let message = format!("the file of client prefixes is not UTF-8 on line {line}");
        ConfigError::of_file(name, message, "save it as UTF-8; prefixes and names need no other characters")
    })
}

fn parse(text: &str, regions: &[ClientRegion], report: &mut Report) -> Vec<Entry> {
    // Region 0 is `default`, which has no prefixes.
    let ids: HashMap<&str, usize> =
        regions.iter().enumerate().skip(1).map(|(id, region)| (region.name.as_str(), id)).collect();
    let mut entries = Vec::new();
    let mut start = 0;
    for line in text.split('\n') {
        let line_start = start;
        start += line.len() + 1;
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with('#') || (line_start == 0 && trimmed == HEADER) {
            continue;
        }
        let whole = span_of(line, trimmed, line_start);
        let Some((prefix, region)) = trimmed.split_once(',') else {
            report.add(|| Finding::new(&whole, "this line has no comma").help(LINE));
            continue;
        };
        let (prefix, region) = (prefix.trim(), region.trim());
        let span = span_of(line, prefix, line_start);
        let prefix = parse_prefix(prefix, &span, report);
        let id = ids.get(region).copied();
        if id.is_none() {
            report.add(|| {
                let known = regions.iter().skip(1).map(|region| region.name.as_str());
                let message = format!("client region {} is not defined", quote(region));
                Finding::new(&span_of(line, region, line_start), message).did_you_mean(
                    region,
                    "client regions of [client_regions]",
                    known,
                )
            });
        }
        if let (Some(prefix), Some(region)) = (prefix, id) {
            entries.push(Entry { prefix, span, region });
        }
    }
    entries
}

/// Where `part`, which is a part of `line`, stands in a text in which the line begins at `line_start`.
fn span_of(line: &str, part: &str, line_start: usize) -> Span {
    let start = line_start + (part.as_ptr().addr() - line.as_ptr().addr());
    start..start + part.len()
}

fn parse_prefix(text: &str, span: &Span, report: &mut Report) -> Option<IpPrefix> {
    let problem = match IpPrefix::parse(text) {
        Ok(prefix) => match prefix.address() {
            IpAddr::V6(address) if prefix.length() >= 96 && address.to_ipv4_mapped().is_some() => {
                ("is IPv4-mapped".to_owned(), "write it as an IPv4 prefix".to_owned())
            }
            _ => return Some(prefix),
        },
        Err(PrefixError::Syntax) => (
            "is no address with a length".to_owned(),
            "write 198.51.100.0/24 or 2001:db8:a::/48; a single host is /32 or /128".to_owned(),
        ),
        Err(PrefixError::Length { max }) => {
            ("is longer than its address".to_owned(), format!("the length goes from 0 to {max}"))
        }
        Err(PrefixError::HostBits { corrected }) => {
            ("has bits set beyond its length".to_owned(), format!("write {corrected}"))
        }
    };
    let (message, remedy) = problem;
    report.add(|| Finding::new(span, format!("prefix {} {message}", quote(text))).help(remedy));
    None
}

/// Reports prefixes that the file has twice, or that [client_regions] has too. Sorts `entries`.
fn report_repeated(entries: &mut [Entry], regions: &[ClientRegion], report: &mut Report) {
    entries.sort_unstable_by_key(|entry| (entry.prefix, entry.span.start));
    for pair in entries.windows(2).filter(|pair| pair[0].prefix == pair[1].prefix) {
        report.add(|| {
            Finding::new(&pair[1].span, format!("prefix {} is listed twice", pair[1].prefix))
                .and(&pair[0].span, "first listed here")
                .help("remove one; a prefix inside a longer or shorter one is fine, the longest match wins")
        });
    }
    for region in regions {
        for prefix in &region.prefixes {
            if let Ok(found) = entries.binary_search_by_key(prefix, |entry| entry.prefix) {
                report.add(|| {
                    let message = format!(
                        "prefix {prefix} is also listed in [client_regions], for {}",
                        quote(&region.name)
                    );
                    Finding::new(&entries[found].span, message).help("remove one of them")
                });
            }
        }
    }
}
