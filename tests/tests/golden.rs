//! Golden packets through `BPF_PROG_TEST_RUN` and through the pure code, byte for byte.

use anyhow::{Context, Result, ensure};
use lb_common::{
    abi::{
        counter::{Counter, backend_slot, reason_slot, service_slot},
        limits::REASON_SLOTS,
        reason::Reason,
    },
    datapath::{self, buffer::Buffer, flow::FlowTable, trace::Silent, verdict::Verdict},
};
use lb_tests::clock::monotonic_ns;
use lb_tests::golden::{
    Case, Expected, INGRESS, action,
    cases::{self, with_label_of},
    fixture,
    kernel::{EDGE, Kernel, Ran},
};
use lb_userspace::plan::image::{Image, ImageTables};

/// Runs a frame through the pure code.
fn run_pure(tables: &ImageTables, frame: &[u8]) -> (Ran, Reason) {
    let mut buffer = Buffer::new(frame, INGRESS);
    let outcome = datapath::process(&mut buffer, tables, &mut Silent);
    let action = match outcome.verdict {
        Verdict::Pass => action::PASS,
        Verdict::Drop => action::DROP,
        Verdict::Tx => action::TX,
        Verdict::Redirect(_) => action::REDIRECT,
    };
    (Ran { action, frame: buffer.frame().to_vec() }, outcome.reason)
}

fn check(case: &Case, ran: &Ran) -> Result<()> {
    let (expected_action, frame) = match &case.expected {
        Expected::Pass(_) => (action::PASS, Some(case.input.clone())),
        Expected::Drop(_) => (action::DROP, None),
        Expected::Answer(frame) | Expected::AnswerFor(_, frame) | Expected::Tx(frame) => {
            (action::TX, Some(with_label_of(frame.clone(), &ran.frame)))
        }
        Expected::Redirect(frame) => (action::REDIRECT, Some(with_label_of(frame.clone(), &ran.frame))),
    };
    ensure!(ran.action == expected_action, "action {} instead of {expected_action}", ran.action);
    if let Some(frame) = frame {
        ensure!(ran.frame == frame, "came out as\n{:02x?}\ninstead of\n{frame:02x?}", ran.frame);
    }
    Ok(())
}

const fn reason_of(expected: &Expected) -> Reason {
    match expected {
        Expected::Pass(reason) | Expected::Drop(reason) | Expected::AnswerFor(reason, _) => *reason,
        Expected::Answer(_) => Reason::EchoAnswered,
        Expected::Tx(_) | Expected::Redirect(_) => Reason::Forwarded,
    }
}

fn changed(image: &Image, case: &Case) -> Result<Image> {
    let mut image = image.clone();
    case.changes.iter().try_for_each(|change| change.apply(&mut image))?;
    Ok(image)
}

/// All counters of an image's slots.
fn all_counters(image: &Image, counter: impl Fn(u32) -> Result<Counter>) -> Result<Vec<Counter>> {
    (0..image.counter_slots()).map(counter).collect()
}

/// What was added to all counters, and what may be in them after one packet: guarantee 8.
fn check_counters(
    image: &Image,
    length: usize,
    reason: Reason,
    before: &[Counter],
    after: &[Counter],
) -> Result<()> {
    let added = |(now, then): (&Counter, &Counter)| Counter {
        packets: now.packets - then.packets,
        bytes: now.bytes - then.bytes,
        opening: now.opening - then.opening,
        dropped: now.dropped - then.dropped,
    };
    let all: Vec<Counter> = after.iter().zip(before).map(added).collect();
    let reasons = REASON_SLOTS;
    let services = service_slot(0) as usize;
    let backends = backend_slot(image.services.len() as u32, 0) as usize;
    let sum = |range: &[Counter]| range.iter().map(|c| c.packets).sum::<u64>();
    let forwarded = u64::from(reason == Reason::Forwarded);
    ensure!(sum(&all[..reasons]) == 1 - forwarded, "reasons: {:?}", &all[..reasons]);
    ensure!(sum(&all[services..backends]) == forwarded, "services: {:?}", &all[services..backends]);
    ensure!(sum(&all[backends..]) == forwarded, "backends: {:?}", &all[backends..]);
    if reason != Reason::Forwarded {
        let counted = all[reason_slot(reason) as usize];
        ensure!(counted.packets == 1 && counted.bytes == length as u64, "{reason:?}: {counted:?}");
    }
    Ok(())
}

