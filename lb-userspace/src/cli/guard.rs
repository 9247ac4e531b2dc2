//! `weir guard ...`

use clap::Subcommand;
use comfy_table::Cell;

use super::{
    client::{Client, encode},
    output::{Output, number},
};
use crate::{
    api::types::{GuardView, PerSourceView},
    config::Rate,
};

const LIST_EXAMPLES: &str = "\
Examples:
  weir guard list
  weir guard list -o json

SHED is the share of new flows that is being shed, by the overload controller or by an emergency switch; REFUSED counts packets
since the data plane was built.";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir guard show web
  weir guard show web -o json";

/// What to do with guards.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = "Examples:\n  weir guard list\n  weir guard show web")]
pub enum GuardCommand {
    /// List all services with their protection
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show the protection of one service: lists, limits, what is shed, what was refused and why
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Name of the service
        service: String,
    },
}

pub(super) async fn run(command: GuardCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        GuardCommand::List => {
            let answer = client.get("/v1/guards").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let guards: Vec<GuardView> = answer.parse()?;
            let header = ["SERVICE", "CLASS", "ACCESS", "LIMITS", "SHED", "REFUSED", "SWITCHES"];
            Ok(out.table(&header, guards.iter().map(row).collect())?)
        }
        GuardCommand::Show { service } => {
            let answer = client.get(&format!("/v1/guards/{}", encode(&service))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            show(&answer.parse()?, out)
        }
    }
}

fn row(guard: &GuardView) -> Vec<Cell> {
    vec![
        Cell::new(&guard.service),
        Cell::new(guard.priority),
        Cell::new(access(guard)),
        Cell::new(if limits(guard).is_empty() { "-" } else { "yes" }),
        Cell::new(shed(guard)),
        number(guard.refused.values().sum()),
        Cell::new(or_dash(&guard.switches)),
    ]
}

fn show(guard: &GuardView, out: &mut Output) -> anyhow::Result<()> {
    let mut fields = vec![
        ("service", Cell::new(&guard.service)),
        ("class", Cell::new(guard.priority)),
        ("access", Cell::new(access(guard))),
    ];
    fields.extend(limits(guard).into_iter().map(|(name, text)| (name, Cell::new(text))));
    fields.push(("shed", Cell::new(shed(guard))));
    fields.push(("switches", Cell::new(or_dash(&guard.switches))));
    out.fields(fields)?;
    out.line("")?;
    let reasons = guard.refused.iter().map(|(reason, packets)| vec![Cell::new(reason), number(*packets)]);
    Ok(out.table(&["REFUSED", "PACKETS"], reasons.collect())?)
}

fn or_dash(names: &[String]) -> String {
    if names.is_empty() { "-".to_owned() } else { names.join(", ") }
}

fn access(guard: &GuardView) -> String {
    match (guard.allowed_prefixes, guard.denied_prefixes) {
        (0, 0) => "everybody".to_owned(),
        (0, denied) => format!("all but {denied} prefixes"),
        (allowed, 0) => format!("{allowed} prefixes"),
        (allowed, denied) => format!("{allowed} prefixes, {denied} denied"),
    }
}

fn limits(guard: &GuardView) -> Vec<(&'static str, String)> {
    let mut limits = Vec::new();
    let mut add = |name, text: Option<String>| limits.extend(text.map(|text| (name, text)));
    add("packets", guard.packets.map(rate));
    add("new flows", guard.new_flows.map(rate));
    add("shed above", guard.max_new_flows.map(|most| format!("{most} new flows/s")));
    if let Some(PerSourceView { v4, v6, packets, new_flows }) = &guard.per_source {
        let prefix = format!("for each /{v4} of IPv4 and /{v6} of IPv6");
        add("source packets", packets.map(|packets| format!("{} {prefix}", rate(packets))));
        add("source flows", new_flows.map(|flows| format!("{} {prefix}", rate(flows))));
    }
    limits
}

fn rate(rate: Rate) -> String {
    format!("{}/s, {} at once", rate.per_second, rate.burst)
}

fn shed(guard: &GuardView) -> String {
    match (guard.shed_percent > 0.0, guard.switch_shed_percent > 0.0) {
        (false, false) => "-".to_owned(),
        (true, false) => format!("{:.1} %", guard.shed_percent),
        (false, true) => format!("{:.1} % by switch", guard.switch_shed_percent),
        (true, true) => format!("{:.1} %, {:.1} % by switch", guard.shed_percent, guard.switch_shed_percent),
    }
}
