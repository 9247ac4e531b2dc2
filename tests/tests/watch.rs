//! The program that shows packets: it does what the edge's does, byte for byte, whether somebody watches or not; and it shows what it did, to those
//! who want to see it.

use anyhow::{Context, Result, ensure};
use aya::maps::{MapData, RingBuf};
use lb_common::{
    abi::{
        pod::Pod,
        reason::Reason,
        watch::{
            MAX_SNAP, NO_INDEX, VERDICT_ANSWER, VERDICT_DROP, VERDICT_FORWARD, VERDICT_PASS, WatchControl,
            WatchFilter, WatchLost, WatchRecord,
        },
    },
    net::{address_bytes, address_words},
};
use lb_tests::golden::{
    Case, Expected, cases, fixture,
    judge::{changed, judge_named, reason_of},
    kernel::{Kernel, Ran, WATCH, WATCH_AND_RELAY},
};
use lb_userspace::{dataplane::object::WATCH_PROGRAM, plan::image::Image};

/// What everybody wants to see who wants to see everything.
const ALL: WatchControl = WatchControl {
    until: u32::MAX,
    active: 1,
    snap: MAX_SNAP as u32,
    sample: u32::MAX,
    per_second: 1_000_000,
    reserved: [0; 3],
};

/// A packet as it was shown.
struct Shown {
    record: WatchRecord,
    arrived: Vec<u8>,
    left: Vec<u8>,
}

/// The program with a handle on its ring buffer.
struct Watched {
    kernel: Kernel,
    ring: RingBuf<MapData>,
}

impl Watched {
    fn load(image: &Image, control: &WatchControl, filter: &WatchFilter) -> Result<Self> {
        let mut kernel = Kernel::load(WATCH, &WATCH_AND_RELAY, image, 1024)?;
        let ring = RingBuf::try_from(kernel.take("WATCH_RING")?)?;
        let mut watched = Self { kernel, ring };
        watched.set(control, filter)?;
        Ok(watched)
    }

    fn set(&mut self, control: &WatchControl, filter: &WatchFilter) -> Result<()> {
        self.kernel.set("WATCH_FILTERS", 0, filter)?;
        self.kernel.set("WATCH", 0, control)
    }

    fn shown(&mut self) -> Vec<Shown> {
        let mut all = Vec::new();
        while let Some(item) = self.ring.next() {
            let record = WatchRecord::from_bytes(&item[..size_of::<WatchRecord>()]).expect("its size");
            let frames = &item[size_of::<WatchRecord>()..];
            assert_eq!(frames.len(), 2 * record.stride as usize);
            let (arrived, left) = frames.split_at(record.stride as usize);
            all.push(Shown {
                record,
                arrived: arrived[..record.arrived_captured as usize].to_vec(),
                left: left[..record.left_captured as usize].to_vec(),
            });
        }
        all
    }

    /// How many packets are shown of so many runs with a frame.
    fn count(&mut self, frame: &[u8], runs: usize) -> Result<usize> {
        for _ in 0..runs {
            self.kernel.run(WATCH_PROGRAM, frame)?;
        }
        Ok(self.shown().len())
    }
}

/// Whether what was shown is what happened.
fn check(case: &Case, ran: &Ran, shown: &Shown) -> Result<()> {
    let Shown { record, arrived, left } = shown;
    let reason = reason_of(&case.expected);
    ensure!(record.reason == reason as u32, "shown as {:?}", Reason::from_number(record.reason));
    let verdict = match &case.expected {
        Expected::Pass(_) => VERDICT_PASS,
        Expected::Drop(_) => VERDICT_DROP,
        Expected::Tx(_) | Expected::Redirect(_) => VERDICT_FORWARD,
        Expected::Answer(_) | Expected::Neighbour(_) | Expected::AnswerFor(..) => VERDICT_ANSWER,
    };
    ensure!(record.verdict == verdict, "verdict {}", record.verdict);
    let room = |frame: &[u8]| frame.len().min(MAX_SNAP);
    ensure!(record.arrived_length as usize == case.input.len(), "came with {}", record.arrived_length);
    ensure!(*arrived == case.input[..room(&case.input)], "came as\n{arrived:02x?}");
    if matches!(verdict, VERDICT_ANSWER | VERDICT_FORWARD) {
        ensure!(record.left_length as usize == ran.frame.len(), "left with {}", record.left_length);
        ensure!(*left == ran.frame[..room(&ran.frame)], "left as\n{left:02x?}\nnot\n{:02x?}", ran.frame);
        ensure!(record.egress != 0, "left by no interface");
    } else {
        ensure!(left.is_empty() && record.left_length == 0 && record.egress == 0, "left, too");
    }
    let is_placed = record.service != NO_INDEX && record.backend != NO_INDEX;
    ensure!(is_placed || verdict != VERDICT_FORWARD, "forwarded by no service, to no backend: {record:?}");
    ensure!(record.watchers == 1, "watchers {:b}", record.watchers);
    Ok(())
}

fn judge(watched: &mut Watched, image: &Image, case: &Case, control: &WatchControl) -> Result<()> {
    watched.shown();
    let ran = judge_named(&watched.kernel, WATCH_PROGRAM, image, case)?;
    let shown = watched.shown();
    if control.until == 0 {
        ensure!(shown.is_empty(), "{} packets are shown to nobody", shown.len());
        return Ok(());
    }
    ensure!(shown.len() == case.before.len() + 1, "{} packets are shown", shown.len());
    check(case, &ran, shown.last().context("one")?)
}

