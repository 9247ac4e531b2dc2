//! Short runs, inside `cargo xtask test`, of what has a verb or a build of its own: AddressSanitizer, and one real kernel.

use std::path::Path;

use anyhow::Result;

use crate::{
    fuzz::{ADDRESS_SANITIZER, HOST},
    libtest::Counts,
    shell::Cmd,
    verify,
    workspace::{host_cargo, root},
};

/// Packages whose tests run under AddressSanitizer: those that handle frames and tables, here and in the kernel.
const SANITIZED: [&str; 2] = ["lb-common", "lb-maglev"];
/// Cases of each property test under AddressSanitizer, unless the environment says otherwise: it is several times as slow.
const SANITIZED_CASES: &str = "32";

/// The tests under AddressSanitizer. The flag is not stable, so the compiler is told not to mind; the standard library it
/// comes with is not instrumented, which costs only what happens inside that.
pub(crate) fn address_sanitizer(filter: Option<&str>) -> Cmd {
    let mut cmd = host_cargo("test")
        .args(["--lib", "--tests", "--no-fail-fast", "--target", HOST, "--target-dir"])
        .arg(root().join("target/asan"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTFLAGS", ADDRESS_SANITIZER);
    for package in SANITIZED {
        cmd = cmd.args(["--package", package]);
    }
    if std::env::var_os("PROPTEST_CASES").is_none() {
        cmd = cmd.env("PROPTEST_CASES", SANITIZED_CASES);
    }
    if let Some(filter) = filter { cmd.args(["--", filter]) } else { cmd }
}

/// Loads every program and runs the golden packets on the kernel of Debian 13, the oldest that is supported. Left out, and counted as ignored, where no
/// emulator or kernel is to be had.
pub(crate) fn kernel(profile_dir: &Path) -> Result<Counts> {
    let release = verify::Release::Trixie;
    let counts = match verify::prepare(release) {
        Err(error) => {
            eprintln!("    LEFT OUT: {}: {error:#}", release.title());
            Counts { ignored: 1, ..Counts::default() }
        }
        Ok(kernel) => {
            let outcome = verify::smoke(release, &kernel, profile_dir)?;
            let problems = outcome.problems();
            problems.iter().for_each(|problem| eprintln!("    {}: {problem}", release.title()));
            Counts {
                passed: outcome.passed(),
                failed: problems.len() as u64,
                ignored: 0,
                failed_names: problems
                    .iter()
                    .map(|p| p.lines().next().unwrap_or_default().to_owned())
                    .collect(),
            }
        }
    };
    Ok(counts)
}
