//! The journal on disk: JSON lines in `events.jsonl`, older ones in `events.jsonl.1` (the newest) to `events.jsonl.4`.
//!
//! A line is whole or it is not there: one that a crash or a full disk cut short is ended before the next one begins,
//! and skipped by readers.

use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, Read, Seek, SeekFrom, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::event::Event;

/// Name of the newest file in the state directory.
pub(super) const JOURNAL_FILE: &str = "events.jsonl";
/// Size at which a file is put aside.
pub(super) const MAX_FILE_BYTES: u64 = 16 << 20;
/// Files that are kept besides the newest one.
pub(super) const KEPT_FILES: u32 = 4;
/// Bytes of a line that is read; a longer one is none of ours.
const MAX_LINE_BYTES: u64 = 64 << 10;
/// Bytes of a file that are read, from its end: rotation leaves nothing larger.
const MAX_READ_BYTES: u64 = 2 * MAX_FILE_BYTES;

/// What the files of an earlier daemon hold.
#[derive(Debug, Default)]
pub(super) struct Tail {
    /// The last events, ascending by number.
    pub(super) events: VecDeque<Event>,
    /// Lines that are no events, or stand where their number cannot.
    pub(super) skipped: u64,
    /// Whether the newest file ends within a line.
    pub(super) torn: bool,
}

/// The newest file, open for appending.
#[derive(Debug)]
pub(super) struct JournalFile {
    directory: PathBuf,
    max_bytes: u64,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    /// Whether the file ends within a line.
    torn: bool,
}

impl JournalFile {
    /// The journal of `directory`; files are put aside at `max_bytes`. Nothing is opened yet.
    pub(super) fn new(directory: &Path, max_bytes: u64) -> Self {
        Self { directory: directory.to_owned(), max_bytes, open: None }
    }

    /// The last `limit` events of all files.
    pub(super) fn read_tail(&self, limit: usize) -> io::Result<Tail> {
        let mut all = Tail::default();
        for age in 0..=KEPT_FILES {
            // A crash between two renames leaves a gap in the numbers of the files, so a missing one is not the last.
            let Some(mut older) = read_file(&aged(&self.directory, age), limit)? else {
                continue;
            };
            all.skipped += older.skipped;
            if age == 0 {
                all.torn = older.torn;
            }
            while older.events.back().zip(all.events.front()).is_some_and(|(old, new)| old.seq >= new.seq) {
                older.events.pop_back();
                all.skipped += 1;
            }
            while let Some(event) = older.events.pop_back().filter(|_| all.events.len() < limit) {
                all.events.push_front(event);
            }
            if all.events.len() >= limit {
                break;
            }
        }
        Ok(all)
    }

    /// Appends one event. After an error nothing of it is in the file, or a part that readers skip.
    pub(super) fn append(&mut self, event: &Event) -> io::Result<()> {
        let mut line = serde_json::to_vec(event)?;
        line.push(b'\n');
        let full = |open: &Open| open.bytes > 0 && open.bytes + line.len() as u64 > self.max_bytes;
        if self.open.as_ref().is_some_and(full) {
            self.open = None;
            rotate(&self.directory)?;
        }
        let open = match &mut self.open {
            Some(open) => open,
            closed => closed.insert(Open::at(&aged(&self.directory, 0))?),
        };
        open.append(&line)
    }

    /// Makes what was appended durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        self.open.as_ref().map_or(Ok(()), |open| open.file.sync_data())
    }
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let mut file = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path)?;
        let bytes = file.metadata()?.len();
        let mut last = [b'\n'];
        if bytes > 0 {
            file.seek(SeekFrom::End(-1))?;
            file.read_exact(&mut last)?;
        }
        Ok(Self { file, bytes, torn: last != [b'\n'] })
    }

    fn append(&mut self, line: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.write_all(b"\n")?;
            self.bytes += 1;
            self.torn = false;
        }
        let written = self.file.write_all(line);
        match &written {
            Ok(()) => self.bytes += line.len() as u64,
            // A full disk may have taken a part of the line.
            Err(_) => self.torn = self.file.set_len(self.bytes).is_err(),
        }
        written
    }
}

/// Calls back for each event of all files, oldest first. Damaged lines are left out, as is what is rotated away meanwhile.
pub(super) fn scan(directory: &Path, found: &mut dyn FnMut(&Event)) -> io::Result<()> {
    let mut last = 0;
    for age in (0..=KEPT_FILES).rev() {
        let file = match File::open(aged(directory, age)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            opened => opened?,
        };
        let mut reader = BufReader::new(file.take(MAX_READ_BYTES));
        let mut line = Vec::new();
        while (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? > 0 {
            if let Ok(event) = serde_json::from_slice::<Event>(&line)
                && event.seq > last
            {
                last = event.seq;
                found(&event);
            }
            line.clear();
        }
    }
    Ok(())
}

/// Path of a file by age, 0 for the newest.
pub(super) fn aged(directory: &Path, age: u32) -> PathBuf {
    match age {
        0 => directory.join(JOURNAL_FILE),
        age => directory.join(format!("{JOURNAL_FILE}.{age}")),
    }
}

/// Makes room for a new file; the oldest one goes.
fn rotate(directory: &Path) -> io::Result<()> {
    for age in (0..KEPT_FILES).rev() {
        match fs::rename(aged(directory, age), aged(directory, age + 1)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn read_file(path: &Path, limit: usize) -> io::Result<Option<Tail>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let skip = file.metadata()?.len().saturating_sub(MAX_READ_BYTES);
    file.seek(SeekFrom::Start(skip))?;
    let mut reader = BufReader::new(file.take(MAX_READ_BYTES));
    if skip > 0 {
        reader.skip_until(b'\n')?;
    }
    let mut tail = Tail::default();
    let mut line = Vec::new();
    loop {
        line.clear();
        if (&mut reader).take(MAX_LINE_BYTES).read_until(b'\n', &mut line)? == 0 {
            return Ok(Some(tail));
        }
        tail.torn = line.last() != Some(&b'\n');
        if tail.torn && line.len() as u64 == MAX_LINE_BYTES {
            reader.skip_until(b'\n')?;
        }
        tail.take(&line, limit);
    }
}

impl Tail {
    /// Takes one line, whether or not it ends with a line break.
    fn take(&mut self, line: &[u8], limit: usize) {
        if line.trim_ascii().is_empty() {
            return;
        }
        let previous = self.events.back().map_or(0, |event| event.seq);
        match serde_json::from_slice::<Event>(line) {
            Ok(event) if event.seq > previous => {
                if self.events.len() >= limit {
                    self.events.pop_front();
                }
                self.events.push_back(event);
            }
            _ => self.skipped += 1,
        }
    }
}
