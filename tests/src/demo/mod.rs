//! The demo: a lab, a daemon, steady traffic; a rack dies, then a zone; both come back. Ends with a timeline and a table.
mod analysis;
mod report;
mod view;

use crate::{
    clock::monotonic_ns,
    journal::{self, EVENTS_MAX, Event},
    lab::{ConfigOptions, Cut, Daemon, FaultTime, Lab, web_vips},
    load::{Request, SteadyLoad, Traffic},
};
use anyhow::{Context, Result, bail};
use std::{
    thread,
    time::{Duration, Instant},
};
use view::{Frame, View};

/// How long the daemon may take to be ready, and every VIP to answer.
const READY_TIMEOUT: Duration = Duration::from_secs(15);
/// Traffic before the first fault: long enough for every flow to have shown its home.
const WARM_UP: Duration = Duration::from_secs(5);
/// From one fault to the next.
const FAULT_PHASE: Duration = Duration::from_secs(4);
/// How long the daemon may take to take everything back into service.
const RECOVERY_TIMEOUT: Duration = Duration::from_secs(8);
/// Traffic after that: as long as the warm-up, so that every flow is seen again.
const COOL_DOWN: Duration = Duration::from_secs(5);
/// Between two looks at the clock.
const STEP: Duration = Duration::from_millis(20);

/// What fails, in this order.
const FAULTS: [&str; 2] = ["west/w1/r1", "west/w2"];

/// A fault of the demo, as it was made.
struct Fault {
    domain: &'static str,
    cut: FaultTime,
    /// CLOCK_MONOTONIC of the last tunnelled packet that was sent towards the domain while it was cut.
    last_packet_ns: u64,
    restored: FaultTime,
}

struct Demo<'lab> {
    lab: &'lab Lab,
    daemon: Daemon<'lab>,
    traffic: Vec<Traffic>,
    view: View,
    /// Requests of each client that were shown.
    shown: Vec<usize>,
    last_frame: Instant,
    events: Vec<Event>,
}

/// Runs the demo, which cuts in this way.
///
/// # Errors
/// Anything that keeps it from running to its end. Returns whether everything was as it must be: both faults found,
/// and no flow of another backend moved.
pub fn run(cut: Cut) -> Result<bool> {
    println!(
        "Raising the lab: two regions of two zones of two racks of two backends, two clients, one edge."
    );
    let lab = Lab::builder().raise()?;
    lab.start_agents()?;
    let daemon = lab.start_daemon(&lab.write_config(&ConfigOptions::default())?)?;
    daemon.wait_ready(READY_TIMEOUT)?;
    wait_for_vips(&lab)?;
    // Dense enough that a packet goes to each rack every millisecond or two.
    let load = SteadyLoad {
        kept: 40,
        kept_period: Duration::from_millis(50),
        new_per_second: 500,
        new_ports: 1000,
        ..SteadyLoad::default()
    };
    let regions = &lab.topology().shape.regions;
    let traffic =
        regions.iter().map(|region| lab.steady(region, load.clone())).collect::<Result<Vec<_>>>()?;
    let shown = vec![0; traffic.len()];
    let view = View::new();
    let demo =
        Demo { lab: &lab, daemon, traffic, view, shown, last_frame: Instant::now(), events: Vec::new() };
    demo.play(cut)
}

/// Until curl got an answer from both VIPs in both client regions.
fn wait_for_vips(lab: &Lab) -> Result<()> {
    let deadline = Instant::now() + READY_TIMEOUT;
    for region in &lab.topology().shape.regions {
        for vip in web_vips() {
            while let Err(error) = lab.curl_vip(region, vip) {
                if Instant::now() > deadline {
                    return Err(error).context("a VIP does not answer");
                }
            }
        }
    }
    Ok(())
}

impl Demo<'_> {
    fn play(mut self, cut: Cut) -> Result<bool> {
        self.view.say("steady traffic from both client regions, on kept and on new connections, v4 and v6");
        let begin_ns = monotonic_ns();
        self.watch("all is well", WARM_UP, |_| false)?;
        let mut faults = Vec::new();
        for domain in FAULTS {
            let time = self.lab.cut(domain, cut)?;
            self.view.say(&format!("{domain} is cut off"));
            faults.push(Fault { domain, cut: time, last_packet_ns: 0, restored: time });
            self.watch(&format!("{domain} is cut off"), FAULT_PHASE, |_| false)?;
        }
        for fault in &mut faults {
            fault.last_packet_ns = self.lab.tunnel_traffic(fault.domain)?.last_ns;
        }
        for fault in &mut faults {
            fault.restored = self.lab.restore(fault.domain)?;
        }
        let restored_ns = monotonic_ns();
        self.view.say("both are connected again");
        let topology = self.lab.topology();
        let is_up = |events: &[Event]| {
            let is_back =
                |name: &String| journal::last(events, name, begin_ns).is_none_or(|e| e.says(name, "UP"));
            FAULTS.iter().all(|domain| {
                let up = journal::first(events, domain, "UP", restored_ns).is_some();
                up && topology.names_in(domain).iter().all(is_back)
            })
        };
        self.watch("both are connected again", RECOVERY_TIMEOUT, is_up)?;
        self.watch("all is back", COOL_DOWN, |_| false)?;
        let requests = self.finish()?;
        let phases = [
            &[begin_ns][..],
            &faults.iter().map(|fault| fault.cut.begin_ns).collect::<Vec<_>>(),
            &[restored_ns],
        ];
        Ok(report::print(self.lab.topology(), &faults, &phases.concat(), &requests, &self.events))
    }

    /// Shows what goes on for this long, or until the events are as wanted.
    fn watch(&mut self, headline: &str, time: Duration, is_over: impl Fn(&[Event]) -> bool) -> Result<()> {
        let end = Instant::now() + time;
        while Instant::now() < end {
            thread::sleep(STEP);
            if self.view.is_due() {
                self.refresh(headline)?;
                if is_over(&self.events) {
                    break;
                }
            }
        }
        Ok(())
    }

    fn refresh(&mut self, headline: &str) -> Result<()> {
        self.read_events()?;
        let mut requests = Vec::new();
        for (traffic, shown) in self.traffic.iter().zip(&mut self.shown) {
            let new = traffic.records_from(*shown);
            *shown += new.len();
            requests.extend(new);
        }
        let interval = self.last_frame.elapsed();
        self.last_frame = Instant::now();
        let topology = self.lab.topology();
        self.view.draw(&Frame { headline, topology, requests: &requests, interval, events: &self.events });
        Ok(())
    }

    fn read_events(&mut self) -> Result<()> {
        self.events = journal::parse(self.daemon.cli_json(&["events", "-n", EVENTS_MAX])?)?;
        Ok(())
    }

    /// Ends traffic and daemon; returns all requests.
    fn finish(&mut self) -> Result<Vec<Request>> {
        let mut requests = Vec::new();
        for traffic in self.traffic.drain(..) {
            requests.extend(traffic.stop()?);
        }
        self.read_events()?;
        let status = self.daemon.sigterm()?;
        if !status.success() {
            bail!("the daemon ended with {status} after SIGTERM:\n{}", self.daemon.log_tail());
        }
        Ok(requests)
    }
}
