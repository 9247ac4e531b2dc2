//! The lab: a small internet of network namespaces on one machine.
//!
//! ```text
//!  client-west ─┐                     ┌─ rack w1r1 ═ w1r1b1, w1r1b2..      (each backend: nginx, UDP echo, agent)
//!  client-east ─┤       router        ├─ rack w1r2 ═ ..
//!     edge-1 ───┘ (a bridge per rack) └─ ..
//! ```
//! All are namespaces with one veth to the router. VIPs are routed to the edge, and stand on the loopback of every
//! backend; backends answer clients directly. Everything is removed when the [`Lab`] is dropped, when the process gets
//! SIGINT, SIGTERM or SIGHUP, or, after a SIGKILL, by the next lab or [`clean`]. Many labs can stand side by side.
mod answerer;
mod browser;
mod config;
mod curl;
mod cut;
mod daemons;
mod echo;
mod freeze;
mod machine;
mod netns;
mod nginx;
mod process;
mod registry;
mod terminal;
pub mod topology;
mod weir;
mod wire;
mod wiring;

pub use answerer::{ANSWERED_INTERFACE, ANSWERED_PREFIX, Answerer};
pub use browser::Browser;
pub use config::{Check, ConfigOptions};
pub use cut::{Cut, FaultTime, TunnelTraffic};
pub use daemons::Running;
pub use freeze::Frozen;
pub use machine::Machine;
pub use netns::Netns;
pub use registry::clean;
pub use terminal::Terminal;
pub use topology::{Backend, Client, Edge, Rack, Shape, Topology, VIP_V4, VIP_V6, echo_vips, web_vips};
pub use weir::{Daemon, STOP_TIMEOUT, weir_binary};
pub use wire::Wire;

use anyhow::{Context, Result, bail};
use cut::Cutters;
use echo::EchoServers;
use nix::{
    mount::{MsFlags, mount},
    sys::signal::Signal,
    unistd::geteuid,
};
use process::Process;
use registry::Entry;
use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};
use wiring::{Namespaces, backend_port};

/// How long all web servers together may take to answer, v4 and v6.
const SERVERS_DEADLINE: Duration = Duration::from_secs(20);
/// One attempt to connect to a web server. A lost first v6 packet is not waited for.
const CONNECT_TIMEOUT: Duration = Duration::from_millis(200);

/// Makes a lab; see [`Lab::builder`].
#[derive(Clone, Debug, Default)]
pub struct LabBuilder {
    shape: Shape,
}

impl LabBuilder {
    /// Region names; see [`Shape::regions`]. Default: west, east.
    pub fn regions(mut self, names: &[&str]) -> Self {
        self.shape.regions = names.iter().map(|&name| name.to_owned()).collect();
        self
    }

    /// Zones in each region. Default: 2.
    pub fn zones(mut self, count: usize) -> Self {
        self.shape.zones = count;
        self
    }

    /// Racks in each zone. Default: 2.
    pub fn racks(mut self, count: usize) -> Self {
        self.shape.racks = count;
        self
    }

    /// Backends in each rack. Default: 2.
    pub fn backends(mut self, count: usize) -> Self {
        self.shape.backends = count;
        self
    }

    /// Edge hosts. Default: 1.
    pub fn edges(mut self, count: usize) -> Self {
        self.shape.edges = count;
        self
    }

    /// Edge hosts in each region, to which the region's clients' packets go.
    pub fn edges_in_each_region(mut self, count: usize) -> Self {
        self.shape.edges = count;
        self.shape.regional_edges = true;
        self
    }

