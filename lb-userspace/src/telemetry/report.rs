//! Mean time to failure, mean time to repair and availability, from the event journal. Pure.
//!
//! Down is what is DOWN by automation, itself or any domain above it, from the evidence on; a service is down while none of its backends
//! is up. SUSPECT and RAMP count as up: established flows are served. What an operator drained or failed is planned, and neither
//! up nor down. Nothing is said of times in which no daemon ran, nor of those that the journal does not hold.

use std::collections::{BTreeMap, HashMap};

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::event::{Event, EventKind, last_alive, says_fail, says_fresh, says_started, says_stopped};
use crate::config::{Config, Level};
use crate::plan::state::State;

/// What a report tells.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Report {
    /// From when on it was asked for.
    pub since: Timestamp,
    /// From when on the journal says anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub journal_since: Option<Timestamp>,
    /// Whether the journal held more once: what came before was rotated away.
    pub journal_truncated: bool,
    /// Its end.
    pub until: Timestamp,
    /// Seconds within it in which a daemon ran and the journal says what was.
    pub observed_s: f64,
    /// How often no daemon ran.
    pub gaps: u64,
    /// Services, regions, zones, racks and backends of the present configuration, in this order, each by name.
    pub records: Vec<Record>,
}

/// What kind of thing a record is about.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A service.
    Service,
    /// A region.
    Region,
    /// A zone.
    Zone,
    /// A rack.
    Rack,
    /// A backend.
    Backend,
}

impl Kind {
    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Region => "region",
            Self::Zone => "zone",
            Self::Rack => "rack",
            Self::Backend => "backend",
        }
    }
}

/// One service, domain or backend.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Record {
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// How often it went down.
    pub failures: u64,
    /// Seconds up.
    pub up_s: f64,
    /// Seconds down.
    pub down_s: f64,
    /// Seconds in which an operator had taken it out.
    pub planned_s: f64,
    /// Time up for each failure; left out if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mttf_s: Option<f64>,
    /// Time down for each failure; left out if there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mttr_s: Option<f64>,
    /// Time up in percent of that up or down; left out if it was neither.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub availability_percent: Option<f64>,
}

/// Makes the report of a configuration from `since` to `until`. `journal` calls back for each event that the journal holds, in
/// order, and does so twice: the first time tells how everything was before its first event.
#[must_use]
pub fn report(
    config: &Config,
    (since, until): (Timestamp, Timestamp),
    journal: impl Fn(&mut dyn FnMut(&Event)),
) -> Report {
    let mut first: Option<(u64, Timestamp)> = None;
    let mut before: HashMap<(bool, String), Own> = HashMap::new();
    journal(&mut |event| {
        first.get_or_insert((event.seq, event.time));
        if let Some(from) = event.from {
            for key in keys(event) {
                before.entry(key).or_insert_with(|| Own::before(event, from));
            }
        }
    });
    let begin = first.map_or(until, |(_, time)| time.max(since)).min(until);
    let mut fold = Fold::new(config, begin, until);
    fold.start(first.map_or(until, |(_, time)| time), &before);
    journal(&mut |event| fold.take(event));
    fold.advance(until);
    Report {
        since,
        journal_since: first.map(|(_, time)| time),
        journal_truncated: first.is_some_and(|(seq, _)| seq > 1),
        until,
        observed_s: fold.observed.as_secs_f64(),
        gaps: fold.gaps,
        records: fold.records(config),
    }
}

/// The names under which an event's subject is looked for: of a backend (true) or a domain (false). Overrides do not say; a domain
/// comes first.
fn keys(event: &Event) -> impl Iterator<Item = (bool, String)> + '_ {
    let kinds: &[bool] = match event.kind {
        EventKind::BackendState => &[true],
        EventKind::DomainState => &[false],
        EventKind::Override => &[false, true],
        _ => &[],
    };
    kinds.iter().map(|is_backend| (*is_backend, event.subject.clone()))
}

