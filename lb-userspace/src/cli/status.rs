//! `weir status`

use comfy_table::Cell;

use super::{
    canary,
    client::Client,
    operate,
    output::{Output, bytes, moment, number, span, state, uptime},
    shift,
};
use crate::api::types::{BfdCounts, FlowsStatus, OverrideView, StateCounts, Status, SwitchView, VerdictKind};

pub(super) const EXAMPLES: &str = "\
Examples:
  weir status
  weir status -o json";

/// Names that a line shows before it only counts.
const MAX_LISTED: usize = 8;
/// Seconds before the end of an operator's word from which on it is pointed out.
const SOON_S: u64 = 1_800;
/// Digits of the digest that are shown.
const SHORT_DIGEST: usize = 12;

pub(super) async fn run(client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let answer = client.get("/v1/status").await?;
    if out.is_data() {
        return Ok(out.json(&answer.json)?);
    }
    let status: Status = answer.parse()?;
    out.fields(overview(&status))?;
    out.line("")?;
    out.table(
        &["", "UP", "SUSPECT", "DOWN", "DRAINING", "RAMP"],
        vec![counts("backends", &status.backends), counts("domains", &status.domains)],
    )?;
    if !status.traffic.reasons.is_empty() {
        out.line("")?;
        out.table(&["NOT FORWARDED", "REASON", "PACKETS", "BYTES"], reasons(&status))?;
    }
    if !status.overrides.is_empty() {
        out.line("")?;
        out.table(
            &["OVERRIDE", "STATE", "SINCE", "LEFT", "REASON"],
            status.overrides.iter().map(override_row).collect(),
        )?;
    }
    if !status.shifts.is_empty() {
        out.line("")?;
        out.table(&shift::HEADER, status.shifts.iter().map(shift::row).collect())?;
    }
    if !status.canaries.is_empty() {
        out.line("")?;
        out.table(&canary::HEADER, status.canaries.iter().map(canary::row).collect())?;
    }
    let switches: Vec<SwitchView> = client.get("/v1/emergency").await?.parse()?;
    if !switches.is_empty() {
        out.line("")?;
        let row = |view: &SwitchView| {
            vec![
                Cell::new(&view.name),
                Cell::new(uptime(view.left_s)),
                Cell::new(&view.effect),
                Cell::new(&view.thrown.reason),
            ]
        };
        out.table(&["EMERGENCY", "LEFT", "EFFECT", "REASON"], switches.iter().map(row).collect())?;
    }
    Ok(())
}

fn overview(status: &Status) -> Vec<(&'static str, Cell)> {
    let Status { node, daemon, config, xdp, traffic, control, journal, .. } = status;
    let place = node.zone.as_ref().unwrap_or(&node.region);
    let adopted = if daemon.adopted { ", took over a running data plane" } else { "" };
    let interfaces = xdp.interfaces.iter().map(|interface| {
        let state = if interface.attached { "" } else { " (NOT ATTACHED)" };
        format!("{}{state}", interface.name)
    });
    let digest: String = config.digest.chars().take(SHORT_DIGEST).collect();
    let mut fields = vec![
        ("node", Cell::new(format!("{} in {place}", node.name))),
        (
            "daemon",
            Cell::new(format!(
                "weir {}, pid {}, up {}{adopted}",
                daemon.version,
                daemon.pid,
                uptime(daemon.uptime_s)
            )),
        ),
        ("xdp", Cell::new(format!("{} on {}", mode(status), interfaces.collect::<Vec<_>>().join(", ")))),
        ("config", Cell::new(format!("{}, digest {digest}", config.file.display()))),
        ("services", Cell::new(status.services)),
        ("flow table", Cell::new(flows(&status.flows))),
        (
            "forwarded",
            Cell::new(format!("{} packets, {}", traffic.forwarded_packets, bytes(traffic.forwarded_bytes))),
        ),
        (
            "control thread",
            Cell::new(format!(
                "{}, {} rounds, {} late, {} in a stall of this host, at most {} late, {} stores",
                control.scheduling,
                control.rounds,
                control.late_rounds,
                control.stalled_rounds,
                span(control.max_lateness_ns),
                control.stores
            )),
        ),
        ("events", Cell::new(journal.last_seq)),
    ];
    fields.extend(control.bfd_sessions.as_ref().map(|counts| ("bfd sessions", Cell::new(sessions(counts)))));
    fields.extend(troubles(status).into_iter().map(|text| ("ATTENTION", Cell::new(text))));
    fields
}

