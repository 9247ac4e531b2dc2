//! `weir flows ...`

use std::time::Duration;

use clap::{Args, Subcommand};
use comfy_table::{Cell, CellAlignment};

use super::{
    client::{Client, encode},
    output::{Output, span, uptime},
};
use crate::api::{
    limits::MAX_FLOWS,
    router::check_reason,
    types::{FlowView, FlowsPage, FlushRequest, Flushed},
};

const TERMS: &str = "\
The terms of FILTER must all hold:
  host|src|dst ADDRESS or PREFIX         an end, the client, the VIP
  port|src port|dst port N or N-M        ports likewise
  tcp|udp|sctp|proto N                   the protocol
  service NAME                           the service
  backend NAME                           the backend that the flow goes to
  state opening|established|closing      what was seen of it";
const EXAMPLES: &str = "\
Examples:
  weir flows list backend w1r1b1
  weir flows flush backend w1r1b1 --reason 'its state is gone'";
const LIST_EXAMPLES: &str = "\
Examples:
  weir flows list
  weir flows list backend w1r1b1 --limit 1000
  weir flows list src 198.51.100.0/24 and dst port 443
  weir flows list service web state established -o json

Only flows that are not at home are remembered, and those of a service whose tables changed lately: on a healthy day there are none. \
HOME is the backend to which the flow would go without its entry; it is empty where that is the same one. IDLE is the time since the last packet, \
to about a second. Flows come in no order that means anything, and those that come or go meanwhile may be missed.";
const FLUSH_EXAMPLES: &str = "\
Examples:
  weir flows flush backend w1r1b1 --reason 'its state is gone'
  weir flows flush src 203.0.113.0/24 and state opening --reason 'left by a flood'
  weir flows flush --all --reason 'begin anew after the exercise'

What it breaks: a flow that is forgotten goes home with its next packet. If home is another backend than the one that it was on (HOME in `weir flows \
list`), nobody knows it there: a TCP connection is reset, and the client has to open it again. Flows whose home takes none at all go where a \
new flow would. Entries of flows that are at home, or over, can go without harm. Nothing else changes: no backend is taken out, and flows that open \
away from home after that are remembered again.

It needs a filter or --all, and a reason. It runs page by page beside everything else, for 30 s at most, and is written into the event journal with \
what was flushed.";

/// What to do with flows.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum FlowsCommand {
    /// List flows that are remembered: client, service, backend, home
    #[command(after_long_help = format!("{LIST_EXAMPLES}\n\n{TERMS}"))]
    List(ListArgs),
    /// Forget flows: those that are away from home break
    #[command(after_long_help = format!("{FLUSH_EXAMPLES}\n\n{TERMS}"))]
    Flush(FlushArgs),
}

/// Arguments of `weir flows list`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ListArgs {
    /// List only flows that match all of these terms; all flows without
    #[arg(value_name = "FILTER", num_args = 0..)]
    pub filter: Vec<String>,
    /// At most so many, 1 to 1000000
    #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_LIMIT, value_parser = parse_limit)]
    pub limit: usize,
}

/// Arguments of `weir flows flush`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct FlushArgs {
    /// Forget flows that match all of these terms
    #[arg(value_name = "FILTER", num_args = 1.., required_unless_present = "all")]
    pub filter: Vec<String>,
    /// Forget all flows
    #[arg(long, conflicts_with = "filter")]
    pub all: bool,
    /// Why, in one line; kept in the event journal
    #[arg(long, value_parser = check_reason, value_name = "TEXT")]
    pub reason: String,
}

/// Flows that are listed if nobody says how many.
const DEFAULT_LIMIT: usize = 100;
/// Flows that are listed at most.
const MAX_LIMIT: usize = 1_000_000;
/// How much longer than other requests a flush may take.
const PATIENCE: Duration = Duration::from_secs(30);

fn parse_limit(text: &str) -> Result<usize, String> {
    let limit = text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
    limit.ok_or_else(|| format!("write a whole number from 1 to {MAX_LIMIT}"))
}

/// A flush that did not come to the end of the tables.
#[derive(Debug, thiserror::Error)]
#[error("the time for it was over before the end of the tables: {removed} flows were flushed")]
pub struct Unfinished {
    /// How many were flushed.
    pub removed: u64,
}

pub(super) async fn run(command: FlowsCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        FlowsCommand::List(args) => list(&args, client, out).await,
        FlowsCommand::Flush(args) => flush(args, client, out).await,
    }
}

async fn list(args: &ListArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let filter = encode(&args.filter.join(" "));
    let mut all = FlowsPage::default();
    loop {
        let limit = (args.limit - all.flows.len()).min(MAX_FLOWS);
        let cursor =
            all.cursor.take().map_or_else(String::new, |cursor| format!("&cursor={}", encode(&cursor)));
        let path = format!("/v1/flows?filter={filter}&limit={limit}{cursor}");
        let FlowsPage { flows, scanned, cursor } = client.get(&path).await?.parse()?;
        all.flows.extend(flows);
        all.scanned += scanned;
        all.cursor = cursor;
        if all.cursor.is_none() || all.flows.len() >= args.limit {
            break;
        }
    }
    if out.is_data() {
        return Ok(out.json(&serde_json::to_vec(&all)?)?);
    }
    let header = ["CLIENT", "TO", "SERVICE", "BACKEND", "HOME", "STATE", "IDLE"];
    out.table(&header, all.flows.iter().map(row).collect())?;
    if all.cursor.is_some() {
        out.line(format_args!("\nthe first {}; --limit shows more", all.flows.len()))?;
    }
    Ok(())
}

fn row(flow: &FlowView) -> Vec<Cell> {
    let relayed = if flow.relayed { " (relayed)" } else { "" };
    let home = if flow.away { flow.home.as_deref().unwrap_or_default() } else { "" };
    vec![
        Cell::new(flow.src),
        Cell::new(format!("{}/{}{relayed}", flow.dst, flow.protocol)),
        Cell::new(flow.service.as_deref().unwrap_or("-")),
        Cell::new(&flow.backend),
        Cell::new(home),
        Cell::new(flow.state.name()),
        Cell::new(uptime(flow.idle_s)).set_alignment(CellAlignment::Right),
    ]
}

async fn flush(args: FlushArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let FlushArgs { filter, all, reason } = args;
    let request = FlushRequest { filter: filter.join(" "), all, reason };
    let answer = client.post_patiently("/v1/flows/flush", &request, PATIENCE).await?;
    let Flushed { removed, away, scanned, complete, took_ns } = answer.parse()?;
    if out.is_data() {
        out.json(&answer.json)?;
    } else {
        let took = span(took_ns);
        out.line(format_args!(
            "{removed} of {scanned} flows flushed, {away} of them away from home, in {took}"
        ))?;
    }
    out.flush()?;
    if complete { Ok(()) } else { Err(Unfinished { removed }.into()) }
}
