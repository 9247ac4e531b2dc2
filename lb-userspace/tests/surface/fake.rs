//! A daemon without a data plane.

mod daemon;
mod world;

pub(crate) use daemon::{Daemon, weir};

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use hyper::body::Bytes;
use lb_common::abi::admission::Admission;
use lb_userspace::{
    api::{
        Control, ShiftChange,
        https::Https,
        problem::{Problem, ProblemKind},
        types::*,
    },
    cli::doctor::Finding,
    config::{Level, OnAllDown, Ports, Priority, Protocol, Rate, Reach, XdpMode},
    health::bfd::packet::State as BfdState,
    plan::{
        canary::Canary,
        shift::{Origin, Shift},
        state::{Action, Override, State},
        switches::Thrown,
    },
    telemetry::{
        event::{Event, EventKind, NewEvent},
        journal::Journal,
        metrics,
        metrics_steering::Api,
        report::{Kind, Record, Report},
    },
};
use tokio::sync::mpsc;
use world::{differences, explanation, guard, plan, sessions, shift, simulation, watched};

/// Longer than anything here takes, so that only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The reason of an action at which the daemon fails.
pub(crate) const FAILS: &str = "this fails";

/// The moment of everything that has one.
pub(crate) fn moment() -> jiff::Timestamp {
    "2026-05-01T12:00:00.25Z".parse().unwrap()
}

/// The state behind the API.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) status: Status,
    pub(crate) services: Vec<ServiceView>,
    pub(crate) backends: Vec<BackendView>,
    pub(crate) domains: Vec<DomainView>,
    pub(crate) switches: Vec<SwitchView>,
}

/// The fake.
pub(crate) struct Fake {
    pub(crate) world: Mutex<World>,
    pub(crate) journal: Journal,
    https: Arc<Https>,
    /// Actions under way, and the most that there were at once.
    acting: AtomicUsize,
    pub(crate) most_acting: AtomicUsize,
    /// Terms of the last action that was asked for.
    pub(crate) terms: Mutex<ActionTerms>,
}

impl Control for Fake {
    async fn status(&self) -> Status {
        let mut status = self.world.lock().unwrap().status.clone();
        status.journal.last_seq = self.journal.status().last_seq;
        status
    }

    async fn services(&self) -> Vec<ServiceView> {
        self.world.lock().unwrap().services.clone()
    }

    async fn backends(&self) -> Vec<BackendView> {
        self.world.lock().unwrap().backends.clone()
    }

    async fn domains(&self) -> Vec<DomainView> {
        self.world.lock().unwrap().domains.clone()
    }

    async fn act(
        &self,
        subject: SubjectName,
        action: Action,
        terms: ActionTerms,
        reason: String,
    ) -> Result<Acted, Problem> {
        if reason == FAILS {
            return Err(Problem::new(ProblemKind::Internal, "the disk is full", "make room"));
        }
        *self.terms.lock().unwrap() = terms;
        let order = terms.order(action, reason.clone(), moment()).map_err(|detail| {
            Problem::new(ProblemKind::Invalid, detail, "see `weir backend drain --help`")
        })?;
        let acting = self.acting.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_acting.fetch_max(acting, Ordering::SeqCst);
        tokio::task::yield_now().await;
        let acted = self.change(&subject, action, &reason, order.until);
        self.acting.fetch_sub(1, Ordering::SeqCst);
        let acted = acted?;
        self.journal.record(NewEvent {
            monotonic_ns: 1,
            kind: EventKind::Override,
            subject: subject.name.clone(),
            from: Some(acted.from),
            to: Some(acted.to),
            cause: format!("operator: {}: {reason}", action.name()),
            evidence_ns: None,
            decided_ns: Some(acted.decided_ns),
            stored_ns: Some(acted.stored_ns),
        });
        Ok(acted)
    }

    async fn shifts(&self) -> Vec<ShiftView> {
        self.world.lock().unwrap().status.shifts.clone()
    }

    async fn shift(&self, change: ShiftChange) -> Result<ShiftView, Problem> {
        let shifts = &mut self.world.lock().unwrap().status.shifts;
        match change {
            ShiftChange::Set(request) => {
                let ShiftRequest { domain, level, keep_percent, for_s, reason, force } = request;
                if keep_percent == 0 && !force {
                    let detail = "what remains without west/w1 could not carry its flows";
                    return Err(Problem::new(ProblemKind::Conflict, detail, "say --force"));
                }
                let view = shift(&domain, level, keep_percent, &reason, for_s);
                shifts.push(view.clone());
                Ok(view)
            }
            ShiftChange::Extend(request) => {
                let found = shifts.iter_mut().find(|shift| shift.domain == request.domain);
                let found = found.ok_or_else(|| Problem::not_found("shift", &request.domain))?;
                found.left_s = request.for_s;
                Ok(found.clone())
            }
            ShiftChange::Cancel(request) => {
                let found = shifts.iter().position(|shift| shift.domain == request.domain);
                found
                    .map(|index| shifts.remove(index))
                    .ok_or_else(|| Problem::not_found("shift", &request.domain))
            }
        }
    }

