//! Running programs that report as libtest does: one after the other, or in lanes beside each other.

use std::{
    collections::VecDeque,
    io::{Read, Write},
    process::Child,
    sync::{
        Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{libtest::Counts, shell::Cmd};

/// After so long without output we say that we are still here.
const SILENCE: Duration = Duration::from_secs(30);

/// A line of the closing table.
pub(super) struct Row {
    pub(super) title: String,
    pub(super) counts: Counts,
    pub(super) time: Duration,
}

/// When what a program prints is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// At once: nothing else runs.
    AsItComes,
    /// In one piece: other programs print as well.
    AtItsEnd,
}

type Work<'a> = Box<dyn FnOnce(&str, Show) -> Result<Counts> + Send + 'a>;

/// Something with tests in it.
pub(super) struct Job<'a> {
    title: String,
    work: Work<'a>,
}

impl<'a> Job<'a> {
    /// A program that reports as libtest does.
    pub(super) fn new(title: String, cmd: Cmd) -> Self {
        Self { title, work: Box::new(move |title, show| run_and_count(title, &cmd, show)) }
    }

    /// Anything else that can be counted. It prints for itself.
    pub(super) fn of(title: &str, work: impl FnOnce() -> Result<Counts> + Send + 'a) -> Self {
        Self { title: title.to_owned(), work: Box::new(move |_, _| work()) }
    }

    /// Does it. What cannot be done counts as one failure: all else goes on.
    pub(super) fn run(self, show: Show) -> Row {
        let Self { title, work } = self;
        eprintln!("==> {title}");
        let start = Instant::now();
        let counts = work(&title, show).unwrap_or_else(|error| {
            eprintln!("    {title}: {error:#}");
            Counts { failed: 1, failed_names: vec!["(could not be run)".to_owned()], ..Counts::default() }
        });
        let time = start.elapsed();
        if show == Show::AtItsEnd {
            eprintln!("    {title}: ended after {:.1} s", time.as_secs_f64());
        }
        Row { title, counts, time }
    }
}

/// Runs jobs in their order.
pub(super) fn one_after_the_other(jobs: Vec<Job<'_>>) -> Vec<Row> {
    jobs.into_iter().map(|job| job.run(Show::AsItComes)).collect()
}

/// Runs jobs in so many lanes: each takes the next job when it is free. The rows come in the order of the jobs.
pub(super) fn beside_each_other(jobs: Vec<Job<'_>>, lanes: usize) -> Vec<Row> {
    if lanes < 2 || jobs.len() < 2 {
        return one_after_the_other(jobs);
    }
    eprintln!("    {} programs in {lanes} lanes; what each prints is shown at its end", jobs.len());
    let waiting: Mutex<VecDeque<_>> = Mutex::new(jobs.into_iter().enumerate().collect());
    let done = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..lanes {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((number, job)) = next else { return };
                    let row = job.run(Show::AtItsEnd);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((number, row));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(number, _)| *number);
    done.into_iter().map(|(_, row)| row).collect()
}

/// Runs a program that reports as libtest does, showing and reading what it prints.
fn run_and_count(title: &str, cmd: &Cmd, show: Show) -> Result<Counts> {
    let mut child = cmd.spawn_piped()?;
    let output = relay(&mut child, title, show)?;
    let status = child.wait().with_context(|| format!("cannot wait for {title}"))?;
    if show == Show::AtItsEnd {
        print(format!("--- {title}\n{}\n", output.trim()).as_bytes())?;
    }
    if !status.success() {
        eprintln!("    {title}: {status}");
    }
    Ok(Counts::read(&output, status.success()))
}

fn print(bytes: &[u8]) -> Result<()> {
    let mut ours = std::io::stdout().lock();
    ours.write_all(bytes).and_then(|()| ours.flush()).context("cannot write to our own output")
}

/// Returns all of a child's output, which it passes on as it comes if it is to; speaks up when the child is silent for long.
fn relay(child: &mut Child, title: &str, show: Show) -> Result<String> {
    let mut stdout = child.stdout.take().context("the child's output is not piped")?;
    let (sender, receiver) = mpsc::sync_channel::<Vec<u8>>(16);
    let reader = std::thread::spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(length @ 1..) = stdout.read(&mut chunk) {
            if sender.send(chunk[..length].to_vec()).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut output = Vec::new();
    loop {
        match receiver.recv_timeout(SILENCE) {
            Ok(chunk) => {
                if show == Show::AsItComes {
                    print(&chunk)?;
                }
                output.extend(chunk);
            }
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("    {title}: running for {} s", start.elapsed().as_secs());
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    reader.join().map_err(|_| anyhow::anyhow!("the thread that reads the output of {title} panicked"))?;
    Ok(String::from_utf8_lossy(&output).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(passed: u64) -> Counts {
        Counts { passed, ..Counts::default() }
    }

    #[test]
    fn lanes_run_beside_each_other_and_rows_keep_their_order() {
        // The first one ends only after the second one has: in one lane it would wait in vain.
        let (sender, receiver) = mpsc::channel();
        let jobs = vec![
            Job::of("first", move || Ok(counted(receiver.recv_timeout(Duration::from_secs(20))?))),
            Job::of("second", move || Ok(sender.send(7).map(|()| counted(1))?)),
            Job::of("third", || anyhow::bail!("no")),
        ];
        let rows = beside_each_other(jobs, 2);
        let told: Vec<_> =
            rows.iter().map(|row| (&*row.title, row.counts.passed, row.counts.failed)).collect();
        assert_eq!(told, [("first", 7, 0), ("second", 1, 0), ("third", 0, 1)]);
    }

    #[test]
    fn a_program_that_ends_badly_or_is_not_there_is_a_failure() {
        for program in ["false", "/there/is/no/such"] {
            let row = Job::new(program.to_owned(), Cmd::new(program)).run(Show::AtItsEnd);
            assert_eq!((row.counts.passed, row.counts.failed), (0, 1), "{program}");
        }
    }
}
