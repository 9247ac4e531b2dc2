//! `cargo xtask verify`: boots real kernels and tries the XDP programs on each.

mod initramfs;
mod kernels;
mod machine;
mod table;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::json;

use crate::{
    build, setup,
    shell::{Cmd, require_root_or_sudo, step},
    workspace::{bpf_dir, host_cargo, root},
};
pub(crate) use kernels::Release;
use machine::Pace;
pub(crate) use table::Outcome;

/// The program that runs as the first process of each machine.
const GUEST: &str = "verify-guest";
/// Where the results are written.
const RESULTS: &str = "target/verify.json";

/// Boot real kernels, load every XDP program and run the golden packets on each.
///
/// The kernels are those of Debian 11, 12, 13 and its development version, fetched by apt into target/kernels, and run under
/// QEMU's software emulation; the kernel of this machine is tried as well. Prints a table and writes target/verify.json. The
/// exit status is not 0 when a kernel that is supported (6.12 or later) refuses a program or a golden packet comes out wrong, or
/// when one was named and does. Takes some minutes once the kernels are here.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only these releases' kernels
    #[arg(value_enum)]
    releases: Vec<Release>,
    /// Also this kernel image (a bzImage with BTF)
    #[arg(long, value_name = "FILE")]
    image: Vec<PathBuf>,
    /// Look for newer kernels than those that were fetched before
    #[arg(long)]
    update: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    require_root_or_sudo()?;
    setup::ensure_emulator()?;
    let machine = Machine::build()?;
    let is_everything = args.releases.is_empty() && args.image.is_empty();
    let releases = if is_everything { Release::value_variants() } else { &args.releases };
    let mut outcomes = Vec::new();
    for &release in releases {
        outcomes.push(machine.try_release(release, args.update));
    }
    for image in &args.image {
        outcomes.push(machine.try_kernel(&image.display().to_string(), image));
    }
    if is_everything {
        outcomes.push(machine.try_this_kernel());
    }
    println!("{}", table::table(&outcomes));
    write_results(&outcomes)?;
    let bad: Vec<&str> = outcomes.iter().filter(|o| !o.is_good()).map(|o| o.title.as_str()).collect();
    let (failed, excused) = judge(bad, is_everything);
    if !excused.is_empty() {
        println!("Older than what is supported, and not expected to work: {}.", excused.join(", "));
    }
    if !failed.is_empty() {
        bail!("not everything works on {}", failed.join(", "));
    }
    Ok(())
}

/// Of the kernels on which not everything works: those that count, and those that are too old to and that nobody named.
fn judge(bad: Vec<&str>, is_everything: bool) -> (Vec<&str>, Vec<&str>) {
    let is_old = |title| Release::value_variants().iter().any(|r| r.title() == title && !r.is_supported());
    bad.into_iter().partition(|&title| !(is_everything && is_old(title)))
}

/// A machine to boot kernels in.
struct Machine {
    guest: PathBuf,
    initramfs: PathBuf,
    pace: Pace,
}

impl Machine {
    /// Builds the XDP programs, the check and its file system.
    fn build() -> Result<Self> {
        let metadata = build::set_up_and_build_bpf()?;
        step("build the check", || {
            host_cargo("build").args(["--package", "lb-tests", "--bin", GUEST]).run()
        })?;
        Self::with_guest(&metadata.profile_dir(false).join(GUEST), Pace::Full)
    }

    /// For a check that is built.
    fn with_guest(guest: &Path, pace: Pace) -> Result<Self> {
        let dir = root().join("target/verify");
        fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
        let initramfs = step("build its file system", || initramfs::build(guest, &dir))?;
        Ok(Self { guest: guest.to_owned(), initramfs, pace })
    }

    fn try_release(&self, release: Release, update: bool) -> Outcome {
        match step(&format!("kernel of {}", release.title()), || release.kernel(update)) {
            Ok(kernel) => self.try_kernel(release.title(), &kernel),
            Err(error) => Outcome::broken(release.title(), &error),
        }
    }

    fn try_kernel(&self, title: &str, kernel: &Path) -> Outcome {
        let dir = self.initramfs.parent().unwrap_or(Path::new("."));
        Self::timed(title, || machine::boot(kernel, &self.initramfs, dir, self.pace))
    }

    /// Without a machine: on the kernel that runs, with a BPF file system that nobody else sees.
    fn try_this_kernel(&self) -> Outcome {
        let script = "mount -t bpf bpf /sys/fs/bpf && exec \"$@\"";
        let cmd = Cmd::new("unshare")
            .args(["--mount", "sh", "-c", script, "sh"])
            .arg(&self.guest)
            .arg(bpf_dir())
            .root();
        Self::timed("this machine", || Ok(machine::read_report(&cmd.announced_read()?)))
    }

    fn timed(title: &str, work: impl FnOnce() -> Result<Vec<serde_json::Value>>) -> Outcome {
        let begin = Instant::now();
        match step(&format!("try {title}"), work) {
            Ok(lines) => Outcome::read(title, &lines, begin.elapsed()),
            Err(error) => Outcome::broken(title, &error),
        }
    }
}

/// For `cargo xtask test`: makes sure that there are an emulator and a release's kernel, and returns the kernel.
pub(crate) fn prepare(release: Release) -> Result<PathBuf> {
    setup::ensure_emulator()?;
    release.kernel(false)
}

/// Tries one kernel with the check that was built into `profile_dir`, beside other tests, which go first.
pub(crate) fn smoke(release: Release, kernel: &Path, profile_dir: &Path) -> Result<Outcome> {
    Ok(Machine::with_guest(&profile_dir.join(GUEST), Pace::Idle)?.try_kernel(release.title(), kernel))
}

fn write_results(outcomes: &[Outcome]) -> Result<()> {
    let results: Vec<_> = outcomes
        .iter()
        .map(|o| json!({ "title": o.title, "good": o.is_good(), "seconds": o.time.as_secs_f64(), "report": o.lines }))
        .collect();
    let file = root().join(RESULTS);
    let text = serde_json::to_string_pretty(&results)? + "\n";
    fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
    eprintln!("    written: {RESULTS}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_kernels_that_are_too_old_and_were_not_named_are_excused() {
        let bad = || vec!["Debian 11", "Debian 12", "Debian 13", "this machine", "/boot/vmlinuz"];
        let (failed, excused) = judge(bad(), true);
        assert_eq!(failed, ["Debian 13", "this machine", "/boot/vmlinuz"]);
        assert_eq!(excused, ["Debian 11", "Debian 12"]);
        assert_eq!(judge(bad(), false), (bad(), vec![]));
    }
}
