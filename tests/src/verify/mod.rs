//! What `cargo xtask verify` asks of a kernel: load every program, run the golden packets, install a data plane.
//!
//! Runs on the kernel that it finds itself on, as root. In a virtual machine it is the only process (see [`guest`]). What it
//! finds out goes to a report, one JSON object a line, the last of them [`Line::End`].

mod checks;
pub mod guest;
mod programs;
pub mod stack;

pub use checks::{Golden, golden, install};
pub use programs::{Loaded, load_object};

use anyhow::{Context, Result};
use lb_userspace::dataplane::object::EDGE_PROGRAM;
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use serde::Serialize;
use std::{fs, io::Write, path::Path, time::Instant};

/// One line of the report.
#[derive(Debug, Serialize)]
#[serde(tag = "line", rename_all = "lowercase")]
pub enum Line {
    /// The kernel, before anything was tried.
    Kernel {
        /// Its release, as `uname -r` has it.
        release: String,
        /// Whether it has BTF of itself.
        btf: bool,
        /// Whether programs are compiled to machine code.
        jit: bool,
    },
    /// A program was handed to the kernel.
    Program(Loaded),
    /// The golden packets were run.
    Golden(Golden),
    /// A data plane was installed, adopted and removed again.
    Install {
        /// Why not, if it was not.
        error: Option<String>,
        /// How long it took, in milliseconds.
        ms: u64,
    },
    /// The whole run went wrong: a fault of the check and not of the kernel.
    Broken {
        /// How.
        error: String,
    },
    /// Nothing comes after this.
    End,
}

/// Does everything, and writes what comes of it to `report`. `objects` is the folder with the compiled BPF objects.
///
/// # Errors
/// The report cannot be written. All else goes into it.
pub fn run(objects: &Path, report: &mut impl Write) -> Result<()> {
    if let Err(error) = checks_in_order(objects, report) {
        write(report, &Line::Broken { error: format!("{error:#}") })?;
    }
    write(report, &Line::End)
}

fn checks_in_order(objects: &Path, report: &mut impl Write) -> Result<()> {
    // Before kernel 5.11 maps count as locked memory. Newer ones do not care, and if it fails, map creation tells.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    write(report, &kernel()?)?;
    let mut names: Vec<_> = fs::read_dir(objects)
        .with_context(|| objects.display().to_string())?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    names.sort();
    let mut is_edge_refused = false;
    for path in names.iter().filter(|path| path.is_file()) {
        for loaded in load_object(path)? {
            is_edge_refused |= loaded.error.is_some() && loaded.program == EDGE_PROGRAM;
            write(report, &Line::Program(loaded))?;
        }
    }
    write(report, &Line::Golden(golden()?))?;
    let begin = Instant::now();
    let error = if is_edge_refused {
        Some(format!("not tried, as {EDGE_PROGRAM} is refused"))
    } else {
        install().err().map(|error| format!("{error:#}"))
    };
    write(report, &Line::Install { error, ms: millis(begin) })
}

fn kernel() -> Result<Line> {
    let read = |path| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    Ok(Line::Kernel {
        release: read("/proc/sys/kernel/osrelease")?.trim().to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        jit: read("/proc/sys/net/core/bpf_jit_enable")?.trim() != "0",
    })
}

fn write(report: &mut impl Write, line: &Line) -> Result<()> {
    let mut text = serde_json::to_string(line)?;
    text.push('\n');
    report.write_all(text.as_bytes()).and_then(|()| report.flush()).context("cannot write the report")
}

fn millis(since: Instant) -> u64 {
    since.elapsed().as_millis() as u64
}
