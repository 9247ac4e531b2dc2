//! The event journal: numbers events, keeps the last ones in memory for the API, and all of them on disk.
//!
//! Nothing that decides ever waits for it. An event that cannot be written (a full disk) is in memory at once and on
//! disk as soon as writing works again.

use std::{
    collections::VecDeque,
    io, mem,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout_at},
};

use super::{
    event::{Event, NewEvent},
    journal_file::{self, JournalFile, MAX_FILE_BYTES, aged},
    metrics::EventCounts,
};
use crate::{api::types::JournalStatus, runtime::clock::monotonic_ns};

/// Events that are kept in memory.
pub const MAX_EVENTS_IN_MEMORY: usize = 4_096;
/// Events that are written between two syncs of the file.
const MAX_BATCH: usize = 256;

/// The journal; clones are the same one.
#[derive(Clone, Debug)]
pub struct Journal {
    shared: Arc<Shared>,
}

/// The journal of an earlier daemon cannot be read, so the numbers of its events are not known.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the event journal {}", path.display())]
pub struct JournalError {
    /// The newest file.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

#[derive(Debug)]
struct Shared {
    /// Taken before `memory` where both are. Held over writes, which may be slow.
    writer: Mutex<Writer>,
    /// Held for moments only: the API reads here.
    memory: Mutex<Memory>,
    added: Notify,
}

#[derive(Debug)]
struct Writer {
    file: JournalFile,
    /// Number of the next event to be written.
    next: u64,
}

#[derive(Debug)]
struct Memory {
    events: VecDeque<Event>,
    status: JournalStatus,
    counts: EventCounts,
}

impl Journal {
    /// Opens the journal of `state_dir` and goes on where the last daemon ended. Nothing is written until there is an
    /// event.
    ///
    /// # Errors
    /// If a file is there and cannot be read. Damaged lines are skipped and counted.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        Self::open_with(state_dir, MAX_FILE_BYTES)
    }

