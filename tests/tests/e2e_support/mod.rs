//! What the end-to-end tests share: a small lab with a daemon, traffic that must not be lost, and what the kernel says.
#![allow(dead_code, reason = "each test program uses its own part")]

use aya::{
    maps::{HashMap, Map, MapData},
    programs::links::{FdLink, PinnedLink},
};
use lb_common::abi::{
    flow::{FlowEntry, FlowKey},
    limits::FRAGMENT_AGE_NS,
    pod::Pod,
};
use lb_tests::{
    journal::{EVENTS_MAX, Event},
    lab::{Check, ConfigOptions, Daemon, Lab, weir_binary},
    load::{Request, SteadyLoad, Traffic},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

/// How long anything may take that is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);
/// Seconds after which a `weir` that should have ended is ended.
const COMMAND_TIMEOUT_S: &str = "30";
/// Between two looks.
const POLL: Duration = Duration::from_millis(5);
/// Connections that [`traffic`] keeps open.
pub(crate) const KEPT: usize = 16;
/// Source ports from which [`traffic`] opens its kept connections: the first ones of the generator's range.
pub(crate) const FIRST_KEPT_PORT: u16 = 30_000;
/// Ports of new connections, from [`FIRST_NEW_PORT`].
pub(crate) const NEW_PORTS: u16 = 80;
/// First of them.
pub(crate) const FIRST_NEW_PORT: u16 = 10_000;

/// Two regions of one zone of two racks of so many backends each, with agents.
pub(crate) fn raise(backends: usize) -> Lab {
    let lab = Lab::builder().zones(1).backends(backends).raise().unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    lab
}

/// A configuration without checks: nothing but the packets of clients moves, and only operators change states.
pub(crate) fn quiet() -> ConfigOptions {
    ConfigOptions { check: Check::None, table_size: 4093, ..ConfigOptions::default() }
}

/// A configuration with heartbeats that a busy machine does not miss.
pub(crate) fn watched() -> ConfigOptions {
    let (interval, timeout) = (Duration::from_millis(40), Duration::from_millis(40));
    ConfigOptions { interval, timeout, fall: 3, rise: 2, table_size: 4093, ..ConfigOptions::default() }
}

/// Starts a daemon and waits until it forwards.
pub(crate) fn start<'lab>(lab: &'lab Lab, options: &ConfigOptions) -> Daemon<'lab> {
    let daemon = lab.start_daemon(&lab.write_config(options).unwrap()).unwrap();
    daemon.wait_ready(PATIENCE).unwrap_or_else(|error| panic!("{error:#}"));
    daemon
}

/// Waits until the condition holds.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(POLL);
    }
}

/// Steady traffic of the client in the west over both families, which has settled: every request is answered.
pub(crate) fn traffic(lab: &Lab) -> Traffic {
    let load = SteadyLoad {
        kept: KEPT,
        kept_period: Duration::from_millis(40),
        new_per_second: 160,
        new_ports: NEW_PORTS,
        ..SteadyLoad::default()
    };
    until("both VIPs answer", || {
        load.vips
            .iter()
            .all(|vip| lab.curl_with("west", &["--max-time", "1", &format!("http://{vip}/")]).is_ok())
    });
    let traffic = lab.steady("west", load).unwrap();
    goes_on(&traffic, 0);
    traffic
}

/// Waits until kept and new connections had answers to 100 requests that were sent after this call, and asserts that no
/// request was lost since the record numbered `since`.
#[track_caller]
pub(crate) fn goes_on(traffic: &Traffic, since: usize) {
    let now = lb_tests::clock::monotonic_ns();
    let deadline = Instant::now() + PATIENCE;
    loop {
        let records = traffic.records_from(since);
        nothing_lost(&records);
        let answered = |kept: bool| records.iter().filter(|r| r.is_kept == kept && r.sent_ns > now).count();
        if answered(true) >= 50 && answered(false) >= 50 {
            return;
        }
        assert!(Instant::now() < deadline, "traffic stands still: {} requests recorded", records.len());
        thread::sleep(POLL);
    }
}

