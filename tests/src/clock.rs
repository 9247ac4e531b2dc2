//! The one clock of all records: CLOCK_MONOTONIC, as the daemon's journal and the programs use it.
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds since some fixed point; comparable between all processes of this machine.
///
/// # Panics
/// The machine has no monotonic clock.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("every Linux has CLOCK_MONOTONIC");
    now.tv_sec() as u64 * 1_000_000_000 + now.tv_nsec() as u64
}