    /// Raises the lab, and waits until every web server answers the router over v4 and v6. Labs of processes that are
    /// gone are removed first.
    ///
    /// # Errors
    /// Not root, a tool is missing, the shape is impossible, or something that the machine refuses.
    pub fn raise(self) -> Result<Lab> {
        if !geteuid().is_root() {
            bail!("the lab makes network namespaces and needs root: run it by `cargo xtask`, or with sudo");
        }
        clean().context("cannot remove what an earlier lab left; try `lab clean`")?;
        let topology = Topology::new(self.shape)?;
        let id = registry::new_id();
        let entry = Entry::create(&id, wiring::namespace_names(&id, &topology))?;
        let bpffs = bpffs_of(&entry.directory);
        fs::create_dir(&bpffs)?;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a bpffs on {}", bpffs.display()))?;
        let namespaces = wiring::raise(&id, &topology)?;
        let cutters = attach_programs(&topology, &namespaces)?;
        let lab = Lab {
            cutters,
            echo: EchoServers::new(),
            servers: Mutex::default(),
            agents: Mutex::default(),
            namespaces,
            topology,
            id,
            entry,
        };
        for backend in &lab.topology.backends {
            lab.start_server(backend)?;
        }
        lab.wait_for_servers()?;
        Ok(lab)
    }
}

/// A raised lab. Usable from many threads. Fields are dropped in this order: what runs, then what it runs in.
pub struct Lab {
    cutters: Cutters,
    echo: EchoServers,
    /// Web servers by backend.
    servers: Mutex<BTreeMap<String, Process>>,
    /// Agents by backend.
    agents: Mutex<BTreeMap<String, Process>>,
    namespaces: Namespaces,
    topology: Topology,
    id: String,
    entry: Entry,
}

impl Drop for Lab {
    /// A failing test says what the processes said: their logs are removed with the lab.
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", process::log_tails(&self.entry.directory));
        }
    }
}

impl std::fmt::Debug for Lab {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lab")
            .field("id", &self.id)
            .field("shape", &self.topology.shape)
            .finish_non_exhaustive()
    }
}

impl Lab {
    /// Two regions of two zones of two racks of two backends, two clients and one edge, unless told otherwise.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// The lab's id: all its namespaces are named `<id>-...`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// What stands where.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The folder of the lab's files: configurations, logs, sockets, state. Removed with the lab.
    pub fn directory(&self) -> &Path {
        &self.entry.directory
    }

    /// The lab's own bpffs; the daemon of edge N pins below `edge-N`.
    pub fn bpffs(&self) -> PathBuf {
        bpffs_of(&self.entry.directory)
    }

    /// Namespace of the router.
    pub fn router_netns(&self) -> &Netns {
        &self.namespaces.router
    }

    /// Namespace of an edge, by its index.
    ///
    /// # Errors
    /// No such edge.
    pub fn edge_netns(&self, edge: usize) -> Result<&Netns> {
        let edge = self.topology.edges.get(edge).with_context(|| format!("no edge with index {edge}"))?;
        Ok(&self.namespaces.edges[&edge.name])
    }

    /// Namespace of a client, by its client region.
    ///
    /// # Errors
    /// No such client.
    pub fn client_netns(&self, region: &str) -> Result<&Netns> {
        Ok(&self.namespaces.clients[&self.topology.client(region)?.region])
    }

    /// Namespace of a backend.
    ///
    /// # Errors
    /// No such backend.
    pub fn backend_netns(&self, name: &str) -> Result<&Netns> {
        Ok(&self.namespaces.backends[&self.topology.backend(name)?.name])
    }

    /// Cuts all racks of a domain given by its path: a rack, a zone or a region.
    ///
    /// # Errors
    /// No such domain.
    pub fn cut(&self, domain: &str, cut: Cut) -> Result<FaultTime> {
        self.cutters.cut(&self.topology.racks_in(domain)?, cut)
    }

    /// Undoes any cut of all racks of a domain given by its path.
    ///
    /// # Errors
    /// No such domain.
    pub fn restore(&self, domain: &str) -> Result<FaultTime> {
        self.cutters.restore(&self.topology.racks_in(domain)?)
    }

    /// Tunnelled packets that were sent towards the racks of a domain, also while it was cut by [`Cut::Drop`].
    ///
    /// # Errors
    /// No such domain.
    pub fn tunnel_traffic(&self, domain: &str) -> Result<TunnelTraffic> {
        self.cutters.tunnel_traffic(&self.topology.racks_in(domain)?)
    }

