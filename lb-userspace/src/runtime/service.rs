//! The running daemon as the API sees it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use hyper::body::Bytes;
use tokio::sync::mpsc;

use crate::{
    api::{
        Control, ShiftChange,
        https::Https,
        problem::{Problem, ProblemKind},
        types::{
            Acted, ActionTerms, BackendView, BfdSessionView, CanaryChange, CanaryView, ClearRequest,
            Differences, DomainView, ExplainQuery, Explanation, FlowsPage, FlowsQuery, FlushRequest, Flushed,
            GuardView, LogChange, LogView, Reloaded, ServiceView, ShiftView, SimulateRequest, Simulation,
            Stats, StatsBy, Status, SteeredPlan, SubjectKind, SubjectName, SwitchView, ThrowRequest,
            TrafficHistory, WatchQuery,
        },
    },
    cli::doctor::Finding,
    config::Config,
    dataplane::{explain::explain, loader::Start},
    plan::{
        planner::{Order, Refusal, Subject},
        state::{Action, Override},
        tables::TableCache,
    },
    runtime::{
        bfd_views,
        canaries::Canaries,
        clock::monotonic_ns,
        control::{ActError, Handle, Snapshot},
        drains::Drains,
        overrides::{Overrides, OverridesError},
        reload::Reloads,
        tenure::Tenure,
        views::{self, Facts, Origin},
        watch::Watchers,
    },
    telemetry::{
        event::Event,
        history::History,
        journal::Journal,
        metrics,
        report::{Report, report},
    },
};

/// What the daemon started.
pub(super) struct Parts {
    pub(super) config_path: PathBuf,
    pub(super) tenure: Tenure,
    pub(super) tables: TableCache,
    pub(super) journal: Journal,
    pub(super) overrides: Overrides,
    /// The configuration as the file says it.
    pub(super) base: Arc<Config>,
    pub(super) canaries: Canaries,
    pub(super) https: Arc<Https>,
    /// The same as the file says it, with its defaults.
    pub(super) effective: toml::Table,
}

/// What the daemon started, behind [`Control`].
pub struct Service {
    pub(super) origin: Origin,
    pub(super) tenure: Arc<RwLock<Arc<Tenure>>>,
    /// Tables that were built so far.
    pub(super) tables: Mutex<TableCache>,
    /// Who watches packets.
    pub(super) watchers: Arc<Watchers>,
    /// A reload that is under way: what is said meanwhile is said to both.
    pub(super) coming: Mutex<Option<(Arc<Config>, Handle)>>,
    /// Held during a reload.
    pub(super) reloading: tokio::sync::Mutex<()>,
    pub(super) reloads: Mutex<Reloads>,
    pub(super) journal: Journal,
    /// Held while an operator's word is stored and recorded, so that both happen in the same order.
    pub(super) in_order: tokio::sync::Mutex<()>,
    pub(super) words: Mutex<Overrides>,
    /// The traffic of the last hour.
    pub(super) history: Mutex<History>,
    /// The configuration in force without its canaries.
    pub(super) base: Mutex<Arc<Config>>,
    pub(super) canaries: Mutex<Canaries>,
    /// How far drains are.
    pub(super) drains: Mutex<Drains>,
    /// Held while the tables of flows are listed or flushed, so that only one thread does so.
    pub(super) paging: tokio::sync::Mutex<()>,
    /// The certificates of the TCP listener.
    pub(super) https: Arc<Https>,
    /// The configuration in force as its files say it, with its defaults, without secrets.
    pub(super) effective: Mutex<toml::Table>,
}

