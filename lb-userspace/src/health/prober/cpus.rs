//! A witness for each CPU: a thread that may run nowhere else, and says when it ran.
//!
//! Asked, it sends itself a datagram over the loopback interface. The kernel puts that at the end of this CPU's queue of packets, so that what lay
//! there before has been taken out when it comes back; then the witness answers. Its priority is above that of the control thread, which may be
//! busy on the same CPU. It sleeps until it is asked: only when answers are missing.
//!
//! Bounded: [`MAX_WITNESSES`] threads with a stack of [`STACK_BYTES`], one socket and one descriptor each.

use std::io;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::unistd::Pid;

use crate::health::testimony::Testimony;
use crate::runtime::clock::{as_ns, monotonic_ns};
use crate::runtime::control::raise_witness;

/// CPUs that have a witness; on larger hosts the first ones have.
pub const MAX_WITNESSES: usize = 256;
/// A witness's stack.
const STACK_BYTES: usize = 128 << 10;
/// How long a datagram over the loopback interface may take.
const LOOPBACK_TIMEOUT: Duration = Duration::from_millis(50);
/// Time from one attempt to the next.
const LOOPBACK_PAUSE: Duration = Duration::from_micros(100);
/// After so many in a row that did not come back none is sent any more: somebody filters them.
const LOOPBACK_LOST: u32 = 3;

/// What a witness and who asks it share.
#[derive(Debug)]
struct Desk {
    bell: EventFd,
    /// The question that it is to answer.
    question: AtomicU64,
    answered: AtomicU64,
    answered_ns: AtomicU64,
    /// Datagrams of its that came back.
    passed: AtomicU64,
}

/// The witnesses of all CPUs that this process may use, and what they said. They end when this is dropped.
#[derive(Debug)]
pub struct Cpus {
    testimony: Testimony,
    desks: Desks,
    stop: Arc<AtomicBool>,
    /// Rung for each answer.
    answers: Arc<EventFd>,
}

#[derive(Debug)]
struct Desks {
    desks: Vec<Arc<Desk>>,
    /// Somebody has not answered yet.
    open: bool,
}

impl Desks {
    fn ask(&mut self, question: u64) {
        self.open = true;
        for desk in &self.desks {
            desk.question.store(question, Ordering::Release);
            // Adding 1 fails only near the counter's limit of 2^64.
            let _ = desk.bell.write(1);
        }
    }
}

impl Cpus {
    /// Starts them. CPUs whose witness cannot be started have none: then what they do is not known.
    ///
    /// # Errors
    /// When the process has no descriptor left, or may not know its CPUs.
    pub fn start() -> io::Result<Self> {
        let mut new = Self::none()?;
        for cpu in own_cpus()? {
            let desk = Desk {
                bell: eventfd(EfdFlags::empty())?,
                question: AtomicU64::new(0),
                answered: AtomicU64::new(0),
                answered_ns: AtomicU64::new(0),
                passed: AtomicU64::new(0),
            };
            let desk = Arc::new(desk);
            let (own, stop, answers) = (Arc::clone(&desk), Arc::clone(&new.stop), Arc::clone(&new.answers));
            let thread = std::thread::Builder::new().name(format!("weir-cpu{cpu}")).stack_size(STACK_BYTES);
            if let Err(error) = thread.spawn(move || witness(cpu, &own, &stop, &answers)) {
                tracing::warn!(%error, cpu, "a CPU has no witness: if it stands still, that may be taken for a failure");
                continue;
            }
            new.desks.desks.push(desk);
        }
        new.testimony = Testimony::new(new.desks.desks.len());
        Ok(new)
    }

