//! What each kind of check says beyond its timing.

use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::addresses;
use super::check_http;
use super::check_tunnel;
use super::checks::{choice, duration, port};
use crate::config::checks::{BfdCheck, CheckKind, DnsCheck, ExecCheck, HttpCheck, UdpCheck, parse_hex};
use crate::config::fields::{At, Text, Texts};
use crate::config::limits::{
    MAX_CHECK_TEXT_BYTES, MAX_COMMAND_ARGUMENTS, MAX_DATAGRAM_BYTES, MIN_HEARTBEAT_INTERVAL,
};
use crate::config::raw::RawCheck;
use crate::config::report::{Finding, Report, quote};

/// A kind as the file names it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Heartbeat,
    Tcp,
    Http,
    Https,
    Udp,
    Dns,
    Icmp,
    Exec,
    Bfd,
}

/// The words for them.
pub(super) const KINDS: [(&str, Kind); 9] = [
    ("heartbeat", Kind::Heartbeat),
    ("tcp", Kind::Tcp),
    ("http", Kind::Http),
    ("https", Kind::Https),
    ("udp", Kind::Udp),
    ("dns", Kind::Dns),
    ("icmp", Kind::Icmp),
    ("exec", Kind::Exec),
    ("bfd", Kind::Bfd),
];

/// UDP port of `weir agent` when the file does not say.
const DEFAULT_HEARTBEAT_PORT: u16 = 6777;
const DEFAULT_HTTP_PORT: u16 = 80;
const DEFAULT_HTTPS_PORT: u16 = 443;
const DEFAULT_DNS_PORT: u16 = 53;
const DEFAULT_MULTIPLIER: u8 = 3;
/// Types of records that a DNS check asks for (RFC 1035 section 3.2.2, RFC 3596, RFC 2782).
const RECORDS: [(&str, u16); 9] = [
    ("A", 1),
    ("NS", 2),
    ("CNAME", 5),
    ("SOA", 6),
    ("PTR", 12),
    ("MX", 15),
    ("TXT", 16),
    ("AAAA", 28),
    ("SRV", 33),
];
/// Response codes (RFC 1035 section 4.1.1).
const RCODES: [(&str, Option<u8>); 7] = [
    ("NOERROR", Some(0)),
    ("FORMERR", Some(1)),
    ("SERVFAIL", Some(2)),
    ("NXDOMAIN", Some(3)),
    ("NOTIMP", Some(4)),
    ("REFUSED", Some(5)),
    ("any", None),
];
/// Longest label and name (RFC 1035 section 2.3.4; the name without its length bytes at both ends).
const MAX_LABEL_BYTES: usize = 63;
const MAX_DNS_NAME_BYTES: usize = 253;

impl Kind {
    fn word(self) -> &'static str {
        KINDS.iter().find(|(_, kind)| *kind == self).map_or("", |(word, _)| word)
    }

    /// Keys beyond `name`, `kind`, `interval` and `rise` that mean something for it.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Heartbeat => &["timeout", "fall", "jitter", "port"],
            Self::Tcp => &["timeout", "fall", "jitter", "port", "via", "vip"],
            Self::Http => &[
                "timeout",
                "fall",
                "jitter",
                "port",
                "via",
                "vip",
                "method",
                "path",
                "host",
                "status",
                "body",
                "body_limit",
            ],
            Self::Https => &[
                "timeout",
                "fall",
                "jitter",
                "port",
                "via",
                "vip",
                "method",
                "path",
                "host",
                "status",
                "body",
                "body_limit",
                "server_name",
                "ca_file",
                "verify",
            ],
            Self::Udp => &[
                "timeout",
                "fall",
                "jitter",
                "port",
                "send",
                "send_hex",
                "expect",
                "expect_hex",
                "expect_at",
            ],
            Self::Dns => &["timeout", "fall", "jitter", "port", "query", "type", "rcode"],
            Self::Icmp => &["timeout", "fall", "jitter"],
            Self::Exec => &["timeout", "fall", "jitter", "command", "user"],
            Self::Bfd => &["multihop", "receive_interval", "multiplier", "passive", "local"],
        }
    }
}

