//! Takes this host's routes away while it hears no backend, and brings them back, by programs that the configuration names.
//!
//! A host that hears nobody holds every state as it was, for it cannot tell whose fault that is. Other hosts may hear their backends: so, if so
//! configured, its routes go, and come back once some backend is heard. What was done is kept in a file, so that a daemon that is started
//! anew brings back what the one before took away.

use std::{fs, io, path::Path, time::Duration};

use super::{
    clock::{as_ns, monotonic_ns},
    service::Service,
};
use crate::{config::Announcement, health::prober::exec, telemetry::event::NewEvent};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// For how long this host must have heard nobody, or heard somebody again, before anything is done.
pub(super) const SURE_AFTER: Duration = Duration::from_secs(3);
/// How long a program may run until it is killed.
const PROGRAM_TIMEOUT: Duration = Duration::from_secs(10);
/// After a program failed, time until it is run again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// Name of the file in the state directory that is there while routes are withdrawn.
const WITHDRAWN_FILE: &str = "withdrawn";

/// What is to be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Withdraw,
    Announce,
}

impl Step {
    const fn name(self) -> &'static str {
        match self {
            Self::Withdraw => "withdraw",
            Self::Announce => "announce",
        }
    }

    fn command(self, of: &Announcement) -> &[String] {
        match self {
            Self::Withdraw => &of.withdraw,
            Self::Announce => &of.announce,
        }
    }
}

/// When routes go and come back. Pure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Routes {
    withdrawn: bool,
    /// Since when this host has heard somebody although its routes are withdrawn, or nobody although they are not.
    differs_since_ns: Option<u64>,
    /// Not before this moment.
    not_before_ns: u64,
}

impl Routes {
    const fn new(withdrawn: bool) -> Self {
        Self { withdrawn, differs_since_ns: None, not_before_ns: 0 }
    }

    /// What is to be done, if this host is isolated or not at `now_ns`.
    fn look(&mut self, isolated: bool, now_ns: u64) -> Option<Step> {
        if isolated == self.withdrawn {
            self.differs_since_ns = None;
            return None;
        }
        let since_ns = *self.differs_since_ns.get_or_insert(now_ns);
        let sure = now_ns.saturating_sub(since_ns) >= as_ns(SURE_AFTER) && now_ns >= self.not_before_ns;
        sure.then_some(if isolated { Step::Withdraw } else { Step::Announce })
    }

    /// What came of it by `now_ns`.
    fn done(&mut self, step: Step, succeeded: bool, now_ns: u64) {
        if succeeded {
            *self = Self::new(step == Step::Withdraw);
        } else {
            self.not_before_ns = now_ns.saturating_add(as_ns(AGAIN_AFTER));
        }
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
        let command = step.command(announcement);
        let told = [("WEIR_NODE", node.clone()), ("WEIR_STEP", step.name().to_owned())];
        let ran = tokio::time::timeout(PROGRAM_TIMEOUT, exec::run(command, None, &told)).await;
        let why = match ran {
            Ok(Ok(())) => None,
            Ok(Err(miss)) => Some(miss.to_string()),
            Err(_) => Some(format!("killed after {} s", PROGRAM_TIMEOUT.as_secs())),
        };
        let program = command.join(" ");
        let heard = match step {
            Step::Withdraw => "nobody was heard",
            Step::Announce => "backends are heard again",
        };
        let cause = match &why {
            None => {
                format!("routes: {} by {program:?}, as {heard} for {} s", step.name(), SURE_AFTER.as_secs())
            }
            Some(why) => format!(
                "routes: cannot {} by {program:?}: {why}; tried again in {} s",
                step.name(),
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

    const SECOND: u64 = 1_000_000_000;
    const SURE: u64 = SURE_AFTER.as_secs();

    #[test]
    fn routes_go_and_come_back_once_it_is_sure() {
        let mut routes = Routes::new(false);
        assert_eq!(routes.look(false, 0), None);
        assert_eq!(routes.look(true, SECOND), None);
        assert_eq!(routes.look(true, SURE * SECOND), None, "not yet");
        assert_eq!(routes.look(false, SURE * SECOND + 1), None);
        assert_eq!(routes.look(true, (SURE + 1) * SECOND), None, "it begins anew");
        assert_eq!(routes.look(true, (2 * SURE + 1) * SECOND), Some(Step::Withdraw));
        routes.done(Step::Withdraw, true, (2 * SURE + 1) * SECOND);
        assert_eq!(routes, Routes::new(true));
        assert_eq!(routes.look(true, 20 * SECOND), None, "once");
        assert_eq!(routes.look(false, 21 * SECOND), None);
        assert_eq!(routes.look(false, (21 + SURE) * SECOND), Some(Step::Announce));
        routes.done(Step::Announce, true, (21 + SURE) * SECOND);
        assert_eq!(routes, Routes::new(false));
    }

    #[test]
    fn what_failed_is_tried_again_later_while_there_is_a_reason() {
        let mut routes = Routes::new(false);
        routes.look(true, 0);
        let now_ns = SURE * SECOND;
        assert_eq!(routes.look(true, now_ns), Some(Step::Withdraw));
        routes.done(Step::Withdraw, false, now_ns);
        assert_eq!(routes.look(true, now_ns + as_ns(AGAIN_AFTER) - 1), None);
        assert_eq!(routes.look(true, now_ns + as_ns(AGAIN_AFTER)), Some(Step::Withdraw));
        assert_eq!(routes.look(false, now_ns + as_ns(AGAIN_AFTER) + 1), None, "no reason any more");
    }

    #[test]
    fn the_next_daemon_knows() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for withdrawn in [true, true, false, false] {
            remember(folder.path(), withdrawn).expect("written");
            assert_eq!(folder.path().join(WITHDRAWN_FILE).exists(), withdrawn);
        }
    }
}
