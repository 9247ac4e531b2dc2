//! Canaries outlive the daemon, a reload, and a restart with another file, as long as that has their set.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError},
};

use serde::{Deserialize, Serialize};

use super::{clock::monotonic_ns, overrides::replace_file, service::Service};
use crate::{
    api::{
        problem::{Problem, ProblemKind},
        types::{CanaryChange, CanaryView},
    },
    config::{Config, limits::MAX_SERVICES},
    plan::canary::{ALL, Canary, CanaryOrder, MAX_STEPS, Misfit, Refusal, apply, check, order, percent},
    telemetry::event::{EventKind, NewEvent},
};

/// Name of the file in the state directory.
pub const CANARIES_FILE: &str = "canaries.json";
/// Version of the file's form.
const VERSION: u32 = 1;
/// Size of the file: each service has one, with a reason of at most 512 characters.
const MAX_BYTES: u64 = 64 << 20;

/// What went wrong with the file of canaries.
#[derive(Debug, thiserror::Error)]
pub enum CanariesError {
    /// It cannot be read.
    #[error("cannot read the canaries in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a daemon wrote. Starting without it could give a canary the weight of the file.
    #[error("the canaries in {} are damaged: {detail}", path.display())]
    Corrupt {
        /// The file, which was left as it is.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
}

/// The canaries that stand, as they are in memory and on disk.
#[derive(Clone, Debug)]
pub struct Canaries {
    path: PathBuf,
    list: Vec<Canary>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    canaries: Vec<Canary>,
}

impl Canaries {
    /// Reads the canaries of `state_dir`; none if there is no file.
    ///
    /// # Errors
    /// [`CanariesError`]; the file is left as it is.
    pub fn load(state_dir: &Path) -> Result<Self, CanariesError> {
        let path = state_dir.join(CANARIES_FILE);
        let read = || {
            let mut bytes = Vec::new();
            File::open(&path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes).map(|_| bytes)
        };
        let list = match read() {
            Ok(bytes) => {
                parse(&bytes).map_err(|detail| CanariesError::Corrupt { path: path.clone(), detail })?
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(source) => return Err(CanariesError::Read { path, source }),
        };
        Ok(Self { path, list })
    }

    /// All of them, in the order of their services.
    #[must_use]
    pub fn list(&self) -> &[Canary] {
        &self.list
    }

    /// Lets these stand, on disk first.
    ///
    /// # Errors
    /// If they cannot be saved, nothing changes.
    pub fn replace(&mut self, list: Vec<Canary>) -> io::Result<()> {
        let mut bytes = serde_json::to_vec_pretty(&Document { version: VERSION, canaries: list.clone() })?;
        bytes.push(b'\n');
        replace_file(&self.path, &bytes)?;
        self.list = list;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<Vec<Canary>, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("its version is {}, this weir reads version {VERSION}", document.version));
    }
    let list = document.canaries;
    if list.len() > MAX_SERVICES {
        return Err(format!("it holds more than {MAX_SERVICES} canaries"));
    }
    if let Some(pair) = list.windows(2).find(|pair| pair[0].service >= pair[1].service) {
        return Err(format!("service {} stands in it twice, or out of order", pair[1].service));
    }
    match list.iter().find(|canary| canary.permille > ALL || canary.steps.len() > MAX_STEPS) {
        Some(canary) => Err(format!("the canary of service {} is out of range", canary.service)),
        None => Ok(list),
    }
}

impl Service {
    /// The canaries that stand.
    pub(super) fn canary_views(&self) -> Vec<CanaryView> {
        let canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        canaries.list().iter().map(view).collect()
    }

    /// Does what an operator says about the canary of a service.
    pub(super) async fn canary_now(&self, change: CanaryChange) -> Result<CanaryView, Problem> {
        let Ok(_one_at_a_time) = self.reloading.try_lock() else {
            return Err(Problem::new(ProblemKind::Busy, "a reload is under way", "try again"));
        };
        let CanaryChange { service, order: what, reason } = change;
        let base = self.base();
        let before = self.canaries.lock().unwrap_or_else(PoisonError::into_inner).list().to_vec();
        let after = order(&before, &service, what.clone(), &reason, jiff::Timestamp::now())
            .map_err(|refusal| refused(&refusal))?;
        let is_its = |canary: &&Canary| canary.service == service;
        let (was, now) = (before.iter().find(is_its).cloned(), after.iter().find(is_its).cloned());
        if let Some(canary) = &now {
            tokio::task::block_in_place(|| check(&base, canary)).map_err(|refusal| refused(&refusal))?;
        }
        let (config, _) = apply(&base, &after);
        // On disk first: a daemon that dies now goes on with what was asked for.
        self.save_canaries(after)?;
        if let Err(problem) = self.put_in_force(Arc::new(config)).await {
            self.save_canaries(before)?;
            return Err(problem);
        }
        let told = tell(was.as_ref(), now.as_ref(), &what);
        self.tell_canary(&service, format!("operator: {told}: {reason}"));
        now.or(was).as_ref().map(view).ok_or_else(|| Problem::not_found("canary", &service))
    }

