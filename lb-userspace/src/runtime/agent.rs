//! `weir agent`: decapsulates what edges send to this backend, and answers their heartbeats.

use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use aya::maps::lpm_trie::Key;
use aya::maps::{Array, HashMap, LpmTrie, MapData, PerCpuArray};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi::{
    ABI_VERSION,
    agent::{AGENT_FILTER_SOURCES, AGENT_REASONS, AgentRoot},
    heartbeat::STATUS_OK,
    limits::{MAX_AGENT_ADDRESSES, MAX_AGENT_SOURCES},
    pod::Pod,
};
use lb_common::net::address_bytes;
use serde_json::{Map as JsonMap, Value, json};
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use crate::config::{IpPrefix, XdpMode};
use crate::dataplane::DataPlaneError;
use crate::dataplane::build::{load_xdp, probe_kernel};
use crate::dataplane::links;
use crate::dataplane::object::{AGENT, AGENT_PROGRAM};

/// Length of `::ffff:0:0/96`, in which IPv4 addresses stand.
const MAPPED_LENGTH: u32 = 96;

/// What the agent is to do.
#[derive(Clone, Debug)]
pub struct AgentOptions {
    /// Interface on which tunnelled packets arrive.
    pub interface: String,
    /// This host's tunnel endpoints; at least one.
    pub addresses: Vec<IpAddr>,
    /// UDP port of heartbeats.
    pub heartbeat_port: u16,
    /// UDP port of generic UDP encapsulation; 0 for none.
    pub gue_port: u16,
    /// Where tunnelled packets and heartbeats may come from; anywhere if empty.
    pub sources: Vec<IpPrefix>,
    /// How the program is attached.
    pub mode: XdpMode,
    /// How often counters are printed; only on SIGUSR1 if `None`.
    pub stats_interval: Option<Duration>,
}

/// Runs until SIGTERM or SIGINT, then detaches. Counters go to stdout as one JSON line each time.
///
/// # Errors
/// What is wrong with the options, the interface or the kernel; a [`DataPlaneError`] is among the causes where the exit code
/// depends on it.
pub fn run(options: &AgentOptions) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Taken over before the program is attached, so that no signal ends the process without detaching in order.
        let mut signals = Signals::new()?;
        let agent = Agent::start(options)?;
        tracing::info!(interface = options.interface, "the agent is in place");
        let mut ticks = options.stats_interval.map(interval);
        if let Some(ticks) = &mut ticks {
            ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
            // The first tick comes at once, when there is nothing to tell.
            ticks.tick().await;
        }
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => break,
                _ = signals.interrupt.recv() => break,
                _ = signals.user.recv() => agent.tell_counters(),
                () = tick(&mut ticks) => agent.tell_counters(),
            }
        }
        tracing::info!(interface = options.interface, "the agent is detached");
        Ok(())
    })
}

async fn tick(ticks: &mut Option<tokio::time::Interval>) {
    match ticks {
        Some(ticks) => {
            ticks.tick().await;
        }
        None => std::future::pending().await,
    }
}

struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
    user: tokio::signal::unix::Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            user: signal(SignalKind::user_defined1())?,
        })
    }
}

/// The attached program; detached when dropped.
pub struct Agent {
    ebpf: Ebpf,
    _link: OwnedFd,
}

impl Agent {
    /// Loads and attaches the program.
    ///
    /// # Errors
    /// As for [`run`].
    pub fn start(options: &AgentOptions) -> Result<Self> {
        check(options)?;
        let interface = links::find_interfaces(std::slice::from_ref(&options.interface))?.remove(0);
        probe_kernel()?;
        let mut ebpf = EbpfLoader::new().load(AGENT).map_err(|error| DataPlaneError::load(&error))?;
        let program = load_xdp(&mut ebpf, AGENT_PROGRAM)?.fd()?.as_fd().try_clone_to_owned()?;
        // After loading: the program keeps the maps that are let go of here.
        fill(&mut ebpf, options).context("filling the agent's maps")?;
        let link = links::attach(program.as_fd(), &interface, options.mode)?;
        Ok(Self { ebpf, _link: link })
    }

