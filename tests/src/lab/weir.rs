//! Weir's own processes in a lab: the daemon on an edge, the agents on the backends, and the command line.
use super::{Lab, config, config::ConfigOptions, process::Process, topology::INTERFACE};
use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Output},
    sync::PoisonError,
    thread,
    time::{Duration, Instant},
};

/// How long a daemon or agent may take to end after SIGTERM.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an agent may take until its program is there: many start at once, and the kernel verifies each one's program.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at whether a daemon is ready.
const POLL: Duration = Duration::from_millis(20);

/// A daemon on an edge host. Dropping it kills it, without detaching anything.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    edge: usize,
    process: Process,
    socket: PathBuf,
}

/// The `weir` binary: `WEIR_BIN`, or the one built into the same folder as the running program.
///
/// # Errors
/// There is none.
pub fn weir_binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("WEIR_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("WEIR_BIN names {}, which does not exist", path.display());
        }
        return Ok(path);
    }
    let program = env::current_exe()?;
    // A test program lies in `deps/`, one below.
    let found =
        program.ancestors().skip(1).take(2).map(|folder| folder.join("weir")).find(|path| path.is_file());
    found.context("no `weir` binary beside this program: run `cargo xtask build`, or set WEIR_BIN")
}

impl Lab {
    /// Writes the daemon's configuration into the lab's folder, over an older one of the same edge.
    ///
    /// # Errors
    /// The file cannot be written, or an option names an edge or a backend that the lab does not have.
    pub fn write_config(&self, options: &ConfigOptions) -> Result<PathBuf> {
        let edges = &self.topology().edges;
        let edge = edges.get(options.edge).with_context(|| format!("no edge with index {}", options.edge))?;
        for name in options.weights.keys().chain(&options.without) {
            self.topology().backend(name)?;
        }
        let path = self.directory().join(format!("{}.toml", edge.name));
        fs::create_dir_all(self.directory().join(&edge.name))?;
        fs::write(&path, config::render(self.topology(), self.directory(), options))?;
        Ok(path)
    }

