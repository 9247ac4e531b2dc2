//! `cargo xtask test`: sets up, builds, runs every test binary and the documentation tests, and sums up.
//!
//! The binaries are run by us and not by `cargo test`, so that only those that need root get it, and cargo itself never
//! runs under sudo.

mod lanes;
mod programs;

use std::{path::Path, thread};

use anyhow::{Result, anyhow, bail};

use crate::{
    build::{self, HostBinaries},
    dist,
    libtest::Counts,
    running_kernel, setup,
    shell::{Cmd, is_root, require_root_or_sudo, step},
    smoke,
    workspace::{Metadata, host_cargo, root},
};
use lanes::{Job, Row, Show};
use programs::{Place, TestBinary, build_tests, selects};

/// Most lanes: with more, end-to-end tests would wait for each other's servers.
const LANES_MAX: usize = 4;
/// How many of the longest are named at the end.
const LONGEST: usize = 15;

/// Set up, build and run every test.
///
/// Unit, property and golden tests, documentation tests, and the end-to-end tests in network namespaces (these need root:
/// sudo is used otherwise); tests of the packet code once more under AddressSanitizer; the XDP programs on the emulated
/// kernel of Debian 13 (`cargo xtask verify` tries more); the Debian package. End-to-end tests run in lanes beside each other, but for
/// those that need the machine for themselves; AddressSanitizer and the emulated kernel at idle priority beside all of them. Ends with a table of times, the longest of them, and the line
/// `N passed, N failed`. The exit status is not 0 when a test failed or none ran.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask test                    everything\n  \
                        cargo xtask test --suite unit       no namespaces\n  \
                        cargo xtask test rack --suite e2e   end-to-end tests with `rack` in their name")]
pub(crate) struct Args {
    /// Only tests whose name contains this
    filter: Option<String>,
    /// Only this suite: `unit`, `e2e`, `doc`, `asan`, `kernel`, `package`, or the name of one file in tests/tests
    #[arg(long, value_name = "NAME")]
    suite: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    require_root_or_sudo()?;
    // These load no program into the kernel that runs.
    if !matches!(args.suite.as_deref(), Some("doc" | "asan" | "kernel")) {
        running_kernel::require()?;
    }
    let toolchain = setup::ensure(&setup::Args::default())?;
    if selects(args.suite.as_deref(), "e2e", "e2e_api") {
        setup::python::ensure()?;
    }
    let metadata = Metadata::load()?;
    // Each takes a build or a boot: not for a few tests that someone chose by name.
    let is_chosen = |suite| match args.suite.as_deref() {
        Some(wanted) => wanted == suite,
        None => args.filter.is_none(),
    };
    let profile_dir = metadata.profile_dir(false);
    let (rows, is_lab_used) = thread::scope(|scope| -> Result<_> {
        // Needs neither the XDP programs nor root, so it begins before both.
        let asan =
            is_chosen("asan").then(|| scope.spawn(|| sanitized(args.filter.as_deref()).run(Show::AtItsEnd)));
        build::bpf_objects(&toolchain, &metadata)?;
        let tests = step("build binaries and tests", || build_tests(&metadata, args.suite.as_deref()))?;
        let binaries = HostBinaries::in_dir(&profile_dir)?;
        // Asks for a password, where sudo wants one, before several would.
        if !is_root() {
            Cmd::new("true").root().run()?;
        }
        let kernel = is_chosen("kernel").then(|| scope.spawn(|| kernel(&profile_dir).run(Show::AtItsEnd)));
        let at = |place| jobs(&tests, place, args.filter.as_deref(), &binaries);
        let mut rows = lanes::one_after_the_other(at(Place::InTurn));
        if selects(args.suite.as_deref(), "doc", "doc") {
            rows.push(doc_tests(args.filter.as_deref()).run(Show::AsItComes));
        }
        let mut beside = at(Place::Beside);
        if is_chosen("package") {
            beside.push(Job::of("the Debian package", || dist::smoke(&binaries.weir)));
        }
        rows.extend(lanes::beside_each_other(beside, lanes_here()));
        for background in [asan, kernel].into_iter().flatten() {
            rows.push(background.join().map_err(|_| anyhow!("a thread that waited for tests panicked"))?);
        }
        rows.extend(lanes::one_after_the_other(at(Place::Alone)));
        let is_lab_used = tests.iter().any(|test| test.suite == "e2e");
        Ok((rows, is_lab_used.then_some(binaries)))
    })?;
    if let Some(binaries) = is_lab_used {
        clean_lab(&binaries);
    }
    conclude(&rows)
}