/// What was said of one backend or domain itself.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
struct Own {
    down: bool,
    planned: bool,
}

impl Own {
    /// How it was before its first event.
    fn before(event: &Event, from: State) -> Self {
        let by_operator = event.kind == EventKind::Override;
        Self {
            down: from == State::Down && !by_operator,
            planned: from == State::Draining
                || from == State::Down && by_operator && event.to != Some(State::Down),
        }
    }
}

/// What something is, its domains considered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Status {
    Up,
    Down,
    Planned,
}

/// One line of the report while it is made.
#[derive(Clone, Debug)]
struct Line {
    status: Status,
    failures: u64,
    spent: [SignedDuration; 3],
}

/// The state of everything while the journal goes by.
struct Fold {
    window: (Timestamp, Timestamp),
    now: Timestamp,
    running: bool,
    gaps: u64,
    observed: SignedDuration,
    /// Domains, then backends.
    own: Vec<Own>,
    /// Of each of those, itself and all above, as indices into `own`.
    above: Vec<Vec<usize>>,
    by_name: BTreeMap<(bool, String), usize>,
    /// Members of each service, as indices into `own`.
    services: Vec<Vec<usize>>,
    /// Domains, backends, then services.
    lines: Vec<Line>,
}

impl Fold {
    fn new(config: &Config, begin: Timestamp, until: Timestamp) -> Self {
        let domains = config.topology.domains.len();
        let mut above = Vec::new();
        let mut by_name = BTreeMap::new();
        for (at, domain) in config.topology.domains.iter().enumerate() {
            let mut chain = vec![at];
            let mut next = domain.parent;
            while let Some(id) = next {
                chain.push(id.index());
                next = config.topology[id].parent;
            }
            by_name.insert((false, domain.path.clone()), at);
            above.push(chain);
        }
        for (at, backend) in config.backends.iter().enumerate() {
            let ancestors = config.topology.ancestors(backend.rack).map(|id| id.index());
            above.push(std::iter::once(domains + at).chain(ancestors).collect());
            by_name.insert((true, backend.name.clone()), domains + at);
        }
        let members = |service: &crate::config::Service| {
            let all = service.pools.iter().flat_map(|pool| config.members(pool));
            all.map(|id| domains + id.index()).collect()
        };
        let services: Vec<Vec<usize>> = config.services.iter().map(members).collect();
        let line = Line { status: Status::Up, failures: 0, spent: [SignedDuration::ZERO; 3] };
        Self {
            window: (begin, until),
            now: begin,
            running: true,
            gaps: 0,
            observed: SignedDuration::ZERO,
            own: vec![Own::default(); above.len()],
            lines: vec![line; above.len() + services.len()],
            above,
            by_name,
            services,
        }
    }

    fn start(&mut self, at: Timestamp, before: &HashMap<(bool, String), Own>) {
        self.now = at;
        for (key, own) in before {
            if let Some(&index) = self.by_name.get(key) {
                self.own[index] = *own;
            }
        }
        self.judge(false);
    }

    /// Lets time pass.
    fn advance(&mut self, to: Timestamp) {
        let (begin, until) = self.window;
        let (from, end) = (self.now.max(begin), to.min(until));
        if self.running && end > from {
            let passed = end.duration_since(from);
            self.observed += passed;
            for line in &mut self.lines {
                line.spent[line.status as usize] += passed;
            }
        }
        self.now = self.now.max(to);
    }

    fn take(&mut self, event: &Event) {
        match event.kind {
            EventKind::Daemon if says_started(&event.cause) => {
                if self.running {
                    // It did not stop in order: since when it was dead, its marker says.
                    let since = last_alive(&event.cause).unwrap_or(self.now);
                    self.advance(since.clamp(self.now, event.time.max(self.now)));
                    self.gaps += u64::from(event.seq > 1);
                }
                self.running = false;
                self.advance(event.time);
                self.running = true;
                if says_fresh(&event.cause) {
                    self.own.iter_mut().for_each(|own| own.down = false);
                    self.judge(true);
                }
            }
            EventKind::Daemon if says_stopped(&event.cause) => {
                self.advance(event.time);
                self.running = false;
                self.gaps += 1;
            }
            EventKind::BackendState | EventKind::DomainState | EventKind::Override => self.change(event),
            _ => {}
        }
    }

