//! What the daemon tells of itself in numbers: metrics, and the traffic of the last hour.

use std::{collections::BTreeMap, sync::PoisonError, time::Duration};

use lb_common::abi::reason::Reason;

use super::{clock::monotonic_ns, service::Service, views};
use crate::{
    api::{
        Control,
        types::{Stats, StatsBy, VerdictKind},
    },
    telemetry::{
        history::{PERIOD_S, Totals},
        metrics,
        metrics_steering::Api,
        stats::{Tally, stats, tally},
    },
};

impl Service {
    /// Takes the counters for the ring of the last hour once in a period, until it is dropped.
    pub(super) async fn watch_traffic(&self) {
        let mut ticks = tokio::time::interval(Duration::from_secs(PERIOD_S));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let totals = self.totals();
            let mut history = self.history.lock().unwrap_or_else(PoisonError::into_inner);
            history.push(monotonic_ns(), jiff::Timestamp::now(), totals);
        }
    }

    fn totals(&self) -> Totals {
        let tenure = self.tenure();
        let (config, counters) = (&tenure.config, tenure.counters.read());
        let mut zones = BTreeMap::new();
        for (backend, counter) in config.backends.iter().zip(&counters.backends) {
            let rack = &config.topology[backend.rack];
            let zone = rack.parent.map_or(&rack.path, |zone| &config.topology[zone].path);
            *zones.entry(zone.clone()).or_default() += counter.packets;
        }
        let dropped = |(reason, _): &&(Reason, _)| views::verdict(*reason) == VerdictKind::Drop;
        Totals {
            packets: counters.forwarded.packets,
            bytes: counters.forwarded.bytes,
            opening: counters.services.iter().map(|service| service.opening).sum(),
            dropped: counters.reasons.iter().filter(dropped).map(|(_, counter)| counter.packets).sum(),
            zones,
        }
    }

    pub(super) async fn measure(&self) -> metrics::Snapshot {
        let status = self.status().await;
        let tenure = self.tenure();
        let notes = tenure.counters.notes().into_iter().map(|(note, count)| (note.name(), count)).collect();
        let (guards, switches) = (tenure.guardian.guards(), tenure.guardian.switches().len() as u64);
        let events = self.journal.counts();
        let plans = tenure.steering.plans(None, None).unwrap_or_default();
        let api = Api { refused: self.https.refused(), certificate_expires: self.https.expires() };
        self.view(|facts| metrics::Snapshot {
            status,
            services: views::services(facts),
            backends: views::backends(facts),
            domains: views::domains(facts),
            guards,
            plans,
            api,
            switches,
            notes,
            removed_entries: facts.flows.found.as_ref().map_or(0, |found| found.removed),
            events,
        })
        .await
    }

    /// Counters, and what they grow by in a time for which is waited.
    pub(super) async fn stats_over(&self, by: StatsBy, over: Duration) -> Stats {
        let mut before = None;
        if !over.is_zero() {
            before = Some(self.tally(by));
            tokio::time::sleep(over).await;
        }
        let (now, now_ns) = self.tally(by);
        stats(now, now_ns, jiff::Timestamp::now(), before)
    }

    fn tally(&self, by: StatsBy) -> (Tally, u64) {
        let tenure = self.tenure();
        let now_ns = monotonic_ns();
        (tally(&tenure.config, &tenure.counters.read(), by, views::verdict), now_ns)
    }
}
