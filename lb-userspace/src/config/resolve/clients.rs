//! Client regions and their prefixes.

use super::names::{Kind, Names};
use crate::config::fields::{Text, Texts};
use crate::config::model::ClientRegion;
use crate::config::prefix::{IpPrefix, PrefixError};
use crate::config::report::{Finding, Report, Span, quote};

/// The client region of clients that no prefix holds.
pub(super) const DEFAULT: &str = "default";

/// The client regions without `default`, which comes before them.
pub(super) struct Clients<'a> {
    pub(super) names: Names<'a>,
    /// In the order of the ids, `default` first.
    pub(super) regions: Vec<ClientRegion>,
}

/// Resolves all prefixes. Nested ones are meant so; the same one twice has no answer.
pub(super) fn resolve<'a>(raw: &[(Text<'a>, Texts<'a>)], report: &mut Report) -> Clients<'a> {
    let kind = Kind { one: "client region", many: "client regions" };
    let names = Names::collect(kind, raw.iter().map(|(name, _)| Some(name)), report);
    let mut seen: Vec<(IpPrefix, Span)> = Vec::new();
    let mut resolved = Vec::new();
    for (name, texts) in raw {
        if name.value == DEFAULT {
            report.add(|| {
                Finding::new(&name.span, "the client region \"default\" cannot have prefixes").help(
                    "it is where every client belongs that no prefix holds; remove it or name it otherwise",
                )
            });
        }
        let mut prefixes: Vec<IpPrefix> = Vec::new();
        for text in &texts.value {
            if let Some(prefix) = parse(text, "prefix", report) {
                seen.push((prefix, text.span.clone()));
                prefixes.push(prefix);
            }
        }
        prefixes.sort_unstable();
        resolved.push(Some(ClientRegion { name: name.value.to_owned(), prefixes }));
    }
    report_repeated(seen, report);

    let default = ClientRegion { name: DEFAULT.to_owned(), prefixes: Vec::new() };
    let others = names.arrange(resolved).unwrap_or_default();
    Clients { names, regions: std::iter::once(default).chain(others).collect() }
}

fn report_repeated(mut seen: Vec<(IpPrefix, Span)>, report: &mut Report) {
    seen.sort_by(|(a, a_span), (b, b_span)| (a, a_span.start).cmp(&(b, b_span.start)));
    for pair in seen.windows(2) {
        let [(first, first_span), (again, again_span)] = pair else {
            continue;
        };
        if first == again {
            report.add(|| {
                Finding::new(again_span, format!("prefix {again} is listed twice"))
                    .and(first_span, "first listed here")
                    .help(
                        "remove one; a prefix inside a longer or shorter one is fine, the longest match wins",
                    )
            });
        }
    }
}

/// Reads a prefix; `what` is how messages call it.
pub(super) fn parse(text: &Text<'_>, what: &str, report: &mut Report) -> Option<IpPrefix> {
    let given = quote(text.value);
    let error = match IpPrefix::parse(text.value) {
        Ok(prefix) => return Some(prefix),
        Err(error) => error,
    };
    report.add(|| match error {
        PrefixError::Syntax => {
            Finding::new(&text.span, format!("{what} {given} is no address with a length"))
                .help("write \"198.51.100.0/24\" or \"2001:db8:a::/48\"; a single host is /32 or /128")
        }
        PrefixError::Length { max } => {
            Finding::new(&text.span, format!("{what} {given} is longer than its address"))
                .help(format!("the length goes from 0 to {max}"))
        }
        PrefixError::HostBits { corrected } => {
            Finding::new(&text.span, format!("{what} {given} has bits set beyond its length"))
                .help(format!("write \"{corrected}\""))
        }
    });
    None
}
