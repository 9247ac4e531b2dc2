//! Long-lived processes inside a lab: each is recorded so that it dies with the lab.
use super::{
    netns::{Netns, making},
    registry::{Entry, ProcessId},
};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

/// Bytes at the end of a log that an error quotes.
const LOG_TAIL_BYTES: usize = 4000;

/// A running (or ended) child. Dropping it kills it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    id: ProcessId,
    child: Mutex<Child>,
    log: PathBuf,
}

impl Process {
    /// Starts `command` in `netns`, with nothing as input, and both outputs appended to `<lab>/<name>.log`.
    pub(crate) fn start(entry: &Entry, netns: &Netns, name: &str, command: &mut Command) -> Result<Self> {
        let log = entry.directory.join(format!("{name}.log"));
        let output = OpenOptions::new().create(true).append(true).open(&log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C goes to the lab, which ends its processes in order.
            .process_group(0);
        let _making = making();
        let child = netns.run(|| command.spawn().with_context(|| format!("cannot run {program}")))?;
        let process = Process {
            name: name.to_owned(),
            id: ProcessId::of(child.id() as i32)?,
            child: child.into(),
            log,
        };
        entry.record_process(process.id)?;
        Ok(process)
    }

    pub(crate) fn pid(&self) -> i32 {
        self.id.pid
    }

    pub(crate) fn log(&self) -> &Path {
        &self.log
    }

    /// The end of the log, for error messages.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.log)
    }

    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.id.signal(signal).with_context(|| self.name.clone())
    }

    /// The exit status, if it has ended.
    pub(crate) fn try_wait(&self) -> Result<Option<ExitStatus>> {
        Ok(self.child().try_wait()?)
    }

    /// Waits until it has ended.
    pub(crate) fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.try_wait()? {
                return Ok(status);
            }
            if Instant::now() > deadline {
                bail!(
                    "{} (pid {}) did not end within {timeout:?}\n{}",
                    self.name,
                    self.pid(),
                    self.log_tail()
                );
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Ends it by SIGKILL and waits.
    pub(crate) fn kill(&self) -> Result<ExitStatus> {
        let mut child = self.child();
        child.kill()?;
        Ok(child.wait()?)
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Ended already is as good.
        let _ = self.kill();
    }
}

/// The ends of all logs of a lab that are not empty, each under its name.
pub(crate) fn log_tails(directory: &Path) -> String {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let logs = entries.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|e| e == "log"));
    logs.map(|log| (tail(&log), log))
        .filter(|(text, _)| !text.is_empty())
        .map(|(text, log)| format!("--- {}\n{text}\n", log.display()))
        .collect()
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(LOG_TAIL_BYTES)..]).into_owned()
}
