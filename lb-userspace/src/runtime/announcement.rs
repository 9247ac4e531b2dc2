//! Takes this host's routes away while it hears no backend, and brings them back, by programs that the configuration names.
//!
//! A host that hears nobody holds every state as it was, for it cannot tell whose fault that is. Other hosts may hear their backends: so, if so
//! configured, its routes go, and come back once some backend is heard, or once the configuration says no more that they are to go. What was
//! done is kept in a file, together with what brings them back: so a daemon that is started anew, with whatever configuration, brings back what
//! the one before took away.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{clock::monotonic_ns, overrides::replace_file, service::Service, tenure::Tenure};
use crate::{
    config::Announcement,
    health::prober::exec,
    plan::routes::{AGAIN_AFTER, Routes, SURE_AFTER, Situation, Step},
    telemetry::event::NewEvent,
};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// How long a program may run until it is killed.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(10);
/// Name of the file in the state directory that is there while routes are withdrawn.
const WITHDRAWN_FILE: &str = "withdrawn";

const fn name(step: Step) -> &'static str {
    match step {
        Step::Withdraw => "withdraw",
        Step::Announce => "announce",
    }
}

/// Why a step is taken.
fn reason(situation: Situation) -> String {
    let for_so_long = |what: &str| format!("{what} for {} s", SURE_AFTER.as_secs());
    match situation {
        Situation::Isolated => for_so_long("nobody was heard"),
        Situation::Connected => for_so_long("backends are heard again"),
        Situation::Unwatched => "withdraw_command is not configured any more".to_owned(),
    }
}

impl Service {
    /// Goes on until it is dropped.
    pub(super) async fn watch_announcement(&self) {
        let left = Left::new(&self.tenure().config.node.state_dir);
        let before = left.read();
        let mut routes = Routes::new(before.is_some());
        // What brings them back, if the configuration does not say so any more.
        let mut back = before.unwrap_or_default();
        let mut is_said = false;
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tenure = self.tenure();
            let Some(situation) = situation(&tenure).await else { continue };
            let Some(step) = routes.look(situation, monotonic_ns()) else { continue };
            let announcement = tenure.config.node.announcement.as_ref();
            if let Some(Announcement { announce, .. }) = announcement {
                back.clone_from(announce);
            }
            if back.is_empty() {
                if !std::mem::replace(&mut is_said, true) {
                    self.say(left.nobody_can());
                }
                continue;
            }
            // Before they go and after they are back: whoever is started anew in between brings them back once more.
            let words = match (step, announcement) {
                (Step::Withdraw, Some(announcement)) => {
                    left.note(Some(&back));
                    &announcement.withdraw
                }
                _ => &back,
            };
            let succeeded = self.announce_or_withdraw(step, words, situation).await;
            routes.done(step, succeeded, monotonic_ns());
            if succeeded && step == Step::Announce {
                left.note(None);
            }
        }
    }

    async fn announce_or_withdraw(&self, step: Step, words: &[String], situation: Situation) -> bool {
        let node = self.tenure().config.node.name.clone();
        let told = [("WEIR_NODE", node), ("WEIR_STEP", name(step).to_owned())];
        let ran = tokio::time::timeout(PROGRAM_TIMEOUT, exec::run(words, None, &told)).await;
        let why = match ran {
            Ok(Ok(())) => None,
            Ok(Err(miss)) => Some(miss.to_string()),
            Err(_) => Some(format!("killed after {} s", PROGRAM_TIMEOUT.as_secs())),
        };
        let program = words.join(" ");
        let cause = match &why {
            None => format!("routes: {} by {program:?}, as {}", name(step), reason(situation)),
            Some(why) => format!(
                "routes: cannot {} by {program:?}: {why}; tried again in {} s",
                name(step),
                AGAIN_AFTER.as_secs()
            ),
        };
        if why.is_some() {
            tracing::error!("{cause}");
        }
        self.say(cause);
        why.is_none()
    }

    fn say(&self, cause: String) {
        let node = self.tenure().config.node.name.clone();
        self.journal.record(NewEvent::daemon(node, cause, monotonic_ns()));
    }
}

/// What is known of this host; none while nothing is.
async fn situation(tenure: &Tenure) -> Option<Situation> {
    if tenure.config.node.announcement.is_none() {
        return Some(Situation::Unwatched);
    }
    let control = tenure.control.snapshot().await.ok()?.control;
    // A daemon that has just begun has heard nobody, either.
    control.everyone_judged.then_some(if control.isolated {
        Situation::Isolated
    } else {
        Situation::Connected
    })
}

/// The file that is there while routes are withdrawn.
struct Left {
    file: PathBuf,
}

/// What stands in it.
#[derive(Serialize, Deserialize)]
struct Back {
    /// The program that brings the routes back, and its arguments.
    announce: Vec<String>,
}

impl Left {
    fn new(state_dir: &Path) -> Self {
        Self { file: state_dir.join(WITHDRAWN_FILE) }
    }

    /// What brings the routes back, if they are withdrawn; nothing where the file does not say so.
    fn read(&self) -> Option<Vec<String>> {
        match fs::read(&self.file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(_) => Some(Vec::new()),
            Ok(text) => {
                Some(serde_json::from_slice(&text).map_or_else(|_| Vec::new(), |Back { announce }| announce))
            }
        }
    }

    /// Writes down that routes are withdrawn, and what brings them back; or that they are not.
    fn note(&self, back: Option<&[String]>) {
        if let Err(error) = self.write(back) {
            tracing::error!(%error, "cannot write down whether routes are withdrawn: a daemon that is started anew will not know");
        }
    }

    fn write(&self, back: Option<&[String]>) -> io::Result<()> {
        if let Some(announce) = back {
            let text = serde_json::to_vec(&Back { announce: announce.to_vec() })?;
            return replace_file(&self.file, &text);
        }
        match fs::remove_file(&self.file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn nobody_can(&self) -> String {
        let cause = format!(
            "routes: withdrawn by a daemon before, and neither the configuration nor {} says how they come back: \
             bring them back yourself, then remove that file",
            self.file.display()
        );
        tracing::error!("{cause}");
        cause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_knows_and_knows_how() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let left = Left::new(folder.path());
        let back = ["/usr/sbin/birdc", "enable", "all VIPs"].map(str::to_owned);
        for back in [Some(&back[..]), Some(&back[..2]), None, None] {
            left.write(back).expect("written");
            assert_eq!(Left::new(folder.path()).read().as_deref(), back);
        }
    }

    /// As a version before wrote it, or as damaged as it may be.
    #[test]
    fn a_file_that_says_nothing_says_that_routes_are_withdrawn() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for text in ["routes are withdrawn\n", "", "{}", "{\"announce\": 1}"] {
            fs::write(folder.path().join(WITHDRAWN_FILE), text).expect("written");
            assert_eq!(Left::new(folder.path()).read(), Some(Vec::new()), "{text:?}");
        }
    }
}
