//! Why a flow goes where it goes: the datapath's own decisions over the live maps, told step by step.

use std::net::{IpAddr, SocketAddr};

use lb_common::abi::admission::Admission;
use lb_common::abi::backend::{BACKEND_ON_LINK, BACKEND_RELAY, BackendEntry};
use lb_common::abi::reason::Reason;
use lb_common::abi::root::Root;
use lb_common::abi::service::{FORWARD_GUE, FORWARD_L2, SERVICE_QUIC, SERVICE_STEERED, ServiceEntry};
use lb_common::datapath::flow::FlowTable;
use lb_common::datapath::parse::{Shape, Transport, Tuple};
use lb_common::datapath::ports::Tables;
use lb_common::datapath::steer::{self, Origin};
use lb_common::datapath::trace::Step;
use lb_common::datapath::{admit, classify, encap, gue, hash, relay};
use lb_common::net::{address_bytes, address_words, ethernet, ipv4, ipv6, protocol};

use super::writer::{Mac, next_hop};
use crate::api::types::{
    ExplainBackend, ExplainQuery, ExplainStep, Explanation, NextHop, Outer, StepKind, VerdictKind,
};
use crate::config::{Backend, Config, Pool, Protocol, Service, endpoint};
use crate::plan::ids::{BackendIndex, Ids, ServiceIndex};

/// Length that is assumed of the packet: a TCP header behind an IP header, which fits everywhere.
const ASSUMED_LENGTH: u16 = 40;

/// Explains where a packet goes. Nothing is changed by it.
///
/// `config` must be the one that `tables` were built from, `ids` its indices in them.
pub fn explain<T: Tables>(tables: &T, config: &Config, ids: &Ids, query: ExplainQuery) -> Explanation {
    let transport = transport(&query);
    let mut explanation = Explanation {
        query,
        hash: String::new(),
        service: None,
        client_region: None,
        plan: Vec::new(),
        steps: vec![ExplainStep::new(StepKind::Parse, describe(&query))],
        backend: None,
        outer: None,
        next_hop: None,
        verdict: VerdictKind::Pass,
        reason: Reason::PassNotVip.name().to_owned(),
    };
    let Some(root) = tables.root() else {
        return explanation;
    };
    let h = hash::flow_hash(&root.hash_key, &transport.tuple);
    explanation.hash = format!("{h:016x}");
    let Some((index, entry)) = classify::service(tables, root, &transport.tuple) else {
        let text = format!(
            "{} {}/{} is no service{}",
            query.dst.ip(),
            query.dst.port(),
            query.protocol,
            if query.from_relay { "" } else { ": the kernel's stack gets it" }
        );
        explanation.steps.push(ExplainStep::new(StepKind::Classify, text));
        if query.from_relay {
            finish(&mut explanation, VerdictKind::Drop, Reason::RelayNotForUs);
        }
        return explanation;
    };
    let service = ids.service_id(ServiceIndex(index)).map(|id| &config[id]);
    let names = Names { config, ids, service };
    if let Some(service) = names.service {
        explanation.service = Some(service.name.clone());
        let endpoint = endpoint(service.vip, service.ports, service.protocol);
        let text = format!("it is for service {} at {endpoint}", service.name);
        explanation.steps.push(ExplainStep::new(StepKind::Classify, text));
    }
    let refused = admit::admit(tables, root, entry, &transport);
    if refused != 0 {
        let reason = admit::reason(refused);
        let text = format!("the service's guard refuses it: {}", reason.name());
        explanation.steps.push(ExplainStep::new(StepKind::Admit, text));
        finish(&mut explanation, VerdictKind::Drop, reason);
        return explanation;
    }
    if entry.flags & SERVICE_QUIC != 0 {
        let text = "it is QUIC: a connection id that names a backend comes first; this is the way of one that names none";
        explanation.steps.push(ExplainStep::new(StepKind::Classify, text));
    }
    let region = tables.client_region(&address_words(&address_bytes(query.src.ip())));
    explanation.client_region = config.client_regions.get(region as usize).map(|region| region.name.clone());
    explanation.plan = names.plan(region);

    let origin = if query.from_relay { Origin::Relay } else { Origin::Client };
    if query.from_relay {
        let text = "it has crossed a region border and crosses no second time";
        explanation.steps.push(ExplainStep::new(StepKind::Plan, text));
    }
    let mut trace: Vec<Step> = Vec::new();
    let placed = steer::place(tables, entry, &transport, h, origin, &mut trace);
    let is_steered = entry.flags & SERVICE_STEERED != 0;
    for (at, step) in trace.iter().enumerate() {
        explanation.steps.push(names.step(tables, step, region));
        if let Some(pool) = left_at_once(&trace, at).filter(|_| is_steered) {
            explanation.steps.push(names.goes_on(pool));
        }
    }
    match placed {
        Err(Reason::PassLeaving) if query.from_relay => {
            finish(&mut explanation, VerdictKind::Drop, Reason::RelayNotForUs);
        }
        Ok(placement) if relay::crosses_again(placement.entry, origin) => {
            name_backend(&mut explanation, &names, placement.backend, placement.entry);
            finish(&mut explanation, VerdictKind::Drop, Reason::RelayRefused);
        }
        Err(Reason::PassLeaving) => finish(&mut explanation, VerdictKind::Pass, Reason::PassLeaving),
        Err(reason) => finish(&mut explanation, VerdictKind::Drop, reason),
        Ok(placement) => {
            forward(&mut explanation, &names, root, entry, placement.backend, placement.entry, h);
        }
    }
    explanation
}

