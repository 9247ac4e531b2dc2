//! From probes to states: probe -> detector -> domain -> planner -> data-plane writer.
//!
//! - [`target`]: what is probed, deduplicated.
//! - [`round`]: results of probes.
//! - [`prober`] and [`prober_tcp`] send probes and take answers; the only parts here that do I/O.
//! - [`detector`]: fall and rise counts of one target.
//! - [`correlate`]: which domains the misses of a moment explain.
//! - [`judge`]: from the results of a round to facts about backends and domains.

pub mod correlate;
pub mod detector;
pub mod judge;
pub mod prober;
pub mod prober_tcp;
pub mod round;
pub mod target;
#[cfg(test)]
pub(crate) mod testing;
