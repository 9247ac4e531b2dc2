//! Being the only process of a virtual machine.

use anyhow::{Context, Result};
use nix::{
    mount::{MsFlags, mount},
    sys::reboot::{RebootMode, reboot},
};
use std::{convert::Infallible, fs, path::Path, process};

/// Where a guest writes its report: the second serial port, so that the kernel's own messages, on the first, never cut a
/// line in two.
pub const REPORT: &str = "/dev/ttyS1";
/// Where a guest finds the BPF objects.
pub const OBJECTS: &str = "/bpf";

/// Whether this process is the first one.
#[must_use]
pub fn is_guest() -> bool {
    process::id() == 1
}

/// Mounts what an init system would have.
///
/// # Errors
/// What the kernel says.
pub fn set_up() -> Result<()> {
    for (kind, at) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("bpf", "/sys/fs/bpf"),
        ("tmpfs", "/run"),
    ] {
        if !Path::new(at).is_dir() {
            fs::create_dir_all(at).with_context(|| format!("cannot create {at}"))?;
        }
        mount(Some(kind), at, Some(kind), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount {kind} on {at}"))?;
    }
    Ok(())
}

/// Ends the machine: QEMU is told not to start it again.
///
/// # Errors
/// What the kernel says.
pub fn end() -> Result<Infallible> {
    reboot(RebootMode::RB_AUTOBOOT).context("cannot end the machine")
}
