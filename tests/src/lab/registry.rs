//! The list of labs on this machine, and how one of them is removed.
//!
//! Each lab has a folder `/run/weir-lab/<id>` that holds its record, its files and its bpffs. The record names the
//! process that owns the lab by pid and start time, so that a lab whose owner is gone, even by SIGKILL, can be removed
//! by anybody, and a number that was given to another process is never taken for the owner.
use super::netns::{ip_batch_unguarded, making, path_of, stop_making};
use anyhow::{Context, Result, bail};
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
    mount::{MntFlags, umount2},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
    sync::{
        Mutex, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

const ROOT: &str = "/run/weir-lab";
const OWNER_FILE: &str = "owner.json";
const PROCESSES_FILE: &str = "processes";
/// How long a killed process may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(5);

/// Folders of the labs that this process owns.
static OWN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A process named so that another one with the same number is not taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ProcessId {
    pub(crate) pid: i32,
    /// Start time in clock ticks since boot: field 22 of `/proc/<pid>/stat`.
    start_ticks: u64,
}

impl ProcessId {
    /// Names a running process.
    pub(crate) fn of(pid: i32) -> Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} is gone"))?;
        // The second field is the command in parentheses, and may itself contain spaces and parentheses.
        let fields = stat.rsplit_once(')').context("/proc/<pid>/stat has no command")?.1;
        let start_ticks = fields.split_whitespace().nth(19).context("/proc/<pid>/stat is short")?.parse()?;
        Ok(ProcessId { pid, start_ticks })
    }

    fn is_alive(self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|now| now == self) && !is_zombie(self.pid)
    }

    /// Sends a signal, unless the process is gone.
    pub(crate) fn signal(self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            bail!("process {} is gone", self.pid);
        }
        kill(Pid::from_raw(self.pid), signal).with_context(|| format!("cannot send {signal} to {}", self.pid))
    }
}

fn is_zombie(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z')))
}

#[derive(Serialize, Deserialize)]
struct Record {
    owner: ProcessId,
    namespaces: Vec<String>,
}

/// The entry of a lab that this process raises.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) directory: PathBuf,
}

/// An id that no other lab has: short, because namespace and socket names contain it.
pub(crate) fn new_id() -> String {
    static LABS: AtomicU32 = AtomicU32::new(0);
    format!("wl{}-{}", std::process::id(), LABS.fetch_add(1, Ordering::Relaxed))
}

impl Entry {
    /// Writes the record. From here on the lab is removed whatever ends this process.
    pub(crate) fn create(id: &str, namespaces: Vec<String>) -> Result<Self> {
        clean_on_signals();
        let _making = making();
        let directory = Path::new(ROOT).join(id);
        // Appears complete or not at all: another process may be looking for leftovers.
        let draft = Path::new(ROOT).join(format!(".{id}"));
        fs::create_dir_all(&draft).with_context(|| format!("cannot make {}", draft.display()))?;
        let record = Record { owner: ProcessId::of(std::process::id() as i32)?, namespaces };
        fs::write(draft.join(OWNER_FILE), serde_json::to_vec(&record)?)?;
        fs::write(draft.join(PROCESSES_FILE), "")?;
        fs::rename(&draft, &directory).with_context(|| format!("cannot make {}", directory.display()))?;
        own().insert(directory.clone());
        Ok(Entry { directory })
    }

    /// Adds a process that is to be killed when the lab is removed.
    pub(crate) fn record_process(&self, process: ProcessId) -> Result<()> {
        let mut file = OpenOptions::new().append(true).open(self.directory.join(PROCESSES_FILE))?;
        Ok(file.write_all(format!("{}\n", serde_json::to_string(&process)?).as_bytes())?)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.directory) {
            eprintln!("lab: {error:#}");
        }
        own().remove(&self.directory);
    }
}

fn own() -> std::sync::MutexGuard<'static, BTreeSet<PathBuf>> {
    OWN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Removes every lab on this machine whose owner is gone; returns their ids.
