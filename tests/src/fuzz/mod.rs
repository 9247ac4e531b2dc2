//! The fuzz targets: what each does with an input, whoever makes that up. A target panics when something is wrong.
//!
//! `tests/fuzz` hands them to libFuzzer (`cargo xtask fuzz`); `tests/tests/fuzz.rs` runs them on the committed inputs and
//! on a fixed number of damaged ones. All targets read inputs alike, so that they share a corpus: see [`Input`].

mod input;
mod targets;

pub use input::{Input, damaged, seeds};

use std::{env, fs, path::PathBuf};

/// Variable that names a folder which is to hold the seeds when fuzzing begins.
const SEEDS_FOLDER: &str = "WEIR_FUZZ_SEEDS";

/// A fuzz target.
pub struct Target {
    /// Its name, which is also that of its program in `tests/fuzz`.
    pub name: &'static str,
    /// What it does with an input.
    pub run: fn(&[u8]),
    /// What it does before the first input, whose time is limited: the same again costs nothing.
    prepare: fn(),
    /// Whether it loads XDP programs and so needs root.
    pub needs_root: bool,
}

/// All fuzz targets.
pub const TARGETS: [Target; 5] = [
    Target { name: "parse", run: targets::parse, prepare: || {}, needs_root: false },
    Target { name: "process", run: targets::process, prepare: targets::compile, needs_root: false },
    Target { name: "agent", run: targets::agent, prepare: targets::compile, needs_root: false },
    Target {
        name: "edge_program",
        run: targets::edge_program,
        prepare: targets::load_edge,
        needs_root: true,
    },
    Target {
        name: "agent_program",
        run: targets::agent_program,
        prepare: targets::load_agent,
        needs_root: true,
    },
];

fn find(name: &str) -> &'static Target {
    TARGETS.iter().find(|target| target.name == name).expect("a fuzz target of this name")
}

/// What the target of this name does with an input.
///
/// # Panics
/// There is none.
#[must_use]
pub fn target(name: &str) -> fn(&[u8]) {
    find(name).run
}

/// Gets the target of this name ready, and writes the seeds if the environment names a folder for them. A fuzzer calls it before it sets
/// its alarm clock: that interrupts the kernel while it verifies a program, which it then refuses.
///
/// # Panics
/// There is none, its programs cannot be loaded, or seeds cannot be written.
pub fn prepare(name: &str) {
    write_seeds();
    (find(name).prepare)();
}

/// Writes the seeds into the folder that the environment names, if it names one: what a fuzzer begins with are the golden packets as they
/// are now.
fn write_seeds() {
    let Some(folder) = env::var_os(SEEDS_FOLDER).map(PathBuf::from) else { return };
    for (number, seed) in seeds().iter().enumerate() {
        fs::write(folder.join(format!("golden-{number:03}")), seed).expect("writing a seed");
    }
}