    /// Kills the web server and the UDP responder of a backend. Its host and agent live on.
    ///
    /// # Errors
    /// No such backend, or it was killed before.
    pub fn kill_backend(&self, name: &str) -> Result<()> {
        self.topology.backend(name)?;
        let server = self.servers().remove(name).with_context(|| format!("{name} is not running"))?;
        server.kill()?;
        self.echo.kill(name);
        Ok(())
    }

    /// Stops the web server by SIGSTOP, and the UDP responder likewise: connections are accepted, nothing is answered.
    ///
    /// # Errors
    /// No such backend, or it is not running.
    pub fn freeze_backend(&self, name: &str) -> Result<()> {
        self.signal_server(name, Signal::SIGSTOP)?;
        self.echo.freeze(name, true);
        Ok(())
    }

    /// Undoes [`Lab::freeze_backend`].
    ///
    /// # Errors
    /// No such backend, or it is not running.
    pub fn thaw_backend(&self, name: &str) -> Result<()> {
        self.signal_server(name, Signal::SIGCONT)?;
        self.echo.freeze(name, false);
        Ok(())
    }

    /// Ends what runs of a backend's servers and starts them anew; returns when the web server answers.
    ///
    /// # Errors
    /// No such backend, or it does not start.
    pub fn restart_backend(&self, name: &str) -> Result<()> {
        let backend = self.topology.backend(name)?;
        self.servers().remove(name);
        self.echo.kill(name);
        self.start_server(backend)?;
        self.wait_for_addresses(vec![SocketAddr::from((backend.v4, topology::WEB_PORT))])
    }

    fn start_server(&self, backend: &Backend) -> Result<()> {
        let netns = &self.namespaces.backends[&backend.name];
        let server = nginx::start(&self.entry, netns, &backend.name)?;
        self.servers().insert(backend.name.clone(), server);
        self.echo.start(netns, backend)
    }

    fn signal_server(&self, name: &str, signal: Signal) -> Result<()> {
        self.topology.backend(name)?;
        self.servers().get(name).with_context(|| format!("{name} is not running"))?.signal(signal)
    }

    fn wait_for_servers(&self) -> Result<()> {
        let addresses = (self.topology.backends.iter())
            .flat_map(|backend| [IpAddr::V4(backend.v4), IpAddr::V6(backend.v6)])
            .map(|address| SocketAddr::from((address, topology::WEB_PORT)));
        self.wait_for_addresses(addresses.collect())
    }

    /// Until the router could connect to each of them.
    fn wait_for_addresses(&self, mut missing: Vec<SocketAddr>) -> Result<()> {
        let deadline = Instant::now() + SERVERS_DEADLINE;
        self.namespaces.router.run(|| {
            loop {
                missing.retain(|address| TcpStream::connect_timeout(address, CONNECT_TIMEOUT).is_err());
                if missing.is_empty() {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!(
                        "no web server answers at {missing:?} after {SERVERS_DEADLINE:?}; {}",
                        self.server_logs()
                    );
                }
                thread::sleep(Duration::from_millis(10));
            }
        })
    }

    fn server_logs(&self) -> String {
        let servers = self.servers();
        let logs: String = servers.values().map(Process::log_tail).collect();
        if logs.is_empty() { "nginx said nothing".into() } else { format!("nginx said:\n{logs}") }
    }

    fn servers(&self) -> MutexGuard<'_, BTreeMap<String, Process>> {
        self.servers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where a lab's bpffs is mounted.
pub(crate) fn bpffs_of(directory: &Path) -> PathBuf {
    directory.join("bpf")
}

fn attach_programs(topology: &Topology, namespaces: &Namespaces) -> Result<Cutters> {
    let racks: Vec<_> = (topology.racks.iter())
        .map(|rack| {
            let members = topology.backends.iter().filter(|backend| backend.rack == rack.path);
            (rack.clone(), members.map(backend_port).collect())
        })
        .collect();
    let edges: Vec<_> = topology.edges.iter().map(|edge| edge.name.clone()).collect();
    Cutters::attach(&namespaces.router, &racks, &edges)
}