    /// Packets and bytes by reason, summed over all CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> Result<Vec<(&'static str, u64, u64)>> {
        let map = self.ebpf.map("AGENT_COUNTERS").context("the object has no map AGENT_COUNTERS")?;
        let counters = PerCpuArray::<_, [u64; 2]>::try_from(map)?;
        AGENT_REASONS
            .iter()
            .map(|(reason, name)| {
                let values = counters.get(&(*reason as u32), 0)?;
                let sum = |i: usize| values.iter().map(|value| value[i]).fold(0, u64::wrapping_add);
                Ok((*name, sum(0), sum(1)))
            })
            .collect()
    }

    /// Prints the counters. That nobody reads them, or that they cannot be read, is no reason to stop decapsulating.
    fn tell_counters(&self) {
        if let Err(error) = self.print_counters() {
            tracing::warn!("cannot print the counters: {error:#}");
        }
    }

    fn print_counters(&self) -> Result<()> {
        let counters = self.counters()?.into_iter();
        let fields = counters
            .map(|(name, packets, bytes)| (name.to_owned(), json!({ "packets": packets, "bytes": bytes })));
        writeln!(std::io::stdout(), "{}", Value::Object(fields.collect::<JsonMap<_, _>>()))?;
        Ok(())
    }
}

fn check(options: &AgentOptions) -> Result<()> {
    if options.addresses.is_empty() {
        bail!("the agent needs at least one address; give this host's tunnel endpoint with --address");
    }
    if options.addresses.len() > MAX_AGENT_ADDRESSES {
        bail!("{} addresses are too many; give at most {MAX_AGENT_ADDRESSES}", options.addresses.len());
    }
    if options.sources.len() > MAX_AGENT_SOURCES {
        bail!("{} source prefixes are too many; give at most {MAX_AGENT_SOURCES}", options.sources.len());
    }
    if options.heartbeat_port == 0 {
        bail!("the heartbeat port must not be 0");
    }
    if options.gue_port == options.heartbeat_port {
        bail!(
            "heartbeats and GUE cannot share port {}; give --gue-port another one, or 0 for no GUE",
            options.gue_port
        );
    }
    Ok(())
}

fn fill(ebpf: &mut Ebpf, options: &AgentOptions) -> Result<()> {
    let root = AgentRoot {
        abi_version: ABI_VERSION,
        flags: if options.sources.is_empty() { 0 } else { AGENT_FILTER_SOURCES },
        heartbeat_port: options.heartbeat_port.to_be_bytes(),
        status: STATUS_OK,
        gue_port: options.gue_port.to_be_bytes(),
        ..AgentRoot::zeroed()
    };
    let mut addresses: HashMap<MapData, [u8; 16], u32> = take(ebpf, "AGENT_ADDRESSES")?;
    for &address in &options.addresses {
        addresses.insert(address_bytes(address), 1, 0)?;
    }
    let mut sources: LpmTrie<MapData, [u8; 16], u32> = take(ebpf, "AGENT_SOURCES")?;
    for prefix in &options.sources {
        let mapped = if prefix.address().is_ipv4() { MAPPED_LENGTH } else { 0 };
        sources.insert(
            &Key::new(u32::from(prefix.length()) + mapped, address_bytes(prefix.address())),
            1,
            0,
        )?;
    }
    let bytes: [u8; size_of::<AgentRoot>()] = root.as_bytes().try_into()?;
    let mut roots: Array<MapData, [u8; size_of::<AgentRoot>()]> = take(ebpf, "AGENT_ROOT")?;
    roots.set(0, bytes, 0)?;
    Ok(())
}

fn take<T>(ebpf: &mut Ebpf, name: &str) -> Result<T>
where
    T: TryFrom<aya::maps::Map, Error = aya::maps::MapError>,
{
    let map = ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))?;
    Ok(T::try_from(map)?)
}