    fn save_canaries(&self, list: Vec<Canary>) -> Result<(), Problem> {
        let mut canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        tokio::task::block_in_place(|| canaries.replace(list)).map_err(|error| {
            Problem::new(
                ProblemKind::Internal,
                format!("cannot save the canaries: {error}; nothing was changed"),
                "free space or mend the permissions of the state directory, then give the command again",
            )
        })
    }

    /// Ends the canaries that the configuration in force has no place for.
    pub(super) fn end_misfits(&self, misfits: &[(Canary, Misfit)]) {
        if misfits.is_empty() {
            return;
        }
        let mut canaries = self.canaries.lock().unwrap_or_else(PoisonError::into_inner);
        let stays = |canary: &&Canary| misfits.iter().all(|(gone, _)| gone.service != canary.service);
        let list = canaries.list().iter().filter(stays).cloned().collect();
        if let Err(error) = tokio::task::block_in_place(|| canaries.replace(list)) {
            tracing::error!(%error, "cannot write down that canaries ended");
        }
        drop(canaries);
        for (canary, why) in misfits {
            self.tell_canary(&canary.service, format!("the canary of set {} ended: {why}", canary.set));
        }
    }

    fn tell_canary(&self, service: &str, cause: String) {
        let now_ns = monotonic_ns();
        self.journal.record(NewEvent {
            kind: EventKind::Canary,
            subject: service.to_owned(),
            from: None,
            to: None,
            cause,
            evidence_ns: None,
            decided_ns: None,
            stored_ns: Some(now_ns),
            monotonic_ns: now_ns,
        });
    }

    /// The configuration in force without its canaries.
    pub(super) fn base(&self) -> Arc<Config> {
        Arc::clone(&self.base.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn tell(was: Option<&Canary>, now: Option<&Canary>, what: &CanaryOrder) -> String {
    let share = |canary: &Canary| percent(canary.permille);
    match (was, now) {
        (None, Some(now)) => format!("set {} takes {}", now.set, share(now)),
        (Some(was), Some(now)) => format!("set {} takes {}, before {}", now.set, share(now), share(was)),
        (Some(was), None) => {
            format!("set {} took {}, now all is as the configuration says", was.set, share(was))
        }
        (None, None) => format!("{what:?}"),
    }
}

fn view(canary: &Canary) -> CanaryView {
    CanaryView {
        next_permille: canary.steps.iter().copied().find(|step| *step > canary.permille),
        canary: canary.clone(),
    }
}

fn refused(refusal: &Refusal) -> Problem {
    let (kind, remedy) = match refusal {
        Refusal::None(_) => (ProblemKind::NotFound, "`weir canary list` shows them"),
        Refusal::Misfit(Misfit::NoService(_)) => {
            (ProblemKind::NotFound, "`weir service list` shows the names")
        }
        Refusal::Misfit(Misfit::NoSet { .. }) => (
            ProblemKind::NotFound,
            "`weir service show` shows its sets; name it in a pool's `standby` and reload",
        ),
        Refusal::Steps | Refusal::Share(_) => (ProblemKind::Invalid, "see `weir canary set --help`"),
        Refusal::Coarse { .. } => {
            (ProblemKind::Conflict, "take that share, or give the pool a larger table_size")
        }
        Refusal::Another { .. } | Refusal::NoStep { .. } | Refusal::Misfit(_) => {
            (ProblemKind::Conflict, "`weir canary list` shows how it stands")
        }
    };
    Problem::new(kind, refusal.to_string(), remedy)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn canary(service: &str) -> Canary {
        let (service, set, reason) = (service.to_owned(), "blue-2".to_owned(), "r".to_owned());
        Canary {
            service,
            set,
            permille: 50,
            steps: vec![50, ALL],
            reason,
            since: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn canaries_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut canaries = Canaries::load(dir.path()).unwrap();
        assert!(canaries.list().is_empty());
        canaries.replace(vec![canary("mail"), canary("web")]).unwrap();
        assert_eq!(Canaries::load(dir.path()).unwrap().list(), [canary("mail"), canary("web")]);
        fs::remove_dir_all(dir.path()).unwrap();
        assert!(canaries.replace(Vec::new()).is_err());
        assert_eq!(canaries.list().len(), 2, "what cannot be saved does not stand");
    }

    #[test]
    fn damaged_file_is_refused_and_left_as_it_is() {
        let good = serde_json::to_string(&canary("web")).unwrap();
        for (text, expected) in [
            (String::new(), "EOF"),
            ("{\"version\":2,\"canaries\":[]}".to_owned(), "version is 2"),
            ("{\"version\":1,\"canaries\":[],\"more\":1}".to_owned(), "unknown field"),
            (format!("{{\"version\":1,\"canaries\":[{good},{good}]}}"), "twice"),
            (format!("{{\"version\":1,\"canaries\":[{}]}}", good.replace(":50,", ":1001,")), "out of range"),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(CANARIES_FILE);
            fs::write(&path, &text).unwrap();
            let error = Canaries::load(dir.path()).expect_err(&text);
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
