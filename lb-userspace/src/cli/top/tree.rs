//! The tree of domains and backends with their rates, from what the API says. Pure.

use std::collections::BTreeMap;

use crate::{
    api::types::{
        BackendView, DomainView, DrainState, HealthView, Shares, StateCounts, SubjectKind, SubjectName,
    },
    cli::{backend, output::word},
    config::Level,
    plan::state::State,
};

/// What one second brings.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(super) struct Rates {
    pub(super) packets: f64,
    pub(super) bytes: f64,
    pub(super) opening: f64,
}

impl Rates {
    pub(super) fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.bytes += other.bytes;
        self.opening += other.opening;
    }
}

/// Counters of one backend.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counted {
    packets: u64,
    bytes: u64,
    opening: u64,
}

impl From<&BackendView> for Counted {
    fn from(backend: &BackendView) -> Self {
        Self { packets: backend.packets, bytes: backend.bytes, opening: backend.opening }
    }
}

impl Counted {
    /// What it grew by since `before`, per second.
    pub(super) fn since(self, before: Self, seconds: f64) -> Rates {
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        Rates {
            packets: rate(self.packets, before.packets),
            bytes: rate(self.bytes, before.bytes),
            opening: rate(self.opening, before.opening),
        }
    }
}

/// One line of the tree.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Node {
    pub(super) subject: SubjectName,
    /// None for a backend.
    pub(super) level: Option<Level>,
    /// What is shown behind the indentation: the last part of a path.
    pub(super) label: String,
    pub(super) depth: usize,
    pub(super) health: HealthView,
    /// What it takes; of a backend with all domains above it considered.
    pub(super) takes: Shares,
    /// The states of the backends in a domain.
    pub(super) backends: Option<StateCounts>,
    pub(super) rates: Rates,
    /// Flows away from home that are here.
    pub(super) flows: u64,
    /// Why it is not as it should be; empty if it is.
    pub(super) why: String,
}

impl Node {
    /// The state as it is shown: drains that came to their end, and what of new flows is let in where that is neither all nor none.
    pub(super) fn state(&self) -> String {
        let is_drained = self.health.drain.as_ref().is_some_and(|drain| drain.state == DrainState::Drained);
        match (self.health.state, self.takes.new) {
            (State::Draining, _) if is_drained => "DRAINED".to_owned(),
            (state, 0 | 255) => state.name().to_owned(),
            (state, new) => format!("{} {:.0} %", state.name(), f64::from(new) * 100.0 / 256.0),
        }
    }
}

/// Parts of a path: their order is that of the tree, which that of paths as texts is not (`west-2` comes before `west/w1`).
fn parts(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

/// The tree, each domain before what is in it.
pub(super) fn nodes(
    domains: &[DomainView],
    backends: &[BackendView],
    rates: &BTreeMap<String, Rates>,
) -> Vec<Node> {
    let mut of_domain: BTreeMap<&str, (Rates, u64)> = BTreeMap::new();
    let mut in_rack: BTreeMap<&str, Vec<Node>> = BTreeMap::new();
    for backend in backends {
        let own = rates.get(&backend.name).copied().unwrap_or_default();
        let mut path = Some(backend.rack.as_str());
        while let Some(domain) = path {
            let (sum, flows) = of_domain.entry(domain).or_default();
            sum.add(own);
            *flows += backend.flows;
            path = domain.rsplit_once('/').map(|(above, _)| above);
        }
        in_rack.entry(&backend.rack).or_default().push(of_backend(backend, own));
    }
    let mut sorted: Vec<_> = domains.iter().collect();
    sorted.sort_by_cached_key(|domain| parts(&domain.path));
    let mut nodes = Vec::with_capacity(domains.len() + backends.len());
    for domain in sorted {
        let (sum, flows) = of_domain.get(domain.path.as_str()).copied().unwrap_or_default();
        nodes.push(Node {
            subject: SubjectName { kind: SubjectKind::Domain, name: domain.path.clone() },
            level: Some(domain.level),
            label: parts(&domain.path).last().map(|&last| last.to_owned()).unwrap_or_default(),
            depth: parts(&domain.path).len() - 1,
            health: domain.health.clone(),
            takes: domain.admission.shares,
            backends: Some(domain.backends),
            rates: sum,
            flows,
            why: word(&domain.health),
        });
        let mut below = in_rack.remove(domain.path.as_str()).unwrap_or_default();
        below.sort_by(|a, b| a.label.cmp(&b.label));
        nodes.extend(below);
    }
    nodes
}

fn of_backend(backend: &BackendView, rates: Rates) -> Node {
    Node {
        subject: SubjectName { kind: SubjectKind::Backend, name: backend.name.clone() },
        level: None,
        label: backend.name.clone(),
        depth: parts(&backend.rack).len(),
        health: backend.health.clone(),
        takes: backend.effective,
        backends: None,
        rates,
        flows: backend.flows,
        why: backend::why(backend),
    }
}
