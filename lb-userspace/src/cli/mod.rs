//! The command line: one file for each noun, [`client`] speaks to the daemon, [`exit`] knows what errors come to.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use clap::{Args, Parser as _, Subcommand};

pub mod agent;
pub mod backend;
pub mod bfd;
pub mod bundle;
pub mod canary;
pub mod capture;
pub mod check;
pub mod client;
pub mod completions;
pub mod config;
pub mod daemon;
pub mod detach;
pub mod doctor;
pub mod domain;
pub mod emergency;
pub mod events;
pub mod exit;
pub mod explain;
pub mod flows;
pub mod guard;
pub mod log;
pub mod manual;
pub mod operate;
pub mod output;
pub mod plan;
pub mod privilege;
pub mod reload;
pub mod remote;
pub mod report;
pub mod service;
mod shape;
pub mod shift;
pub mod stats;
pub mod status;
mod times;
pub mod top;
pub mod trace;
mod watch;
mod yaml;

use client::Client;
use exit::ExitCode;
use output::{Format, Output};

/// Where the configuration is if nobody says otherwise.
pub const DEFAULT_CONFIG: &str = "/etc/weir/weir.toml";
/// Where the daemon listens if nobody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weir/weir.sock";

const EXAMPLES: &str = "\
Examples:
  weir check --config weir.toml
  weir daemon --config weir.toml
  weir status
  weir top
  weir stats --by backend --watch
  weir reload
  weir backend list
  weir domain drain west/w1 --reason 'moving racks'
  weir shift zone west/w1 --to 50% --for 2h --reason 'cooling is weak'
  weir explain 198.51.100.7:40000 192.0.2.10:80/tcp
  weir events --follow";

/// The command line: what [`shape`] makes of it, which adds short names and `--watch`.
#[derive(Clone, PartialEq, Debug)]
pub struct Cli {
    /// What holds for every command.
    pub global: Global,
    /// What to do.
    pub command: Command,
    /// How often to do it again; not at all without.
    pub watch: Option<Duration>,
}

/// Regional access-layer load balancer: an XDP data plane, its daemon, and the command line that steers it.
#[derive(Debug, clap::Parser)]
#[command(name = "weir", version, after_long_help = format!("{EXAMPLES}\n\n{}", exit::help()))]
struct Line {
    /// What holds for every command.
    #[command(flatten)]
    global: Global,
    /// What to do.
    #[command(subcommand)]
    command: Command,
}

/// Options of every command.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Global {
    /// The daemon's unix socket
    #[arg(long, global = true, env = "WEIR_SOCKET", default_value = DEFAULT_SOCKET, value_name = "PATH")]
    pub socket: PathBuf,
    /// Another host's daemon.
    #[command(flatten)]
    pub remote: remote::Remote,
    /// Tables for people; JSON or YAML for programs
    #[arg(short, long, global = true, value_enum, default_value_t, value_name = "FORMAT")]
    pub output: Format,
}

/// The verbs and nouns of `weir`.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
pub enum Command {
    /// Check a configuration without touching anything
    Check(check::CheckArgs),
    /// Run the daemon of an edge host
    Daemon(daemon::DaemonArgs),
    /// Run the agent of a backend host
    Agent(agent::AgentArgs),
    /// Show how the edge host is doing
    #[command(after_long_help = status::EXAMPLES)]
    Status,
    /// Read the configuration again and put it in force
    #[command(after_long_help = reload::RELOAD_EXAMPLES)]
    Reload,
    /// Show what a reload would change
    Diff(reload::DiffArgs),
    /// Show services
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Show backends; drain, fail and restore them
    #[command(subcommand)]
    Backend(backend::BackendCommand),
    /// Show regions, zones and racks; drain, fail and restore them
    #[command(subcommand)]
    Domain(domain::DomainCommand),
    /// Send a share of a zone's, region's or rack's new flows elsewhere for a while
    #[command(subcommand)]
    Shift(shift::ShiftCommand),
    /// Give one set of a service a share of its flows, by steps; promote or abort it
    #[command(subcommand)]
    Canary(canary::CanaryCommand),
    /// Show BFD sessions
    #[command(subcommand)]
    Bfd(bfd::BfdCommand),
    /// Show how services are protected: access lists, limits, what was refused
    #[command(subcommand)]
    Guard(guard::GuardCommand),
    /// Show where plans send new flows and why; simulate failures and load
    #[command(subcommand)]
    Plan(plan::PlanCommand),
    /// Throw and take back emergency switches: block, stop, shed, limit
    #[command(subcommand)]
    Emergency(emergency::EmergencyCommand),
    /// Show where a packet would go now, and why
    Explain(explain::ExplainArgs),
    /// Show counters and rates: by service, backend, rack, zone, region, or by what became of packets
    Stats(stats::StatsArgs),
    /// Show the tree of domains with rates and states as they change, and act on it by keys
    Top(top::TopArgs),
    /// Show the flows that are remembered; forget some of them
    #[command(subcommand)]
    Flows(flows::FlowsCommand),
    /// Show packets, one by one: what each is, and what becomes of it
    Trace(trace::TraceArgs),
    /// Write packets into a file, as they came and as they left
    Capture(capture::CaptureArgs),
    /// Show what happened: every change of state with its cause and timings
    Events(events::EventsArgs),
    /// Show how often and for how long what was down: MTTF, MTTR, availability
    Report(report::ReportArgs),
    /// Take the XDP program off: forwarding ends
    Detach(detach::DetachArgs),
    /// Show what the daemon logs; log more or less for a while
    #[command(subcommand)]
    Log(log::LogCommand),
    /// Look at this host for what may hurt, with remedies
    Doctor(doctor::DoctorArgs),
    /// Gather what helps those who are asked for help, without secrets
    SupportBundle(bundle::BundleArgs),
    /// Show a configuration with its defaults, or the schema of the file
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Print the script by which a shell completes commands and live names
    Completions(completions::CompletionsArgs),
    /// Write the manual pages
    #[command(hide = true)]
    Manual(manual::ManualArgs),
}

