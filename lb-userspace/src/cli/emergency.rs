//! `weir emergency ...`

use clap::{Args, Subcommand};
use comfy_table::Cell;

use super::{
    client::Client,
    output::{Output, moment, uptime},
    times,
};
use crate::{
    api::{
        router::check_reason,
        types::{ClearRequest, SwitchView, ThrowRequest},
    },
    config::{IpPrefix, PrefixError, Priority},
    plan::switches::{MAX_SWITCH_TIME, Switch},
};

const EXAMPLES: &str = "\
Examples:
  weir emergency block 203.0.113.0/24 --for 10m --reason 'flood, ticket 4711'
  weir emergency stop web --for 5m --reason 'database restarts'
  weir emergency list
  weir emergency clear block:203.0.113.0/24 --reason 'flood is over'

Each switch goes off by itself, also when no daemon runs, and outlives a restart of the daemon. What is needed for longer belongs
into the configuration.";
const LIST_EXAMPLES: &str = "\
Examples:
  weir emergency list
  weir emergency list -o json";
const BLOCK_EXAMPLES: &str = "\
Examples:
  weir emergency block 203.0.113.0/24 --for 10m --reason 'flood, ticket 4711'
  weir emergency block 2001:db8:bad::/48 --service web --for 1h --reason 'scraper'

Every packet from there to a VIP is dropped: those of established flows too, and, without --service, pings and other ICMP. Only the
link's own questions (ARP, neighbour discovery) are still answered.";
const STOP_EXAMPLES: &str = "\
Examples:
  weir emergency stop web --for 5m --reason 'database restarts'

New flows are dropped, established ones stay.";
const SHED_EXAMPLES: &str = "\
Examples:
  weir emergency shed P3 --share 50% --for 30m --reason 'the region is full'

New flows of all services of the class are dropped at random, established ones stay.";
const LIMIT_EXAMPLES: &str = "\
Examples:
  weir emergency limit web --new-flows 1000 --for 15m --reason 'cold cache'
  weir emergency limit web --packets 200000 --for 15m --reason 'saturated link'

The service's configured limits hold besides.";
const CLEAR_EXAMPLES: &str = "\
Examples:
  weir emergency clear stop:web --reason 'database is up'";

