//! What HTTP and HTTPS checks say.

use std::path::PathBuf;

use super::check_kinds::plain;
use super::checks::choice;
use crate::config::checks::{HttpCheck, TlsCheck};
use crate::config::fields::{At, Text};
use crate::config::limits::{DEFAULT_BODY_BYTES, MAX_BODY_BYTES, MAX_CA_FILE_BYTES, MAX_STATUS_RANGES};
use crate::config::raw::RawCheck;
use crate::config::report::{Finding, Report, quote};

/// All but the port.
pub(super) fn resolve(who: &str, raw: &RawCheck<'_>, tls: bool, report: &mut Report) -> Option<HttpCheck> {
    let methods = [("GET", false), ("HEAD", true)];
    let head = raw
        .method
        .as_ref()
        .map_or(Some(false), |text| choice(&format!("method of {who}"), text, &methods, report));
    let path = plain("path", who, raw.path.as_ref(), report).map(|path| path.unwrap_or("/"));
    if let (Ok(given), Some(text)) = (path, &raw.path)
        && (!given.starts_with('/') || given.bytes().any(|byte| byte == b' ' || !byte.is_ascii()))
    {
        report.add(|| {
            Finding::new(&text.span, format!("path {} of {who} is no path of a URL", quote(given)))
                .help("begin with \"/\" and write spaces and other characters as %20")
        });
        return None;
    }
    let host = plain("host", who, raw.host.as_ref(), report);
    if let (Ok(Some(given)), Some(text)) = (host, &raw.host)
        && !given.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte))
    {
        report.add(|| {
            Finding::new(&text.span, format!("host {} of {who} is no host name", quote(given)))
                .help("write it as in a URL, without scheme and path: \"www.example.com\"")
        });
        return None;
    }
    let status = statuses(who, raw, report);
    let body = plain("body", who, raw.body.as_ref(), report);
    if head == Some(true)
        && let Some(text) = &raw.body
    {
        report.add(|| {
            Finding::new(&text.span, format!("{who} expects a body and its method is HEAD"))
                .help("write method = \"GET\", or remove \"body\"")
        });
        return None;
    }
    let body_limit = body_limit(who, raw.body_limit.as_ref(), report);
    let tls = if tls { Some(tls_check(who, raw, report)?) } else { None };
    Some(HttpCheck {
        port: 0,
        vip: None,
        tls,
        head: head?,
        path: path.ok()?.to_owned(),
        host: host.ok()?.map(str::to_owned),
        status: status?,
        body: body.ok()?.map(str::to_owned),
        body_limit: body_limit?,
    })
}

fn body_limit(who: &str, given: Option<&At<i64>>, report: &mut Report) -> Option<usize> {
    let Some(given) = given else { return Some(DEFAULT_BODY_BYTES) };
    let limit = usize::try_from(given.value).ok().filter(|limit| (1..=MAX_BODY_BYTES).contains(limit));
    if limit.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("body_limit = {} of {who} is out of range", given.value)).help(
                format!("it counts the bytes that are looked at, 1 to {MAX_BODY_BYTES} (MAX_BODY_BYTES)"),
            )
        });
    }
    limit
}

fn statuses(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<Vec<(u16, u16)>> {
    let Some(given) = &raw.status else { return Some(vec![(200, 299)]) };
    if given.value.is_empty() || given.value.len() > MAX_STATUS_RANGES {
        report.add(|| {
            let message = format!("status of {who} has {} elements", given.value.len());
            Finding::new(&given.span, message)
                .help(format!("name 1 to {MAX_STATUS_RANGES}, such as [\"200-299\", \"404\"]"))
        });
        return None;
    }
    let code = |text: &str| text.parse::<u16>().ok().filter(|code| (100..=599).contains(code));
    let ranges = given.value.iter().map(|text| {
        let (first, last) = text.value.split_once('-').unwrap_or((text.value, text.value));
        let range = code(first).zip(code(last)).filter(|(first, last)| first <= last);
        if range.is_none() {
            report.add(|| {
                Finding::new(&text.span, format!("status of {who} cannot be {}", quote(text.value)))
                    .help("write a code from 100 to 599 or a range of them: \"204\" or \"200-399\"")
            });
        }
        range
    });
    // Each is looked at before the first bad one counts, so that all are reported.
    ranges.collect::<Vec<_>>().into_iter().collect()
}

fn tls_check(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<TlsCheck> {
    let verify = raw.verify.as_ref().is_none_or(|verify| verify.value);
    let server_name = plain("server_name", who, raw.server_name.as_ref(), report).ok()?.map(str::to_owned);
    if let (Some(name), Some(text)) = (&server_name, &raw.server_name)
        && rustls::pki_types::ServerName::try_from(name.as_str()).is_err()
    {
        report.add(|| {
            Finding::new(&text.span, format!("server_name {} of {who} is no host name", quote(name)))
                .help("write the name that the certificate holds, such as \"www.example.com\", or an address")
        });
        return None;
    }
    let ca_file = match &raw.ca_file {
        None => None,
        Some(text) if !verify => {
            report.add(|| {
                let message = format!("{who} has a ca_file and verify = false");
                Finding::new(&text.span, message).help("remove one: without verification nobody is trusted")
            });
            return None;
        }
        Some(text) => Some(ca_file(who, text, report)?),
    };
    Some(TlsCheck { server_name, ca_file, verify })
}

/// A file that can be read and holds certificates. What it holds is read again when the daemon starts.
fn ca_file(who: &str, text: &Text<'_>, report: &mut Report) -> Option<PathBuf> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let path = PathBuf::from(text.value);
    let problem = match std::fs::metadata(&path) {
        _ if !path.is_absolute() => "is no absolute path".to_owned(),
        Err(error) => format!("cannot be read: {error}"),
        Ok(metadata) if !metadata.is_file() => "is no regular file".to_owned(),
        Ok(metadata) if metadata.len() > MAX_CA_FILE_BYTES => {
            format!("is larger than MAX_CA_FILE_BYTES = {MAX_CA_FILE_BYTES}")
        }
        Ok(_) => {
            let certificates =
                CertificateDer::pem_file_iter(&path).map(|found| found.filter_map(Result::ok).count());
            match certificates {
                Ok(count) if count > 0 => return Some(path),
                Ok(_) => "holds no certificate".to_owned(),
                Err(error) => format!("cannot be read: {error}"),
            }
        }
    };
    report.add(|| {
        Finding::new(&text.span, format!("ca_file {} of {who} {problem}", quote(text.value)))
            .help("name a PEM file with the certificates of the authorities to trust")
    });
    None
}
