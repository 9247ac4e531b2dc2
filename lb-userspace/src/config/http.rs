//! `[http]`: what the daemon says over TCP, to whom, and who may act there.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::fields::{Fields, Text, Texts};
use super::limits::{MAX_OPERATOR_CHARS, MAX_OPERATORS};
use super::report::{Finding, Report, Span, quote};
use super::tls_files;

/// `[http]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Where metrics and the status page are served; nowhere if it was not said.
    pub listen: Option<SocketAddr>,
    /// How connections are encrypted; not at all if it was not said.
    pub tls: Option<Tls>,
}

/// Certificates of `[http]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// PEM file with the daemon's certificate and those between it and its authority.
    pub certificate: PathBuf,
    /// PEM file with its private key.
    pub key: PathBuf,
    /// Who may connect; everybody, to read what is read only, if it was not said.
    pub clients: Option<Clients>,
}

/// Who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Clients {
    /// PEM file of the authorities of clients' certificates.
    pub ca: PathBuf,
    /// PEM file of these authorities' revocation lists; nothing is revoked if it was not said.
    pub crl: Option<PathBuf>,
    /// Names of the certificates that may operate; all others may read.
    pub operators: Vec<Operator>,
}

/// Which certificates may operate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operator {
    /// Those with this alternative name (DNS, e-mail or URI) or, exactly, this common name.
    Name(String),
    /// Those of this organisational unit.
    Unit(String),
}

/// `[http]` as the file says it.
pub(super) struct RawHttp<'a> {
    span: Span,
    listen: Option<Text<'a>>,
    certificate: Option<Text<'a>>,
    key: Option<Text<'a>>,
    client_ca: Option<Text<'a>>,
    client_crl: Option<Text<'a>>,
    operators: Option<Texts<'a>>,
    mistyped: bool,
}

impl<'a> RawHttp<'a> {
    pub(super) fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let span = fields.span.clone();
        let listen = fields.string("listen", report);
        let certificate = fields.string("certificate_file", report);
        let key = fields.string("key_file", report);
        let client_ca = fields.string("client_ca_file", report);
        let client_crl = fields.string("client_crl_file", report);
        let operators = fields.strings("operators", report);
        let mistyped = fields.mistyped;
        fields.finish(report);
        Self { span, listen, certificate, key, client_ca, client_crl, operators, mistyped }
    }
}

const EXAMPLE: &str = "write an address and a port, such as \"127.0.0.1:9440\" or \"[2001:db8::5]:9440\"";

/// Resolves the table; `None` only if a problem was reported.
pub(super) fn resolve(raw: Option<&RawHttp<'_>>, report: &mut Report) -> Option<Http> {
    let Some(raw) = raw else { return Some(Http::default()) };
    let listen = raw.listen.as_ref().map(|text| listen(text, report));
    let tls = if raw.mistyped { None } else { tls(raw, report) };
    Some(Http { listen: listen.map_or(Some(None), |found| found.map(Some))?, tls: tls? })
}

fn listen(text: &Text<'_>, report: &mut Report) -> Option<SocketAddr> {
    let problem = match text.value.parse::<SocketAddr>() {
        Err(_) => "is no address with a port",
        Ok(address) if address.port() == 0 => "has port 0",
        Ok(address) if address.ip().is_multicast() => "is a multicast address",
        Ok(listen) => return Some(listen),
    };
    report.add(|| {
        Finding::new(&text.span, format!("listen {} of [http] {problem}", quote(text.value))).help(EXAMPLE)
    });
    None
}

