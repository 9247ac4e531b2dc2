//! Golden packets through `BPF_PROG_TEST_RUN` and through the pure code, byte for byte.

use anyhow::{Context, Result, ensure};
use aya::maps::RingBuf;
use lb_common::{
    abi::{
        admission::Admission,
        backend::BackendEntry,
        counter::{Note, backend_slot, note_slot, reason_slot},
        reason::Reason,
    },
    datapath::flow::FlowTable,
};
use lb_tests::clock::monotonic_ns;
use lb_tests::golden::{
    Change, action, cases, fixture,
    judge::{arrives, changed, judge_program, judge_pure, reason_of, run_pure},
    kernel::{EDGE, EDGE_AND_RELAY, Kernel},
    numbers::Numbers,
    packets,
};
use lb_userspace::plan::image::ImageTables;

#[test]
fn golden_packets_through_the_pure_code() -> Result<()> {
    let image = fixture()?;
    cases::all().iter().try_for_each(|case| judge_pure(&image, case).context(case.name))
}

#[test]
fn golden_packets_through_the_xdp_program() -> Result<()> {
    let image = fixture()?;
    // Loading takes much longer than running, so one program serves them all, with maps made new for each. What it does not make new are
    // limits: cases that are about them have a program of their own, and so has, once more, whatever went wrong.
    let mut shared = Kernel::load(EDGE, &EDGE_AND_RELAY, &image, 1024)?;
    let mut alone = 0;
    for case in cases::all() {
        let programs = if arrives(&image, &case)? { &EDGE_AND_RELAY[..] } else { &EDGE_AND_RELAY[..1] };
        let changed = changed(&image, &case)?;
        let is_limited = changed.guards != image.guards;
        if is_limited
            || shared.renew(&changed).and_then(|()| judge_program(&shared, &changed, &case)).is_err()
        {
            alone += 1;
            let kernel = Kernel::load(EDGE, programs, &changed, 1024)?;
            judge_program(&kernel, &changed, &case).context(case.name)?;
        }
    }
    println!("{alone} of {} with a program of their own", cases::all().len());
    Ok(())
}

/// A flow that opens away from home stands in `OPENINGS`, and in `FLOWS` from its second packet on; one that opens anew at home
/// stands nowhere.
#[test]
fn a_flow_moves_from_opening_to_established() -> Result<()> {
    let image = fixture()?;
    let frame = |flags| {
        packets::ethernet(
            0x0800,
            &packets::ipv4(
                [198, 51, 100, 7].into(),
                [192, 0, 2, 20].into(),
                6,
                &packets::tcp(40_001, 443, flags, &[]),
            ),
        )
    };
    let mut drained = image.clone();
    // Whichever it is, the flow's home is one of them, and another one remains.
    let tables = ImageTables::new(image.clone());
    let home = tables_home(&tables, &frame(packets::SYN))?;
    drained.backends[home].admission = Admission::new(0, 255);
    let mut kernel = Kernel::load(EDGE, &["weir_edge"], &drained, 1024)?;
    let tables = ImageTables::new(drained.clone());
    let steps = [(packets::SYN, 0, 1), (packets::ACK, 1, 0), (packets::ACK, 1, 0)];
    for (flags, flows, openings) in steps {
        let pure = run_pure(&tables, &frame(flags)).0;
        ensure!(kernel.run("weir_edge", &frame(flags))? == pure, "program and pure code differ");
        let held = (kernel.flows(FlowTable::Flows)?, kernel.flows(FlowTable::Openings)?);
        ensure!(held == (flows, openings), "{held:?} instead of {:?}", (flows, openings));
        let pure = (tables.flows(FlowTable::Flows).len(), tables.flows(FlowTable::Openings).len());
        ensure!(pure == held, "{pure:?} in the pure code");
    }
    kernel
        .set_backend(home, &BackendEntry { admission: Admission::new(255, 255), ..drained.backends[home] })?;
    kernel.run("weir_edge", &frame(packets::SYN))?;
    ensure!(
        kernel.flows(FlowTable::Flows)? + kernel.flows(FlowTable::Openings)? == 0,
        "a stale entry is left"
    );
    Ok(())
}

