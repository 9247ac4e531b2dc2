//! Events, logs and counters.

pub mod event;
pub mod history;
pub mod journal;
mod journal_file;
pub mod log;
pub mod metrics;
pub mod metrics_steering;
pub mod metrics_text;
pub mod pcapng;
pub mod reactions;
pub mod report;
pub mod stats;
