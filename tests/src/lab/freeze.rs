//! Stops one thread of a process, which no signal can.
use anyhow::{Context, Result, bail};
use std::{fs, io, marker::PhantomData};

/// A thread that stands still for as long as this lives.
#[derive(Debug)]
pub struct Frozen {
    thread: libc::pid_t,
    /// Only the thread that stopped it can let it go.
    _here: PhantomData<*const ()>,
}

impl Frozen {
    /// Stops the thread of this name.
    ///
    /// # Errors
    /// There is none, or it may not be traced.
    pub fn new(pid: i32, name: &str) -> Result<Self> {
        for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = entry?.path();
            if fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim() == name) {
                let thread = path.file_name().and_then(|id| id.to_str()).context("a thread has a number")?;
                return Self::stop(thread.parse()?);
            }
        }
        bail!("process {pid} has no thread {name}")
    }

    fn stop(thread: libc::pid_t) -> Result<Self> {
        // SAFETY: no pointers are read; the kernel checks the thread.
        if unsafe { libc::ptrace(libc::PTRACE_SEIZE, thread, 0usize, 0usize) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot trace the thread");
        }
        let frozen = Self { thread, _here: PhantomData };
        // SAFETY: as above.
        if unsafe { libc::ptrace(libc::PTRACE_INTERRUPT, thread, 0usize, 0usize) } != 0 {
            return Err(io::Error::last_os_error()).context("cannot stop the thread");
        }
        let mut status = 0;
        // SAFETY: the pointer is to a live local.
        if unsafe { libc::waitpid(thread, &raw mut status, libc::__WALL) } != thread {
            return Err(io::Error::last_os_error()).context("the thread did not stop");
        }
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // SAFETY: as in `stop`. If the process is gone, there is nothing to let go.
        unsafe { libc::ptrace(libc::PTRACE_DETACH, self.thread, 0usize, 0usize) };
    }
}
