//! Network namespaces: making, entering, and configuring them by batches of `ip` commands.
use anyhow::{Context, Result, bail};
use nix::sched::{CloneFlags, setns};
use std::{
    fs::{self, File},
    io::{Write, pipe},
    path::PathBuf,
    process::{Command, Stdio},
    sync::{Arc, RwLock, RwLockReadGuard},
    thread,
};

/// Held for reading by whatever makes something that outlives a call (namespaces, processes); a signal takes it for
/// writing, so that nothing is made while or after everything is removed.
static MAKING: RwLock<()> = RwLock::new(());

/// Permission to make things; see [`stop_making`].
pub(crate) fn making() -> RwLockReadGuard<'static, ()> {
    MAKING.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Waits for what is being made, and lets nobody make anything again in this process.
pub(crate) fn stop_making() {
    std::mem::forget(MAKING.write().unwrap_or_else(std::sync::PoisonError::into_inner));
}

/// A handle of a named network namespace; cheap to clone, and usable from any thread.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// Opens the namespace of this name.
    ///
    /// # Errors
    /// It does not exist.
    pub fn open(name: &str) -> Result<Self> {
        let path = path_of(name);
        let file = File::open(&path).with_context(|| format!("cannot open namespace {}", path.display()))?;
        Ok(Netns { name: name.into(), file: Arc::new(file) })
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `work` in a thread of its own inside the namespace and waits for it. Sockets that it opens and processes
    /// that it starts stay in the namespace; the calling thread never enters it.
    ///
    /// # Errors
    /// The namespace cannot be entered (no privilege), or `work` fails. A panic of `work` goes on in the caller.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter()?;
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Moves the calling thread into the namespace, for good.
    ///
    /// # Errors
    /// No privilege.
    pub fn enter(&self) -> Result<()> {
        setns(&*self.file, CloneFlags::CLONE_NEWNET)
            .with_context(|| format!("cannot enter namespace {}", self.name))
    }

    /// Runs these `ip` commands (without the leading `ip`) in the namespace, by one process. Stops at the first that
    /// fails.
    ///
    /// # Errors
    /// What `ip` says about the command that failed.
    pub fn ip<S: AsRef<str>>(&self, commands: &[S]) -> Result<()> {
        ip_batch(&["-n", &self.name], commands)
    }

    /// Writes sysctls given as paths below `/proc/sys/net`. Call inside [`Netns::run`].
    pub(crate) fn sysctl_here(settings: &[(&str, &str)]) -> Result<()> {
        for (key, value) in settings {
            let path = PathBuf::from("/proc/sys/net").join(key);
            fs::write(&path, value).with_context(|| format!("cannot write {value} to {}", path.display()))?;
        }
        Ok(())
    }
}

/// The file that stands for a named namespace.
pub(crate) fn path_of(name: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(name)
}

/// Runs `ip` commands by one process, with these options first.
pub(crate) fn ip_batch<S: AsRef<str>>(options: &[&str], commands: &[S]) -> Result<()> {
    let _making = making();
    ip_batch_unguarded(options, commands)
}

/// As [`ip_batch`], also after [`stop_making`]: for removing.
pub(crate) fn ip_batch_unguarded<S: AsRef<str>>(options: &[&str], commands: &[S]) -> Result<()> {
    if commands.is_empty() {
        return Ok(());
    }
    let (input, mut output) = pipe()?;
    let child = Command::new("ip")
        .args(options)
        .args(["-batch", "-"])
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run `ip`: install iproute2")?;
    for command in commands {
        // `ip` that stops at a bad command closes the pipe; what it says is the better error.
        if writeln!(output, "{}", command.as_ref()).is_err() {
            break;
        }
    }
    drop(output);
    let result = child.wait_with_output()?;
    if !result.status.success() {
        let message = String::from_utf8_lossy(&result.stderr);
        let line = message.rsplit_once("failed -:").and_then(|(_, n)| n.trim().parse::<usize>().ok());
        let failed = line.and_then(|line| commands.get(line - 1)).map_or("?", AsRef::as_ref);
        bail!("ip {} failed at `{failed}`: {}", options.join(" "), message.trim());
    }
    Ok(())
}