    fn change(&mut self, event: &Event) {
        let Some(to) = event.to else { return };
        let Some(index) = keys(event).find_map(|key| self.by_name.get(&key).copied()) else { return };
        let own = self.own[index];
        let after = if event.kind == EventKind::Override {
            let planned = to == State::Draining || to == State::Down && says_fail(&event.cause);
            Own { planned, down: to == State::Down && !planned }
        } else if to == State::Draining {
            Own { planned: true, down: false }
        } else if own.planned {
            own
        } else {
            Own { planned: false, down: to == State::Down }
        };
        // A failure begins with its evidence.
        let early = event.evidence_ns.filter(|_| after.down && !own.down);
        let early = early.map_or(0, |ns| event.monotonic_ns.saturating_sub(ns));
        let early = SignedDuration::from_nanos(i64::try_from(early).unwrap_or(0));
        self.advance(event.time.checked_sub(early).unwrap_or(event.time).max(self.now));
        self.own[index] = after;
        if after != own {
            self.judge(true);
        }
    }

    /// Works out what everything is now, and counts who went down.
    fn judge(&mut self, counts: bool) {
        let counts = counts && self.now >= self.window.0 && self.now <= self.window.1;
        let of = |own: &[Own], chain: &[usize]| {
            if chain.iter().any(|&at| own[at].planned) {
                Status::Planned
            } else if chain.iter().any(|&at| own[at].down) {
                Status::Down
            } else {
                Status::Up
            }
        };
        let singles: Vec<_> = self.above.iter().map(|chain| of(&self.own, chain)).collect();
        let of_service = |members: &Vec<usize>| {
            let has = |status| members.iter().any(|&at| singles[at] == status);
            match (has(Status::Up), has(Status::Down)) {
                (true, _) => Status::Up,
                (false, true) => Status::Down,
                (false, false) => Status::Planned,
            }
        };
        let services: Vec<_> = self.services.iter().map(of_service).collect();
        for (line, status) in self.lines.iter_mut().zip(singles.iter().chain(&services)) {
            line.failures += u64::from(counts && *status == Status::Down && line.status != Status::Down);
            line.status = *status;
        }
    }

    fn records(&self, config: &Config) -> Vec<Record> {
        let kinds = config.topology.domains.iter().map(|domain| match domain.level {
            Level::Region => (Kind::Region, domain.path.as_str()),
            Level::Zone => (Kind::Zone, domain.path.as_str()),
            Level::Rack => (Kind::Rack, domain.path.as_str()),
        });
        let backends = config.backends.iter().map(|backend| (Kind::Backend, backend.name.as_str()));
        let services = config.services.iter().map(|service| (Kind::Service, service.name.as_str()));
        let all = kinds.chain(backends).chain(services).zip(&self.lines);
        let mut records: Vec<_> = all.map(|((kind, name), line)| record(kind, name, line)).collect();
        records.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        records
    }
}

fn record(kind: Kind, name: &str, line: &Line) -> Record {
    let [up_s, down_s, planned_s] = line.spent.map(|spent| spent.as_secs_f64());
    let each = |seconds: f64| (line.failures > 0).then(|| seconds / line.failures as f64);
    Record {
        kind,
        name: name.to_owned(),
        failures: line.failures,
        up_s,
        down_s,
        planned_s,
        mttf_s: each(up_s),
        mttr_s: each(down_s),
        availability_percent: (up_s + down_s > 0.0).then(|| 100.0 * up_s / (up_s + down_s)),
    }
}

#[cfg(test)]
#[path = "report_tests.rs"]
mod tests;
