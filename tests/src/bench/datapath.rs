//! Nanoseconds per packet of the edge's XDP program, by `BPF_PROG_TEST_RUN`.
//!
//! The method is DESIGN section 10's: a wrapper program writes the next flow's tuple, calls the datapath, and takes the
//! encapsulation off again, so that each of a million repeats gets a fresh packet of a real mix of flows; the same wrapper
//! around nothing is measured beside it and subtracted. Short runs of the empty wrapper before and after each measurement
//! tell whether the machine changed its speed meanwhile; such measurements are dropped.

mod cases;

use super::Measurement;
use crate::golden::{
    self,
    kernel::{BENCH, Kernel},
};
use anyhow::{Context, Result, ensure};
use cases::{Case, Kind, State, configuration, frame};
use lb_common::abi::{
    admission::Admission,
    bench::{BENCH_IPV6, BenchRoot},
    pod::Pod,
};
use lb_userspace::plan::image::Image;

/// Packets of one measurement.
const REPEAT: u32 = 1_000_000;
/// Packets of the short runs around it.
const BRACKET: u32 = 100_000;
/// Measurements of each case that count.
const RUNS: usize = 9;
/// Measurements of each case that are tried for that.
const ATTEMPTS: usize = 36;
/// How much slower than the fastest bracket a measurement's brackets may be, in percent.
const MAX_SLOWER_PERCENT: u64 = 10;
const BODY: &str = "weir_bench";
const EMPTY: &str = "weir_bench_empty";

/// Measures every case.
///
/// # Errors
/// What the kernel says; a machine that never stays at one speed for the time of a measurement.
pub fn datapath() -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    let mut size = None;
    let mut fastest = u64::MAX;
    for (setup, cases) in cases::all() {
        let image = golden::image(&configuration(setup))?;
        let kernel = Kernel::load(BENCH, &[BODY, EMPTY], &image, setup.flow_entries)?;
        let mut bench = Bench { kernel, fastest };
        for case in cases {
            eprintln!("bench datapath: {}", case.name);
            results.push(bench.measure(&image, &case).with_context(|| case.name.clone())?);
        }
        size = Some(bench.kernel.size(BODY)?);
        fastest = bench.fastest;
    }
    let (verified, jited) = size.context("no case")?;
    results.push(Measurement::of("verifier, instructions walked", "instructions", vec![f64::from(verified)]));
    results.push(Measurement::of("machine code with wrapper", "bytes", vec![f64::from(jited)]));
    Ok(results)
}

struct Bench {
    kernel: Kernel,
    /// Fastest bracket so far, in nanoseconds a packet.
    fastest: u64,
}

impl Bench {
    fn measure(&mut self, image: &Image, case: &Case) -> Result<Measurement> {
        let mut words = image.admission.clone();
        let changed = match case.state {
            State::Open => None,
            State::Down(path) => Some((path, Admission::CLOSED)),
            State::Drained => Some(("west/w1", Admission::new(0, 255))),
        };
        if let Some((path, word)) = changed {
            let index = image.names.domains.iter().position(|d| d == path).context("domain")?;
            words[index] = word;
        }
        self.kernel.set_admissions(&words)?;
        if case.opened {
            self.run(BODY, case, &frame(case, Kind::Syn), case.flows)?;
        }
        let frame = frame(case, case.kind);
        // The first round fills caches and, where flows are remembered, the flow table.
        self.run(BODY, case, &frame, REPEAT)?;
        let mut values = Vec::new();
        for _ in 0..ATTEMPTS {
            let before = self.run(EMPTY, case, &frame, BRACKET)?;
            let body = self.run(BODY, case, &frame, REPEAT)?;
            let empty = self.run(EMPTY, case, &frame, REPEAT)?;
            let after = self.run(EMPTY, case, &frame, BRACKET)?;
            self.fastest = self.fastest.min(before).min(after);
            let limit = self.fastest + (self.fastest * MAX_SLOWER_PERCENT / 100).max(1);
            if before <= limit && after <= limit {
                values.push(body.saturating_sub(empty) as f64);
            }
            if values.len() == RUNS {
                break;
            }
        }
        ensure!(!values.is_empty(), "the machine changed its speed during each of {ATTEMPTS} measurements");
        Ok(Measurement::of(&case.name, "ns", values))
    }

    /// Nanoseconds a packet.
    fn run(&mut self, program: &str, case: &Case, frame: &[u8], repeat: u32) -> Result<u64> {
        let mut ethernet = [0; 14];
        ethernet.copy_from_slice(&frame[..14]);
        let root = BenchRoot {
            flow_mask: case.flows - 1,
            flags: if case.is_ipv6 { BENCH_IPV6 } else { 0 },
            outer_length: if case.is_ipv6 { 40 } else { 20 },
            ethernet,
            ..BenchRoot::zeroed()
        };
        self.kernel.set("BENCH", 0, &root)?;
        let time = self.kernel.time(program, frame, repeat)?;
        let left: BenchRoot = self.kernel.get::<BenchRoot, 40>("BENCH", 0)?;
        ensure!(left.unexpected == 0, "{} packets were neither sent on nor passed", left.unexpected);
        ensure!(left.next == repeat, "{} packets instead of {repeat}", left.next);
        Ok(time.as_nanos() as u64)
    }
}
