//! Runs a program and believes its exit code: 0 is an answer.
//!
//! It gets an empty environment but for `WEIR_ADDRESS`, `WEIR_CHECK` and `WEIR_TIMEOUT_MS`, no input, no output, `/` as its
//! folder, and a process group of its own, which is killed at the timeout.

use std::net::IpAddr;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Command;

use crate::config::ExecCheck;
use crate::health::round::Miss;

/// A group that is killed unless its program has ended by itself.
struct ProcessGroup(Option<Pid>);

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // It may have ended this moment. Its leader is not waited for yet, so the number is nobody else's.
            let _ = killpg(group, Signal::SIGKILL);
        }
    }
}

/// Runs the program of a check once. When the future is dropped, at its timeout or with the daemon, the program is killed with all
/// that it started in its group.
pub(super) async fn probe(
    check: &ExecCheck,
    name: &str,
    address: IpAddr,
    timeout: Duration,
) -> Result<(), Miss> {
    let told = [
        ("WEIR_ADDRESS", address.to_string()),
        ("WEIR_CHECK", name.to_owned()),
        ("WEIR_TIMEOUT_MS", timeout.as_millis().to_string()),
    ];
    run(&check.command, check.user, &told).await
}

/// Runs a program with these variables and nothing else, as [`probe`] does.
///
/// # Errors
/// It cannot be started, was killed, or ended with another code than 0.
pub(crate) async fn run(
    command: &[String],
    user: Option<(u32, u32)>,
    told: &[(&str, String)],
) -> Result<(), Miss> {
    let Some((program, arguments)) = command.split_first() else { return Err(Miss::Unsent) };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(told.iter().map(|(key, value)| (key, value)))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    if let Some((user, group)) = user {
        // With another user, root's supplementary groups are given up too.
        command.uid(user).gid(group);
    }
    let mut child = command.spawn().map_err(|_| Miss::Unsent)?;
    let id = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
    let mut group = ProcessGroup(id);
    let status = child.wait().await.map_err(|_| Miss::Unsent)?;
    group.0 = None;
    judge(status)
}

fn judge(status: ExitStatus) -> Result<(), Miss> {
    match status.code() {
        Some(0) => Ok(()),
        Some(code) => Err(Miss::Exit(u8::try_from(code).unwrap_or(u8::MAX))),
        None => Err(Miss::Killed),
    }
}
