//! `forwarding`, `gue_port`, `reach` and `udp` of services.

use std::collections::HashMap;

use lb_common::abi::agent::DEFAULT_GUE_PORT;

use super::checks::{choice, port};
use crate::config::endpoint::Vip;
use crate::config::forwarding::{Forwarding, Reach, Udp};
use crate::config::model::{Protocol, Service};
use crate::config::raw::RawService;
use crate::config::report::{Finding, Report, Span};

/// How packets travel to the backends.
pub(super) fn resolve_forwarding(who: &str, raw: &RawService<'_>, report: &mut Report) -> Option<Forwarding> {
    #[derive(Clone, Copy, PartialEq, Eq)]
    enum Kind {
        Ipip,
        Gue,
        L2,
    }
    let kinds = [("ipip", Kind::Ipip), ("gue", Kind::Gue), ("l2", Kind::L2)];
    let kind = match &raw.forwarding {
        None => Some(Kind::Ipip),
        Some(text) => choice(&format!("forwarding of {who}"), text, &kinds, report),
    };
    let given = raw.gue_port.as_ref().map(|given| port(who, given, report));
    if let (Some(kind), Some(given)) = (kind.filter(|kind| *kind != Kind::Gue), &raw.gue_port) {
        report.add(|| {
            let finding =
                Finding::new(&given.span, format!("{who} has a gue_port, but does not forward by GUE"));
            let remedy = "write forwarding = \"gue\", or remove gue_port";
            match &raw.forwarding {
                Some(text) => finding.and(&text.span, "its forwarding").help(remedy),
                None => finding.help(format!("{remedy}: without forwarding it is \"ipip\"")),
            }
        });
        return Some(if kind == Kind::L2 { Forwarding::L2 } else { Forwarding::Ipip });
    }
    Some(match kind? {
        Kind::Ipip => Forwarding::Ipip,
        Kind::L2 => Forwarding::L2,
        Kind::Gue => Forwarding::Gue { port: given.unwrap_or(Some(DEFAULT_GUE_PORT))? },
    })
}

/// How clients reach the VIP.
pub(super) fn resolve_reach(who: &str, raw: &RawService<'_>, report: &mut Report) -> Option<Reach> {
    match &raw.reach {
        None => Some(Reach::Route),
        Some(text) => {
            let ways = [("route", Reach::Route), ("arp", Reach::Arp)];
            choice(&format!("reach of {who}"), text, &ways, report)
        }
    }
}

/// What a drain does to UDP flows. Other protocols, and QUIC, tell which packets open a flow: theirs stay in any case.
pub(super) fn resolve_udp(
    who: &str,
    raw: &RawService<'_>,
    protocol: Option<Protocol>,
    report: &mut Report,
) -> Option<Udp> {
    let Some(text) = &raw.udp else {
        return Some(Udp::Move);
    };
    let udp = choice(&format!("udp of {who}"), text, &[("stick", Udp::Stick), ("move", Udp::Move)], report);
    match protocol {
        Some(other @ (Protocol::Tcp | Protocol::Sctp)) => {
            report.add(|| {
                let finding =
                    Finding::new(&text.span, format!("{who} has \"udp\", but its protocol is {other}"));
                let finding = match &raw.protocol {
                    Some(protocol) => finding.and(&protocol.span, "its protocol"),
                    None => finding,
                };
                finding.help("remove it: established flows of other protocols than UDP stay in any case")
            });
            return None;
        }
        Some(Protocol::Udp) | None => {}
    }
    if let Some(quic) = &raw.quic {
        report.add(|| {
            Finding::new(&text.span, format!("{who} has both \"udp\" and [service.quic]"))
                .and(&quic.span, "the other one")
                .help("remove udp: QUIC tells which datagrams open a connection, and established ones stay in any case")
        });
        return None;
    }
    udp
}

/// What one service says about its VIP.
pub(super) struct Reached {
    pub(super) vip: Vip,
    pub(super) reach: Reach,
    /// Where `reach` stands, or the address where it does not.
    pub(super) span: Span,
}

/// Reports services that disagree on how their common VIP is reached: a VIP has one answer to "who has it?".
pub(super) fn check_reach(services: &[Reached], report: &mut Report) {
    let mut first: HashMap<Vip, &Reached> = HashMap::new();
    for service in services {
        let known = *first.entry(service.vip).or_insert(service);
        if known.reach != service.reach {
            report.add(|| {
                let (here, there) = (service.reach.name(), known.reach.name());
                Finding::new(
                    &service.span,
                    format!("the VIP {} has reach \"{here}\" here and \"{there}\" elsewhere", service.vip),
                )
                .and(&known.span, "the other service")
                .help("a VIP is reached one way: give all services that share it the same reach")
            });
        }
    }
}

/// Whether packets of some service are tunnelled, as far as that is known.
pub(super) fn any_tunnels(services: &[Option<Service>]) -> bool {
    let is_direct = |service: &Option<Service>| {
        service.as_ref().is_some_and(|service| service.forwarding == Forwarding::L2)
    };
    services.is_empty() || !services.iter().all(is_direct)
}
