//! Another configuration without a restart.

use std::{
    path::PathBuf,
    sync::{Arc, PoisonError},
};

use crate::{
    api::{
        https::Credentials,
        problem::{Problem, ProblemKind},
        types::{Differences, Reloaded},
    },
    config::{Config, ConfigError, effective},
    dataplane::loader::Options,
    plan::{
        canary,
        compile::{CompileError, compile_with},
        difference::differences,
        image::Image,
        transition::Report,
    },
    runtime::{
        clock::monotonic_ns,
        notify, privileges,
        service::Service,
        switches::Switches,
        tenure::{Heir, Tenure},
    },
    telemetry::event::NewEvent,
};

/// How often the configuration was read again, and what came of it.
#[derive(Clone, Debug)]
pub(super) struct Reloads {
    /// Since when the configuration in force is in force.
    pub(super) loaded: jiff::Timestamp,
    /// Reloads that put another configuration in force.
    pub(super) done: u64,
    /// Reloads that were refused.
    pub(super) failed: u64,
    /// Why the last one was refused, until one is not.
    pub(super) last_error: Option<String>,
}

impl Reloads {
    pub(super) const fn new(now: jiff::Timestamp) -> Self {
        Self { loaded: now, done: 0, failed: 0, last_error: None }
    }
}

/// How long each part of a reload took.
struct Laps {
    last_ns: u64,
    told: String,
}

impl Laps {
    fn begin() -> Self {
        Self { last_ns: monotonic_ns(), told: String::new() }
    }

    /// Ends the part of this name.
    fn end(&mut self, part: &str) {
        let now_ns = monotonic_ns();
        let separator = if self.told.is_empty() { "" } else { ", " };
        self.told += &format!("{separator}{part} {} ms", (now_ns - self.last_ns) / 1_000_000);
        self.last_ns = now_ns;
    }
}

impl Service {
    /// Reads the file again and puts it in force. A file that cannot be put in force changes nothing; that is counted, logged and
    /// goes into the journal.
    pub(super) async fn reload_now(&self) -> Result<Reloaded, Problem> {
        let Ok(_one_at_a_time) = self.reloading.try_lock() else {
            return Err(Problem::new(ProblemKind::Busy, "a reload is under way already", "try again"));
        };
        notify::reloading();
        let outcome = self.try_reload().await;
        notify::ready();
        let node = self.tenure().config.node.name.clone();
        let mut reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner);
        match &outcome {
            Ok(reloaded) => {
                reloads.last_error = None;
                if reloaded.changed {
                    reloads.done += 1;
                    reloads.loaded = jiff::Timestamp::now();
                }
                tracing::info!(changed = reloaded.changed, "configuration read again");
            }
            Err(problem) => {
                reloads.failed += 1;
                reloads.last_error = Some(problem.detail.clone());
                tracing::error!("the configuration was not changed: {}", problem.detail);
                let cause = format!("reload refused, nothing was changed: {}", problem.detail);
                self.journal.record(NewEvent::daemon(node, cause, monotonic_ns()));
            }
        }
        drop(reloads);
        outcome
    }

    async fn try_reload(&self) -> Result<Reloaded, Problem> {
        let file = self.origin.config_path.clone();
        let loaded = tokio::task::block_in_place(|| effective::load(&file));
        let (base, effective) = loaded.map_err(|error| invalid(&error))?;
        // Before anything changes; also where the file is the same, as certificates are renewed under their names.
        let credentials = tokio::task::block_in_place(|| credentials(&base))?;
        let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner).list().to_vec();
        let (config, misfits) = canary::apply(&base, &canaries);
        let reloaded = self.put_in_force(Arc::new(config)).await?;
        self.https.install(credentials);
        *self.effective.lock().unwrap_or_else(PoisonError::into_inner) = effective;
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(base);
        self.end_misfits(&misfits);
        Ok(reloaded)
    }

    /// Puts a configuration, its canaries included, in force. To be called by one at a time: under `reloading`.
    pub(super) async fn put_in_force(&self, config: Arc<Config>) -> Result<Reloaded, Problem> {
        let old = self.tenure();
        let file = self.origin.config_path.clone();
        let mut laps = Laps::begin();
        let differences = tokio::task::block_in_place(|| differences(&old.config, &config));
        laps.end("compared");
        if *config == *old.config {
            return Ok(answer(file, &old, false, &Report::default(), differences));
        }
        if !differences.restart.is_empty() {
            return Err(Problem::new(
                ProblemKind::Conflict,
                format!("a reload cannot change {}", differences.restart.join("; ")),
                "take these changes back, or restart the daemon: systemctl restart weir",
            ));
        }
        if let Some(missing) = privileges::given_up(&config) {
            return Err(Problem::new(
                ProblemKind::Conflict,
                missing,
                "take `user` out of the check, or restart the daemon, which then keeps it: systemctl restart weir",
            ));
        }
        // The walker writes into maps that are handed on, so it must not run for two generations.
        let state = old.walker.state();
        old.walker.stop();
        let heir = tokio::task::block_in_place(|| {
            let (image, built) = self.compile(&config).map_err(anyhow::Error::from)?;
            laps.end("compiled");
            let options = Options::new(&config);
            let prepared = old.data_plane.succeed(&image, &options, &state.unneeded)?;
            laps.end("maps and program");
            Ok((image.digest, prepared, built))
        });
        let (heir, built) = match heir {
            Ok((digest, prepared, built)) => (self.announce(&config, digest, prepared).await, built),
            Err(error) => (Err(error), 0),
        };
        let tenure = match heir {
            Ok(heir) => {
                laps.end("watching began");
                heir.warm_up().await;
                laps.end("next hops and verdicts");
                self.change_over(heir).await
            }
            Err(error) => Err(error),
        };
        match tenure {
            Ok(tenure) => {
                laps.end("changed over");
                let report = tenure.data_plane.report().clone();
                let cause = describe(&report, &differences, built);
                let node = tenure.config.node.name.clone();
                self.journal.record(NewEvent::daemon(node, cause, monotonic_ns()));
                drop(tokio::task::spawn_blocking(move || old.stop()).await);
                laps.end("old one ended");
                tracing::info!("reload: {}", laps.told);
                Ok(answer(file, &tenure, true, &report, differences))
            }
            Err(error) => {
                old.walker.restart();
                Err(refused(&error))
            }
        }
    }

    /// Starts what watches for the next configuration; from now on operators' words go to both.
    async fn announce(
        &self,
        config: &Arc<Config>,
        digest: [u8; 32],
        prepared: crate::dataplane::loader::Prepared,
    ) -> anyhow::Result<Heir> {
        let _in_order = self.in_order.lock().await;
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let heir = Heir::new(Arc::clone(config), digest, prepared, &words, &self.journal)?;
        *self.coming.lock().unwrap_or_else(PoisonError::into_inner) =
            Some((Arc::clone(heir.config()), heir.control().clone()));
        Ok(heir)
    }

    async fn change_over(&self, heir: Heir) -> anyhow::Result<Arc<Tenure>> {
        let _in_order = self.in_order.lock().await;
        *self.coming.lock().unwrap_or_else(PoisonError::into_inner) = None;
        // Written down with every word, so what is in the file is what stands.
        let switches = Switches::load(&heir.config().node.state_dir);
        let tenure = match switches {
            Ok(switches) => tokio::task::block_in_place(|| heir.begin(switches, &self.journal))?,
            Err(error) => {
                heir.give_up();
                return Err(error.into());
            }
        };
        let tenure = Arc::new(tenure);
        *self.tenure.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&tenure);
        Ok(tenure)
    }

    /// Compiles a configuration, and says how many tables had to be built for it.
    fn compile(&self, config: &Config) -> Result<(Image, u64), CompileError> {
        let mut tables = self.tables.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tables.built();
        let image = compile_with(config, &mut tables)?;
        Ok((image, tables.built() - before))
    }

    /// What a reload would do.
    pub(super) fn diff_now(&self, file: Option<PathBuf>) -> Result<Differences, Problem> {
        let file = file.unwrap_or_else(|| self.origin.config_path.clone());
        if !file.is_absolute() {
            return Err(Problem::new(
                ProblemKind::Invalid,
                format!("{} is no absolute path", file.display()),
                "begin it with \"/\": the daemon's working directory is not yours",
            ));
        }
        tokio::task::block_in_place(|| {
            let config = Config::load(&file).map_err(|error| invalid(&error))?;
            let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner).list().to_vec();
            let (config, misfits) = canary::apply(&config, &canaries);
            self.compile(&config).map_err(|error| refused(&error.into()))?;
            let ends = |(canary, why): &(canary::Canary, canary::Misfit)| {
                format!("{}: the canary of set {} ends: {why}", canary.service, canary.set)
            };
            let canaries = misfits.iter().map(ends).collect();
            Ok(Differences { canaries, ..differences(&self.tenure().config, &config) })
        })
    }
}

