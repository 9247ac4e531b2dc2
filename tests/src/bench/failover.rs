//! From cutting off a rack to the last packet that was sent to it.
//!
//! Datagrams of flows that belong to the rack are sent all the time, one every [`PROBE_PERIOD`], so that the last packet is
//! at most so much earlier than the moment from which on none could have been sent. A run in which the sender was kept
//! from running for longer than [`BLIND_MAX_NS`] right then says nothing, and is repeated. The cut, and the count of packets
//! towards the rack, are programs on the router's ports: exact to microseconds.
use super::Measurement;
use crate::{
    clock::monotonic_ns,
    journal::{self, EVENTS_MAX, Event},
    lab::{ConfigOptions, Cut, Daemon, Lab, TunnelTraffic, echo_vips},
};
use anyhow::{Context, Result, bail, ensure};
use std::{
    net::UdpSocket,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

/// How often a rack is cut off.
const RUNS: usize = 24;
/// The racks that are, in turn. More than one, and not the zone's only one.
const RACKS: [&str; 4] = ["west/w1/r1", "west/w2/r2", "west/w1/r2", "west/w2/r1"];
/// Time between two datagrams to the rack.
const PROBE_PERIOD: Duration = Duration::from_micros(200);
/// Longest time after the last packet without another being sent elsewhere.
const BLIND_MAX_NS: u64 = 500_000;
/// Most runs, with those that say nothing.
const ATTEMPTS_MAX: usize = 3 * RUNS;
/// Source ports that are asked for flows of the rack.
const PORTS: std::ops::Range<u16> = 20_000..20_256;
/// No packet for so long: the last one was the last.
const QUIET: Duration = Duration::from_millis(150);
/// How long the daemon may take for anything.
const TIMEOUT: Duration = Duration::from_secs(15);
/// Between two looks.
const STEP: Duration = Duration::from_millis(10);

/// What one run took, in milliseconds from the cut.
struct Run {
    suspect_stored: f64,
    down_stored: f64,
    last_packet: f64,
}

/// Cuts off racks under a 3 ms heartbeat, and measures when the daemon acted and when the last packet went there.
///
/// # Errors
/// Anything that keeps a run from ending, such as a rack that is not found to be down.
pub fn failover() -> Result<Vec<Measurement>> {
    let lab = Lab::builder().raise()?;
    lab.start_agents()?;
    let daemon = lab.start_daemon(&lab.write_config(&ConfigOptions::default())?)?;
    daemon.wait_ready(TIMEOUT)?;
    let mut runs = Vec::new();
    for rack in RACKS.iter().cycle().take(ATTEMPTS_MAX) {
        let number = runs.len() + 1;
        match run(&lab, &daemon, rack).with_context(|| format!("run {number}, {rack}"))? {
            Some(run) => {
                eprintln!("run {number:2} of {RUNS}: {rack}: last packet after {:.3} ms", run.last_packet);
                runs.push(run);
            }
            None => eprintln!("run {number:2} of {RUNS}: {rack}: the sender was not running; again"),
        }
        if runs.len() == RUNS {
            break;
        }
    }
    ensure!(
        runs.len() == RUNS,
        "the machine is too busy: {} runs of {ATTEMPTS_MAX} say something",
        runs.len()
    );
    let of =
        |case: &str, value: fn(&Run) -> f64| Measurement::of(case, "ms", runs.iter().map(value).collect());
    Ok(vec![
        of("rack cut to last packet sent to it", |run| run.last_packet),
        of("rack cut to SUSPECT stored", |run| run.suspect_stored),
        of("rack cut to DOWN stored", |run| run.down_stored),
    ])
}

/// `None` if the sender was not running when it mattered.
fn run(lab: &Lab, daemon: &Daemon<'_>, rack: &str) -> Result<Option<Run>> {
    let sockets = sockets_of(lab, rack)?;
    let stop = AtomicBool::new(false);
    let (result, sent_ns) = thread::scope(|scope| {
        let sender = scope.spawn(|| probe(&sockets, &stop));
        let result = cut_and_restore(lab, daemon, rack);
        stop.store(true, Ordering::Relaxed);
        (result, sender.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    let (run, last_ns) = result?;
    let next_ns = sent_ns.into_iter().find(|&sent_ns| sent_ns > last_ns);
    Ok(next_ns.is_some_and(|next_ns| next_ns - last_ns <= BLIND_MAX_NS).then_some(run))
}

/// Sockets of flows whose home is in the rack, which must be in service.
fn sockets_of(lab: &Lab, rack: &str) -> Result<Vec<UdpSocket>> {
    let (client, vip) = ("west", echo_vips()[0]);
    let names = lab.topology().names_in(rack);
    let flows = lab.udp_flow_map(client, vip, PORTS)?;
    let ports: Vec<u16> =
        (flows.served.iter()).filter(|(_, name)| names.contains(*name)).map(|(&p, _)| p).collect();
    ensure!(!ports.is_empty(), "no flow of {} belongs to {rack}", flows.served.len());
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

/// The run, and when the last packet went to the rack.
fn cut_and_restore(lab: &Lab, daemon: &Daemon<'_>, rack: &str) -> Result<(Run, u64)> {
    let before = lab.tunnel_traffic(rack)?;
    wait("packets reach the rack", || {
        Ok((lab.tunnel_traffic(rack)?.packets > before.packets + 100).then_some(()))
    })?;
    let cut = lab.cut(rack, Cut::Drop)?;
    let event = |state, since_ns| {
        wait(&format!("{rack} is {state}"), || {
            let events = journal::parse(daemon.cli_json(&["events", "-n", EVENTS_MAX])?)?;
            Ok(journal::first(&events, rack, state, since_ns).cloned())
        })
    };
    let down = event("DOWN", cut.begin_ns)?;
    let suspect = event("SUSPECT", cut.begin_ns)?;
    let last = wait_for_quiet(lab, rack)?;
    let restored = lab.restore(rack)?;
    event("UP", restored.begin_ns)?;
    let ms = |at_ns: u64| (at_ns as f64 - cut.end_ns as f64) / 1e6;
    let stored = |event: &Event| event.stored_ns.context("the event has no stored_ns");
    let run = Run {
        suspect_stored: ms(stored(&suspect)?),
        down_stored: ms(stored(&down)?),
        last_packet: ms(last.last_ns),
    };
    Ok((run, last.last_ns))
}

/// Until no packet has been sent to the rack for a while.
fn wait_for_quiet(lab: &Lab, rack: &str) -> Result<TunnelTraffic> {
    let mut seen = (lab.tunnel_traffic(rack)?, Instant::now());
    wait("packets to the rack end", || {
        let now = lab.tunnel_traffic(rack)?;
        if now != seen.0 {
            seen = (now, Instant::now());
        }
        Ok((seen.1.elapsed() >= QUIET).then_some(now))
    })
}

fn wait<T>(what: &str, mut condition: impl FnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(value) = condition()? {
            return Ok(value);
        }
        if Instant::now() > deadline {
            bail!("not within {TIMEOUT:?}: {what}");
        }
        thread::sleep(STEP);
    }
}
