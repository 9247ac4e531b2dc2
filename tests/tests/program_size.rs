//! What each program costs the verifier and the instruction cache. The figures are exact for one compiler and one kernel; the
//! bounds leave room for others, and for growth that is meant.

use anyhow::{Context, Result, ensure};
use lb_tests::verify::{
    Loaded, load_object,
    stack::{STACK_MAX, STEP, chains},
};
use std::{fs, path::PathBuf};

/// Instructions that the verifier may walk, of the million at which every kernel gives up: 344 thousand for the edge program on Linux
/// 6.18.
const VERIFIED_MAX: u32 = 600_000;
/// As [`VERIFIED_MAX`], for the agent: 23 thousand.
const VERIFIED_AGENT_MAX: u32 = 100_000;
/// Bytes of machine code: 59 thousand for the edge program, of which a packet on the usual way meets a part; 62 thousand where somebody
/// watches.
const MACHINE_CODE_MAX: u32 = 65_536;
/// As [`MACHINE_CODE_MAX`], for the agent: 5.3 thousand.
const MACHINE_CODE_AGENT_MAX: u32 = 16_384;

/// Every object.
fn objects() -> Result<Vec<PathBuf>> {
    let folder = env!("WEIR_BPF_DIR");
    let entries = fs::read_dir(folder).with_context(|| folder.to_owned())?;
    let mut objects: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    objects.retain(|path| path.is_file() && path.extension().is_none());
    objects.sort();
    Ok(objects)
}

/// Every program of every object.
fn programs() -> Result<Vec<Loaded>> {
    let mut all = Vec::new();
    for object in objects()? {
        all.extend(load_object(&object)?);
    }
    Ok(all)
}

#[test]
fn no_chain_of_calls_takes_more_stack_than_there_is() -> Result<()> {
    for object in objects()? {
        for (name, chain) in chains(&fs::read(&object)?, STEP)? {
            println!("{name}: frames {:?}, {} of {STACK_MAX} bytes", chain.frames, chain.bytes);
            let bytes = chain.bytes;
            ensure!(bytes <= STACK_MAX, "{name}: {bytes} bytes of stack, frames {:?}", chain.frames);
        }
    }
    Ok(())
}

#[test]
fn programs_stay_small() -> Result<()> {
    let all = programs()?;
    for name in ["weir_edge", "weir_agent"] {
        ensure!(all.iter().any(|program| program.program == name), "{name} is in no object");
    }
    let mut problems = Vec::new();
    for Loaded { object, program, error, verified, machine_code, .. } in all {
        let name = format!("{object}/{program}");
        println!("{name}: {verified:?} instructions walked, {machine_code} bytes of machine code");
        let (verified_max, machine_code_max) = match object.as_str() {
            "agent" => (VERIFIED_AGENT_MAX, MACHINE_CODE_AGENT_MAX),
            _ => (VERIFIED_MAX, MACHINE_CODE_MAX),
        };
        // Kernels before 5.16 do not tell.
        let verified = verified.unwrap_or(0);
        if let Some(error) = error {
            problems.push(format!("{name} is refused: {error}"));
        } else if verified > verified_max {
            problems.push(format!("{name}: {verified} instructions walked, at most {verified_max} wanted"));
        } else if machine_code > machine_code_max {
            problems.push(format!("{name}: {machine_code} bytes, at most {machine_code_max} wanted"));
        }
    }
    ensure!(problems.is_empty(), "{}", problems.join("\n"));
    Ok(())
}
