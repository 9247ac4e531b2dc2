//! From a fault to the last packet that was sent to what is dead, for each kind of fault.
//!
//! Two kinds of packets are sent all the time. Datagrams of flows that belong to whatever is about to fail, one every
//! [`PROBE_PERIOD`], so that the last packet is at most so much earlier than the moment from which on none could have been sent. A
//! run in which their sender was kept from running for longer than [`BLIND_MAX_US`] right then says nothing, and is repeated. And the
//! steady traffic of 1,200 flows, of which lost requests, and flows of others that move, are counted.
//!
//! Before each fault everything is well ([`ready`]). What happens to others is counted over all of a kind's time, also between its faults
//! ([`others`]).
//!
//! A cut, and the count of packets towards a rack, are programs on the router's ports: exact to microseconds. For what fails in single
//! backends each stands in a rack of its own, so that packets to it are counted apart.
//!
//! `WEIR_BENCH_FAULTS` is how many faults of each kind there are, `WEIR_BENCH_CASES` a part of the names of the kinds that are to be
//! measured, `WEIR_BENCH_ALARM_SECONDS` how long false alarms are waited for. `WEIR_BENCH_BLIND_US` lets runs count for which the sender did
//! not run for so long: on a machine that does other work, to see that all goes its way.

mod alarms;
mod kinds;
mod others;
mod ready;
mod traffic;

use super::{Measurement, setting};
use crate::{
    clock::monotonic_ns,
    journal::{self, EVENTS_MAX, Event},
    lab::{Daemon, Lab, TunnelTraffic, echo_vips},
};
use anyhow::{Context, Result, bail, ensure};
use kinds::{Bench, Kind};
use nix::unistd::gettid;
use others::{Fault, Watch};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    process::Command,
    sync::Arc,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use traffic::{Harm, Steady, harm};

/// Faults of each kind, unless the environment says otherwise.
const FAULTS: usize = 50;
/// Runs that are tried for each one that counts.
const ATTEMPTS_PER_FAULT: usize = 4;
/// Time between two datagrams to what is about to fail.
const PROBE_PERIOD: Duration = Duration::from_micros(200);
/// Longest time after the last packet without another being sent elsewhere, in microseconds, unless the environment says otherwise.
const BLIND_MAX_US: usize = 500;
/// Real-time priority of the thread that sends those datagrams.
const SENDER_PRIORITY: &str = "5";
/// Source ports that are asked for flows of what is about to fail.
const PORTS: std::ops::Range<u16> = 20_000..20_512;
/// No packet for so long: the last one was the last.
const QUIET: Duration = Duration::from_millis(150);
/// Requests that were on their way when something came back have had their answer, or will have none.
const SETTLED: Duration = Duration::from_millis(600);
/// How long the daemon may take for anything.
const TIMEOUT: Duration = Duration::from_secs(20);
/// Between two looks.
const STEP: Duration = Duration::from_millis(5);

/// What one fault took, in milliseconds from its beginning, and did.
struct Run {
    /// SUSPECT was stored, where that came first.
    suspect_stored: Option<f64>,
    down_stored: f64,
    /// From the decision to the store that took it out.
    program: f64,
    last_packet: f64,
    harm: Harm,
}

/// Makes every kind of fault under steady traffic, and measures when the daemon acted, when the last packet went to what is dead, and
/// what it cost; then waits for false alarms under full load.
///
/// # Errors
/// Anything that keeps a run from ending, such as a rack that is not found to be down.
pub fn failover() -> Result<Vec<Measurement>> {
    let mut results = Vec::new();
    for kind in Kind::ALL {
        if !is_wanted(kind.name()) {
            continue;
        }
        let (runs, alarms) = measure(kind).with_context(|| kind.name().to_owned())?;
        results.extend(summed_up(kind.name(), &runs, alarms));
    }
    if is_wanted(alarms::NAME) {
        results.extend(alarms::wait_for_alarms().context(alarms::NAME)?);
    }
    ensure!(!results.is_empty(), "WEIR_BENCH_CASES names no kind of fault");
    Ok(results)
}

fn is_wanted(name: &str) -> bool {
    std::env::var("WEIR_BENCH_CASES").map_or(true, |part| name.contains(&part))
}

