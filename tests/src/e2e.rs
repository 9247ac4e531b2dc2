//! What the end-to-end tests share: a daemon that is ready for them, waiting with a deadline, operators' commands, maps of
//! many flows, and connections that stay open.
//!
//! For tests only: what goes wrong panics, so that the lab quotes the logs of what ran in it.
use crate::{
    clock::monotonic_ns,
    lab::{ConfigOptions, Daemon, Lab, web_vips},
    load::{FlowMap, KeptFlows, Moved},
};
use anyhow::{Result, ensure};
use lb_userspace::{
    api::types::{Acted, BackendView, DomainView, Status},
    plan::state::State,
    telemetry::event::{Event, EventKind},
};
use serde::de::DeserializeOwned;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

/// How long anything that is waited for may take. Far longer than it does, on a machine that does much else.
pub const DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks.
const STEP: Duration = Duration::from_millis(5);
/// Most events that are asked for.
const EVENTS_MAX: &str = "1000";
/// Client regions of the usual lab.
pub const CLIENTS: [&str; 2] = ["west", "east"];
/// Source ports of flow maps: with both VIPs, 2,000 flows of each client.
pub const PORTS: Range<u16> = 20_000..21_000;

/// Heartbeats slow enough that a busy machine raises no false alarm: every 50 ms, DOWN after 3.
#[must_use]
pub fn calm() -> ConfigOptions {
    let pace = Duration::from_millis(50);
    ConfigOptions { interval: pace, timeout: pace, fall: 3, table_size: 16381, ..ConfigOptions::default() }
}

/// Two regions of two zones of two racks of two backends, with agents.
///
/// # Panics
/// If the machine refuses.
#[must_use]
pub fn raise() -> Lab {
    let lab = Lab::builder().raise().unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    lab
}

/// One rack of so many backends in region `west`, with agents: quickly made.
///
/// # Panics
/// If the machine refuses.
#[must_use]
pub fn raise_rack(backends: usize) -> Lab {
    let lab = Lab::builder().regions(&["west"]).zones(1).racks(1).backends(backends).raise();
    let lab = lab.unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    lab
}

/// A daemon with these options on the first edge: everything UP, both VIPs answering all clients.
///
/// # Panics
/// If it does not come to that in time.
#[must_use]
pub fn start<'lab>(lab: &'lab Lab, options: &ConfigOptions) -> Daemon<'lab> {
    let daemon = lab.start_daemon(&lab.write_config(options).unwrap()).unwrap();
    daemon.wait_ready(DEADLINE).unwrap();
    wait_all_up(&daemon);
    for client in &lab.topology().clients {
        for vip in web_vips() {
            eventually(&format!("{vip} answers {}", client.region), || lab.curl_vip(&client.region, vip));
        }
    }
    daemon
}

/// Tries until it succeeds; returns what it gave.
///
/// # Panics
/// With the last error, if it does not succeed within [`DEADLINE`].
#[track_caller]
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match attempt() {
            Ok(value) => return value,
            Err(error) if Instant::now() > deadline => panic!("{what}: not within {DEADLINE:?}: {error:#}"),
            Err(_) => thread::sleep(STEP),
        }
    }
}

/// What `weir` with these arguments says, in JSON.
///
/// # Panics
/// If it fails, or says something else.
#[track_caller]
pub fn ask<T: DeserializeOwned>(daemon: &Daemon<'_>, args: &[&str]) -> T {
    let answer = daemon.cli_json(args).unwrap();
    serde_json::from_value(answer).unwrap_or_else(|error| panic!("weir {}: {error}", args.join(" ")))
}

/// What `weir status` says.
///
/// # Panics
/// As [`ask`].
#[track_caller]
pub fn status(daemon: &Daemon<'_>) -> Status {
    ask(daemon, &["status"])
}

/// Runs `weir domain|backend drain|fail|restore NAME`, which must change something.
///
/// # Panics
/// If it fails or changes nothing.
#[track_caller]
pub fn act(daemon: &Daemon<'_>, kind: &str, verb: &str, name: &str) -> Acted {
    let acted: Acted = ask(daemon, &[kind, verb, name, "--reason", "end-to-end test"]);
    assert!(acted.changed, "{verb} {kind} {name} changed nothing: {acted:?}");
    acted
}

/// The state in force of a domain (a path with a slash, or a region) or a backend.
///
/// # Panics
/// If there is no such domain or backend.
#[track_caller]
pub fn state(daemon: &Daemon<'_>, kind: &str, name: &str) -> State {
    match kind {
        "domain" => ask::<DomainView>(daemon, &["domain", "show", name]).health.state,
        _ => ask::<BackendView>(daemon, &["backend", "show", name]).health.state,
    }
}

/// Until every domain and every backend is UP.
///
/// # Panics
/// If they are not in time.
#[track_caller]
pub fn wait_all_up(daemon: &Daemon<'_>) {
    eventually("everything is UP", || {
        let now = status(daemon);
        for counts in [now.domains, now.backends] {
            ensure!(counts.up == counts.total(), "domains {:?}, backends {:?}", now.domains, now.backends);
        }
        Ok(())
    });
}

/// All events from a moment on, in their order.
///
/// # Panics
/// As [`ask`].
#[track_caller]
pub fn events_since(daemon: &Daemon<'_>, since_ns: u64) -> Vec<Event> {
    let events: Vec<Event> = ask(daemon, &["events", "-n", EVENTS_MAX]);
    events.into_iter().filter(|event| event.monotonic_ns >= since_ns).collect()
}

