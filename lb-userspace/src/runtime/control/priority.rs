//! Real-time priority for the control thread.

use std::io;

/// Priority among real-time threads: above every normal thread, below the kernel's own (50) and anything critical.
const FIFO_PRIORITY: libc::c_int = 10;

/// The highest niceness.
const LEAST_PRIORITY: libc::c_int = 19;

/// Puts the calling thread under `SCHED_FIFO` if the system allows it, and says what came of it in words.
pub(super) fn raise() -> String {
    match fifo(FIFO_PRIORITY) {
        Ok(()) => format!("SCHED_FIFO {FIFO_PRIORITY}"),
        Err(error) => format!(
            "SCHED_OTHER: real-time priority was refused ({error}); give CAP_SYS_NICE or LimitRTPRIO={FIFO_PRIORITY}"
        ),
    }
}

/// The same for a thread that is asked whether its CPU runs at all, be it that the control thread is what it runs.
pub(super) fn raise_witness() {
    if fifo(FIFO_PRIORITY + 1).is_err() {
        let _ = fifo(FIFO_PRIORITY);
    }
}

fn fifo(priority: libc::c_int) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the call reads one `sched_param` through a pointer to a live local, and 0 names the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the calling thread the least important of all normal ones. Not `SCHED_IDLE`: on a busy host it would never run.
pub(super) fn lower() {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: as in `raise`.
    let _ = unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const parameters) };
    // SAFETY: no pointers; 0 names the calling thread, as on Linux this is a property of threads.
    let _ = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, LEAST_PRIORITY) };
}
