//! Draws the model. Pure: the same model and size give the same screen.

use ratatui::{
    Frame,
    layout::{Alignment, Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Clear, Paragraph},
};

use super::{
    dialog::Dialog,
    model::{Focus, Link, Model},
    tree::Node,
};
use crate::{
    api::types::{Shares, StateCounts},
    cli::{
        events::{change, subject},
        output::{flows, rate, uptime},
    },
    config::XdpMode,
    plan::state::State,
    telemetry::event::Event,
};

/// The least that anything can be seen in.
const LEAST: (u16, u16) = (60, 12);
/// Columns from which on there is room for more.
const WIDE: u16 = 120;
/// Levels of a sparkline.
const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
const KEYS: &str = " ↑↓←→  / filter  d drain  f fail  s shift  r restore  e events  ? help  q quit";

/// How it is drawn.
#[derive(Clone, Copy, Debug)]
pub(super) struct Theme {
    /// Without colours, states are told by words, bold and reverse.
    pub(super) has_colour: bool,
}

impl Theme {
    fn coloured(self, colour: Color, otherwise: Modifier) -> Style {
        if self.has_colour { Style::new().fg(colour) } else { Style::new().add_modifier(otherwise) }
    }

    fn state(self, state: State) -> Style {
        match state {
            State::Up => self.coloured(Color::Green, Modifier::empty()),
            State::Suspect | State::Draining | State::Ramp => self.coloured(Color::Yellow, Modifier::BOLD),
            State::Down => self.coloured(Color::Red, Modifier::BOLD | Modifier::REVERSED),
        }
    }

    fn bad(self) -> Style {
        self.coloured(Color::Red, Modifier::BOLD)
    }

    fn dim(self) -> Style {
        if self.has_colour { Style::new().fg(Color::DarkGray) } else { Style::new() }
    }

    fn trend(self) -> Style {
        self.coloured(Color::Cyan, Modifier::empty())
    }
}

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);
const REVERSED: Style = Style::new().add_modifier(Modifier::REVERSED);

/// Draws everything.
pub(super) fn draw(frame: &mut Frame<'_>, model: &Model, theme: Theme) {
    let area = frame.area();
    if area.width < LEAST.0 || area.height < LEAST.1 {
        let text = format!("too small: {} x {} are needed, 80 x 24 are good", LEAST.0, LEAST.1);
        return frame.render_widget(Paragraph::new(text), area);
    }
    let events = if area.height < 18 { 0 } else { (area.height / 4).clamp(4, 16) };
    let parts =
        [Constraint::Length(3), Constraint::Min(4), Constraint::Length(events), Constraint::Length(1)];
    let [head, body, below, foot] = Layout::vertical(parts).areas(area);
    frame.render_widget(Paragraph::new(header(model, theme, head.width)), head);
    if let Focus::Events(scrolled) = model.focus {
        let all = Rect { height: body.height + below.height, ..body };
        draw_events(frame, model, theme, all, scrolled);
    } else {
        draw_tree(frame, model, theme, body);
        draw_events(frame, model, theme, below, 0);
    }
    frame.render_widget(Paragraph::new(footer(model, theme)), foot);
    match &model.focus {
        Focus::Help => draw_help(frame, area),
        Focus::Dialog(dialog) => draw_dialog(frame, dialog, theme, area),
        Focus::Tree | Focus::Filter | Focus::Events(_) => {}
    }
}

/// Two texts at the ends of a line; the one on the left gives way.
fn both_ends<'a>(left: Vec<Span<'a>>, right: Span<'a>, width: u16) -> Line<'a> {
    let room = usize::from(width).saturating_sub(right.width() + 1);
    let mut line = Line::from(left);
    let mut over = line.width().saturating_sub(room);
    while over > 0
        && let Some(last) = line.spans.last_mut()
    {
        let mut text = last.content.to_string();
        if text.pop().is_none() {
            line.spans.pop();
            continue;
        }
        *last = Span::styled(text, last.style);
        over = line.width().saturating_sub(room);
    }
    let gap = usize::from(width).saturating_sub(line.width() + right.width());
    line.push_span(Span::raw(" ".repeat(gap)));
    line.push_span(right);
    line
}

