//! One daemon per state directory: a file that is locked for as long as the daemon lives.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

/// Name of the lock file in the state directory.
pub const LOCK_FILE: &str = "lock";
/// Bytes of a lock file that are read: a process id and a line break.
const MAX_LOCK_BYTES: u64 = 32;

/// Holds the lock until it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Lock {
    file: Flock<File>,
}

/// Why the lock could not be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{} holds {}", holder(*pid), path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// The process that says it holds it.
        pid: Option<u32>,
    },
    /// The lock file cannot be made or locked.
    #[error("cannot lock {}", path.display())]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another weir daemon".to_owned(), |pid| format!("another weir daemon (pid {pid})"))
}

impl Lock {
    /// Takes the lock of `state_dir`, which is made if it does not exist, and leaves the process id in its file.
    ///
    /// # Errors
    /// [`LockError::Held`] at once if another process has it: nothing waits.
    pub fn acquire(state_dir: &Path) -> Result<Self, LockError> {
        let path = state_dir.join(LOCK_FILE);
        let failed = |source| LockError::Io { path: path.clone(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir).map_err(failed)?;
        // Not truncated: until the lock is had, the holder's process id in it must stay.
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        match Flock::lock(file.map_err(failed)?, FlockArg::LockExclusiveNonblock) {
            Ok(mut file) => {
                // The process id is a courtesy; a full disk must not keep the daemon from starting.
                let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
                Ok(Self { file })
            }
            Err((file, Errno::EWOULDBLOCK)) => Err(LockError::Held { path, pid: pid_in(&file) }),
            Err((_, errno)) => Err(failed(errno.into())),
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Only tidiness: nobody believes a process id in a file that is not locked.
        let _ = self.file.set_len(0);
    }
}

fn pid_in(file: &File) -> Option<u32> {
    let mut text = String::new();
    file.take(MAX_LOCK_BYTES).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn second_holder_is_refused_and_told_who_holds_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        let lock = Lock::acquire(&state).unwrap();
        let error = Lock::acquire(&state).unwrap_err();
        assert!(
            matches!(&error, LockError::Held { pid, .. } if *pid == Some(std::process::id())),
            "{error:?}"
        );
        assert!(error.to_string().contains(&format!("pid {}", std::process::id())), "{error}");
        drop(lock);
        Lock::acquire(&state).expect("a dropped lock is free again");
    }

    #[test]
    fn what_a_dead_holder_left_is_no_obstacle() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(LOCK_FILE), "4194303 and a longer text than a process id\n").unwrap();
        let lock = Lock::acquire(dir.path()).unwrap();
        let text = fs::read_to_string(dir.path().join(LOCK_FILE)).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        drop(lock);
    }

    #[test]
    fn state_directory_that_is_a_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let error = Lock::acquire(&file).unwrap_err();
        assert!(error.to_string().contains(file.to_str().unwrap()), "{error}");
    }
}
