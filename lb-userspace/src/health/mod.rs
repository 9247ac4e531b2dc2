//! From probes to states: probe -> detector -> domain -> planner -> data-plane writer.
//!
//! - [`target`]: what is probed, deduplicated.
//! - [`round`]: results of probes.
//! - [`prober`] sends probes and takes answers; the only part here that does I/O.
//! - [`dns`], [`echo`] and [`syn`]: the messages of some kinds of checks.
//! - [`flights`]: rounds on their way. [`testimony`]: whether this host got to their answers.
//! - [`ticks`]: when probes go out.
//! - [`bfd`]: sessions of RFC 5880.
//! - [`detector`]: fall and rise counts of one target.
//! - [`correlate`]: which domains the misses of a moment explain.
//! - [`judge`]: from the results of a round to facts about backends and domains.

pub mod bfd;
pub mod correlate;
pub mod detector;
pub mod dns;
pub mod echo;
pub mod flights;
pub mod judge;
pub mod prober;
pub mod round;
pub mod syn;
pub mod target;
pub mod testimony;
#[cfg(test)]
pub(crate) mod testing;
pub mod ticks;
