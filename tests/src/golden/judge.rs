//! Running a golden packet through the pure code, and judging what came out of it or of the XDP program.

use super::{
    Case, Expected, INGRESS, action,
    cases::with_label_of,
    hash_of,
    kernel::{Kernel, Ran},
    known_flows,
};
use anyhow::{Result, ensure};
use lb_common::{
    abi::{
        counter::{Counter, backend_slot, reason_slot, service_slot},
        flow::FlowEntry,
        limits::REASON_SLOTS,
        reason::Reason,
        root::FEATURE_RELAY,
    },
    datapath::{
        self, buffer::Buffer, filter, flow::FlowTable, ports::Tables, trace::Silent, verdict::Verdict,
    },
};
use lb_userspace::{
    dataplane::object::EDGE_PROGRAM,
    plan::image::{Image, ImageTables},
};

/// What the pure code's clock says, in nanoseconds: as a kernel's after some minutes, so that ends may lie before and behind it.
const NOW_NS: u64 = 1 << 40;
/// Bytes that a tunnel puts in front of a packet at least.
const SHORTEST_TUNNEL: u64 = 20;

/// Runs a frame through the pure code.
#[must_use]
pub fn run_pure<T: Tables>(tables: &T, frame: &[u8]) -> (Ran, Reason) {
    let mut buffer = Buffer::new(frame, INGRESS);
    let outcome = datapath::process(&mut buffer, tables, &mut Silent);
    let action = match outcome.verdict {
        Verdict::Pass => action::PASS,
        // What arrives is looked at again by `process`, which tells what came of it.
        Verdict::Drop | Verdict::Arrival => action::DROP,
        Verdict::Tx => action::TX,
        Verdict::Redirect(_) => action::REDIRECT,
    };
    (Ran { action, frame: buffer.frame().to_vec() }, outcome.reason)
}

/// Whether a case's packets are looked at as such that may have been relayed to this host.
///
/// # Errors
/// If the image has not what a change is about.
pub fn arrives(image: &Image, case: &Case) -> Result<bool> {
    let tables = ImageTables::new(changed(image, case)?);
    let mut frames = case.before.iter().chain([&case.input]);
    Ok(frames.any(|frame| {
        let mut buffer = Buffer::new(frame, INGRESS);
        datapath::process_first(&mut buffer, &tables, &mut Silent).verdict == Verdict::Arrival
    }))
}

/// Whether what came out is what must come out.
///
/// # Errors
/// What differs.
pub fn check(case: &Case, ran: &Ran) -> Result<()> {
    let (expected_action, frame) = match &case.expected {
        Expected::Pass(_) => (action::PASS, Some(case.input.clone())),
        Expected::Drop(_) => (action::DROP, None),
        Expected::Answer(frame)
        | Expected::AnswerFor(_, frame)
        | Expected::Neighbour(frame)
        | Expected::Tx(frame) => (action::TX, Some(with_label_of(frame.clone(), &ran.frame))),
        Expected::Redirect(frame) => (action::REDIRECT, Some(with_label_of(frame.clone(), &ran.frame))),
    };
    ensure!(ran.action == expected_action, "action {} instead of {expected_action}", ran.action);
    if let Some(frame) = frame {
        ensure!(ran.frame == frame, "came out as\n{:02x?}\ninstead of\n{frame:02x?}", ran.frame);
    }
    Ok(())
}

/// The reason under which a packet must be counted.
#[must_use]
pub const fn reason_of(expected: &Expected) -> Reason {
    match expected {
        Expected::Pass(reason) | Expected::Drop(reason) | Expected::AnswerFor(reason, _) => *reason,
        Expected::Answer(_) => Reason::EchoAnswered,
        Expected::Neighbour(_) => Reason::NeighbourAnswered,
        Expected::Tx(_) | Expected::Redirect(_) => Reason::Forwarded,
    }
}

/// The image with a case's changes made.
///
/// # Errors
/// If it has not what a change is about.
pub fn changed(image: &Image, case: &Case) -> Result<Image> {
    let mut image = image.clone();
    case.changes.iter().try_for_each(|change| change.apply(&mut image))?;
    Ok(image)
}