/// In a transition, flows that nobody wrote down are written down as fast as the limit of inserts lets them; what it does not let
/// goes to its old home all the same.
#[test]
fn a_transition_writes_down_no_more_than_it_may() -> Result<()> {
    let flows = 10;
    let running = |number: u16| {
        let segment = packets::tcp(41_000 + number, 80, packets::ACK, &[]);
        let inner = packets::ipv4([198, 51, 100, 7].into(), [192, 0, 2, 10].into(), 6, &segment);
        packets::ethernet(0x0800, &inner)
    };
    let mut image = fixture()?;
    for change in [Change::Marked("4in4/p"), Change::Before("4in4", "4in6/p")] {
        change.apply(&mut image)?;
    }
    let old_home = image.names.backends.iter().position(|name| name == "v6").context("v6")?;
    // Windows are an eighth of a second: less than eight a second are none, and so many are one for each flow.
    for (per_second, written) in [(7, 0), (8 * u32::from(flows), u64::from(flows))] {
        let mut image = image.clone();
        image.root.flow_inserts_per_second = per_second;
        let kernel = Kernel::load(EDGE, &["weir_edge"], &image, 1024)?;
        let tables = ImageTables::new(image);
        for number in 0..flows {
            let (pure, _) = run_pure(&tables, &running(number));
            ensure!(pure.frame[12..14] == [0x86, 0xdd], "not to the old home: {pure:02x?}");
            ensure!(kernel.run("weir_edge", &running(number))? == pure, "program and pure code differ");
        }
        let entries = tables.flows(FlowTable::Flows);
        ensure!(entries.iter().all(|(_, entry)| entry.backend as usize == old_home), "{entries:?}");
        let held = (entries.len() as u64, kernel.flows(FlowTable::Flows)? as u64);
        ensure!(held == (written, written), "{held:?} entries instead of {written}");
        let notes = [(Note::FlowInserted, written), (Note::FlowInsertLimited, u64::from(flows) - written)];
        for (note, count) in notes {
            let noted = (tables.counter(note_slot(note)).packets, kernel.counter(note_slot(note))?.packets);
            ensure!(noted == (count, count), "{}: {noted:?} instead of {count}", note.name());
        }
    }
    Ok(())
}

/// In a transition, a flow whose home is the same as before needs no entry, whatever mark its slot has.
#[test]
fn a_transition_writes_down_nobody_who_stays_at_home() -> Result<()> {
    let mut image = fixture()?;
    for change in [Change::Marked("4in4/p"), Change::Before("4in4", "4in4/p")] {
        change.apply(&mut image)?;
    }
    let tables = ImageTables::new(image);
    let segment = packets::tcp(41_000, 80, packets::ACK, &[]);
    let inner = packets::ipv4([198, 51, 100, 7].into(), [192, 0, 2, 10].into(), 6, &segment);
    let (_, reason) = run_pure(&tables, &packets::ethernet(0x0800, &inner));
    ensure!(reason == Reason::Forwarded && tables.flows(FlowTable::Flows).is_empty(), "{reason:?}");
    Ok(())
}

/// In one window of time as many are written as its part of the limit, and as many again in the next one.
#[test]
fn the_limit_of_inserts_is_renewed() -> Result<()> {
    let mut image = fixture()?;
    for change in [Change::Marked("4in4/p"), Change::Before("4in4", "4in6/p")] {
        change.apply(&mut image)?;
    }
    image.root.flow_inserts_per_second = 24;
    let tables = ImageTables::new(image);
    let mut held = Vec::new();
    for number in 0..30 {
        // Ten packets in each window.
        tables.set_now_ns(u64::from(number / 10) << 27);
        let segment = packets::tcp(41_000 + number, 80, packets::ACK, &[]);
        let inner = packets::ipv4([198, 51, 100, 7].into(), [192, 0, 2, 10].into(), 6, &segment);
        let (_, reason) = run_pure(&tables, &packets::ethernet(0x0800, &inner));
        ensure!(reason == Reason::Forwarded, "{reason:?}");
        held.push(tables.flows(FlowTable::Flows).len());
    }
    ensure!((held[9], held[19], held[29]) == (3, 6, 9), "{held:?}");
    Ok(())
}

