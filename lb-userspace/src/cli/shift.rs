//! `weir shift ...`

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::{
    client::{Answer, Client},
    output::{Output, moment, uptime},
    times::{parse_percent, parse_seconds},
};
use crate::{
    api::{
        router::check_reason,
        types::{ShiftCancelRequest, ShiftExtendRequest, ShiftRequest, ShiftView},
    },
    config::Level,
    plan::shift::{MAX_SHIFT_TIME, Origin},
};

const EXAMPLES: &str = "\
Examples:
  weir shift zone west/w1 --to 50% --for 2h --reason 'cooling is weak'
  weir shift zone west/w1 --away 50% --for 2h --reason 'cooling is weak'
  weir shift list
  weir shift extend west/w1 --for 2h --reason 'cooling is still weak'
  weir shift cancel west/w1 --reason 'cooling works again'

--to says which share of its new flows the domain keeps, --away which share goes elsewhere: --to 20% and --away 80% are the same. Established
flows stay where they are. A smaller share only sends flows out, a larger one only brings flows back, and nobody else's move.

Every shift has an end, 7 days from now at the latest. One that stands is replaced by another one for the same domain. Before it
begins, what remains must be able to carry the flows; before traffic returns, by time or by hand, half of the domain's weight must
be well. If it is not when the time is over, the shift goes on for a quarter of its time (10 minutes at most), up to four times.";
const LIST_EXAMPLES: &str = "\
Examples:
  weir shift list
  weir shift list -o json";
const ZONE_EXAMPLES: &str = "\
Examples:
  weir shift zone west/w1 --to 50% --for 2h --reason 'cooling is weak'
  weir shift zone west/w1 --to 0% --for 30m --reason 'errors from there' --force";
const REGION_EXAMPLES: &str = "\
Examples:
  weir shift region west --away 25% --for 1d --reason 'moving to the new site'";
const RACK_EXAMPLES: &str = "\
Examples:
  weir shift rack west/w1/r1 --to 10% --for 20m --reason 'new switch, first traffic'";
const EXTEND_EXAMPLES: &str = "\
Examples:
  weir shift extend west/w1 --for 2h --reason 'cooling is still weak'";
const CANCEL_EXAMPLES: &str = "\
Examples:
  weir shift cancel west/w1 --reason 'cooling works again'";

/// What to do with shifts.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum ShiftCommand {
    /// Send a share of a zone's new flows elsewhere for a while
    #[command(after_long_help = ZONE_EXAMPLES)]
    Zone(ShiftArgs),
    /// Send a share of a region's new flows elsewhere for a while
    #[command(after_long_help = REGION_EXAMPLES)]
    Region(ShiftArgs),
    /// Send a share of a rack's new flows elsewhere for a while
    #[command(after_long_help = RACK_EXAMPLES)]
    Rack(ShiftArgs),
    /// List the shifts that stand, with the time that is left
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Let a shift stand for longer
    #[command(after_long_help = EXTEND_EXAMPLES)]
    Extend {
        /// Path of the domain
        domain: String,
        /// For how long from now on: a whole number and s, m, h or d, up to 7d
        #[arg(long = "for", value_parser = parse_for, value_name = "TIME")]
        for_s: u64,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
    /// End a shift before its time: the domain takes all of its new flows again
    #[command(after_long_help = CANCEL_EXAMPLES)]
    Cancel {
        /// Path of the domain
        domain: String,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
        /// Even if too few of the domain's backends are well
        #[arg(long)]
        force: bool,
    },
}

/// How far, for how long, and why.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct ShiftArgs {
    /// Path of the domain
    domain: String,
    /// Share of its new flows that the domain keeps, in percent
    #[arg(long = "to", value_parser = parse_keep, value_name = "PERCENT", required_unless_present = "away")]
    keep: Option<u8>,
    /// Share of its new flows that goes elsewhere, in percent
    #[arg(long, value_parser = parse_away, value_name = "PERCENT", conflicts_with = "keep")]
    away: Option<u8>,
    /// For how long: a whole number and s, m, h or d, up to 7d
    #[arg(long = "for", value_parser = parse_for, value_name = "TIME")]
    for_s: u64,
    /// Why, in one line; kept in the event journal and shown while the shift stands
    #[arg(long, value_parser = check_reason, value_name = "TEXT")]
    reason: String,
    /// Even if what remains could not carry the flows
    #[arg(long)]
    force: bool,
}

