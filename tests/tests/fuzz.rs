//! The fuzz targets on the inputs that golden packets and earlier finds make, and on a fixed number of damaged ones.

use anyhow::{Context, Result};
use lb_tests::{
    fuzz::{TARGETS, damaged, seeds, target},
    golden::numbers::Numbers,
};
use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

/// Damaged inputs for targets that stay in this process, and for those that ask the kernel.
const DAMAGED_PURE: usize = 30_000;
const DAMAGED_KERNEL: usize = 10_000;

/// Inputs that are committed: the smallest that libFuzzer found for each way through the code, and what once failed.
fn committed() -> Result<Vec<Vec<u8>>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let entries = fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).with_context(|| path.display().to_string())).collect()
}

/// Runs a target on an input; when it fails, keeps the input and says how to run it again.
fn try_input(name: &str, data: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| target(name)(data))).is_err() {
        let file = std::env::temp_dir().join(format!("weir-fuzz-{name}"));
        fs::write(&file, data).expect("writing the input");
        panic!("{name} fails; once more: cargo xtask fuzz {name} --replay {}", file.display());
    }
}

fn try_target(name: &str) -> Result<()> {
    let mut inputs = seeds();
    inputs.extend(committed()?);
    inputs.iter().for_each(|data| try_input(name, data));
    let mut numbers = Numbers(0x5eed);
    let needs_root = TARGETS.iter().any(|target| target.name == name && target.needs_root);
    for _ in 0..if needs_root { DAMAGED_KERNEL } else { DAMAGED_PURE } {
        try_input(name, &damaged(&inputs, &mut numbers));
    }
    Ok(())
}

#[test]
fn parse_withstands_damaged_frames() -> Result<()> {
    try_target("parse")
}

#[test]
fn process_withstands_damaged_frames_and_the_agent_undoes_it() -> Result<()> {
    try_target("process")
}

#[test]
fn the_agent_withstands_damaged_frames() -> Result<()> {
    try_target("agent")
}

#[test]
fn the_edge_program_does_what_the_pure_code_does() -> Result<()> {
    try_target("edge_program")
}

#[test]
fn the_agent_program_does_what_the_pure_code_does() -> Result<()> {
    try_target("agent_program")
}

/// A target without a test above would be tried by nobody.
#[test]
fn every_target_is_tried_here() {
    let source = include_str!("fuzz.rs");
    for target in TARGETS {
        assert!(source.contains(&format!("try_target(\"{}\")", target.name)), "{}", target.name);
    }
}