/// The backend to which a frame goes.
fn tables_home(tables: &ImageTables, frame: &[u8]) -> Result<usize> {
    let (_, reason) = run_pure(tables, frame);
    ensure!(reason == Reason::Forwarded, "{reason:?}");
    let services = tables.image().root.counter_services;
    (0..tables.image().backends.len())
        .find(|&at| tables.counter(backend_slot(services, at as u32)).packets != 0)
        .context("no backend was counted")
}

/// Every reason has a golden packet, but for those that no packet can cause on a sound data plane.
#[test]
fn every_reason_has_a_golden_packet() {
    // NoHeadroom: a driver without room (see `packets.rs`). Inconsistent: maps that contradict each other; it has a test above.
    let unreachable = [Reason::NoHeadroom, Reason::Inconsistent];
    let shown: Vec<Reason> = cases::all().iter().map(|case| reason_of(&case.expected)).collect();
    for reason in Reason::ALL {
        assert!(shown.contains(reason) != unreachable.contains(reason), "{reason:?}");
    }
}

/// Maps that contradict each other are a fault of the daemon: the packet is dropped, counted, and the program says so.
#[test]
fn maps_that_contradict_each_other_are_counted_and_told() -> Result<()> {
    let mut image = fixture()?;
    let service = image.names.services.iter().position(|name| name == "4in4").context("4in4")?;
    // A table beyond all slots.
    image.services[service].first.table_base = u32::MAX - 5_000;
    let segment = packets::tcp(40_000, 80, packets::SYN, &[]);
    let inner = packets::ipv4([198, 51, 100, 7].into(), [192, 0, 2, 10].into(), 6, &segment);
    let frame = packets::ethernet(0x0800, &inner);
    let (pure, reason) = run_pure(&ImageTables::new(image.clone()), &frame);
    ensure!(reason == Reason::Inconsistent && pure.action == action::DROP, "{reason:?}");
    let mut kernel = Kernel::load(EDGE, &["weir_edge"], &image, 1024)?;
    let mut messages = RingBuf::try_from(kernel.take("AYA_LOGS")?)?;
    let told = kernel.run("weir_edge", &frame)?;
    ensure!(told.action == action::DROP, "action {}", told.action);
    let counted = kernel.counter(reason_slot(Reason::Inconsistent))?.packets;
    ensure!(counted == 1, "{counted} packets");
    ensure!(messages.next().is_some() && messages.next().is_none(), "not one message");
    // A sound packet is nothing to talk about.
    let sound = packets::ipv4([198, 51, 100, 7].into(), [192, 0, 2, 12].into(), 6, &segment);
    ensure!(kernel.run("weir_edge", &packets::ethernet(0x0800, &sound))?.action == action::TX);
    ensure!(messages.next().is_none(), "a message about a sound packet");
    Ok(())
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
    let kernel = Kernel::load(EDGE, &EDGE_AND_RELAY, &image, 65_536)?;
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
            frame[at] = numbers.word() as u8;
        }
        compare(&frame)?;
    }
    let remembered = tables.flows(FlowTable::Flows).len() + tables.flows(FlowTable::Openings).len();
    assert_eq!(
        remembered,
        kernel.flows(FlowTable::Flows)? + kernel.flows(FlowTable::Openings)?,
        "entries in the tables of flows"
    );
    Ok(())
}

/// What Weir answers on its own has two budgets: pings do not use up what is for neighbours, nor the other way round.
#[test]
fn pings_and_neighbours_are_limited_apart() -> Result<()> {
    let mut image = fixture()?;
    image.root.answers_per_second = 1;
    let all = cases::all();
    let frame = |name: &str| {
        all.iter().find(|case| case.name == name).map(|case| case.input.clone()).context("no such case")
    };
    let frames = [frame("ping, IPv4")?, frame("ARP request")?, frame("solicitation to the group")?];
    let reasons = |order: &[usize]| {
        let tables = ImageTables::new(image.clone());
        order.iter().map(|&at| run_pure(&tables, &frames[at]).1).collect::<Vec<_>>()
    };
    let (echo, neighbour, limited) = (Reason::EchoAnswered, Reason::NeighbourAnswered, Reason::AnswerLimited);
    assert_eq!(reasons(&[0, 0, 1, 1, 2]), [echo, limited, neighbour, limited, limited]);
    assert_eq!(reasons(&[2, 1, 0, 0]), [neighbour, limited, echo, limited]);
    Ok(())
}