    async fn canaries(&self) -> Vec<CanaryView> {
        self.world.lock().unwrap().status.canaries.clone()
    }

    async fn canary(&self, change: CanaryChange) -> Result<CanaryView, Problem> {
        let CanaryChange { service, order, reason } = change;
        let before: Vec<_> = self.canaries().await.into_iter().map(|view| view.canary).collect();
        let after = lb_userspace::plan::canary::order(&before, &service, order, &reason, moment()).map_err(
            |refusal| Problem::new(ProblemKind::Conflict, refusal.to_string(), "weir canary list"),
        )?;
        let view = |canary: &Canary| CanaryView { canary: canary.clone(), next_permille: Some(250) };
        self.world.lock().unwrap().status.canaries = after.iter().map(view).collect();
        let told = after.iter().chain(&before).find(|canary| canary.service == service).map(view);
        told.ok_or_else(|| Problem::not_found("canary", &service))
    }

    async fn bfd_sessions(&self) -> Vec<BfdSessionView> {
        sessions()
    }

    async fn guards(&self) -> Vec<GuardView> {
        vec![guard("web"), guard("mail")]
    }

    async fn plans(
        &self,
        service: Option<String>,
        client: Option<String>,
    ) -> Result<Vec<SteeredPlan>, Problem> {
        if client.as_deref() == Some("mars") {
            return Err(Problem::new(ProblemKind::Invalid, "\"mars\" is no address", "give an address"));
        }
        match service.as_deref() {
            None => Ok(vec![plan("web"), plan("simulate")]),
            Some(name @ ("web" | "simulate")) => Ok(vec![plan(name)]),
            Some(name) => Err(Problem::not_found("service", name)),
        }
    }

    async fn simulate(&self, request: SimulateRequest) -> Result<Simulation, Problem> {
        Ok(simulation(request))
    }

    async fn switches(&self) -> Vec<SwitchView> {
        self.world.lock().unwrap().switches.clone()
    }

    async fn throw(&self, request: ThrowRequest) -> Result<SwitchView, Problem> {
        let ThrowRequest { switch, for_s, reason } = request;
        let invalid = |detail| Problem::new(ProblemKind::Invalid, detail, "see `weir emergency --help`");
        switch.check().map_err(invalid)?;
        let until = moment() + jiff::SignedDuration::from_secs(for_s.try_into().unwrap());
        let (name, effect) = (switch.name(), switch.effect());
        let thrown = Thrown { switch, reason, since: moment(), until };
        let view = SwitchView { name, effect, thrown, left_s: for_s, active: true };
        self.world.lock().unwrap().switches.push(view.clone());
        Ok(view)
    }