fn describe(query: &ExplainQuery) -> String {
    let what = match (query.protocol, query.opening) {
        (Protocol::Tcp, true) => "a TCP packet that opens a connection",
        (Protocol::Tcp, false) => "a TCP packet of an established connection",
        (Protocol::Udp, _) => "a UDP datagram",
        (Protocol::Sctp, true) => "an SCTP packet that opens an association",
        (Protocol::Sctp, false) => "an SCTP packet of an established association",
    };
    format!("{what} from {} to {}", query.src, query.dst)
}

fn transport(query: &ExplainQuery) -> Transport {
    let ports = [query.src.port().to_be_bytes(), query.dst.port().to_be_bytes()];
    let [[a, b], [c, d]] = ports;
    let words = |address: SocketAddr| address_words(&address_bytes(address.ip()));
    let number = match query.protocol {
        Protocol::Tcp => protocol::TCP,
        Protocol::Udp => protocol::UDP,
        Protocol::Sctp => protocol::SCTP,
    };
    Transport {
        tuple: Tuple {
            source: words(query.src),
            destination: words(query.dst),
            ports: u32::from_ne_bytes([a, b, c, d]),
            protocol: number,
            is_ipv6: query.dst.is_ipv6(),
        },
        // Without connections, every datagram may be a flow's first.
        opening: query.opening || query.protocol == Protocol::Udp,
        traffic_class: 0,
        ip_length: ASSUMED_LENGTH,
        ip_at: ethernet::LENGTH as u16,
        closing: false,
        payload_at: (ethernet::LENGTH + if query.dst.is_ipv6() { ipv6::LENGTH } else { ipv4::LENGTH }) as u16,
        shape: Shape::Whole,
        fragment: 0,
    }
}