    fn open_with(state_dir: &Path, max_file_bytes: u64) -> Result<Self, JournalError> {
        let file = JournalFile::new(state_dir, max_file_bytes);
        let path = aged(state_dir, 0);
        let tail = file
            .read_tail(MAX_EVENTS_IN_MEMORY)
            .map_err(|source| JournalError { path: path.clone(), source })?;
        if tail.torn {
            tracing::warn!(journal = %path.display(), "the journal ends within a line; going on in a new one");
        }
        if tail.skipped > 0 {
            tracing::warn!(journal = %path.display(), lines = tail.skipped, "skipped damaged lines of the journal");
        }
        let last_seq = tail.events.back().map_or(0, |event| event.seq);
        let status = JournalStatus { last_seq, skipped_lines: tail.skipped, ..JournalStatus::default() };
        let shared = Shared {
            writer: Mutex::new(Writer { file, next: last_seq + 1 }),
            memory: Mutex::new(Memory { events: tail.events, status, counts: EventCounts::new() }),
            added: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Records what comes out of `events`, on a thread of its own, until all senders are gone.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn spawn(&self, mut events: mpsc::Receiver<NewEvent>) -> io::Result<JoinHandle<()>> {
        let journal = self.clone();
        thread::Builder::new().name("weir-journal".to_owned()).spawn(move || {
            let mut batch = Vec::with_capacity(MAX_BATCH);
            while events.blocking_recv_many(&mut batch, MAX_BATCH) > 0 {
                journal.record_all(mem::take(&mut batch));
            }
        })
    }

    /// Records one event and says what it became. May wait for the disk: not for the control thread.
    ///
    /// # Panics
    /// Never: one event in, one event out.
    pub fn record(&self, event: NewEvent) -> Event {
        self.record_all(vec![event]).pop().expect("one event was recorded")
    }

    fn record_all(&self, batch: Vec<NewEvent>) -> Vec<Event> {
        let mut writer = lock(&self.shared.writer);
        let events: Vec<Event> = {
            let mut memory = lock(&self.shared.memory);
            batch.into_iter().map(|event| memory.add(event)).collect()
        };
        self.shared.added.notify_waiters();
        self.write_pending(&mut writer);
        events
    }

    /// Writes what is in memory and not on disk yet.
    fn write_pending(&self, writer: &mut Writer) {
        let (pending, lost) = {
            let memory = lock(&self.shared.memory);
            let oldest = memory.events.front().map_or(writer.next, |event| event.seq);
            let pending: Vec<Event> =
                memory.events.iter().filter(|event| event.seq >= writer.next).cloned().collect();
            (pending, oldest.saturating_sub(writer.next))
        };
        writer.next += lost;
        let outcome = pending.iter().try_for_each(|event| {
            writer.file.append(event)?;
            writer.next = event.seq + 1;
            Ok(())
        });
        let outcome = outcome.and_then(|()| writer.file.sync());
        lock(&self.shared.memory).note(lost, outcome);
    }

    /// Events, oldest first, at most `limit`: the first ones after number `after`, or, without it, the last ones of all.
    /// Where there is none after `after`, waits for one for at most `wait`.
    pub async fn events(&self, after: Option<u64>, limit: usize, wait: Duration) -> Vec<Event> {
        let deadline = Instant::now() + wait;
        loop {
            // Registered before looking, so that what is added in between wakes it.
            let added = self.shared.added.notified();
            tokio::pin!(added);
            added.as_mut().enable();
            let found = lock(&self.shared.memory).select(after, limit);
            let done = !found.is_empty() || after.is_none() || limit == 0;
            if done || timeout_at(deadline, added).await.is_err() {
                return found;
            }
        }
    }

    /// What was recorded since the journal was opened, in numbers.
    #[must_use]
    pub fn counts(&self) -> EventCounts {
        lock(&self.shared.memory).counts.clone()
    }

    /// Calls back for each event that the files of `state_dir` hold, oldest first. May take a second for a full journal.
    ///
    /// # Errors
    /// If a file is there and cannot be read.
    pub fn scan(state_dir: &Path, found: &mut dyn FnMut(&Event)) -> io::Result<()> {
        journal_file::scan(state_dir, found)
    }

    /// How the journal does.
    #[must_use]
    pub fn status(&self) -> JournalStatus {
        lock(&self.shared.memory).status.clone()
    }
}

impl Memory {
    fn add(&mut self, new: NewEvent) -> Event {
        self.status.last_seq += 1;
        let time = time_of_day(new.monotonic_ns);
        let event = new.numbered(self.status.last_seq, time);
        self.counts.observe(&event);
        if self.events.len() >= MAX_EVENTS_IN_MEMORY {
            self.events.pop_front();
        }
        self.events.push_back(event.clone());
        event
    }

    fn select(&self, after: Option<u64>, limit: usize) -> Vec<Event> {
        match after {
            None => {
                let skip = self.events.len().saturating_sub(limit);
                self.events.iter().skip(skip).cloned().collect()
            }
            Some(after) => {
                let first = self.events.partition_point(|event| event.seq <= after);
                self.events.iter().skip(first).take(limit).cloned().collect()
            }
        }
    }

    /// Counts the outcome of a write, and says so when it becomes another one.
    fn note(&mut self, lost: u64, outcome: io::Result<()>) {
        self.status.unwritten += lost;
        match outcome {
            Ok(()) => {
                if self.status.last_error.take().is_some() {
                    tracing::info!(lost = self.status.unwritten, "the event journal can be written again");
                }
            }
            Err(error) => {
                self.status.write_errors += 1;
                let first = self.status.last_error.replace(error.to_string()).is_none();
                if first {
                    tracing::error!(%error, "the event journal cannot be written; events are kept in memory");
                }
            }
        }
    }
}

/// Nothing here leaves shared state half changed, so a panic elsewhere is no reason to stop recording.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time of day at which the monotonic clock read `ns`; now, if that is to come.
fn time_of_day(ns: u64) -> jiff::Timestamp {
    let now = jiff::Timestamp::now();
    let age = Duration::from_nanos(monotonic_ns().saturating_sub(ns));
    now.checked_sub(age).unwrap_or(now)
}

#[cfg(test)]
mod tests;