/// Asserts that every request was answered.
#[track_caller]
pub(crate) fn nothing_lost(records: &[Request]) {
    let lost: Vec<_> = records.iter().filter(|request| request.answer.is_err()).collect();
    assert!(lost.is_empty(), "{} of {} requests lost, first: {:?}", lost.len(), records.len(), lost[0]);
}

/// Asserts that no kept connection broke: each was opened once.
#[track_caller]
pub(crate) fn no_connection_broke(records: &[Request]) {
    let opened = records.iter().filter(|r| !r.is_kept && r.port >= FIRST_KEPT_PORT).count();
    assert_eq!(opened, KEPT, "kept connections were opened anew");
}

/// Everything that `weir` said.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Runs `weir` with these arguments on the edge, behind other programs (`setpriv ..`), for a limited time.
pub(crate) fn weir_behind(lab: &Lab, wrapper: &[&str], args: &[&str]) -> Output {
    let mut command = command_behind(wrapper, args);
    lab.edge_netns(0).unwrap().run(move || Ok(command.output()?)).unwrap()
}

/// The command of [`weir_behind`].
pub(crate) fn command_behind(wrapper: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command.arg(COMMAND_TIMEOUT_S).args(wrapper).arg(weir_binary().unwrap()).args(args);
    command
}

/// Asserts that `weir` failed with this exit code and said all of this.
#[track_caller]
pub(crate) fn refused(output: &Output, code: i32, words: &[&str]) {
    let said = text(output);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

/// `weir status -o json`.
pub(crate) fn status(daemon: &Daemon<'_>) -> Value {
    daemon.cli_json(&["status"]).unwrap()
}

/// All events, in the order of their numbers.
pub(crate) fn events(daemon: &Daemon<'_>) -> Vec<Event> {
    let events = daemon.cli_json(&["events", "-n", EVENTS_MAX]).unwrap();
    serde_json::from_value(events).unwrap()
}

/// What the last start said of itself.
pub(crate) fn last_start(daemon: &Daemon<'_>) -> String {
    let mut starts = events(daemon).into_iter().filter(|event| event.cause.starts_with("started: "));
    let cause = starts.next_back().expect("the daemon has started").cause;
    // After a crash it goes on with when the daemon before was last alive.
    cause.split("; the one before").next().unwrap_or_default().to_owned()
}

/// The folder of the first edge's pins.
pub(crate) fn pins(lab: &Lab) -> PathBuf {
    lab.bpffs().join("edge-1").join(format!("v{}", lb_common::abi::ABI_VERSION))
}

/// The folder of the first edge's saved state.
pub(crate) fn state_dir(lab: &Lab) -> PathBuf {
    lab.directory().join("edge-1")
}

/// The first edge's configuration.
pub(crate) fn config_path(lab: &Lab) -> PathBuf {
    lab.directory().join("edge-1.toml")
}

/// The pinned link: its id and that of the program that it runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) id: u32,
    pub(crate) program: u32,
}

/// The link of the edge's interface.
pub(crate) fn link(lab: &Lab) -> Link {
    let pinned = PinnedLink::from_pin(pins(lab).join("links/eth0")).unwrap();
    let info = FdLink::from(pinned).info().unwrap();
    Link { id: info.id(), program: info.program_id() }
}

/// The entries of the pinned flow table, as bytes: which flow, which backend.
pub(crate) fn flow_table(lab: &Lab) -> BTreeMap<FlowKey, u32> {
    const KEY: usize = size_of::<FlowKey>();
    const VALUE: usize = size_of::<FlowEntry>();
    let data = MapData::from_pin(pins(lab).join("current/FLOWS")).unwrap();
    let map: HashMap<MapData, [u8; KEY], [u8; VALUE]> = Map::LruHashMap(data).try_into().unwrap();
    let entries = map.iter().map(Result::unwrap);
    entries
        .map(|(key, value)| {
            (FlowKey::from_bytes(&key).unwrap(), FlowEntry::from_bytes(&value).unwrap().backend)
        })
        .collect()
}

