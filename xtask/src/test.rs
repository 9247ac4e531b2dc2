//! `cargo xtask test`: sets up, builds, runs every test binary and the documentation tests, and sums up.
//!
//! The binaries are run by us and not by `cargo test`, so that only those that need root get it, and cargo itself never
//! runs under sudo.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::Child,
    sync::mpsc::{self, RecvTimeoutError},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    build::{self, HostBinaries},
    dist,
    libtest::Counts,
    setup,
    shell::{Cmd, find_program, require_root_or_sudo, step},
    smoke,
    workspace::{Metadata, bpf_dir, host_cargo, root},
};

/// Packages whose tests create namespaces or load XDP programs.
const ROOT_PACKAGES: [&str; 2] = ["lb-tests", "lb-userspace"];
/// The package of the lab, whose integration tests are the end-to-end tests.
const LAB_PACKAGE: &str = "lb-tests";
/// End-to-end tests at a time: each raises dozens of servers, and some measure time.
const E2E_THREADS: &str = "1";
/// A test binary that runs longer is stopped and counted as failed.
const BINARY_LIMIT_S: u32 = 1800;
/// After so long without output we say that we are still here.
const SILENCE: Duration = Duration::from_secs(30);

/// Set up, build and run every test.
///
/// Unit, property and golden tests, documentation tests, and the end-to-end tests in network namespaces (these need root:
/// sudo is used otherwise); tests of the packet code once more under AddressSanitizer; the XDP programs on the emulated
/// kernel of Debian 13 (`cargo xtask verify` tries more); the Debian package. Ends with a table of times and the line `N passed, N failed`. The exit status is not 0 when a
/// test failed or none ran.
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

/// One program with tests in it.
#[derive(Debug, PartialEq, Eq)]
struct TestBinary {
    package: String,
    /// Name of the cargo target: the package's library, a binary, or a file in tests/.
    target: String,
    suite: &'static str,
    executable: PathBuf,
    package_dir: PathBuf,
}

/// A line of the closing table.
struct Row {
    title: String,
    counts: Counts,
    time: Duration,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    require_root_or_sudo()?;
    if selects(args.suite.as_deref(), "e2e", "e2e_api") {
        setup::python::ensure()?;
    }
    let metadata = build::set_up_and_build_bpf()?;
    let tests = step("build binaries and tests", || build_tests(&metadata, args.suite.as_deref()))?;
    let binaries = HostBinaries::in_dir(&metadata.profile_dir(false))?;
    let mut rows = Vec::new();
    for test in &tests {
        rows.push(run_binary(test, args, &binaries)?);
    }
    if selects(args.suite.as_deref(), "doc", "doc") {
        rows.push(run_doc_tests(args.filter.as_deref())?);
    }
    // Both take a build or a boot: not for a few tests that someone chose by name.
    let is_chosen = |suite| match args.suite.as_deref() {
        Some(wanted) => wanted == suite,
        None => args.filter.is_none(),
    };
    if is_chosen("asan") {
        let cmd = smoke::address_sanitizer(args.filter.as_deref());
        rows.push(run_and_count("asan lb-common, lb-maglev".to_owned(), &cmd)?);
    }
    if is_chosen("kernel") {
        let title = "kernel of Debian 13, emulated";
        let (counts, time) = step(title, || smoke::kernel(&metadata.profile_dir(false)))?;
        rows.push(Row { title: title.to_owned(), counts, time });
    }
    if is_chosen("package") {
        let title = "the Debian package";
        let (counts, time) = step(title, || dist::smoke(&binaries.weir))?;
        rows.push(Row { title: title.to_owned(), counts, time });
    }
    if tests.iter().any(|test| test.suite == "e2e") {
        clean_lab(&binaries);
    }
    conclude(&rows)
}

fn selects(wanted: Option<&str>, suite: &str, target: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == suite || wanted == target)
}

/// Compiles the binaries and tests of all default members and lists the tests of the wanted suite, unit tests first.
fn build_tests(metadata: &Metadata, suite: Option<&str>) -> Result<Vec<TestBinary>> {
    // Together, because apart they would want some dependencies with other features, that is, twice.
    let build =
        host_cargo("build").args(["--bins", "--tests", "--message-format", "json-render-diagnostics"]);
    let messages = build.announced_read()?;
    let mut tests: Vec<TestBinary> =
        messages.lines().filter_map(|line| TestBinary::from_message(line, metadata)).collect();
    tests.retain(|test| selects(suite, test.suite, &test.target));
    tests.sort_by_key(|test| (test.suite != "unit", test.package.clone(), test.target.clone()));
    Ok(tests)
}

impl TestBinary {
    /// Reads one of cargo's messages; `None` for those that are about something else.
    fn from_message(line: &str, metadata: &Metadata) -> Option<Self> {
        let json: Value = serde_json::from_str(line).ok()?;
        if json["reason"] != "compiler-artifact" || json["profile"]["test"] != true {
            return None;
        }
        let executable = PathBuf::from(json["executable"].as_str()?);
        let manifest = Path::new(json["manifest_path"].as_str()?);
        let package = metadata.packages.iter().find(|package| manifest.parent() == Some(&package.dir))?;
        let is_integration = json["target"]["kind"].as_array()?.iter().any(|kind| kind == "test");
        Some(Self {
            package: package.name.clone(),
            target: json["target"]["name"].as_str()?.to_owned(),
            suite: if is_integration && package.name == LAB_PACKAGE { "e2e" } else { "unit" },
            executable,
            package_dir: package.dir.clone(),
        })
    }