/// The runs, and how often something else was said to be SUSPECT or DOWN though it was well.
fn measure(kind: Kind) -> Result<(Vec<Run>, usize)> {
    let wanted = setting("WEIR_BENCH_FAULTS", FAULTS)?.max(1);
    let lab = kind.lab()?;
    let bench = Bench::start(&lab, kind)?;
    let steady = Steady::start(&lab)?;
    let homes = steady.homes(TIMEOUT)?;
    let flows = lab.udp_flow_map("west", echo_vips()[0], PORTS)?.served;
    let victims = kind.victims(&lab);
    let (mut runs, mut watch) = (Vec::new(), Watch::new(monotonic_ns()));
    for victim in victims.iter().cycle().take(ATTEMPTS_PER_FAULT * wanted) {
        let number = runs.len() + 1;
        ready::wait(&bench, &steady, &homes)?;
        let one = run(&bench, victim, &flows, (&steady, &homes), &mut watch);
        match one.with_context(|| format!("fault {number}, {victim}"))? {
            Some(run) => {
                let moved = match run.harm.moved {
                    0 => String::new(),
                    moved => format!(", {moved} FLOWS OF OTHERS MOVED"),
                };
                eprintln!(
                    "{} {number:2} of {wanted}: {victim}: last packet after {:.3} ms, {} lost{moved}",
                    kind.name(),
                    run.last_packet,
                    run.harm.lost
                );
                runs.push(run);
            }
            None => eprintln!(
                "{} {number:2} of {wanted}: {victim}: the sender was not running; again",
                kind.name()
            ),
        }
        if runs.len() == wanted {
            ready::wait(&bench, &steady, &homes)?;
            let until_ns = monotonic_ns();
            watch.count(&events(&bench.daemon)?, None, until_ns);
            return Ok((runs, watch.alarms()));
        }
    }
    bail!("the machine is too busy: {} runs of {} say something", runs.len(), ATTEMPTS_PER_FAULT * wanted)
}

fn summed_up(kind: &str, runs: &[Run], alarms: usize) -> Vec<Measurement> {
    let mut results = Vec::new();
    let mut add = |what: &str, unit, values: Vec<f64>| {
        if !values.is_empty() {
            let p99 = percentile(&values, 99);
            results.push(Measurement::of(&format!("{kind}: {what}"), unit, values));
            results.push(Measurement::of(&format!("{kind}: {what}, p99"), unit, vec![p99]));
        }
    };
    add("fault to SUSPECT stored", "ms", runs.iter().filter_map(|run| run.suspect_stored).collect());
    add("fault to DOWN stored", "ms", runs.iter().map(|run| run.down_stored).collect());
    add("decision to store", "ms", runs.iter().map(|run| run.program).collect());
    add("fault to last packet", "ms", runs.iter().map(|run| run.last_packet).collect());
    let sum = |of: fn(&Harm) -> usize| vec![runs.iter().map(|run| of(&run.harm)).sum::<usize>() as f64];
    results.push(Measurement::of(
        &format!("{kind}: requests lost, each fault"),
        "requests",
        runs.iter().map(|run| run.harm.lost as f64).collect(),
    ));
    results.push(Measurement::of(
        &format!("{kind}: flows of others moved, all faults"),
        "flows",
        sum(|harm| harm.moved),
    ));
    let alarms = vec![alarms as f64];
    results.push(Measurement::of(
        &format!("{kind}: others suspected or down, also between faults"),
        "events",
        alarms,
    ));
    results
}

/// The smallest value that so many percent do not exceed.
fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[(values.len() * percent).div_ceil(100).max(1) - 1]
}