    async fn clear(&self, request: ClearRequest) -> Result<SwitchView, Problem> {
        let switches = &mut self.world.lock().unwrap().switches;
        let found = switches.iter().position(|switch| switch.name == request.name);
        found
            .map(|index| switches.remove(index))
            .ok_or_else(|| Problem::not_found("emergency", &request.name))
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explanation, Problem> {
        if query.dst.port() == 1 {
            return Err(Problem::new(ProblemKind::Internal, "no tables", "restart the daemon"));
        }
        Ok(explanation(query))
    }

    async fn reload(&self) -> Result<Reloaded, Problem> {
        Ok(Reloaded {
            file: "/etc/weir/weir.toml".into(),
            changed: true,
            digest: "0123456789abcdef".to_owned(),
            moved_services: 1,
            leaving_backends: 1,
            leaving_services: 0,
            differences: differences(),
        })
    }

    async fn diff(&self, file: Option<PathBuf>) -> Result<Differences, Problem> {
        match file {
            None => Ok(differences()),
            Some(file) if file.ends_with("same.toml") => Ok(Differences::default()),
            Some(file) => Err(Problem::new(ProblemKind::Config, format!("{}:1:1: no", file.display()), "")),
        }
    }

    async fn watch(&self, query: WatchQuery) -> Result<mpsc::Receiver<Bytes>, Problem> {
        if query.filter == "bad" {
            return Err(Problem::new(ProblemKind::Invalid, "filter: no", "see `weir trace --help`"));
        }
        let (sender, receiver) = mpsc::channel(8);
        let mut lines = vec![WatchLine::Begin { node: "edge".to_owned(), query: query.clone() }];
        lines.push(WatchLine::Packet(Box::new(watched(&query))));
        lines.push(WatchLine::Lost { packets: 7 });
        lines.push(WatchLine::Packet(Box::new(watched(&query))));
        for line in lines {
            let json = serde_json::to_string(&line).unwrap();
            sender.try_send(format!("{json}\n").into()).unwrap();
        }
        // Goes when the client does.
        tokio::spawn(async move { sender.closed().await });
        Ok(receiver)
    }

    async fn report(&self, since: jiff::Timestamp) -> Result<Report, Problem> {
        let record = |kind, name: &str, failures: u64| Record {
            kind,
            name: name.to_owned(),
            failures,
            up_s: 604_000.0,
            down_s: 800.0,
            planned_s: 0.0,
            mttf_s: (failures > 0).then_some(302_000.0),
            mttr_s: (failures > 0).then_some(400.0),
            availability_percent: Some(99.868),
        };
        assert!(since < jiff::Timestamp::now());
        Ok(Report {
            since: moment() - jiff::SignedDuration::from_hours(7 * 24),
            journal_since: Some(moment()),
            journal_truncated: true,
            until: moment(),
            observed_s: 604_800.0,
            gaps: 1,
            records: vec![
                record(Kind::Service, "web", 2),
                record(Kind::Backend, "w1r1b1", 2),
                record(Kind::Backend, "w1r1b2", 0),
            ],
        })
    }

    async fn events(&self, after: Option<u64>, limit: usize, wait: Duration) -> Vec<Event> {
        self.journal.events(after, limit, wait).await
    }

    async fn metrics(&self) -> metrics::Snapshot {
        let status = self.status().await;
        let world = self.world.lock().unwrap();
        metrics::Snapshot {
            status,
            services: world.services.clone(),
            backends: world.backends.clone(),
            domains: world.domains.clone(),
            guards: vec![guard("web")],
            plans: vec![plan("web")],
            api: Api { refused: self.https.refused(), certificate_expires: self.https.expires() },
            switches: world.switches.len() as u64,
            notes: vec![("flow_established", 12), ("relay_arrived", 5)],
            removed_entries: 3,
            events: self.journal.counts(),
        }
    }

    async fn log(&self, change: LogChange) -> Result<LogView, Problem> {
        let base = "info".to_owned();
        let (filter, left_s) = match change {
            LogChange::Set(request) if request.filter == "loud" => {
                return Err(Problem::new(ProblemKind::Invalid, "\"loud\" is no log filter", "say debug"));
            }
            LogChange::Set(request) => (request.filter, Some(request.for_s)),
            LogChange::Show | LogChange::Reset => (base.clone(), None),
        };
        Ok(LogView { filter, base, format: "text".to_owned(), left_s })
    }

    async fn effective(&self) -> serde_json::Value {
        serde_json::json!({ "node": { "name": "edge-1", "hash_key": "redacted" } })
    }

    async fn doctor(&self) -> Result<Vec<Finding>, Problem> {
        let json = r#"[{"check": "kernel.jit", "severity": "warning", "subject": "kernel", "seen": "s", "remedy": "r"}]"#;
        Ok(serde_json::from_str(json).unwrap())
    }

    async fn traffic(&self, points: usize) -> TrafficHistory {
        let zones = [("west/w1".to_owned(), 90.5)].into();
        let point = TrafficPoint {
            time: moment(),
            packets: 90.5,
            bytes: 9050.0,
            new_flows: 9.0,
            dropped: 0.5,
            zones,
        };
        TrafficHistory { period_s: 5, points: vec![point; points.min(2)] }
    }

    async fn stats(&self, by: StatsBy, over: Duration) -> Stats {
        crate::terminal::stats(by, over)
    }

    async fn flows(&self, query: FlowsQuery) -> Result<FlowsPage, Problem> {
        crate::terminal::flows(&query)
    }

    async fn flush(&self, request: FlushRequest) -> Result<Flushed, Problem> {
        crate::terminal::flush(&request)
    }
}

impl Fake {
    fn change(
        &self,
        subject: &SubjectName,
        action: Action,
        reason: &str,
        until: Option<jiff::Timestamp>,
    ) -> Result<Acted, Problem> {
        let mut world = self.world.lock().unwrap();
        let health = match subject.kind {
            SubjectKind::Backend => {
                world.backends.iter_mut().find(|b| b.name == subject.name).map(|b| &mut b.health)
            }
            SubjectKind::Domain => {
                world.domains.iter_mut().find(|d| d.path == subject.name).map(|d| &mut d.health)
            }
        };
        let health = health.ok_or_else(|| Problem::unknown_subject(subject))?;
        if reason == "conflict" {
            return Err(Problem::new(
                ProblemKind::Conflict,
                "the daemon is stopping",
                "wait for the next one",
            ));
        }
        let from = health.state;
        let to = match action {
            Action::Drain => State::Draining,
            Action::Fail => State::Down,
            Action::Restore => health.automatic,
        };
        health.state = to;
        let held = Override { until, ..Override::new(action, reason.to_owned(), moment()) };
        health.word = (action != Action::Restore).then_some(held);
        let left_s = until.map(|until| until.duration_since(moment()).as_secs().try_into().unwrap());
        health.left_s = left_s;
        let subject = subject.clone();
        let (changed, decided_ns, stored_ns) = (from != to, 1_000, 13_345);
        Ok(Acted { subject, action, from, to, changed, decided_ns, stored_ns, until, left_s })
    }
}
