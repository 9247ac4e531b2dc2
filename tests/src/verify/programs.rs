//! Every program of an object, handed to the kernel by itself.

use super::millis;
use anyhow::{Context, Result};
use aya::{
    EbpfLoader, VerifierLogLevel,
    programs::{Program, ProgramError},
};
use serde::Serialize;
use std::{error::Error, path::Path, time::Instant};

/// The verifier's reason and its figures. With every instruction that it walked, a refusal takes minutes to tell under
/// software emulation.
const LOG_LEVEL: VerifierLogLevel = VerifierLogLevel::STATS;
/// Most lines of the verifier's log that are told, from its end.
const LOG_LINES_MAX: usize = 12;
/// How the verifier's summary begins, which says nothing about why.
const SUMMARY: &str = "processed ";

/// What the kernel said to a program.
#[derive(Debug, Serialize)]
pub struct Loaded {
    /// File name of the object.
    pub object: String,
    /// Name of the program; empty when the object's maps were refused already.
    pub program: String,
    /// Why it was refused, if it was.
    pub error: Option<String>,
    /// Instructions that the verifier walked, where the kernel tells (5.16 and later).
    pub verified: Option<u32>,
    /// Bytes of machine code; 0 where there is no JIT compiler.
    pub machine_code: u32,
    /// How long the kernel took for it, in milliseconds.
    pub ms: u64,
}

/// Loads every program of the object in a file, and lets go of it again.
///
/// # Errors
/// The file is no BPF object. What the kernel refuses is in the result.
pub fn load_object(path: &Path) -> Result<Vec<Loaded>> {
    let object = path.file_name().context("no file name")?.to_string_lossy().into_owned();
    let loaded = |program: &str, begin: Instant, error| Loaded {
        object: object.clone(),
        program: program.to_owned(),
        error,
        verified: None,
        machine_code: 0,
        ms: millis(begin),
    };
    let begin = Instant::now();
    let mut ebpf = match EbpfLoader::new().verifier_log_level(LOG_LEVEL).load_file(path) {
        Ok(ebpf) => ebpf,
        Err(error) => return Ok(vec![loaded("", begin, Some(causes(&error)))]),
    };
    let mut names: Vec<String> = ebpf.programs().map(|(name, _)| name.to_owned()).collect();
    names.sort();
    let mut all = Vec::new();
    for name in names {
        let program = ebpf.program_mut(&name).context("a program that was there")?;
        let begin = Instant::now();
        let error = load(program).err().map(|error| refusal(&error));
        let mut one = loaded(&name, begin, error);
        if let Ok(info) = program.info() {
            one.verified = info.verified_instruction_count();
            one.machine_code = info.size_jitted();
        }
        all.push(one);
    }
    Ok(all)
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Why a program was refused: the end of the verifier's log, where there is one.
fn refusal(error: &ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else {
        return causes(error);
    };
    let log = verifier_log.to_string();
    let lines: Vec<&str> =
        log.lines().filter(|line| !line.trim().is_empty() && !line.starts_with(SUMMARY)).collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES_MAX)..];
    if last.is_empty() { io_error.to_string() } else { format!("{io_error}: {}", last.join("\n")) }
}

fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
