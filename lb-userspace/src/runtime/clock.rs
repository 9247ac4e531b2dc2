//! The monotonic clock and its timer.

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use nix::time::{ClockId as Clock, clock_gettime};

const NS_PER_SECOND: u64 = 1_000_000_000;

/// `CLOCK_MONOTONIC` in nanoseconds, the clock of all `*_ns` fields and of `bpf_ktime_get_ns`.
///
/// # Panics
/// If the kernel has no monotonic clock, which Linux always has.
#[must_use]
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(Clock::CLOCK_MONOTONIC).expect("CLOCK_MONOTONIC exists on every Linux");
    // Neither part is negative: the clock counts from boot.
    u64::try_from(now.tv_sec()).unwrap_or(0) * NS_PER_SECOND + u64::try_from(now.tv_nsec()).unwrap_or(0)
}

/// A duration in nanoseconds; durations of the configuration are far below the limit of 584 years.
#[must_use]
pub fn as_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// A timer that becomes readable at an absolute moment of [`monotonic_ns`].
#[derive(Debug)]
pub struct Alarm(TimerFd);

impl Alarm {
    /// A timer that is not set.
    ///
    /// # Errors
    /// When the process has no file descriptor left.
    pub fn new() -> nix::Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        TimerFd::new(ClockId::CLOCK_MONOTONIC, flags).map(Self)
    }

    /// Sets the timer; a moment in the past makes it readable at once. Setting it again forgets the expiry before.
    ///
    /// # Errors
    /// None on Linux for a moment that fits a `timespec`.
    pub fn set(&self, at_ns: u64) -> nix::Result<()> {
        // An all-zero time would disarm the timer.
        let at = TimeSpec::from_duration(Duration::from_nanos(at_ns.max(1)));
        self.0.set(Expiration::OneShot(at), TimerSetTimeFlags::TFD_TIMER_ABSTIME)
    }
}

impl AsFd for Alarm {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    #[test]
    fn the_clock_does_not_go_back() {
        let first = monotonic_ns();
        assert!(first > 0);
        assert!(monotonic_ns() >= first);
    }

    #[test]
    fn the_alarm_rings_at_its_moment_and_not_before() {
        let alarm = Alarm::new().expect("a timer");
        let at = monotonic_ns() + 5_000_000;
        alarm.set(at).expect("set");
        let mut fds = [PollFd::new(alarm.as_fd(), PollFlags::POLLIN)];
        assert_eq!(poll(&mut fds, PollTimeout::from(10_000u16)), Ok(1));
        assert!(monotonic_ns() >= at);
    }
}