    /// Without any witness: silence is believed at once, unless the prober is late itself.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn none() -> io::Result<Self> {
        Ok(Self {
            testimony: Testimony::new(0),
            desks: Desks { desks: Vec::new(), open: false },
            stop: Arc::new(AtomicBool::new(false)),
            answers: Arc::new(eventfd(EfdFlags::EFD_NONBLOCK)?),
        })
    }

    /// CPUs that have a witness, and those of them that do not answer.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.desks.desks.len(), self.testimony.lost())
    }

    /// Readable when there are answers.
    #[must_use]
    pub fn answers(&self) -> BorrowedFd<'_> {
        self.answers.as_fd()
    }

    /// What the CPUs said, and how to ask them.
    pub(super) fn parts(&mut self) -> (&mut Testimony, impl FnMut(u64) + '_) {
        let desks = &mut self.desks;
        (&mut self.testimony, |question| desks.ask(question))
    }

    /// Takes the answers that there are.
    pub fn hear(&mut self) {
        if !self.desks.open {
            return;
        }
        // An empty bell is an error here; the answers are looked at all the same.
        let _ = self.answers.read();
        self.desks.open = false;
        for (cpu, desk) in self.desks.desks.iter().enumerate() {
            let answered = desk.answered.load(Ordering::Acquire);
            self.testimony.hear(cpu, answered, desk.answered_ns.load(Ordering::Relaxed));
            self.desks.open |= answered != desk.question.load(Ordering::Relaxed);
        }
    }
}

impl Drop for Cpus {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for desk in &self.desks.desks {
            let _ = desk.bell.write(1);
        }
    }
}

fn eventfd(flags: EfdFlags) -> io::Result<EventFd> {
    Ok(EventFd::from_flags(flags | EfdFlags::EFD_CLOEXEC)?)
}

/// The CPUs that this process may use.
fn own_cpus() -> io::Result<Vec<usize>> {
    let own = sched_getaffinity(Pid::from_raw(0))?;
    let may = |cpu: &usize| own.is_set(*cpu).unwrap_or(false);
    Ok((0..CpuSet::count()).filter(may).take(MAX_WITNESSES).collect())
}

/// The thread.
fn witness(cpu: usize, desk: &Desk, stop: &AtomicBool, answers: &EventFd) {
    let mut only = CpuSet::new();
    let pinned = only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only));
    if let Err(error) = pinned {
        // It answers from anywhere, which is no worse than having none.
        tracing::warn!(%error, cpu, "a witness may not be bound to its CPU");
    }
    raise_witness();
    let mut queue = Queue { socket: loopback().ok(), lost: 0 };
    // Blocks until it is rung.
    while desk.bell.read().is_ok() && !stop.load(Ordering::Relaxed) {
        let question = desk.question.load(Ordering::Acquire);
        if queue.pass(|socket| pass(socket, question)) {
            desk.passed.fetch_add(1, Ordering::Relaxed);
        }
        desk.answered_ns.store(monotonic_ns(), Ordering::Relaxed);
        desk.answered.store(question, Ordering::Release);
        let _ = answers.write(1);
    }
}

/// A CPU's queue of packets, as far as something can be sent through it.
struct Queue<S> {
    socket: Option<S>,
    /// Datagrams in a row that did not come back.
    lost: u32,
}

impl<S> Queue<S> {
    /// Sends something through it, unless that was in vain too often. Returns whether it came back.
    fn pass(&mut self, pass: impl FnOnce(&S) -> io::Result<()>) -> bool {
        let Some(socket) = self.socket.as_ref().filter(|_| self.lost < LOOPBACK_LOST) else { return false };
        let came_back = pass(socket).is_ok();
        self.lost = if came_back { 0 } else { self.lost + 1 };
        came_back
    }
}

/// A socket that is connected to itself.
fn loopback() -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    socket.connect(socket.local_addr()?)?;
    socket.set_nonblocking(true)?;
    pass(&socket, 0)?;
    Ok(socket)
}

