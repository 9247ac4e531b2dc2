//! Addresses: what may be one, and which may not meet.

use std::collections::HashMap;
use std::net::IpAddr;

use super::services::Vip;
use super::sets::{Endpoint, Sets};
use crate::config::fields::Text;
use crate::config::model::Node;
use crate::config::prefix::{Ipv4Prefix, Ipv6Prefix};
use crate::config::raw::RawNode;
use crate::config::report::{Finding, Report, Span, quote};

/// Reads an address that one host or VIP can have; `what` is how messages call it.
pub(super) fn parse(what: &str, text: &Text<'_>, report: &mut Report) -> Option<IpAddr> {
    let Ok(address) = text.value.parse::<IpAddr>() else {
        report.add(|| {
            Finding::new(&text.span, format!("{what} cannot be {}", quote(text.value)))
                .help("write an IPv4 or IPv6 address without port, length or brackets")
        });
        return None;
    };
    if let Some((kind, remedy)) = unusable(address) {
        report.add(|| Finding::new(&text.span, format!("{what} cannot be {address}, {kind}")).help(remedy));
        return None;
    }
    Some(address)
}

/// Why no host on a network can have this address, and what to do.
fn unusable(address: IpAddr) -> Option<(&'static str, String)> {
    let own = || "use an address that is routed to one host".to_owned();
    if address.is_unspecified() {
        return Some(("the unspecified address", own()));
    }
    if address.is_loopback() {
        return Some(("a loopback address", own()));
    }
    if address.is_multicast() {
        return Some(("a multicast address", own()));
    }
    match address {
        IpAddr::V4(v4) if v4.is_broadcast() => Some(("the broadcast address", own())),
        IpAddr::V6(v6) if v6.is_unicast_link_local() => {
            Some(("a link-local address, which is not routed", own()))
        }
        IpAddr::V6(v6) => {
            let v4 = v6.to_ipv4_mapped()?;
            Some(("an IPv4-mapped address", format!("write \"{v4}\"")))
        }
        IpAddr::V4(_) => None,
    }
}

/// Reports addresses that meet where they must not, and tunnel sources that are missing.
pub(super) fn check(
    raw_node: Option<&RawNode<'_>>,
    node: Option<&Node>,
    sets: &Sets<'_>,
    vips: &[Vip],
    tunnels: bool,
    report: &mut Report,
) {
    repeated_services(vips, report);
    repeated_backends(&sets.addresses, report);
    backends_at_vips(&sets.addresses, vips, report);
    if let Some(raw_node) = raw_node.filter(|raw| tunnels && !raw.mistyped) {
        missing_tunnel_sources(raw_node, &sets.addresses, report);
    }
    if let Some(node) = node {
        inside_tunnel_sources(node, &sets.addresses, vips, report);
    }
}

fn repeated_services(vips: &[Vip], report: &mut Report) {
    let mut seen: HashMap<_, &Span> = HashMap::new();
    for vip in vips {
        let (Some(port), Some(protocol)) = (vip.port, vip.protocol) else {
            continue;
        };
        if let Some(first) = seen.get(&(vip.address, port, protocol)) {
            let endpoint = match vip.address {
                IpAddr::V4(address) => format!("{address}:{port}/{protocol}"),
                IpAddr::V6(address) => format!("[{address}]:{port}/{protocol}"),
            };
            report.add(|| {
                Finding::new(&vip.span, format!("two services have the address {endpoint}"))
                    .and(first, "first used here")
                    .help("give one of them another address, port or protocol, or merge their pools into one service")
            });
        } else {
            seen.insert((vip.address, port, protocol), &vip.span);
        }
    }
}

/// One host in one set counts once, and stands in one rack wherever it appears.
fn repeated_backends(backends: &[Endpoint<'_>], report: &mut Report) {
    let mut in_set: HashMap<(usize, IpAddr), &Endpoint<'_>> = HashMap::new();
    let mut anywhere: HashMap<IpAddr, &Endpoint<'_>> = HashMap::new();
    for backend in backends {
        let address = backend.address;
        if let Some(first) = in_set.get(&(backend.set, address)) {
            report.add(|| {
                Finding::new(&backend.span, format!("two backends of one set have the address {address}"))
                    .and(&first.span, "first used here")
                    .help("remove one; to give a host a larger share, raise its weight")
            });
            continue;
        }
        in_set.insert((backend.set, address), backend);
        let first = *anywhere.entry(address).or_insert(backend);
        if let (Some(there), Some(here)) = (first.rack, backend.rack)
            && there != here
        {
            report.add(|| {
                let (name, other) = (quote(backend.backend), quote(first.backend));
                Finding::new(
                    &backend.span,
                    format!("backend {name} has the address of {other}, in another rack"),
                )
                .and(&first.span, "first used here")
                .help("one host stands in one rack: correct the address or the rack of one of them")
            });
        }
    }
}

fn backends_at_vips(backends: &[Endpoint<'_>], vips: &[Vip], report: &mut Report) {
    let by_address: HashMap<IpAddr, &Span> = vips.iter().rev().map(|vip| (vip.address, &vip.span)).collect();
    for backend in backends {
        if let Some(vip) = by_address.get(&backend.address) {
            report.add(|| {
                let name = quote(backend.backend);
                Finding::new(&backend.span, format!("the address of backend {name} is the VIP {}", backend.address))
                    .and(vip, "the service's address")
                    .help("give the host's own address: its tunnel ends there, and packets to the VIP come back here")
            });
        }
    }
}

/// The outer source is needed for each family in which there are tunnel endpoints.
fn missing_tunnel_sources(node: &RawNode<'_>, backends: &[Endpoint<'_>], report: &mut Report) {
    let keys = [
        (&node.tunnel_source_v4, "tunnel_source_v4", "10.255.0.0/16", false),
        (&node.tunnel_source_v6, "tunnel_source_v6", "fd00:ff::/64", true),
    ];
    for (given, key, example, is_v6) in keys {
        let user = backends.iter().find(|backend| backend.address.is_ipv6() == is_v6);
        if let (None, Some(user)) = (given, user) {
            report.add(|| {
                Finding::new(&node.span, format!("[node] has no \"{key}\""))
                    .and(&user.span, "a tunnel to here needs it")
                    .help(format!(
                        "add {key} = \"{example}\": the outer source of tunnelled packets, unused elsewhere"
                    ))
            });
        }
    }
}

fn inside_tunnel_sources(node: &Node, backends: &[Endpoint<'_>], vips: &[Vip], report: &mut Report) {
    let inside = |address: IpAddr| match address {
        IpAddr::V4(v4) => {
            let prefix = node.tunnel_source_v4;
            (prefix != Ipv4Prefix::UNSPECIFIED && prefix.contains(v4)).then(|| prefix.to_string())
        }
        IpAddr::V6(v6) => {
            let prefix = node.tunnel_source_v6;
            (prefix != Ipv6Prefix::UNSPECIFIED && prefix.contains(v6)).then(|| prefix.to_string())
        }
    };
    let spans =
        backends.iter().map(|b| (b.address, &b.span)).chain(vips.iter().map(|v| (v.address, &v.span)));
    for (address, span) in spans {
        if let Some(prefix) = inside(address) {
            report.add(|| {
                Finding::new(span, format!("{address} lies in the tunnel source {prefix}")).help(
                    "every address of the tunnel source is used by this host: choose a prefix without hosts",
                )
            });
        }
    }
}