fn header<'a>(model: &'a Model, theme: Theme, width: u16) -> Vec<Line<'a>> {
    let status = &model.status;
    let node = &status.node;
    let mode = match status.xdp.mode {
        XdpMode::Native => "native",
        XdpMode::Generic => "generic",
    };
    let interfaces: Vec<_> = status.xdp.interfaces.iter().map(|interface| interface.name.as_str()).collect();
    let who = vec![
        Span::styled(format!("weir {}", node.name), BOLD),
        Span::raw(format!(
            " in {}, up {}, {mode} on {}",
            node.zone.as_ref().unwrap_or(&node.region),
            uptime(status.daemon.uptime_s),
            interfaces.join(", ")
        )),
    ];
    let clock = time(model.now);
    let link = match &model.link {
        Link::Live => Span::styled(format!("live {clock}"), theme.coloured(Color::Green, Modifier::empty())),
        Link::Lost { since, .. } => Span::styled(format!("LOST since {}", time(*since)), theme.bad()),
    };
    let total = &model.total;
    let drops = match &total.worst {
        Some(worst) if total.drops > 0 => {
            format!("  drops {}/s ({}: {worst})", rate(total.drops_per_second), total.drops)
        }
        _ => "  drops 0/s".to_owned(),
    };
    let traffic = vec![
        Span::styled(format!("{} pkt/s", rate(total.rates.packets)), BOLD),
        Span::raw(format!(
            "  {}bit/s  {} new/s",
            spaced(&rate(total.rates.bytes * 8.0)),
            rate(total.rates.opening)
        )),
        Span::styled(drops, if total.drops_per_second > 0.0 { theme.bad() } else { Style::new() }),
    ];
    let remembered = Span::raw(format!("flows {}/{}", status.flows.entries, status.flows.capacity));
    let mut health = counts("backends", &status.backends, theme);
    health.push(Span::raw("   "));
    health.extend(counts("domains", &status.domains, theme));
    if !status.shifts.is_empty() {
        health.push(Span::raw(format!("   shifts {}", status.shifts.len())));
    }
    let attention = if status.isolated {
        "ISOLATED: states are held".to_owned()
    } else if let Link::Lost { why, .. } = &model.link {
        why.clone()
    } else {
        match status.unresolved_next_hops.len() {
            0 => String::new(),
            count => format!("{count} without next hop"),
        }
    };
    vec![
        both_ends(who, link, width),
        both_ends(traffic, remembered, width),
        both_ends(health, Span::styled(attention, theme.bad()), width),
    ]
}

/// `12.3k` as it stands before a unit: `12.3 k`.
fn spaced(rate: &str) -> String {
    match rate.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => format!("{} {}", &rate[..at], &rate[at..]),
        None => format!("{rate} "),
    }
}

fn counts(what: &str, counts: &StateCounts, theme: Theme) -> Vec<Span<'static>> {
    let mut spans = vec![Span::raw(what.to_owned())];
    let each = [
        (State::Up, counts.up),
        (State::Suspect, counts.suspect),
        (State::Down, counts.down),
        (State::Draining, counts.draining),
        (State::Ramp, counts.ramp),
    ];
    for (state, count) in each.into_iter().filter(|(_, count)| *count > 0) {
        spans.push(Span::raw(" "));
        spans.push(Span::styled(format!("{count} {}", state.name()), theme.state(state)));
    }
    spans
}

/// A moment of the day, in UTC.
fn time(at: jiff::Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}

/// The columns behind the name: title, width, alignment.
struct Columns {
    name: usize,
    trend: usize,
    why: usize,
    is_wide: bool,
}

impl Columns {
    /// The others take 12 + 7 + 7 + 6 + 6 columns and a space each; with more room 8 + 24 more.
    fn of(width: u16) -> Self {
        let width = usize::from(width);
        let is_wide = width >= usize::from(WIDE);
        let fixed = 43 + if is_wide { 34 } else { 0 };
        let rest = width.saturating_sub(fixed);
        if is_wide {
            let (name, trend) = ((rest / 4).clamp(24, 40), (rest / 4).clamp(16, 60));
            return Self { name, trend, why: rest.saturating_sub(name + trend + 2), is_wide };
        }
        let name = (rest * 2 / 3).clamp(16, 30);
        Self { name, trend: rest.saturating_sub(name + 1), why: 0, is_wide }
    }
}

