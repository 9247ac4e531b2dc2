//! Sets and their backends.

use std::net::IpAddr;

use super::addresses;
use super::names::{Kind, Names, called};
use super::quic;
use super::topology;
use crate::config::domains::{Level, Topology};
use crate::config::fields::At;
use crate::config::ids::{BackendId, CheckId, DomainId, SetId};
use crate::config::limits::MAX_WEIGHT;
use crate::config::model::{Backend, Set};
use crate::config::raw::{RawBackend, RawSet};
use crate::config::report::{Finding, Report, Span, quote};

/// Weight of a backend when the file does not say.
const DEFAULT_WEIGHT: u32 = 100;

/// All sets with their backends.
pub(super) struct Sets<'a> {
    pub(super) names: Names<'a>,
    /// In file order.
    pub(super) sets: Vec<Option<Set>>,
    /// In file order: name and weight of each backend of a set, unless one of them has a problem.
    pub(super) members: Vec<Option<Vec<(&'a str, u32)>>>,
    pub(super) backend_names: Names<'a>,
    /// In file order.
    pub(super) backends: Vec<Option<Backend>>,
    /// The addresses that could be read, in file order.
    pub(super) addresses: Vec<Endpoint<'a>>,
    /// In file order: whether a set is a group of another region's hosts.
    pub(super) relay: Vec<bool>,
    /// In file order: the QUIC server ids of each backend.
    pub(super) server_ids: Vec<quic::ServerIds>,
}

/// The address of a backend, for the checks between backends.
pub(super) struct Endpoint<'a> {
    pub(super) backend: &'a str,
    /// Position of the set in the file.
    pub(super) set: usize,
    pub(super) rack: Option<DomainId>,
    pub(super) address: IpAddr,
    pub(super) span: Span,
}

/// Resolves all sets.
pub(super) fn resolve<'a>(
    raw: &[RawSet<'a>],
    topology: &Topology,
    checks: &Names<'_>,
    report: &mut Report,
) -> Sets<'a> {
    let set_names = raw.iter().map(|set| set.name.as_ref());
    let names = Names::collect(Kind { one: "set", many: "sets" }, set_names, report);
    let all_backends = || raw.iter().flat_map(|set| &set.backends);
    let kind = Kind { one: "backend", many: "backends" };
    let backend_names = Names::collect(kind, all_backends().map(|backend| backend.name.as_ref()), report);

    let mut resolved = Sets {
        names,
        sets: Vec::new(),
        members: Vec::new(),
        backend_names,
        backends: Vec::new(),
        addresses: Vec::new(),
        relay: raw.iter().map(|set| set.relay).collect(),
        server_ids: Vec::new(),
    };
    for (position, set) in raw.iter().enumerate() {
        resolve_one(position, set, topology, checks, &mut resolved, report);
    }
    resolved
}

fn resolve_one<'a>(
    position: usize,
    raw: &RawSet<'a>,
    topology: &Topology,
    checks: &Names<'_>,
    out: &mut Sets<'a>,
    report: &mut Report,
) {
    let who = called(if raw.relay { "relay" } else { "set" }, raw.name.as_ref());
    let domain = raw.domain.as_ref().and_then(|text| topology::refer(topology, &who, text, None, report));
    let checks = resolve_checks(&who, raw, checks, report);
    if raw.backends.is_empty() && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} has no backends"))
                .help("add a [[set.backend]] below it, or remove the set")
        });
    }
    let id = raw.name.as_ref().and_then(|name| out.names.find(name.value)).and_then(SetId::from_index);
    let mut members = Some(Vec::new());
    let mut ids = Vec::new();
    for backend in &raw.backends {
        let weight = resolve_weight(backend, report);
        match (&mut members, &backend.name, weight) {
            (Some(members), Some(name), Some(weight)) => members.push((name.value, weight)),
            _ => members = None,
        }
        let home = Home { set: id, position, domain: domain.zip(raw.domain.as_ref().map(|d| &d.span)) };
        let server_ids = quic::server_ids(backend, report);
        let backend = resolve_backend(backend, &home, weight, topology, &mut out.addresses, report);
        let backend = backend.map(|backend| Backend {
            quic_server_id: server_ids.current(),
            quic_rotation_id: server_ids.rotation(),
            ..backend
        });
        out.server_ids.push(server_ids);
        ids.extend(
            backend.as_ref().and_then(|b| out.backend_names.find(&b.name)).and_then(BackendId::from_index),
        );
        out.backends.push(backend);
    }
    ids.sort_unstable();
    out.members.push(members);
    out.sets.push((|| {
        let name = raw.name.as_ref()?.value.to_owned();
        Some(Set { name, domain: domain?, checks: checks?, backends: ids, relay: raw.relay })
    })());
}