    /// Starts `weir daemon` with this configuration on the first edge; see [`Daemon::wait_ready`].
    ///
    /// # Errors
    /// There is no `weir` binary or it cannot be started.
    pub fn start_daemon(&self, config: &Path) -> Result<Daemon<'_>> {
        self.start_daemon_on(0, config)
    }

    /// Starts `weir daemon` with this configuration on the edge with this index.
    ///
    /// # Errors
    /// There is no such edge, or as [`Lab::start_daemon`].
    pub fn start_daemon_on(&self, edge: usize, config: &Path) -> Result<Daemon<'_>> {
        self.start_other_daemon(&weir_binary()?, edge, config)
    }

    /// Starts another binary's daemon with this configuration on the edge with this index.
    ///
    /// # Errors
    /// There is no such edge, or it cannot be started.
    pub fn start_other_daemon(&self, binary: &Path, edge: usize, config: &Path) -> Result<Daemon<'_>> {
        let name = self.edge_name(edge)?;
        let process = Process::start(
            &self.entry,
            &self.namespaces.edges[&name],
            &format!("daemon-{name}"),
            Command::new(binary).arg("daemon").arg("--config").arg(config),
        )?;
        Ok(Daemon { lab: self, edge, process, socket: self.directory().join(format!("{name}.sock")) })
    }

    /// Runs `weir` with these arguments on the first edge, and waits for it.
    ///
    /// # Errors
    /// There is no `weir` binary. That it fails is no error here: look at the status.
    pub fn weir(&self, args: &[&str]) -> Result<Output> {
        self.weir_on(0, args)
    }

    /// Runs `weir` with these arguments on the edge with this index, with `WEIR_SOCKET` set to its daemon's.
    ///
    /// # Errors
    /// There is no such edge or no `weir` binary.
    pub fn weir_on(&self, edge: usize, args: &[&str]) -> Result<Output> {
        let name = self.edge_name(edge)?;
        let mut command = Command::new(weir_binary()?);
        command.args(args).env("WEIR_SOCKET", self.directory().join(format!("{name}.sock")));
        self.namespaces.edges[&name].run(move || Ok(command.output()?))
    }

    /// Starts an agent on each backend and waits until all have attached their programs.
    ///
    /// # Errors
    /// One cannot be started, or ends at once; its log is quoted.
    pub fn start_agents(&self) -> Result<()> {
        let names = self.topology().backend_names();
        names.iter().try_for_each(|name| self.spawn_agent(name))?;
        names.iter().try_for_each(|name| self.wait_for_agent(name))
    }

    /// Starts the agent of one backend and waits until it has attached its program.
    ///
    /// # Errors
    /// As [`Lab::start_agents`].
    pub fn start_agent(&self, backend: &str) -> Result<()> {
        self.spawn_agent(backend)?;
        self.wait_for_agent(backend)
    }

    /// Ends the agent of a backend by SIGTERM and waits for it.
    ///
    /// # Errors
    /// It does not run, or does not end.
    pub fn stop_agent(&self, backend: &str) -> Result<ExitStatus> {
        let agent = self.agents().remove(backend).with_context(|| format!("{backend} has no agent"))?;
        agent.signal(Signal::SIGTERM)?;
        agent.wait(STOP_TIMEOUT)
    }

    fn spawn_agent(&self, name: &str) -> Result<()> {
        let backend = self.topology().backend(name)?;
        let agent = Process::start(
            &self.entry,
            &self.namespaces.backends[name],
            &format!("agent-{name}"),
            Command::new(weir_binary()?).args(["agent", "--interface", INTERFACE]).args([
                "--address",
                &backend.v4.to_string(),
                "--address",
                &backend.v6.to_string(),
            ]),
        )?;
        self.agents().insert(name.to_owned(), agent);
        Ok(())
    }

    /// The kernel says when the program is there: no need to understand the agent's log.
    fn wait_for_agent(&self, name: &str) -> Result<()> {
        let deadline = Instant::now() + ATTACH_TIMEOUT;
        let netns = self.namespaces.backends[name].clone();
        netns.run(|| {
            loop {
                if let Some(agent) = self.agents().get(name)
                    && let Some(status) = agent.try_wait()?
                {
                    bail!("the agent of {name} ended with {status}:\n{}", agent.log_tail());
                }
                let link = Command::new("ip").args(["link", "show", "dev", INTERFACE]).output()?;
                if String::from_utf8_lossy(&link.stdout).contains("prog/xdp") {
                    return Ok(());
                }
                if Instant::now() > deadline {
                    bail!("the agent of {name} attached nothing within {ATTACH_TIMEOUT:?}");
                }
                thread::sleep(POLL);
            }
        })
    }

    fn edge_name(&self, edge: usize) -> Result<String> {
        let edge = self.topology().edges.get(edge).with_context(|| format!("no edge with index {edge}"))?;
        Ok(edge.name.clone())
    }

    fn agents(&self) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<String, Process>> {
        self.agents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Daemon<'_> {
    /// Waits until the daemon answers `weir status`, which it does when forwarding is in place.
    ///
    /// # Errors
    /// It ends, or does not answer in time; its log is quoted.
    pub fn wait_ready(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(status) = self.process.try_wait()? {
                bail!("the daemon ended with {status}:\n{}", self.process.log_tail());
            }
            if self.socket.exists() && self.cli(&["status"])?.status.success() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon was not ready within {timeout:?}:\n{}", self.process.log_tail());
            }
            thread::sleep(POLL);
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid()
    }

    /// The file that both its outputs go to.
    pub fn log(&self) -> &Path {
        self.process.log()
    }

    /// The last few thousand bytes of its log.
    pub fn log_tail(&self) -> String {
        self.process.log_tail()
    }

    /// Its unix socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Ends it by SIGKILL and waits.
    ///
    /// # Errors
    /// It was waited for already.
    pub fn kill9(&self) -> Result<ExitStatus> {
        self.process.kill()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Ends it by SIGTERM and waits.
    ///
    /// # Errors
    /// It is gone, or does not end within [`STOP_TIMEOUT`].
    pub fn sigterm(&self) -> Result<ExitStatus> {
        self.process.signal(Signal::SIGTERM)?;
        self.process.wait(STOP_TIMEOUT)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// It does not within `timeout`.
    pub fn wait(&self, timeout: Duration) -> Result<ExitStatus> {
        self.process.wait(timeout)
    }

    /// Runs `weir` with these arguments against this daemon.
    ///
    /// # Errors
    /// It cannot be run. That it fails is no error here: look at the status.
    pub fn cli(&self, args: &[&str]) -> Result<Output> {
        self.lab.weir_on(self.edge, args)
    }

    /// Runs `weir` with these arguments and `-o json` against this daemon, and returns what it prints.
    ///
    /// # Errors
    /// It exits with another code than 0 (what it says is quoted), or prints no JSON.
    pub fn cli_json(&self, args: &[&str]) -> Result<serde_json::Value> {
        let output = self.cli(&[args, &["-o", "json"]].concat())?;
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if !output.status.success() {
            bail!("weir {} ended with {}: {err}", args.join(" "), output.status);
        }
        serde_json::from_str(&out).with_context(|| format!("weir {} printed no JSON: {out}", args.join(" ")))
    }
}
