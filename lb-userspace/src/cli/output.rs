//! What people and programs read: tables, lines and JSON on standard output.

use std::{
    env, fmt,
    io::{self, IsTerminal, Write},
    time::Duration,
};

use comfy_table::{Attribute, Cell, CellAlignment, Color, ContentArrangement, Table, presets};

use super::yaml;
use crate::{
    api::types::{HealthView, Shares},
    plan::state::{Action, State},
};

/// Form of the output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Format {
    /// Tables for people.
    #[default]
    Table,
    /// JSON for programs: the API's answer as it is, one document a line.
    Json,
    /// YAML for programs and people: the same as JSON; documents that follow one another begin with `---`.
    Yaml,
}

/// Where the output goes.
pub struct Output {
    /// Its form.
    pub format: Format,
    colour: bool,
    sink: Sink,
    /// Whether a document was written already.
    is_begun: bool,
}

enum Sink {
    Stdout(io::Stdout),
    /// For what is looked at before it is shown.
    Memory(Vec<u8>),
}

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Stdout(stdout) => stdout.write(bytes),
            Self::Memory(memory) => memory.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Stdout(stdout) => stdout.flush(),
            Self::Memory(_) => Ok(()),
        }
    }
}

/// Whether what is written to a terminal may have colours: unless `NO_COLOR` is set to something (<https://no-color.org>).
pub(super) fn wants_colour() -> bool {
    env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

impl Output {
    /// Output to standard output; with colour if that is a terminal and `NO_COLOR` is not set.
    #[must_use]
    pub fn stdout(format: Format) -> Self {
        let stdout = io::stdout();
        let colour = stdout.is_terminal() && wants_colour();
        Self { format, colour, sink: Sink::Stdout(stdout), is_begun: false }
    }

    /// Output that is kept; see [`taken`](Self::taken).
    pub(super) const fn memory(format: Format, colour: bool) -> Self {
        Self { format, colour, sink: Sink::Memory(Vec::new()), is_begun: false }
    }

    /// What was written and kept.
    pub(super) fn taken(self) -> Vec<u8> {
        match self.sink {
            Sink::Stdout(_) => Vec::new(),
            Sink::Memory(memory) => memory,
        }
    }

    /// Whether programs read it.
    #[must_use]
    pub fn is_data(&self) -> bool {
        self.format != Format::Table
    }

    /// Writes one line.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn line(&mut self, text: impl fmt::Display) -> io::Result<()> {
        writeln!(self.sink, "{text}")
    }

    /// Writes a JSON document: as it is, as one line, or as YAML.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn json(&mut self, json: &[u8]) -> io::Result<()> {
        if self.format != Format::Yaml {
            self.sink.write_all(json)?;
            return self.sink.write_all(b"\n");
        }
        if std::mem::replace(&mut self.is_begun, true) {
            self.sink.write_all(b"---\n")?;
        }
        self.sink.write_all(yaml::from_json(json)?.as_bytes())
    }

    /// Writes what was kept of another output.
    pub(super) fn raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.format == Format::Yaml && std::mem::replace(&mut self.is_begun, true) {
            self.sink.write_all(b"---\n")?;
        }
        self.sink.write_all(bytes)
    }

    /// Writes a table without borders.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn table(&mut self, header: &[&str], rows: Vec<Vec<Cell>>) -> io::Result<()> {
        let mut table = self.new_table();
        table.set_header(header.iter().map(|name| Cell::new(name).add_attribute(Attribute::Bold)));
        table.add_rows(rows);
        self.write_table(&mut table)
    }

    /// Writes names with their values, one under the other.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn fields(&mut self, fields: Vec<(&str, Cell)>) -> io::Result<()> {
        let mut table = self.new_table();
        table.add_rows(fields.into_iter().map(|(name, value)| vec![Cell::new(name), value]));
        self.write_table(&mut table)
    }

    /// Makes sure that everything is out.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }

    fn new_table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
        if self.colour {
            table.enforce_styling();
        } else {
            table.force_no_tty();
        }
        table
    }

    fn write_table(&mut self, table: &mut Table) -> io::Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 2));
        }
        self.line(table.trim_fmt())
    }
}

/// A cell with a number, aligned to the right.
pub(super) fn number(value: u64) -> Cell {
    Cell::new(value).set_alignment(CellAlignment::Right)
}

/// A cell with a state in its colour.
pub(super) fn state(state: State) -> Cell {
    let colour = match state {
        State::Up => Color::Green,
        State::Suspect | State::Draining | State::Ramp => Color::Yellow,
        State::Down => Color::Red,
    };
    Cell::new(state.name()).fg(colour)
}

