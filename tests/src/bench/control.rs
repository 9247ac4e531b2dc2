//! A large configuration: 1,000 services of four pools each, 5,000 backends in three regions of three zones of twenty racks, of which
//! 1,000 are checked by heartbeats every 10 ms. The backends are not there, but a program answers for those that are checked.
//!
//! `WEIR_BENCH_SCALE` divides the number of services, backends and targets; `WEIR_BENCH_RUNS` is how often each thing is done.
use super::{
    Measurement, setting,
    socket::{get, post},
};
use crate::lab::{ANSWERED_INTERFACE, Daemon, Lab};
use anyhow::{Context, Result, ensure};
use nix::unistd::{SysconfVar, sysconf};
use serde_json::json;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs, thread,
    time::{Duration, Instant},
};

/// What there is, at scale 1.
const SERVICES: usize = 1_000;
const POOLS: usize = 4;
const BACKENDS: usize = 5_000;
const TARGETS: usize = 1_000;
const REGIONS: usize = 3;
const ZONES: usize = 3;
const RACKS: usize = 20;
/// Backends of one set.
const SET: usize = 5;
/// Sets of one pool.
const SETS_PER_POOL: usize = 2;
/// Times that each thing is done, unless the environment says otherwise.
const RUNS: usize = 10;
/// How long the CPU share is measured.
const CPU_TIME: Duration = Duration::from_secs(10);
/// How long the daemon may take to be ready.
const READY: Duration = Duration::from_secs(120);
/// Between two looks.
const STEP: Duration = Duration::from_millis(2);

/// How many there are of what.
struct Size {
    services: usize,
    backends: usize,
    targets: usize,
}

/// Measures starting, reloading, dropping a zone, memory, and what heartbeats cost.
///
/// # Errors
/// The daemon does not start, or does not do what it is told.
pub fn control() -> Result<Vec<Measurement>> {
    let scale = setting("WEIR_BENCH_SCALE", 1)?.max(1);
    let runs = setting("WEIR_BENCH_RUNS", RUNS)?.max(1);
    let size = Size { services: SERVICES / scale, backends: BACKENDS / scale, targets: TARGETS / scale };
    let lab = Lab::builder().regions(&["west"]).zones(1).racks(1).backends(1).raise()?;
    let _answerer = lab.answer_everywhere()?;
    let path = lab.directory().join("edge-1.toml");
    fs::create_dir_all(lab.directory().join("edge-1"))?;
    fs::write(&path, configuration(&lab, &size, 100))?;

    eprintln!("bench control: starting");
    let begin = Instant::now();
    let daemon = lab.start_daemon(&path)?;
    while get(daemon.socket(), "/v1/status").is_err() {
        ensure!(begin.elapsed() < READY, "the daemon is not ready after {READY:?}: {}", daemon.log_tail());
        thread::sleep(STEP);
    }
    let mut results = vec![Measurement::of("start", "ms", vec![millis(begin)])];
    everyone_is_up(&daemon)?;

    eprintln!("bench control: cpu");
    let rounds = || -> Result<[u64; 2]> {
        let control = &get(daemon.socket(), "/v1/status")?["control"];
        let field = |name: &str| control[name].as_u64().with_context(|| format!("no {name} in {control}"));
        Ok([field("rounds")?, field("late_rounds")?])
    };
    let (cpu_before, [judged_before, late_before]) = (cpu_ns(&daemon)?, rounds()?);
    let begin = Instant::now();
    thread::sleep(CPU_TIME);
    let (cpu, elapsed) = (cpu_ns(&daemon)?, begin.elapsed());
    let [judged, late] = rounds()?;
    let name = format!("cpu of {} heartbeat targets at 10 ms", size.targets);
    for (place, part) in ["the daemon's own", "the kernel's, with links and far end"].iter().enumerate() {
        let percent = (cpu[place] - cpu_before[place]) as f64 / elapsed.as_nanos() as f64 * 100.0;
        results.push(Measurement::of(&format!("{name}, {part}"), "% of one CPU", vec![percent]));
    }
    let judged = (judged - judged_before) as f64;
    results.push(Measurement::of("rounds of heartbeats judged", "1/s", vec![judged / elapsed.as_secs_f64()]));
    let late = (late - late_before) as f64 / judged.max(1.0) * 100.0;
    results.push(Measurement::of("rounds for which the thread was late", "%", vec![late]));
    results.extend(memory(&daemon)?);

    eprintln!("bench control: dropping a zone");
    results.extend(drops(&daemon, runs)?);

    eprintln!("bench control: reloading");
    let mut times = Vec::new();
    for run in 0..runs {
        fs::write(&path, configuration(&lab, &size, 101 + run % 2))?;
        let begin = Instant::now();
        let (_, told) = post(daemon.socket(), "/v1/reload", &json!({}))?;
        times.push(millis(begin));
        ensure!(told["changed"] == true, "a reload changed nothing: {told}");
    }
    results.push(Measurement::of("reload of one changed weight", "ms", times));
    Ok(results)
}