/// Loading takes much longer than running, so all cases share two programs; one that meets what another left behind gets its own.
#[test]
fn golden_packets_come_out_the_same_whether_somebody_watches_or_not() -> Result<()> {
    let image = fixture()?;
    for control in [ALL, WatchControl { until: 0, ..ALL }] {
        let mut shared = Watched::load(&image, &control, &WatchFilter::ALL)?;
        for case in cases::all() {
            let is_plain = case.changes.is_empty() && case.before.is_empty();
            if control.until == 0 && !is_plain {
                // Nothing of it differs from what was run while somebody watched but for the copying.
                continue;
            }
            let image = changed(&image, &case)?;
            // An image of another size does not fit into the maps.
            let filled = shared.kernel.fill(&image).and_then(|()| shared.kernel.forget());
            if filled.and_then(|()| judge(&mut shared, &image, &case, &control)).is_err() {
                eprintln!("{}: on its own", case.name);
                let mut own = Watched::load(&image, &control, &WatchFilter::ALL)?;
                judge(&mut own, &image, &case, &control).context(case.name)?;
            }
        }
    }
    Ok(())
}

#[test]
fn only_what_is_wanted_is_shown_and_only_for_as_long() -> Result<()> {
    let image = fixture()?;
    let find = |reason: Reason| {
        let found = cases::all().into_iter().find(|case| {
            reason_of(&case.expected) == reason && case.changes.is_empty() && case.before.is_empty()
        });
        found.map(|case| case.input).context("a plain case")
    };
    let (forwarded, stranger) = (find(Reason::Forwarded)?, find(Reason::PassNotVip)?);
    let all = WatchFilter::ALL;
    let mut watched = Watched::load(&image, &ALL, &all)?;
    assert_eq!(watched.count(&forwarded, 3)?, 3);

    let by_reason = WatchFilter { reasons: 1 << Reason::PassNotVip as u32, ..all };
    watched.set(&ALL, &by_reason)?;
    assert_eq!((watched.count(&forwarded, 3)?, watched.count(&stranger, 3)?), (0, 3));

    let words = |address: std::net::IpAddr| address_words(&address_bytes(address));
    watched.set(&ALL, &all)?;
    watched.kernel.run(WATCH_PROGRAM, &forwarded)?;
    let record = watched.shown().pop().context("it was shown")?.record;
    let mut by_source = all;
    by_source.source.mask = [u32::MAX; 4];
    by_source.source.value = record.source;
    watched.set(&ALL, &by_source)?;
    assert_eq!(watched.count(&forwarded, 2)?, 2);
    by_source.source.value = words([203, 0, 113, 77].into());
    watched.set(&ALL, &by_source)?;
    assert_eq!(watched.count(&forwarded, 2)?, 0);

    // Of another service; nobody's; at random.
    watched.set(&ALL, &WatchFilter { service: record.service + 1, ..all })?;
    assert_eq!(watched.count(&forwarded, 2)?, 0);
    watched.set(&WatchControl { active: 2, ..ALL }, &all)?;
    assert_eq!(watched.count(&forwarded, 2)?, 0);
    let sample = u32::MAX / 4;
    watched.set(&WatchControl { sample, snap: 0, ..ALL }, &WatchFilter { sample, ..all })?;
    let sampled = watched.count(&forwarded, 4_000)?;
    // Twelve standard deviations on either side.
    assert!((672..1_328).contains(&sampled), "{sampled} of 4000");

    // A moment that is over: long ago, and now.
    for until in [1, (lb_tests::clock::monotonic_ns() >> 27) as u32] {
        watched.set(&WatchControl { until, ..ALL }, &all)?;
        assert_eq!(watched.count(&forwarded, 3)?, 0, "{until}");
    }
    let soon = lb_common::abi::guard::until(lb_tests::clock::monotonic_ns() + 60_000_000_000);
    watched.set(&WatchControl { until: soon, ..ALL }, &all)?;
    assert_eq!(watched.count(&forwarded, 3)?, 3);
    Ok(())
}

#[test]
fn what_is_too_much_is_counted_as_lost() -> Result<()> {
    let image = fixture()?;
    let case = cases::all().into_iter().find(|case| case.changes.is_empty() && case.before.is_empty());
    let frame = case.context("a plain case")?.input;
    let mut watched =
        Watched::load(&image, &WatchControl { per_second: 80, snap: 0, ..ALL }, &WatchFilter::ALL)?;
    let shown = watched.count(&frame, 500)?;
    let lost = |watched: &Watched| -> Result<u64> {
        let cpus = aya::util::nr_cpus().map_err(|(path, error)| anyhow::anyhow!("{path}: {error}"))? as u32;
        let lost = (0..cpus).map(|cpu| watched.kernel.get::<WatchLost, 64>("WATCH_LOST", cpu));
        lost.map(|lost| Ok(lost?.records[0])).sum()
    };
    let limited = lost(&watched)?;
    assert_eq!(shown as u64 + limited, 500);
    assert!(shown >= 10 && limited > 100, "{shown} shown, {limited} lost");
    // A ring buffer that nobody empties is full at last. The limit is another one with the next window of time only.
    watched.set(&ALL, &WatchFilter::ALL)?;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    while watched.count(&frame, 1)? == 0 {
        ensure!(std::time::Instant::now() < deadline, "the limit stays");
    }
    let limited = lost(&watched)?;
    for _ in 0..2_000 {
        watched.kernel.run(WATCH_PROGRAM, &frame)?;
    }
    let shown = watched.shown().len();
    assert_eq!(shown as u64 + lost(&watched)? - limited, 2_000);
    assert!((1_000..2_000).contains(&shown), "{shown}");
    Ok(())
}
