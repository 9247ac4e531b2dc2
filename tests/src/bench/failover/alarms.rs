//! False alarms: nothing fails, all CPUs are busy, and no state may change.
use super::{
    super::{Measurement, setting},
    events,
    kinds::{Bench, Kind},
};
use crate::clock::monotonic_ns;
use anyhow::Result;
use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// Name in results.
pub(super) const NAME: &str = "false alarms under full load, heartbeat 3 ms";
/// How long they are waited for, unless the environment says otherwise.
const SECONDS: usize = 600;
/// Threads for each CPU that do nothing but run.
const BURNERS_PER_CPU: usize = 2;
/// Between two looks: the daemon remembers more events than come in that time.
const LOOK: Duration = Duration::from_secs(5);

/// Burns all CPUs, and counts state changes.
pub(super) fn wait_for_alarms() -> Result<Vec<Measurement>> {
    let seconds = setting("WEIR_BENCH_ALARM_SECONDS", SECONDS)?.max(1);
    let lab = Kind::Rack.lab()?;
    let bench = Bench::start(&lab, Kind::Rack)?;
    let cpus = thread::available_parallelism()?.get();
    let stop = AtomicBool::new(false);
    let begin_ns = monotonic_ns();
    let alarms = thread::scope(|scope| {
        for _ in 0..cpus * BURNERS_PER_CPU {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let alarms = count(&bench, begin_ns, Duration::from_secs(seconds as u64));
        stop.store(true, Ordering::Relaxed);
        alarms
    })?;
    let per_ten_minutes = alarms as f64 * 600.0 / seconds as f64;
    eprintln!("{NAME}: {alarms} in {seconds} s with {} burners", cpus * BURNERS_PER_CPU);
    Ok(vec![
        Measurement::of(NAME, "events", vec![alarms as f64]),
        Measurement::of(&format!("{NAME}, in 10 minutes"), "events", vec![per_ten_minutes]),
    ])
}

fn count(bench: &Bench<'_>, begin_ns: u64, duration: Duration) -> Result<usize> {
    let (mut alarms, mut since_ns) = (0, begin_ns);
    let end_ns = begin_ns + duration.as_nanos() as u64;
    while since_ns < end_ns {
        thread::sleep(LOOK.min(Duration::from_nanos(end_ns - since_ns)));
        let until_ns = monotonic_ns();
        let events = events(&bench.daemon)?;
        let bad = |state: &Option<String>| matches!(state.as_deref(), Some("SUSPECT" | "DOWN"));
        let new = events.iter().filter(|e| (since_ns..until_ns).contains(&e.monotonic_ns) && bad(&e.to));
        alarms += new.count();
        since_ns = until_ns;
    }
    Ok(alarms)
}
