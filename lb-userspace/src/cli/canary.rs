//! `weir canary ...`

use std::time::Duration;

use clap::Subcommand;
use comfy_table::Cell;

use super::{
    client::{Answer, Client},
    output::{Output, moment},
};
use crate::{
    api::{
        router::check_reason,
        types::{CanaryRequest, CanarySetRequest, CanaryView},
    },
    plan::canary::{ALL, percent},
};

const EXAMPLES: &str = "\
Examples:
  weir canary set web --set blue-2 --share 1% --reason 'version 7'
  weir canary step web --reason 'no errors in an hour'
  weir canary step web --back --reason 'slower than before'
  weir canary promote web --reason 'version 7 is good'
  weir canary abort web --reason 'version 7 leaks'
  weir canary list

A canary gives one set of a service a share of its pool's flows, whatever the weights say; the others share the rest as before. New flows
follow at once, established ones stay where they are. Aborting brings back exactly the placement from before.

A set that is not to take anything before its canary begins stands in the pool's `standby` and not in its `sets`. A canary outlives
restarts and reloads; one whose set leaves the file ends, with an event. After a promotion, write the set into `sets` and the
old one into `standby`, and reload: nothing moves, and the canary ends.";
const SET_EXAMPLES: &str = "\
Examples:
  weir canary set web --set blue-2 --share 1% --reason 'version 7'
  weir canary set web --set blue-2 --share 2.5% --steps 2.5%,10%,100% --reason 'version 7'
  weir canary set web --set blue-2 --share 0% --reason 'nothing for it any more'";
const STEP_EXAMPLES: &str = "\
Examples:
  weir canary step web --reason 'no errors in an hour'
  weir canary step web --back --reason 'slower than before'";
const PROMOTE_EXAMPLES: &str = "\
Examples:
  weir canary promote web --reason 'version 7 is good'";
const ABORT_EXAMPLES: &str = "\
Examples:
  weir canary abort web --reason 'version 7 leaks'";
const LIST_EXAMPLES: &str = "\
Examples:
  weir canary list
  weir canary list -o json";
/// How much longer than other requests it may take: new next hops and backends are waited for, as in a reload.
const PATIENCE: Duration = Duration::from_secs(30);

/// What to do with canaries.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum CanaryCommand {
    /// List the canaries that stand
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Begin a canary, or give it another share
    #[command(after_long_help = SET_EXAMPLES)]
    Set {
        /// Name of the service
        service: String,
        /// The set, of one of the service's pools
        #[arg(long, value_name = "SET")]
        set: String,
        /// Share of the pool's flows that the set takes, 0% to 100%
        #[arg(long, value_parser = parse_share, value_name = "PERCENT")]
        share: u32,
        /// The shares that `step` goes through [default: 1%,5%,10%,25%,50%,100%]
        #[arg(long, value_parser = parse_share, value_name = "PERCENT", value_delimiter = ',')]
        steps: Option<Vec<u32>>,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
    /// Go to the next step
    #[command(after_long_help = STEP_EXAMPLES)]
    Step {
        /// Name of the service
        service: String,
        /// To the step before
        #[arg(long)]
        back: bool,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
    /// Give the set all of its pool's flows
    #[command(after_long_help = PROMOTE_EXAMPLES)]
    Promote {
        /// Name of the service
        service: String,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
    /// Take the canary away: all is as the configuration says
    #[command(after_long_help = ABORT_EXAMPLES)]
    Abort {
        /// Name of the service
        service: String,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
}

/// Percent with at most one digit behind the point, in permille.
fn parse_share(text: &str) -> Result<u32, String> {
    let wrong = || "write a share from 0% to 100%, to a tenth, such as 5% or 2.5%".to_owned();
    let number = text.strip_suffix('%').unwrap_or(text).trim_end();
    let (whole, tenth) = number.split_once('.').unwrap_or((number, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(tenth) || tenth.len() != 1 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let tenth: u32 = tenth.parse().map_err(|_| wrong())?;
    whole
        .checked_mul(10)
        .map(|permille| permille + tenth)
        .filter(|permille| *permille <= ALL)
        .ok_or_else(wrong)
}

pub(super) async fn run(command: CanaryCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let (action, request) = match command {
        CanaryCommand::List => return list(client, out).await,
        CanaryCommand::Set { service, set, share, steps, reason } => {
            let request = CanarySetRequest { service, set, permille: share, steps, reason };
            return show(&client.post_patiently("/v1/canaries", &request, PATIENCE).await?, out);
        }
        CanaryCommand::Step { service, back, reason } => ("step", CanaryRequest { service, reason, back }),
        CanaryCommand::Promote { service, reason } => {
            ("promote", CanaryRequest { service, reason, back: false })
        }
        CanaryCommand::Abort { service, reason } => ("abort", CanaryRequest { service, reason, back: false }),
    };
    let answer = client.post_patiently(&format!("/v1/canaries/{action}"), &request, PATIENCE).await?;
    if action == "abort" && !out.is_data() {
        let view: CanaryView = answer.parse()?;
        return Ok(out.line(format!("{}: all is as the configuration says", view.canary.service))?);
    }
    show(&answer, out)
}

fn show(answer: &Answer, out: &mut Output) -> anyhow::Result<()> {
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let CanaryView { canary, next_permille } = answer.parse()?;
    let next = next_permille
        .map_or_else(|| "no further step".to_owned(), |next| format!("next step {}", percent(next)));
    Ok(out.line(format!(
        "{}: set {} takes {}, {next}",
        canary.service,
        canary.set,
        percent(canary.permille)
    ))?)
}

async fn list(client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let answer = client.get("/v1/canaries").await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let canaries: Vec<CanaryView> = answer.parse()?;
    Ok(out.table(&HEADER, canaries.iter().map(row).collect())?)
}

/// Heads of the columns of [`row`].
pub(super) const HEADER: [&str; 6] = ["CANARY", "SET", "TAKES", "NEXT", "SINCE", "REASON"];

/// One canary, as a list and `weir status` show it.
pub(super) fn row(view: &CanaryView) -> Vec<Cell> {
    let CanaryView { canary, next_permille } = view;
    vec![
        Cell::new(&canary.service),
        Cell::new(&canary.set),
        Cell::new(percent(canary.permille)).set_alignment(comfy_table::CellAlignment::Right),
        Cell::new(next_permille.map_or_else(|| "-".to_owned(), percent))
            .set_alignment(comfy_table::CellAlignment::Right),
        Cell::new(moment(canary.since)),
        Cell::new(&canary.reason),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_have_a_digit_behind_the_point_at_most() {
        assert_eq!(["0%", "5%", "2.5", "100 %"].map(|text| parse_share(text).unwrap()), [0, 50, 25, 1_000]);
        for bad in ["", "%", "-1%", "100.1%", "2.55%", "2.%", ".5%", "1e1", "99999999999%"] {
            assert!(parse_share(bad).is_err(), "{bad}");
        }
    }
}
