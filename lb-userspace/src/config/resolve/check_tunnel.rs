//! `via` and `vip` of TCP, HTTP and HTTPS checks: through the tunnel to the VIP itself.

use std::net::IpAddr;

use super::addresses;
use super::checks::choice;
use super::services;
use crate::config::checks::CheckKind;
use crate::config::raw::RawCheck;
use crate::config::report::{Finding, Report, quote};

/// A TCP check of this port.
pub(super) fn resolve(who: &str, port: u16, raw: &RawCheck<'_>, report: &mut Report) -> Option<CheckKind> {
    Some(match vip(who, raw, report)? {
        None => CheckKind::Tcp { port },
        Some(vip) => CheckKind::TcpTunnel { vip, port },
    })
}

/// The VIP that is asked for at the tunnel's end; `Some(None)` without a tunnel.
pub(super) fn vip(who: &str, raw: &RawCheck<'_>, report: &mut Report) -> Option<Option<IpAddr>> {
    let ways = [("direct", false), ("tunnel", true)];
    let tunnelled = match &raw.via {
        None => false,
        Some(text) => choice(&format!("via of {who}"), text, &ways, report)?,
    };
    match (tunnelled, &raw.vip) {
        (false, None) => Some(None),
        (true, Some(text)) => addresses::parse(&format!("vip of {who}"), text, report).map(Some),
        (true, None) => {
            report.add(|| {
                Finding::new(&raw.span, format!("{who} goes through the tunnel, but has no \"vip\"")).help(
                    "add vip = \"...\": the address of the service that is asked for at the tunnel's end",
                )
            });
            None
        }
        (false, Some(text)) => {
            report.add(|| {
                Finding::new(&text.span, format!("{who} has a vip, but does not go through the tunnel"))
                    .help("write via = \"tunnel\", or remove vip")
            });
            None
        }
    }
}

/// Reports checks through the tunnel to what is no VIP: no backend answers for it.
pub(super) fn check(raw: &[RawCheck<'_>], vips: &[services::Endpoint], report: &mut Report) {
    for text in raw.iter().filter_map(|check| check.vip.as_ref()) {
        let Ok(vip) = text.value.parse::<IpAddr>() else { continue };
        if !vips.is_empty() && !vips.iter().any(|place| place.vip.contains(vip)) {
            report.add(|| {
                Finding::new(&text.span, format!("vip {} is the address of no service", quote(text.value)))
                    .help("name the VIP of a service whose pools have the sets with this check")
            });
        }
    }
}