/// Reports keys that mean something for other kinds only.
pub(super) fn refuse_foreign_keys(who: &str, kind: Kind, raw: &RawCheck<'_>, report: &mut Report) {
    const COMMON: [&str; 4] = ["name", "kind", "interval", "rise"];
    let is_known = |key: &str| KINDS.iter().any(|(_, other)| other.keys().contains(&key));
    for key in &raw.keys {
        if COMMON.contains(&key.value) || kind.keys().contains(&key.value) || !is_known(key.value) {
            continue;
        }
        report.add(|| {
            let message =
                format!("{} has no meaning for {who}, of kind {}", quote(key.value), quote(kind.word()));
            let remedy = match (kind, key.value) {
                (Kind::Bfd, "timeout" | "fall") => {
                    "a session is down after receive_interval x the peer's multiplier: remove it".to_owned()
                }
                (Kind::Bfd, "jitter") => {
                    "RFC 5880 section 6.8.7 says how packets are jittered: remove it".to_owned()
                }
                (Kind::Http, "server_name" | "ca_file" | "verify") => {
                    "write kind = \"https\", or remove it".to_owned()
                }
                _ => format!("remove it; what a check of this kind takes: {}", kind.keys().join(", ")),
            };
            Finding::new(&key.span, message).help(remedy)
        });
    }
}

/// What the check sends.
pub(super) fn resolve(who: &str, kind: Kind, raw: &RawCheck<'_>, report: &mut Report) -> Option<CheckKind> {
    let given_port = |default: Option<u16>, example: &str, report: &mut Report| match &raw.port {
        Some(given) => port(who, given, report),
        None if default.is_some() || raw.mistyped => default,
        None => {
            report.add(|| {
                Finding::new(&raw.span, format!("{who} has no \"port\"")).help(format!("add {example}"))
            });
            None
        }
    };
    match kind {
        Kind::Heartbeat => {
            let port = given_port(Some(DEFAULT_HEARTBEAT_PORT), "", report)?;
            Some(CheckKind::Heartbeat { port })
        }
        Kind::Tcp => {
            let port = given_port(None, "port = 80: the TCP port to connect to", report)?;
            check_tunnel::resolve(who, port, raw, report)
        }
        Kind::Http | Kind::Https => {
            let tls = kind == Kind::Https;
            let default = if tls { DEFAULT_HTTPS_PORT } else { DEFAULT_HTTP_PORT };
            let port = given_port(Some(default), "", report);
            let check = check_http::resolve(who, raw, tls, report);
            let vip = check_tunnel::vip(who, raw, report);
            check
                .zip(port)
                .zip(vip)
                .map(|((check, port), vip)| CheckKind::Http(Box::new(HttpCheck { port, vip, ..check })))
        }
        Kind::Udp => {
            let port = given_port(None, "port = 514: the UDP port to send to", report);
            let check = udp(who, raw, report);
            check.zip(port).map(|(check, port)| CheckKind::Udp(UdpCheck { port, ..check }))
        }
        Kind::Dns => {
            let port = given_port(Some(DEFAULT_DNS_PORT), "", report);
            let check = dns(who, raw, report);
            check.zip(port).map(|(check, port)| CheckKind::Dns(DnsCheck { port, ..check }))
        }
        Kind::Icmp => Some(CheckKind::Icmp),
        Kind::Exec => exec(who, raw, report).map(CheckKind::Exec),
        Kind::Bfd => bfd(who, raw, report).map(CheckKind::Bfd),
    }
}

/// A text of at most [`MAX_CHECK_TEXT_BYTES`] without control characters.
pub(super) fn plain<'a>(
    key: &str,
    who: &str,
    text: Option<&Text<'a>>,
    report: &mut Report,
) -> Result<Option<&'a str>, ()> {
    let Some(text) = text else { return Ok(None) };
    let problem = if text.value.is_empty() {
        "is empty"
    } else if text.value.len() > MAX_CHECK_TEXT_BYTES {
        "is too long"
    } else if text.value.chars().any(char::is_control) {
        "holds control characters"
    } else {
        return Ok(Some(text.value));
    };
    report.add(|| {
        Finding::new(&text.span, format!("{key} {} of {who} {problem}", quote(text.value)))
            .help(format!("write 1 to {MAX_CHECK_TEXT_BYTES} bytes (MAX_CHECK_TEXT_BYTES) of plain text"))
    });
    Err(())
}

