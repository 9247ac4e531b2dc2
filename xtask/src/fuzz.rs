//! `cargo xtask fuzz`: hands the fuzz targets to libFuzzer, for as long as one wants.
//!
//! What cargo-fuzz does, without having to install it: libFuzzer comes with crate libfuzzer-sys, and the stable compiler
//! takes the flags once it is told not to mind.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    build, setup,
    shell::{Cmd, require_root_or_sudo, step},
    workspace::{host_cargo, root},
};

/// The only target that the sanitizer's runtime is at hand for without further installation.
pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";
/// AddressSanitizer; with RUSTC_BOOTSTRAP, as the flag is not stable.
pub(crate) const ADDRESS_SANITIZER: &str = "-Zsanitizer=address";
/// Coverage as libFuzzer wants it: counters at each edge, the table of their places, and what is compared.
const COVERAGE: [&str; 6] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
];
/// What is instrumented: the decisions, and where their generic code is compiled. The rest (a daemon, a terminal, TLS) would take most of
/// the time to build, and its counters most of the time of each input, and be reached by none.
const INSTRUMENTED: [&str; 4] = ["lb-maglev", "lb-common", "lb-tests", "lb-fuzz"];
/// Longest input, in bytes: four frames.
const INPUT_MAX: &str = "-max_len=8300";
/// An input that takes longer is a find, in seconds.
const INPUT_LIMIT: &str = "-timeout=10";
/// Memory limit in MB; AddressSanitizer takes its share.
const MEMORY_LIMIT: &str = "-rss_limit_mb=4096";
/// Inputs that are committed.
const COMMITTED: &str = "tests/fuzz/corpus";

/// Fuzz parse, process() and the agent, and the XDP programs against the pure code.
///
/// With libFuzzer, under AddressSanitizer. `cargo xtask test` runs the same targets on the committed inputs and a fixed number
/// of damaged ones; this here goes on searching. What was found interesting stays in target/fuzz/corpus for the next time.
/// A find is kept in target/fuzz/finds, and the exit status is not 0. (Miri is not used: it needs rustup's nightly with the
/// component miri, and the code under test keeps its `unsafe` in one file; with those at hand,
/// `cargo +nightly miri test -p lb-common -p lb-maglev`.)
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  cargo xtask fuzz                          every target, a minute each\n  \
                        cargo xtask fuzz edge_program --time 1h   the XDP program against the pure code\n  \
                        cargo xtask fuzz process --replay FILE    once more what was found"
)]
pub(crate) struct Args {
    /// Only this target
    #[arg(value_enum)]
    target: Option<Target>,
    /// How long for each target: seconds, or a number with s, m or h
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = seconds)]
    time: u64,
    /// Only run the target on this input
    #[arg(long, value_name = "FILE", requires = "target")]
    replay: Option<PathBuf>,
    /// Afterwards, add to tests/fuzz/corpus what reaches code that nothing there reaches
    #[arg(long)]
    keep: bool,
}

/// A target, as in tests/src/fuzz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Target {
    /// What is this frame?
    Parse,
    /// The edge's decisions, and that the agent gets back out what came in
    Process,
    /// The agent's decisions
    Agent,
    /// The edge's XDP program against the pure code (needs root)
    EdgeProgram,
    /// The agent's XDP program against the pure code (needs root)
    AgentProgram,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Process => "process",
            Self::Agent => "agent",
            Self::EdgeProgram => "edge_program",
            Self::AgentProgram => "agent_program",
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    require_root_or_sudo()?;
    setup::ensure_fuzzer()?;
    build::set_up_and_build_bpf()?;
    let programs = step("build the fuzz targets", build_targets)?;
    if let (Some(target), Some(file)) = (args.target, &args.replay) {
        // Where cargo was started, for a path that is relative to there.
        let file = std::path::absolute(file).context("no current folder")?;
        return program(&programs, target).arg(file).run().context("the input still fails");
    }
    let targets = args.target.as_ref().map_or(Target::value_variants(), std::slice::from_ref);
    let mut found = Vec::new();
    for &target in targets {
        if let Err(error) = fuzz(&programs, target, args.time) {
            eprintln!("{error:#}");
            found.push(target.name());
        }
        if args.keep {
            keep(&programs, target)?;
        }
    }
    if !found.is_empty() {
        bail!("fuzzing found something in {}", found.join(", "));
    }
    println!("fuzz: nothing found");
    Ok(())
}

