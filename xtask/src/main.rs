//! Developer commands: `cargo xtask <verb>`. Each verb has its own file; this one only dispatches.

mod bench;
mod borders;
mod build;
mod demo;
mod dist;
mod fuzz;
mod libtest;
mod lint;
mod running_kernel;
mod setup;
mod shell;
mod smoke;
mod source;
mod test;
mod toolchain;
mod verify;
mod workspace;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, show, test and measure Weir.
#[derive(Parser)]
#[command(
    name = "cargo xtask",
    bin_name = "cargo xtask",
    after_help = "New here? `cargo xtask demo` does everything that it needs by itself.\n\
                  Commands that must be root (apt, namespaces, XDP) use sudo when you are not, and say so."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Install what building and testing need; looks first, so a second run does nothing
    Setup(setup::Args),
    /// Compile the XDP programs, then the `weir` binary and the lab
    Build(build::Args),
    /// Raise the lab in network namespaces, cut a rack and a zone, and watch traffic leave them
    Demo(demo::Args),
    /// Set up, build and run every test; ends with `N passed, N failed`
    Test(test::Args),
    /// Formatting, clippy, a warning-free BPF build, and the borders between the parts
    Lint,
    /// Search for inputs that break parse, process() or the agent, or on which program and pure code differ
    Fuzz(fuzz::Args),
    /// Build the Debian package; `--try` installs, upgrades and removes it in a clean root
    Dist(dist::Args),
    /// Boot real kernels and try every XDP program and the golden packets on each
    Verify(verify::Args),
    /// Measure, print a table and write target/bench/NAME.json
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().verb {
        Verb::Setup(args) => setup::run(&args),
        Verb::Build(args) => build::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Test(args) => test::run(&args),
        Verb::Lint => lint::run(),
        Verb::Fuzz(args) => fuzz::run(&args),
        Verb::Dist(args) => dist::run(&args),
        Verb::Verify(args) => verify::run(&args),
        Verb::Bench(args) => bench::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Not anyhow's own report, which adds a backtrace of xtask when RUST_BACKTRACE is set for the tests.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
