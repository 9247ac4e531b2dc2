//! `--watch`: a command again and again, drawn anew on a terminal, written when it has changed elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    time::{Duration, Instant},
};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{
    Command, ask_once,
    client::{Client, ClientError},
    output::{Format, Output, wants_colour},
};

/// Clear the screen, do not wrap lines, hide the cursor (ECMA-48 and DEC private modes, which all terminals of today know).
const ENTER: &str = "\u{1b}[2J\u{1b}[?7l\u{1b}[?25l";
/// Show the cursor, wrap lines.
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?7h\n";
/// Lines of a terminal that does not say how many it has.
const DEFAULT_ROWS: u16 = 24;

/// Puts the terminal back when it is dropped.
struct Screen;

impl Screen {
    fn enter() -> io::Result<Self> {
        let screen = Self;
        write_out(ENTER.as_bytes())?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // A terminal that is gone needs nothing.
        let _ = write_out(LEAVE.as_bytes());
    }
}

fn write_out(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(bytes)?;
    stdout.flush()
}

/// Runs a command every `period` until it is interrupted, fails for another cause than a daemon that is away, or nobody reads it.
pub(super) async fn run(
    mut command: Command,
    period: Duration,
    client: &Client,
    out: &mut Output,
) -> anyhow::Result<()> {
    if let Command::Stats(args) = &mut command {
        args.measure_over(period);
    }
    let is_drawn = out.format == Format::Table && io::stdout().is_terminal();
    let mut ends = Ends::new()?;
    let first = tokio::select! {
        first = once(&command, client, out.format, is_drawn) => first?,
        () = ends.come() => return Ok(()),
    };
    let screen = if is_drawn { Some(Screen::enter()?) } else { None };
    let mut shown = Shown { title: title(period), text: Vec::new(), lost: None };
    shown.show(Ok(first), is_drawn, out)?;
    loop {
        let begin = Instant::now();
        let next = async {
            // What takes its time to measure is not waited for once more.
            let text = once(&command, client, out.format, is_drawn).await;
            tokio::time::sleep(period.saturating_sub(begin.elapsed())).await;
            text
        };
        let next = tokio::select! {
            next = next => next,
            () = ends.come() => return Ok(()),
        };
        if !is_drawn && is_reader_gone() {
            return Ok(());
        }
        match next {
            Err(error) if !is_away(&error) => {
                drop(screen);
                return Err(error);
            }
            next => shown.show(next, is_drawn, out)?,
        }
    }
}

async fn once(command: &Command, client: &Client, format: Format, is_drawn: bool) -> anyhow::Result<Vec<u8>> {
    let mut out = Output::memory(format, is_drawn && wants_colour());
    ask_once(command.clone(), client, &mut out).await?;
    Ok(out.taken())
}

/// Whether an error says that the daemon is away, and may come back.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref(),
        Some(
            ClientError::Absent { .. }
                | ClientError::NobodyListens { .. }
                | ClientError::TimedOut { .. }
                | ClientError::Connection { .. }
        )
    )
}

/// Whether nobody will read what is written to a pipe any more: it is not seen until something is written, which may be never.
fn is_reader_gone() -> bool {
    let stdout = io::stdout();
    let mut polled = [PollFd::new(std::os::fd::AsFd::as_fd(&stdout), PollFlags::empty())];
    let found = poll(&mut polled, PollTimeout::ZERO);
    found.is_ok() && polled[0].revents().is_some_and(|events| events.contains(PollFlags::POLLERR))
}

/// What stands there.
struct Shown {
    title: String,
    text: Vec<u8>,
    /// Why the daemon is away, if it is.
    lost: Option<String>,
}