fn draw_tree(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect) {
    let columns = Columns::of(area.width);
    let head = format!(
        "{} {:<12} {:>7} {:>7} {:>6} {:>6} {}",
        fit("NAME", columns.name),
        "STATE",
        "PKT/S",
        "BIT/S",
        "NEW/S",
        "SHARE",
        fit("TREND", columns.trend)
    );
    let head =
        if columns.is_wide { format!("{head} {:>8} {:<24} WHY", "FLOWS", "TAKES FLOWS") } else { head };
    let style = if theme.has_colour { BOLD.fg(Color::Blue) } else { BOLD.add_modifier(Modifier::UNDERLINED) };
    let mut lines = vec![Line::styled(fit(&head, usize::from(area.width)), style)];
    let visible = model.visible();
    let room = usize::from(area.height).saturating_sub(1);
    // The selected line is in the middle, as far as there is something to show above and below.
    let first = model.position().saturating_sub(room / 2).min(visible.len().saturating_sub(room));
    for node in visible.iter().skip(first).take(room) {
        lines.push(row(model, node, &columns, theme));
    }
    if visible.is_empty() {
        lines.push(Line::raw("nothing has this in its name or state"));
    }
    frame.render_widget(Paragraph::new(lines), area);
}

fn row<'a>(model: &Model, node: &Node, columns: &Columns, theme: Theme) -> Line<'a> {
    let mark = match (model.has_inside(&node.subject), model.open.contains(&node.subject)) {
        (false, _) => "  ",
        (true, is_open) if is_open || !model.filter.is_empty() => "▾ ",
        (true, _) => "▸ ",
    };
    let name = format!("{}{mark}{}", "  ".repeat(node.depth), node.label);
    let total = model.forwarded();
    let share =
        if total > 0.0 { format!("{:.0} %", node.rates.packets * 100.0 / total) } else { "-".to_owned() };
    let state = theme.state(node.health.state);
    let points: Vec<f64> = model.history_of(&node.subject).collect();
    let mut spans = vec![
        Span::raw(format!("{} ", fit(&name, columns.name))),
        Span::styled(fit(&node.state(), 12), state),
        Span::raw(format!(
            " {:>7} {:>7} {:>6} {:>6} ",
            rate(node.rates.packets),
            rate(node.rates.bytes * 8.0),
            rate(node.rates.opening),
            share
        )),
        Span::styled(trend(&points, columns.trend), theme.trend()),
    ];
    if columns.is_wide {
        spans.push(Span::raw(format!(" {:>8} {} ", node.flows, fit(&takes(node.takes), 24))));
        spans.push(Span::styled(fit(&node.why, columns.why), theme.dim()));
    }
    let is_selected = model.selected.as_ref() == Some(&node.subject);
    let line = Line::from(spans);
    if is_selected { line.patch_style(REVERSED) } else { line }
}

/// Which flows are let through, in few words.
fn takes(shares: Shares) -> String {
    match (shares.new, shares.old) {
        (255, 255) => "all".to_owned(),
        (0, 255) => "established".to_owned(),
        (0, 0) => "none".to_owned(),
        (new, 255) => format!("{:.0} % of new", f64::from(new) * 100.0 / 256.0),
        (_, _) => flows(shares),
    }
}

/// A text that takes exactly so many columns.
fn fit(text: &str, width: usize) -> String {
    let mut kept = String::new();
    let mut taken = 0;
    for c in text.chars() {
        let wide = Span::raw(c.to_string()).width();
        if taken + wide > width {
            break;
        }
        kept.push(c);
        taken += wide;
    }
    if kept.len() < text.len() && width > 1 {
        while taken + 1 > width
            && let Some(c) = kept.pop()
        {
            taken -= Span::raw(c.to_string()).width();
        }
        kept.push('…');
        taken += 1;
    }
    kept + &" ".repeat(width.saturating_sub(taken))
}

/// The last points as bars, the highest of them a full one, in exactly so many columns.
pub(super) fn trend(points: &[f64], width: usize) -> String {
    let shown = &points[points.len().saturating_sub(width)..];
    let most = shown.iter().copied().fold(0.0, f64::max);
    let bar = |point: &f64| {
        let level = if most > 0.0 { (point / most * (BARS.len() - 1) as f64).round() as usize } else { 0 };
        BARS[level.min(BARS.len() - 1)]
    };
    let bars: String = shown.iter().map(bar).collect();
    " ".repeat(width - shown.len()) + &bars
}

fn draw_events(frame: &mut Frame<'_>, model: &Model, theme: Theme, area: Rect, scrolled: usize) {
    if area.height < 2 {
        return;
    }
    let title = match scrolled {
        0 => " events ".to_owned(),
        scrolled => format!(" events, {scrolled} newer ones below "),
    };
    let block = Block::new().borders(Borders::TOP).title(title).border_style(theme.dim());
    let room = usize::from(area.height) - 1;
    let end = model.events.len().saturating_sub(scrolled);
    let shown = model.events.range(end.saturating_sub(room)..end);
    let lines: Vec<_> = shown.map(|event| event_line(event, theme)).collect();
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

fn event_line(event: &Event, theme: Theme) -> Line<'static> {
    let style = event.to.map_or_else(Style::new, |state| theme.state(state));
    Line::from(vec![
        Span::styled(format!("{} ", time(event.time)), theme.dim()),
        Span::raw(format!("{} ", subject(event))),
        Span::styled(format!("{} ", change(event)), style),
        Span::raw(event.cause.clone()),
    ])
}

