//! Services, their pools and plans.

use super::addresses;
use super::checks::{choice, port};
use super::forwarding::{self, Reached};
use super::names::{Kind, Names, called};
use super::plans::{self, Places, percent};
use super::protection;
use super::quic;
use super::sets::Sets;
use super::shares;
use crate::config::endpoint::{Ports, Vip};
use crate::config::fields::{At, Text};
use crate::config::forwarding::Forwarding;
use crate::config::ids::SetId;
use crate::config::limits::{DEFAULT_TABLE_SIZE, MAX_RATE, TABLE_SIZES};
use crate::config::model::{OnAllDown, Pool, Protocol, Service};
use crate::config::raw::{RawPool, RawService};
use crate::config::report::{Finding, Report, Span, quote};

/// All services.
pub(super) struct Services<'a> {
    pub(super) names: Names<'a>,
    /// In file order.
    pub(super) services: Vec<Option<Service>>,
    /// The VIPs that could be read, in file order.
    pub(super) vips: Vec<Endpoint>,
    /// How the VIPs that could be read are reached, in file order.
    pub(super) reached: Vec<Reached>,
}

/// A VIP, for the checks between services.
pub(super) struct Endpoint {
    pub(super) vip: Vip,
    pub(super) ports: Option<Ports>,
    pub(super) protocol: Option<Protocol>,
    pub(super) span: Span,
}

/// Resolves all services.
pub(super) fn resolve<'a>(
    raw: &[RawService<'a>],
    clients: &Names<'_>,
    places: &Places<'_>,
    report: &mut Report,
) -> Services<'a> {
    let kind = Kind { one: "service", many: "services" };
    let names = Names::collect(kind, raw.iter().map(|service| service.name.as_ref()), report);
    let mut vips = Vec::new();
    let mut reached = Vec::new();
    let services = raw
        .iter()
        .map(|service| {
            let resolved = resolve_one(service, clients, places, &mut vips, report);
            if let (Some(resolved), Some(address)) = (&resolved, &service.address) {
                let span = service.reach.as_ref().map_or(&address.span, |text| &text.span).clone();
                reached.push(Reached { vip: resolved.vip, reach: resolved.reach, span });
            }
            resolved
        })
        .collect();
    Services { names, services, vips, reached }
}

fn resolve_one(
    raw: &RawService<'_>,
    clients: &Names<'_>,
    places: &Places<'_>,
    vips: &mut Vec<Endpoint>,
    report: &mut Report,
) -> Option<Service> {
    let who = called("service", raw.name.as_ref());
    let vip = raw
        .address
        .as_ref()
        .and_then(|text| addresses::parse_vip(&format!("address of {who}"), text, report));
    let ports = resolve_ports(&who, raw, report);
    let protocol = raw.protocol.as_ref().and_then(|text| {
        let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("sctp", Protocol::Sctp)];
        choice(&format!("protocol of {who}"), text, &protocols, report)
    });
    let on_all_down = match &raw.on_all_down {
        None => Some(OnAllDown::Drop),
        Some(text) => {
            let actions = [("drop", OnAllDown::Drop), ("fail-open", OnAllDown::FailOpen)];
            choice(&format!("on_all_down of {who}"), text, &actions, report)
        }
    };
    let forwarding = forwarding::resolve_forwarding(&who, raw, report);
    refuse_untunnelled(&who, raw, forwarding, report);
    let reach = forwarding::resolve_reach(&who, raw, report);
    let quic = quic::resolve(&who, raw, protocol, report);
    let udp = forwarding::resolve_udp(&who, raw, protocol, report);
    if let (Some(vip), Some(text)) = (vip, &raw.address) {
        vips.push(Endpoint { vip, ports, protocol, span: text.span.clone() });
    }
    let pool_names = raw.pools.iter().map(|pool| pool.name.as_ref());
    let pool_names = Names::collect(Kind { one: "pool", many: "pools" }, pool_names, report);
    let pools = resolve_pools(&who, raw, places.sets, report);
    let (plans, residency) = plans::resolve(&who, raw, &pool_names, clients, places, report).unzip();
    let panic_threshold = match &raw.panic_threshold {
        None => Some(None),
        given => percent("panic_threshold", given.as_ref(), 0..=100, 0, report).map(Some),
    };
    let protection = protection::resolve(&who, &raw.protection, report);
    Some(Service {
        name: raw.name.as_ref()?.value.to_owned(),
        vip: vip?,
        ports: ports?,
        protocol: protocol?,
        on_all_down: on_all_down?,
        forwarding: forwarding?,
        reach: reach?,
        udp: udp?,
        quic: quic?,
        pools: pool_names.arrange(pools)?,
        plans: plans?,
        residency: residency?,
        panic_threshold: panic_threshold?,
        protection: protection?,
    })
}