fn udp(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<UdpCheck> {
    let send = payload(who, ["send", "send_hex"], raw.send.as_ref(), raw.send_hex.as_ref(), report);
    let expect = payload(who, ["expect", "expect_hex"], raw.expect.as_ref(), raw.expect_hex.as_ref(), report);
    let places = [("prefix", false), ("contains", true)];
    let anywhere = raw
        .expect_at
        .as_ref()
        .map_or(Some(false), |text| choice(&format!("expect_at of {who}"), text, &places, report));
    let (send, expect) = (send.ok()?, expect.ok()?);
    if let (None, Some(text)) = (&expect, &raw.expect_at) {
        report.add(|| {
            Finding::new(&text.span, format!("{who} has expect_at but neither expect nor expect_hex"))
                .help("add expect = \"...\", or remove expect_at: any answer will do then")
        });
        return None;
    }
    if send.is_none() && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} has nothing to send"))
                .help("add send = \"PING\" or send_hex = \"00 ff\": what the backend answers to")
        });
    }
    Some(UdpCheck { port: 0, send: send?, expect, anywhere: anywhere? })
}

/// Bytes as text or as hexadecimal digits; not both.
fn payload(
    who: &str,
    [key, hex_key]: [&str; 2],
    text: Option<&Text<'_>>,
    hex: Option<&Text<'_>>,
    report: &mut Report,
) -> Result<Option<Vec<u8>>, ()> {
    match (text, hex) {
        (None, None) => Ok(None),
        (Some(text), Some(hex)) => {
            report.add(|| {
                Finding::new(&hex.span, format!("{who} has both {key} and {hex_key}"))
                    .and(&text.span, "the other one")
                    .help("keep one")
            });
            Err(())
        }
        (Some(text), None) if (1..=MAX_DATAGRAM_BYTES).contains(&text.value.len()) => {
            Ok(Some(text.value.as_bytes().to_vec()))
        }
        (Some(text), None) => {
            report.add(|| {
                let message = format!("{key} of {who} has {} bytes", text.value.len());
                Finding::new(&text.span, message)
                    .help(format!("write 1 to {MAX_DATAGRAM_BYTES} (MAX_DATAGRAM_BYTES)"))
            });
            Err(())
        }
        (None, Some(hex)) => match parse_hex(hex.value) {
            Some(bytes) => Ok(Some(bytes)),
            None => {
                report.add(|| {
                    Finding::new(&hex.span, format!("{hex_key} {} of {who} is no list of bytes", quote(hex.value)))
                        .help(format!(
                            "write 1 to {MAX_DATAGRAM_BYTES} bytes (MAX_DATAGRAM_BYTES) as pairs of hexadecimal digits: \"00 ff 1a\""
                        ))
                });
                Err(())
            }
        },
    }
}

