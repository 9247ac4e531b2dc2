//! From a fault to the last packet that was sent to what is dead, for each kind of fault.
//!
//! Two kinds of packets are sent all the time. Datagrams of flows that belong to whatever is about to fail, one every
//! [`PROBE_PERIOD`], so that the last packet is at most so much earlier than the moment from which on none could have been sent. A
//! run in which their sender was kept from running for longer than [`BLIND_MAX_US`] right then says nothing, and is repeated. And the
//! steady traffic of 1,200 flows, of which lost requests, and flows of others that move, are counted.
//!
//! A cut, and the count of packets towards a rack, are programs on the router's ports: exact to microseconds. For what fails in single
//! backends each stands in a rack of its own, so that packets to it are counted apart.
//!
//! `WEIR_BENCH_FAULTS` is how many faults of each kind there are, `WEIR_BENCH_CASES` a part of the names of the kinds that are to be
//! measured, `WEIR_BENCH_ALARM_SECONDS` how long false alarms are waited for. `WEIR_BENCH_BLIND_US` lets runs count for which the sender did
//! not run for so long: on a machine that does other work, to see that all goes its way.

mod alarms;
mod kinds;
mod traffic;

use super::{Measurement, setting};
use crate::{
    clock::monotonic_ns,
    journal::{self, EVENTS_MAX, Event},
    lab::{Daemon, Lab, TunnelTraffic, echo_vips},
};
use anyhow::{Context, Result, bail, ensure};
use kinds::{Bench, Kind};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
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
    /// What else was said to be SUSPECT or DOWN meanwhile: it was well.
    alarms: usize,
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
        let runs = measure(kind).with_context(|| kind.name().to_owned())?;
        results.extend(summed_up(kind.name(), &runs));
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

fn measure(kind: Kind) -> Result<Vec<Run>> {
    let wanted = setting("WEIR_BENCH_FAULTS", FAULTS)?.max(1);
    let lab = kind.lab()?;
    let bench = Bench::start(&lab, kind)?;
    let steady = Steady::start(&lab)?;
    let homes = steady.homes(TIMEOUT)?;
    let flows = lab.udp_flow_map("west", echo_vips()[0], PORTS)?.served;
    let victims = kind.victims(&lab);
    let mut runs = Vec::new();
    for victim in victims.iter().cycle().take(ATTEMPTS_PER_FAULT * wanted) {
        let number = runs.len() + 1;
        let one = run(&bench, victim, &flows, (&steady, &homes));
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
            return Ok(runs);
        }
    }
    bail!("the machine is too busy: {} runs of {} say something", runs.len(), ATTEMPTS_PER_FAULT * wanted)
}

fn summed_up(kind: &str, runs: &[Run]) -> Vec<Measurement> {
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
    let alarms = vec![runs.iter().map(|run| run.alarms).sum::<usize>() as f64];
    results.push(Measurement::of(&format!("{kind}: others suspected or down, all faults"), "events", alarms));
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
) -> Result<Option<Run>> {
    let (dead, since_ns) = (bench.dead(victim)?, monotonic_ns());
    let sockets = sockets_of(bench.lab, flows, &dead)?;
    let stop = AtomicBool::new(false);
    let (result, sent_ns) = thread::scope(|scope| {
        let sender = scope.spawn(|| probe(&sockets, &stop));
        let result = fail_and_heal(bench, victim, steady);
        stop.store(true, Ordering::Relaxed);
        (result, sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (mut run, last_ns) = result?;
    run.harm = harm(&steady.records(), homes, &dead);
    let events = events(&bench.daemon)?;
    let alarms = alarms_of_others(&events, (victim, &dead), since_ns);
    for alarm in &alarms {
        let (at_ms, to) = ((alarm.monotonic_ns - since_ns) as f64 / 1e6, alarm.to.as_deref().unwrap_or("?"));
        eprintln!("  meanwhile, {at_ms:.3} ms after it began: {} {to}: {}", alarm.subject, alarm.cause);
    }
    run.alarms = alarms.len();
    steady.homes(TIMEOUT)?;
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
fn probe(sockets: &[UdpSocket], stop: &AtomicBool) -> Vec<u64> {
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
    sent_ns
}

/// The run but for its harm, and when the last packet went to what failed.
fn fail_and_heal(bench: &Bench<'_>, victim: &str, steady: &Steady) -> Result<(Run, u64)> {
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
        alarms: 0,
    };
    Ok((run, last.last_ns))
}

/// What was said to be SUSPECT or DOWN since a moment, and does not lie in what failed.
fn alarms_of_others<'a>(
    events: &'a [Event],
    (victim, dead): (&str, &BTreeSet<String>),
    since_ns: u64,
) -> Vec<&'a Event> {
    let is_of_victim = |event: &Event| {
        let below = event.subject.strip_prefix(victim);
        dead.contains(&event.subject) || below.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_alarm = |event: &&Event| {
        let of_state = matches!(event.kind.as_str(), "domain-state" | "backend-state");
        let bad = matches!(event.to.as_deref(), Some("SUSPECT" | "DOWN"));
        event.monotonic_ns >= since_ns && of_state && bad && !is_of_victim(event)
    };
    events.iter().filter(is_alarm).collect()
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
    use crate::journal::testing::event;

    #[test]
    fn alarms_are_of_what_did_not_fail() {
        let events = [
            event("w/z1/r1", "domain-state", "DOWN", 10),
            event("w/z1", "domain-state", "SUSPECT", 11),
            event("a", "backend-state", "DOWN", 12),
            event("w/z1/r10", "domain-state", "SUSPECT", 13),
            event("b", "backend-state", "DOWN", 14),
            event("b", "backend-state", "UP", 15),
            event("b", "plan", "DOWN", 16),
            event("c", "backend-state", "DOWN", 9),
        ];
        let events = journal::parse(serde_json::Value::from(events.to_vec())).unwrap();
        let dead = BTreeSet::from(["a".to_owned()]);
        let alarms = alarms_of_others(&events, ("w/z1/r1", &dead), 10);
        let names: Vec<_> = alarms.iter().map(|event| event.subject.as_str()).collect();
        assert_eq!(names, ["w/z1", "w/z1/r10", "b"]);
    }

    #[test]
    fn a_percentile_is_one_of_the_values() {
        let values: Vec<f64> = (1..=50).map(f64::from).collect();
        assert_eq!([50, 99, 100].map(|percent| percentile(&values, percent)), [25.0, 50.0, 50.0]);
        assert!((percentile(&[3.0], 99) - 3.0).abs() < f64::EPSILON);
    }
}
