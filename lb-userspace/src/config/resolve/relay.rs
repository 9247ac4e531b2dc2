//! Relays. A group of another region's hosts is a set like any other: it is entered among the sets before anything is
//! resolved, its hosts as backends in the rack `REGION/relay/GROUP`, so that health, operators' words and steering know it.

use std::net::IpAddr;

use lb_common::abi::agent::DEFAULT_GUE_PORT;

use super::checks::port;
use super::names::called;
use super::sets::Sets;
use super::{addresses, clients, services};
use crate::config::fields::{At, Text, Texts};
use crate::config::limits::{MAX_RELAY_ADDRESSES, MAX_RELAY_PEERS};
use crate::config::model::Node;
use crate::config::prefix::IpPrefix;
use crate::config::raw::{RawBackend, RawConfig, RawNode, RawRegion, RawSet};
use crate::config::raw_relay::RawRelay;
use crate::config::relay::Relay;
use crate::config::report::{Finding, Report, Span, quote};

/// The zone of a region in which its hosts stand as relays.
const ZONE: &str = "relay";

/// The paths that the domains of relays have, for as long as the configuration is resolved.
pub(in crate::config) struct Paths(Vec<(String, String)>);

impl Paths {
    /// Zone and rack of each group, in file order.
    pub(in crate::config) fn of(raw: &RawConfig<'_>) -> Self {
        let value =
            |text: &Option<Text<'_>>| text.as_ref().map_or(String::new(), |text| text.value.to_owned());
        let path = |relay: &RawRelay<'_>| {
            let zone = format!("{}/{ZONE}", value(&relay.region));
            let rack = format!("{zone}/{}", value(&relay.name));
            (zone, rack)
        };
        Self(raw.relays.iter().map(path).collect())
    }
}

/// Enters the groups among the sets, and their domains into the topology.
pub(in crate::config) fn expand<'p, 'a: 'p>(
    mut raw: RawConfig<'a>,
    paths: &'p Paths,
    report: &mut Report,
) -> RawConfig<'p> {
    refuse_kept_zones(&raw, report);
    let relays = std::mem::take(&mut raw.relays);
    let mut raw: RawConfig<'p> = raw;
    for (relay, (zone, rack)) in relays.into_iter().zip(&paths.0) {
        let who = called("relay", relay.name.as_ref());
        if relay.hosts.is_empty() && !relay.mistyped {
            report.add(|| {
                Finding::new(&relay.span, format!("{who} has no hosts"))
                    .help("add a [[relay.host]] below it with name and address, or remove the relay")
            });
        }
        enter_domain(&mut raw, &relay, &who, report);
        let at = |value: &'p str, span: &Span| At { value, span: span.clone() };
        let place = relay.region.as_ref().map_or(&relay.span, |text| &text.span);
        let known = relay.region.is_some() && relay.name.is_some();
        let backends = relay.hosts.into_iter().map(|host| RawBackend {
            name: host.name,
            rack: known.then(|| at(rack, place)),
            address: host.address,
            weight: host.weight,
            quic_server_id: None,
            quic_rotation_id: None,
        });
        raw.sets.push(RawSet {
            backends: backends.collect(),
            domain: known.then(|| at(zone, place)),
            span: relay.span,
            // Without hosts there is a problem already.
            mistyped: true,
            name: relay.name,
            checks: relay.checks,
            relay: true,
        });
    }
    raw
}

/// The domain of a group; a region that is not there is reported, and entered so that nothing else is blamed.
fn enter_domain<'p>(raw: &mut RawConfig<'p>, relay: &RawRelay<'p>, who: &str, report: &mut Report) {
    let (Some(region), Some(name)) = (&relay.region, &relay.name) else { return };
    let at = raw.regions.iter().position(|known| known.name.value == region.value);
    let at = at.unwrap_or_else(|| {
        report.add(|| {
            let message =
                format!("{who} names region {}, which the topology does not have", quote(region.value));
            let known = raw.regions.iter().map(|known| known.name.value);
            Finding::new(&region.span, message).did_you_mean(region.value, "regions", known)
        });
        raw.regions.push(RawRegion { name: region.clone(), zones: Vec::new() });
        raw.regions.len() - 1
    });
    let own = raw.node.as_ref().and_then(|node| node.region.as_ref());
    if let Some(own) = own.filter(|own| own.value == region.value) {
        report.add(|| {
            Finding::new(&region.span, format!("{who} is of region {}, this host's own", quote(region.value)))
                .and(&own.span, "the node's region")
                .help("packets are relayed to other regions only: name the region whose hosts these are")
        });
    }
    let zones = &mut raw.regions[at].zones;
    let racks = match zones.iter().position(|(zone, _)| zone.value == ZONE) {
        Some(there) => &mut zones[there].1.value,
        None => {
            let span = region.span.clone();
            zones.push((At { value: ZONE, span: span.clone() }, At { value: Vec::new(), span }));
            &mut zones.last_mut().expect("one was just added").1.value
        }
    };
    // Two groups of one name are reported as two sets.
    if racks.iter().all(|rack| rack.value != name.value) {
        racks.push(name.clone());
    }
}

/// A region with relays has a zone of its own for them.
fn refuse_kept_zones(raw: &RawConfig<'_>, report: &mut Report) {
    for region in &raw.regions {
        let relay = raw
            .relays
            .iter()
            .find(|relay| relay.region.as_ref().is_some_and(|of| of.value == region.name.value));
        let zone = region.zones.iter().find(|(zone, _)| zone.value == ZONE);
        if let (Some(relay), Some((zone, _))) = (relay, zone) {
            report.add(|| {
                let name = quote(region.name.value);
                Finding::new(&zone.span, format!("zone \"{ZONE}\" of region {name} is kept for relays"))
                    .and(&relay.span, "a relay of this region")
                    .help("give the zone another name")
            });
        }
    }
}

