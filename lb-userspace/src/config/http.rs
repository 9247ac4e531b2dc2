//! `[http]`: what the daemon says over TCP, to be read only.

use std::net::SocketAddr;

use super::fields::{Fields, Text};
use super::report::{Finding, Report, quote};

/// `[http]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Http {
    /// Where metrics and the status page are served, without authentication; nowhere if it was not said.
    pub listen: Option<SocketAddr>,
}

/// `[http]` as the file says it.
pub(super) struct RawHttp<'a> {
    listen: Option<Text<'a>>,
}

impl<'a> RawHttp<'a> {
    pub(super) fn read(mut fields: Fields<'a>, report: &mut Report) -> Self {
        let listen = fields.string("listen", report);
        fields.finish(report);
        Self { listen }
    }
}

const EXAMPLE: &str = "write an address and a port, such as \"127.0.0.1:9440\" or \"[2001:db8::5]:9440\"";

/// Resolves the table; `None` only if a problem was reported.
pub(super) fn resolve(raw: Option<&RawHttp<'_>>, report: &mut Report) -> Option<Http> {
    let Some(text) = raw.and_then(|raw| raw.listen.as_ref()) else { return Some(Http::default()) };
    let problem = match text.value.parse::<SocketAddr>() {
        Err(_) => "is no address with a port",
        Ok(address) if address.port() == 0 => "has port 0",
        Ok(address) if address.ip().is_multicast() => "is a multicast address",
        Ok(listen) => return Some(Http { listen: Some(listen) }),
    };
    report.add(|| {
        Finding::new(&text.span, format!("listen {} of [http] {problem}", quote(text.value))).help(EXAMPLE)
    });
    None
}
