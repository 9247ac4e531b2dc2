//! Takes a CPU away from everybody for a while, as a hypervisor does.
use anyhow::{Context, Result};
use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use std::{
    io, thread,
    time::{Duration, Instant},
};

/// The CPUs that this process may use.
///
/// # Errors
/// The system does not say.
pub fn cpus() -> Result<Vec<usize>> {
    let own = sched_getaffinity(Pid::from_raw(0))?;
    Ok((0..CpuSet::count()).filter(|&cpu| own.is_set(cpu).unwrap_or(false)).collect())
}

/// Runs on these CPUs for so long, above every other thread, and comes back when that is over.
///
/// # Errors
/// This process may not have real-time priority.
pub fn stall(cpus: &[usize], time: Duration) -> Result<()> {
    thread::scope(|scope| {
        let hogs: Vec<_> = cpus.iter().map(|&cpu| scope.spawn(move || hog(cpu, time))).collect();
        hogs.into_iter()
            .try_for_each(|hog| hog.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn hog(cpu: usize, time: Duration) -> Result<()> {
    let mut only = CpuSet::new();
    only.set(cpu)?;
    sched_setaffinity(Pid::from_raw(0), &only)?;
    let highest = libc::sched_param { sched_priority: 99 };
    // SAFETY: the call reads one `sched_param` through a pointer to a live local, and 0 names the calling thread.
    if unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const highest) } != 0 {
        return Err(io::Error::last_os_error()).context("cannot get real-time priority");
    }
    let end = Instant::now() + time;
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    Ok(())
}
