//! The running daemon as the API sees it.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::{
    api::{
        Control,
        problem::{Problem, ProblemKind},
        types::{
            Acted, BackendView, ClearRequest, DomainView, ExplainQuery, Explanation, GuardView, OverrideView,
            ServiceView, Status, SubjectKind, SubjectName, SwitchView, ThrowRequest,
        },
    },
    config::Config,
    dataplane::{
        counters::CounterReader,
        explain::explain,
        live::LiveTables,
        loader::{DataPlane, Start},
        nexthop::NextHops,
    },
    plan::{
        planner::Subject,
        state::{Action, Override},
    },
    runtime::{
        control::{ActError, ControlStatus, Handle, Snapshot},
        guardian::Guardian,
        overrides::Overrides,
        views::{self, Facts, Origin},
    },
    telemetry::{event::Event, journal::Journal},
};

/// What the daemon started.
pub(super) struct Parts {
    pub(super) config: Arc<Config>,
    pub(super) config_path: PathBuf,
    /// Digest of the image.
    pub(super) digest: [u8; 32],
    pub(super) data_plane: DataPlane,
    pub(super) hops: NextHops,
    pub(super) control: Handle,
    pub(super) journal: Journal,
    pub(super) overrides: Overrides,
    pub(super) guardian: Arc<Guardian>,
}

/// What the daemon started, behind [`Control`].
pub struct Service {
    config: Arc<Config>,
    origin: Origin,
    counters: CounterReader,
    live: LiveTables,
    hops: NextHops,
    control: Handle,
    journal: Journal,
    /// Held while an operator's word is stored and recorded, so that both happen in the same order.
    in_order: tokio::sync::Mutex<()>,
    words: Mutex<Overrides>,
    guardian: Arc<Guardian>,
    /// Holds the lock on the pins.
    _data_plane: DataPlane,
}

impl Service {
    /// The service over everything that was started.
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { config, config_path, digest, data_plane, hops, control, journal, overrides, guardian } =
            parts;
        Self {
            config,
            origin: Origin {
                config_path: std::path::absolute(&config_path).unwrap_or(config_path),
                digest: digest.iter().map(|byte| format!("{byte:02x}")).collect(),
                adopted: matches!(data_plane.start(), Start::Adopted { .. }),
                started: jiff::Timestamp::now(),
            },
            counters: data_plane.counters(),
            live: data_plane.live(),
            hops,
            control,
            journal,
            in_order: tokio::sync::Mutex::default(),
            words: Mutex::new(overrides),
            guardian,
            _data_plane: data_plane,
        }
    }

    /// What `view` makes of how things stand. When the control thread does not answer, there are no states in it: the API
    /// then still tells the rest.
    async fn view<T>(&self, view: impl FnOnce(&Facts<'_>) -> T) -> T {
        let snapshot = self.control.snapshot().await.unwrap_or_else(|error| {
            tracing::error!(%error, "no states from the control thread");
            Snapshot { backends: Vec::new(), domains: Vec::new(), control: ControlStatus::default() }
        });
        view(&Facts {
            config: &self.config,
            snapshot: &snapshot,
            counters: &self.counters.read(),
            hops: &self.hops.snapshot(),
        })
    }

    fn subject(&self, name: &SubjectName) -> Result<Subject, Problem> {
        let found = match name.kind {
            SubjectKind::Backend => self.config.find_backend(&name.name).map(Subject::Backend),
            SubjectKind::Domain => self.config.topology.find(&name.name).map(Subject::Domain),
        };
        found.ok_or_else(|| Problem::unknown_subject(name))
    }

    fn override_views(&self) -> Vec<OverrideView> {
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let view = |(subject, word): (&SubjectName, &Override)| OverrideView {
            subject: subject.clone(),
            word: word.clone(),
            active: self.subject(subject).is_ok(),
        };
        words.iter().map(view).collect()
    }

    /// Writes an operator's word down so that it outlives the daemon.
    fn record(&self, subject: &SubjectName, action: Action, reason: String) -> Result<(), Problem> {
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let recorded = match action {
            Action::Restore => words.clear(subject).map(drop),
            Action::Drain | Action::Fail => {
                words.set(subject.clone(), Override { action, reason, since: jiff::Timestamp::now() })
            }
        };
        recorded.map_err(|error| {
            let cause =
                std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
            Problem::new(
                ProblemKind::Internal,
                format!("it is done, but will not outlive the daemon: {error}{cause}"),
                "free space or mend the permissions there, then give the command again",
            )
        })
    }
}

impl Control for Service {
    async fn status(&self) -> Status {
        let (journal, overrides) = (self.journal.status(), self.override_views());
        self.view(|facts| views::status(facts, &self.origin, journal, overrides)).await
    }

    async fn services(&self) -> Vec<ServiceView> {
        self.view(views::services).await
    }

    async fn backends(&self) -> Vec<BackendView> {
        self.view(views::backends).await
    }

    async fn domains(&self) -> Vec<DomainView> {
        self.view(views::domains).await
    }

    async fn act(&self, subject: SubjectName, action: Action, reason: String) -> Result<Acted, Problem> {
        let found = self.subject(&subject)?;
        let _in_order = self.in_order.lock().await;
        let acted = self.control.act(found, action, reason.clone()).await.map_err(refused)?;
        tokio::task::block_in_place(|| self.record(&subject, action, reason))?;
        Ok(Acted {
            subject,
            action,
            from: acted.from,
            to: acted.to,
            changed: acted.changed,
            decided_ns: acted.decided_ns,
            stored_ns: acted.stored_ns,
        })
    }

    async fn guards(&self) -> Vec<GuardView> {
        self.guardian.guards()
    }

    async fn switches(&self) -> Vec<SwitchView> {
        self.guardian.switches()
    }

    async fn throw(&self, request: ThrowRequest) -> Result<SwitchView, Problem> {
        tokio::task::block_in_place(|| self.guardian.throw(request))
    }

    async fn clear(&self, request: ClearRequest) -> Result<SwitchView, Problem> {
        tokio::task::block_in_place(|| self.guardian.clear(&request.name, &request.reason))
    }

    async fn explain(&self, query: ExplainQuery) -> Result<Explanation, Problem> {
        if query.src.is_ipv4() != query.dst.is_ipv4() {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!("{} and {} are of different families", query.src.ip(), query.dst.ip()),
                "give a client and a VIP that are both IPv4 or both IPv6",
            ));
        }
        Ok(tokio::task::block_in_place(|| explain(&self.live.observe(), &self.config, query)))
    }

    async fn events(&self, after: Option<u64>, limit: usize, wait: Duration) -> Vec<Event> {
        self.journal.events(after, limit, wait).await
    }
}

fn refused(error: ActError) -> Problem {
    let (kind, remedy) = match error {
        ActError::Refused(_) => (ProblemKind::Invalid, "see `weir backend --help` and `weir domain --help`"),
        ActError::Busy => (ProblemKind::Busy, "try again"),
        ActError::Stopped => {
            (ProblemKind::Internal, "look into the daemon's log, then restart it: forwarding goes on")
        }
    };
    Problem::new(kind, error.to_string(), remedy)
}