/// `None` if the sender was not running when it mattered.
fn run(
    bench: &Bench<'_>,
    victim: &str,
    flows: &BTreeMap<u16, String>,
    (steady, homes): (&Steady, &BTreeMap<u16, Arc<str>>),
    watch: &mut Watch,
) -> Result<Option<Run>> {
    let dead = bench.dead(victim)?;
    let sockets = sockets_of(bench.lab, flows, &dead)?;
    let stop = AtomicBool::new(false);
    let (result, sent_ns) = thread::scope(|scope| {
        let sender = scope.spawn(|| probe(&sockets, &stop));
        let result = fail_and_heal(bench, victim, steady);
        stop.store(true, Ordering::Relaxed);
        (result, sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (mut run, last_ns, begin_ns) = result?;
    let (harm, moves) = harm(&steady.records(), homes, &dead);
    run.harm = harm;
    let until_ns = monotonic_ns();
    let events = events(&bench.daemon)?;
    watch.count(&events, Some(&Fault { victim, dead: &dead, begin_ns }), until_ns);
    if !moves.is_empty() {
        others::explain(&moves, &events, begin_ns);
    }
    let sent_ns = sent_ns?;
    let next_ns = sent_ns.into_iter().find(|&sent_ns| sent_ns > last_ns);
    let blind_max_ns = setting("WEIR_BENCH_BLIND_US", BLIND_MAX_US)? as u64 * 1_000;
    Ok(next_ns.is_some_and(|next_ns| next_ns - last_ns <= blind_max_ns).then_some(run))
}

/// Sockets of flows whose home is one of these backends.
fn sockets_of(lab: &Lab, flows: &BTreeMap<u16, String>, names: &BTreeSet<String>) -> Result<Vec<UdpSocket>> {
    let (client, vip) = ("west", echo_vips()[0]);
    let ports: Vec<u16> = flows.iter().filter(|(_, name)| names.contains(*name)).map(|(&p, _)| p).collect();
    ensure!(!ports.is_empty(), "no flow of {} belongs to {names:?}", flows.len());
    let address = lab.topology().client(client)?.v4;
    lab.client_netns(client)?.run(|| {
        let open = |&port: &u16| -> Result<UdpSocket> {
            let socket = UdpSocket::bind((address, port))?;
            socket.connect(vip)?;
            Ok(socket)
        };
        ports.iter().map(open).collect()
    })
}

/// Sends until told to stop, and returns when each datagram was sent.
fn probe(sockets: &[UdpSocket], stop: &AtomicBool) -> Result<Vec<u64>> {
    raise_priority()?;
    let mut sent_ns = Vec::new();
    for socket in sockets.iter().cycle() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        sent_ns.push(monotonic_ns());
        // An "unreachable" that came back to the socket is no concern of a probe. Answers are left to fill its buffer.
        let _ = socket.send(b"who?");
        thread::sleep(PROBE_PERIOD);
    }
    Ok(sent_ns)
}

/// Gives this thread a real-time priority, below that of the daemon's threads: whether it runs decides whether a run says anything.
fn raise_priority() -> Result<()> {
    let thread = gettid().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", SENDER_PRIORITY, &thread]).status();
    ensure!(status.context("cannot run chrt")?.success(), "chrt gives the sender no real-time priority");
    Ok(())
}

/// The run but for its harm, when the last packet went to what failed, and when the fault began.
fn fail_and_heal(bench: &Bench<'_>, victim: &str, steady: &Steady) -> Result<(Run, u64, u64)> {
    let rack = bench.counted(victim)?;
    let before = bench.lab.tunnel_traffic(&rack)?;
    wait("packets reach what is to fail", TIMEOUT, || {
        Ok((bench.lab.tunnel_traffic(&rack)?.packets > before.packets + 100).then_some(()))
    })?;
    steady.forget();
    let fault = bench.fail(victim)?;
    let event = |state, since_ns| {
        wait(&format!("{victim} is {state}"), TIMEOUT, || {
            Ok(journal::first(&events(&bench.daemon)?, victim, state, since_ns).cloned())
        })
    };
    // First what costs nothing: to ask the daemon takes a process each time, and that CPU time is wanted just now.
    wait_for_quiet(bench.lab, &rack)?;
    let down = event("DOWN", fault.begin_ns)?;
    let suspect = journal::first(&events(&bench.daemon)?, victim, "SUSPECT", fault.begin_ns).cloned();
    let last = wait_for_quiet(bench.lab, &rack)?;
    let healed = bench.heal(victim)?;
    event("UP", healed.begin_ns)?;
    thread::sleep(SETTLED);
    let ms = |at_ns: u64| (at_ns as f64 - fault.end_ns as f64) / 1e6;
    let stored = |event: &Event| event.stored_ns.context("the event has no stored_ns");
    let suspect = suspect.filter(|suspect| suspect.monotonic_ns <= down.monotonic_ns);
    let first = suspect.as_ref().unwrap_or(&down);
    let decided_ns = first.decided_ns.context("the event has no decided_ns")?;
    let run = Run {
        suspect_stored: suspect.as_ref().map(&stored).transpose()?.map(ms),
        down_stored: ms(stored(&down)?),
        program: (stored(first)? - decided_ns) as f64 / 1e6,
        last_packet: ms(last.last_ns),
        harm: Harm::default(),
    };
    Ok((run, last.last_ns, fault.begin_ns))
}

fn events(daemon: &Daemon<'_>) -> Result<Vec<Event>> {
    journal::parse(daemon.cli_json(&["events", "-n", EVENTS_MAX])?)
}

/// Until no packet has been sent there for a while.
fn wait_for_quiet(lab: &Lab, rack: &str) -> Result<TunnelTraffic> {
    let mut seen = (lab.tunnel_traffic(rack)?, Instant::now());
    wait("packets to what failed end", TIMEOUT, || {
        let now = lab.tunnel_traffic(rack)?;
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        Ok((seen.1.elapsed() >= QUIET).then_some(now))
    })
}

fn wait<T>(what: &str, timeout: Duration, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + timeout;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("not within {timeout:?}: {what}");
        }
        thread::sleep(STEP);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [25.0, 50.0, 50.0]);
        assert!((percentile(&[3.0], 99) - 3.0).abs() < f64::EPSILON);
    }
}