#[test]
fn golden_packets_through_the_pure_code() -> Result<()> {
    let image = fixture()?;
    for case in cases::all() {
        let tables = ImageTables::new(changed(&image, &case)?);
        let counters = || all_counters(&image, |slot| Ok(tables.counter(slot)));
        for frame in &case.before {
            run_pure(&tables, frame);
        }
        let before = counters()?;
        let (ran, reason) = run_pure(&tables, &case.input);
        check(&case, &ran).with_context(|| case.name)?;
        assert_eq!(reason, reason_of(&case.expected), "{}", case.name);
        check_counters(&image, case.input.len(), reason, &before, &counters()?).with_context(|| case.name)?;
    }
    Ok(())
}

#[test]
fn golden_packets_through_the_xdp_program() -> Result<()> {
    let image = fixture()?;
    // Loading takes much longer than running: what needs nothing special shares a program. Later fragments and the like, which
    // what came before decides about, do not.
    let shared = Kernel::load(EDGE, &["weir_edge"], &image, 1024)?;
    for case in cases::all() {
        let image = changed(&image, &case)?;
        let own;
        let kernel = if case.before.is_empty() && case.changes.is_empty() {
            &shared
        } else {
            own = Kernel::load(EDGE, &["weir_edge"], &image, 1024)?;
            &own
        };
        let counters = || all_counters(&image, |slot| kernel.counter(slot));
        for frame in &case.before {
            kernel.run("weir_edge", frame).with_context(|| case.name)?;
        }
        let before = counters()?;
        let ran = kernel.run("weir_edge", &case.input).with_context(|| case.name)?;
        check(&case, &ran).with_context(|| case.name)?;
        check_counters(&image, case.input.len(), reason_of(&case.expected), &before, &counters()?)
            .with_context(|| case.name)?;
    }
    Ok(())
}

/// Every reason has a golden packet, but for those that no packet can cause on a sound data plane.
#[test]
fn every_reason_has_a_golden_packet() {
    // NoHeadroom: a driver without room. Inconsistent: maps that contradict each other. RelayRefused: relays come later.
    let unreachable = [Reason::NoHeadroom, Reason::Inconsistent, Reason::RelayRefused];
    let shown: Vec<Reason> = cases::all().iter().map(|case| reason_of(&case.expected)).collect();
    for reason in Reason::ALL {
        assert!(shown.contains(reason) != unreachable.contains(reason), "{reason:?}");
    }
}

/// Numbers that look random and are the same in every run (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

/// The same frames through both: every prefix of every golden packet, and many with bytes changed, in a data plane with
/// things drained and down. Frames, actions and the flow table must agree.
#[test]
fn pure_code_and_xdp_program_agree_on_damaged_packets() -> Result<()> {
    let mut image = fixture()?;
    let half = lb_common::abi::admission::Admission::new(100, 200);
    image.admission[image.names.domains.iter().position(|d| d == "west/w1/r2").context("rack")?] = half;
    // How many answers are given depends on the time of day.
    image.root.answers_per_second = u32::MAX;
    let tables = ImageTables::new(image.clone());
    let kernel = Kernel::load(EDGE, &["weir_edge"], &image, 65_536)?;
    let mut numbers = Numbers(0x5eed);
    let inputs: Vec<Vec<u8>> =
        cases::all().into_iter().flat_map(|case| [case.before, vec![case.input]].concat()).collect();
    let compare = |frame: &[u8]| -> Result<()> {
        // What is forgotten after a while is forgotten by both.
        tables.set_now_ns(monotonic_ns());
        let (pure, reason) = run_pure(&tables, frame);
        let ran = kernel.run("weir_edge", frame)?;
        ensure!(pure == ran, "{reason:?}\npure   {pure:02x?}\nkernel {ran:02x?}\nof {frame:02x?}");
        Ok(())
    };
    for input in &inputs {
        // Below an Ethernet header the kernel refuses a test run; a driver would not hand such a frame up either.
        for length in 14..input.len().min(120) {
            compare(&input[..length])?;
        }
    }
    for _ in 0..20_000 {
        let mut frame = inputs[numbers.below(inputs.len())].clone();
        for _ in 0..=numbers.below(4) {
            let at = numbers.below(frame.len().min(80));
            frame[at] = numbers.next() as u8;
        }
        compare(&frame)?;
    }
    let remembered = tables.flows(FlowTable::Flows).len() + tables.flows(FlowTable::Openings).len();
    assert_eq!(
        remembered,
        kernel.flows("FLOWS")? + kernel.flows("OPENINGS")?,
        "entries in the tables of flows"
    );
    Ok(())
}

/// What the program costs the verifier and the instruction cache. Exact numbers for a compiler; bounds for all.
#[test]
fn the_program_stays_small() -> Result<()> {
    let kernel = Kernel::load(EDGE, &["weir_edge"], &fixture()?, 1024)?;
    let (verified, jited) = kernel.size("weir_edge")?;
    assert!(verified <= 300_000, "{verified} instructions verified, of the kernel's million");
    assert!(jited <= 49_152, "{jited} bytes of machine code");
    Ok(())
}
