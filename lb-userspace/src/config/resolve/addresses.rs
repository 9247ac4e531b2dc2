//! Addresses: what may be one, and which may not meet.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::services;
use super::sets::{Endpoint, Sets};
use crate::config::endpoint::{Vip, endpoint};
use crate::config::fields::Text;
use crate::config::limits::{MAX_PORT_RANGES, MAX_VIP_NESTING, MIN_VIP_LENGTH_V4, MIN_VIP_LENGTH_V6};
use crate::config::model::{Node, Protocol};
use crate::config::prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix, PrefixError};
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

/// Reads what one service can have: an address, or a prefix of addresses.
pub(super) fn parse_vip(what: &str, text: &Text<'_>, report: &mut Report) -> Option<Vip> {
    if !text.value.contains('/') {
        return parse(what, text, report).map(Vip::from);
    }
    let prefix = match IpPrefix::parse(text.value) {
        Ok(prefix) => prefix,
        Err(error) => {
            report.add(|| {
                let finding = Finding::new(&text.span, format!("{what} cannot be {}", quote(text.value)));
                match error {
                    PrefixError::Syntax => {
                        finding.help("write an address, or a prefix such as \"192.0.2.0/24\"")
                    }
                    PrefixError::Length { max } => finding.help(format!("the longest prefix has {max} bits")),
                    PrefixError::HostBits { corrected } => finding
                        .help(format!("write \"{corrected}\", or the address alone without its length")),
                }
            });
            return None;
        }
    };
    if let Some((kind, remedy)) = unusable(prefix.address()) {
        report.add(|| Finding::new(&text.span, format!("{what} cannot be {prefix}, {kind}")).help(remedy));
        return None;
    }
    let shortest = if prefix.address().is_ipv4() { MIN_VIP_LENGTH_V4 } else { MIN_VIP_LENGTH_V6 };
    if prefix.length() < shortest {
        report.add(|| {
            Finding::new(&text.span, format!("{what} cannot be {prefix}, which is too much for one service"))
                .help(format!("use a prefix of at least {shortest} bits"))
        });
        return None;
    }
    Some(prefix.into())
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
    vips: &[services::Endpoint],
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

/// Of two services at one address and with one protocol, one must be more specific wherever both have a port.
fn repeated_services(vips: &[services::Endpoint], report: &mut Report) {
    let mut seen: HashMap<(Vip, Protocol), Vec<&services::Endpoint>> = HashMap::new();
    for place in vips {
        let (Some(ports), Some(protocol)) = (place.ports, place.protocol) else {
            continue;
        };
        let there = seen.entry((place.vip, protocol)).or_default();
        let clash = there.iter().find_map(|first| {
            let other = first.ports.filter(|other| other.is_ambiguous_with(ports))?;
            Some((first.span.clone(), other))
        });
        match clash {
            Some((first, other)) if other == ports => report.add(|| {
                let endpoint = endpoint(place.vip, ports, protocol);
                Finding::new(&place.span, format!("two services have the address {endpoint}"))
                    .and(&first, "first used here")
                    .help("give one of them another address, port or protocol, or merge their pools into one service")
            }),
            Some((first, other)) => report.add(|| {
                let message = format!(
                    "two services at {} have ports {ports} and {other}, which overlap and are equally many",
                    endpoint(place.vip, ports, protocol)
                );
                Finding::new(&place.span, message)
                    .and(&first, "the other one")
                    .help("make one of the ranges narrower, so that it goes first, or keep them apart")
            }),
            None => there.push(place),
        }
    }
    too_many_ranges(&seen, report);
    nested_too_deep(vips, report);
}

fn too_many_ranges(places: &HashMap<(Vip, Protocol), Vec<&services::Endpoint>>, report: &mut Report) {
    let mut full: Vec<_> = places
        .iter()
        .filter_map(|((vip, protocol), there)| {
            let mut wide = there.iter().filter(|p| p.ports.is_some_and(|ports| ports.single().is_none()));
            Some((wide.nth(MAX_PORT_RANGES)?, vip, protocol))
        })
        .collect();
    full.sort_by_key(|(place, ..)| place.span.start);
    for (place, vip, protocol) in full {
        report.add(|| {
            Finding::new(
                &place.span,
                format!("more than {MAX_PORT_RANGES} services have ranges of {protocol} ports at {vip}"),
            )
            .help(format!("MAX_PORT_RANGES is {MAX_PORT_RANGES}; join ranges, or use another address"))
        });
    }
}

fn nested_too_deep(vips: &[services::Endpoint], report: &mut Report) {
    let prefixes: BTreeMap<Vip, &Span> =
        vips.iter().rev().filter(|p| p.vip.prefix().is_some()).map(|p| (p.vip, &p.span)).collect();
    for (vip, span) in &prefixes {
        let around = prefixes.keys().filter(|other| *other != vip && other.covers(*vip)).count();
        if around >= MAX_VIP_NESTING {
            report.add(|| {
                Finding::new(span, format!("{vip} lies in {around} other VIP prefixes")).help(format!(
                    "MAX_VIP_NESTING is {MAX_VIP_NESTING}, itself included; use fewer prefixes"
                ))
            });
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

fn backends_at_vips(backends: &[Endpoint<'_>], vips: &[services::Endpoint], report: &mut Report) {
    let hosts: HashMap<IpAddr, &Span> = vips
        .iter()
        .rev()
        .filter(|place| place.vip.prefix().is_none())
        .map(|place| (place.vip.address(), &place.span))
        .collect();
    let prefixes: BTreeMap<Vip, &Span> =
        vips.iter().rev().filter(|p| p.vip.prefix().is_some()).map(|p| (p.vip, &p.span)).collect();
    for backend in backends {
        if let Some(span) = hosts.get(&backend.address) {
            report.add(|| {
                let name = quote(backend.backend);
                Finding::new(&backend.span, format!("the address of backend {name} is the VIP {}", backend.address))
                    .and(span, "the service's address")
                    .help("give the host's own address: its tunnel ends there, and packets to the VIP come back here")
            });
        } else if let Some((vip, span)) = prefixes.iter().find(|(vip, _)| vip.contains(backend.address)) {
            report.add(|| {
                let name = quote(backend.backend);
                Finding::new(&backend.span, format!("the address of backend {name} lies in the VIP prefix {vip}"))
                    .and(span, "the service's address")
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

fn inside_tunnel_sources(
    node: &Node,
    backends: &[Endpoint<'_>],
    vips: &[services::Endpoint],
    report: &mut Report,
) {
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
        backends.iter().map(|b| (b.address, &b.span)).chain(vips.iter().map(|v| (v.vip.address(), &v.span)));
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
