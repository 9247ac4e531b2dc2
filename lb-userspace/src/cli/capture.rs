//! `weir capture`

use std::{
    fs::File,
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use lb_common::abi::watch::MAX_SNAP;

use super::{
    client::Client,
    output::Output,
    trace::{Which, end, interrupts, note, verdict},
};
use crate::{
    api::types::{WatchLine, WatchedPacket},
    telemetry::pcapng::{Direction, Packet, Writer},
};

const EXAMPLES: &str = "\
Examples:
  weir capture -w web.pcapng service web --count 100
  weir capture -w drops.pcapng verdict drop --snap 1514
  weir capture -w - src 198.51.100.0/24

Each packet is in the file as it came (inbound), and, if it left, as it left (outbound): encapsulated, or as the answer that
it became. A comment on each says what was decided. Both have the time at which the packet came. Wireshark, tshark and
tcpdump read such files. FILTER and --sample are as for `weir trace`. Ctrl-C ends it.";

/// Bytes of each frame if nobody says otherwise: all headers, and the beginning of what they carry.
const DEFAULT_SNAP: u32 = 256;

/// Arguments of `weir capture`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CaptureArgs {
    /// The file to write, in the format pcapng; - for standard output
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    pub file: PathBuf,
    /// Bytes of each frame that are kept
    #[arg(
        long,
        value_name = "BYTES",
        default_value_t = DEFAULT_SNAP,
        value_parser = clap::value_parser!(u32).range(14..=MAX_SNAP as i64)
    )]
    pub snap: u32,
    /// Which packets
    #[command(flatten)]
    pub which: Which,
}

/// What was written.
#[derive(Clone, Copy, Default, serde::Serialize)]
struct Summary {
    packets: u64,
    frames: u64,
    lost: u64,
}

pub(super) async fn run(args: &CaptureArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let is_stdout = args.file == Path::new("-");
    let mut interrupts = interrupts()?;
    let mut stream = args.which.watch(client, args.snap).await?;
    let mut writer: Option<Writer<Box<dyn Write>>> = None;
    let mut summary = Summary::default();
    let mut ended = None;
    while args.which.count.is_none_or(|count| summary.packets < count) {
        let line = tokio::select! {
            line = stream.next() => line?,
            _ = interrupts.recv() => break,
        };
        match stream.parse(&line)? {
            WatchLine::Begin { node, query } => {
                let filter = if query.filter.is_empty() { "all packets" } else { &query.filter };
                let comment = format!("weir capture on {node}: {filter}, 1 of {}", query.sample);
                let begun = Writer::new(open(&args.file)?, APPLICATION, &comment, args.snap);
                writer = Some(begun.with_context(|| cannot_write(&args.file))?);
                if !is_stdout {
                    note(format_args!("writing to {}; Ctrl-C ends it", args.file.display()));
                }
            }
            WatchLine::Packet(packet) => {
                summary.packets += 1;
                if let Some(writer) = &mut writer {
                    let written = write(writer, &packet).and_then(|frames| writer.flush().map(|()| frames));
                    match written {
                        Ok(frames) => summary.frames += frames,
                        // Whoever reads standard output has enough.
                        Err(error) if is_stdout && error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                        Err(error) => return Err(error).with_context(|| cannot_write(&args.file)),
                    }
                }
            }
            WatchLine::Lost { packets } => summary.lost += packets,
            WatchLine::End { cause } => {
                ended = Some(stream.ended(&cause));
                break;
            }
        }
    }
    if out.is_data() && !is_stdout {
        out.json(&serde_json::to_vec(&summary)?)?;
    } else {
        let Summary { packets, frames, lost } = summary;
        note(format_args!("{packets} packets in {frames} frames written, {lost} more were too many"));
    }
    ended.map_or(Ok(()), |error| Err(error.into()))
}

const APPLICATION: &str = concat!("weir ", env!("CARGO_PKG_VERSION"));

fn cannot_write(file: &Path) -> String {
    format!("cannot write {}", file.display())
}

fn open(file: &Path) -> anyhow::Result<Box<dyn Write>> {
    if file == Path::new("-") {
        return Ok(Box::new(io::stdout()));
    }
    let opened = File::create(file).with_context(|| cannot_write(file))?;
    Ok(Box::new(BufWriter::new(opened)))
}

/// Writes a packet as it came and as it left; how many frames that is.
fn write(writer: &mut Writer<Box<dyn Write>>, packet: &WatchedPacket) -> io::Result<u64> {
    let time_ns = u64::try_from(packet.time.as_nanosecond()).unwrap_or(0);
    let comment = comment(packet);
    let bytes = |text: &Option<String>| text.as_deref().map(unhex).unwrap_or_default();
    let arrived = bytes(&packet.arrived);
    let inbound = Packet {
        time_ns,
        interface: &packet.interface,
        direction: Direction::Inbound,
        length: packet.length,
        bytes: &arrived,
        comment: &comment,
    };
    writer.packet(&inbound)?;
    let (Some(egress), Some(length)) = (&packet.egress, packet.egress_length) else { return Ok(1) };
    let left = bytes(&packet.left);
    let outbound =
        Packet { interface: egress, direction: Direction::Outbound, length, bytes: &left, ..inbound };
    writer.packet(&outbound)?;
    Ok(2)
}

/// What was decided, in one line.
fn comment(packet: &WatchedPacket) -> String {
    let mut parts = vec![format!("{}: {}", verdict(packet.verdict), packet.reason)];
    let mut add = |what: &str, value: Option<String>| {
        parts.extend(value.map(|value| format!("{what} {value}").trim_end().to_owned()));
    };
    add("relayed by another region", packet.relayed.then(String::new));
    add("service", packet.service.clone());
    add("client", packet.service.as_ref().map(|_| end(packet.src, packet.src_port)));
    add("region", packet.client_region.clone());
    add("backend", packet.backend.clone());
    add("by", packet.placed_by.map(|by| by.words().to_owned()));
    add("step", packet.step.map(|step| step.to_string()));
    add("pool", packet.pool.clone());
    add("probes", packet.probes.map(|probes| probes.to_string()));
    add("flow table", Some(packet.flow_table.words()).filter(|words| *words != "-").map(str::to_owned));
    parts.join(", ")
}

/// The bytes of hexadecimal digits; as far as they are such.
fn unhex(text: &str) -> Vec<u8> {
    let digit = |c: u8| char::from(c).to_digit(16).map(|digit| digit as u8);
    let pairs = text.as_bytes().chunks_exact(2);
    pairs.map_while(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_is_read() {
        assert_eq!(unhex("009fFF"), [0, 0x9f, 0xff]);
        assert_eq!(unhex("00zz11"), [0]);
    }
}
