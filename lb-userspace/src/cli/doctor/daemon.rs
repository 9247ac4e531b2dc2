//! What a running daemon says of itself.

use lb_common::abi::ABI_VERSION;
use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg},
};

use super::Finding;
use crate::{
    api::types::{LogView, Status},
    cli::client::{Client, ClientError},
    config::Config,
    runtime::lock::LOCK_FILE,
};

/// Names that a finding shows.
const MAX_NAMES: usize = 5;

pub(super) async fn examine(client: &Client, config: Option<&Config>) -> Vec<Finding> {
    let answer = client.get("/v1/status").await;
    let status: Status = match answer.and_then(|answer| answer.parse()) {
        Ok(status) => status,
        Err(error) => return vec![unreachable(&error, config)],
    };
    let mut findings = of_status(&status);
    let log: Result<LogView, _> = client.get("/v1/log").await.and_then(|answer| answer.parse());
    findings.extend(log.ok().and_then(|log| of_log(&log)));
    findings
}

/// A filter that does not stand by itself.
fn of_log(log: &LogView) -> Option<Finding> {
    let left_s = log.left_s?;
    let seen = format!("logs {} for {left_s} s more, then {}", log.filter, log.base);
    Some(Finding::note("daemon.log", "daemon", seen).help("weir log level --reset ends that"))
}

/// What the status says.
pub(super) fn of_status(status: &Status) -> Vec<Finding> {
    let node = &status.node.name;
    let own = env!("CARGO_PKG_VERSION");
    let mut findings = vec![Finding::ok("daemon", node, format!("answers, pid {}", status.daemon.pid))];
    findings.push(if status.daemon.version == own && status.daemon.abi == ABI_VERSION {
        Finding::ok("daemon.version", node, format!("is of this version, {own}"))
    } else {
        Finding::warning(
            "daemon.version",
            node,
            format!("is version {}, this is {own}", status.daemon.version),
        )
        .help("systemctl restart weir: forwarding goes on meanwhile")
    });
    for interface in status.xdp.interfaces.iter().filter(|interface| !interface.attached) {
        findings.push(
            Finding::error("daemon.attached", &interface.name, "the program is not attached any more")
                .help("systemctl restart weir"),
        );
    }
    if !status.unresolved_next_hops.is_empty() {
        let names = &status.unresolved_next_hops;
        let shown = names[..names.len().min(MAX_NAMES)].join(", ");
        findings.push(
            Finding::error("daemon.next_hops", shown, format!("{} backends have no next hop", names.len()))
                .help("look at routes and neighbours: ip route get ADDRESS, ip neighbour"),
        );
    }
    if let Some(error) = &status.config.last_error {
        let first = error.lines().next().unwrap_or_default();
        findings.push(
            Finding::warning("daemon.reload", node, format!("the last reload was refused: {first}"))
                .help("weir check, then weir reload"),
        );
    }
    if status.isolated {
        findings.push(
            Finding::error("daemon.isolated", node, "nobody answers in any domain: this host may be cut off")
                .help("look at the links of this host"),
        );
    }
    if !status.control.scheduling.starts_with("SCHED_FIFO") {
        findings.push(
            Finding::warning("daemon.scheduling", node, &status.control.scheduling)
                .help("give CAP_SYS_NICE: heartbeats miss their time on a busy host"),
        );
    }
    if let Some(memory) = locked_memory(status.daemon.pid) {
        findings.push(memory);
    }
    findings
}

fn unreachable(error: &ClientError, config: Option<&Config>) -> Finding {
    let subject = "daemon";
    let is_locked = config.is_some_and(|config| {
        let file = std::fs::File::open(config.node.state_dir.join(LOCK_FILE));
        file.is_ok_and(|file| {
            matches!(Flock::lock(file, FlockArg::LockSharedNonblock), Err((_, Errno::EWOULDBLOCK)))
        })
    });
    match error {
        ClientError::Absent { .. } | ClientError::NobodyListens { .. } if !is_locked => {
            Finding::note("daemon", subject, error.to_string()).help("systemctl start weir")
        }
        ClientError::Denied { .. } => {
            Finding::note("daemon", subject, error.to_string()).help("run it as root: sudo weir doctor")
        }
        _ => Finding::error("daemon", subject, format!("runs, but does not answer here: {error}"))
            .help("name its socket with --socket or WEIR_SOCKET; or look into its log, and restart it: forwarding goes on"),
    }
}

fn locked_memory(pid: u32) -> Option<Finding> {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    let soft = line.split_whitespace().next()?;
    Some(if soft == "unlimited" {
        Finding::ok("limits.memlock", "daemon", "may lock its memory")
    } else {
        Finding::note("limits.memlock", "daemon", format!("may lock {soft} bytes: its memory is not locked"))
            .help("LimitMEMLOCK=infinity in its unit")
    })
}
