//! Guarantee 1: failing or restoring a domain is one store into memory that the XDP program reads, and no system call to
//! the kernel's BPF, however much lies in the domain.
use anyhow::Result;
use aya::maps::MapData;
use lb_common::abi::{
    ABI_VERSION,
    admission::Admission,
    plan::PlanEntry,
    service::{SERVICE_SPILLS, SERVICE_STEERED},
};
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Daemon, Lab},
};
use lb_userspace::dataplane::maps::MappedArray;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead, BufReader},
    mem::offset_of,
    os::fd::AsFd,
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Stdio},
};

/// Pinned maps that are no memory-mapped arrays of state: they can only be changed by bpf(2), which is counted.
const NOT_MAPPED: [&str; 7] =
    ["BLOCKED", "FLOWS", "FRAGMENTS", "INTERFACES", "NEXT", "OPENINGS", "QUIC_SERVERS"];
/// Changes with every packet, and is nobody's decision.
const COUNTERS: &str = "COUNTERS";
/// Name of the thread that stores.
const CONTROL_THREAD: &str = "weir-control";
/// Name of the thread that walks the flow table now and then, whatever operators do.
const WALKER_THREAD: &str = "weir-walker";
/// System calls by which threads sleep, wake each other, look at the clock and get memory of their own.
const HARMLESS: [&str; 13] = [
    "brk",
    "clock_gettime",
    "epoll_pwait",
    "epoll_wait",
    "futex",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "read",
    "restart_syscall",
    "timerfd_settime",
    "write",
];

/// Every 32-bit word of every memory-mapped map but the counters, by map.
type Words = BTreeMap<String, Vec<u32>>;

fn read_words(lab: &Lab) -> Words {
    let pins = lab.bpffs().join("edge-1").join(format!("v{ABI_VERSION}")).join("current");
    let mut all = Words::new();
    for entry in fs::read_dir(pins).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name != "program" && name != COUNTERS && !NOT_MAPPED.contains(&name.as_str()) {
            all.insert(name, read_map(&path));
        }
    }
    assert!(all.len() >= 8, "{:?}", all.keys());
    all
}

fn read_map(pin: &Path) -> Vec<u32> {
    let map = MapData::from_pin(pin).unwrap();
    let info = map.info().unwrap();
    // The kernel rounds elements of arrays up to 8 bytes.
    let words = info.value_size().next_multiple_of(8) / 4 * info.max_entries();
    let mapped = MappedArray::<Admission>::flat(map.fd().as_fd(), words as usize).unwrap();
    (0..mapped.len()).map(|index| mapped.load_u32(index, 0).unwrap()).collect()
}

/// The words that differ: map, index, before, after.
fn changed(before: &Words, after: &Words) -> Vec<(String, usize, u32, u32)> {
    assert!(before.keys().eq(after.keys()));
    let of_map = |(name, old): (&String, &Vec<u32>)| {
        let new = &after[name];
        assert_eq!(old.len(), new.len(), "{name}");
        let differ = |index: &usize| old[*index] != new[*index];
        let change = |index| (name.clone(), index, old[index], new[index]);
        (0..old.len()).filter(differ).map(change).collect::<Vec<_>>()
    };
    before.iter().flat_map(of_map).collect()
}

/// strace on all threads of a process.
struct Trace {
    strace: Child,
    /// Open until the end: strace also says there which threads it found later, and a closed pipe would end it.
    _said: BufReader<ChildStderr>,
    output: PathBuf,
}

impl Trace {
    fn attach(pid: i32, output: PathBuf) -> Trace {
        let mut strace = (Command::new("strace").args(["-f", "-p", &pid.to_string(), "-o"]).arg(&output))
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace: run `cargo xtask setup`");
        let (mut line, mut said) = (String::new(), BufReader::new(strace.stderr.take().unwrap()));
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "strace said: {line}");
        Trace { strace, _said: said, output }
    }

    /// Lets the process go on alone; returns each thread's system calls by name, in their order.
    fn detach(mut self) -> BTreeMap<i32, Vec<String>> {
        kill(Pid::from_raw(self.strace.id() as i32), Signal::SIGINT).unwrap();
        self.strace.wait().unwrap();
        let mut calls: BTreeMap<i32, Vec<String>> = BTreeMap::new();
        for line in fs::read_to_string(&self.output).unwrap().lines() {
            let (thread, rest) = line.trim().split_once(' ').unwrap();
            // The other lines are ends of calls that another thread's came between, signals and exits.
            if let Some((name, _)) = rest.trim_start().split_once('(')
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            {
                calls.entry(thread.parse().unwrap()).or_default().push(name.to_owned());
            }
        }
        calls
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        // Of a failed test only: `detach` has waited for it otherwise.
        let _ = self.strace.kill();
        let _ = self.strace.wait();
    }
}

