//! A network of its own for a test: a network and a mount namespace for the test's thread, with veth pairs whose other ends
//! are in a second network namespace. Nothing of it outlives the test.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use lb_userspace::config::Config;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// How long something may take to come about.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// The test's network.
pub(crate) struct Namespace {
    /// Folder of a BPF file system of the test's own.
    pub(crate) bpffs: PathBuf,
    _folder: Folder,
    peer: Child,
}

/// Runs a test in a network of its own, on a thread of its own.
pub(crate) fn with_namespace(test: impl FnOnce(&Namespace) + Send) {
    assert!(
        nix::unistd::geteuid().is_root(),
        "this test makes network namespaces and loads BPF programs: run it as root"
    );
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let namespace = Namespace::new();
            test(&namespace);
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

impl Namespace {
    /// Moves the calling thread into namespaces of its own.
    fn new() -> Self {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).expect("unshare needs root");
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).expect("mounts become private");
        let folder = Folder::new();
        mount(Some("bpf"), &folder.0, Some("bpf"), MsFlags::empty(), none)
            .expect("a BPF file system is mounted");
        run("ip link set lo up");
        let peer = Command::new("unshare")
            .args(["--net", "sleep", "600"])
            .stdin(Stdio::null())
            .spawn()
            .expect("util-linux's unshare");
        let namespace = Self { bpffs: folder.0.join("weir"), _folder: folder, peer };
        let own = std::fs::read_link("/proc/thread-self/ns/net").expect("/proc is mounted");
        let path = format!("/proc/{}/ns/net", namespace.peer.id());
        eventually("the peer has its own network", || {
            std::fs::read_link(&path).is_ok_and(|peer| peer != own)
        });
        run_in_peer(&namespace, "ip link set lo up");
        namespace
    }

    /// Makes a veth pair: `near` here, `far` in the peer namespace, both up, with fixed Ethernet addresses 02:..:01 and
    /// 02:..:02 that have `number` in them.
    pub(crate) fn veth(&self, near: &str, far: &str, number: u8) {
        run(&format!(
            "ip link add {near} address 02:00:00:00:{number:02x}:01 mtu 1600 type veth peer name {far} address \
             02:00:00:00:{number:02x}:02 mtu 1600"
        ));
        run(&format!("ip link set {far} netns {}", self.peer.id()));
        run(&format!("ip link set {near} up"));
        self.run(&format!("ip link set {far} up"));
    }

    /// Runs a command in the peer namespace.
    pub(crate) fn run(&self, command: &str) {
        run_in_peer(self, command);
    }

    /// Does something in the peer namespace.
    pub(crate) fn in_peer<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        let file = std::fs::File::open(format!("/proc/{}/ns/net", self.peer.id())).expect("the peer lives");
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A small configuration: one rack at 10.1.0.0/24 with two backends, one at 10.2.0.0/24 and fd00:2::/64 with two, one
    /// service. `edit` changes its text.
    pub(crate) fn config(&self, edit: impl FnOnce(String) -> String) -> Config {
        let text = include_str!("weir.toml").replace("BPFFS", self.bpffs.to_str().expect("a plain path"));
        Config::parse(&edit(text), "weir.toml").unwrap_or_else(|error| panic!("{error}"))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.peer.kill();
        let _ = self.peer.wait();
    }
}

/// A temporary folder. The BPF file system on it goes with the thread's mount namespace.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let thread = nix::unistd::gettid();
        let path = std::env::temp_dir().join(format!("weir-test-{}-{thread}", std::process::id()));
        std::fs::create_dir(&path).expect("the temporary folder is writable");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = nix::mount::umount2(&self.0, nix::mount::MntFlags::MNT_DETACH);
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn run_in_peer(namespace: &Namespace, command: &str) {
    run(&format!("nsenter --net=/proc/{}/ns/net {command}", namespace.peer.id()));
}

/// Runs a command in the calling thread's namespaces.
pub(crate) fn run(command: &str) {
    let mut words = command.split_whitespace();
    let output = Command::new(words.next().expect("a command"))
        .args(words)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("`{command}`: {error}"));
    assert!(output.status.success(), "`{command}`: {}", String::from_utf8_lossy(&output.stderr));
}

/// Waits until something is so.
pub(crate) fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.expect("a readable folder").file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
