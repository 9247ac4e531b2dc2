use std::{
    fs,
    io::Write,
    os::unix::fs::{PermissionsExt, symlink},
};

use super::*;
use crate::{
    plan::state::State,
    telemetry::{
        event::EventKind,
        journal_file::{JOURNAL_FILE, KEPT_FILES},
    },
};

/// Longer than anything here takes, so that only a lost wake-up meets it.
const PATIENCE: Duration = Duration::from_secs(30);

fn event(subject: &str) -> NewEvent {
    NewEvent {
        monotonic_ns: 1,
        kind: EventKind::BackendState,
        subject: subject.to_owned(),
        from: Some(State::Up),
        to: Some(State::Down),
        cause: "missed 2 of 2".to_owned(),
        evidence_ns: Some(1),
        decided_ns: Some(2),
        stored_ns: None,
    }
}

fn numbers(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.seq).collect()
}

async fn all(journal: &Journal) -> Vec<Event> {
    journal.events(Some(0), usize::MAX, Duration::ZERO).await
}

fn append_raw(directory: &Path, text: &str) {
    let mut file = fs::OpenOptions::new().append(true).open(directory.join(JOURNAL_FILE)).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[tokio::test]
async fn numbers_go_on_over_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    assert!(all(&journal).await.is_empty());
    let first = journal.record(event("a"));
    journal.record(event("b"));
    let mode = fs::metadata(dir.path().join(JOURNAL_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    let again = Journal::open(dir.path()).unwrap();
    assert_eq!(all(&again).await[0], first);
    assert_eq!(again.record(event("c")).seq, 3);
    assert_eq!(numbers(&all(&Journal::open(dir.path()).unwrap()).await), [1, 2, 3]);
}

#[tokio::test]
async fn torn_last_line_is_skipped_and_ended() {
    let dir = tempfile::tempdir().unwrap();
    Journal::open(dir.path()).unwrap().record(event("a"));
    append_raw(dir.path(), "{\"seq\":2,\"time\":\"2026-");

    let journal = Journal::open(dir.path()).unwrap();
    assert_eq!(journal.status().skipped_lines, 1);
    assert_eq!(journal.record(event("b")).seq, 2);

    let again = Journal::open(dir.path()).unwrap();
    let events = all(&again).await;
    assert_eq!(events.iter().map(|e| e.subject.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(again.status().skipped_lines, 1);
}

#[tokio::test]
async fn whole_last_line_without_its_break_counts() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    journal.record(event("a"));
    journal.record(event("b"));
    let path = dir.path().join(JOURNAL_FILE);
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.trim_end()).unwrap();

    let again = Journal::open(dir.path()).unwrap();
    assert_eq!(again.record(event("c")).seq, 3);
    let last = Journal::open(dir.path()).unwrap();
    assert_eq!(numbers(&all(&last).await), [1, 2, 3]);
    assert_eq!(last.status().skipped_lines, 0);
}

#[tokio::test]
async fn damaged_lines_are_skipped_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    for subject in ["a", "b", "c"] {
        journal.record(event(subject));
    }
    let path = dir.path().join(JOURNAL_FILE);
    let text = fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let long = "x".repeat(200_000);
    // Not JSON; an event out of its turn; not UTF-8; far too long; empty.
    let damaged = [lines[0], "{]", lines[2], lines[1], "\u{fffd}", &long, "", lines[2], "{}", ""].join("\n");
    let damaged: Vec<u8> = damaged.bytes().map(|byte| if byte == 0xbd { 0xff } else { byte }).collect();
    fs::write(&path, damaged).unwrap();

    let again = Journal::open(dir.path()).unwrap();
    assert_eq!(numbers(&all(&again).await), [1, 3]);
    assert_eq!(again.status().skipped_lines, 6);
    assert_eq!(again.record(event("d")).seq, 4);
}

#[tokio::test]
async fn files_are_put_aside_by_size_and_the_oldest_goes() {
    let dir = tempfile::tempdir().unwrap();
    let max_bytes = 2_000;
    let journal = Journal::open_with(dir.path(), max_bytes).unwrap();
    for _ in 0..200 {
        journal.record(event("a"));
    }
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let expected: Vec<String> = (0..=KEPT_FILES)
        .map(|age| aged(Path::new(""), age).into_os_string().into_string().unwrap())
        .collect();
    assert_eq!(names, expected);
    for name in &names {
        let bytes = fs::metadata(dir.path().join(name)).unwrap().len();
        assert!(bytes <= max_bytes, "{name} has {bytes} bytes");
    }
    // What is left is the end, without gaps, read across all files.
    let again = Journal::open_with(dir.path(), max_bytes).unwrap();
    let left = numbers(&all(&again).await);
    assert!(left.len() > 20 && left.len() < 60, "{}", left.len());
    assert_eq!(left, (201 - left.len() as u64..=200).collect::<Vec<_>>());
    // A crash right after a rotation leaves no newest file.
    fs::remove_file(dir.path().join(JOURNAL_FILE)).unwrap();
    let before = Journal::open_with(dir.path(), max_bytes).unwrap().status().last_seq;
    assert!(before > 100 && before < 200, "{before}");
}

/// What a report reads: all files, whole lines, each event once.
#[test]
fn a_scan_goes_over_all_files_and_leaves_out_what_is_damaged() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open_with(dir.path(), 2_000).unwrap();
    for _ in 0..30 {
        journal.record(event("a"));
    }
    append_raw(dir.path(), "{\"seq\":31,\"time\":\"2026-");
    let scan = || {
        let mut found = Vec::new();
        Journal::scan(dir.path(), &mut |event| found.push(event.seq)).unwrap();
        found
    };
    assert_eq!(scan(), (1..=30).collect::<Vec<_>>());
    let again = Journal::open_with(dir.path(), 2_000).unwrap();
    again.record(event("b"));
    assert_eq!(scan(), (1..=31).collect::<Vec<_>>());
    // A copy of an older file in the place of a newer one repeats nothing.
    fs::copy(aged(dir.path(), 1), dir.path().join("copy")).unwrap();
    fs::rename(dir.path().join("copy"), aged(dir.path(), 0)).unwrap();
    assert!(scan().is_sorted_by(|a, b| a < b));
    assert_eq!(Journal::scan(&dir.path().join("none"), &mut |_| panic!("an event")).ok(), Some(()));
}