fn thread_named(pid: i32, name: &str) -> Result<i32> {
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        if fs::read_to_string(entry.path().join("comm"))?.trim() == name {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("no thread is named {name}")
}

/// Whether a word is one that steering stores: a flag of a service, or the shares, the mask or the parts that leave of a plan.
fn is_steering((map, index, before, after): &(String, usize, u32, u32)) -> bool {
    match map.as_str() {
        "SERVICES" => (before ^ after) & !(SERVICE_SPILLS | SERVICE_STEERED) == 0,
        "PLANS" => {
            let at = index % (size_of::<PlanEntry>() / 4) * 4;
            at >= offset_of!(PlanEntry, shares) && at != offset_of!(PlanEntry, steps)
        }
        _ => false,
    }
}

/// Fails or restores something under a trace: one word, one store, no bpf(2).
fn assert_one_store(lab: &Lab, daemon: &Daemon<'_>, map: &str, command: [&str; 3]) {
    let [kind, verb, name] = command;
    let (words, stores) = (read_words(lab), e2e::status(daemon).control.stores);
    let trace = Trace::attach(daemon.pid(), lab.directory().join("strace.out"));
    let acted = e2e::act(daemon, kind, verb, name);
    let calls = trace.detach();
    let mut changed = changed(&words, &read_words(lab));
    // The walker gives the flow filter a new epoch, which stands in the root.
    changed.retain(|(map, ..)| map != "FLOW_FILTER" && map != "ROOT");
    // Steering follows with words of its own: how many of those flows the rest of a pool keeps whose home is shut now.
    changed.retain(|change| !is_steering(change));
    assert_eq!(changed.len(), 1, "{command:?}: {changed:?}");
    assert_eq!(changed[0].0, map, "{command:?}: {changed:?}");
    let word = Admission(changed[0].3);
    assert_eq!((word.new_share(), word.old_share()), acted.to.shares(), "{command:?}: {changed:?}");
    assert_eq!(e2e::status(daemon).control.stores, stores + 1, "{command:?}");

    let walker = thread_named(daemon.pid(), WALKER_THREAD).unwrap();
    let bpf = calls.iter().filter(|(thread, _)| **thread != walker);
    let bpf = bpf.flat_map(|(_, names)| names).filter(|name| *name == "bpf").count();
    assert_eq!(bpf, 0, "{command:?}: bpf(2) was called: {calls:?}");
    let control = &calls[&thread_named(daemon.pid(), CONTROL_THREAD).unwrap()];
    assert!(control.iter().any(|name| name == "read"), "the command went through: {control:?}");
    let others: Vec<_> = control.iter().filter(|name| !HARMLESS.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{command:?}: the control thread called {others:?}");
}

#[test]
fn dropping_and_restoring_any_domain_is_one_store_and_no_bpf_call() {
    let lab = e2e::raise();
    let daemon = e2e::start(&lab, &ConfigOptions { check: Check::None, ..e2e::calm() });

    // That a bpf(2) call would be seen: blocking a source prefix is one.
    let trace = Trace::attach(daemon.pid(), lab.directory().join("strace.out"));
    let block = ["emergency", "block", "203.0.113.0/24", "--for", "1h", "--reason", "to be seen"];
    assert!(daemon.cli(&block).unwrap().status.success());
    let calls = trace.detach();
    assert!(calls.values().flatten().any(|name| name == "bpf"), "{calls:?}");

    for verb in ["fail", "restore", "drain", "restore"] {
        for domain in ["west/w1/r1", "west/w1", "west"] {
            assert_one_store(&lab, &daemon, "ADMISSION", ["domain", verb, domain]);
        }
        assert_one_store(&lab, &daemon, "BACKENDS", ["backend", verb, "e1r1b1"]);
    }
}