/// States that no session is in are left out, but for `up`.
fn sessions(counts: &BfdCounts) -> String {
    let BfdCounts { up, init, down, admin_down, awaited, flaps } = counts;
    let mut text = format!("{up} up");
    for (count, name) in [(init, "init"), (down, "down"), (admin_down, "admin-down")] {
        if *count > 0 {
            text.push_str(&format!(", {count} {name}"));
        }
    }
    if *awaited > 0 {
        text.push_str(&format!(" ({awaited} of them awaited)"));
    }
    format!("{text}; {flaps} flaps")
}

fn flows(flows: &FlowsStatus) -> String {
    let FlowsStatus { entries, capacity, openings, marked_slots, .. } = flows;
    let mut text =
        format!("{entries} of {capacity} entries, {openings} openings, {marked_slots} slots marked");
    if let Some(ends) = flows.transition_ends {
        text.push_str(&format!(", in transition until {}", moment(ends)));
    }
    if flows.leaving_backends + flows.leaving_services > 0 {
        text.push_str(&format!(
            ", leaving: {} backends, {} services",
            flows.leaving_backends, flows.leaving_services
        ));
    }
    text
}

fn mode(status: &Status) -> &'static str {
    match status.xdp.mode {
        crate::config::XdpMode::Native => "native",
        crate::config::XdpMode::Generic => "generic",
    }
}

/// What somebody should look at, one line each.
fn troubles(status: &Status) -> Vec<String> {
    let Status { control, journal, unresolved_next_hops: unresolved, .. } = status;
    let mut lines = Vec::new();
    if status.isolated {
        lines.push(
            "isolated: every target is silent, so this host itself is cut off; the last state is held"
                .to_owned(),
        );
    }
    for view in &status.overrides {
        if let Some(left_s) = view.left_s.filter(|left_s| view.active && *left_s <= SOON_S) {
            let (what, left) = (view.word.action.name(), uptime(left_s));
            lines
                .push(format!("the {what} of {} ends in {left}; then the checks have the say", view.subject));
        }
    }
    if !unresolved.is_empty() {
        let names: Vec<_> = unresolved.iter().take(MAX_LISTED).map(String::as_str).collect();
        let more = match unresolved.len().saturating_sub(MAX_LISTED) {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        lines.push(format!("no next hop for {}{more}: their packets are dropped", names.join(", ")));
    }
    if let Some(error) = &status.config.last_error {
        let first = error.lines().next().unwrap_or_default();
        lines.push(format!("the last reload was refused, nothing was changed: {first}"));
    }
    if let Some(error) = &journal.last_error {
        lines.push(format!("the event journal cannot be written: {error}; events are kept in memory"));
    }
    if control.lost_events + journal.unwritten > 0 {
        lines.push(format!("{} events are missing in the journal", control.lost_events + journal.unwritten));
    }
    if control.lost_results > 0 {
        lines.push(format!("{} results of slow checks were lost", control.lost_results));
    }
    if journal.skipped_lines > 0 {
        lines.push(format!("{} damaged lines of the event journal were skipped", journal.skipped_lines));
    }
    lines
}

fn counts(name: &str, counts: &StateCounts) -> Vec<Cell> {
    let numbers = [counts.up, counts.suspect, counts.down, counts.draining, counts.ramp].map(number);
    std::iter::once(Cell::new(name)).chain(numbers).collect()
}

/// Drops first: they are what one looks for.
fn reasons(status: &Status) -> Vec<Vec<Cell>> {
    let mut reasons: Vec<_> = status.traffic.reasons.iter().collect();
    reasons.sort_by_key(|count| count.verdict != VerdictKind::Drop);
    let rows = reasons.into_iter().map(|count| {
        let verdict = match count.verdict {
            VerdictKind::Pass => "passed",
            VerdictKind::Drop => "dropped",
            VerdictKind::Answer => "answered",
            VerdictKind::Forward => "forwarded",
        };
        let size = Cell::new(bytes(count.bytes)).set_alignment(comfy_table::CellAlignment::Right);
        vec![Cell::new(verdict), Cell::new(&count.reason), number(count.packets), size]
    });
    rows.collect()
}

fn override_row(view: &OverrideView) -> Vec<Cell> {
    let shown = match (view.active, view.word.action) {
        (false, _) => Cell::new("waiting: not in the configuration"),
        (true, crate::plan::state::Action::Fail) => state(crate::plan::state::State::Down),
        (true, _) => operate::drain_state(crate::plan::state::State::Draining, view.drain.as_ref()),
    };
    let left = view.left_s.map_or_else(|| "no end".to_owned(), uptime);
    vec![
        Cell::new(&view.subject),
        shown,
        Cell::new(moment(view.word.since)),
        Cell::new(left),
        Cell::new(&view.word.reason),
    ]
}
