//! `lab`: the lab for people. Needs root.
use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
use lb_tests::{
    bench, demo,
    lab::{self, ConfigOptions, Cut, Lab, VIP_V4},
    package,
};
use std::{
    path::PathBuf,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

/// How long a daemon may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Parser)]
#[command(name = "lab", about = "Weir's lab: a small internet of network namespaces", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Show a rack and a zone die and come back under steady traffic
    Demo {
        /// How their links are cut
        #[arg(long, value_enum, default_value_t = Fault::Drop)]
        fault: Fault,
    },
    /// Measure, and print the results as JSON
    Bench {
        /// What to measure
        #[arg(value_enum)]
        name: Bench,
    },
    /// Raise a lab, say how to enter it, and wait for Ctrl-C
    Up {
        /// Also start agents on the backends and a daemon on the edge
        #[arg(long)]
        weir: bool,
    },
    /// Try the package under a real systemd, under load: `cargo xtask dist --try` does
    Package {
        /// A Debian root with systemd in it
        root: PathBuf,
        /// The package
        first: PathBuf,
        /// The package, of a later version
        second: PathBuf,
    },
    /// Remove what labs have left whose process is gone
    Clean,
}

#[derive(Clone, Copy, ValueEnum)]
enum Fault {
    /// From one instant on every frame is dropped: exact times
    Drop,
    /// The rack's bridge is taken down, as by `ip link set down`: takes milliseconds
    Link,
}

#[derive(Clone, Copy, ValueEnum)]
enum Bench {
    /// Nanoseconds per packet of the XDP program
    Datapath,
    /// Time from faults of each kind to the last packet sent to what is dead
    Failover,
    /// Times and memory of a daemon with 1,000 services and 5,000 backends
    Control,
}

fn main() -> ExitCode {
    let result = match Arguments::parse().verb {
        Verb::Demo { fault } => demo(fault),
        Verb::Bench { name } => bench(name),
        Verb::Up { weir } => up(weir),
        Verb::Package { root, first, second } => {
            package::run(&root, &first, &second).map(|()| ExitCode::SUCCESS)
        }
        Verb::Clean => clean(),
    };
    result.unwrap_or_else(|error| {
        eprintln!("lab: {error:#}");
        ExitCode::FAILURE
    })
}

fn demo(fault: Fault) -> Result<ExitCode> {
    let cut = match fault {
        Fault::Drop => Cut::Drop,
        Fault::Link => Cut::Link,
    };
    Ok(if demo::run(cut)? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn bench(name: Bench) -> Result<ExitCode> {
    let measurements = match name {
        Bench::Datapath => bench::datapath()?,
        Bench::Failover => bench::failover()?,
        Bench::Control => bench::control()?,
    };
    println!("{}", serde_json::to_string_pretty(&measurements)?);
    Ok(ExitCode::SUCCESS)
}

fn clean() -> Result<ExitCode> {
    let removed = lab::clean()?;
    println!(
        "removed {} labs{}{}",
        removed.len(),
        if removed.is_empty() { "" } else { ": " },
        removed.join(" ")
    );
    Ok(ExitCode::SUCCESS)
}

fn up(with_weir: bool) -> Result<ExitCode> {
    let begin = Instant::now();
    let lab = Lab::builder().raise()?;
    let daemon = if with_weir {
        lab.start_agents()?;
        let daemon = lab.start_daemon(&lab.write_config(&ConfigOptions::default())?)?;
        daemon.wait_ready(READY_TIMEOUT)?;
        Some(daemon)
    } else {
        None
    };
    let (id, directory, seconds) = (lab.id(), lab.directory().display(), begin.elapsed().as_secs_f32());
    println!("{id} is up after {seconds:.1} s. Its files: {directory}");
    println!("\nEnter a host:  nsenter --net=/run/netns/{id}-<host> bash");
    let topology = lab.topology();
    let clients: Vec<_> = topology.clients.iter().map(|client| format!("client-{}", client.region)).collect();
    let edges: Vec<_> = topology.edges.iter().map(|edge| edge.name.clone()).collect();
    println!("Hosts:         router {} {}", clients.join(" "), edges.join(" "));
    println!("               {}", topology.backend_names().join(" "));
    let backend = topology.backends.first().context("a lab has backends")?;
    let target = if with_weir { VIP_V4 } else { backend.v4 };
    println!("Try:           nsenter --net=/run/netns/{id}-client-west curl http://{target}/");
    if let Some(daemon) = &daemon {
        let weir = lab::weir_binary()?;
        println!("               {} --socket {} status", weir.display(), daemon.socket().display());
    }
    println!("\nCtrl-C removes it all.");
    loop {
        thread::park();
    }
}