impl Shown {
    fn show(&mut self, next: anyhow::Result<Vec<u8>>, is_drawn: bool, out: &mut Output) -> io::Result<()> {
        let lost = next.as_ref().err().map(ToString::to_string);
        let is_new = next.as_ref().is_ok_and(|text| *text != self.text);
        let is_first = self.text.is_empty();
        if let Ok(text) = next {
            self.text = text;
        }
        if is_drawn {
            self.lost = lost;
            let rows = ratatui::crossterm::terminal::size().map_or(DEFAULT_ROWS, |(_, rows)| rows);
            let head = format!("{}  {:.0}", self.title, jiff::Timestamp::now());
            return write_out(frame(&head, self.lost.as_deref(), &self.text, rows).as_bytes());
        }
        if lost.is_some() && self.lost.is_none() {
            // Where standard error is gone, the silence speaks.
            let _ = writeln!(io::stderr(), "{}; waiting for it", lost.as_deref().unwrap_or_default());
        }
        self.lost = lost;
        if is_new {
            if out.format == Format::Table && !is_first {
                out.line("")?;
            }
            out.raw(&self.text)?;
            out.flush()?;
        }
        Ok(())
    }
}

fn title(period: Duration) -> String {
    let words: Vec<_> = std::env::args().skip(1).collect();
    format!("weir {}  every {} s", words.join(" "), period.as_secs_f64())
}

/// What is written to a terminal of so many rows: a head, and of the text what has room. Each line clears what stood behind it.
fn frame(head: &str, lost: Option<&str>, text: &[u8], rows: u16) -> String {
    let text = String::from_utf8_lossy(text);
    let mut lines = vec![head.to_owned()];
    lines.push(lost.map_or_else(String::new, |lost| format!("LOST: {lost}; this is how it was before")));
    lines.extend(text.lines().map(str::to_owned));
    let room = usize::from(rows.max(3));
    if lines.len() > room {
        let hidden = lines.len() - room + 1;
        lines.truncate(room - 1);
        lines.push(format!("... {hidden} more lines"));
    }
    let lines: Vec<_> = lines.iter().map(|line| format!("{line}\u{1b}[K")).collect();
    format!("\u{1b}[H{}\u{1b}[J", lines.join("\r\n"))
}

/// What ends it: Ctrl-C, SIGTERM, a terminal that is closed.
struct Ends([Signal; 3]);

impl Ends {
    fn new() -> io::Result<Self> {
        let [a, b, c] = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        Ok(Self([a?, b?, c?]))
    }

    async fn come(&mut self) {
        let [a, b, c] = &mut self.0;
        tokio::select! {
            _ = a.recv() => {}
            _ = b.recv() => {}
            _ = c.recv() => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_daemon_that_does_not_answer_may_come_back() {
        let socket = || std::path::PathBuf::from("/run/weir/weir.sock");
        let away = |error: ClientError| is_away(&error.into());
        assert!(away(ClientError::TimedOut { socket: socket(), after: Duration::from_secs(10) }));
        assert!(away(ClientError::NobodyListens { socket: socket() }));
        assert!(away(ClientError::Absent { socket: socket() }));
        assert!(!away(ClientError::Denied { socket: socket() }));
    }

    #[test]
    fn a_frame_fills_the_screen_and_no_more() {
        let text = (1..=10).map(|line| format!("line {line}\n")).collect::<String>();
        let lines = |rows, lost| -> Vec<String> {
            let frame = frame("head", lost, text.as_bytes(), rows);
            let plain = frame.strip_prefix("\u{1b}[H").unwrap().strip_suffix("\u{1b}[J").unwrap();
            plain.split("\r\n").map(|line| line.strip_suffix("\u{1b}[K").unwrap().to_owned()).collect()
        };
        assert_eq!(lines(24, None).len(), 12);
        assert_eq!(lines(12, None).last().unwrap(), "line 10");
        assert_eq!(lines(6, None), ["head", "", "line 1", "line 2", "line 3", "... 7 more lines"]);
        assert_eq!(lines(0, None).len(), 3);
        assert_eq!(lines(24, Some("gone"))[1], "LOST: gone; this is how it was before");
    }
}
