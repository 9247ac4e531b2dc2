//! The programs with tests in them: what cargo built, how each is run, and what it may run beside.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;

use crate::{
    build::HostBinaries,
    shell::{Cmd, find_program},
    workspace::{Metadata, bpf_dir, host_cargo},
};

/// Packages whose tests create namespaces or load XDP programs.
const ROOT_PACKAGES: [&str; 2] = ["lb-tests", "lb-userspace"];
/// The package of the lab, whose integration tests are the end-to-end tests.
const LAB_PACKAGE: &str = "lb-tests";
/// End-to-end tests of one program at a time: each raises dozens of servers.
const E2E_THREADS: &str = "1";
/// End-to-end tests that measure, flood, or tell a fault from a slow machine within milliseconds: nothing else runs meanwhile.
const ALONE: [&str; 5] = ["e2e_bfd", "e2e_failures", "e2e_flood", "e2e_steering", "e2e_store"];
/// A test binary that runs longer is stopped and counted as failed.
const BINARY_LIMIT_S: u32 = 1800;

/// One program with tests in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TestBinary {
    pub(super) package: String,
    /// Name of the cargo target: the package's library, a binary, or a file in tests/.
    pub(super) target: String,
    pub(super) suite: &'static str,
    executable: PathBuf,
    package_dir: PathBuf,
}

/// What a program may run beside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// What needs few resources but its time: its tests run beside each other already.
    InTurn,
    /// Other programs.
    Beside,
    /// Nothing.
    Alone,
}

pub(super) fn selects(wanted: Option<&str>, suite: &str, target: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == suite || wanted == target)
}

/// Compiles the binaries and tests of all default members and lists the tests of the wanted suite, unit tests first.
pub(super) fn build_tests(metadata: &Metadata, suite: Option<&str>) -> Result<Vec<TestBinary>> {
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
    pub(super) fn command(&self, filter: Option<&str>, binaries: &HostBinaries) -> Cmd {
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

    /// How the closing table calls it.
    pub(super) fn title(&self) -> String {
        format!("{} {}/{}", self.suite, self.package, self.target)
    }

    pub(super) fn place(&self) -> Place {
        match self.suite {
            "unit" => Place::InTurn,
            _ if ALONE.contains(&self.target.as_str()) => Place::Alone,
            _ => Place::Beside,
        }
    }
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
    fn whatever_runs_alone_is_there() {
        for target in ALONE {
            let file = crate::workspace::root().join("tests/tests").join(target).with_extension("rs");
            assert!(file.is_file(), "{}", file.display());
        }
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
