//! Events, logs and counters.

pub mod event;
