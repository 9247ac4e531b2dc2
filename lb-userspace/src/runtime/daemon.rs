//! The daemon: puts the data plane in place, starts what watches and decides, and serves the API until it is told to stop.

use std::{path::Path, sync::Arc};

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{
    api::{Control, https::Https, server::Server},
    config::Config,
    dataplane::loader::{Options, Prepared, Start},
    plan::{
        canary::{self, Canary, Misfit},
        compile::compile_with,
        tables::TableCache,
    },
    runtime::{
        canaries::Canaries,
        clock::monotonic_ns,
        keeper,
        lock::Lock,
        notify,
        overrides::Overrides,
        privileges::Helper,
        program_log,
        service::{Parts, Service},
        switches::Switches,
        tenure::Heir,
    },
    telemetry::{
        event::{NewEvent, with_last_alive},
        journal::Journal,
    },
};

/// Runs the daemon with this configuration, read from this file, and with what the file says without its secrets, until SIGTERM or SIGINT. Forwarding goes on after that as it was
/// told last. The helper ends when the start is over.
///
/// # Errors
/// Whatever keeps it from starting, as typed errors that [`crate::cli::exit`] knows; then nothing has changed.
pub async fn run(
    config_path: &Path,
    (config, effective): (Config, toml::Table),
    helper: Helper,
) -> anyhow::Result<()> {
    // Before anything can fail half-way: a signal from now on is an orderly stop.
    let mut signals = Signals::new()?;
    let base = Arc::new(config);
    let node = &base.node;
    let _lock = Lock::acquire(&node.state_dir)?;
    let overrides = Overrides::load(&node.state_dir)?;
    let switches = Switches::load(&node.state_dir)?;
    let journal = Journal::open(&node.state_dir)?;
    let last_alive = keeper::last_alive(&node.state_dir);
    let canaries = Canaries::load(&node.state_dir)?;
    let mut server = Server::bind(&node.socket)?;
    let https = Arc::new(Https::load(base.http.tls.as_ref())?);
    if let Some(address) = base.http.listen {
        server.listen(address, Arc::clone(&https))?;
        tracing::info!(%address, "{}", told(base.http.tls.as_ref()));
    }
    let (config, misfits) = canary::apply(&base, canaries.list());
    let config = Arc::new(config);
    let mut tables = TableCache::default();
    let image = compile_with(&config, &mut tables)?;
    let prepared = Prepared::new(&image, &Options::new(&config))?;
    let start = prepared.start();
    tracing::info!(node = node.name, ?start, "data plane ready");

    let heir = Heir::new(Arc::clone(&config), image.digest, prepared, &overrides, &journal)?;
    let warmed_up = tokio::select! {
        () = heir.warm_up() => true,
        () = signals.stop() => false,
    };
    if warmed_up {
        let tenure = heir.begin(switches, &journal)?;
        let cause = with_last_alive(describe(start), last_alive);
        journal.record(NewEvent::daemon(node.name.clone(), cause, monotonic_ns()));
        let config_path = config_path.to_owned();
        let (base, journal) = (Arc::clone(&base), journal.clone());
        let parts =
            Parts { config_path, tenure, tables, journal, overrides, base, canaries, https, effective };
        serve(server, parts, &misfits, signals, helper).await;
    } else {
        heir.give_up();
    }
    let cause = "stopped; forwarding goes on as it was told last".to_owned();
    journal.record(NewEvent::daemon(node.name.clone(), cause, monotonic_ns()));
    Ok(())
}

/// Serves the API until a signal says stop.
async fn serve(
    server: Server,
    parts: Parts,
    misfits: &[(Canary, Misfit)],
    mut signals: Signals,
    helper: Helper,
) {
    let program_log = program_log::spawn(parts.tenure.data_plane.program_id(), &helper);
    drop(helper);
    let node = &parts.tenure.config.node;
    tracing::info!(interfaces = node.interfaces.join(", "), socket = %node.socket.display(), "forwarding");
    let service = Arc::new(Service::new(parts));
    service.end_misfits(misfits);
    notify::ready();
    let keeping = Arc::clone(&service);
    let keeper = tokio::spawn(async move { keeping.keep().await });
    let announcing = Arc::clone(&service);
    let announcer = tokio::spawn(async move { announcing.watch_announcement().await });
    let measuring = Arc::clone(&service);
    let measurer = tokio::spawn(async move { measuring.watch_traffic().await });
    let feeding = Arc::clone(&service);
    let feeder = tokio::spawn(async move { feeding.feed_watchdog().await });
    let reloading = Arc::clone(&service);
    let stopped = async {
        while signals.next().await == Told::Reload {
            let service = Arc::clone(&reloading);
            // What comes of it stands in journal and log.
            drop(tokio::spawn(async move { drop(service.reload().await) }));
        }
        // Or their answers would go on while the server waits for their end.
        tokio::task::block_in_place(|| reloading.watchers.end());
    };
    server.serve(Arc::clone(&service), stopped).await;
    notify::stopping();
    keeper.abort();
    announcer.abort();
    measurer.abort();
    feeder.abort();
    if let Some(task) = program_log {
        task.abort();
    }
    service.end().await;
    tracing::info!("stopping; forwarding goes on as it was told last");
}

/// What is served over TCP.
fn told(tls: Option<&crate::config::Tls>) -> &'static str {
    match tls {
        None => "metrics and status page, without authentication",
        Some(tls) if tls.clients.is_none() => "metrics and status page over TLS, without authentication",
        Some(_) => "the API over TLS, to those who show a certificate",
    }
}

fn describe(start: Start) -> String {
    match start {
        Start::Fresh => "started: nothing was forwarding before".to_owned(),
        Start::Adopted { program_replaced: false } => "started: adopted what was forwarding".to_owned(),
        Start::Adopted { program_replaced: true } => {
            "started: adopted what was forwarding, with a new program".to_owned()
        }
        Start::Replaced => {
            "started: replaced what was forwarding, as the configuration changed; established flows go on"
                .to_owned()
        }
        Start::TakenOver { version } => format!(
            "started: took over from a version with another binary interface ({version}); flows away from home are not \
             known any more"
        ),
    }
}

/// What a signal tells the daemon.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Told {
    Stop,
    Reload,
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

    async fn next(&mut self) -> Told {
        tokio::select! {
            _ = self.terminate.recv() => Told::Stop,
            _ = self.interrupt.recv() => Told::Stop,
            _ = self.hangup.recv() => Told::Reload,
        }
    }

    /// Waits for SIGTERM or SIGINT. A SIGHUP meanwhile says nothing: the configuration was just read.
    async fn stop(&mut self) {
        while self.next().await == Told::Reload {}
    }
}
