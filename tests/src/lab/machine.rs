//! A Debian root with systemd, booted in the namespace of an edge host: what runs there is a service of a real service manager.
use super::{Lab, process::Process, registry::ProcessId};
use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

/// How long it may take until systemd says that it is up.
const BOOT_TIMEOUT: Duration = Duration::from_secs(90);
/// Between two looks.
const STEP: Duration = Duration::from_millis(100);
/// systemd-nspawn in a mount namespace with one hierarchy of control groups, whatever this machine has, and a folder of the lab's bpffs in
/// place of the container's own. Everything is allowed: a service's own limits are what is looked at.
const BOOT: &str = "\
set -e
mount --make-rprivate /
umount --recursive --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec env SYSTEMD_SECCOMP=0 SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_API_VFS_WRITABLE=yes systemd-nspawn --quiet --directory=\"$1\" --boot --register=no --keep-unit \
    --machine=\"$3\" --capability=all --link-journal=no --console=pipe --bind=\"$2\":/sys/fs/bpf";

/// A booted root. Dropping it kills all that runs in it.
#[derive(Debug)]
pub struct Machine {
    process: Process,
    /// systemd, as the machine outside numbers it.
    leader: i32,
}

impl Lab {
    /// Boots a root in the namespace of the edge with this index, with `bpffs`, a folder on a bpffs, as its `/sys/fs/bpf`; waits until
    /// its systemd is up.
    ///
    /// # Errors
    /// No such edge, no systemd-nspawn, or a root that does not boot; the console is quoted.
    pub fn boot(&self, edge: usize, root: &Path, bpffs: &Path) -> Result<Machine> {
        fs::create_dir_all(bpffs).with_context(|| format!("cannot make {}", bpffs.display()))?;
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", BOOT, "sh"]).arg(root).arg(bpffs).arg(self.id());
        let process = Process::start(&self.entry, self.edge_netns(edge)?, "machine", &mut command)?;
        let deadline = Instant::now() + BOOT_TIMEOUT;
        let mut machine = Machine { process, leader: 0 };
        loop {
            if let Some(status) = machine.process.try_wait()? {
                bail!("the machine ended with {status}:\n{}", machine.process.log_tail());
            }
            if machine.leader == 0
                && let Some(leader) = init_below(machine.process.pid())
            {
                machine.leader = leader;
                // It would outlive systemd-nspawn, if that is killed.
                self.entry.record_process(ProcessId::of(leader)?)?;
            }
            if machine.leader != 0 {
                let said = machine.run(&["systemctl", "is-system-running"])?;
                // Degraded: some unit that a container has no use for did not start.
                if ["running", "degraded"].contains(&String::from_utf8_lossy(&said.stdout).trim()) {
                    return Ok(machine);
                }
            }
            if Instant::now() > deadline {
                bail!("the machine was not up within {BOOT_TIMEOUT:?}:\n{}", machine.process.log_tail());
            }
            thread::sleep(STEP);
        }
    }
}

/// The process of a pid namespace of its own that has number 1 there, among all below one.
fn init_below(pid: i32) -> Option<i32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().filter_map(|child| child.parse().ok()).find_map(|child| {
        let status = fs::read_to_string(format!("/proc/{child}/status")).ok()?;
        let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
        let numbers: Vec<&str> = numbers.split_whitespace().collect();
        if let [_, .., "1"] = numbers[..] { Some(child) } else { init_below(child) }
    })
}

impl Drop for Machine {
    fn drop(&mut self) {
        if self.leader != 0 {
            // With the first process of a pid namespace all others go. Gone already is as good.
            let _ = kill(Pid::from_raw(self.leader), Signal::SIGKILL);
        }
    }
}

impl Machine {
    /// Runs a command in it, as its root user.
    ///
    /// # Errors
    /// It cannot be run. That it fails is no error here: look at the status.
    pub fn run(&self, command: &[&str]) -> Result<Output> {
        let target = self.leader.to_string();
        Command::new("nsenter")
            .args(["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd"])
            .args([
                "env",
                "-i",
                "PATH=/usr/sbin:/usr/bin:/sbin:/bin",
                "LC_ALL=C",
                "DEBIAN_FRONTEND=noninteractive",
            ])
            .args(command)
            .output()
            .context("cannot run nsenter")
    }

    /// Runs a command in it that must succeed; what it prints, without blanks at the ends.
    ///
    /// # Errors
    /// It fails; what it says is quoted.
    pub fn done(&self, command: &[&str]) -> Result<String> {
        let output = self.run(command)?;
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            let error = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` ended with {}: {said}\n{error}", command.join(" "), output.status);
        }
        Ok(said)
    }

    /// Property `name` of a unit, as `systemctl show` has it.
    ///
    /// # Errors
    /// As [`Machine::done`].
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        self.done(&["systemctl", "show", "--property", name, "--value", unit])
    }

    /// The number that this machine's outside has for a process of it.
    ///
    /// # Errors
    /// There is none.
    pub fn outer_pid(&self, inner: &str) -> Result<i32> {
        let of_init = fs::read_link(format!("/proc/{}/ns/pid", self.leader))?;
        for entry in fs::read_dir("/proc")?.flatten() {
            let path: PathBuf = entry.path();
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let status = fs::read_to_string(path.join("status")).unwrap_or_default();
            let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap_or_default();
            if numbers.split_whitespace().next_back() == Some(inner)
                && fs::read_link(path.join("ns/pid")).is_ok_and(|ns| ns == of_init)
            {
                return Ok(pid);
            }
        }
        bail!("no process {inner} in the machine")
    }
}
