//! `weir log`

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::{
    client::{Answer, Client},
    output::{Output, uptime},
    times::parse_seconds,
};
use crate::{
    api::types::{LogRequest, LogView},
    telemetry::log::MAX_FILTER_TIME,
};

const EXAMPLES: &str = "\
Examples:
  weir log level
  weir log level debug --for 10m
  weir log level info,lb_userspace::health=debug --for 1h
  weir log level --reset";

const LEVEL_EXAMPLES: &str = "\
Examples:
  weir log level
  weir log level debug --for 10m
  weir log level info,lb_userspace::health=debug --for 1h
  weir log level --reset

A level is one of error, warn, info, debug, trace and off; MODULE=LEVEL holds for a part of the program. It ends by itself, a day from now
at the latest; then what WEIR_LOG said when the daemon started holds again. The log itself: journalctl -u weir.";

/// What to do with the daemon's log.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum LogCommand {
    /// Show what is logged, or log more or less for a while
    #[command(after_long_help = LEVEL_EXAMPLES)]
    Level(LevelArgs),
}

/// Arguments of `weir log level`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct LevelArgs {
    /// What to log: a level, or levels of modules, with commas between
    #[arg(value_name = "FILTER")]
    filter: Option<String>,
    /// For how long: a whole number and s, m, h or d, up to 1d
    #[arg(long = "for", value_parser = parse_for, default_value = "15m", value_name = "TIME")]
    for_s: u64,
    /// Log as at the start of the daemon again
    #[arg(long, conflicts_with = "filter")]
    reset: bool,
}

fn parse_for(text: &str) -> Result<u64, String> {
    parse_seconds(text, MAX_FILTER_TIME)
}

pub(super) async fn run(command: LogCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let LogCommand::Level(LevelArgs { filter, for_s, reset }) = command;
    let answer = match filter {
        Some(filter) => client.put("/v1/log", &LogRequest { filter, for_s }).await?,
        None if reset => client.delete("/v1/log").await?,
        None => client.get("/v1/log").await?,
    };
    show(&answer, out)
}

fn show(answer: &Answer, out: &mut Output) -> anyhow::Result<()> {
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let view: LogView = answer.parse()?;
    let filter = match view.left_s {
        Some(left) => format!("{}, for {} more; then {}", view.filter, uptime(left), view.base),
        None => view.filter,
    };
    Ok(out.fields(vec![("filter", Cell::new(filter)), ("format", Cell::new(view.format))])?)
}
