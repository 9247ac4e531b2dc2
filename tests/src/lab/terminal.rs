//! A real terminal in a lab: tmux, whose keys are pressed and whose screen is read. What was seen can be kept as a recording (asciinema's
//! format, version 2) and as a picture (SVG).
use super::{Lab, netns::Netns, process::Process, weir_binary};
use anyhow::{Context, Result, ensure};
use serde_json::json;
use std::{
    fmt::Write as _,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

/// How long tmux may take to be there.
const START_TIMEOUT: Duration = Duration::from_secs(30);
/// Between two looks at the screen.
const POLL: Duration = Duration::from_millis(50);
/// Seconds in a recording that nothing happens for at most.
const LONGEST_PAUSE: f64 = 2.0;
/// What the terminal says when `weir` has ended, before its exit code.
const ENDED: &str = "weir ended with";

/// A terminal; it is closed when dropped.
pub struct Terminal {
    socket: PathBuf,
    /// Its end is that of what runs in it.
    _server: Process,
    size: (u16, u16),
    begin: Instant,
    /// When the screen changed, and to what, with colours.
    frames: Vec<(f64, String)>,
}

impl Lab {
    /// Opens a terminal of so many columns and rows on an edge's namespace, and runs `weir` with these arguments in it.
    ///
    /// # Errors
    /// tmux is not there, or refuses.
    pub fn start_terminal(&self, netns: &Netns, size: (u16, u16), arguments: &[&str]) -> Result<Terminal> {
        let socket = self.directory().join("tmux.sock");
        let mut server = Command::new("tmux");
        server.args(["-D", "-u", "-f", "/dev/null", "-S"]).arg(&socket);
        server.env("LC_ALL", "C.UTF-8").env_remove("TMUX").env_remove("NO_COLOR");
        server.env("WEIR_SOCKET", self.directory().join("edge-1.sock"));
        let server = Process::start(&self.entry, netns, "tmux", &mut server)?;
        let deadline = Instant::now() + START_TIMEOUT;
        while !socket.exists() {
            ensure!(Instant::now() < deadline, "tmux is not there: {}", server.log_tail());
            thread::sleep(POLL);
        }
        let terminal = Terminal { socket, _server: server, size, begin: Instant::now(), frames: Vec::new() };
        let words: Vec<_> = arguments.iter().map(|argument| format!("'{argument}'")).collect();
        let weir = weir_binary()?;
        let line = format!("'{}' {}; echo {ENDED} $?; sleep 600", weir.display(), words.join(" "));
        let (columns, rows) = (size.0.to_string(), size.1.to_string());
        terminal.tmux(&["set-option", "-g", "status", "off"])?;
        terminal.tmux(&["new-session", "-d", "-x", &columns, "-y", &rows, &line])?;
        Ok(terminal)
    }
}

impl Terminal {
    fn tmux(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("tmux");
        command.args(["-u", "-S"]).arg(&self.socket).args(arguments);
        let output =
            command.env("LC_ALL", "C.UTF-8").env_remove("TMUX").output().context("cannot run tmux")?;
        ensure!(output.status.success(), "tmux {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Presses keys, by tmux's names: `Enter`, `Down`, `d`.
    ///
    /// # Errors
    /// What tmux says.
    pub fn press(&self, keys: &[&str]) -> Result<()> {
        self.tmux(&[&["send-keys"], keys].concat()).map(drop)
    }

    /// Types a text.
    ///
    /// # Errors
    /// What tmux says.
    pub fn write(&self, text: &str) -> Result<()> {
        self.tmux(&["send-keys", "-l", text]).map(drop)
    }

    /// Gives it another size.
    ///
    /// # Errors
    /// What tmux says.
    pub fn resize(&mut self, size: (u16, u16)) -> Result<()> {
        self.size = size;
        self.tmux(&["resize-window", "-x", &size.0.to_string(), "-y", &size.1.to_string()]).map(drop)
    }

    /// The screen as text.
    ///
    /// # Errors
    /// What tmux says.
    pub fn screen(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p"])
    }

    /// The screen with its colours, as escape sequences.
    ///
    /// # Errors
    /// What tmux says.
    pub fn painted(&self) -> Result<String> {
        self.tmux(&["capture-pane", "-p", "-e"])
    }

    /// Waits until the screen is as it should be; what is seen on the way goes into the recording.
    ///
    /// # Errors
    /// It is not in time: the last screen is quoted.
    pub fn wait(&mut self, what: &str, timeout: Duration, is_so: impl Fn(&str) -> bool) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let painted = self.painted()?;
            if self.frames.last().is_none_or(|(_, last)| *last != painted) {
                self.frames.push((self.begin.elapsed().as_secs_f64(), painted));
            }
            let screen = self.screen()?;
            if is_so(&screen) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not within {timeout:?}: {what}. The screen:\n{screen}");
            thread::sleep(POLL);
        }
    }

    /// Waits for the end of `weir`, and says its exit code.
    ///
    /// # Errors
    /// It does not end in time.
    pub fn wait_for_end(&mut self, timeout: Duration) -> Result<i32> {
        self.wait("weir ends", timeout, |screen| screen.contains(ENDED))?;
        let screen = self.screen()?;
        let (_, code) = screen.rsplit_once(ENDED).context("it was there")?;
        Ok(code.split_whitespace().next().context("a code")?.parse()?)
    }

    /// What was seen, as a recording that `asciinema play` shows. Long pauses are shortened.
    pub fn recording(&self, title: &str) -> String {
        let (width, height) = self.size;
        let mut text =
            format!("{}\n", json!({"version": 2, "width": width, "height": height, "title": title}));
        let (mut at, mut last) = (0.0, self.frames.first().map_or(0.0, |(time, _)| *time));
        for (time, painted) in &self.frames {
            at += (time - last).min(LONGEST_PAUSE);
            last = *time;
            let drawn = format!("\u{1b}[H\u{1b}[2J{}", painted.trim_end_matches('\n').replace('\n', "\r\n"));
            let _ = writeln!(text, "{}", json!([(at * 1e3).round() / 1e3, "o", drawn]));
        }
        text
    }

    /// The screen of now as a picture.
    ///
    /// # Errors
    /// What tmux says.
    pub fn picture(&self) -> Result<String> {
        Ok(svg(&self.painted()?, self.size))
    }
}

/// How a cell looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Look {
    colour: Option<u8>,
    background: Option<u8>,
    is_bold: bool,
    is_reversed: bool,
    is_underlined: bool,
}