/// Fails and restores a zone again and again.
fn drops(daemon: &Daemon<'_>, runs: usize) -> Result<Vec<Measurement>> {
    let (mut whole, mut inner) = (Vec::new(), Vec::new());
    for _ in 0..runs {
        for action in ["fail", "restore"] {
            let path = format!("/v1/domains/actions/{action}");
            let body = json!({ "domain": "r2/z2", "reason": "benchmark" });
            let (at_ns, told) = post(daemon.socket(), &path, &body)?;
            let field = |name: &str| told[name].as_u64().with_context(|| format!("no {name} in {told}"));
            if action == "fail" {
                let (decided_ns, stored_ns) = (field("decided_ns")?, field("stored_ns")?);
                whole.push(stored_ns.saturating_sub(at_ns) as f64 / 1e3);
                inner.push(stored_ns.saturating_sub(decided_ns) as f64 / 1e3);
            }
        }
    }
    Ok(vec![
        Measurement::of("drop of a zone, request to store", "us", whole),
        Measurement::of("drop of a zone, decision to store", "us", inner),
    ])
}

fn everyone_is_up(daemon: &Daemon<'_>) -> Result<()> {
    let begin = Instant::now();
    loop {
        let backends = &get(daemon.socket(), "/v1/status")?["backends"];
        let others = backends.as_object().context("counts of backends")?;
        if others.iter().filter(|(state, _)| *state != "up").all(|(_, count)| count == 0) {
            return Ok(());
        }
        ensure!(begin.elapsed() < READY, "not every backend is up: {backends}");
        thread::sleep(Duration::from_millis(50));
    }
}

fn millis(begin: Instant) -> f64 {
    begin.elapsed().as_secs_f64() * 1e3
}

/// CPU time of a daemon so far, in nanoseconds: its own, and the kernel's for it. The latter has in it what the lab's links, its router and the
/// program that answers do for each heartbeat: a virtual link carries a packet to its other end in the sender's system call.
fn cpu_ns(daemon: &Daemon<'_>) -> Result<[u64; 2]> {
    let text = fs::read_to_string(format!("/proc/{}/stat", daemon.pid()))?;
    // The name, in brackets, may hold spaces; `utime` and `stime` are the 12th and 13th field behind it (proc(5)).
    let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat")?;
    let mut fields = fields.split_whitespace().skip(11).map(str::parse::<u64>);
    let per_second = sysconf(SysconfVar::CLK_TCK)?.context("CLK_TCK")? as u64;
    let mut next = || -> Result<u64> {
        Ok(fields.next().context("/proc/PID/stat is short")?? * 1_000_000_000 / per_second)
    };
    Ok([next()?, next()?])
}