/// Which flows are let through, in words.
pub(super) fn flows(shares: Shares) -> String {
    match (shares.new, shares.old) {
        (255, 255) => "all".to_owned(),
        (0, 255) => "established".to_owned(),
        (0, 0) => "none".to_owned(),
        (new, old) => format!("{} of new, {} of established", percent(new), percent(old)),
    }
}

fn percent(share: u8) -> String {
    match share {
        255 => "100 %".to_owned(),
        share => format!("{:.0} %", f64::from(share) * 100.0 / 256.0),
    }
}

/// The operator's word and the shift that stand, in words; empty if there are none.
pub(super) fn word(health: &HealthView) -> String {
    let held = health.word.as_ref().map(|word| {
        let did = match word.action {
            Action::Drain => "drained",
            Action::Fail => "failed",
            Action::Restore => "restored",
        };
        format!("{did} by operator: {}", word.reason)
    });
    let shift = health.shift.as_ref().map(super::shift::word);
    held.into_iter().chain(shift).collect::<Vec<_>>().join("; ")
}

/// A moment, to the millisecond, in UTC.
pub(super) fn moment(time: jiff::Timestamp) -> String {
    format!("{time:.3}")
}

/// A span of nanoseconds in the unit that suits it.
pub(super) fn span(ns: u64) -> String {
    let ns_f = ns as f64;
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} us", ns_f / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns_f / 1e6),
        _ => format!("{:.1} s", ns_f / 1e9),
    }
}

/// A span of seconds: `3 d 4 h`, `5 min 6 s`.
pub(super) fn uptime(seconds: u64) -> String {
    let (days, hours) = (seconds / 86_400, seconds / 3_600 % 24);
    let (minutes, rest) = (seconds / 60 % 60, Duration::from_secs(seconds % 60).as_secs());
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{rest} s"),
        (0, 0, minutes) => format!("{minutes} min {rest} s"),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A rate in the unit that suits it: `0`, `0.4`, `12`, `3.4k`, `1.2M`.
pub(super) fn rate(per_second: f64) -> String {
    const UNITS: [&str; 5] = ["", "k", "M", "G", "T"];
    let mut value = per_second.max(0.0);
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    match (unit, value) {
        (0, value) if value < 0.05 => "0".to_owned(),
        (_, value) if value < 9.95 => format!("{value:.1}{}", UNITS[unit]),
        (_, value) => format!("{value:.0}{}", UNITS[unit]),
    }
}

/// A number of bytes in the unit that suits it.
pub(super) fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut value = count as f64;
    let mut unit = 0;
    while value >= 999.95 && unit + 1 < UNITS.len() {
        value /= 1_000.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colour_is_there_exactly_when_it_is_wanted() {
        for colour in [false, true] {
            let out = Output::memory(Format::Table, colour);
            let mut table = out.new_table();
            table.add_row(vec![state(State::Down)]);
            assert_eq!(table.to_string().contains('\u{1b}'), colour);
        }
    }

    #[test]
    fn documents_that_follow_one_another_are_kept_apart() {
        let written = |format| {
            let mut out = Output::memory(format, false);
            out.json(b"{\"a\":1}").unwrap();
            out.raw(b"b: 2\n").unwrap();
            out.json(b"[]").unwrap();
            String::from_utf8(out.taken()).unwrap()
        };
        assert_eq!(written(Format::Yaml), "a: 1\n---\nb: 2\n---\n[]\n");
        assert_eq!(written(Format::Json), "{\"a\":1}\nb: 2\n[]\n");
    }

    #[test]
    fn quantities_read_well_at_their_borders() {
        assert_eq!(
            [0, 999, 1_000, 999_949, 999_951].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB"]
        );
        assert_eq!(bytes(u64::MAX), "18446.7 PB");
        assert_eq!(
            [0.0, 0.04, 0.4, 9.94, 9.96, 999.4, 999.6, 1_234.0, 12_345.0, 9.9e15].map(rate),
            ["0", "0", "0.4", "9.9", "10", "999", "1.0k", "1.2k", "12k", "9900T"]
        );
        assert_eq!([999, 1_000, 1_500_000, 2_000_000_000].map(span), ["999 ns", "1.0 us", "1.5 ms", "2.0 s"]);
        assert_eq!([59, 60, 3_661, 90_000].map(uptime), ["59 s", "1 min 0 s", "1 h 1 min", "1 d 1 h"]);
        assert_eq!(flows(Shares { new: 128, old: 255 }), "50 % of new, 100 % of established");
        assert_eq!(flows(Shares { new: 0, old: 255 }), "established");
    }
}
