//! The live view: who serves what, by zone and rack. A table that refreshes in a terminal, a line now and then elsewhere.
use crate::{journal::Event, lab::Topology, load::Request};
use std::{
    collections::BTreeMap,
    fmt::Write,
    io::{IsTerminal, Write as _, stdout},
    time::{Duration, Instant},
};

/// Time between two frames in a terminal.
pub(crate) const FRAME: Duration = Duration::from_millis(500);
/// Time between two lines elsewhere.
const LINE: Duration = Duration::from_secs(1);
/// Width of a full bar.
const BAR_CELLS: usize = 16;

/// Draws frames of one demo.
pub(crate) struct View {
    begin: Instant,
    is_terminal: bool,
    drawn_lines: usize,
    last_line: Instant,
}

/// What one frame shows.
pub(crate) struct Frame<'a> {
    pub(crate) headline: &'a str,
    pub(crate) topology: &'a Topology,
    /// Requests since the frame before.
    pub(crate) requests: &'a [Request],
    /// How long ago that was.
    pub(crate) interval: Duration,
    /// All so far.
    pub(crate) events: &'a [Event],
}

impl View {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        View { begin: now, is_terminal: stdout().is_terminal(), drawn_lines: 0, last_line: now }
    }

    /// Prints a line that stays.
    pub(crate) fn say(&mut self, line: &str) {
        self.erase();
        println!("{:6.1} s  {line}", self.begin.elapsed().as_secs_f32());
    }

    /// Whether it is time for the next frame.
    pub(crate) fn is_due(&self) -> bool {
        self.last_line.elapsed() >= if self.is_terminal { FRAME } else { LINE }
    }

    pub(crate) fn draw(&mut self, frame: &Frame<'_>) {
        self.last_line = Instant::now();
        let rates = Rates::of(frame);
        if self.is_terminal {
            let table = table(frame, &rates);
            self.erase();
            print!("{table}");
            // A terminal that is gone ends the demo by SIGHUP.
            let _ = stdout().flush();
            self.drawn_lines = table.lines().count();
        } else {
            let line = line(frame, &rates);
            self.say(&line);
        }
    }

    /// Moves the cursor back over the last frame and clears it.
    fn erase(&mut self) {
        if self.drawn_lines > 0 {
            print!("\x1b[{}A\x1b[J", self.drawn_lines);
            self.drawn_lines = 0;
        }
    }
}

/// Requests per second.
struct Rates {
    by_backend: BTreeMap<String, f32>,
    answered: f32,
    failed: f32,
}

impl Rates {
    fn of(frame: &Frame<'_>) -> Self {
        let each = 1.0 / frame.interval.as_secs_f32().max(0.001);
        let mut rates = Rates { by_backend: BTreeMap::new(), answered: 0.0, failed: 0.0 };
        for request in frame.requests {
            match &request.answer {
                Ok(name) => {
                    *rates.by_backend.entry(name.clone()).or_default() += each;
                    rates.answered += each;
                }
                Err(_) => rates.failed += each,
            }
        }
        rates
    }

    fn of_domain(&self, topology: &Topology, domain: &str) -> f32 {
        let names = topology.names_in(domain);
        // Not `sum`, whose zero is -0 and prints so.
        names.iter().filter_map(|name| self.by_backend.get(name)).fold(0.0, |sum, rate| sum + rate)
    }
}

/// State of a domain as the journal has it last: the worst of its own and of those that contain it.
fn state<'a>(events: &'a [Event], path: &str) -> &'a str {
    let ends = path.match_indices('/').map(|(end, _)| end).chain([path.len()]);
    let states = ends.map(|end| {
        let last = events.iter().rev().find(|event| event.is_of_domain() && event.subject == path[..end]);
        last.and_then(|event| event.to.as_deref()).unwrap_or("UP")
    });
    let order = ["UP", "DRAINING", "SUSPECT", "DOWN"];
    states.max_by_key(|state| order.iter().position(|other| other == state)).unwrap_or("UP")
}

fn table(frame: &Frame<'_>, rates: &Rates) -> String {
    let mut text = format!(
        "\n  {}\n  {:.0} requests/s answered, {:.0}/s failed\n\n  {:<12} {:<8} {:<BAR_CELLS$} requests/s\n",
        frame.headline, rates.answered, rates.failed, "rack", "state", ""
    );
    let racks = frame.topology.racks.iter().map(|rack| (rack, rates.of_domain(frame.topology, &rack.path)));
    let racks: Vec<_> = racks.collect();
    let most = racks.iter().map(|(_, rate)| *rate).fold(1.0, f32::max);
    for (rack, rate) in racks {
        let bar = "█".repeat((rate / most * BAR_CELLS as f32).round() as usize);
        let members =
            frame.topology.backends.iter().filter(|backend| backend.rack == rack.path).map(|backend| {
                format!("{} {:<4.0}", backend.name, rates.by_backend.get(&backend.name).unwrap_or(&0.0))
            });
        let members = members.collect::<Vec<_>>().join("  ");
        let state = state(frame.events, &rack.path);
        writeln!(text, "  {:<12} {state:<8} {bar:<BAR_CELLS$} {rate:<6.0} {members}", rack.path)
            .expect("writing to a String");
    }
    text
}

fn line(frame: &Frame<'_>, rates: &Rates) -> String {
    let mut text = format!("{:.0}/s answered, {:.0}/s failed;", rates.answered, rates.failed);
    for zone in frame.topology.zones() {
        write!(text, "  {zone}:").expect("writing to a String");
        for rack in frame.topology.racks.iter().filter(|rack| rack.path.starts_with(&format!("{zone}/"))) {
            let state = match state(frame.events, &rack.path) {
                "UP" => String::new(),
                other => format!(" {other}"),
            };
            let name = rack.path.rsplit('/').next().unwrap_or_default();
            write!(text, " {name} {:.0}{state}", rates.of_domain(frame.topology, &rack.path))
                .expect("writing to a String");
        }
    }
    text
}