/// Resident memory, and that of the BPF maps that the daemon has open.
fn memory(daemon: &Daemon<'_>) -> Result<Vec<Measurement>> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let kib = |key: &str| -> Result<f64> {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).with_context(|| key.to_owned())?;
        Ok(line.trim_start_matches(':').trim().trim_end_matches(" kB").trim().parse()?)
    };
    let mut maps = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{}/fdinfo", daemon.pid()))?.flatten() {
        // A descriptor may be closed meanwhile.
        let info = fs::read_to_string(entry.path()).unwrap_or_default();
        let field =
            |key: &str| info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse::<u64>().ok());
        if let (Some(id), Some(bytes)) = (field("map_id:"), field("memlock:")) {
            maps.insert(id, bytes);
        }
    }
    let of_maps = maps.values().sum::<u64>() as f64 / 1024.0;
    Ok(vec![
        Measurement::of("resident memory, with mapped BPF maps", "KiB", vec![kib("VmRSS")?]),
        Measurement::of("resident memory of its own", "KiB", vec![kib("RssAnon")?]),
        Measurement::of("kernel memory of BPF maps", "KiB", vec![of_maps]),
    ])
}

/// The file. One backend has this weight, the others 100.
fn configuration(lab: &Lab, size: &Size, weight: usize) -> String {
    let files = lab.directory().display();
    let mut text = format!(
        "[node]\nname = \"edge-1\"\nregion = \"r1\"\ninterfaces = [\"eth0\", \"{ANSWERED_INTERFACE}\"]\n\
         hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n\
         tunnel_source_v4 = \"10.255.0.0/16\"\nstate_dir = \"{files}/edge-1\"\nsocket = \"{files}/edge-1.sock\"\n\
         bpffs = \"{files}/bpf/edge-1\"\n"
    );
    let racks: Vec<_> = (1..=RACKS).map(|rack| format!("\"k{rack}\"")).collect();
    for region in 1..=REGIONS {
        let _ = writeln!(text, "[topology.r{region}]");
        for zone in 1..=ZONES {
            let _ = writeln!(text, "z{zone} = [{}]", racks.join(", "));
        }
    }
    text += "[[check]]\nname = \"beat\"\nkind = \"heartbeat\"\ninterval = \"10ms\"\nfall = 3\nrise = 2\n";
    let sets = size.backends / SET;
    for set in 0..sets {
        let zone = set % (REGIONS * ZONES);
        let path = format!("r{}/z{}", 1 + zone / ZONES, 1 + zone % ZONES);
        let checks = if set * SET < size.targets { "\"beat\"" } else { "" };
        let _ = writeln!(text, "[[set]]\nname = \"s{set}\"\ndomain = \"{path}\"\nchecks = [{checks}]");
        for backend in set * SET..(set + 1) * SET {
            let (a, b) = (backend / 250, 1 + backend % 250);
            let weight = if backend == 0 { weight } else { 100 };
            let _ = writeln!(
                text,
                "[[set.backend]]\nname = \"b{backend}\"\nrack = \"{path}/k{}\"\naddress = \"10.50.{a}.{b}\"\nweight = {weight}",
                1 + backend % RACKS
            );
        }
    }
    for service in 0..size.services {
        let (a, b) = (service / 250, 1 + service % 250);
        let _ = writeln!(
            text,
            "[[service]]\nname = \"v{service}\"\naddress = \"10.200.{a}.{b}\"\nport = 80\nprotocol = \"tcp\""
        );
        for pool in 0..POOLS {
            // Each service begins elsewhere, and no two of its pools share a set.
            let of_pool =
                (0..SETS_PER_POOL).map(|i| (service + (pool * SETS_PER_POOL + i) * (sets / 8).max(1)) % sets);
            let names: Vec<_> = of_pool.map(|set| format!("\"s{set}\"")).collect();
            let _ = writeln!(
                text,
                "[[service.pool]]\nname = \"p{pool}\"\nsets = [{}]\ntable_size = 4093",
                names.join(", ")
            );
        }
        text += "[service.plan]\ndefault = [\"p0\", \"p1\", \"p2\", \"p3\"]\n";
    }
    text
}
