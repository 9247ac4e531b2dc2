//! The package under a real systemd, under load: installed, started, reloaded, hung, upgraded and removed, while each of thousands of
//! datagrams is accounted for. `cargo xtask dist --try` runs it.
mod pages;

use crate::{
    lab::{Check, ConfigOptions, Lab, Machine, VIP_V4, VIP_V6},
    load::Numbered,
};
use anyhow::{Context, Result, bail, ensure};
use lb_common::abi::ABI_VERSION;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    net::SocketAddr,
    path::Path,
    thread,
    time::{Duration, Instant},
};

const UNIT: &str = "weir.service";
const AGENT_UNIT: &str = "weir-agent.service";
const CONFIG: &str = "etc/weir/weir.toml";
/// Where the agent's unit is tried.
const AGENT_INTERFACE: &str = "agent0";
/// Where the packages lie in the root.
const PACKAGES: [&str; 2] = ["var/tmp/first.deb", "var/tmp/second.deb"];
const PORT: u16 = 9000;
/// Most of it is systemd's patience with what does not answer: 10 s of the watchdog.
const PATIENCE: Duration = Duration::from_secs(60);
/// Datagrams that show that forwarding goes on.
const ENOUGH: u64 = 1_000;

/// Tries two packages, the second of a later version, in a Debian root with systemd. Prints what it does.
///
/// # Errors
/// Whatever does not go as it must.
pub fn run(root: &Path, first: &Path, second: &Path) -> Result<()> {
    for (from, to) in [first, second].into_iter().zip(PACKAGES) {
        fs::copy(from, root.join(to)).with_context(|| format!("cannot copy {}", from.display()))?;
    }
    for leftover in [CONFIG, "var/lib/weir/journal.jsonl"] {
        // Mostly not there.
        let _ = fs::remove_file(root.join(leftover));
    }
    let lab = Lab::builder().zones(1).raise()?;
    lab.start_agents()?;
    let machine = lab.boot(0, root, &lab.bpffs().join("machine"))?;
    say(&format!("booted: {}", first_line(&machine.done(&["systemctl", "--version"])?)));
    let version = install(&machine, PACKAGES[0])?;
    ensure!(machine.property(UNIT, "ActiveState")? == "inactive", "installing started it");
    agent_interface(&lab)?;
    pages::run(&machine)?;
    write_config(&lab, root, "")?;
    machine.done(&["weir", "check"])?;
    // Whether that went well is seen by what follows, which also tells why not.
    machine.run(&["systemctl", "enable", "--now", "weir"])?;
    is_active(&machine)?;
    agent(&machine, root)?;
    security(&machine)?;
    journal(&machine)?;

    let vips = [SocketAddr::from((VIP_V4, PORT)), SocketAddr::from((VIP_V6, PORT))];
    let numbered = lab.numbered("west", &vips, 30_000..30_032)?;
    goes_on(&numbered, "started")?;
    reload(&lab, &machine, root)?;
    goes_on(&numbered, "reloaded")?;
    restart(&machine)?;
    goes_on(&numbered, "restarted")?;
    crash(&machine)?;
    goes_on(&numbered, "killed, and started by systemd")?;
    hang(&machine)?;
    goes_on(&numbered, "hung, and restarted by systemd's watchdog")?;
    let before = machine.property(UNIT, "MainPID")?;
    let next = install(&machine, PACKAGES[1])?;
    ensure!(next != version, "both packages are of version {version}");
    is_active(&machine)?;
    ensure!(machine.property(UNIT, "MainPID")? != before, "the upgrade restarted nothing");
    goes_on(&numbered, &format!("upgraded from {version} to {next}"))?;
    machine.done(&["dpkg", "--remove", "weir"])?;
    goes_on(&numbered, "removed")?;
    ensure!(lab.bpffs().join(format!("machine/weir/v{ABI_VERSION}")).is_dir(), "no pins are left");
    let account = numbered.stop()?;
    ensure!(account.told.is_empty() && account.sent == account.arrived, "lost or elsewhere: {account:?}");
    say(&format!(
        "{} datagrams sent, {} arrived, each once, in order, at its backend",
        account.sent, account.arrived
    ));
    machine.done(&["dpkg", "--purge", "weir"])?;
    Ok(())
}