/// `port` or `ports`, not both.
fn resolve_ports(who: &str, raw: &RawService<'_>, report: &mut Report) -> Option<Ports> {
    match (&raw.port, &raw.ports) {
        (Some(one), None) => port(who, one, report).map(Ports::one),
        (None, Some(text)) => {
            let ports = text.value.parse().ok();
            if ports.is_none() {
                report.add(|| {
                    Finding::new(&text.span, format!("ports {} of {who} are no ports", quote(text.value))).help(
                        "write ports = \"8000-8099\", from 1 to 65535, or ports = \"any\"; for one port, port = 80",
                    )
                });
            }
            ports
        }
        (Some(one), Some(text)) => {
            report.add(|| {
                Finding::new(&text.span, format!("{who} has both \"port\" and \"ports\""))
                    .and(&one.span, "the other one")
                    .help("remove one of them")
            });
            None
        }
        (None, None) => None,
    }
}

fn resolve_pools(who: &str, raw: &RawService<'_>, sets: &Sets<'_>, report: &mut Report) -> Vec<Option<Pool>> {
    if raw.pools.is_empty() && !raw.mistyped {
        report.add(|| {
            Finding::new(&raw.span, format!("{who} has no pools"))
                .help("add a [[service.pool]] below it with name and sets")
        });
    }
    // A set's first place in the service, by its id.
    let mut used: Vec<(usize, Span)> = Vec::new();
    raw.pools.iter().map(|pool| resolve_pool(who, pool, sets, &mut used, report)).collect()
}

fn resolve_pool(
    service: &str,
    raw: &RawPool<'_>,
    sets: &Sets<'_>,
    used: &mut Vec<(usize, Span)>,
    report: &mut Report,
) -> Option<Pool> {
    let who = format!("{} of {service}", called("pool", raw.name.as_ref()));
    let (mut ids, mut standby) = (Vec::new(), Vec::new());
    let of_sets = || raw.sets.iter().flat_map(|sets| &sets.value).map(|text| (text, false));
    let texts = || of_sets().chain(raw.relay.iter().map(|text| (text, true)));
    let waiting = raw.standby.iter().flat_map(|sets| &sets.value).map(|text| (text, false, false));
    for (text, is_relay, serves) in texts().map(|(text, is_relay)| (text, is_relay, true)).chain(waiting) {
        let Some(id) = refer(&who, text, is_relay, sets, report) else {
            continue;
        };
        match used.binary_search_by_key(&id, |(known, _)| *known) {
            Ok(at) => report.add(|| {
                Finding::new(&text.span, format!("{service} lists set {} twice", quote(text.value)))
                    .and(&used[at].1, "first listed here")
                    .help("remove one: within a service a set belongs to one pool")
            }),
            Err(at) => {
                used.insert(at, (id, text.span.clone()));
                if serves { ids.push(id) } else { standby.push(id) }
            }
        }
    }
    match (&raw.sets, &raw.relay) {
        (None, None) => return None,
        (Some(listed), Some(relay)) => {
            report.add(|| {
                Finding::new(&relay.span, format!("{who} has both \"sets\" and \"relay\""))
                    .and(&listed.span, "its sets")
                    .help("make two pools of it, and name both in the plan: the relay's last")
            });
            return None;
        }
        (Some(listed), None) if listed.value.is_empty() => report.add(|| {
            Finding::new(&listed.span, format!("{who} has no sets"))
                .help("name at least one set, or remove the pool")
        }),
        _ => {}
    }
    if let (Some(_), Some(standby)) = (&raw.relay, &raw.standby) {
        report.add(|| {
            Finding::new(&standby.span, format!("{who} is of another region's hosts and has \"standby\""))
                .help("remove it: only a pool of sets has sets that stand by")
        });
    }
    ids.sort_unstable();
    let capacity = capacity(&who, raw, report);
    let table_size = table_size(&who, raw, report)?;
    if ids.len() == texts().count() {
        check_shares(&who, raw, &ids, sets, table_size, report);
    }
    standby.sort_unstable();
    let set_ids = |ids: Vec<usize>| ids.into_iter().map(SetId::from_index).collect::<Option<Vec<_>>>();
    Some(Pool {
        name: raw.name.as_ref()?.value.to_owned(),
        sets: set_ids(ids)?,
        standby: set_ids(standby)?,
        canary: None,
        table_size,
        capacity: capacity?,
        relay: raw.relay.is_some(),
    })
}