fn dns(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<DnsCheck> {
    let record =
        raw.record.as_ref().map_or(Some(1), |text| choice(&format!("type of {who}"), text, &RECORDS, report));
    let rcode = raw
        .rcode
        .as_ref()
        .map_or(Some(Some(0)), |text| choice(&format!("rcode of {who}"), text, &RCODES, report));
    let Some(text) = &raw.query else {
        if !raw.mistyped {
            report.add(|| {
                Finding::new(&raw.span, format!("{who} has no \"query\""))
                    .help("add query = \"example.com\": the name to ask for")
            });
        }
        return None;
    };
    let name = text.value.strip_suffix('.').unwrap_or(text.value);
    let label = |label: &str| {
        (1..=MAX_LABEL_BYTES).contains(&label.len()) && label.bytes().all(|byte| byte.is_ascii_graphic())
    };
    // The root alone is the dot.
    let is_name = name.len() <= MAX_DNS_NAME_BYTES && (text.value == "." || name.split('.').all(label));
    if !is_name {
        report.add(|| {
            Finding::new(&text.span, format!("query {} of {who} is no domain name", quote(text.value))).help(
                "write labels of 1 to 63 letters, digits and hyphens with dots between: \"example.com\"",
            )
        });
        return None;
    }
    Some(DnsCheck { port: 0, query: name.to_owned(), record: record?, rcode: rcode? })
}

fn exec(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<ExecCheck> {
    let Some(command) = &raw.command else {
        if !raw.mistyped {
            report.add(|| {
                Finding::new(&raw.span, format!("{who} has no \"command\"")).help(
                    "add command = [\"/usr/local/bin/check-it\", \"--fast\"]: a program and its arguments",
                )
            });
        }
        return None;
    };
    let command = program("command", who, command, report);
    let user = match &raw.user {
        None => None,
        Some(text) => Some(user(who, text, report)?),
    };
    Some(ExecCheck { command: command?, user })
}

/// A program by its absolute path, and its arguments.
pub(super) fn program(key: &str, who: &str, command: &Texts<'_>, report: &mut Report) -> Option<Vec<String>> {
    let words = &command.value;
    let too_long =
        words.iter().find(|word| word.value.len() > MAX_CHECK_TEXT_BYTES || word.value.contains('\0'));
    if words.is_empty() || words.len() > MAX_COMMAND_ARGUMENTS || too_long.is_some() {
        let span = too_long.map_or(&command.span, |word| &word.span);
        report.add(|| {
            Finding::new(span, format!("{key} of {who} is empty, too long, or has too many arguments")).help(
                format!(
                    "1 to {MAX_COMMAND_ARGUMENTS} words (MAX_COMMAND_ARGUMENTS) of at most {MAX_CHECK_TEXT_BYTES} bytes"
                ),
            )
        });
        return None;
    }
    let program = &words[0];
    if let Some(problem) = not_executable(Path::new(program.value)) {
        report.add(|| {
            Finding::new(&program.span, format!("{key} {} of {who} {problem}", quote(program.value)))
                .help("name a program that exists and may be executed by its absolute path")
        });
        return None;
    }
    Some(words.iter().map(|word| word.value.to_owned()).collect())
}

fn not_executable(program: &Path) -> Option<String> {
    if !program.is_absolute() {
        return Some("is no absolute path".to_owned());
    }
    match std::fs::metadata(program) {
        Err(error) => Some(format!("cannot be run: {error}")),
        Ok(metadata) if !metadata.is_file() => Some("is no program".to_owned()),
        Ok(metadata) if metadata.permissions().mode() & 0o111 == 0 => Some("may not be executed".to_owned()),
        Ok(_) => None,
    }
}

fn user(who: &str, text: &Text<'_>, report: &mut Report) -> Option<(u32, u32)> {
    let found = nix::unistd::User::from_name(text.value).ok().flatten();
    if found.is_none() {
        report.add(|| {
            Finding::new(&text.span, format!("user {} of {who} is not known on this host", quote(text.value)))
                .help("name a user of this host without privileges, such as \"nobody\"")
        });
    }
    found.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
}

fn bfd(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<BfdCheck> {
    let receive_interval = match (&raw.receive_interval, &raw.interval) {
        (Some(text), _) => duration("receive_interval", who, text, MIN_HEARTBEAT_INTERVAL, report),
        // What the file says of one direction holds for both.
        (None, Some(text)) => duration("interval", who, text, MIN_HEARTBEAT_INTERVAL, &mut Report::default()),
        (None, None) => None,
    };
    let multiplier = match &raw.multiplier {
        None => Some(DEFAULT_MULTIPLIER),
        Some(given) => {
            let multiplier = u8::try_from(given.value).ok().filter(|&multiplier| multiplier > 0);
            if multiplier.is_none() {
                report.add(|| {
                    Finding::new(
                        &given.span,
                        format!("multiplier = {} of {who} is out of range", given.value),
                    )
                    .help("it goes from 1 to 255; 3 is usual")
                });
            }
            multiplier
        }
    };
    let mut local: Vec<IpAddr> = Vec::new();
    for text in raw.local.iter().flat_map(|list| &list.value) {
        let address = addresses::parse(&format!("local of {who}"), text, report)?;
        if local.iter().any(|other| other.is_ipv4() == address.is_ipv4()) {
            report.add(|| {
                Finding::new(&text.span, format!("local of {who} has two addresses of one family"))
                    .help("name at most one IPv4 and one IPv6 address")
            });
            return None;
        }
        local.push(address);
    }
    let is = |flag: &Option<At<bool>>| flag.as_ref().is_some_and(|flag| flag.value);
    Some(BfdCheck {
        multihop: is(&raw.multihop),
        receive_interval: receive_interval?,
        multiplier: multiplier?,
        passive: is(&raw.passive),
        local,
    })
}