/// The outer `None` only if a problem was reported.
fn tls(raw: &RawHttp<'_>, report: &mut Report) -> Option<Option<Tls>> {
    let missing = |key: &str, because: &str, example: &str, report: &mut Report| {
        report.add(|| {
            Finding::new(&raw.span, format!("[http] has {because} and no \"{key}\""))
                .help(format!("add {key} = {example}"))
        });
    };
    let (certificate, key) = match (&raw.certificate, &raw.key) {
        (None, None) => {
            let others = [
                (raw.client_ca.is_some(), "\"client_ca_file\""),
                (raw.client_crl.is_some(), "\"client_crl_file\""),
                (raw.operators.is_some(), "\"operators\""),
            ];
            if let Some((_, because)) = others.into_iter().find(|(is_there, _)| *is_there) {
                let example = "\"/etc/weir/tls/edge-1.pem\", and key_file: who asks is known over TLS only";
                missing("certificate_file", because, example, report);
                return None;
            }
            return Some(None);
        }
        (Some(_), None) => {
            missing("key_file", "\"certificate_file\"", "\"/etc/weir/tls/edge-1.key\"", report);
            return None;
        }
        (None, Some(_)) => {
            missing("certificate_file", "\"key_file\"", "\"/etc/weir/tls/edge-1.pem\"", report);
            return None;
        }
        (Some(certificate), Some(key)) => (certificate, key),
    };
    if raw.listen.is_none() {
        missing("listen", "\"certificate_file\"", "\"192.0.2.5:9440\": where the daemon listens", report);
    }
    let clients = match &raw.client_ca {
        Some(ca) => clients(raw, ca, report).map(Some),
        None if raw.operators.is_none() && raw.client_crl.is_none() => Some(None),
        None => {
            let because = if raw.operators.is_some() { "\"operators\"" } else { "\"client_crl_file\"" };
            missing("client_ca_file", because, "\"/etc/weir/tls/clients.pem\"", report);
            None
        }
    };
    let certificate_path = file("certificate_file", certificate, tls_files::chain, report);
    let key_path = file("key_file", key, tls_files::private_key, report);
    let (certificate_file, key_file, clients) = (certificate_path?, key_path?, clients?);
    if let Err(error) = tls_files::pair(&certificate_file, &key_file) {
        report.add(|| {
            Finding::new(&key.span, format!("key_file {} {}", quote(key.value), error.message))
                .and(&certificate.span, "the certificate")
                .help(error.remedy)
        });
        return None;
    }
    raw.listen.as_ref()?;
    Some(Some(Tls { certificate: certificate_file, key: key_file, clients }))
}

/// Who may connect; `None` only if a problem was reported.
fn clients(raw: &RawHttp<'_>, authorities: &Text<'_>, report: &mut Report) -> Option<Clients> {
    let ca = file("client_ca_file", authorities, tls_files::authorities, report);
    let lists = raw.client_crl.as_ref().map(|lists| {
        let of = ca.as_deref();
        file("client_crl_file", lists, |path| tls_files::revocation_lists(path, of), report)
    });
    let operators = raw.operators.as_ref().map_or(Some(Vec::new()), |all| operators(all, report));
    let crl = lists.map_or(Some(None), |found| found.map(Some));
    Some(Clients { ca: ca?, crl: crl?, operators: operators? })
}

/// A file that can be used as `read` does.
fn file<T>(
    key: &str,
    text: &Text<'_>,
    read: impl FnOnce(&Path) -> Result<T, tls_files::TlsFileError>,
    report: &mut Report,
) -> Option<PathBuf> {
    let path = PathBuf::from(text.value);
    let outcome = if path.is_absolute() {
        read(&path).map(drop)
    } else {
        let remedy = "begin it with \"/\": the daemon's working directory is not yours";
        Err(tls_files::TlsFileError::new("is no absolute path", remedy))
    };
    match outcome {
        Ok(()) => Some(path),
        Err(error) => {
            report.add(|| {
                let message = format!("{key} {} of [http] {}", quote(text.value), error.message);
                Finding::new(&text.span, message).help(error.remedy)
            });
            None
        }
    }
}

fn operators(all: &Texts<'_>, report: &mut Report) -> Option<Vec<Operator>> {
    if all.value.len() > MAX_OPERATORS {
        report.add(|| {
            let count = all.value.len();
            Finding::new(&all.span, format!("[http] has {count} operators; MAX_OPERATORS is {MAX_OPERATORS}"))
                .help("give those who may operate one organisational unit: \"OU=network\"")
        });
        return None;
    }
    let read = all.value.iter().map(|text| operator(text, report)).collect::<Vec<_>>();
    read.into_iter().collect()
}

fn operator(text: &Text<'_>, report: &mut Report) -> Option<Operator> {
    let (name, is_unit) = match text.value.strip_prefix("OU=") {
        Some(unit) => (unit, true),
        None => (text.value, false),
    };
    let problem = if name.trim().is_empty() {
        "is empty".to_owned()
    } else if name.trim() != name {
        "has white space around it".to_owned()
    } else if name.chars().any(char::is_control) {
        "has control characters".to_owned()
    } else if name.chars().count() > MAX_OPERATOR_CHARS {
        format!("is longer than MAX_OPERATOR_CHARS = {MAX_OPERATOR_CHARS}")
    } else if name.contains('*') {
        "has a \"*\", and stands for one name only".to_owned()
    } else {
        let name = name.to_owned();
        return Some(if is_unit { Operator::Unit(name) } else { Operator::Name(name) });
    };
    report.add(|| {
        Finding::new(&text.span, format!("operator {} of [http] {problem}", quote(text.value))).help(
            "write a name of a client's certificate, as \"ops@example.net\", or a unit, as \"OU=network\"",
        )
    });
    None
}