/// All counters of an image's slots, and what one packet may have added to them: guarantee 8.
///
/// # Errors
/// What `counter` says; a counter that it may not have changed, or not so.
pub fn check_counters(
    image: &Image,
    length: usize,
    reason: Reason,
    counter: impl Fn(u32) -> Result<Counter>,
) -> Result<()> {
    let slots = image.counter_slots();
    let all: Vec<Counter> = (0..slots).map(counter).collect::<Result<_>>()?;
    let services = service_slot(0) as usize;
    let backends = backend_slot(image.services.len() as u32, 0) as usize;
    let sum = |range: &[Counter]| range.iter().map(|c| c.packets).sum::<u64>();
    let forwarded = u64::from(reason == Reason::Forwarded);
    ensure!(sum(&all[..REASON_SLOTS]) == 1 - forwarded, "reasons: {:?}", &all[..REASON_SLOTS]);
    ensure!(sum(&all[services..backends]) == forwarded, "services: {:?}", &all[services..backends]);
    ensure!(sum(&all[backends..]) == forwarded, "backends: {:?}", &all[backends..]);
    if reason != Reason::Forwarded {
        let counted = all[reason_slot(reason) as usize];
        // What was taken out of a tunnel is counted as it was in there.
        let is_length = counted.bytes == length as u64
            || (image.root.features & FEATURE_RELAY != 0 && counted.bytes + SHORTEST_TUNNEL <= length as u64);
        ensure!(counted.packets == 1 && is_length, "{reason:?}: {counted:?}");
    }
    Ok(())
}

/// What was counted between two readings of a counter.
#[must_use]
pub const fn difference(now: &Counter, before: &Counter) -> Counter {
    Counter {
        packets: now.packets - before.packets,
        bytes: now.bytes - before.bytes,
        opening: now.opening - before.opening,
        dropped: now.dropped - before.dropped,
    }
}

/// Runs a case through the pure code and judges frame, action, reason and counters.
///
/// # Errors
/// What is not as it must be.
pub fn judge_pure(image: &Image, case: &Case) -> Result<()> {
    let tables = ImageTables::new(changed(image, case)?);
    tables.set_now_ns(NOW_NS);
    for (table, flow, backend) in known_flows(image, &case.changes)? {
        let entry = FlowEntry { backend, seen: 0 };
        match table {
            FlowTable::Flows => {
                tables.remember(&flow, entry);
                tables.set_filter(filter::index(image.root.flow_filter_mask, hash_of(image, &flow)), 1);
            }
            FlowTable::Openings => tables.remember_opening(&flow.key(), entry),
        }
    }
    for frame in &case.before {
        let _ = run_pure(&tables, frame);
    }
    let before: Vec<Counter> = (0..tables.image().counter_slots()).map(|slot| tables.counter(slot)).collect();
    let (ran, reason) = run_pure(&tables, &case.input);
    check(case, &ran)?;
    ensure!(reason == reason_of(&case.expected), "{reason:?} instead of {:?}", reason_of(&case.expected));
    check_counters(tables.image(), case.input.len(), reason, |slot| {
        Ok(difference(&tables.counter(slot), &before[slot as usize]))
    })
}

/// Runs a case through the XDP program, over maps that hold the changed `image`, and judges frame, action and counters.
///
/// # Errors
/// What is not as it must be, or what the kernel says.
pub fn judge_program(kernel: &Kernel, image: &Image, case: &Case) -> Result<()> {
    judge_named(kernel, EDGE_PROGRAM, image, case).map(drop)
}

/// [`judge_program`] of another program that does what the edge's does. What came out.
///
/// # Errors
/// As for [`judge_program`].
pub fn judge_named(kernel: &Kernel, program: &str, image: &Image, case: &Case) -> Result<Ran> {
    for frame in &case.before {
        kernel.run(program, frame)?;
    }
    let before: Vec<Counter> =
        (0..image.counter_slots()).map(|slot| kernel.counter(slot)).collect::<Result<_>>()?;
    for (table, flow, backend) in known_flows(image, &case.changes)? {
        kernel.remember(image, table, &flow, &FlowEntry { backend, seen: 0 })?;
    }
    let ran = kernel.run(program, &case.input)?;
    check(case, &ran)?;
    check_counters(image, case.input.len(), reason_of(&case.expected), |slot| {
        Ok(difference(&kernel.counter(slot)?, &before[slot as usize]))
    })?;
    Ok(ran)
}
