//! What the daemon looks after once a second: what ended or was prolonged on the control thread is written down, and drains are
//! watched.

use std::{fs, path::Path, sync::PoisonError, time::Duration};

use super::{clock::monotonic_ns, drains::Seen, service::Service, tenure::Tenure, walker::FlowState};
use crate::{
    api::types::{SubjectKind, SubjectName},
    config::BackendId,
    plan::{
        planner::Subject,
        state::{Action, Override},
    },
    telemetry::{
        event::{EventKind, NewEvent},
        log,
    },
};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);
/// Looks between two times that the marker is renewed.
const ALIVE_EVERY: u64 = 10;
/// Name of the marker in the state directory: when a daemon was last known to run. It tells a report how long a crash lasted.
const ALIVE_FILE: &str = "alive";

/// When the last daemon was last known to run; none if that is not known.
pub(super) fn last_alive(state_dir: &Path) -> Option<jiff::Timestamp> {
    fs::read_to_string(state_dir.join(ALIVE_FILE)).ok()?.trim().parse().ok()
}

fn mark_alive(state_dir: &Path) {
    // Not synced: after a power failure an older one is there, or none, and the report says less.
    let staged = state_dir.join(format!("{ALIVE_FILE}.tmp"));
    let written = fs::write(&staged, format!("{}\n", jiff::Timestamp::now()));
    if let Err(error) = written.and_then(|()| fs::rename(&staged, state_dir.join(ALIVE_FILE))) {
        tracing::debug!(%error, "cannot renew the marker of a running daemon");
    }
}

impl Service {
    /// Goes on until it is dropped.
    pub(super) async fn keep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for look in 0_u64.. {
            ticks.tick().await;
            if look % ALIVE_EVERY == 0 {
                tokio::task::block_in_place(|| mark_alive(&self.tenure().config.node.state_dir));
            }
            log::expire();
            self.write_down_ends().await;
            tokio::task::block_in_place(|| self.watch_drains());
        }
    }

    /// Takes out of the file what ended. The control thread ends it on time by its own clock and writes no files.
    async fn write_down_ends(&self) {
        let (subjects, shifts) = self.over();
        if subjects.is_empty() && shifts.is_empty() {
            return;
        }
        let _in_order = self.in_order.lock().await;
        let tenure = self.tenure();
        let Ok(snapshot) = tenure.control.snapshot().await else { return };
        let stands = |subject: &SubjectName| match subject.kind {
            SubjectKind::Backend => {
                let id = tenure.config.find_backend(&subject.name)?;
                snapshot.backends.get(id.index())?.standing.held.clone()
            }
            SubjectKind::Domain => {
                let id = tenure.config.topology.find(&subject.name)?;
                snapshot.domains.get(id.index())?.standing.held.clone()
            }
        };
        let ended: Vec<_> = subjects.into_iter().filter(|subject| stands(subject).is_none()).collect();
        let mut words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let saved = tokio::task::block_in_place(|| {
            for domain in &shifts {
                let id = tenure.config.topology.find(domain);
                let now = id.and_then(|id| snapshot.domains.get(id.index())?.standing.shift.clone());
                words.set_shift(domain, now)?;
            }
            words.clear_all(&ended, &[])
        });
        if let Err(error) = saved {
            tracing::error!(%error, "cannot write down what ended");
        }
    }

    /// Looks at all drains that stand.
    fn watch_drains(&self) {
        let standing: Vec<(SubjectName, Override)> = {
            let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
            let drained = words.iter().filter(|(_, word)| word.action == Action::Drain);
            drained.map(|(subject, word)| (subject.clone(), word.clone())).collect()
        };
        let mut drains = self.drains.lock().unwrap_or_else(PoisonError::into_inner);
        drains.retain(|subject| standing.iter().any(|(of, _)| of == subject));
        if standing.is_empty() {
            return;
        }
        let tenure = self.tenure();
        let flows = tenure.walker.state();
        for (subject, held) in standing {
            let Some(found) = Self::subject(&tenure.config, &subject) else { continue };
            let seen = see(&tenure, &flows, found);
            let now_ns = monotonic_ns();
            let told = drains.look(&subject, &held, seen, (jiff::Timestamp::now(), now_ns));
            if let Some(cause) = told {
                self.journal.record(NewEvent {
                    kind: EventKind::Override,
                    subject: subject.name,
                    from: None,
                    to: None,
                    cause,
                    evidence_ns: Some(flows.walk_ns).filter(|ns| *ns > 0),
                    decided_ns: Some(now_ns),
                    stored_ns: None,
                    monotonic_ns: now_ns,
                });
            }
        }
    }

    /// What the file has that should have ended by now.
    fn over(&self) -> (Vec<SubjectName>, Vec<String>) {
        let now = jiff::Timestamp::now();
        let words = self.words.lock().unwrap_or_else(PoisonError::into_inner);
        let overrides = words.iter().filter(|(_, word)| word.until.is_some_and(|until| until <= now));
        let shifts = words.shifts().filter(|(_, shift)| shift.until <= now);
        (
            overrides.map(|(subject, _)| subject.clone()).collect(),
            shifts.map(|(domain, _)| domain.clone()).collect(),
        )
    }
}

/// What is known of the backends of a drain.
fn see(tenure: &Tenure, flows: &FlowState, subject: Subject) -> Seen {
    let topology = &tenure.config.topology;
    let is_of = |id: BackendId| match subject {
        Subject::Backend(backend) => backend == id,
        Subject::Domain(domain) => topology.is_within(tenure.config[id].rack, domain),
    };
    let ids = (0..tenure.config.backends.len()).filter_map(BackendId::from_index).filter(|id| is_of(*id));
    let mut seen = Seen { backends: 0, packets: 0, flows: 0, walk_ns: flows.walk_ns };
    for id in ids {
        let index = tenure.data_plane.ids().backend(id);
        seen.backends += 1;
        seen.packets += tenure.counters.backend(index).packets;
        let found = flows.found.as_ref().and_then(|found| found.by_backend.get(&index));
        seen.flows += found.copied().unwrap_or(0);
    }
    seen
}
