//! What the API says, computed from configuration, states, counters and next hops.

use std::path::PathBuf;

use lb_common::abi::{ABI_VERSION, admission::Admission, reason::Reason};

use crate::{
    api::types::{
        AdmissionView, BackendView, CheckState, CheckView, ConfigStatus, ControlStatus, DaemonStatus,
        DampingView, DomainView, FlowsStatus, HealthView, InterfaceStatus, JournalStatus, NextHop,
        NodeStatus, PlanView, PoolView, ReasonCount, ServiceTraffic, ServiceView, Shares, ShiftView,
        StateCounts, Status, TrafficStatus, VerdictKind, XdpStatus,
    },
    config::{BackendId, Config, DomainId, Pool, Protocol, Service},
    dataplane::{
        counters::Counters,
        links,
        nexthop::{HopSnapshot, HopState},
    },
    plan::ids::Ids,
    runtime::bfd_views,
    runtime::clock::monotonic_ns,
    runtime::control::{AdmissionStatus, BackendStatus, CheckStatus, DomainStatus, Snapshot, Standing},
    runtime::reload::Reloads,
    runtime::walker::FlowState,
};

/// Seconds without a packet after which a backend that takes no new flows counts as drained.
const DRAINED_AFTER_S: u64 = 60;

/// What is known at one moment.
pub(super) struct Facts<'a> {
    pub(super) config: &'a Config,
    /// States in the order of ids; empty when the control thread does not answer.
    pub(super) snapshot: &'a Snapshot,
    pub(super) counters: &'a Counters,
    pub(super) hops: &'a HopSnapshot,
    pub(super) flows: &'a FlowState,
    pub(super) flow_capacity: u32,
    pub(super) ids: &'a Ids,
}

/// Where the running data plane comes from.
pub(super) struct Origin {
    pub(super) config_path: PathBuf,
    pub(super) adopted: bool,
    pub(super) started: jiff::Timestamp,
}

/// `GET /v1/status`.
pub(super) fn status(
    facts: &Facts<'_>,
    origin: &Origin,
    (digest, reloads): (&[u8; 32], &Reloads),
    journal: JournalStatus,
) -> Status {
    let node = &facts.config.node;
    let path = |id: DomainId| facts.config.topology[id].path.clone();
    let uptime = jiff::Timestamp::now().duration_since(origin.started).as_secs();
    Status {
        node: NodeStatus { name: node.name.clone(), region: path(node.region), zone: node.zone.map(path) },
        daemon: DaemonStatus {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            abi: ABI_VERSION,
            pid: std::process::id(),
            started: origin.started,
            uptime_s: u64::try_from(uptime).unwrap_or(0),
            adopted: origin.adopted,
        },
        config: ConfigStatus {
            file: origin.config_path.clone(),
            digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
            loaded: Some(reloads.loaded),
            reloads: reloads.done,
            failed_reloads: reloads.failed,
            last_error: reloads.last_error.clone(),
        },
        flows: flows(facts),
        xdp: XdpStatus {
            mode: node.mode,
            bpffs: node.bpffs.clone(),
            interfaces: node.interfaces.iter().map(|name| interface(name)).collect(),
        },
        services: facts.config.services.len() as u64,
        backends: facts.snapshot.backends.iter().map(|backend| backend.standing.state).collect(),
        domains: facts.snapshot.domains.iter().map(|domain| domain.standing.state).collect(),
        isolated: facts.snapshot.control.isolated,
        traffic: traffic(facts.counters),
        control: control(facts.snapshot),
        journal,
        unresolved_next_hops: unresolved(facts),
        overrides: Vec::new(),
        shifts: Vec::new(),
        canaries: Vec::new(),
    }
}

/// Whole seconds until a moment, rounded up; 0 if it has passed.
pub(super) fn left_s(until: jiff::Timestamp) -> u64 {
    let ms = until.duration_since(jiff::Timestamp::now()).as_millis();
    u64::try_from(ms).unwrap_or(0).div_ceil(1_000)
}

/// An interface as it is now: one that is gone has index 0 and no program.
fn interface(name: &str) -> InterfaceStatus {
    let found = links::find_interfaces(&[name.to_owned()]).ok().and_then(|mut found| found.pop());
    InterfaceStatus {
        name: name.to_owned(),
        ifindex: found.as_ref().map_or(0, |interface| interface.index),
        attached: found.is_some_and(|interface| interface.xdp.is_some()),
    }
}

fn flows(facts: &Facts<'_>) -> FlowsStatus {
    let FlowState { found, marked, transition_ends, leaving_backends, leaving_services, .. } = facts.flows;
    FlowsStatus {
        entries: found.as_ref().map_or(0, |found| found.flows),
        capacity: facts.flow_capacity.into(),
        openings: found.as_ref().map_or(0, |found| found.openings),
        marked_slots: *marked,
        transition_ends: *transition_ends,
        leaving_backends: *leaving_backends,
        leaving_services: *leaving_services,
    }
}

