//! `weir events`

use clap::Args;

use super::{
    client::Client,
    output::{Output, moment, span},
};
use crate::{
    api::limits::{MAX_EVENTS, MAX_WAIT},
    telemetry::event::{Event, EventKind},
};

const EXAMPLES: &str = "\
Examples:
  weir events
  weir events -n 100
  weir events --follow
  weir events -n 0 --follow -o json

DETECT is the time from the first sign of a fault to the decision, STORE that from the decision until the data plane
acts on it. With -o json the answer is one array; with --follow it is one event per line.";

/// Events that are shown if nobody says how many.
const DEFAULT_COUNT: usize = 20;

/// Arguments of `weir events`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct EventsArgs {
    /// How many of the last events to show
    #[arg(short = 'n', long = "lines", default_value_t = DEFAULT_COUNT, value_parser = parse_count, value_name = "N")]
    pub count: usize,
    /// Go on and show each event as it comes
    #[arg(short, long)]
    pub follow: bool,
}

fn parse_count(text: &str) -> Result<usize, String> {
    let count: usize = text.parse().map_err(|_| "it is no number".to_owned())?;
    if count > MAX_EVENTS {
        return Err(format!(
            "at most {MAX_EVENTS} are shown at once; all of them are in the journal's files"
        ));
    }
    Ok(count)
}

pub(super) async fn run(args: &EventsArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let EventsArgs { count, follow } = *args;
    // At least one, to know after which to follow.
    let answer = client.get(&format!("/v1/events?limit={}", count.max(1))).await?;
    let mut events: Vec<Event> = answer.parse()?;
    let mut last = events.last().map_or(0, |event| event.seq);
    if count == 0 {
        events.clear();
    }
    if out.is_data() && !follow {
        let json: &[u8] = if count == 0 { b"[]" } else { &answer.json };
        return Ok(out.json(json)?);
    }
    if !out.is_data() {
        out.line(HEADER)?;
    }
    show(&events, out)?;
    if !follow {
        return Ok(());
    }
    loop {
        let path = format!("/v1/events?after={last}&limit={MAX_EVENTS}&wait={}", MAX_WAIT.as_secs());
        let events: Vec<Event> = client.get_patiently(&path, MAX_WAIT).await?.parse()?;
        last = events.last().map_or(last, |event| event.seq);
        show(&events, out)?;
    }
}

/// Columns have fixed widths, so that what follows later lines up with what came before.
const HEADER: &str = "TIME                      SEQ     SUBJECT                   CHANGE                DETECT     STORE      CAUSE";

fn show(events: &[Event], out: &mut Output) -> anyhow::Result<()> {
    for event in events {
        if out.is_data() {
            out.json(&serde_json::to_vec(event)?)?;
        } else {
            out.line(line(event))?;
        }
    }
    Ok(out.flush()?)
}

/// What an event is about, as people say it.
pub(super) fn subject(event: &Event) -> String {
    let kind = match event.kind {
        EventKind::BackendState => "backend ",
        EventKind::DomainState => "domain ",
        EventKind::Override => "",
        EventKind::Shift => "shift ",
        EventKind::Canary => "canary ",
        EventKind::Emergency => "emergency ",
        EventKind::Shed => "shed ",
        EventKind::Plan => "plan ",
        EventKind::Flows => "flows on ",
        EventKind::Daemon => "node ",
    };
    format!("{kind}{}", event.subject)
}

/// From which state to which.
pub(super) fn change(event: &Event) -> String {
    match (event.from, event.to) {
        (Some(from), Some(to)) => format!("{} -> {}", from.name(), to.name()),
        (None, Some(to)) => to.name().to_owned(),
        _ => "-".to_owned(),
    }
}

fn line(event: &Event) -> String {
    let between = |from: Option<u64>, to: Option<u64>| {
        from.zip(to).map_or_else(|| "-".to_owned(), |(from, to)| span(to.saturating_sub(from)))
    };
    format!(
        "{:<24}  {:<6}  {:<24}  {:<20}  {:<9}  {:<9}  {}",
        moment(event.time),
        event.seq,
        subject(event),
        change(event),
        between(event.evidence_ns, event.decided_ns),
        between(event.decided_ns, event.stored_ns),
        event.cause
    )
}
