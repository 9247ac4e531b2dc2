//! Metrics: from one moment's views to the text that Prometheus reads. Pure.
//!
//! Names begin with `weir_`; units are seconds, bytes, and ratios from 0 to 1. Labels are what the configuration or the program
//! names (services, backends, pools, domains, checks, reasons, states), never a client.

use std::collections::BTreeMap;

use super::{
    event::{Event, EventKind},
    metrics_steering::{self, Api},
    metrics_text::{
        Kind::{Counter, Gauge, Histogram},
        Text,
    },
    reactions::{BOUNDS_S, Direction, Phase, Reactions},
};
use lb_common::abi::counter::Note;

use crate::{
    api::types::{
        BackendView, BfdCounts, DomainView, GuardView, ServiceView, Shares, Status, SteeredPlan, VerdictKind,
    },
    health::bfd::packet,
    plan::state::State,
};

/// What the journal counted since the daemon started.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct EventCounts {
    /// Events by kind.
    pub kinds: BTreeMap<String, u64>,
    /// Reaction times.
    pub reactions: Reactions,
}

impl EventCounts {
    /// None yet. Kinds that Prometheus should see at 0 before the first one are there already.
    #[must_use]
    pub fn new() -> Self {
        let usual = [EventKind::BackendState, EventKind::DomainState, EventKind::Override, EventKind::Daemon];
        let kinds = usual.into_iter().map(|kind| (name(kind), 0)).collect();
        Self { kinds, reactions: Reactions::default() }
    }

    /// Takes an event.
    pub fn observe(&mut self, event: &Event) {
        *self.kinds.entry(name(event.kind)).or_default() += 1;
        self.reactions.observe(event);
    }
}

/// The name that the kind has in events.
fn name(kind: EventKind) -> String {
    match serde_json::to_value(kind) {
        Ok(serde_json::Value::String(name)) => name,
        _ => "unknown".to_owned(),
    }
}

/// All that metrics tell, at one moment.
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshot {
    /// The whole.
    pub status: Status,
    /// All services.
    pub services: Vec<ServiceView>,
    /// All backends.
    pub backends: Vec<BackendView>,
    /// All domains.
    pub domains: Vec<DomainView>,
    /// How services are protected.
    pub guards: Vec<GuardView>,
    /// Plans as they stand.
    pub plans: Vec<SteeredPlan>,
    /// What the API counts of itself.
    pub api: Api,
    /// Emergency switches that are on.
    pub switches: u64,
    /// What was noted beside verdicts.
    pub notes: Vec<(&'static str, u64)>,
    /// Entries that the last walk over the tables of flows removed.
    pub removed_entries: u64,
    /// Events.
    pub events: EventCounts,
}

const STATES: [State; 5] = [State::Up, State::Ramp, State::Suspect, State::Draining, State::Down];

/// The text.
#[must_use]
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = Text::default();
    node(&mut text, &snapshot.status);
    verdicts(&mut text, snapshot);
    services(&mut text, &snapshot.services);
    guards(&mut text, snapshot);
    backends(&mut text, &snapshot.backends);
    backend_states(&mut text, &snapshot.backends);
    checks(&mut text, &snapshot.backends);
    domains(&mut text, &snapshot.domains);
    flows(&mut text, snapshot);
    control(&mut text, &snapshot.status);
    events(&mut text, snapshot);
    metrics_steering::steering(&mut text, snapshot);
    metrics_steering::api(&mut text, &snapshot.api);
    text.finish()
}

