//! `weir doctor`: what of this host may hurt, with remedies. It reads only, and works without a daemon, too.

mod daemon;
mod host;
mod network;
mod state;
mod tables;

use std::{
    borrow::Cow,
    path::{Path, PathBuf},
};

use clap::Args;
use comfy_table::Cell;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DEFAULT_CONFIG, client::Client, exit::ExitCode, output::Output};
use crate::{api::types::Status, config::Config};

const EXAMPLES: &str = "\
Examples:
  weir doctor
  weir doctor --all --config weir.toml
  weir doctor -o json

Where nobody names a configuration and /etc/weir/weir.toml is not there, it is that of the running daemon. Looks at kernel, drivers, offloads, MTU towards each backend, neighbours, clock, limits, pins, lock, socket and files, and changes
nothing. With --server the daemon there looks at its host. Exits with 0 if there is nothing worse than a note, 11 with warnings, 12 with errors. Run it
as root: others do not see all.";

/// Arguments of `weir doctor`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DoctorArgs {
    /// The configuration: a file, or a folder of *.toml
    #[arg(long, env = "WEIR_CONFIG", default_value = DEFAULT_CONFIG, value_name = "PATH")]
    pub config: PathBuf,
    /// Also show what is well
    #[arg(long)]
    pub all: bool,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It is well.
    Ok,
    /// Good to know.
    Note,
    /// It costs something, or will under load or after a failure.
    Warning,
    /// Packets are lost, or the daemon cannot start.
    Error,
}

/// What was found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Finding {
    /// What was looked at, for programs: `kernel.jit`.
    pub check: Cow<'static, str>,
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: an interface, a backend, a file.
    pub subject: String,
    /// What was seen.
    pub seen: String,
    /// What to do about it; empty where nothing has to be done.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    fn new(
        check: &'static str,
        severity: Severity,
        subject: impl Into<String>,
        seen: impl Into<String>,
    ) -> Self {
        Self {
            check: Cow::Borrowed(check),
            severity,
            subject: subject.into(),
            seen: seen.into(),
            remedy: String::new(),
        }
    }

    fn ok(check: &'static str, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Ok, subject, seen)
    }

    fn note(check: &'static str, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Note, subject, seen)
    }

    fn warning(check: &'static str, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Warning, subject, seen)
    }

    fn error(check: &'static str, subject: impl Into<String>, seen: impl Into<String>) -> Self {
        Self::new(check, Severity::Error, subject, seen)
    }

    fn help(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Looks at everything.
pub(super) fn examine(args: &DoctorArgs, client: &Client) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut findings, config) = local(&runtime.block_on(file(&args.config, client)));
    findings.extend(runtime.block_on(daemon::examine(client, config.as_ref())));
    Ok(sorted(findings))
}

/// The file to look at: where nobody names one and there is none at the usual place, that of the daemon.
async fn file(named: &Path, client: &Client) -> PathBuf {
    if named != Path::new(DEFAULT_CONFIG) || named.exists() {
        return named.to_owned();
    }
    let status: Option<Status> = client.get("/v1/status").await.ok().and_then(|answer| answer.parse().ok());
    status.map_or_else(|| named.to_owned(), |status| status.config.file)
}

/// What a daemon finds on its own host: it knows its status itself.
pub(crate) fn of_daemon(path: &Path, status: &Status) -> Vec<Finding> {
    let (mut findings, _) = local(path);
    findings.extend(daemon::of_status(status));
    sorted(findings)
}

/// What needs no daemon, and the configuration if it is valid.
fn local(path: &Path) -> (Vec<Finding>, Option<Config>) {
    let mut findings = host::examine();
    let config = Config::load(path);
    let subject = path.display().to_string();
    match &config {
        Ok(config) => {
            findings.push(Finding::ok("config.file", subject, "is valid"));
            findings.extend(network::examine(config));
            findings.extend(state::examine(config, path));
            findings.extend(tables::examine(config));
        }
        Err(error) => {
            let first = error.problems.first().map_or_else(String::new, |problem| problem.message.clone());
            let remedy = format!("weir check --config {subject} shows all of it");
            findings.push(Finding::error("config.file", subject, first).help(remedy));
        }
    }
    (findings, config.ok())
}

/// The worst first; what is equally bad in the order in which it was looked at.
fn sorted(mut findings: Vec<Finding>) -> Vec<Finding> {
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// What the daemon of another host finds there.
fn asked(client: &Client) -> anyhow::Result<Vec<Finding>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(client.get("/v1/doctor"))?.parse()?)
}

pub(super) fn run(args: &DoctorArgs, client: &Client, out: &mut Output) -> anyhow::Result<ExitCode> {
    let findings = if client.is_remote() { asked(client)? } else { examine(args, client)? };
    let worst = findings.iter().map(|finding| finding.severity).max().unwrap_or(Severity::Ok);
    if out.is_data() {
        out.json(&serde_json::to_vec(&findings)?)?;
    } else {
        show(&findings, args.all, out)?;
    }
    Ok(match worst {
        Severity::Ok | Severity::Note => ExitCode::Ok,
        Severity::Warning => ExitCode::Warnings,
        Severity::Error => ExitCode::Errors,
    })
}

fn show(findings: &[Finding], all: bool, out: &mut Output) -> anyhow::Result<()> {
    let shown: Vec<_> = findings.iter().filter(|f| all || f.severity > Severity::Ok).collect();
    let rows = shown.iter().map(|finding| {
        let severity = format!("{:?}", finding.severity).to_lowercase();
        [severity, finding.check.to_string(), finding.subject.clone(), finding.seen.clone()]
            .map(Cell::new)
            .to_vec()
    });
    if !shown.is_empty() {
        out.table(&["SEVERITY", "CHECK", "SUBJECT", "SEEN"], rows.collect())?;
    }
    let mut remedies: Vec<&str> = Vec::new();
    for finding in shown {
        if !finding.remedy.is_empty() && !remedies.contains(&&*finding.remedy) {
            out.line(format_args!("{}: {}", finding.check, finding.remedy))?;
            remedies.push(&finding.remedy);
        }
    }
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    Ok(out.line(format_args!("{} looked at: {errors} errors, {warnings} warnings", findings.len()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn severities_are_in_the_order_of_how_bad_they_are() {
        let order = [Severity::Ok, Severity::Note, Severity::Warning, Severity::Error];
        assert!(order.is_sorted());
    }
}