/// What this host takes from others.
pub(super) fn resolve_node(raw: &RawNode<'_>, report: &mut Report) -> Option<Relay> {
    let relay = &raw.relay;
    let gue_port = relay.gue_port.as_ref().map(|given| port("relay_gue_port of [node]", given, report));
    let (addresses, peers) = match (&relay.addresses, &relay.peers) {
        (None, None) => (Vec::new(), Vec::new()),
        (Some(addresses), Some(peers)) => {
            let addresses =
                list("relay_addresses", addresses, MAX_RELAY_ADDRESSES, report, |text, report| {
                    addresses::parse("a relay address", text, report)
                });
            let peers = list("relay_peers", peers, MAX_RELAY_PEERS, report, peer);
            (addresses?, peers?)
        }
        (Some(addresses), None) => {
            report.add(|| {
                Finding::new(&addresses.span, "[node] has relay_addresses, but no \"relay_peers\"").help(
                    "add relay_peers = [\"...\"]: the prefixes that the other regions' hosts send from, their tunnel \
                     sources and own addresses; packets from anywhere else are refused",
                )
            });
            return None;
        }
        (None, Some(peers)) => {
            report.add(|| {
                Finding::new(&peers.span, "[node] has relay_peers, but no \"relay_addresses\"")
                    .help("add relay_addresses = [\"...\"]: where this host takes what they relay")
            });
            return None;
        }
    };
    Some(Relay { addresses, peers, gue_port: gue_port.unwrap_or(Some(DEFAULT_GUE_PORT))? })
}

/// A list without repetitions, ascending.
fn list<T: Ord>(
    key: &str,
    texts: &Texts<'_>,
    most: usize,
    report: &mut Report,
    parse: impl Fn(&Text<'_>, &mut Report) -> Option<T>,
) -> Option<Vec<T>> {
    if texts.value.is_empty() || texts.value.len() > most {
        report.add(|| {
            Finding::new(&texts.span, format!("{key} of [node] has {} elements", texts.value.len()))
                .help(format!("name 1 to {most}, or remove the key"))
        });
        return None;
    }
    let mut seen: Vec<(T, &Span)> = Vec::new();
    let mut good = true;
    for text in &texts.value {
        let Some(value) = parse(text, report) else {
            good = false;
            continue;
        };
        match seen.iter().find(|(known, _)| *known == value) {
            Some((_, first)) => {
                good = false;
                report.add(|| {
                    Finding::new(&text.span, format!("{key} of [node] lists {} twice", quote(text.value)))
                        .and(first, "first listed here")
                        .help("remove one")
                });
            }
            None => seen.push((value, &text.span)),
        }
    }
    let mut values: Vec<T> = seen.into_iter().map(|(value, _)| value).collect();
    values.sort_unstable();
    good.then_some(values)
}

/// A prefix, or one address.
fn peer(text: &Text<'_>, report: &mut Report) -> Option<IpPrefix> {
    if text.value.contains('/') {
        return clients::parse(text, "relay peer", report);
    }
    let address = addresses::parse("a relay peer", text, report)?;
    Some(IpPrefix::containing(address, if address.is_ipv4() { 32 } else { 128 }))
}

/// Reports relay addresses that are used for something else.
pub(super) fn check(
    raw: Option<&RawNode<'_>>,
    node: Option<&Node>,
    sets: &Sets<'_>,
    vips: &[services::Endpoint],
    report: &mut Report,
) {
    let Some(texts) = raw.and_then(|raw| raw.relay.addresses.as_ref()) else { return };
    let own: Vec<(IpAddr, &Span)> =
        texts.value.iter().filter_map(|text| Some((text.value.parse().ok()?, &text.span))).collect();
    let find = |address: IpAddr| own.iter().find(|(own, _)| *own == address).map(|(_, span)| *span);
    for backend in &sets.addresses {
        let Some(span) = find(backend.address) else { continue };
        let name = quote(backend.backend);
        report.add(|| {
            let is_relay = sets.relay[backend.set];
            let message = if is_relay {
                format!("host {name} of a relay has this host's own relay address {}", backend.address)
            } else {
                format!("backend {name} has this host's relay address {}", backend.address)
            };
            let remedy = if is_relay {
                "name the hosts of another region: what this host relays to itself would never arrive"
            } else {
                "give one of them another: what is tunnelled to a relay address is taken as relayed"
            };
            Finding::new(&backend.span, message).and(span, "this host's relay address").help(remedy)
        });
    }
    for vip in vips {
        let clash = own.iter().find(|(address, _)| vip.vip.contains(*address));
        if let Some((address, span)) = clash {
            report.add(|| {
                Finding::new(span, format!("the relay address {address} is a VIP"))
                    .and(&vip.span, "the service's address")
                    .help("use an address of this host alone, routed to it")
            });
        }
    }
    let Some(node) = node else { return };
    for (address, span) in own {
        let inside = match address {
            IpAddr::V4(v4) => node.tunnel_source_v4.contains(v4),
            IpAddr::V6(v6) => node.tunnel_source_v6.contains(v6),
        };
        if inside {
            report.add(|| {
                Finding::new(
                    span,
                    format!("the relay address {address} lies in the tunnel source of this host"),
                )
                .help("use an address of this host alone, routed to it")
            });
        }
    }
}
