//! Events, logs and counters.

pub mod event;
pub mod journal;
mod journal_file;
pub mod log;
pub mod pcapng;
pub mod report;
