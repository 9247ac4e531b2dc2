//! What the XDP program itself has to say: its rare diagnostics, into the daemon's log.

use std::time::Duration;

use aya_log::EbpfLogger;
use tokio::{task::JoinHandle, time};

use super::privileges::Helper;

/// How often the program's ring buffer is emptied. What does not fit meanwhile is lost: it is diagnostics, and counters have
/// the numbers.
const PERIOD: Duration = Duration::from_secs(1);

/// Reads the program's messages until the task is aborted. A program without them, or a kernel that does not hand out its
/// maps, is worth a line and no more: forwarding does not depend on it.
pub(super) fn spawn(program_id: u32, helper: &Helper) -> Option<JoinHandle<()>> {
    let mut logger = helper
        .run(move || EbpfLogger::init_from_id(program_id))?
        .map_err(|error| tracing::info!(%error, program_id, "the XDP program's own messages are not read"))
        .ok()?;
    let mut ticks = time::interval(PERIOD);
    Some(tokio::spawn(async move {
        loop {
            ticks.tick().await;
            logger.flush();
        }
    }))
}
