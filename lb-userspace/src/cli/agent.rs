//! `weir agent`

use std::{net::IpAddr, time::Duration};

use clap::{Args, ValueEnum};

use lb_common::abi::agent::DEFAULT_GUE_PORT;

use super::privilege;
use crate::{
    config::{IpPrefix, PrefixError, XdpMode},
    runtime::agent::{self, AgentOptions},
    telemetry::log::{self, LogFormat},
};

const EXAMPLES: &str = "\
Examples:
  weir agent --interface eth0 --address 10.1.1.11
  weir agent --interface eth0 --address 10.1.1.11 --address fd00::11 --source 10.255.0.0/16 --source fd00:ff::/64
  weir agent --interface eth0 --address 10.1.1.11 --stats-interval 10s

Runs until SIGTERM or SIGINT, then takes its program off. The VIPs have to be on the loopback interface, with
arp_ignore=1 and arp_announce=2. SIGUSR1 prints the counters as one JSON line.";

/// UDP port of heartbeats if nobody says otherwise.
const DEFAULT_HEARTBEAT_PORT: u16 = 6777;
/// Shortest time between two prints of the counters.
const MIN_STATS_INTERVAL: Duration = Duration::from_millis(100);
/// Longest time between two prints of the counters.
const MAX_STATS_INTERVAL: Duration = Duration::from_secs(24 * 60 * 60);

/// Arguments of `weir agent`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct AgentArgs {
    /// The interface by which tunnelled packets arrive
    #[arg(long, value_name = "IF")]
    pub interface: String,
    /// A tunnel endpoint of this host; repeat it for more
    #[arg(long = "address", required = true, value_name = "ADDR")]
    pub addresses: Vec<IpAddr>,
    /// UDP port on which heartbeats are answered
    #[arg(long, default_value_t = DEFAULT_HEARTBEAT_PORT, value_parser = clap::value_parser!(u16).range(1..))]
    pub heartbeat_port: u16,
    /// UDP port on which GUE arrives, variants 0 and 1; 0 for none
    #[arg(long, default_value_t = DEFAULT_GUE_PORT)]
    pub gue_port: u16,
    /// Accept tunnelled packets and heartbeats from here only; repeat it for more
    #[arg(long = "source", value_parser = parse_prefix, value_name = "PREFIX")]
    pub sources: Vec<IpPrefix>,
    /// How the program is attached
    #[arg(long, value_enum, default_value = "native")]
    pub mode: Mode,
    /// Print the counters that often, as one JSON line on standard output: 500ms, 10s, 5m
    #[arg(long, value_parser = parse_interval, value_name = "TIME")]
    pub stats_interval: Option<Duration>,
    /// Form of the log: on standard error, or to systemd's journal
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Mode {
    /// In the driver
    Native,
    /// In the kernel's stack, for interfaces whose driver cannot
    Generic,
}

impl From<Mode> for XdpMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Native => Self::Native,
            Mode::Generic => Self::Generic,
        }
    }
}

fn parse_prefix(text: &str) -> Result<IpPrefix, String> {
    IpPrefix::parse(text).map_err(|error| match error {
        PrefixError::Syntax => "it is no prefix, as in 10.255.0.0/16 or fd00:ff::/64".to_owned(),
        PrefixError::Length { max } => format!("its length is more than {max}"),
        PrefixError::HostBits { corrected } => {
            format!("it has bits beyond its length; did you mean {corrected}?")
        }
    })
}

fn parse_interval(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("it needs a number and a unit: 500ms, 10s, 5m".to_owned()),
    };
    let number: u64 =
        number.parse().map_err(|_| "it needs a number and a unit: 500ms, 10s, 5m".to_owned())?;
    let interval = Duration::from_millis(number.saturating_mul(unit_ms));
    if !(MIN_STATS_INTERVAL..=MAX_STATS_INTERVAL).contains(&interval) {
        return Err("it must be 100ms to 1440m".to_owned());
    }
    Ok(interval)
}

pub(super) fn run(args: AgentArgs) -> anyhow::Result<()> {
    log::init(args.log_format)?;
    privilege::require("agent")?;
    agent::run(&AgentOptions {
        interface: args.interface,
        addresses: args.addresses,
        heartbeat_port: args.heartbeat_port,
        gue_port: args.gue_port,
        sources: args.sources,
        mode: args.mode.into(),
        stats_interval: args.stats_interval,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_have_units_and_bounds() {
        assert_eq!(parse_interval("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_interval("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_interval("5m"), Ok(Duration::from_secs(300)));
        for bad in
            ["", "10", "s", "10 s", "-1s", "99ms", "1441m", "99999999999999999999s", "18446744073709551615m"]
        {
            assert!(parse_interval(bad).is_err(), "{bad}");
        }
    }
}
