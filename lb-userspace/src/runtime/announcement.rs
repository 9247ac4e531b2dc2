//! Takes this host's routes away while it hears no backend, and brings them back, by programs that the configuration names.
//!
//! A host that hears nobody holds every state as it was, for it cannot tell whose fault that is. Other hosts may hear their backends: so, if so
//! configured, its routes go, and come back once some backend is heard. What was done is kept in a file, so that a daemon that is started
//! anew brings back what the one before took away.

use std::{fs, io, path::Path, time::Duration};

use super::{clock::monotonic_ns, service::Service};
use crate::{
    config::Announcement,
    health::prober::exec,
    plan::routes::{AGAIN_AFTER, Routes, SURE_AFTER, Step},
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

fn command(step: Step, of: &Announcement) -> &[String] {
    match step {
        Step::Withdraw => &of.withdraw,
        Step::Announce => &of.announce,
    }
}

impl Service {
    /// Goes on until it is dropped.
    pub(super) async fn watch_announcement(&self) {
        let state_dir = self.tenure().config.node.state_dir.clone();
        let mut routes = Routes::new(state_dir.join(WITHDRAWN_FILE).exists());
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tenure = self.tenure();
            let Some(announcement) = &tenure.config.node.announcement else { continue };
            let Ok(snapshot) = tenure.control.snapshot().await else { continue };
            // A daemon that has just begun has heard nobody, either.
            if !snapshot.control.everyone_judged {
                continue;
            }
            let Some(step) = routes.look(snapshot.control.isolated, monotonic_ns()) else { continue };
            // Before they go and after they are back: whoever is started anew in between brings them back once more.
            if step == Step::Withdraw {
                note(&state_dir, true);
            }
            let succeeded = self.announce_or_withdraw(step, announcement).await;
            routes.done(step, succeeded, monotonic_ns());
            if succeeded && step == Step::Announce {
                note(&state_dir, false);
            }
        }
    }

    async fn announce_or_withdraw(&self, step: Step, announcement: &Announcement) -> bool {
        let node = self.tenure().config.node.name.clone();
        let words = command(step, announcement);
        let told = [("WEIR_NODE", node.clone()), ("WEIR_STEP", name(step).to_owned())];
        let ran = tokio::time::timeout(PROGRAM_TIMEOUT, exec::run(words, None, &told)).await;
        let why = match ran {
            Ok(Ok(())) => None,
            Ok(Err(miss)) => Some(miss.to_string()),
            Err(_) => Some(format!("killed after {} s", PROGRAM_TIMEOUT.as_secs())),
        };
        let program = words.join(" ");
        let heard = match step {
            Step::Withdraw => "nobody was heard",
            Step::Announce => "backends are heard again",
        };
        let cause = match &why {
            None => {
                format!("routes: {} by {program:?}, as {heard} for {} s", name(step), SURE_AFTER.as_secs())
            }
            Some(why) => format!(
                "routes: cannot {} by {program:?}: {why}; tried again in {} s",
                name(step),
                AGAIN_AFTER.as_secs()
            ),
        };
        if why.is_some() {
            tracing::error!("{cause}");
        }
        self.journal.record(NewEvent::daemon(node, cause, monotonic_ns()));
        why.is_none()
    }
}

fn note(state_dir: &Path, withdrawn: bool) {
    if let Err(error) = remember(state_dir, withdrawn) {
        tracing::error!(%error, "cannot write down whether routes are withdrawn: a daemon that is started anew will not know");
    }
}

fn remember(state_dir: &Path, withdrawn: bool) -> io::Result<()> {
    let file = state_dir.join(WITHDRAWN_FILE);
    if withdrawn {
        return fs::write(file, "routes are withdrawn\n");
    }
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_daemon_knows() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for withdrawn in [true, true, false, false] {
            remember(folder.path(), withdrawn).expect("written");
            assert_eq!(folder.path().join(WITHDRAWN_FILE).exists(), withdrawn);
        }
    }
}