///
/// # Errors
/// The first one that cannot be removed; the others are tried all the same.
pub fn clean() -> Result<Vec<String>> {
    let mut removed = Vec::new();
    let mut failure = Ok(());
    let Ok(entries) = fs::read_dir(ROOT) else {
        return Ok(removed);
    };
    for entry in entries {
        let directory = entry?.path();
        let id = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if id.starts_with('.') || !is_abandoned(&directory) {
            continue;
        }
        match remove(&directory) {
            Ok(()) => removed.push(id),
            Err(error) => failure = failure.and(Err(error)),
        }
    }
    failure.map(|()| removed)
}

fn is_abandoned(directory: &Path) -> bool {
    read_record(directory).is_ok_and(|record| !record.owner.is_alive())
}

fn read_record(directory: &Path) -> Result<Record> {
    let path = directory.join(OWNER_FILE);
    let text = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("cannot understand {}", path.display()))
}

/// Removes one lab: processes, namespaces with everything in them, bpffs, files. What is gone already is skipped.
fn remove(directory: &Path) -> Result<()> {
    let Ok(lock) = File::open(directory.join(OWNER_FILE)) else {
        return Ok(());
    };
    // Two cleaners at once: the second finds nothing left.
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusive) else {
        return Ok(());
    };
    let Ok(record) = read_record(directory) else {
        return Ok(());
    };
    kill_all(&read_processes(directory))?;
    let namespaces: Vec<_> = (record.namespaces.iter())
        .filter(|name| path_of(name).exists())
        .map(|name| format!("netns del {name}"))
        .collect();
    ip_batch_unguarded(&[], &namespaces)?;
    match umount2(&super::bpffs_of(directory), MntFlags::MNT_DETACH) {
        // Not mounted, or never made.
        Ok(()) | Err(Errno::EINVAL | Errno::ENOENT) => {}
        Err(error) => bail!("cannot unmount {}: {error}", super::bpffs_of(directory).display()),
    }
    fs::remove_dir_all(directory).with_context(|| format!("cannot remove {}", directory.display()))
}

fn read_processes(directory: &Path) -> Vec<ProcessId> {
    let text = fs::read_to_string(directory.join(PROCESSES_FILE)).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

fn kill_all(processes: &[ProcessId]) -> Result<()> {
    let alive: Vec<_> = processes.iter().filter(|process| process.is_alive()).collect();
    for process in &alive {
        // Gone in between is as good.
        let _ = process.signal(Signal::SIGKILL);
    }
    let deadline = Instant::now() + KILL_DEADLINE;
    for process in alive {
        while process.is_alive() {
            if Instant::now() > deadline {
                bail!("process {} did not go within {KILL_DEADLINE:?} of SIGKILL", process.pid);
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(())
}

/// Removes this process's labs before SIGINT, SIGTERM or SIGHUP ends it.
fn clean_on_signals() {
    static STARTED: Once = Once::new();
    STARTED.call_once(|| {
        let mut signals = match Signals::new([SIGINT, SIGTERM, SIGHUP]) {
            Ok(signals) => signals,
            Err(error) => return eprintln!("lab: cannot watch signals: {error}"),
        };
        thread::spawn(move || {
            let signal = signals.forever().next().unwrap_or(SIGTERM);
            eprintln!("lab: signal {signal}: removing the lab");
            stop_making();
            for directory in own().iter() {
                if let Err(error) = remove(directory) {
                    eprintln!("lab: {error:#}");
                }
            }
            // As a shell reports a death by this signal.
            std::process::exit(128 + signal);
        });
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_time() {
        let me = ProcessId::of(std::process::id() as i32).unwrap();
        assert!(me.is_alive());
        let earlier = ProcessId { start_ticks: me.start_ticks - 1, ..me };
        assert!(!earlier.is_alive());
        assert!(earlier.signal(Signal::SIGKILL).is_err());
    }

    #[test]
    fn ids_differ() {
        assert_ne!(new_id(), new_id());
    }
}
