//! `weir reload` and `weir diff`

use std::{path::PathBuf, time::Duration};

use clap::Args;
use comfy_table::Cell;

use super::{
    client::{Client, encode},
    output::{Output, number},
};
use crate::api::types::{Changes, Differences, Reloaded, TableChange};

pub(super) const RELOAD_EXAMPLES: &str = "\
Examples:
  weir reload
  weir reload -o json

Reads the daemon's configuration again and puts it in force: no packet is lost, no connection breaks. A file with a mistake changes
nothing. SIGHUP does the same.";
const DIFF_EXAMPLES: &str = "\
Examples:
  weir diff
  weir diff /etc/weir/weir.toml.new
  weir diff -o json

Shows what `weir reload` would change, with the daemon's own file or with another one. Nothing is changed.";
/// Names that a line shows before it only counts.
const MAX_LISTED: usize = 12;
/// Members of a table that are shown.
const MAX_MEMBERS: usize = 4;
/// How much longer than other requests a reload may take: new next hops and backends are waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `weir diff`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = DIFF_EXAMPLES)]
pub struct DiffArgs {
    /// The configuration to compare with; the daemon's own file if none is named
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

pub(super) async fn reload(client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let answer = client.post_patiently("/v1/reload", &serde_json::json!({}), PATIENCE).await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let Reloaded { file, changed, moved_services, leaving_backends, leaving_services, differences, .. } =
        answer.parse()?;
    if !changed {
        return Ok(
            out.line(format_args!("{} says what is in force already: nothing changed", file.display()))?
        );
    }
    out.line(format_args!("{} is in force", file.display()))?;
    show(&differences, out)?;
    if moved_services > 0 {
        out.line(format_args!(
            "{moved_services} services are in transition: established flows stay where they are (`weir status`)"
        ))?;
    }
    if leaving_backends + leaving_services > 0 {
        out.line(format_args!(
            "{leaving_backends} backends and {leaving_services} services left and stay for their established flows"
        ))?;
    }
    Ok(())
}

pub(super) async fn diff(args: &DiffArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let mut path = "/v1/diff".to_owned();
    if let Some(file) = &args.file {
        path = format!("{path}?file={}", encode(&std::path::absolute(file)?.to_string_lossy()));
    }
    let answer = client.get(&path).await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let differences: Differences = answer.parse()?;
    if differences.is_empty() {
        return Ok(out.line("no difference")?);
    }
    show(&differences, out)
}

fn show(differences: &Differences, out: &mut Output) -> anyhow::Result<()> {
    let Differences { services, backends, pools, domains, tables, settings, restart, canaries } = differences;
    let kinds = [("services", services), ("pools", pools), ("backends", backends), ("domains", domains)];
    for (kind, changes) in kinds {
        let Changes { added, removed, changed } = changes;
        for (what, names) in [("added", added), ("removed", removed), ("changed", changed)] {
            if !names.is_empty() {
                out.line(format_args!("{kind} {what}: {}", list(names)))?;
            }
        }
    }
    if !settings.is_empty() {
        out.line(format_args!("settings changed: {}", list(settings)))?;
    }
    for canary in canaries {
        out.line(canary)?;
    }
    for key in restart {
        out.line(format_args!("needs a restart: {key}"))?;
    }
    if !tables.is_empty() {
        out.table(&["POOL", "SLOTS", "MOVE", "SHARE", "MOST BY"], tables.iter().map(row).collect())?;
    }
    Ok(())
}

fn list(names: &[String]) -> String {
    let shown: Vec<_> = names.iter().take(MAX_LISTED).map(String::as_str).collect();
    match names.len().saturating_sub(MAX_LISTED) {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn row(table: &TableChange) -> Vec<Cell> {
    let TableChange { pool, slots, moved, members } = table;
    let share = 100.0 * f64::from(*moved) / f64::from((*slots).max(1));
    let members = members.iter().take(MAX_MEMBERS);
    let members: Vec<_> = members.map(|m| format!("{} +{} -{}", m.backend, m.gained, m.lost)).collect();
    vec![
        Cell::new(pool),
        number(u64::from(*slots)),
        number(u64::from(*moved)),
        Cell::new(format!("{share:.1} %")),
        Cell::new(members.join(", ")),
    ]
}