impl Service {
    /// The service over everything that was started.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config_path, tenure, tables, journal, overrides, base, canaries, https, effective } =
            parts;
        let now = jiff::Timestamp::now();
        let adopted = matches!(tenure.data_plane.start(), Start::Adopted { .. });
        let tenure = Arc::new(RwLock::new(Arc::new(tenure)));
        Self {
            origin: Origin {
                config_path: std::path::absolute(&config_path).unwrap_or(config_path),
                adopted,
                started: now,
            },
            watchers: Watchers::new(Arc::clone(&tenure)),
            tenure,
            tables: Mutex::new(tables),
            coming: Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            reloads: Mutex::new(Reloads::new(now)),
            journal,
            in_order: tokio::sync::Mutex::default(),
            words: Mutex::new(overrides),
            history: Mutex::default(),
            base: Mutex::new(base),
            canaries: Mutex::new(canaries),
            drains: Mutex::default(),
            paging: tokio::sync::Mutex::default(),
            https,
            effective: Mutex::new(effective),
        }
    }

    /// What is in force.
    pub(super) fn tenure(&self) -> Arc<Tenure> {
        Arc::clone(&self.tenure.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Stops everything that watches and waits for its end. The data plane stays as it is.
    pub(super) async fn end(&self) {
        let _no_reload = self.reloading.lock().await;
        let tenure = self.tenure();
        if tokio::task::spawn_blocking(move || tenure.stop()).await.is_err() {
            tracing::error!("ending what watches failed");
        }
    }

    /// What `view` makes of how things stand. When the control thread does not answer, there are no states in it: the API
    /// then still tells the rest.
    pub(super) async fn view<T>(&self, view: impl FnOnce(&Facts<'_>) -> T) -> T {
        let tenure = self.tenure();
        let snapshot = tenure.control.snapshot().await.unwrap_or_else(|error| {
            tracing::error!(%error, "no states from the control thread");
            Snapshot::default()
        });
        view(&Facts {
            config: &tenure.config,
            snapshot: &snapshot,
            counters: &tenure.counters.read(),
            hops: &tenure.hops.snapshot(),
            flows: &tenure.walker.state(),
            flow_capacity: tenure.data_plane.flow_capacity(),
            ids: tenure.data_plane.ids(),
        })
    }

    pub(super) fn subject(config: &Config, name: &SubjectName) -> Option<Subject> {
        match name.kind {
            SubjectKind::Backend => config.find_backend(&name.name).map(Subject::Backend),
            SubjectKind::Domain => config.topology.find(&name.name).map(Subject::Domain),
        }
    }

    /// Writes an operator's word down so that it outlives the daemon.
    fn record(&self, subject: &SubjectName, order: Order) -> Result<(), Problem> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let Order { action, reason, until, watch, .. } = order;
        let recorded = match action {
            Action::Restore => words.clear(subject).map(drop),
            Action::Drain | Action::Fail => {
                // As the planner does: the same word again stands since it was first given.
                let stands = words.get(subject).filter(|held| held.action == action).map(|held| held.since);
                let since = stands.unwrap_or_else(jiff::Timestamp::now);
                words.set(subject.clone(), Override { action, reason, since, until, watch })
            }
        };
        recorded.map_err(|error| not_recorded(&error))
    }
}

/// It stands, but only in memory.
pub(super) fn not_recorded(error: &OverridesError) -> Problem {
    let cause = std::error::Error::source(error).map(|source| format!(": {source}")).unwrap_or_default();
    Problem::new(
        ProblemKind::Internal,
        format!("it is done, but will not outlive the daemon: {error}{cause}"),
        "free space or mend the permissions there, then give the command again",
    )
}

impl Control for Service {
    async fn status(&self) -> Status {
        let journal = self.journal.status();
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let digest = self.tenure().digest;
        self.view(|facts| {
            let (overrides, shifts) = (self.override_views(facts), self.shift_views(facts));
            let status = views::status(facts, &self.origin, (&digest, &reloads), journal);
            Status { overrides, shifts, canaries: self.canary_views(), ..status }
        })
        .await
    }

    async fn services(&self) -> Vec<ServiceView> {
        self.view(views::services).await
    }

    async fn backends(&self) -> Vec<BackendView> {
        let mut backends = self.view(views::backends).await;
        // What was written down, with which drains are known: the planner's word has another beginning, by some moments.
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        for backend in &mut backends {
            let name = SubjectName { kind: SubjectKind::Backend, name: backend.name.clone() };
            backend.health.drain = drains.view(&name, words.get(&name));
        }
        backends
    }

    async fn domains(&self) -> Vec<DomainView> {
        let mut domains = self.view(views::domains).await;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        for domain in &mut domains {
            let name = SubjectName { kind: SubjectKind::Domain, name: domain.path.clone() };
            domain.health.drain = drains.view(&name, words.get(&name));
        }
        domains
    }

    async fn act(
        &self,
        subject: SubjectName,
        action: Action,
        terms: ActionTerms,
        reason: String,
    ) -> Result<Acted, Problem> {
        let _in_order = self.in_order.lock().await;
        let order = terms.order(action, reason, jiff::Timestamp::now()).map_err(|detail| {
            Problem::new(ProblemKind::Invalid, detail, "see `weir backend drain --help`")
        })?;
        let tenure = self.tenure();
        let found = Self::subject(&tenure.config, &subject);
        let found = found.ok_or_else(|| Problem::unknown_subject(&subject))?;
        let acted = tenure.control.act(found, order.clone()).await.map_err(refused)?;
        let coming = self.coming.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((config, control)) = coming
            && let Some(found) = Self::subject(&config, &subject)
        {
            control.act(found, order.clone()).await.map_err(refused)?;
        }
        let until = order.until;
        tokio::task::block_in_place(|| self.record(&subject, order))?;
        Ok(Acted {
            subject,
            action,
            from: acted.from,
            to: acted.to,
            changed: acted.changed,
            decided_ns: acted.decided_ns,
            stored_ns: acted.stored_ns,
            until,
            left_s: until.map(views::left_s),
        })
    }

    async fn shifts(&self) -> Vec<ShiftView> {
        self.view(|facts| self.shift_views(facts)).await
    }

    async fn shift(&self, request: ShiftChange) -> Result<ShiftView, Problem> {
        self.shift_now(request).await
    }

    async fn canaries(&self) -> Vec<CanaryView> {
        self.canary_views()
    }

    async fn canary(&self, change: CanaryChange) -> Result<CanaryView, Problem> {
        self.canary_now(change).await
    }

    async fn bfd_sessions(&self) -> Vec<BfdSessionView> {
        self.view(|facts| bfd_views::sessions(facts.snapshot, jiff::Timestamp::now(), monotonic_ns())).await
    }

    async fn guards(&self) -> Vec<GuardView> {
        self.tenure().guardian.guards()
    }

    async fn plans(
        &self,
        service: Option<String>,
        client: Option<String>,
    ) -> Result<Vec<SteeredPlan>, Problem> {
        self.tenure().steering.plans(service.as_deref(), client.as_deref())
    }

    async fn simulate(&self, request: SimulateRequest) -> Result<Simulation, Problem> {
        self.tenure().steering.simulate(&request)
    }

    async fn switches(&self) -> Vec<SwitchView> {
        self.tenure().guardian.switches()
    }

    async fn throw(&self, request: ThrowRequest) -> Result<SwitchView, Problem> {
        let _in_order = self.in_order.lock().await;
        let tenure = self.tenure();
        tokio::task::block_in_place(|| tenure.guardian.throw(request))
    }

    async fn clear(&self, request: ClearRequest) -> Result<SwitchView, Problem> {
        let _in_order = self.in_order.lock().await;
        let tenure = self.tenure();
        tokio::task::block_in_place(|| tenure.guardian.clear(&request.name, &request.reason))
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explanation, Problem> {
        if query.src.is_ipv4() != query.dst.is_ipv4() {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!("{} and {} are of different families", query.src.ip(), query.dst.ip()),
                "give a client and a VIP that are both IPv4 or both IPv6",
            ));
        }
        let tenure = self.tenure();
        let ids = tenure.data_plane.ids();
        Ok(tokio::task::block_in_place(|| explain(&tenure.live.observe(), &tenure.config, ids, query)))
    }

    async fn reload(&self) -> Result<Reloaded, Problem> {
        self.reload_now().await
    }

    async fn diff(&self, file: Option<PathBuf>) -> Result<Differences, Problem> {
        self.diff_now(file)
    }

    async fn watch(&self, query: WatchQuery) -> Result<mpsc::Receiver<Bytes>, Problem> {
        let watchers = Arc::clone(&self.watchers);
        let joined = tokio::task::spawn_blocking(move || watchers.join(query)).await;
        joined.unwrap_or_else(|error| {
            Err(Problem::new(
                ProblemKind::Internal,
                format!("watching failed: {error}"),
                "look into the daemon's log",
            ))
        })
    }

    async fn report(&self, since: jiff::Timestamp) -> Result<Report, Problem> {
        let config = Arc::clone(&self.tenure().config);
        let made = tokio::task::spawn_blocking(move || {
            let directory = &config.node.state_dir;
            let mut failed = None;
            let failing = std::cell::RefCell::new(&mut failed);
            let made = report(&config, (since, jiff::Timestamp::now()), |found| {
                if let Err(error) = Journal::scan(directory, found) {
                    **failing.borrow_mut() = Some(error);
                }
            });
            failed.map_or(Ok(made), Err)
        });
        let failed = |error: String| {
            let detail = format!("cannot read the event journal: {error}");
            Problem::new(
                ProblemKind::Internal,
                detail,
                "look at the files events.jsonl* in the state directory",
            )
        };
        made.await.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(error.to_string()))
    }

    async fn events(&self, after: Option<u64>, limit: usize, wait: Duration) -> Vec<Event> {
        self.journal.events(after, limit, wait).await
    }

    async fn metrics(&self) -> metrics::Snapshot {
        self.measure().await
    }

    async fn log(&self, change: LogChange) -> Result<LogView, Problem> {
        Self::log_now(change)
    }

    async fn effective(&self) -> serde_json::Value {
        self.effective_now()
    }

    async fn doctor(&self) -> Result<Vec<Finding>, Problem> {
        self.doctor_now().await
    }

    async fn traffic(&self, points: usize) -> TrafficHistory {
        self.history.lock().unwrap_or_else(PoisonError::into_inner).last(points)
    }

    async fn stats(&self, by: StatsBy, over: Duration) -> Stats {
        self.stats_over(by, over).await
    }

    async fn flows(&self, query: FlowsQuery) -> Result<FlowsPage, Problem> {
        self.flows_now(query).await
    }

    async fn flush(&self, request: FlushRequest) -> Result<Flushed, Problem> {
        self.flush_now(request).await
    }
}

pub(super) fn refused(error: ActError) -> Problem {
    let (kind, remedy) = match error {
        ActError::Refused(Refusal::NoShift) => (ProblemKind::NotFound, "`weir shift list` shows them"),
        ActError::Refused(Refusal::Shorter | Refusal::Outranked) => {
            (ProblemKind::Conflict, "`weir shift list` shows what stands")
        }
        ActError::Refused(_) => (ProblemKind::Invalid, "see `weir backend --help` and `weir domain --help`"),
        ActError::Busy => (ProblemKind::Busy, "try again"),
        ActError::Stopped => {
            (ProblemKind::Internal, "look into the daemon's log, then restart it: forwarding goes on")
        }
    };
    Problem::new(kind, error.to_string(), remedy)
}