/// What to do with emergency switches.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum EmergencyCommand {
    /// List the switches that are on, with the time that is left
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Drop every packet from a source prefix to a VIP
    #[command(after_long_help = BLOCK_EXAMPLES)]
    Block {
        /// The source prefix
        #[arg(value_parser = parse_prefix)]
        prefix: IpPrefix,
        /// Only packets to this service; without it to all of them
        #[arg(long, value_name = "NAME")]
        service: Option<String>,
        /// For how long and why
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Let no new flows to a service in
    #[command(after_long_help = STOP_EXAMPLES)]
    Stop {
        /// Name of the service
        service: String,
        /// For how long and why
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Drop a share of the new flows of a priority class
    #[command(after_long_help = SHED_EXAMPLES)]
    Shed {
        /// P0, P1, P2 or P3
        #[arg(value_parser = parse_class)]
        class: Priority,
        /// The share in percent
        #[arg(long, value_parser = parse_percent, value_name = "PERCENT")]
        share: u32,
        /// For how long and why
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Let no more than this to a service in
    #[command(after_long_help = LIMIT_EXAMPLES)]
    Limit {
        /// Name of the service
        service: String,
        /// Packets a second
        #[arg(long, value_name = "NUMBER", required_unless_present = "new_flows")]
        packets: Option<u64>,
        /// New flows a second
        #[arg(long, value_name = "NUMBER")]
        new_flows: Option<u64>,
        /// For how long and why
        #[command(flatten)]
        why: WhyArgs,
    },
    /// Take a switch back before its time
    #[command(after_long_help = CLEAR_EXAMPLES)]
    Clear {
        /// Name of the switch, as `weir emergency list` shows it
        name: String,
        /// Why, in one line; kept in the event journal
        #[arg(long, value_parser = check_reason, value_name = "TEXT")]
        reason: String,
    },
}

/// How long a switch is on, and why.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct WhyArgs {
    /// How long it is on: a whole number and s, m, h or d
    #[arg(long = "for", value_parser = parse_seconds, value_name = "TIME")]
    for_s: u64,
    /// Why, in one line; kept in the event journal and shown while the switch is on
    #[arg(long, value_parser = check_reason, value_name = "TEXT")]
    reason: String,
}

fn parse_prefix(text: &str) -> Result<IpPrefix, String> {
    IpPrefix::parse(text).map_err(|error| match error {
        PrefixError::Syntax => {
            "write an address and a length, such as 203.0.113.0/24; one host is /32 or /128".to_owned()
        }
        PrefixError::Length { max } => format!("the length goes from 0 to {max}"),
        PrefixError::HostBits { corrected } => {
            format!("it has bits set beyond its length; write {corrected}")
        }
    })
}

fn parse_class(text: &str) -> Result<Priority, String> {
    let found = Priority::ALL.into_iter().find(|class| class.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| "the classes are P0, P1, P2 and P3".to_owned())
}

fn parse_percent(text: &str) -> Result<u32, String> {
    times::parse_percent(text, 1, 100).map(u32::from)
}

fn parse_seconds(text: &str) -> Result<u64, String> {
    times::parse_seconds(text, MAX_SWITCH_TIME)
}

pub(super) async fn run(command: EmergencyCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let (switch, why) = match command {
        EmergencyCommand::List => return list(client, out).await,
        EmergencyCommand::Clear { name, reason } => {
            let answer = client.post("/v1/emergency/clear", &ClearRequest { name, reason }).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let view: SwitchView = answer.parse()?;
            return Ok(out.line(format!("{} is off", view.name))?);
        }
        EmergencyCommand::Block { prefix, service, why } => (Switch::Block { prefix, service }, why),
        EmergencyCommand::Stop { service, why } => (Switch::Stop { service }, why),
        EmergencyCommand::Shed { class, share, why } => (Switch::Shed { class, percent: share }, why),
        EmergencyCommand::Limit { service, packets, new_flows, why } => {
            let limit =
                Switch::Limit { service, packets_per_second: packets, new_flows_per_second: new_flows };
            (limit, why)
        }
    };
    let request = ThrowRequest { switch, for_s: why.for_s, reason: why.reason };
    let answer = client.post("/v1/emergency", &request).await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let view: SwitchView = answer.parse()?;
    Ok(out.line(format!("{} is on for {}: {}", view.name, uptime(view.left_s), view.effect))?)
}

async fn list(client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let answer = client.get("/v1/emergency").await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let switches: Vec<SwitchView> = answer.parse()?;
    let row = |view: &SwitchView| {
        let effect =
            if view.active { view.effect.clone() } else { format!("waits for its service: {}", view.effect) };
        vec![
            Cell::new(&view.name),
            Cell::new(uptime(view.left_s)),
            Cell::new(moment(view.thrown.until)),
            Cell::new(effect),
            Cell::new(&view.thrown.reason),
        ]
    };
    Ok(out.table(&["NAME", "LEFT", "UNTIL", "EFFECT", "REASON"], switches.iter().map(row).collect())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_shares_are_a_number_with_a_unit() {
        assert_eq!(
            ["30s", "10m", "2h", "7d"].map(|text| parse_seconds(text).unwrap()),
            [30, 600, 7_200, 604_800]
        );
        for bad in ["", "10", "m", "0s", "8d", "1.5h", "-1s", "99999999999999999999s", "1w"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
        assert_eq!(["50%", "1", "100 %"].map(|text| parse_percent(text).unwrap()), [50, 1, 100]);
        for bad in ["0", "101", "half", "50%%"] {
            assert!(parse_percent(bad).is_err(), "{bad}");
        }
    }
}
