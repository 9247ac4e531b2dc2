//! What the daemon looks after once a second: what ended or was prolonged on the control thread is written down.

use std::{sync::PoisonError, time::Duration};

use super::service::Service;
use crate::api::types::{SubjectKind, SubjectName};

/// Between two looks.
const PERIOD: Duration = Duration::from_secs(1);

impl Service {
    /// Goes on until it is dropped.
    pub(super) async fn keep(&self) {
        let mut ticks = tokio::time::interval(PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.write_down_ends().await;
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