fn node(text: &mut Text, status: &Status) {
    let Status { node, daemon, config, xdp, .. } = status;
    let abi = daemon.abi.to_string();
    text.family("weir_build_info", Gauge, "Version of the daemon and of the data plane's binary interface.")
        .sample(&[("version", &daemon.version), ("abi", &abi)], 1);
    let zone = node.zone.as_deref().unwrap_or("");
    text.family("weir_node_info", Gauge, "Name and place of the edge host.")
        .sample(&[("node", &node.name), ("region", &node.region), ("zone", zone)], 1);
    let started = daemon.started.as_millisecond() as f64 / 1e3;
    text.single("weir_start_time_seconds", Gauge, "When the daemon started, in Unix time.", started);
    text.single("weir_uptime_seconds", Gauge, "Time since the daemon started.", daemon.uptime_s);
    let mut reloads = text.family(
        "weir_config_reloads_total",
        Counter,
        "Reloads of the configuration since the daemon started.",
    );
    reloads.sample(&[("result", "ok")], config.reloads);
    reloads.sample(&[("result", "failed")], config.failed_reloads);
    let failed = config.last_error.is_none();
    text.single(
        "weir_config_last_reload_successful",
        Gauge,
        "Whether the last reload was not refused.",
        failed,
    );
    if let Some(loaded) = config.loaded {
        let loaded = loaded.as_millisecond() as f64 / 1e3;
        let help = "When the configuration in force was put in force, in Unix time.";
        text.single("weir_config_loaded_time_seconds", Gauge, help, loaded);
    }
    let help = "Whether the XDP program is attached to the interface.";
    let mut attached = text.family("weir_interface_attached", Gauge, help);
    for interface in &xdp.interfaces {
        attached.sample(&[("interface", &interface.name)], interface.attached);
    }
    let help = "Whether every target is silent at once, so that states are held: the host itself is cut off.";
    text.single("weir_host_isolated", Gauge, help, status.isolated);
    let overrides = status.overrides.len() as u64;
    text.single("weir_overrides", Gauge, "Operators' words that stand: drains and failures.", overrides);
    let mut canaries =
        text.family("weir_canary_ratio", Gauge, "Share of its pool's flows that a service's canary takes.");
    for view in &status.canaries {
        let labels = [("service", view.canary.service.as_str()), ("set", &view.canary.set)];
        canaries.sample(&labels, f64::from(view.canary.permille) / 1e3);
    }
    text.single("weir_shifts", Gauge, "Shifts of domains that stand.", status.shifts.len() as u64);
}

fn verdicts(text: &mut Text, snapshot: &Snapshot) {
    let traffic = &snapshot.status.traffic;
    let help = "Packets sent to backends, of backends that left included.";
    text.single("weir_forwarded_packets_total", Counter, help, traffic.forwarded_packets);
    let help = "Bytes of packets sent to backends, as they arrived.";
    text.single("weir_forwarded_bytes_total", Counter, help, traffic.forwarded_bytes);
    let of = |verdict| traffic.reasons.iter().filter(move |count| count.verdict == verdict);
    let families = [
        (VerdictKind::Drop, "weir_dropped", "dropped"),
        (VerdictKind::Pass, "weir_passed", "handed to the kernel's stack"),
        (VerdictKind::Answer, "weir_answered", "answered by the program itself"),
    ];
    for (verdict, name, words) in families {
        let help = format!("Packets {words}, by reason.");
        let mut family = text.family(&format!("{name}_packets_total"), Counter, &help);
        of(verdict).for_each(|count| family.sample(&[("reason", &count.reason)], count.packets));
        let help = format!("Bytes of packets {words}, by reason.");
        let mut family = text.family(&format!("{name}_bytes_total"), Counter, &help);
        of(verdict).for_each(|count| family.sample(&[("reason", &count.reason)], count.bytes));
    }
    let help = "What happened to flows beside the verdict of a packet, by note.";
    let mut notes = text.family("weir_notes_total", Counter, help);
    snapshot.notes.iter().for_each(|&(note, count)| notes.sample(&[("note", note)], count));
    let arrived = snapshot.notes.iter().find(|(note, _)| *note == Note::RelayArrived.name());
    let help = "Packets that other regions relayed to this host, whatever became of them.";
    text.single("weir_relayed_in_packets_total", Counter, help, arrived.map_or(0, |(_, count)| *count));
    let relays = || snapshot.backends.iter().filter(|backend| backend.relay);
    let help = "Packets relayed to Weir hosts of other regions, by host.";
    let mut relayed = text.family("weir_relayed_out_packets_total", Counter, help);
    relays().for_each(|backend| relayed.sample(&[("backend", &backend.name)], backend.packets));
    let help = "Bytes of packets relayed to Weir hosts of other regions, as they arrived, by host.";
    let mut relayed = text.family("weir_relayed_out_bytes_total", Counter, help);
    relays().for_each(|backend| relayed.sample(&[("backend", &backend.name)], backend.bytes));
}