/// The programs of one place.
fn jobs<'a>(
    tests: &[TestBinary],
    place: Place,
    filter: Option<&str>,
    binaries: &HostBinaries,
) -> Vec<Job<'a>> {
    let tests = tests.iter().filter(|test| test.place() == place);
    tests.map(|test| Job::new(test.title(), test.command(filter, binaries))).collect()
}

/// As many lanes as there are CPUs, within bounds; one if the environment wants tests one by one.
fn lanes_here() -> usize {
    let is_one_by_one = std::env::var_os("RUST_TEST_THREADS").is_some_and(|threads| threads == "1");
    let cpus = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if is_one_by_one { 1 } else { cpus.min(LANES_MAX) }
}

fn sanitized<'a>(filter: Option<&str>) -> Job<'a> {
    // Quiet: its build runs beside another one, which tells what it does.
    let cmd = smoke::address_sanitizer(filter).env("CARGO_TERM_QUIET", "true").idle();
    Job::new("asan lb-common, lb-maglev".to_owned(), cmd)
}

fn kernel(profile_dir: &Path) -> Job<'_> {
    Job::of("kernel of Debian 13, emulated", || smoke::kernel(profile_dir))
}

fn doc_tests<'a>(filter: Option<&str>) -> Job<'a> {
    let cmd = host_cargo("test").args(["--doc", "--workspace", "--exclude", "lb-ebpf", "--exclude", "xtask"]);
    let cmd = if let Some(filter) = filter { cmd.args(["--", filter]) } else { cmd };
    Job::new("doc  all packages".to_owned(), cmd)
}

/// Removes namespaces that a failed test left behind. What it cannot remove is reported, but fails no test.
fn clean_lab(binaries: &HostBinaries) {
    let clean = Cmd::new(&binaries.lab).arg("clean").env("WEIR_BIN", &binaries.weir).cwd(&root()).root();
    if let Err(error) = clean.run() {
        eprintln!("    cannot clean up after the lab: {error:#}");
    }
}

/// Says which took longest.
fn longest(rows: &[Row]) {
    let seconds = |rows: &[&Row]| rows.iter().map(|row| row.time.as_secs_f64()).sum::<f64>();
    let mut by_time: Vec<&Row> = rows.iter().collect();
    by_time.sort_by_key(|row| std::cmp::Reverse(row.time));
    let all = seconds(&by_time);
    by_time.truncate(LONGEST);
    println!("\nLongest ({:.0} of {all:.0} s; some ran beside each other):", seconds(&by_time));
    for row in by_time {
        println!("{:>7.1} s  {}", row.time.as_secs_f64(), row.title);
    }
}

/// Prints the table and the closing line; fails if a test failed or none ran.
fn conclude(rows: &[Row]) -> Result<()> {
    let mut sum = Counts::default();
    let width = rows.iter().map(|row| row.title.len()).max().unwrap_or(0);
    println!("\n{:<width$}  passed  failed  ignored    time", "suite");
    for row in rows {
        let Row { title, counts, time } = row;
        if *counts == Counts::default() {
            continue;
        }
        println!(
            "{title:<width$}  {:>6}  {:>6}  {:>7}  {:>5.1} s",
            counts.passed,
            counts.failed,
            counts.ignored,
            time.as_secs_f64()
        );
        sum.add(counts);
    }
    longest(rows);
    for row in rows {
        for name in &row.counts.failed_names {
            println!("FAILED  {}  {name}", row.title);
        }
    }
    println!("\n{} passed, {} failed", sum.passed, sum.failed);
    if sum.failed > 0 {
        std::process::exit(1);
    }
    if sum.passed == 0 {
        bail!("no test ran: nothing matches that name or suite");
    }
    Ok(())
}