    /// The command that runs this binary as `cargo test` would, with root if it needs that, and with a time limit.
    fn command(&self, filter: Option<&str>, binaries: &HostBinaries) -> Cmd {
        let cmd = match find_program("timeout") {
            // In the foreground, so that Ctrl-C reaches the tests.
            Some(timeout) => {
                Cmd::new(timeout).args(["--foreground", &format!("{BINARY_LIMIT_S}s")]).arg(&self.executable)
            }
            None => Cmd::new(&self.executable),
        };
        let mut cmd = cmd
            .args(filter)
            .cwd(&self.package_dir)
            .env("CARGO_MANIFEST_DIR", &self.package_dir)
            .env("WEIR_BIN", &binaries.weir)
            .env("WEIR_BPF_DIR", bpf_dir());
        if self.suite == "e2e" && std::env::var_os("RUST_TEST_THREADS").is_none() {
            cmd = cmd.args(["--test-threads", E2E_THREADS]);
        }
        if ROOT_PACKAGES.contains(&self.package.as_str()) { cmd.root() } else { cmd }
    }
}

fn run_binary(test: &TestBinary, args: &Args, binaries: &HostBinaries) -> Result<Row> {
    let title = format!("{} {}/{}", test.suite, test.package, test.target);
    run_and_count(title, &test.command(args.filter.as_deref(), binaries))
}

fn run_doc_tests(filter: Option<&str>) -> Result<Row> {
    let cmd = host_cargo("test").args(["--doc", "--workspace", "--exclude", "lb-ebpf", "--exclude", "xtask"]);
    let cmd = if let Some(filter) = filter { cmd.args(["--", filter]) } else { cmd };
    run_and_count("doc  all packages".to_owned(), &cmd)
}

/// Runs a program that reports as libtest does, showing and reading what it prints.
fn run_and_count(title: String, cmd: &Cmd) -> Result<Row> {
    eprintln!("==> {title}");
    let start = Instant::now();
    let mut child = cmd.spawn_piped()?;
    let output = relay(&mut child, &title)?;
    let status = child.wait().with_context(|| format!("cannot wait for {title}"))?;
    let counts = Counts::read(&output, status.success());
    if !status.success() {
        eprintln!("    {title}: {status}");
    }
    Ok(Row { title, counts, time: start.elapsed() })
}

/// Passes a child's output on as it comes and returns all of it; speaks up when the child is silent for long.
fn relay(child: &mut Child, title: &str) -> Result<String> {
    let mut stdout = child.stdout.take().context("the child's output is not piped")?;
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(16);
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut output = Vec::new();
    loop {
        match receiver.recv_timeout(SILENCE) {
            Ok(chunk) => {
                let mut ours = std::io::stdout().lock();
                ours.write_all(&chunk)
                    .and_then(|()| ours.flush())
                    .context("cannot write to our own output")?;
                output.extend(chunk);
            }
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("    {title}: running for {} s", start.elapsed().as_secs());
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    reader.join().map_err(|_| anyhow::anyhow!("the thread that reads the output of {title} panicked"))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

/// Removes namespaces that a failed test left behind. What it cannot remove is reported, but fails no test.
fn clean_lab(binaries: &HostBinaries) {
    let clean = Cmd::new(&binaries.lab).arg("clean").env("WEIR_BIN", &binaries.weir).cwd(&root()).root();
    if let Err(error) = clean.run() {
        eprintln!("    cannot clean up after the lab: {error:#}");
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::Package;

    fn metadata() -> Metadata {
        let package = |name: &str| Package {
            name: name.to_owned(),
            dir: PathBuf::from("/w").join(name),
            bins: Vec::new(),
            dependencies: Vec::new(),
        };
        Metadata { target_dir: "/t".into(), packages: vec![package("lb-tests"), package("lb-common")] }
    }

    fn message(package: &str, kind: &str, test: bool) -> String {
        format!(
            r#"{{"reason":"compiler-artifact","manifest_path":"/w/{package}/Cargo.toml","executable":"/t/x",
            "target":{{"kind":["{kind}"],"name":"t"}},"profile":{{"test":{test}}}}}"#
        )
        .replace('\n', "")
    }

    #[test]
    fn only_the_labs_integration_tests_are_end_to_end() {
        let suite = |package, kind| {
            TestBinary::from_message(&message(package, kind, true), &metadata()).map(|test| test.suite)
        };
        assert_eq!(suite("lb-tests", "test"), Some("e2e"));
        assert_eq!(suite("lb-tests", "lib"), Some("unit"));
        assert_eq!(suite("lb-common", "test"), Some("unit"));
        assert_eq!(suite("unheard-of", "test"), None);
    }

    #[test]
    fn ordinary_artifacts_are_no_tests() {
        assert_eq!(TestBinary::from_message(&message("lb-common", "lib", false), &metadata()), None);
        assert_eq!(TestBinary::from_message("not json", &metadata()), None);
    }

    #[test]
    fn a_suite_is_chosen_by_its_name_or_by_a_target() {
        assert!(selects(None, "e2e", "golden"));
        assert!(selects(Some("golden"), "e2e", "golden"));
        assert!(selects(Some("e2e"), "e2e", "golden"));
        assert!(!selects(Some("unit"), "e2e", "golden"));
    }
}