fn services(text: &mut Text, services: &[ServiceView]) {
    type Value = fn(&ServiceView) -> u64;
    let families: [(&str, &str, Value); 4] = [
        ("weir_service_packets_total", "Packets forwarded, by service.", |s| s.traffic.packets),
        ("weir_service_bytes_total", "Bytes of packets forwarded, by service.", |s| s.traffic.bytes),
        (
            "weir_service_new_flows_total",
            "Packets forwarded that may open a flow (TCP SYN, every plain UDP datagram), by service.",
            |s| s.traffic.opening,
        ),
        (
            "weir_service_dropped_packets_total",
            "Packets dropped after the service was known, by service.",
            |s| s.traffic.dropped,
        ),
    ];
    for (name, help, value) in families {
        let mut family = text.family(name, Counter, help);
        services.iter().for_each(|service| family.sample(&[("service", &service.name)], value(service)));
    }
    let mut pools = text.family("weir_pool_backends", Gauge, "Backends of the pool.");
    let each = || services.iter().flat_map(|service| service.pools.iter().map(move |pool| (service, pool)));
    for (service, pool) in each() {
        pools.sample(&[("service", &service.name), ("pool", &pool.name)], pool.backends);
    }
    let help = "Backends of the pool that take new flows, their domains considered.";
    let mut available = text.family("weir_pool_available_backends", Gauge, help);
    for (service, pool) in each() {
        available.sample(&[("service", &service.name), ("pool", &pool.name)], pool.available);
    }
}

fn guards(text: &mut Text, snapshot: &Snapshot) {
    let help = "Packets that the service's guard refused, by reason.";
    let mut refused = text.family("weir_service_refused_packets_total", Counter, help);
    for guard in &snapshot.guards {
        for (reason, count) in &guard.refused {
            refused.sample(&[("service", &guard.service), ("reason", reason)], *count);
        }
    }
    let help =
        "Share of the service's new flows that is shed now, by overload control or by an emergency switch.";
    let mut shed = text.family("weir_service_shed_ratio", Gauge, help);
    for guard in &snapshot.guards {
        let by = [("overload", guard.shed_percent), ("switch", guard.switch_shed_percent)];
        for (by, percent) in by {
            shed.sample(&[("service", &guard.service), ("by", by)], percent / 100.0);
        }
    }
    text.single("weir_emergency_switches", Gauge, "Emergency switches that are on.", snapshot.switches);
}

fn backends(text: &mut Text, backends: &[BackendView]) {
    let mut info = text.family(
        "weir_backend_info",
        Gauge,
        "Where a backend stands, its set, and whether it is a Weir host of another region.",
    );
    for backend in backends {
        let zone = backend.rack.rsplit_once('/').map_or("", |(zone, _)| zone);
        let region = backend.rack.split('/').next().unwrap_or("");
        let labels = [
            ("backend", backend.name.as_str()),
            ("rack", &backend.rack),
            ("zone", zone),
            ("region", region),
            ("set", &backend.set),
            ("relay", if backend.relay { "yes" } else { "no" }),
        ];
        info.sample(&labels, 1);
    }
    type Value = fn(&BackendView) -> u64;
    let counters: [(&str, &str, Value); 3] = [
        ("weir_backend_packets_total", "Packets forwarded, by backend.", |b| b.packets),
        ("weir_backend_bytes_total", "Bytes of packets forwarded, by backend.", |b| b.bytes),
        ("weir_backend_new_flows_total", "Packets forwarded that may open a flow, by backend.", |b| {
            b.opening
        }),
    ];
    for (name, help, value) in counters {
        let mut family = text.family(name, Counter, help);
        backends.iter().for_each(|backend| family.sample(&[("backend", &backend.name)], value(backend)));
    }
    let gauges: [(&str, &str, Value); 4] = [
        (
            "weir_backend_spared",
            "Whether the backend's checks fail and max_ejected leaves it in: its pool cannot spare it.",
            |b| b.spared.into(),
        ),
        ("weir_backend_weight", "Configured weight.", |b| b.weight.into()),
        (
            "weir_backend_flow_entries",
            "Entries of the flow table that name the backend, by the last walk. Flows at home have none.",
            |b| b.flows,
        ),
        ("weir_backend_next_hop_known", "Whether the daemon knows where the backend's packets go.", |b| {
            b.next_hop.is_some().into()
        }),
    ];
    for (name, help, value) in gauges {
        let mut family = text.family(name, Gauge, help);
        backends.iter().for_each(|backend| family.sample(&[("backend", &backend.name)], value(backend)));
    }
}