fn control(snapshot: &Snapshot) -> ControlStatus {
    let control = &snapshot.control;
    ControlStatus {
        scheduling: control.scheduling.clone(),
        rounds: control.probing.rounds,
        late_rounds: control.probing.late_rounds,
        stalled_rounds: control.probing.stalled_rounds,
        max_held_ns: control.probing.max_held_ns,
        cpus: control.cpus.0 as u64,
        silent_cpus: control.cpus.1 as u64,
        max_lateness_ns: control.probing.max_lateness_ns,
        bfd: control.bfd.counters(),
        bfd_sessions: bfd_views::counts(snapshot),
        stores: control.stores,
        lost_events: control.events_lost,
        lost_results: control.results_lost,
    }
}

fn traffic(counters: &Counters) -> TrafficStatus {
    let reasons = counters.reasons.iter().filter(|(reason, _)| *reason != Reason::Forwarded);
    TrafficStatus {
        forwarded_packets: counters.forwarded.packets,
        forwarded_bytes: counters.forwarded.bytes,
        reasons: reasons
            .map(|(reason, counter)| ReasonCount {
                reason: reason.name().to_owned(),
                verdict: verdict(*reason),
                packets: counter.packets,
                bytes: counter.bytes,
            })
            .collect(),
    }
}

pub(super) const fn verdict(reason: Reason) -> VerdictKind {
    match reason {
        Reason::Forwarded => VerdictKind::Forward,
        Reason::PassNotIp | Reason::PassNotVip | Reason::PassLeaving => VerdictKind::Pass,
        Reason::EchoAnswered | Reason::TooBigAnswered | Reason::NeighbourAnswered => VerdictKind::Answer,
        _ => VerdictKind::Drop,
    }
}

fn unresolved(facts: &Facts<'_>) -> Vec<String> {
    let hops = facts.config.backends.iter().zip(&facts.hops.backends);
    hops.filter(|(_, state)| matches!(state, HopState::Unresolved { .. }))
        .map(|(b, _)| b.name.clone())
        .collect()
}

/// `GET /v1/services`.
pub(super) fn services(facts: &Facts<'_>) -> Vec<ServiceView> {
    let counter = |index: usize| facts.counters.services.get(index).copied().unwrap_or_default();
    let view = |(index, service): (usize, &Service)| ServiceView {
        name: service.name.clone(),
        address: service.vip,
        port: service.ports,
        protocol: service.protocol,
        on_all_down: service.on_all_down,
        forwarding: service.forwarding.to_string(),
        reach: service.reach,
        udp: (service.protocol == Protocol::Udp && service.quic.is_none()).then_some(service.udp),
        quic: service.quic.is_some(),
        pools: service.pools.iter().map(|pool| pool_view(facts, pool)).collect(),
        plans: plans(facts.config, service),
        traffic: ServiceTraffic {
            packets: counter(index).packets,
            bytes: counter(index).bytes,
            opening: counter(index).opening,
            dropped: counter(index).dropped,
        },
    };
    facts.config.services.iter().enumerate().map(view).collect()
}

fn pool_view(facts: &Facts<'_>, pool: &Pool) -> PoolView {
    let members = facts.config.members(pool);
    let available = members.iter().filter(|&&id| effective(facts, id).0.new > 0).count();
    PoolView {
        name: pool.name.clone(),
        table_size: pool.table_size,
        sets: pool.sets.iter().map(|&set| facts.config[set].name.clone()).collect(),
        backends: members.len() as u64,
        available: available as u64,
        // Nothing sets a pool's own word yet.
        admission: Admission::OPEN.into(),
    }
}

fn plans(config: &Config, service: &Service) -> Vec<PlanView> {
    let all = service.plans.iter().zip(&config.client_regions).map(|(plan, region)| PlanView {
        client_region: region.name.clone(),
        pools: plan.iter().map(|&pool| service[pool].name.clone()).collect(),
    });
    let is_one = service.plans.iter().all(|plan| Some(plan) == service.plans.first());
    all.take(if is_one { 1 } else { usize::MAX }).collect()
}

/// `GET /v1/backends`.
pub(super) fn backends(facts: &Facts<'_>) -> Vec<BackendView> {
    facts.snapshot.backends.iter().map(|status| backend(facts, status)).collect()
}