/// The end of a packet that has a backend.
fn forward(
    explanation: &mut Explanation,
    names: &Names<'_>,
    root: &Root,
    service: &ServiceEntry,
    index: u32,
    entry: &BackendEntry,
    h: u64,
) {
    if service.forwarding == FORWARD_L2 {
        name_backend(explanation, names, index, entry);
        let text = "only the Ethernet header is rewritten (L2)".to_owned();
        explanation.steps.push(ExplainStep::new(StepKind::Encap, text));
        if entry.ifindex != 0 && entry.flags & BACKEND_ON_LINK == 0 {
            return finish(explanation, VerdictKind::Drop, Reason::NotOnLink);
        }
        return leave(explanation, entry);
    }
    let outer = Outer {
        source: outer_address(entry, encap::outer_source(root, entry, h)),
        destination: outer_address(entry, entry.outer_destination),
    };
    explanation.outer = Some(outer);
    name_backend(explanation, names, index, entry);
    let text = if service.forwarding == FORWARD_GUE {
        let (from, to) = (gue::source_port(h), u16::from_be_bytes(service.gue_port));
        format!("GUE from {} port {from} to {} port {to}", outer.source, outer.destination)
    } else {
        format!("IP in IP from {} to {}", outer.source, outer.destination)
    };
    explanation.steps.push(ExplainStep::new(StepKind::Encap, text));
    if entry.flags & BACKEND_RELAY != 0 {
        let text = "the host there serves it in its own region, or drops it: it crosses no second time";
        explanation.steps.push(ExplainStep::new(StepKind::Encap, text));
    }
    leave(explanation, entry);
}

fn name_backend(explanation: &mut Explanation, names: &Names<'_>, index: u32, entry: &BackendEntry) {
    if let Some(backend) = names.backend(index) {
        explanation.backend = Some(ExplainBackend {
            name: backend.name.clone(),
            rack: names.path(entry.rack),
            address: backend.address,
        });
    }
}

/// By which interface, and to whom.
fn leave(explanation: &mut Explanation, entry: &BackendEntry) {
    if entry.ifindex == 0 {
        return finish(explanation, VerdictKind::Drop, Reason::NoNextHop);
    }
    let hop = next_hop(entry);
    let interface = nix::net::if_::if_indextoname(hop.ifindex)
        .map_or_else(|_| format!("interface {}", hop.ifindex), |name| name.to_string_lossy().into_owned());
    let interface = match hop.vlan {
        Some(vlan) => format!("{interface}, VLAN {vlan}"),
        None => interface,
    };
    explanation.next_hop = Some(NextHop { interface, mac: Mac(hop.destination).to_string() });
    finish(explanation, VerdictKind::Forward, Reason::Forwarded);
}

fn outer_address(entry: &BackendEntry, bytes: [u8; 16]) -> IpAddr {
    if entry.is_outer_ipv6() {
        return IpAddr::from(bytes);
    }
    let [a, b, c, d, ..] = bytes;
    IpAddr::from([a, b, c, d])
}

fn finish(explanation: &mut Explanation, verdict: VerdictKind, reason: Reason) {
    explanation.verdict = verdict;
    reason.name().clone_into(&mut explanation.reason);
    let text = match (verdict, &explanation.backend, &explanation.next_hop) {
        (VerdictKind::Forward, Some(backend), Some(hop)) => {
            format!("forwarded to {} by {} on {}", backend.name, hop.mac, hop.interface)
        }
        _ => match reason {
            Reason::PassLeaving => {
                "passed to the kernel's stack: the service is no longer configured, and takes no new flows"
                    .to_owned()
            }
            Reason::AllDown => "dropped: every pool of the plan is down".to_owned(),
            Reason::RelayRefused => {
                "dropped: it was relayed here, and no local pool of the plan takes it".to_owned()
            }
            Reason::RelayNotForUs => {
                "dropped: it was relayed here, but for no service that takes it".to_owned()
            }
            Reason::NoNextHop => {
                "dropped: there is no next hop for the backend, unless the kernel's tables know one \
                                  when a packet comes"
                    .to_owned()
            }
            Reason::NotOnLink => {
                "dropped: the backend is behind a router, and L2 forwarding takes one on the link: \
                                  use ipip or gue"
                    .to_owned()
            }
            _ => format!("dropped: {}", reason.name()),
        },
    };
    explanation.steps.push(ExplainStep::new(StepKind::Verdict, text));
}

/// Turns indices into names.
struct Names<'a> {
    config: &'a Config,
    ids: &'a Ids,
    service: Option<&'a Service>,
}

