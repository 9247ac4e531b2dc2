//! `weir report`

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment};

use super::{
    client::Client,
    output::{Output, moment, number, uptime},
    times::parse_seconds,
};
use crate::telemetry::report::{Kind, Record, Report};

const EXAMPLES: &str = "\
Examples:
  weir report
  weir report --since 30d
  weir report --since 1d --all -o json

Down is what is DOWN by its checks, or in a domain that is; a service is down while none of its backends is up. SUSPECT and RAMP count as
up. What an operator drained or failed is planned: neither up nor down, nor are times in which no daemon ran. MTTF is the time up, MTTR
the time down, for each failure. All of it comes from the event journal, and goes back as far as that does.";
/// How far back at most; the journal ends before that.
const MAX_SINCE: Duration = Duration::from_secs(3_660 * 86_400);
/// How much longer than other requests it may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `weir report`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct ReportArgs {
    /// How far back: a whole number and s, m, h or d
    #[arg(long, value_parser = parse_since, default_value = "7d", value_name = "TIME")]
    pub since: u64,
    /// Show every backend, not only those that were down or planned to be
    #[arg(long)]
    pub all: bool,
}

fn parse_since(text: &str) -> Result<u64, String> {
    parse_seconds(text, MAX_SINCE)
}

pub(super) async fn run(args: &ReportArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let path = format!("/v1/report?since_s={}", args.since);
    let answer = client.get_patiently(&path, PATIENCE).await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let report: Report = answer.parse()?;
    let Report { since, journal_since, journal_truncated, until, observed_s, gaps, records } = &report;
    out.line(format!("from {} to {}", moment(*since), moment(*until)))?;
    match journal_since {
        None => out.line("the journal holds nothing: nothing is known")?,
        Some(first) if first > since => {
            let why =
                if *journal_truncated { "older events were rotated away" } else { "no daemon ran before" };
            out.line(format!(
                "the journal begins at {}: {why}; what was before is not counted",
                moment(*first)
            ))?;
        }
        Some(_) => {}
    }
    let missing =
        until.duration_since((*since).max(journal_since.unwrap_or(*since))).as_secs_f64() - observed_s;
    if *gaps > 0 {
        out.line(format!(
            "no daemon ran {gaps} times, {} in all: that is not counted",
            time(missing.max(0.0))
        ))?;
    }
    out.line("")?;
    let is_shown = |record: &&Record| {
        args.all
            || record.kind != Kind::Backend
            || record.failures > 0
            || record.down_s + record.planned_s > 0.0
    };
    let header = ["KIND", "NAME", "AVAILABILITY", "FAILURES", "MTTF", "MTTR", "DOWN", "PLANNED"];
    let rows: Vec<_> = records.iter().filter(is_shown).map(row).collect();
    let left_out = records.len() - rows.len();
    out.table(&header, rows)?;
    if left_out > 0 {
        out.line(format!("\n{left_out} backends were up all the time (--all shows them)"))?;
    }
    Ok(())
}

fn row(record: &Record) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let each = |seconds: Option<f64>| right(seconds.map_or_else(|| "-".to_owned(), time));
    let availability =
        record.availability_percent.map_or_else(|| "-".to_owned(), |share| format!("{share:.4} %"));
    vec![
        Cell::new(record.kind.name()),
        Cell::new(&record.name),
        right(availability),
        number(record.failures),
        each(record.mttf_s),
        each(record.mttr_s),
        right(time(record.down_s)),
        right(time(record.planned_s)),
    ]
}

/// A time in seconds; short ones with parts of a second.
fn time(seconds: f64) -> String {
    if seconds == 0.0 {
        "0".to_owned()
    } else if seconds < 60.0 {
        format!("{seconds:.3} s")
    } else {
        uptime(seconds.round() as u64)
    }
}
