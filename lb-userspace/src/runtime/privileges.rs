//! What the daemon may do, and giving up all else.
//!
//! Capabilities belong to threads, and a thread hands its own on to those that it starts. So they are given up by the first thread
//! before there is any other, in two steps: [`reduce`] before the configuration is read, so that what a start can read a reload can
//! read as well, and [`settle`] when it is known whether programs run as other users. What only the start needs, one
//! [`Helper`] does, which keeps everything and ends with the start.
//!
//! What a reload needs is what stays: it creates maps, loads programs and changes links (`CAP_BPF`, `CAP_NET_ADMIN`, `CAP_PERFMON` for
//! what the verifier calls pointer leaks), opens sockets for checks and announcements (`CAP_NET_RAW`), and starts a control thread
//! under `SCHED_FIFO` (`CAP_SYS_NICE`).

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use nix::sys::mman::MlockAllFlags;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};

use crate::config::{CheckKind, Config};

/// Number and name of a capability (capabilities(7)).
type Capability = (u32, &'static str);

/// What the daemon needs as long as it runs.
const ALWAYS: [Capability; 5] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (23, "CAP_SYS_NICE"), (38, "CAP_PERFMON"), (39, "CAP_BPF")];
/// What running a check's program as another user takes, and ending it.
const OTHER_USERS: [Capability; 3] = [(5, "CAP_KILL"), (6, "CAP_SETGID"), (7, "CAP_SETUID")];
/// What giving up the bounding set takes; goes last.
const CAP_SETPCAP: u32 = 8;
/// `_LINUX_CAPABILITY_VERSION_3`: two words of 32 bits each.
const VERSION_3: u32 = 0x2008_0522;
/// Numbers of capabilities that there can be.
const MAX_CAPABILITIES: u32 = 64;

/// The header of capget(2) and capset(2).
#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

/// Their data: one for each 32 capabilities.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Word {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Gives up what neither start nor reload needs, for this thread and all that it will start; locks what the process touches into
/// memory where the system lets it.
///
/// # Errors
/// When the kernel refuses; then nothing, or a part, was given up.
pub fn reduce() -> io::Result<()> {
    lock_memory();
    keep(bits(&ALWAYS) | bits(&OTHER_USERS) | 1 << CAP_SETPCAP)
}

/// Gives up what this configuration does not need.
///
/// # Errors
/// As [`reduce`].
pub fn settle(config: &Config) -> io::Result<()> {
    let users = if runs_as_others(config) { bits(&OTHER_USERS) } else { 0 };
    keep(bits(&ALWAYS) | users)
}

/// Why this daemon cannot do what a configuration asks for, because it gave that up when it started.
#[must_use]
pub fn given_up(config: &Config) -> Option<String> {
    let needed = if runs_as_others(config) { bits(&OTHER_USERS) } else { 0 };
    let missing = needed & !permitted().unwrap_or(u64::MAX);
    let names: Vec<_> =
        OTHER_USERS.iter().filter(|(number, _)| missing & 1 << number != 0).map(|(_, name)| *name).collect();
    (!names.is_empty()).then(|| {
        format!("a check runs a program as another user, and this daemon gave {} up", names.join(", "))
    })
}

/// The capabilities that this thread has, by name, as far as they are those of this file.
#[must_use]
pub fn held() -> Vec<&'static str> {
    let held = permitted().unwrap_or(0);
    let all = ALWAYS.iter().chain(&OTHER_USERS);
    all.filter(|(number, _)| held & 1 << number != 0).map(|(_, name)| *name).collect()
}

fn runs_as_others(config: &Config) -> bool {
    config.checks.iter().any(|check| matches!(&check.kind, CheckKind::Exec(exec) if exec.user.is_some()))
}

fn bits(capabilities: &[Capability]) -> u64 {
    capabilities.iter().map(|(number, _)| 1 << number).sum()
}

/// A prober that waits for the disk to bring its code back is late. Where memory may not be locked, that is how it is.
fn lock_memory() {
    // Before kernel 5.11 maps count against the same limit. Raising it takes CAP_SYS_RESOURCE, which is there only at the start.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        return;
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    let flags = MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault;
    if let Err(error) = nix::sys::mman::mlockall(flags) {
        tracing::debug!(%error, "memory is not locked");
    }
}

/// Keeps of what there is only `wanted`, in all sets. Programs that are started get no more, even as root.
fn keep(wanted: u64) -> io::Result<()> {
    let before = get()?;
    let may_bound = joined(before.map(|word| word.effective)) & 1 << CAP_SETPCAP != 0;
    // SAFETY: no pointers; clears a set of this thread.
    unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) };
    // Without CAP_SETPCAP a service manager has bounded it already, or nobody can.
    for number in (0..MAX_CAPABILITIES).filter(|number| may_bound && wanted & 1 << number == 0) {
        // SAFETY: no pointers. A number that the kernel does not know is refused, and needs no dropping.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
    }
    let halves = [wanted as u32, (wanted >> 32) as u32];
    let kept = std::array::from_fn(|half| {
        let permitted = before[half].permitted & halves[half];
        Word { effective: permitted, permitted, inheritable: 0 }
    });
    set(&kept)
}

fn permitted() -> io::Result<u64> {
    Ok(joined(get()?.map(|word| word.permitted)))
}

fn joined([low, high]: [u32; 2]) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

fn get() -> io::Result<[Word; 2]> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    let mut words = [Word::default(); 2];
    // SAFETY: both pointers are to live locals of the layout that version 3 has: one header, two words.
    let result = unsafe { libc::syscall(libc::SYS_capget, &raw mut header, words.as_mut_ptr()) };
    if result == 0 { Ok(words) } else { Err(io::Error::last_os_error()) }
}

fn set(words: &[Word; 2]) -> io::Result<()> {
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: as in `get`; the kernel only reads the words.
    let result = unsafe { libc::syscall(libc::SYS_capset, &raw mut header, words.as_ptr()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

type Task = Box<dyn FnOnce() + Send>;

/// A thread that keeps every capability and does what only the start needs: to open the maps of a program that has no other name
/// than its number takes `CAP_SYS_ADMIN`. It ends when this is dropped.
#[derive(Debug)]
pub struct Helper(SyncSender<Task>);

impl Helper {
    /// Starts it; to be called before [`reduce`].
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start() -> io::Result<Self> {
        let (sender, tasks): (_, Receiver<Task>) = sync_channel(1);
        std::thread::Builder::new()
            .name("weir-start".to_owned())
            .spawn(move || tasks.into_iter().for_each(|task| task()))?;
        Ok(Self(sender))
    }

    /// What `work` comes to on that thread; `None` if it has ended.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (answer, result) = sync_channel(1);
        let task: Task = Box::new(move || drop(answer.send(work())));
        self.0.send(task).ok()?;
        result.recv().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_and_its_children_keep_only_what_was_wanted() {
        // On a thread of its own: the others of this process keep theirs.
        let of_others = permitted().unwrap();
        let wanted = bits(&ALWAYS);
        let seen = std::thread::spawn(move || {
            keep(wanted).unwrap();
            let child = std::thread::spawn(|| permitted().unwrap()).join().unwrap();
            (permitted().unwrap(), child)
        });
        assert_eq!(seen.join().unwrap(), (of_others & wanted, of_others & wanted));
        assert_eq!(permitted().unwrap(), of_others);
    }

    #[test]
    fn the_helper_is_another_thread_and_answers() {
        let helper = Helper::start().unwrap();
        let name = helper.run(|| std::thread::current().name().map(str::to_owned));
        assert_eq!(name.flatten().as_deref(), Some("weir-start"));
    }
}