impl Look {
    /// Takes the numbers of a sequence `ESC [ ... m` in (ECMA-48, 8.3.117).
    fn take(&mut self, numbers: &str) {
        let mut numbers = numbers.split(';').map(|number| number.parse::<u8>().unwrap_or(0));
        while let Some(number) = numbers.next() {
            match number {
                0 => *self = Self::default(),
                1 => self.is_bold = true,
                22 => self.is_bold = false,
                4 => self.is_underlined = true,
                24 => self.is_underlined = false,
                7 => self.is_reversed = true,
                27 => self.is_reversed = false,
                30..=37 => self.colour = Some(number - 30),
                90..=97 => self.colour = Some(number - 90 + 8),
                39 => self.colour = None,
                40..=47 => self.background = Some(number - 40),
                100..=107 => self.background = Some(number - 100 + 8),
                49 => self.background = None,
                38 | 48 => {
                    let index = numbers.next().filter(|kind| *kind == 5).and_then(|_| numbers.next());
                    *(if number == 38 { &mut self.colour } else { &mut self.background }) =
                        index.map(|i| i % 16);
                }
                _ => {}
            }
        }
    }
}

/// The 16 colours of the picture, and those of what has none.
const PALETTE: [&str; 16] = [
    "#1d2021", "#e5534b", "#57ab5a", "#d9a032", "#539bf5", "#b083f0", "#39c5cf", "#c9d1d9", "#768390",
    "#ff6f66", "#6bc46d", "#eac55f", "#6cb6ff", "#dcbdfb", "#56d4dd", "#ffffff",
];
const PAPER: &str = "#0d1117";
const INK: &str = "#c9d1d9";
/// A cell's width and height.
const CELL: (f64, f64) = (8.4, 18.0);

/// A painted screen as SVG.
fn svg(painted: &str, size: (u16, u16)) -> String {
    let (width, height) = (f64::from(size.0) * CELL.0 + 20.0, f64::from(size.1) * CELL.1 + 20.0);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" width=\"{width:.0}\" \
         font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"14\">\n\
         <rect width=\"100%\" height=\"100%\" rx=\"6\" fill=\"{PAPER}\"/>\n"
    );
    for (row, line) in painted.lines().enumerate() {
        let mut look = Look::default();
        let mut column = 0;
        for (index, part) in line.split("\u{1b}[").enumerate() {
            let text = match part.split_once('m').filter(|_| index > 0) {
                Some((numbers, text)) => {
                    look.take(numbers);
                    text
                }
                None => part,
            };
            run(&mut svg, text, look, (column, row));
            column += text.chars().count();
        }
    }
    svg + "</svg>\n"
}

/// Some cells of one look.
fn run(svg: &mut String, text: &str, look: Look, (column, row): (usize, usize)) {
    let colour =
        |index: Option<u8>, otherwise: &'static str| index.map_or(otherwise, |i| PALETTE[usize::from(i)]);
    let (mut ink, mut paper) = (colour(look.colour, INK), colour(look.background, PAPER));
    if look.is_reversed {
        std::mem::swap(&mut ink, &mut paper);
    }
    let cells = text.chars().count() as f64;
    let (x, y) = (column as f64 * CELL.0 + 10.0, row as f64 * CELL.1 + 10.0);
    if paper != PAPER && cells > 0.0 {
        let (width, height) = (cells * CELL.0, CELL.1);
        let _ = writeln!(
            svg,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{paper}\"/>"
        );
    }
    if text.trim().is_empty() {
        return;
    }
    let shown = text.trim_end();
    let length = shown.chars().count() as f64 * CELL.0;
    let bold = if look.is_bold { " font-weight=\"bold\"" } else { "" };
    let line = if look.is_underlined { " text-decoration=\"underline\"" } else { "" };
    let escaped = shown.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" fill=\"{ink}\" textLength=\"{length:.1}\" lengthAdjust=\"spacingAndGlyphs\" \
         xml:space=\"preserve\"{bold}{line}>{escaped}</text>",
        y + 13.5
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_has_the_text_where_it_was_in_its_colours() {
        let picture = svg("a\u{1b}[1;31mDOWN\u{1b}[0m <b>\n\u{1b}[7mselected\u{1b}[27m", (20, 2));
        assert!(
            picture.contains("x=\"18.4\" y=\"23.5\" fill=\"#e5534b\"") && picture.contains("bold"),
            "{picture}"
        );
        assert!(picture.contains("&lt;b&gt;"), "{picture}");
        assert!(picture.contains(&format!("height=\"18\" fill=\"{INK}\"")), "{picture}");
        assert_eq!(picture.matches("<text").count(), 4);
    }
}
