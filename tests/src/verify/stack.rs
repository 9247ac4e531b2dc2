//! How much stack a program's calls take, as kernels count it.
//!
//! Every kernel gives a chain of calls 512 bytes, and counts a frame in steps of [`STEP`] bytes where the JIT is on. (Before
//! Linux 6.12 the steps were of 32 bytes.)

use anyhow::{Context, Result, anyhow};
use aya_obj::{Object, generated::bpf_insn};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of stack that a chain of calls may take (`MAX_BPF_STACK`).
pub const STACK_MAX: u32 = 512;
/// Steps in which a frame is counted.
pub const STEP: u32 = 16;

/// The frame pointer.
const FRAME: u8 = 10;
/// `BPF_PSEUDO_CALL`, `BPF_PSEUDO_FUNC`: in the source register, that the immediate value is another function's distance.
const PSEUDO_CALL: u8 = 1;
const PSEUDO_FUNC: u8 = 4;
/// Instructions: a call, a 64-bit constant in two slots, a move of a register, an addition of a constant.
const CALL: u8 = 0x85;
const LOAD_CONSTANT: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;
/// The class of an instruction, and classes: loads, stores of a constant, stores of a register, jumps.
const CLASS: u8 = 7;
const LOAD: u8 = 1;
const STORE: u8 = 2;
const STORE_REGISTER: u8 = 3;
const JUMP: u8 = 5;
const JUMP_32: u8 = 6;

/// The dearest chain of calls of a program.
#[derive(Debug, PartialEq, Eq)]
pub struct Chain {
    /// Bytes of each frame, from the program down, not rounded.
    pub frames: Vec<u32>,
    /// What they take together, each rounded up.
    pub bytes: u32,
}

/// One function of a linked program.
#[derive(Default)]
struct Function {
    frame: u32,
    calls: BTreeSet<usize>,
}

/// The dearest chain of each program of an object, by name, with frames rounded up to `step` bytes.
///
/// # Errors
/// It is no BPF object.
pub fn chains(object: &[u8], step: u32) -> Result<BTreeMap<String, Chain>> {
    let mut object = Object::parse(object).map_err(|error| anyhow!("{error}"))?;
    let sections = object.functions.keys().map(|(section, _)| *section).collect();
    object.relocate_calls(&sections).map_err(|error| anyhow!("{error}"))?;
    let mut result = BTreeMap::new();
    for (name, program) in &object.programs {
        let function = object.functions.get(&program.function_key()).context("a program without code")?;
        let functions = split(&function.instructions);
        result.insert(name.clone(), dearest(&functions, 0, step, 0)?);
    }
    Ok(result)
}

/// The functions that linked instructions consist of, by where they start.
fn split(code: &[bpf_insn]) -> BTreeMap<usize, Function> {
    let target = |at: usize| usize::try_from(at as i64 + 1 + i64::from(code[at].imm)).ok();
    let refers = |instruction: &bpf_insn| match instruction.code {
        CALL => instruction.src_reg() == PSEUDO_CALL,
        LOAD_CONSTANT => instruction.src_reg() == PSEUDO_FUNC,
        _ => false,
    };
    let references: Vec<(usize, usize)> =
        (0..code.len()).filter(|&at| refers(&code[at])).filter_map(|at| Some((at, target(at)?))).collect();
    let mut starts: BTreeSet<usize> = references.iter().map(|(_, to)| *to).collect();
    starts.insert(0);
    let ends = starts.iter().copied().skip(1).chain([code.len()]);
    let mut functions: BTreeMap<usize, Function> = (starts.iter().copied().zip(ends))
        .map(|(start, end)| {
            let calls = references.iter().filter(|(at, _)| (start..end).contains(at)).map(|(_, to)| *to);
            (start, Function { frame: frame(&code[start..end]), calls: calls.collect() })
        })
        .collect();
    functions.retain(|start, _| *start < code.len());
    functions
}

/// How far below the frame pointer a function reaches, by loads, stores, and addresses that it computes.
fn frame(code: &[bpf_insn]) -> u32 {
    let below = |offset: i32| offset.checked_neg().and_then(|depth| u32::try_from(depth).ok()).unwrap_or(0);
    let mut copies = BTreeSet::new();
    let mut deepest = 0;
    for instruction in code {
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let depth = match instruction.code & CLASS {
            LOAD if from == FRAME => below(instruction.off.into()),
            STORE | STORE_REGISTER if to == FRAME => below(instruction.off.into()),
            _ if instruction.code == ADD_CONSTANT && copies.contains(&to) => below(instruction.imm),
            _ => 0,
        };
        deepest = deepest.max(depth);
        match instruction.code & CLASS {
            STORE | STORE_REGISTER | JUMP | JUMP_32 => {}
            _ if instruction.code == MOVE && from == FRAME => drop(copies.insert(to)),
            _ => drop(copies.remove(&to)),
        }
    }
    deepest
}

/// Deepest nesting that the kernel allows (`MAX_CALL_FRAMES`); also what ends a recursion, which it refuses.
const CALLS_MAX: usize = 8;

fn dearest(functions: &BTreeMap<usize, Function>, start: usize, step: u32, depth: usize) -> Result<Chain> {
    let function = functions.get(&start).context("a call to nowhere")?;
    let mut below = Chain { frames: Vec::new(), bytes: 0 };
    if depth < CALLS_MAX {
        for &callee in &function.calls {
            let chain = dearest(functions, callee, step, depth + 1)?;
            if chain.bytes > below.bytes {
                below = chain;
            }
        }
    }
    below.frames.insert(0, function.frame);
    below.bytes += function.frame.max(1).next_multiple_of(step);
    Ok(below)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden::kernel::EDGE;

    fn instruction(code: u8, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
        let registers = bpf_insn::new_bitfield_1(to, from);
        bpf_insn { code, _bitfield_align_1: [], _bitfield_1: registers, off, imm }
    }

    #[test]
    fn frames_are_what_lies_below_the_frame_pointer() {
        assert_eq!(frame(&[instruction(0x7b, FRAME, 1, -24, 0), instruction(0x79, 1, FRAME, -40, 0)]), 40);
        let copy = instruction(MOVE, 2, FRAME, 0, 0);
        assert_eq!(frame(&[copy, instruction(ADD_CONSTANT, 2, 0, 0, -64)]), 64);
        assert_eq!(frame(&[copy, instruction(MOVE, 2, 1, 0, 0), instruction(ADD_CONSTANT, 2, 0, 0, -64)]), 0);
        assert_eq!(frame(&[instruction(ADD_CONSTANT, 1, 0, 0, -64), instruction(0x7b, 1, 2, -99, 0)]), 0);
    }

    #[test]
    fn a_chain_is_as_dear_as_its_dearest_call() {
        let function = |frame, calls: &[usize]| Function { frame, calls: calls.iter().copied().collect() };
        let functions =
            BTreeMap::from([(0, function(8, &[5, 9])), (5, function(100, &[])), (9, function(40, &[5]))]);
        let chain = dearest(&functions, 0, STEP, 0).unwrap();
        assert_eq!(chain, Chain { frames: vec![8, 40, 100], bytes: 16 + 48 + 112 });
    }

    #[test]
    fn the_edge_program_has_a_chain() {
        let chains = chains(EDGE, STEP).unwrap();
        assert!(chains["weir_edge"].frames.len() > 1, "{chains:?}");
    }
}