/// The capacity, which may be absent: `Some(None)`.
fn capacity(who: &str, raw: &RawPool<'_>, report: &mut Report) -> Option<Option<u64>> {
    let Some(At { value, span }) = &raw.capacity else { return Some(None) };
    let flows = u64::try_from(*value).ok().filter(|flows| (1..=MAX_RATE).contains(flows));
    if flows.is_none() {
        report.add(|| {
            Finding::new(span, format!("capacity_new_flows_per_second = {value} of {who} is out of range")).help(
                format!("it is what this host may send to all of the pool's backends, 1 to {MAX_RATE}; without it \
                         the pool takes whatever comes"),
            )
        });
    }
    flows.map(Some)
}

/// The set that a pool names, or, if `wanted`, the group of another region's hosts.
fn refer(who: &str, text: &Text<'_>, wanted: bool, sets: &Sets<'_>, report: &mut Report) -> Option<usize> {
    let is_relay = |id: usize| sets.relay[sets.names.position(id)];
    let found = sets.names.find(text.value);
    if let Some(id) = found.filter(|&id| is_relay(id) == wanted) {
        return Some(id);
    }
    report.add(|| {
        let name = quote(text.value);
        match (found, wanted) {
            (Some(_), true) => Finding::new(&text.span, format!("{who} names set {name} as a relay"))
                .help(format!("write sets = [{name}], or name a [[relay]]")),
            (Some(_), false) => {
                Finding::new(&text.span, format!("{who} names relay {name} as a set")).help(format!(
                    "write relay = {name} instead of sets: a pool is of sets or of another region's hosts"
                ))
            }
            (None, _) => {
                let (one, many) = if wanted { ("relay", "relays") } else { ("set", "sets") };
                let known =
                    sets.names.iter().filter(|name| sets.names.find(name).is_some_and(is_relay) == wanted);
                Finding::new(&text.span, format!("{who} names {one} {name}, which is not defined"))
                    .did_you_mean(text.value, many, known)
            }
        }
    });
    None
}

/// Another region's hosts are reached by a tunnel.
fn refuse_untunnelled(who: &str, raw: &RawService<'_>, forwarding: Option<Forwarding>, report: &mut Report) {
    if forwarding != Some(Forwarding::L2) {
        return;
    }
    let relays = raw.pools.iter().filter_map(|pool| Some((pool, pool.relay.as_ref()?)));
    for (pool, text) in relays {
        report.add(|| {
            let pool = called("pool", pool.name.as_ref());
            let finding =
                Finding::new(&text.span, format!("{pool} of {who} is a relay, but {who} forwards by \"l2\""));
            let finding = match &raw.forwarding {
                Some(text) => finding.and(&text.span, "its forwarding"),
                None => finding,
            };
            finding.help("relays are reached by a tunnel: use \"ipip\" or \"gue\", or leave the relay out")
        });
    }
}

fn table_size(who: &str, raw: &RawPool<'_>, report: &mut Report) -> Option<u32> {
    let Some(At { value, span }) = &raw.table_size else {
        return Some(DEFAULT_TABLE_SIZE);
    };
    let size = TABLE_SIZES.into_iter().find(|&size| i64::from(size) == *value);
    if size.is_none() {
        report.add(|| {
            let fitting = TABLE_SIZES.into_iter().find(|&size| i64::from(size) >= *value);
            let nearest = fitting.unwrap_or(TABLE_SIZES[TABLE_SIZES.len() - 1]);
            Finding::new(span, format!("table_size {value} of {who} is not one of the primes that Weir uses"))
                .help(format!("write table_size = {nearest}; possible are {TABLE_SIZES:?}"))
        });
    }
    size
}

/// Reports a table that is too coarse for the weights of its members.
fn check_shares(
    who: &str,
    raw: &RawPool<'_>,
    ids: &[usize],
    sets: &Sets<'_>,
    table_size: u32,
    report: &mut Report,
) {
    let mut members = Vec::new();
    for &id in ids {
        // A set with a problem of its own says nothing about the pool's shares.
        let Some(of_set) = &sets.members[sets.names.position(id)] else {
            return;
        };
        members.extend_from_slice(of_set);
    }
    let Some(coarse) = shares::too_coarse(&mut members, table_size) else {
        return;
    };
    let span = raw.table_size.as_ref().map_or(&raw.span, |size| &size.span);
    report.add(|| {
        let finding = Finding::new(span, format!("table_size {table_size} of {who} is too small: {coarse}"));
        match coarse.needed {
            Some(needed) => {
                finding.help(format!("write table_size = {needed}, or bring the weights closer together"))
            }
            None => {
                finding.help("no table size would do: bring the weights closer together, or split the pool")
            }
        }
    });
}
