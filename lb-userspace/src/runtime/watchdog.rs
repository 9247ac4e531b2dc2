//! The service manager's watchdog is fed only while the control thread answers: a daemon that cannot decide any more is to be
//! restarted, however well the rest of it does.

use std::time::Duration;

use super::{notify, service::Service};

/// So often within the period that the service manager allows.
const PINGS_PER_PERIOD: u32 = 3;
/// At most this long between two, so that a long period tells of a hang all the same as soon as it ends.
const LONGEST: Duration = Duration::from_secs(10);

impl Service {
    /// Goes on until it is dropped; at once over where nobody listens.
    pub(super) async fn feed_watchdog(&self) {
        let Some(period) = notify::watchdog_period() else { return };
        let mut ticks = tokio::time::interval((period / PINGS_PER_PERIOD).min(LONGEST));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // If it hangs, so does this, and nobody feeds the watchdog. Between two tenures it may have stopped: the next tick asks
            // the next one.
            match self.tenure().control.pulse().await {
                Ok(()) => notify::alive(),
                Err(error) => tracing::warn!(%error, "the control thread does not answer the watchdog"),
            }
        }
    }
}
