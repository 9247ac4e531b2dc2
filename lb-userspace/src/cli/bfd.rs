//! `weir bfd ...`

use clap::Subcommand;
use comfy_table::{Cell, CellAlignment, Color};

use super::{
    client::{Client, encode},
    output::{Output, moment, number, span},
};
use crate::{
    api::types::{AwaitedView, BfdSessionView, DiagnosticView},
    health::bfd::packet::State,
};

const LIST_EXAMPLES: &str = "\
Examples:
  weir bfd list
  weir bfd list --watch=1
  weir bfd list -o json

INTERVAL is what is in force, out and in, before jitter; DETECTION is how long the peer may be silent. FLAPS counts how often a session was
up and went down. A session that is awaited is not up, but that is no evidence yet: the backend keeps its state for so long.";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir bfd show w1r1b1
  weir bfd show w1r1b1 -o json";

/// What to do with BFD sessions.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = "Examples:\n  weir bfd list\n  weir bfd show w1r1b1")]
pub enum BfdCommand {
    /// List all sessions with their state, intervals and flaps
    #[command(after_long_help = LIST_EXAMPLES)]
    List,
    /// Show the sessions of one backend: both sides, timers, discriminators, diagnostics
    #[command(after_long_help = SHOW_EXAMPLES)]
    Show {
        /// Name of the backend
        backend: String,
    },
}

pub(super) async fn run(command: BfdCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        BfdCommand::List => {
            let answer = client.get("/v1/bfd").await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let sessions: Vec<BfdSessionView> = answer.parse()?;
            if sessions.is_empty() {
                return Ok(out.line("no BFD sessions: no set has a check of kind \"bfd\"")?);
            }
            let header = [
                "BACKEND",
                "PEER",
                "HOPS",
                "STATE",
                "REMOTE",
                "SINCE",
                "INTERVAL",
                "DETECTION",
                "HEARD",
                "FLAPS",
                "WHY",
            ];
            Ok(out.table(&header, sessions.iter().map(row).collect())?)
        }
        BfdCommand::Show { backend } => {
            let answer = client.get(&format!("/v1/bfd/{}", encode(&backend))).await?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            let sessions: Vec<BfdSessionView> = answer.parse()?;
            for (index, session) in sessions.iter().enumerate() {
                if index > 0 {
                    out.line("")?;
                }
                out.fields(fields(session))?;
            }
            Ok(())
        }
    }
}

fn row(session: &BfdSessionView) -> Vec<Cell> {
    let why = match (&session.awaited, session.state) {
        (Some(awaited), _) => format!("awaited {}", end_of(awaited)),
        (None, State::Up) => String::new(),
        (None, _) => session.cause.clone().unwrap_or_default(),
    };
    vec![
        Cell::new(session.backends.join(", ")),
        Cell::new(session.address),
        Cell::new(hops(session)),
        state(session.state),
        Cell::new(session.remote.as_ref().map_or("", |remote| remote.state.name())),
        Cell::new(moment(session.since)),
        Cell::new(format!("{} / {}", micros(session.tx_interval_us), micros(session.rx_interval_us))),
        right(session.detection_us.map_or_else(String::new, |us| span(us * 1_000))),
        right(
            session.heard_ago_us.map_or_else(|| "never".to_owned(), |us| format!("{} ago", span(us * 1_000))),
        ),
        number(session.flaps),
        Cell::new(why),
    ]
}

fn fields(session: &BfdSessionView) -> Vec<(&'static str, Cell)> {
    let heard =
        session.heard_ago_us.map_or_else(|| "never".to_owned(), |us| format!("{} ago", span(us * 1_000)));
    let detection = session.detection_us.map_or_else(|| "-".to_owned(), |us| span(us * 1_000));
    let mut fields = vec![
        ("backends", Cell::new(session.backends.join(", "))),
        ("check", Cell::new(&session.check)),
        ("peer", Cell::new(format!("{}, {}", session.address, hops(session)))),
        ("state", state(session.state)),
        ("since", Cell::new(moment(session.since))),
    ];
    fields.extend(session.awaited.as_ref().map(|awaited| ("awaited", Cell::new(end_of(awaited)))));
    let name = if session.state == State::Up { "last cause" } else { "cause" };
    fields.extend(session.cause.as_ref().map(|cause| (name, Cell::new(cause))));
    fields.extend([
        ("flaps", Cell::new(session.flaps)),
        ("last heard", Cell::new(heard)),
        ("sends each", Cell::new(micros(session.tx_interval_us))),
        ("hears each", Cell::new(micros(session.rx_interval_us))),
        (
            "detection",
            Cell::new(format!("{detection}; at the peer {}", span(session.remote_detection_us * 1_000))),
        ),
        (
            "this side",
            Cell::new(side(
                session.discriminator,
                session.multiplier,
                (session.desired_min_tx_us, session.required_min_rx_us),
                &session.diagnostic,
            )),
        ),
    ]);
    let remote = session.remote.as_ref().map_or_else(
        || "nothing known".to_owned(),
        |remote| {
            let intervals = (remote.desired_min_tx_us, remote.required_min_rx_us);
            let told = side(remote.discriminator, remote.multiplier, intervals, &remote.diagnostic);
            format!("{}, {told}", remote.state.name())
        },
    );
    fields.push(("peer's side", Cell::new(remote)));
    fields
}

/// What one side announces.
fn side(number: u32, multiplier: u8, (tx_us, rx_us): (u32, u32), diagnostic: &DiagnosticView) -> String {
    format!(
        "discriminator {number:#010x}, multiplier {multiplier}, wants to send each {}, takes each {}, diagnostic {} ({})",
        micros(tx_us),
        micros(rx_us),
        diagnostic.code,
        diagnostic.text
    )
}

fn end_of(awaited: &AwaitedView) -> String {
    format!("for {} more: {}", span(awaited.left_ms * 1_000_000), awaited.why)
}

const fn hops(session: &BfdSessionView) -> &'static str {
    if session.multihop { "multihop" } else { "single hop" }
}

fn state(state: State) -> Cell {
    let colour = match state {
        State::Up => Color::Green,
        State::Init => Color::Yellow,
        State::Down | State::AdminDown => Color::Red,
    };
    Cell::new(state.name()).fg(colour)
}

fn micros(us: u32) -> String {
    span(u64::from(us) * 1_000)
}

fn right(text: String) -> Cell {
    Cell::new(text).set_alignment(CellAlignment::Right)
}