fn backend(facts: &Facts<'_>, status: &BackendStatus) -> BackendView {
    let config = &facts.config[status.id];
    let counter = facts.counters.backends.get(status.id.index()).copied().unwrap_or_default();
    let (effective, limited_by) = effective(facts, status.id);
    let (index, found) = (facts.ids.backend(status.id), facts.flows.found.as_ref());
    let flows = found.and_then(|found| found.by_backend.get(&index)).copied().unwrap_or(0);
    let quiet_s = facts.flows.quiet.get(index.position()).map_or(0, std::time::Duration::as_secs);
    let hop = match facts.hops.backends.get(status.id.index()) {
        Some(HopState::Resolved(hop) | HopState::Held { hop, .. }) => Some(hop),
        Some(HopState::Unresolved { .. }) | None => None,
    };
    BackendView {
        name: config.name.clone(),
        address: config.address,
        rack: facts.config.topology[config.rack].path.clone(),
        set: facts.config[config.set].name.clone(),
        weight: config.weight,
        relay: facts.config[config.set].relay,
        spared: status.spared,
        health: health(&status.standing),
        admission: admission(status.standing.admission),
        effective,
        limited_by: limited_by.map(|id| facts.config.topology[id].path.clone()),
        checks: status.checks.iter().map(check).collect(),
        next_hop: hop.map(|hop| NextHop { interface: hop.interface.clone(), mac: hop.mac.to_string() }),
        packets: counter.packets,
        bytes: counter.bytes,
        opening: counter.opening,
        flows,
        quiet_s,
        drained: effective.new == 0 && flows == 0 && found.is_some() && quiet_s >= DRAINED_AFTER_S,
    }
}

/// What a backend takes with its domains considered, and the widest domain that lets less through than the backend itself.
fn effective(facts: &Facts<'_>, id: BackendId) -> (Shares, Option<DomainId>) {
    let Some(own) = facts.snapshot.backends.get(id.index()) else {
        return (Shares { new: 0, old: 0 }, None);
    };
    let own = shares(own.standing.admission);
    let mut least = own;
    let mut widest = None;
    for domain in facts.config.topology.ancestors(facts.config[id].rack) {
        if let Some(status) = facts.snapshot.domains.get(domain.index()) {
            let domain_shares = shares(status.standing.admission);
            if domain_shares.new < own.new || domain_shares.old < own.old {
                widest = Some(domain);
            }
            least = least.least(domain_shares);
        }
    }
    (least, widest)
}

/// `GET /v1/domains`.
pub(super) fn domains(facts: &Facts<'_>) -> Vec<DomainView> {
    let topology = &facts.config.topology;
    let within = |domain: DomainId| -> StateCounts {
        let inside = |status: &&BackendStatus| topology.is_within(facts.config[status.id].rack, domain);
        facts.snapshot.backends.iter().filter(inside).map(|status| status.standing.state).collect()
    };
    let view = |status: &DomainStatus| DomainView {
        path: status.path.clone(),
        level: status.level,
        health: HealthView { shift: shift(status), ..health(&status.standing) },
        admission: admission(status.standing.admission),
        backends: within(status.id),
    };
    facts.snapshot.domains.iter().map(view).collect()
}

/// The shift of a domain, if it has one.
pub(super) fn shift(status: &DomainStatus) -> Option<ShiftView> {
    let shift = status.standing.shift.clone()?;
    let left_s = left_s(shift.until);
    let (domain, level) = (status.path.clone(), Some(status.level));
    Some(ShiftView { domain, level, shift, left_s, active: true, stored_ns: None })
}

fn health(standing: &Standing) -> HealthView {
    HealthView {
        state: standing.state,
        automatic: standing.automatic,
        since: standing.since,
        word: standing.held.clone(),
        left_s: standing.held.as_ref().and_then(|held| held.until).map(left_s),
        drain: None,
        shift: None,
        damping: standing.damping.map(|damping| DampingView {
            penalty: damping.penalty as u64,
            suppressed: damping.suppressed,
            left_s: damping.until_ns.map(|ns| ns.saturating_sub(monotonic_ns()).div_ceil(1_000_000_000)),
        }),
    }
}

const fn shares(status: AdmissionStatus) -> Shares {
    Shares { new: status.new, old: status.old }
}

const fn admission(status: AdmissionStatus) -> AdmissionView {
    AdmissionView { shares: shares(status), held: status.held, clean: status.clean }
}

fn check(status: &CheckStatus) -> CheckView {
    let state = match (status.answered + status.missed, status.up) {
        (0, _) => CheckState::Unknown,
        (_, true) => CheckState::Passing,
        (_, false) => CheckState::Failing,
    };
    CheckView {
        name: status.check.clone(),
        port: status.port,
        state,
        last: status.last.clone(),
        answered: status.answered,
        missed: status.missed,
        last_rtt_ns: status.rtt_ns,
    }
}