impl Names<'_> {
    fn plan(&self, region: u32) -> Vec<String> {
        let Some(service) = self.service else { return Vec::new() };
        let plan = service.plans.get(region as usize).or_else(|| service.plans.first());
        plan.map(|plan| plan.iter().map(|&pool| service[pool].name.clone()).collect()).unwrap_or_default()
    }

    /// The regions that may serve clients of a region; none if all may.
    fn residency(&self, region: u32) -> Option<Vec<&str>> {
        let regions = self.service?.residency.get(region as usize)?.as_ref()?;
        Some(regions.iter().map(|&id| self.config.topology[id].path.as_str()).collect())
    }

    fn backend(&self, index: u32) -> Option<&Backend> {
        self.ids.backend_id(BackendIndex(index)).map(|id| &self.config[id])
    }

    fn backend_name(&self, index: u32) -> String {
        self.backend(index).map_or_else(|| format!("backend {index}"), |backend| backend.name.clone())
    }

    /// Name of a pool, by its number over all services.
    fn pool_name(&self, number: u32) -> String {
        let pools = self.config.services.iter().flat_map(|service| &service.pools);
        pools
            .into_iter()
            .nth(number as usize)
            .map_or_else(|| format!("pool {number}"), |pool: &Pool| pool.name.clone())
    }

    fn path(&self, domain: u16) -> String {
        let domain = self.config.topology.domains.get(domain as usize);
        domain.map(|domain| domain.path.clone()).unwrap_or_default()
    }

    fn step<T: Tables>(&self, tables: &T, step: &Step, region: u32) -> ExplainStep {
        match *step {
            Step::ClientRegion { region } => {
                let region =
                    self.config.client_regions.get(region as usize).map_or("default", |r| r.name.as_str());
                ExplainStep::new(StepKind::Plan, format!("the client is of client region {region}"))
            }
            Step::Plan { .. } => {
                let bound = self.residency(region).map_or_else(String::new, |regions| {
                    format!("; residency: only {} may serve these clients", regions.join(", "))
                });
                let text = format!("pools in this order: {}{bound}", self.plan(region).join(", "));
                ExplainStep::new(StepKind::Plan, text)
            }
            Step::Home { backend, open, marked } => {
                let name = self.backend_name(backend);
                let text = match (open, marked) {
                    (true, _) => format!("home is {name}, and the way there always was open"),
                    (false, true) => {
                        format!(
                            "home is {name}, but a change of the configuration gave the flow's slot to it"
                        )
                    }
                    (false, false) => {
                        format!("home is {name}, but not everything on the way there is or always was open")
                    }
                };
                self.about(
                    tables,
                    backend,
                    ExplainStep { taken: Some(open), ..ExplainStep::new(StepKind::Probe, text) },
                )
            }
            Step::Pool { pool, admission, ignore_health, entered } => {
                let name = self.pool_name(pool);
                let text = match (entered, ignore_health) {
                    (true, true) => format!(
                        "pool {name} is entered whatever its members' health: the service fails open, or the plan does not \
                         believe health now"
                    ),
                    (true, false) => format!("pool {name} is entered"),
                    (false, _) => format!("pool {name} is passed over: it admits {}", shares(admission)),
                };
                let kind = if ignore_health { StepKind::FailOpen } else { StepKind::Pool };
                let step =
                    ExplainStep { pool: Some(name), taken: Some(entered), ..ExplainStep::new(kind, text) };
                with_shares(step, admission)
            }
            Step::NoSecondCrossing { pool } => {
                let name = self.pool_name(pool);
                let text = format!("pool {name} is passed over: its hosts are in another region");
                let step = ExplainStep::new(StepKind::Pool, text);
                ExplainStep { pool: Some(name), taken: Some(false), ..step }
            }
            Step::Filter { maybe } => ExplainStep::new(
                StepKind::FlowTable,
                if maybe {
                    "the flow filter says that the flow table may know the flow"
                } else {
                    "the flow filter says that the flow table does not know the flow: it is at home, or new"
                },
            ),
            Step::FlowTable { table, backend: None, .. } => ExplainStep::new(
                StepKind::FlowTable,
                format!("the {} does not know the flow", table_name(table)),
            ),
            Step::FlowTable { table, backend: Some(backend), admitted } => {
                let name = self.backend_name(backend);
                let text = if admitted {
                    format!("the {} says {name}", table_name(table))
                } else {
                    format!("the {} says {name}, which does not admit the flow any more", table_name(table))
                };
                let step = ExplainStep::new(StepKind::FlowTable, text);
                self.about(tables, backend, ExplainStep { taken: Some(admitted), ..step })
            }
            Step::OldHome { backend, taken } => {
                let name = self.backend_name(backend);
                let text = if taken {
                    format!("before the last change of the configuration home was {name}, where it stays")
                } else {
                    format!(
                        "before the last change of the configuration home was {name}, which does not admit it any more"
                    )
                };
                let step = ExplainStep::new(StepKind::OldHome, text);
                self.about(tables, backend, ExplainStep { taken: Some(taken), ..step })
            }
            Step::Probe { probe, backend, admission, taken } => {
                let name = self.backend_name(backend);
                let text = if taken {
                    format!("probe {probe}: {name} takes it")
                } else {
                    format!("probe {probe}: {name} refuses, it admits {}", shares(admission))
                };
                let step = ExplainStep {
                    probe: Some(probe),
                    taken: Some(taken),
                    ..ExplainStep::new(StepKind::Probe, text)
                };
                self.about(tables, backend, with_shares(step, admission))
            }
            Step::Remembered { table } => ExplainStep::new(
                StepKind::Remembered,
                format!("such a packet enters the {}", table_name(table)),
            ),
            Step::InsertLimited => ExplainStep::new(
                StepKind::Remembered,
                "such a packet would enter the flow table, but the limit of inserts is reached",
            ),
        }
    }

    /// A flow leaves a pool of which it tried the first slot only.
    fn goes_on(&self, pool: u32) -> ExplainStep {
        let name = self.pool_name(pool);
        let text = format!(
            "it goes on to the next pool at once: too few of pool {name} are well to keep all whose home refuses them"
        );
        ExplainStep { pool: Some(name), taken: Some(false), ..ExplainStep::new(StepKind::Pool, text) }
    }

    /// A step about a backend: with its name and where it stands.
    fn about<T: Tables>(&self, tables: &T, backend: u32, step: ExplainStep) -> ExplainStep {
        let domain = |of: fn(&BackendEntry) -> u16| tables.backend(backend).map(|entry| self.path(of(entry)));
        ExplainStep {
            backend: Some(self.backend_name(backend)),
            rack: domain(|entry| entry.rack),
            zone: domain(|entry| entry.zone),
            region: domain(|entry| entry.region),
            ..step
        }
    }
}

/// The pool that a flow leaves with the step `at`, if it tried the first slot only. A steered service's flows try more of a pool, unless
/// the plan lets them go.
fn left_at_once(trace: &[Step], at: usize) -> Option<u32> {
    match (at.checked_sub(1).map(|before| trace[before]), trace[at], trace.get(at + 1)) {
        (_, _, Some(Step::Probe { .. })) => None,
        (Some(Step::Pool { pool, entered: true, .. }), Step::Probe { probe: 0, taken: false, .. }, _) => {
            Some(pool)
        }
        _ => None,
    }
}

const fn table_name(table: FlowTable) -> &'static str {
    match table {
        FlowTable::Flows => "flow table",
        FlowTable::Openings => "table of flows that are opening",
    }
}

fn with_shares(step: ExplainStep, word: Admission) -> ExplainStep {
    ExplainStep { new_share: Some(word.new_share()), old_share: Some(word.old_share()), ..step }
}

fn shares(word: Admission) -> String {
    format!("{} of 255 new and {} of 255 established flows", word.new_share(), word.old_share())
}
