//! `weir stats`

use std::time::Duration;

use clap::Args;
use comfy_table::{Cell, CellAlignment};

use super::{
    client::Client,
    output::{Output, bytes, number, rate},
    times::parse_seconds,
};
use crate::api::{
    limits::MAX_WAIT,
    types::{Stats, StatsBy, StatsRow},
};

const EXAMPLES: &str = "\
Examples:
  weir stats
  weir stats --by backend --watch
  weir stats --by rack --over 10s
  weir stats --by reason
  weir stats --by zone -o json

Rates are what was counted in the time that --over says, by the counters of the data plane; the rest is counted since the program was \
attached, over every reload, restart and upgrade. PACKETS are those that were forwarded (by reason: all of the reason), bytes are those of the packets as \
they arrived. NEW are packets that may open a flow: TCP SYN, every UDP datagram. With --by reason nothing is left out: what was forwarded, dropped, passed \
to the kernel, and answered. A packet that is dropped has no backend, so backends and domains have no drops.";

/// Arguments of `weir stats`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct StatsArgs {
    /// What to tell apart
    #[arg(long, value_enum, default_value_t, value_name = "WHAT")]
    pub by: StatsBy,
    /// Over how long rates are measured: a whole number and s, up to 30s; 0s for counters only [default: 1s, or the period of --watch]
    #[arg(long, value_parser = parse_over, value_name = "TIME")]
    pub over: Option<u64>,
    /// Only the N busiest
    #[arg(short = 'n', long = "lines", value_name = "N")]
    pub count: Option<usize>,
}

/// Seconds over which rates are measured if nobody says how many.
const DEFAULT_OVER_S: u64 = 1;

fn parse_over(text: &str) -> Result<u64, String> {
    if text == "0s" {
        Ok(0)
    } else {
        parse_seconds(text, MAX_WAIT).map_err(|error| error.replace("0d", "30s"))
    }
}

impl StatsArgs {
    /// Measures over a period, to the second, unless something else was asked for.
    pub(super) fn measure_over(&mut self, period: Duration) {
        let seconds = period.min(MAX_WAIT).as_secs_f64().round().max(1.0);
        self.over.get_or_insert(seconds as u64);
    }
}

pub(super) async fn run(args: &StatsArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let over = args.over.unwrap_or(DEFAULT_OVER_S);
    let path = format!("/v1/stats?by={}&over={over}", args.by.name());
    let answer = client.get_patiently(&path, Duration::from_secs(over)).await?;
    if out.is_data() && args.count.is_none() {
        return Ok(out.json(&answer.json)?);
    }
    let mut stats: Stats = answer.parse()?;
    sort(&mut stats, args.count);
    if out.is_data() {
        return Ok(out.json(&serde_json::to_vec(&stats)?)?);
    }
    let name = stats.by.name().to_uppercase();
    let is_by_reason = stats.by == StatsBy::Reason;
    let mut header = vec![name.as_str()];
    if is_by_reason {
        header.push("VERDICT");
    }
    if over > 0 {
        header.extend(["PACKETS/S", "BIT/S", "NEW/S", "DROPPED/S"]);
    }
    header.extend(["PACKETS", "BYTES", "NEW", "DROPPED"]);
    let rows = stats.rows.iter().chain([&stats.total]).map(|each| row(each, is_by_reason, over > 0));
    Ok(out.table(&header, rows.collect())?)
}

/// The busiest first, and no more than so many.
fn sort(stats: &mut Stats, count: Option<usize>) {
    let busy = |row: &StatsRow| row.per_second.map_or(row.counts.packets as f64, |rates| rates.packets);
    stats.rows.sort_by(|a, b| {
        busy(b).total_cmp(&busy(a)).then(b.counts.packets.cmp(&a.counts.packets)).then(a.name.cmp(&b.name))
    });
    stats.rows.truncate(count.unwrap_or(usize::MAX));
}

fn row(row: &StatsRow, is_by_reason: bool, has_rates: bool) -> Vec<Cell> {
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let or_dash = |text: Option<String>| right(text.unwrap_or_else(|| "-".to_owned()));
    let mut cells = vec![Cell::new(&row.name)];
    if is_by_reason {
        cells.push(Cell::new(row.verdict.map_or("", |verdict| verdict.name())));
    }
    if has_rates {
        let rates = row.per_second;
        cells.extend([
            or_dash(rates.map(|rates| rate(rates.packets))),
            or_dash(rates.map(|rates| rate(rates.bytes * 8.0))),
            or_dash(rates.and_then(|rates| rates.opening).map(rate)),
            or_dash(rates.and_then(|rates| rates.dropped).map(rate)),
        ]);
    }
    let each = |count: Option<u64>| or_dash(count.map(|count| count.to_string()));
    let counts = &row.counts;
    cells.extend([
        number(counts.packets),
        right(bytes(counts.bytes)),
        each(counts.opening),
        each(counts.dropped),
    ]);
    cells
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_measure_over_are_read_or_refused() {
        assert_eq!(["0s", "1s", "30s"].map(|text| parse_over(text).unwrap()), [0, 1, 30]);
        for bad in ["31s", "1m", "0", "x"] {
            assert!(parse_over(bad).is_err(), "{bad}");
        }
        let over = |period, over| {
            let mut args = StatsArgs { by: StatsBy::Service, over, count: None };
            args.measure_over(Duration::from_secs_f64(period));
            args.over
        };
        assert_eq!([over(0.2, None), over(2.0, None), over(3_600.0, None)], [Some(1), Some(2), Some(30)]);
        assert_eq!(over(2.0, Some(5)), Some(5));
    }
}
