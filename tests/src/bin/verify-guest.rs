//! `verify-guest`: tries Weir's programs on the kernel that it runs on. See `cargo xtask verify`.
use anyhow::{Context, Result, bail};
use lb_tests::verify::{self, guest};
use std::{fs::File, io, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let result = if guest::is_guest() { in_machine() } else { here() };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verify-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As the first process of a machine.
fn in_machine() -> Result<()> {
    guest::set_up()?;
    let mut report = File::create(guest::REPORT).with_context(|| format!("cannot open {}", guest::REPORT))?;
    verify::run(Path::new(guest::OBJECTS), &mut report)?;
    match guest::end()? {}
}

/// On this very kernel, with the folder of the objects as the only argument.
fn here() -> Result<()> {
    let Some(objects) = std::env::args_os().nth(1) else {
        bail!("usage: verify-guest FOLDER-WITH-BPF-OBJECTS (as root, with a BPF file system on /sys/fs/bpf)");
    };
    verify::run(Path::new(&objects), &mut io::stdout().lock())
}