fn parse_keep(text: &str) -> Result<u8, String> {
    parse_percent(text, 0, 99)
}

fn parse_away(text: &str) -> Result<u8, String> {
    parse_percent(text, 1, 100)
}

fn parse_for(text: &str) -> Result<u64, String> {
    parse_seconds(text, MAX_SHIFT_TIME)
}

pub(super) async fn run(command: ShiftCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        ShiftCommand::List => list(client, out).await,
        ShiftCommand::Zone(args) => shift(Level::Zone, args, client, out).await,
        ShiftCommand::Region(args) => shift(Level::Region, args, client, out).await,
        ShiftCommand::Rack(args) => shift(Level::Rack, args, client, out).await,
        ShiftCommand::Extend { domain, for_s, reason } => {
            let request = ShiftExtendRequest { domain, for_s, reason };
            show(&client.post("/v1/shifts/extend", &request).await?, out)
        }
        ShiftCommand::Cancel { domain, reason, force } => {
            let request = ShiftCancelRequest { domain, reason, force };
            let answer = client.post("/v1/shifts/cancel", &request).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let view: ShiftView = answer.parse()?;
            Ok(out.line(format!("{} takes all of its new flows again", view.domain))?)
        }
    }
}

async fn shift(level: Level, args: ShiftArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let ShiftArgs { domain, keep, away, for_s, reason, force } = args;
    // One of them is there, by the definition of the arguments.
    let keep_percent = keep.or(away.map(|away| 100 - away)).unwrap_or(0);
    let request = ShiftRequest { domain, level: Some(level), keep_percent, for_s, reason, force };
    show(&client.post("/v1/shifts", &request).await?, out)
}

fn show(answer: &Answer, out: &mut Output) -> anyhow::Result<()> {
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let view: ShiftView = answer.parse()?;
    let keep = view.shift.keep_percent;
    let left = uptime(view.left_s);
    let text =
        format!("{} keeps {keep} % of its new flows, {} % go elsewhere, for {left}", view.domain, 100 - keep);
    Ok(out.line(text)?)
}

async fn list(client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let answer = client.get("/v1/shifts").await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let shifts: Vec<ShiftView> = answer.parse()?;
    Ok(out.table(&HEADER, shifts.iter().map(row).collect())?)
}

/// Heads of the columns of [`row`].
pub(super) const HEADER: [&str; 7] = ["SHIFT", "KEEPS", "AWAY", "LEFT", "UNTIL", "BY", "REASON"];

/// One shift, as a list and `weir status` show it.
pub(super) fn row(view: &ShiftView) -> Vec<Cell> {
    let shift = &view.shift;
    let until =
        if view.active { moment(shift.until) } else { "waiting: not in the configuration".to_owned() };
    let by = match shift.origin {
        Origin::Operator => "operator",
        Origin::Automatic => "automatic",
    };
    let by = match shift.prolonged {
        0 => by.to_owned(),
        times => format!("{by}, prolonged {times} times"),
    };
    let percent =
        |share: u8| Cell::new(format!("{share} %")).set_alignment(comfy_table::CellAlignment::Right);
    vec![
        Cell::new(&view.domain),
        percent(shift.keep_percent),
        percent(100 - shift.keep_percent.min(100)),
        Cell::new(uptime(view.left_s)),
        Cell::new(until),
        Cell::new(by),
        Cell::new(&shift.reason),
    ]
}

/// The shift of a domain in one line.
pub(super) fn word(view: &ShiftView) -> String {
    let shift = &view.shift;
    format!("shifted, keeps {} % for {} more: {}", shift.keep_percent, uptime(view.left_s), shift.reason)
}