/// Until the events since a moment say that a domain came into a state.
///
/// # Panics
/// If they do not in time.
#[track_caller]
pub fn wait_for_domain(daemon: &Daemon<'_>, domain: &str, to: State, since_ns: u64) -> Event {
    eventually(&format!("{domain} is {}", to.name()), || {
        let events = events_since(daemon, since_ns);
        let found = events.iter().find(|event| {
            event.kind == EventKind::DomainState && event.subject == domain && event.to == Some(to)
        });
        ensure!(found.is_some(), "events since: {events:#?}");
        Ok(found.cloned().expect("was just looked at"))
    })
}

/// Domains whose state changed by itself since a moment.
///
/// # Panics
/// As [`ask`].
#[track_caller]
pub fn changed_domains(daemon: &Daemon<'_>, since_ns: u64) -> BTreeSet<String> {
    let events = events_since(daemon, since_ns).into_iter();
    events.filter(|event| event.kind == EventKind::DomainState).map(|event| event.subject).collect()
}

/// Now, by the clock of events.
#[must_use]
pub fn now_ns() -> u64 {
    monotonic_ns()
}

/// Who serves the same flows of all clients to both web VIPs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement(pub BTreeMap<(String, SocketAddr), FlowMap>);

/// Opens every flow of [`PORTS`], of all clients to both web VIPs.
///
/// # Panics
/// If one is not answered.
#[must_use]
#[track_caller]
pub fn placement(lab: &Lab) -> Placement {
    placement_of(lab, PORTS)
}

/// As [`placement`], of other source ports.
///
/// # Panics
/// If a flow is not answered.
#[must_use]
#[track_caller]
pub fn placement_of(lab: &Lab, ports: Range<u16>) -> Placement {
    let mut maps = BTreeMap::new();
    for client in &lab.topology().clients {
        for vip in web_vips() {
            let map = lab.flow_map(&client.region, vip, ports.clone()).unwrap();
            assert!(map.failed.is_empty(), "{} to {vip}: not answered: {:?}", client.region, map.failed);
            maps.insert((client.region.clone(), vip), map);
        }
    }
    Placement(maps)
}

impl Placement {
    /// How many flows each backend serves.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for (name, count) in self.0.values().flat_map(FlowMap::counts) {
            *counts.entry(name).or_default() += count;
        }
        counts
    }

    /// The backends that serve flows of one client.
    #[must_use]
    pub fn servers_of(&self, client: &str) -> BTreeSet<String> {
        let maps = self.0.iter().filter(|((region, _), _)| region == client);
        maps.flat_map(|(_, map)| map.served.values().cloned()).collect()
    }

    /// Flow by flow: those of `gone` are elsewhere `after`, on none of `gone`; all others are where they were.
    ///
    /// # Panics
    /// If one is not, or if `gone` had no flow, which would show nothing.
    #[track_caller]
    pub fn assert_only_moved(&self, gone: &BTreeSet<String>, after: &Placement) {
        let mut moved = 0;
        for (key, before) in &self.0 {
            for Moved { port, from, to } in before.moved(&after.0[key]) {
                assert!(
                    gone.contains(&from),
                    "{key:?} port {port} moved from {from}, which is well, to {to:?}"
                );
                let to = to.expect("a placement has every flow");
                assert!(
                    !gone.contains(&to),
                    "{key:?} port {port} moved from {from} to {to}, which is gone too"
                );
                moved += 1;
            }
        }
        let had: usize = self.counts().iter().filter(|(name, _)| gone.contains(*name)).map(|(_, n)| n).sum();
        assert!(had > 0, "no flow was on {gone:?}");
        assert_eq!(moved, had, "flows that left {gone:?}");
    }

    /// Flow by flow: all are where they were.
    ///
    /// # Panics
    /// If one is not.
    #[track_caller]
    pub fn assert_same(&self, after: &Placement) {
        for (key, before) in &self.0 {
            let moved = before.moved(&after.0[key]);
            assert!(moved.is_empty(), "{key:?}: {} flows moved, such as {:?}", moved.len(), &moved[..1]);
        }
    }
}

/// Connections that stay open, of all clients to both web VIPs.
#[derive(Debug)]
pub struct Connections(BTreeMap<(String, SocketAddr), KeptFlows>);

impl Connections {
    /// Opens one from each of these source ports of each client to each web VIP.
    ///
    /// # Panics
    /// If one cannot be opened.
    #[must_use]
    #[track_caller]
    pub fn open(lab: &Lab, ports: Range<u16>) -> Self {
        let mut all = BTreeMap::new();
        for client in &lab.topology().clients {
            for vip in web_vips() {
                let kept = lab.keep_flows(&client.region, vip, ports.clone());
                all.insert((client.region.clone(), vip), kept.unwrap_or_else(|error| panic!("{error:#}")));
            }
        }
        Connections(all)
    }

    /// How many each backend has.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for name in self.0.values().flat_map(KeptFlows::backends) {
            *counts.entry(name.to_owned()).or_default() += 1;
        }
        counts
    }

    /// One more request on each connection of a backend that is not in `gone`: the backend that took the connection
    /// answers. Returns how many were asked.
    ///
    /// # Panics
    /// If a connection broke or another backend answers.
    #[track_caller]
    pub fn assert_unbroken(&mut self, gone: &BTreeSet<String>) -> usize {
        let mut asked = 0;
        for (key, kept) in &mut self.0 {
            let report = kept.ask(gone);
            assert!(report.broken.is_empty(), "{key:?}: broken connections: {:?}", report.broken);
            asked += report.answered;
        }
        asked
    }

    /// A last request on each, after which the backend closes the connection: everything it sent has arrived.
    ///
    /// # Panics
    /// If a connection broke or another backend answers.
    #[track_caller]
    pub fn finish(self) {
        for (key, kept) in self.0 {
            let broken = kept.finish();
            assert!(broken.is_empty(), "{key:?}: connections that did not end well: {broken:?}");
        }
    }
}