#[tokio::test]
async fn memory_is_bounded_and_holds_the_last() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let extra = 10;
    journal.record_all((0..MAX_EVENTS_IN_MEMORY + extra).map(|_| event("a")).collect());
    let events = all(&journal).await;
    assert_eq!(events.len(), MAX_EVENTS_IN_MEMORY);
    assert_eq!(events[0].seq, extra as u64 + 1);
    assert_eq!(numbers(&journal.events(None, 2, Duration::ZERO).await), [4105, 4106]);
    assert_eq!(numbers(&journal.events(Some(20), 2, Duration::ZERO).await), [21, 22]);
    // Ahead of everything, and nothing asked for.
    assert!(journal.events(Some(9_999), 2, Duration::ZERO).await.is_empty());
    assert!(journal.events(None, 0, PATIENCE).await.is_empty());
}

#[tokio::test]
async fn waiting_ends_with_an_event_or_with_time() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    assert!(journal.events(Some(0), 10, Duration::from_millis(1)).await.is_empty());
    let (sender, receiver) = mpsc::channel(4);
    let thread = journal.spawn(receiver).unwrap();
    let waiters: Vec<_> = (0..3)
        .map(|_| {
            let journal = journal.clone();
            tokio::spawn(async move { journal.events(Some(0), 10, PATIENCE).await })
        })
        .collect();
    tokio::task::yield_now().await;
    sender.send(event("a")).await.unwrap();
    for waiter in waiters {
        let found = tokio::time::timeout(PATIENCE, waiter).await.expect("a waiter slept on").unwrap();
        assert_eq!(numbers(&found), [1]);
    }
    drop(sender);
    thread.join().unwrap();
}

#[tokio::test]
async fn thread_writes_everything_before_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(dir.path()).unwrap();
    let (sender, receiver) = mpsc::channel(1_000);
    for _ in 0..1_000 {
        sender.try_send(event("a")).unwrap();
    }
    drop(sender);
    tokio::task::spawn_blocking(move || journal.spawn(receiver).unwrap().join().unwrap()).await.unwrap();
    assert_eq!(Journal::open(dir.path()).unwrap().status().last_seq, 1_000);
}

/// `/dev/full` answers every write with "no space left on device".
#[tokio::test]
async fn full_disk_stops_nothing_and_is_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(JOURNAL_FILE);
    let journal = Journal::open(dir.path()).unwrap();
    symlink("/dev/full", &path).unwrap();
    assert_eq!(journal.record(event("a")).seq, 1);
    assert_eq!(journal.record(event("b")).seq, 2);
    let status = journal.status();
    assert_eq!(status.write_errors, 2);
    assert!(status.last_error.unwrap().contains("No space"));
    assert_eq!(numbers(&all(&journal).await), [1, 2]);

    fs::remove_file(&path).unwrap();
    lock(&journal.shared.writer).file = JournalFile::new(dir.path(), MAX_FILE_BYTES);
    journal.record(event("c"));
    assert_eq!(journal.status().last_error, None);
    assert_eq!(numbers(&all(&Journal::open(dir.path()).unwrap()).await), [1, 2, 3]);
}

#[tokio::test]
async fn missing_directory_stops_nothing_and_what_memory_cannot_hold_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let journal = Journal::open(&state).unwrap();
    journal.record_all((0..MAX_EVENTS_IN_MEMORY).map(|_| event("a")).collect());
    journal.record_all((0..5).map(|_| event("b")).collect());
    assert_eq!(journal.status().unwritten, 5);
    fs::create_dir(&state).unwrap();
    journal.record(event("c"));
    let status = journal.status();
    assert_eq!((status.unwritten, status.last_error), (6, None));
    let again = Journal::open(&state).unwrap();
    assert_eq!(again.status().last_seq, 4_102);
    assert_eq!(all(&again).await[0].seq, 7);
}

#[tokio::test]
async fn unreadable_journal_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(JOURNAL_FILE)).unwrap();
    let error = Journal::open(dir.path()).unwrap_err();
    assert!(error.to_string().contains(JOURNAL_FILE), "{error}");
}

#[test]
fn time_of_day_follows_the_monotonic_clock() {
    let now_ns = monotonic_ns();
    let earlier = time_of_day(now_ns.saturating_sub(1_000_000_000));
    let later = time_of_day(now_ns);
    let apart = later.duration_since(earlier).as_millis();
    assert!((500..=10_000).contains(&apart), "{apart} ms");
    assert!(time_of_day(u64::MAX) <= jiff::Timestamp::now());
}