/// Runs the process's command line.
#[must_use]
pub fn main() -> ExitCode {
    if completions::answer_shell() {
        return ExitCode::Ok;
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come as errors, too. If nobody reads them, that is fine.
            let _ = error.print();
            if let Some(tip) = shape::verb_first(&error) {
                let _ = writeln!(io::stderr(), "\n  tip: {tip}");
            }
            return if error.use_stderr() { ExitCode::Usage } else { ExitCode::Ok };
        }
    };
    run(cli).unwrap_or_else(|error| {
        if exit::is_broken_pipe(&error) {
            return ExitCode::Ok;
        }
        let exit::Diagnosis { code, remedy } = exit::diagnose(&error);
        report(&error, remedy.as_deref());
        code
    })
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let Cli { global: Global { socket, remote, output }, command, watch } = cli;
    let mut out = Output::stdout(output);
    let code = match command {
        Command::Check(args) => check::run(&args, &mut out)?,
        Command::Daemon(args) => done(daemon::run(&args))?,
        Command::Agent(args) => done(agent::run(args))?,
        Command::Detach(args) => done(detach::run(&args, &mut out))?,
        Command::Doctor(args) => doctor::run(&args, &remote.client(&socket)?, &mut out)?,
        Command::SupportBundle(args) => done(bundle::run(&args, &remote.client(&socket)?, &mut out))?,
        Command::Config(command) => done(config::run(&command, &remote.client(&socket)?, &mut out))?,
        Command::Completions(args) => done(completions::run(&args, &mut out))?,
        Command::Manual(args) => done(manual::run(&args))?,
        Command::Top(args) => done(top::run(&args, &remote.client(&socket)?, &out))?,
        asking => done(ask(asking, watch, &remote.client(&socket)?, &mut out))?,
    };
    out.flush()?;
    Ok(code)
}

/// Runs a command that speaks to the daemon, once or again and again.
fn ask(command: Command, watch: Option<Duration>, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match watch {
            Some(period) => watch::run(command, period, client, out).await,
            None => ask_once(command, client, out).await,
        }
    })
}

async fn ask_once(command: Command, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        Command::Status => status::run(client, out).await,
        Command::Reload => reload::reload(client, out).await,
        Command::Diff(args) => reload::diff(&args, client, out).await,
        Command::Service(command) => service::run(command, client, out).await,
        Command::Backend(command) => backend::run(command, client, out).await,
        Command::Domain(command) => domain::run(command, client, out).await,
        Command::Shift(command) => shift::run(command, client, out).await,
        Command::Canary(command) => canary::run(command, client, out).await,
        Command::Bfd(command) => bfd::run(command, client, out).await,
        Command::Guard(command) => guard::run(command, client, out).await,
        Command::Plan(command) => plan::run(command, client, out).await,
        Command::Emergency(command) => emergency::run(command, client, out).await,
        Command::Explain(args) => explain::run(&args, client, out).await,
        Command::Stats(args) => stats::run(&args, client, out).await,
        Command::Flows(command) => flows::run(command, client, out).await,
        Command::Report(args) => report::run(&args, client, out).await,
        Command::Log(command) => log::run(command, client, out).await,
        Command::Events(args) => events::run(&args, client, out).await,
        Command::Trace(args) => trace::run(&args, client, out).await,
        Command::Capture(args) => capture::run(&args, client, out).await,
        Command::Check(_)
        | Command::Daemon(_)
        | Command::Agent(_)
        | Command::Detach(_)
        | Command::Doctor(_)
        | Command::Top(_)
        | Command::SupportBundle(_)
        | Command::Config(_)
        | Command::Completions(_)
        | Command::Manual(_) => {
            unreachable!("these do not speak to the daemon first")
        }
    }
}

fn done(outcome: anyhow::Result<()>) -> anyhow::Result<ExitCode> {
    outcome.map(|()| ExitCode::Ok)
}

/// An error and its causes in one line, without those that the error before already quotes.
fn told<'a>(chain: impl Iterator<Item = &'a (dyn std::error::Error + 'static)>) -> String {
    let mut line = String::new();
    let mut last = String::new();
    for error in chain {
        let text = error.to_string();
        if line.is_empty() {
            line.push_str(&text);
        } else if !last.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        last = text;
    }
    line
}

/// Tells people what went wrong and what to do.
fn report(error: &anyhow::Error, remedy: Option<&str>) {
    let mut stderr = io::stderr().lock();
    // Where standard error is gone, the exit code still speaks.
    let _ = match error.downcast_ref::<crate::config::ConfigError>() {
        // It is several errors, each with its place.
        Some(error) => writeln!(stderr, "{error}"),
        None => writeln!(stderr, "error: {}", told(error.chain())),
    };
    if let Some(remedy) = remedy {
        let _ = writeln!(stderr, " = help: {remedy}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let system = || io::Error::from(io::ErrorKind::StorageFull);
        let quoting = crate::runtime::overrides::OverridesError::Read { path: "f".into(), source: system() };
        let error = anyhow::Error::new(quoting).context("starting");
        assert_eq!(
            told(error.chain()),
            format!("starting: cannot read the operators' overrides in f: {}", system())
        );
        let error = anyhow::Error::new(system()).context(format!("cannot write: {}", system()));
        assert_eq!(told(error.chain()), format!("cannot write: {}", system()));
    }
}