fn footer<'a>(model: &'a Model, theme: Theme) -> Line<'a> {
    if let Focus::Filter = model.focus {
        return Line::from(vec![
            Span::styled(" filter: ", BOLD),
            Span::raw(model.filter.clone()),
            Span::styled(" ", REVERSED),
            Span::raw("  ⏎ keep  esc clear"),
        ]);
    }
    match &model.note {
        Some(note) if note.is_error => Line::styled(format!(" {}", note.text), theme.bad()),
        Some(note) => Line::styled(format!(" {}", note.text), BOLD),
        None if !model.filter.is_empty() => Line::from(vec![
            Span::styled(format!(" filter: {}", model.filter), BOLD),
            Span::raw("  esc shows all again"),
        ]),
        None => Line::styled(KEYS, theme.dim()),
    }
}

/// An area in the middle of another one.
fn middle(area: Rect, width: u16, height: u16) -> Rect {
    let (width, height) = (width.min(area.width), height.min(area.height));
    Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - height) / 2, width, height }
}

fn boxed(title: &str) -> Block<'static> {
    Block::new().borders(Borders::ALL).title(Line::from(format!(" {title} ")).alignment(Alignment::Center))
}

fn draw_help(frame: &mut Frame<'_>, area: Rect) {
    const HELP: [&str; 17] = [
        "↑ ↓ k j         move; PgUp PgDn Home End, too",
        "→ ← l h         open and enter, close and leave",
        "⏎ space         open or close",
        "a               open or close all",
        "/               show only what has a text in its name or state",
        "esc             show all again",
        "d               drain: no new flows, established ones stay",
        "f               fail: no flows at all, connections break",
        "s               shift: keep a share of new flows for a while",
        "r               take back a drain, a failure or a shift",
        "e               events: all of the screen, and back",
        "q, Ctrl-C       quit",
        "",
        "PKT/S and the rest are of the last second or so. SHARE is of",
        "all packets that are forwarded. TREND is PKT/S, the highest",
        "point a full bar. Nothing is done before you say y, and",
        "everything you do is in the event journal with its reason.",
    ];
    let place = middle(area, 66, HELP.len() as u16 + 2);
    frame.render_widget(Clear, place);
    let lines: Vec<_> = HELP.iter().map(|line| Line::raw(format!(" {line}"))).collect();
    frame.render_widget(Paragraph::new(lines).block(boxed("keys")), place);
}

fn draw_dialog(frame: &mut Frame<'_>, dialog: &Dialog, theme: Theme, area: Rect) {
    let width = area.width.saturating_sub(8).min(90);
    let room = usize::from(width).saturating_sub(14);
    let mut lines = vec![Line::raw(format!(" {}", dialog.consequence())), Line::raw("")];
    for (index, field) in dialog.fields.iter().enumerate() {
        let is_here = index == dialog.at && dialog.question().is_none();
        // The end of what is written is what matters.
        let chars: Vec<char> = field.text.chars().collect();
        let text: String = chars[chars.len().saturating_sub(room)..].iter().collect();
        let mut spans = vec![
            Span::styled(format!(" {:<8}", field.label), if is_here { BOLD } else { Style::new() }),
            Span::raw(text),
        ];
        if is_here {
            spans.push(Span::styled(" ", REVERSED));
        }
        lines.push(Line::from(spans));
    }
    lines.push(Line::raw(""));
    match (dialog.question(), &dialog.error) {
        (Some(question), _) => {
            lines.push(Line::styled(format!(" {question}?"), theme.bad()));
            lines.push(Line::raw(" y does it   n goes back   esc leaves all as it is"));
        }
        (None, Some(error)) => {
            lines.push(Line::styled(format!(" {error}"), theme.bad()));
            lines.push(Line::raw(" ⏎ next   tab ↑↓ fields   esc leaves all as it is"));
        }
        (None, None) => {
            lines.push(Line::raw(""));
            lines.push(Line::raw(" ⏎ next   tab ↑↓ fields   esc leaves all as it is"));
        }
    }
    let place = middle(area, width, lines.len() as u16 + 2);
    frame.render_widget(Clear, place);
    frame.render_widget(Paragraph::new(lines).block(boxed(&dialog.title())), place);
}