fn backend_states(text: &mut Text, backends: &[BackendView]) {
    let help = "State of the backend itself: 1 for the one that is in force.";
    let mut states = text.family("weir_backend_state", Gauge, help);
    for backend in backends {
        for state in STATES {
            let labels = [("backend", backend.name.as_str()), ("state", state.name())];
            states.sample(&labels, state == backend.health.state);
        }
    }
    let help = "Share of flows that the backend's own admission word lets through.";
    let mut own = text.family("weir_backend_admission_ratio", Gauge, help);
    for backend in backends {
        for (flows, share) in ratios(backend.admission.shares) {
            own.sample(&[("backend", &backend.name), ("flows", flows)], share);
        }
    }
    let help = "Share of flows that the backend really takes, its domains considered.";
    let mut effective = text.family("weir_backend_effective_admission_ratio", Gauge, help);
    for backend in backends {
        for (flows, share) in ratios(backend.effective) {
            effective.sample(&[("backend", &backend.name), ("flows", flows)], share);
        }
    }
}

fn ratios(shares: Shares) -> [(&'static str, f64); 2] {
    let ratio = |share: u8| f64::from(share) / 255.0;
    [("new", ratio(shares.new)), ("established", ratio(shares.old))]
}

fn checks(text: &mut Text, backends: &[BackendView]) {
    let all = || backends.iter().flat_map(|backend| backend.checks.iter().map(move |check| (backend, check)));
    // Two checks of a backend may have one name only if they are the same.
    let mut probes = text.family("weir_probes_total", Counter, "Probes judged, by backend and check.");
    for (backend, check) in all() {
        probes.sample(&[("backend", &backend.name), ("check", &check.name)], check.answered + check.missed);
    }
    let help = "Probes without a good answer in time, by backend and check.";
    let mut missed = text.family("weir_probes_missed_total", Counter, help);
    for (backend, check) in all() {
        missed.sample(&[("backend", &backend.name), ("check", &check.name)], check.missed);
    }
    let help = "Time from the last answered probe to its answer.";
    let mut rtt = text.family("weir_probe_last_round_trip_seconds", Gauge, help);
    for (backend, check) in all() {
        if let Some(ns) = check.last_rtt_ns {
            rtt.sample(&[("backend", &backend.name), ("check", &check.name)], ns as f64 / 1e9);
        }
    }
}

fn domains(text: &mut Text, domains: &[DomainView]) {
    let help = "State of the domain itself: 1 for the one that is in force.";
    let mut states = text.family("weir_domain_state", Gauge, help);
    for domain in domains {
        let level = domain.level.to_string();
        for state in STATES {
            let labels = [("domain", domain.path.as_str()), ("level", &level), ("state", state.name())];
            states.sample(&labels, state == domain.health.state);
        }
    }
    let help = "Share of flows that the domain's admission word lets through.";
    let mut words = text.family("weir_domain_admission_ratio", Gauge, help);
    for domain in domains {
        let level = domain.level.to_string();
        for (flows, share) in ratios(domain.admission.shares) {
            words.sample(&[("domain", &domain.path), ("level", &level), ("flows", flows)], share);
        }
    }
}

fn flows(text: &mut Text, snapshot: &Snapshot) {
    let flows = &snapshot.status.flows;
    let help = "Flows away from home or in transition, by the last walk: those established, and those that only opened.";
    let mut entries = text.family("weir_flow_table_entries", Gauge, help);
    entries.sample(&[("table", "flows")], flows.entries);
    entries.sample(&[("table", "openings")], flows.openings);
    let help = "Established flows away from home that the flow table has room for.";
    text.single("weir_flow_table_capacity", Gauge, help, flows.capacity);
    let help = "Entries that the last walk over the tables of flows removed.";
    text.single("weir_walker_removed_entries", Gauge, help, snapshot.removed_entries);
    let help = "Slots of pools' tables for which the flow table is asked.";
    text.single("weir_marked_slots", Gauge, help, flows.marked_slots);
    let running = flows.transition_ends.is_some();
    text.single(
        "weir_transition_running",
        Gauge,
        "Whether a change of the configuration is in transition.",
        running,
    );
    let help = "What left the configuration and stays in the data plane for its flows.";
    let mut leaving = text.family("weir_leaving", Gauge, help);
    leaving.sample(&[("kind", "backend")], flows.leaving_backends);
    leaving.sample(&[("kind", "service")], flows.leaving_services);
}

fn control(text: &mut Text, status: &Status) {
    let (control, journal) = (&status.control, &status.journal);
    let real_time = control.scheduling.starts_with("SCHED_FIFO");
    let help = "Whether the thread that probes and decides has real-time priority.";
    text.single("weir_control_real_time", Gauge, help, real_time);
    let counters = [
        ("weir_control_rounds_total", "Rounds of heartbeats judged.", control.rounds),
        (
            "weir_control_late_rounds_total",
            "Rounds judged later than an interval after they were due.",
            control.late_rounds,
        ),
        (
            "weir_control_stalled_rounds_total",
            "Rounds with misses while this host stood still: answers were waited for once more.",
            control.stalled_rounds,
        ),
        ("weir_control_stores_total", "Admission words stored.", control.stores),
        ("weir_probe_results_lost_total", "Results of slow checks that found no room.", control.lost_results),
        (
            "weir_events_lost_total",
            "Events that found no room on the way to the journal.",
            control.lost_events,
        ),
        ("weir_journal_write_errors_total", "Writes of the journal that failed.", journal.write_errors),
        ("weir_journal_unwritten_events_total", "Events that were never written.", journal.unwritten),
    ];
    for (name, help, value) in counters {
        text.single(name, Counter, help, value);
    }
    let lateness = control.max_lateness_ns as f64 / 1e9;
    let help = "How late a round was sent at most since the daemon started.";
    text.single("weir_control_max_lateness_seconds", Gauge, help, lateness);
    let mut bfd = text.family("weir_bfd_packets_total", Counter, "BFD packets by what became of them.");
    control.bfd.iter().for_each(|(result, count)| bfd.sample(&[("result", result)], *count));
    if let Some(counts) = &control.bfd_sessions {
        bfd_sessions(text, counts);
    }
}

fn bfd_sessions(text: &mut Text, counts: &BfdCounts) {
    let mut states = text.family("weir_bfd_sessions", Gauge, "BFD sessions by state.");
    let by_state = [
        (packet::State::Up, counts.up),
        (packet::State::Init, counts.init),
        (packet::State::Down, counts.down),
        (packet::State::AdminDown, counts.admin_down),
    ];
    by_state.iter().for_each(|(state, count)| states.sample(&[("state", state.name())], *count));
    let help = "BFD sessions that are not up, which is no evidence yet: their handshake is awaited.";
    text.single("weir_bfd_sessions_awaited", Gauge, help, counts.awaited);
    let help = "Times that BFD sessions were up and went down, believed or not.";
    text.single("weir_bfd_flaps_total", Counter, help, counts.flaps);
}

fn events(text: &mut Text, snapshot: &Snapshot) {
    let help = "Events of the journal since the daemon started, by kind.";
    let mut kinds = text.family("weir_events_total", Counter, help);
    snapshot.events.kinds.iter().for_each(|(kind, count)| kinds.sample(&[("kind", kind)], *count));
    let help = "Times of changes of state: detect (evidence to decision), program (decision to store) and total; \
                flows sent out, or let back.";
    let mut reactions = text.family("weir_reaction_seconds", Histogram, help);
    for phase in Phase::ALL {
        for direction in Direction::ALL {
            let histogram = snapshot.events.reactions.get(phase, direction);
            let labels = [("phase", phase.name()), ("direction", direction.name())];
            reactions.histogram(&labels, &BOUNDS_S, &histogram.counts, histogram.sum_s);
        }
    }
}
