//! The daemon: puts the data plane in place, starts what watches and decides, and serves the API until it is told to stop.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    api::{server::Server, types::SubjectKind},
    config::Config,
    dataplane::{
        loader::{Options, Prepared, Start},
        nexthop::NextHops,
    },
    plan::{
        compile::compile,
        planner::{InitialHealth, Subject},
        state::Override,
    },
    runtime::{
        clock::monotonic_ns,
        control::{self, Handle},
        guardian::Guardian,
        lock::Lock,
        overrides::Overrides,
        program_log,
        service::{Parts, Service},
        switches::Switches,
    },
    telemetry::{event::NewEvent, journal::Journal},
};

/// How long a data plane that is not running yet waits for the first next hops.
const FIRST_NEXT_HOPS: Duration = Duration::from_secs(3);
/// How long it waits for the first verdict on every backend.
const FIRST_VERDICTS: Duration = Duration::from_secs(5);

/// Runs the daemon until SIGTERM or SIGINT. Forwarding goes on after that as it was told last.
///
/// # Errors
/// Whatever keeps it from starting, as typed errors that [`crate::cli::exit`] knows; then nothing has changed.
pub async fn run(config_path: &Path) -> anyhow::Result<()> {
    // Before anything can fail half-way: a signal from now on is an orderly stop.
    let mut signals = Signals::new()?;
    let config = Arc::new(Config::load(config_path)?);
    let node = &config.node;
    let _lock = Lock::acquire(&node.state_dir)?;
    let overrides = Overrides::load(&node.state_dir)?;
    let switches = Switches::load(&node.state_dir)?;
    let journal = Journal::open(&node.state_dir)?;
    let server = Server::bind(&node.socket)?;
    let image = compile(&config)?;
    let prepared = Prepared::new(&image, &Options::new(&config))?;
    let start = prepared.start();
    tracing::info!(node = node.name, ?start, "data plane ready");

    let guardian = Arc::new(Guardian::new(Arc::clone(&config), prepared.guards(), switches, journal.clone()));
    let hops =
        NextHops::start(&config, prepared.next_hop_writer()).context("cannot watch next hops by netlink")?;
    let is_adopted = matches!(start, Start::Adopted { .. });
    let initial = if is_adopted { InitialHealth::Adopted } else { InitialHealth::Fresh };
    let store = Box::new(prepared.admission_writer());
    let (control, events) =
        control::spawn(Arc::clone(&config), store, &standing(&config, &overrides), initial)?;
    let recorder = journal.spawn(events).context("cannot start the journal's thread")?;
    let warmed_up = tokio::select! {
        () = warm_up(is_adopted, &config, &hops, &control) => true,
        () = signals.stop() => false,
    };
    if warmed_up {
        let data_plane = prepared.put_in_place()?;
        journal.record(NewEvent::daemon(node.name.clone(), describe(start), monotonic_ns()));
        let parts = Parts {
            config: Arc::clone(&config),
            config_path: config_path.to_owned(),
            digest: image.digest,
            data_plane,
            hops,
            control: control.clone(),
            journal: journal.clone(),
            overrides,
            guardian,
        };
        serve(server, parts, signals).await;
    }
    control.stop();
    drop(control);
    tokio::task::spawn_blocking(move || recorder.join())
        .await?
        .map_err(|_| anyhow::anyhow!("the journal's thread failed"))?;
    let cause = "stopped; forwarding goes on as it was told last".to_owned();
    journal.record(NewEvent::daemon(node.name.clone(), cause, monotonic_ns()));
    Ok(())
}

/// Serves the API until a signal says stop.
async fn serve(server: Server, parts: Parts, mut signals: Signals) {
    let program_log = program_log::spawn(parts.data_plane.program_id());
    let node = &parts.config.node;
    tracing::info!(interfaces = node.interfaces.join(", "), socket = %node.socket.display(), "forwarding");
    let watch = tokio::spawn(Arc::clone(&parts.guardian).watch());
    let service = Arc::new(Service::new(parts));
    sd_notify("READY=1");
    server.serve(service, signals.stop()).await;
    sd_notify("STOPPING=1");
    watch.abort();
    if let Some(task) = program_log {
        task.abort();
    }
    tracing::info!("stopping; forwarding goes on as it was told last");
}

/// Waits until a data plane that is about to be attached knows where its backends are and which of them answer, so that its
/// first packet goes to a live one. An adopted one forwards already.
async fn warm_up(is_adopted: bool, config: &Config, hops: &NextHops, control: &Handle) {
    if is_adopted {
        return;
    }
    let (hops, all_judged) =
        tokio::join!(hops.first_resolution(FIRST_NEXT_HOPS), control.first_verdicts(FIRST_VERDICTS));
    if hops.unresolved() > 0 {
        tracing::warn!(
            unresolved = hops.unresolved(),
            backends = config.backends.len(),
            "backends without a next hop: packets for them are dropped until it is found"
        );
    }
    if !all_judged {
        tracing::warn!("not every backend was judged in time: those without a verdict are believed to be up");
    }
}

fn describe(start: Start) -> String {
    match start {
        Start::Fresh => "started: nothing was forwarding before".to_owned(),
        Start::Adopted { program_replaced: false } => "started: adopted what was forwarding".to_owned(),
        Start::Adopted { program_replaced: true } => {
            "started: adopted what was forwarding, with a new program".to_owned()
        }
        Start::Replaced { flows_kept: true } => {
            "started: replaced what was forwarding, as the configuration changed; the flow table was kept"
                .to_owned()
        }
        Start::Replaced { flows_kept: false } => {
            "started: replaced what was forwarding, as the configuration changed; the flow table starts empty"
                .to_owned()
        }
    }
}

/// The operators' words on what the configuration has.
fn standing(config: &Config, overrides: &Overrides) -> Vec<(Subject, Override)> {
    let find = |(subject, word): (&crate::api::types::SubjectName, &Override)| {
        let found = match subject.kind {
            SubjectKind::Backend => config.find_backend(&subject.name).map(Subject::Backend),
            SubjectKind::Domain => config.topology.find(&subject.name).map(Subject::Domain),
        };
        if found.is_none() {
            tracing::warn!(
                subject = subject.name,
                "an override waits for something the configuration does not have"
            );
        }
        found.map(|found| (found, word.clone()))
    };
    overrides.iter().filter_map(find).collect()
}

/// The signals that the daemon heeds.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT.
    async fn stop(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::warn!(
                    "this version does not reload on SIGHUP: restart the daemon to change the configuration; forwarding \
                     goes on meanwhile"
                ),
            }
        }
    }
}

/// Tells the service manager, if there is one, how things stand (`sd_notify(3)`).
fn sd_notify(state: &str) {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    if let Err(error) = notify(&path, state) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

fn notify(path: &std::ffi::OsStr, state: &str) -> std::io::Result<()> {
    use std::os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    };
    let address = match path.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        _ => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(drop)
}