/// Builds all targets and returns the folder that they are in.
fn build_targets() -> Result<PathBuf> {
    let dir = root().join("target/fuzz");
    let flags: Vec<String> =
        COVERAGE.into_iter().chain([ADDRESS_SANITIZER]).map(|flag| format!("{flag:?}")).collect();
    let of_package = |name: &str| format!("profile.release.package.{name}.rustflags=[{}]", flags.join(", "));
    let settings = INSTRUMENTED.into_iter().flat_map(|name| ["--config".to_owned(), of_package(name)]);
    host_cargo("build")
        .args(["--release", "--target", HOST, "--manifest-path", "tests/fuzz/Cargo.toml", "--target-dir"])
        .arg(&dir)
        .arg("-Zprofile-rustflags")
        .args(settings)
        .env("RUSTC_BOOTSTRAP", "1")
        .run()?;
    Ok(dir.join(HOST).join("release"))
}

fn program(programs: &Path, target: Target) -> Cmd {
    // Leaks: the loaded XDP programs are kept until the end, on purpose.
    let cmd = Cmd::new(programs.join(target.name())).cwd(&root()).env("ASAN_OPTIONS", "detect_leaks=0");
    match target {
        Target::EdgeProgram | Target::AgentProgram => cmd.root(),
        Target::Parse | Target::Process | Target::Agent => cmd,
    }
}

fn folder(name: &str) -> Result<PathBuf> {
    let dir = root().join("target/fuzz").join(name);
    fs::create_dir_all(&dir).with_context(|| format!("cannot create {}", dir.display()))?;
    Ok(dir)
}

fn fuzz(programs: &Path, target: Target, seconds: u64) -> Result<()> {
    let name = target.name();
    let (corpus, seeds, finds) = (folder(&format!("corpus/{name}"))?, folder("seeds")?, folder("finds")?);
    let prefix = format!("{}/{name}-", finds.display());
    let fuzz = program(programs, target)
        .env("WEIR_FUZZ_SEEDS", &seeds)
        .args([INPUT_MAX, INPUT_LIMIT, MEMORY_LIMIT, "-print_final_stats=1"])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={prefix}"))
        .args([&corpus, &root().join(COMMITTED), &seeds]);
    step(&format!("fuzz {name}"), || fuzz.run()).with_context(|| {
        format!(
            "{name} found something: libFuzzer names the input's file above, {prefix}...\n\
             Once more: cargo xtask fuzz {name} --replay FILE"
        )
    })
}

/// Adds to the committed inputs those of the last runs that reach something new.
fn keep(programs: &Path, target: Target) -> Result<()> {
    let corpus = folder(&format!("corpus/{}", target.name()))?;
    let merge = program(programs, target).args(["-merge=1", INPUT_MAX, COMMITTED]).arg(corpus);
    step(&format!("keep what {} found", target.name()), || merge.run())
}

fn seconds(text: &str) -> Result<u64, String> {
    let (number, factor) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(number) if text.ends_with('m') => (number, 60),
        Some(number) if text.ends_with('h') => (number, 3600),
        Some(number) => (number, 1),
        None => (text, 1),
    };
    match number.parse::<u64>() {
        Ok(number @ 1..=1_000_000) => Ok(number * factor),
        _ => Err("give seconds, or a number with s, m or h, such as 90s or 2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_have_units() {
        for (text, expected) in [("60", 60), ("60s", 60), ("5m", 300), ("2h", 7200)] {
            assert_eq!(seconds(text), Ok(expected), "{text}");
        }
        for text in ["", "s", "0", "-1", "1d", "1.5h", "9999999"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_target_has_its_program() {
        let manifest = fs::read_to_string(root().join("tests/fuzz/Cargo.toml")).unwrap();
        for target in Target::value_variants() {
            assert!(manifest.contains(&format!("name = \"{}\"\n", target.name())), "{target:?}");
        }
        assert_eq!(manifest.matches("[[bin]]").count(), Target::value_variants().len());
    }
}