/// The certificates of `[http]`, good at this moment.
fn credentials(config: &Config) -> Result<Option<Credentials>, Problem> {
    let read = config.http.tls.as_ref().map(Credentials::read).transpose();
    let checked = read.and_then(|credentials| {
        credentials.as_ref().map_or(Ok(()), |c| c.check_time(jiff::Timestamp::now()))?;
        Ok(credentials)
    });
    checked.map_err(|error| Problem::new(ProblemKind::Config, error.to_string(), error.remedy()))
}

fn answer(
    file: PathBuf,
    tenure: &Tenure,
    changed: bool,
    report: &Report,
    differences: Differences,
) -> Reloaded {
    Reloaded {
        file,
        changed,
        digest: tenure.digest.iter().map(|byte| format!("{byte:02x}")).collect(),
        moved_services: report.services as u64,
        leaving_backends: report.leaving_backends as u64,
        leaving_services: report.leaving_services as u64,
        differences,
    }
}

fn describe(report: &Report, differences: &Differences, built: u64) -> String {
    let counts = |what: &str, changes: &crate::api::types::Changes| {
        format!("{what} +{} -{} ~{}", changes.added.len(), changes.removed.len(), changes.changed.len())
    };
    let mut cause = format!(
        "reloaded: {}, {}, {}; {built} tables built, {} services in transition, {} slots marked",
        counts("services", &differences.services),
        counts("backends", &differences.backends),
        counts("pools", &differences.pools),
        report.services,
        report.marked
    );
    if report.ended_early > 0 {
        cause.push_str(&format!(
            "; for {} services the transition before ended early, as client regions or the size of a table changed once more",
            report.ended_early
        ));
    }
    cause
}

fn invalid(error: &ConfigError) -> Problem {
    // It shows its own remedies, each at its place.
    Problem::new(ProblemKind::Config, error.to_string(), "")
}

fn refused(error: &anyhow::Error) -> Problem {
    let known = crate::cli::exit::diagnose(error);
    let detail = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
    let kind = match known.code {
        crate::cli::exit::ExitCode::Config => ProblemKind::Config,
        crate::cli::exit::ExitCode::Refused | crate::cli::exit::ExitCode::Unsupported => {
            ProblemKind::Conflict
        }
        _ => ProblemKind::Internal,
    };
    Problem::new(kind, detail, known.remedy.unwrap_or_default())
}