/// Packets that came to the edge's interface, by the kernel, minus those that the program counted, by the daemon. It stays
/// the same for as long as the program sees every packet.
pub(crate) fn uncounted(lab: &Lab, daemon: &Daemon<'_>) -> i64 {
    let mut difference = None;
    until("the edge is quiet", || {
        let before = received(lab);
        let traffic = &status(daemon)["traffic"];
        let reasons = traffic["reasons"].as_array().unwrap();
        let other: i64 = reasons.iter().map(|reason| reason["packets"].as_i64().unwrap()).sum();
        let counted = traffic["forwarded_packets"].as_i64().unwrap() + other;
        difference = Some(before - counted);
        received(lab) == before
    });
    difference.unwrap()
}

fn received(lab: &Lab) -> i64 {
    let text =
        lab.edge_netns(0).unwrap().run(|| Ok(fs::read_to_string("/proc/thread-self/net/dev")?)).unwrap();
    let line = text.lines().find_map(|line| line.trim().strip_prefix("eth0:")).unwrap();
    // Bytes come first.
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// IPv4 packets that the edge's kernel got and had no use for, so far: those for VIPs that no program took. A client repeats
/// what was lost, so a short gap shows here and not in its requests.
pub(crate) fn leaked(lab: &Lab) -> u64 {
    let read = || Ok(fs::read_to_string("/proc/thread-self/net/snmp")?);
    let text = lab.edge_netns(0).unwrap().run(read).unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let fields = names.split(' ').zip(values.split(' ').map(|value| value.parse::<u64>().unwrap()));
    fields
        .filter(|(name, _)| ["InAddrErrors", "ForwDatagrams", "OutNoRoutes"].contains(name))
        .map(|(_, n)| n)
        .sum()
}

/// Packets that the program dropped, by reason.
pub(crate) fn drops(daemon: &Daemon<'_>) -> BTreeMap<String, i64> {
    let status = status(daemon);
    let reasons = status["traffic"]["reasons"].as_array().unwrap().iter();
    let drops = reasons.filter(|reason| reason["verdict"] == "drop");
    drops
        .map(|reason| (reason["reason"].as_str().unwrap().to_owned(), reason["packets"].as_i64().unwrap()))
        .collect()
}

/// The state of a backend or domain, as `weir backend|domain show` says.
pub(crate) fn health(daemon: &Daemon<'_>, noun: &str, name: &str) -> Value {
    daemon.cli_json(&[noun, "show", name]).unwrap()["health"].clone()
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn done(daemon: &Daemon<'_>, args: &[&str]) {
    let output = daemon.cli(args).unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

/// All files below a folder with their contents.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(&path).unwrap())).collect()
}

/// A copy of the binary in which the edge's program differs by one constant: how long fragments are waited for.
pub(crate) fn another_build(lab: &Lab) -> PathBuf {
    let mut bytes = fs::read(weir_binary().unwrap()).unwrap();
    // A load of a 64-bit constant: opcode, register, then both halves.
    let [a, b, c, d, e, f, g, h] = FRAGMENT_AGE_NS.to_le_bytes();
    let tail = [0, 0, a, b, c, d, 0, 0, 0, 0, e, f, g, h];
    let loads: Vec<_> = (0..bytes.len() - 16)
        .filter(|&at| bytes[at] == 0x18 && bytes[at + 1] < 10 && bytes[at + 2..at + 16] == tail)
        .collect();
    assert!(!loads.is_empty(), "the program has another form: find another constant to change");
    loads.iter().for_each(|at| bytes[at + 4] ^= 1);
    let path = lab.directory().join("weir-next");
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}
