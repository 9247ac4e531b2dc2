//! `weir trace`

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    client::{Client, Stream, encode},
    output::Output,
};
use crate::{
    api::types::{PacketShape, VerdictKind, WatchLine, WatchedPacket},
    runtime::watch::MAX_SAMPLE,
};

const EXAMPLES: &str = "\
Examples:
  weir trace
  weir trace src 198.51.100.7 and dst port 443 --count 20
  weir trace service web verdict drop
  weir trace reason all_down,no_next_hop -o json
  weir trace udp port 53 --sample 1/1000

One line for each packet: what it is, and what became of it. Only what matches is copied out of the kernel. The terms of
FILTER must all hold:
  host|src|dst ADDRESS or PREFIX         an end, the client, the VIP
  port|src port|dst port N or N-M        ports likewise
  tcp|udp|sctp|icmp|icmp6|proto N        the protocol
  service NAME                           the service
  reason NAME,NAME                       what it is counted under; `weir status` shows the names
  verdict pass,drop,answer,forward       what was done with it
PLACED says what gave it its backend, STEP which pool of the plan, PROBES how many slots of that pool's table were tried,
FLOWS what the flow table had to do with it. Packets are not waited for: those that come too fast to be shown are
counted on standard error. Ctrl-C ends it.";

/// Arguments of `weir trace`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct TraceArgs {
    /// Which packets
    #[command(flatten)]
    pub which: Which,
}

/// Which packets, and how many of them.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
pub struct Which {
    /// Show only packets that match all of these terms; all packets without
    #[arg(value_name = "FILTER", num_args = 0..)]
    pub filter: Vec<String>,
    /// End after so many packets
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Show one of N packets, at random
    #[arg(long, value_name = "1/N", default_value = "1/1", value_parser = parse_sample)]
    pub sample: u32,
}

fn parse_sample(text: &str) -> Result<u32, String> {
    let every = text.strip_prefix("1/").and_then(|every| every.parse().ok());
    every
        .filter(|every| (1..=MAX_SAMPLE).contains(every))
        .ok_or_else(|| format!("it must be 1/N, where N is 1 to {MAX_SAMPLE}"))
}

impl Which {
    /// Begins to watch.
    pub(super) async fn watch(&self, client: &Client, snap: u32) -> anyhow::Result<Stream> {
        let filter = encode(&self.filter.join(" "));
        let path = format!("/v1/watch?filter={filter}&sample={}&snap={snap}", self.sample);
        Ok(client.stream(&path).await?)
    }
}

pub(super) async fn run(args: &TraceArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let mut interrupts = interrupts()?;
    let mut stream = args.which.watch(client, 0).await?;
    let mut left = args.which.count;
    while left != Some(0) {
        let line = tokio::select! {
            line = stream.next() => line?,
            _ = interrupts.recv() => return Ok(()),
        };
        let told: WatchLine = stream.parse(&line)?;
        match &told {
            _ if out.is_data() => out.json(&line)?,
            WatchLine::Begin { .. } => out.line(HEADER)?,
            WatchLine::Packet(packet) => out.line(row(packet))?,
            WatchLine::Lost { packets } => note(format_args!("{packets} packets more were too many to show")),
            WatchLine::End { .. } => {}
        }
        out.flush()?;
        match told {
            WatchLine::Packet(_) => left = left.map(|left| left - 1),
            WatchLine::End { cause } => return Err(stream.ended(&cause).into()),
            WatchLine::Begin { .. } | WatchLine::Lost { .. } => {}
        }
    }
    Ok(())
}

/// Tells people something beside the output. If nobody reads it, that is fine.
pub(super) fn note(text: impl std::fmt::Display) {
    use io::Write as _;
    let _ = writeln!(io::stderr(), "{text}");
}

/// Ctrl-C, from now on. One listener for all the time: between two of them a signal would be lost.
pub(super) fn interrupts() -> io::Result<Signal> {
    signal(SignalKind::interrupt())
}

/// Columns have fixed widths, so that what follows later lines up with what came before.
const HEADER: &str = "TIME                         CLIENT                 TO                         SERVICE       REGION    PLACED       STEP        PROBES  FLOWS    BACKEND         VERDICT  REASON";

fn row(packet: &WatchedPacket) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let protocol = packet.protocol.as_ref().map_or_else(String::new, |protocol| format!("/{protocol}"));
    let step = match (packet.step, &packet.pool) {
        (Some(step), Some(pool)) => format!("{step} {pool}"),
        (Some(step), None) => step.to_string(),
        _ => "-".to_owned(),
    };
    let shape = match packet.shape {
        PacketShape::Whole => "",
        PacketShape::FirstFragment => " (first fragment)",
        PacketShape::LaterFragment => " (later fragment)",
        PacketShape::IcmpError => " (ICMP error about the flow)",
    };
    let relayed = if packet.relayed { " (relayed)" } else { "" };
    format!(
        "{:<27}  {:<21}  {:<25}  {:<12}  {:<8}  {:<11}  {:<10}  {:<6}  {:<7}  {:<14}  {:<7}  {}{shape}{relayed}",
        format!("{:.6}", packet.time),
        end(packet.src, packet.src_port),
        format!("{}{protocol}", end(packet.dst, packet.dst_port)),
        or_none(&packet.service),
        or_none(&packet.client_region),
        packet.placed_by.map_or("-", |by| by.words()),
        step,
        packet.probes.map_or_else(|| "-".to_owned(), |probes| probes.to_string()),
        packet.flow_table.words(),
        or_none(&packet.backend),
        verdict(packet.verdict),
        packet.reason,
    )
}

/// One end of a packet.
pub(super) fn end(address: Option<IpAddr>, port: Option<u16>) -> String {
    match (address, port) {
        (Some(address), Some(port)) => SocketAddr::new(address, port).to_string(),
        (Some(address), None) => address.to_string(),
        (None, _) => "-".to_owned(),
    }
}

/// A verdict in one word.
pub(super) const fn verdict(verdict: VerdictKind) -> &'static str {
    match verdict {
        VerdictKind::Pass => "pass",
        VerdictKind::Drop => "drop",
        VerdictKind::Answer => "answer",
        VerdictKind::Forward => "forward",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_read_or_refused() {
        assert_eq!(parse_sample("1/1000"), Ok(1000));
        for text in ["", "10", "2/10", "1/0", "1/x", "1/1000001"] {
            assert!(parse_sample(text).is_err(), "{text}");
        }
    }
}