fn say(text: &str) {
    println!("--- {text}");
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

/// Installs or upgrades; returns the version that is installed then.
fn install(machine: &Machine, package: &str) -> Result<String> {
    machine.done(&["dpkg", "--install", "--force-confold", &format!("/{package}")])?;
    machine.done(&["dpkg-query", "--show", "--showformat", "${Version}", "weir"])
}

/// As the lab would write it, with the places of a package, and a service for what is counted.
fn write_config(lab: &Lab, root: &Path, more: &str) -> Result<()> {
    let service = |name: &str, address: &str| {
        format!(
            "\n[[service]]\nname = \"{name}\"\naddress = \"{address}\"\nport = {PORT}\nprotocol = \"udp\"\n\
             [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
        )
    };
    let extra = service("numbered", &VIP_V4.to_string()) + &service("numbered6", &VIP_V6.to_string()) + more;
    let options = ConfigOptions { check: Check::None, table_size: 4093, extra, ..ConfigOptions::default() };
    let text = fs::read_to_string(lab.write_config(&options)?)?;
    let own = ["state_dir = ", "socket = ", "bpffs = "];
    let kept = text.lines().filter(|line| !own.iter().any(|key| line.starts_with(key)));
    let path = root.join(CONFIG);
    fs::write(&path, kept.collect::<Vec<_>>().join("\n") + "\n")
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Waits until a condition holds.
fn until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !condition()? {
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn is_active(machine: &Machine) -> Result<()> {
    unit_is_active(machine, UNIT)?;
    machine.done(&["weir", "status"]).map(drop)
}

fn unit_is_active(machine: &Machine, unit: &str) -> Result<()> {
    let state = machine.property(unit, "ActiveState")?;
    if state != "active" {
        let log = machine.run(&["journalctl", "--no-pager", "--lines", "40", "--unit", unit])?;
        bail!("{unit} is {state}:\n{}", String::from_utf8_lossy(&log.stdout));
    }
    Ok(())
}

/// An interface of its own for an agent.
fn agent_interface(lab: &Lab) -> Result<()> {
    lab.edge_netns(0)?.ip(&[
        format!("link add {AGENT_INTERFACE} type veth peer name agent-peer"),
        format!("address add 10.254.0.1/24 dev {AGENT_INTERFACE}"),
        format!("link set {AGENT_INTERFACE} up"),
        "link set agent-peer up".to_owned(),
    ])
}

/// The log is in the journal, with its fields; and goes on there when the journal was rotated, and restarted.
fn journal(machine: &Machine) -> Result<()> {
    let entries = || -> Result<Vec<serde_json::Value>> {
        let text = machine.done(&["journalctl", "--no-pager", "--output", "json", "--unit", UNIT])?;
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    };
    let own = |entries: &[serde_json::Value]| {
        let is_own = |entry: &&serde_json::Value| {
            entry["SYSLOG_IDENTIFIER"] == "weir"
                && entry["TARGET"].as_str().is_some_and(|t| t.starts_with("lb_"))
        };
        entries.iter().filter(is_own).count()
    };
    let before = entries()?;
    ensure!(own(&before) > 0, "the journal has no entries with fields: {:?}", before.last());
    let has_field = |entry: &serde_json::Value| {
        entry.as_object().is_some_and(|fields| fields.keys().any(|name| name.starts_with("WEIR_")))
    };
    ensure!(before.iter().any(has_field), "no entry has a field of weir's own: {before:?}");
    machine.done(&["journalctl", "--rotate"])?;
    machine.done(&["journalctl", "--vacuum-time=1s"])?;
    machine.done(&["systemctl", "restart", "systemd-journald"])?;
    let since = own(&entries()?);
    machine.done(&["systemctl", "reload", "weir"])?;
    until("the log goes on in the journal", || Ok(own(&entries()?) > since))?;
    say("the log is in the journal with its fields, also after that was rotated and restarted");
    Ok(())
}

/// The agent's unit on an interface of its own: its program comes and goes with it.
fn agent(machine: &Machine, root: &Path) -> Result<()> {
    let arguments = format!("WEIR_AGENT_ARGS=\"--interface {AGENT_INTERFACE} --address 10.254.0.1\"\n");
    fs::write(root.join("etc/default/weir-agent"), arguments)?;
    let is_attached =
        || Ok(machine.done(&["ip", "link", "show", "dev", AGENT_INTERFACE])?.contains("prog/xdp"));
    machine.run(&["systemctl", "start", AGENT_UNIT])?;
    unit_is_active(machine, AGENT_UNIT)?;
    until("the agent attaches its program", is_attached)?;
    machine.done(&["systemctl", "stop", AGENT_UNIT])?;
    ensure!(!is_attached()?, "the agent's program is left behind");
    say("the agent's unit starts and stops, its program with it");
    Ok(())
}

/// Waits for more datagrams, and that none of all so far was lost or went elsewhere.
fn goes_on(numbered: &Numbered, after: &str) -> Result<()> {
    let sent = numbered.sent();
    until("datagrams are sent", || Ok(numbered.sent() > sent + ENOUGH))?;
    let faults = numbered.faults();
    ensure!(faults.is_empty(), "{after}: {faults:?}");
    say(&format!("{after}: forwarding goes on, nothing lost"));
    Ok(())
}

/// How systemd rates what the units may do.
fn security(machine: &Machine) -> Result<()> {
    for unit in [UNIT, AGENT_UNIT] {
        let said = machine.done(&["systemd-analyze", "--no-pager", "security", unit])?;
        let level = said.lines().rev().find(|line| line.contains("exposure level"));
        say(level.context("systemd-analyze tells no exposure level")?.trim_start_matches(['→', ' ']));
    }
    Ok(())
}

fn status(machine: &Machine) -> Result<serde_json::Value> {
    Ok(serde_json::from_str(&machine.done(&["weir", "status", "-o", "json"])?)?)
}

/// `systemctl reload` returns when the new configuration is in force; with a bad one nothing changes, and the service goes on.
fn reload(lab: &Lab, machine: &Machine, root: &Path) -> Result<()> {
    let other = format!(
        "\n[[service]]\nname = \"other\"\naddress = \"{VIP_V4}\"\nport = 8080\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
    );
    write_config(lab, root, &other)?;
    let kind = machine.property(UNIT, "Type")?;
    machine.done(&["systemctl", "reload", "weir"])?;
    machine.done(&["weir", "service", "show", "other"]).context("after a reload")?;
    write_config(lab, root, "port = 90000\n")?;
    // How the manager takes a reload that failed depends on its kind; the daemon says what was wrong, and goes on.
    let refused = machine.run(&["systemctl", "reload", "weir"])?;
    until("the failed reload is counted", || Ok(status(machine)?["config"]["failed_reloads"] == 1))?;
    is_active(machine)?;
    say(&format!(
        "Type={kind}: a reload is in force when systemctl returns; a bad file is refused (systemctl: {})",
        refused.status
    ));
    write_config(lab, root, &other)
}

fn restart(machine: &Machine) -> Result<()> {
    machine.done(&["systemctl", "restart", "weir"])?;
    is_active(machine)
}

fn signal(machine: &Machine, signal: Signal) -> Result<()> {
    let pid = machine.outer_pid(&machine.property(UNIT, "MainPID")?)?;
    kill(Pid::from_raw(pid), signal).context("cannot send a signal to the daemon")
}

/// Waits until systemd has started it by itself once more than so often.
fn started_again(machine: &Machine, restarts: u32) -> Result<()> {
    until("systemd starts it again", || {
        let now: u32 = machine.property(UNIT, "NRestarts")?.parse()?;
        Ok(now > restarts && machine.property(UNIT, "ActiveState")? == "active")
    })?;
    is_active(machine)
}

fn crash(machine: &Machine) -> Result<()> {
    let restarts = machine.property(UNIT, "NRestarts")?.parse()?;
    signal(machine, Signal::SIGKILL)?;
    started_again(machine, restarts)
}

/// It stands still; only the watchdog can tell.
fn hang(machine: &Machine) -> Result<()> {
    let restarts = machine.property(UNIT, "NRestarts")?.parse()?;
    let begin = Instant::now();
    signal(machine, Signal::SIGSTOP)?;
    started_again(machine, restarts)?;
    let log = machine.done(&["journalctl", "--no-pager", "--unit", UNIT])?;
    ensure!(log.contains("Watchdog timeout"), "something else than the watchdog ended it:\n{log}");
    say(&format!(
        "the watchdog acted, and it was up again {:.0} s after it stood still",
        begin.elapsed().as_secs_f64()
    ));
    Ok(())
}
