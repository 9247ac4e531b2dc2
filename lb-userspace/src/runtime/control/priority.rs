//! Real-time priority for the control thread.

use std::io;

/// Priority among real-time threads: above every normal thread, below the kernel's own (50) and anything critical.
const FIFO_PRIORITY: libc::c_int = 10;

/// Puts the calling thread under `SCHED_FIFO` if the system allows it, and says what came of it in words.
pub(super) fn raise() -> String {
    let parameters = libc::sched_param { sched_priority: FIFO_PRIORITY };
    let policy = libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the call reads one `sched_param` through a pointer to a live local, and 0 names the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) };
    if result == 0 {
        format!("SCHED_FIFO {FIFO_PRIORITY}")
    } else {
        let error = io::Error::last_os_error();
        format!(
            "SCHED_OTHER: real-time priority was refused ({error}); give CAP_SYS_NICE or LimitRTPRIO={FIFO_PRIORITY}"
        )
    }
}