fn resolve_checks(
    who: &str,
    raw: &RawSet<'_>,
    checks: &Names<'_>,
    report: &mut Report,
) -> Option<Vec<CheckId>> {
    let Some(texts) = &raw.checks else {
        return Some(Vec::new());
    };
    let mut seen: Vec<(CheckId, &Span)> = Vec::new();
    let mut good = true;
    for text in &texts.value {
        let Some(id) = checks.refer(who, text, report).and_then(CheckId::from_index) else {
            good = false;
            continue;
        };
        if let Some((_, first)) = seen.iter().find(|(known, _)| *known == id) {
            good = false;
            report.add(|| {
                Finding::new(&text.span, format!("{who} lists check {} twice", quote(text.value)))
                    .and(first, "first listed here")
                    .help("remove one")
            });
        } else {
            seen.push((id, &text.span));
        }
    }
    let mut ids: Vec<CheckId> = seen.into_iter().map(|(id, _)| id).collect();
    ids.sort_unstable();
    good.then_some(ids)
}

/// The set that a backend stands in, as far as it is known.
struct Home<'s> {
    set: Option<SetId>,
    position: usize,
    domain: Option<(DomainId, &'s Span)>,
}

fn resolve_backend<'a>(
    raw: &RawBackend<'a>,
    home: &Home<'_>,
    weight: Option<u32>,
    topology: &Topology,
    addresses: &mut Vec<Endpoint<'a>>,
    report: &mut Report,
) -> Option<Backend> {
    let who = called("backend", raw.name.as_ref());
    let rack = raw.rack.as_ref().and_then(|text| {
        let rack = topology::refer(topology, &who, text, Some(Level::Rack), report)?;
        if let Some((domain, domain_span)) = home.domain
            && !topology.is_within(rack, domain)
        {
            report.add(|| {
                let outside = format!("rack {} of {who} lies outside its set's domain", quote(text.value));
                Finding::new(&text.span, outside).and(domain_span, "the set's domain").help(format!(
                    "move the backend to a set of its own domain, or give the set a domain that holds both \
                         (now {})",
                    quote(&topology[domain].path)
                ))
            });
        }
        Some(rack)
    });
    let address =
        raw.address.as_ref().and_then(|text| addresses::parse(&format!("address of {who}"), text, report));
    if let (Some(address), Some(text)) = (address, &raw.address) {
        let backend = raw.name.as_ref().map_or("", |name| name.value);
        let span = text.span.clone();
        addresses.push(Endpoint { backend, set: home.position, rack, address, span });
    }
    let name = raw.name.as_ref()?.value.to_owned();
    Some(Backend {
        name,
        set: home.set?,
        rack: rack?,
        address: address?,
        weight: weight?,
        quic_server_id: None,
        quic_rotation_id: None,
    })
}

fn resolve_weight(raw: &RawBackend<'_>, report: &mut Report) -> Option<u32> {
    let Some(At { value, span }) = &raw.weight else {
        return Some(DEFAULT_WEIGHT);
    };
    let weight = u32::try_from(*value).ok().filter(|weight| (1..=MAX_WEIGHT).contains(weight));
    if weight.is_none() {
        let who = called("backend", raw.name.as_ref());
        report.add(|| {
            let remedy = match value {
                0 => "to take it out of service use `weir backend drain`, which leaves its connections alone",
                _ => "weights are relative to the pool's other members and go from 1 to 65535",
            };
            Finding::new(span, format!("weight {value} of {who} is out of range")).help(remedy)
        });
    }
    weight
}