/// Sends a number until it comes back. The kernel takes packets in while it sends one: where it left that to a thread of ordinary
/// priority, which gets no turn on a busy CPU, each attempt takes some of them in.
fn pass(socket: &UdpSocket, number: u64) -> io::Result<()> {
    let end_ns = monotonic_ns() + as_ns(LOOPBACK_TIMEOUT);
    loop {
        socket.send(&number.to_be_bytes())?;
        let mut datagram = [0; 8];
        while let Ok(length) = socket.recv(&mut datagram) {
            if length == datagram.len() && datagram == number.to_be_bytes() {
                return Ok(());
            }
        }
        if monotonic_ns() > end_ns {
            return Err(io::ErrorKind::TimedOut.into());
        }
        std::thread::sleep(LOOPBACK_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::health::testimony::Since;

    #[test]
    fn every_cpu_answers_each_question() {
        let mut cpus = Cpus::start().expect("threads");
        assert_eq!(cpus.count(), (own_cpus().expect("CPUs").len(), 0));
        for _ in 0..3 {
            let asked_ns = monotonic_ns();
            let (testimony, mut ask) = cpus.parts();
            ask(testimony.ask(asked_ns));
            drop(ask);
            let deadline = Instant::now() + Duration::from_secs(20);
            while cpus.testimony.is_open() {
                assert!(Instant::now() < deadline, "{cpus:?}");
                cpus.hear();
            }
            assert!(matches!(cpus.testimony.since(asked_ns), Since::Answered(took_ns) if took_ns > 0));
        }
        assert_eq!(cpus.count().1, 0);
        let passed: Vec<_> =
            cpus.desks.desks.iter().map(|desk| desk.passed.load(Ordering::Relaxed)).collect();
        assert_eq!(passed, vec![3; passed.len()], "a datagram went through each queue for each question");
    }

    #[test]
    fn each_witness_runs_on_its_cpu_only() {
        let mut cpus = Cpus::start().expect("threads");
        let (testimony, mut ask) = cpus.parts();
        ask(testimony.ask(monotonic_ns()));
        drop(ask);
        let deadline = Instant::now() + Duration::from_secs(20);
        while cpus.testimony.is_open() {
            assert!(Instant::now() < deadline, "{cpus:?}");
            cpus.hear();
        }
        let threads: Vec<_> = std::fs::read_dir("/proc/self/task").expect("threads").flatten().collect();
        let of = |name: &str, file: &str| {
            let thread = threads.iter().map(|thread| thread.path());
            let found = thread.filter(|path| {
                std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
            });
            // Other tests have witnesses, too.
            found.filter_map(|path| std::fs::read_to_string(path.join(file)).ok()).collect::<Vec<_>>()
        };
        for cpu in own_cpus().expect("CPUs") {
            let own = format!("Cpus_allowed_list:\t{cpu}\n");
            let found = of(&format!("weir-cpu{cpu}"), "status");
            assert!(found.iter().any(|status| status.contains(&own)), "{cpu}: {found:?}");
        }
    }

    /// Somebody filters the loopback interface: that is not to delay every answer.
    #[test]
    fn what_never_comes_back_is_not_sent_for_ever() {
        let mut queue = Queue { socket: Some(()), lost: 0 };
        let mut sent = 0;
        let mut send = |comes_back: bool| {
            queue.pass(|()| {
                sent += 1;
                if comes_back { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
            })
        };
        let comes_back = [false, false, true, false, false, false, true, false];
        let passed = comes_back.map(&mut send);
        assert_eq!(passed, [false, false, true, false, false, false, false, false]);
        assert_eq!(sent, 6, "three in a row were in vain");
        assert!(!Queue { socket: None::<()>, lost: 0 }.pass(|()| Ok(())));
    }

    #[test]
    fn a_datagram_comes_back_on_the_loopback_interface() {
        let socket = loopback().expect("a loopback interface");
        // One that was left over from before is passed over.
        socket.send(&7u64.to_be_bytes()).expect("sent");
        pass(&socket, 8).expect("it comes back");
        let left = socket.recv(&mut [0; 8]).map_err(|error| error.kind());
        assert_eq!(left, Err(io::ErrorKind::WouldBlock), "it was its own one that was waited for");
    }
}
