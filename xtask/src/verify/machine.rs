//! One boot of one kernel under QEMU's software emulation, and the report that the check in it writes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Child,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::Cmd;

/// The emulator.
pub(super) const QEMU: &str = "qemu-system-x86_64";
/// A machine that runs longer is stopped; they take one to two minutes each, boot included, on a machine at rest.
const LIMIT: Duration = Duration::from_secs(600);
/// As [`LIMIT`], for one that runs only when nobody else wants the CPU.
const IDLE_LIMIT: Duration = Duration::from_secs(1800);
/// Boots that are tried. Emulated kernels now and then crash before our program begins, above all on a busy host; what happens after
/// that counts, whatever it is.
const BOOTS: usize = 3;
/// Between two looks whether a machine is done.
const STEP: Duration = Duration::from_millis(50);
/// Memory of a machine.
const MEMORY: &str = "1024M";
/// What the kernel is told: messages to the first serial port and few of them, and an end instead of a halt after a panic.
const COMMAND_LINE: &str = "console=ttyS0 quiet panic=-1";
/// Lines of the console that are shown when a machine ended without a whole report.
const CONSOLE_LINES: usize = 15;

/// How a machine gets on beside other work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As anything else.
    Full,
    /// When nobody else wants the CPU.
    Idle,
}

/// Boots a kernel with a file system and returns the lines of the report. If it ended before our program wrote the first line,
/// it is booted again.
pub(super) fn boot(kernel: &Path, initramfs: &Path, dir: &Path, pace: Pace) -> Result<Vec<Value>> {
    for number in 1..BOOTS {
        match boot_once(kernel, initramfs, dir, pace)? {
            Booted::Report(lines) => return Ok(lines),
            Booted::Crash(console) => {
                eprintln!("boot {number} of at most {BOOTS} ended before our program began:\n{console}");
            }
        }
    }
    match boot_once(kernel, initramfs, dir, pace)? {
        Booted::Report(lines) => Ok(lines),
        Booted::Crash(console) => {
            bail!("{BOOTS} boots ended before our program began; the last of the console:\n{console}")
        }
    }
}

/// How a boot went.
enum Booted {
    /// The report is whole.
    Report(Vec<Value>),
    /// The kernel crashed before our program began; the last of its console.
    Crash(String),
}

fn boot_once(kernel: &Path, initramfs: &Path, dir: &Path, pace: Pace) -> Result<Booted> {
    let [console, report] = ["console", "report"].map(|name| dir.join(name));
    for file in [&console, &report] {
        fs::write(file, "").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let serial = |file: &PathBuf| format!("file:{}", file.display());
    let qemu = Cmd::new(QEMU)
        .args(["-accel", "tcg", "-cpu", "max", "-m", MEMORY, "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", &serial(&console), "-serial", &serial(&report)])
        .args(["-append", COMMAND_LINE])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs);
    let (qemu, limit) = match pace {
        Pace::Full => (qemu, LIMIT),
        Pace::Idle => (qemu.idle(), IDLE_LIMIT),
    };
    let mut child = qemu.spawn_piped()?;
    let ended = wait(&mut child, limit)?;
    let text = fs::read(&report).with_context(|| format!("cannot read {}", report.display()))?;
    let lines = read_report(&String::from_utf8_lossy(&text));
    if ended && lines.is_empty() {
        return Ok(Booted::Crash(tail(&console)));
    }
    let is_whole = lines.last().is_some_and(|line| line["line"] == "end");
    if !is_whole {
        let how = if ended { "ended" } else { "was stopped, as it ran for too long," };
        bail!("the machine {how} before its report did; the last of its console:\n{}", tail(&console));
    }
    Ok(Booted::Report(lines))
}

/// Waits for the machine to end; `false` if it had to be stopped.
fn wait(child: &mut Child, limit: Duration) -> Result<bool> {
    let begin = Instant::now();
    while begin.elapsed() < limit {
        if child.try_wait().context("cannot wait for qemu")?.is_some() {
            return Ok(true);
        }
        std::thread::sleep(STEP);
    }
    child.kill().context("cannot stop qemu")?;
    child.wait().context("cannot wait for qemu")?;
    Ok(false)
}

/// The JSON objects in a report. A terminal may have put other characters around them.
pub(super) fn read_report(text: &str) -> Vec<Value> {
    let object = |line: &str| serde_json::from_str(line.get(line.find('{')?..)?.trim_end()).ok();
    text.lines().filter_map(object).collect()
}

fn tail(console: &Path) -> String {
    let text = fs::read(console).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(CONSOLE_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_objects_of_a_report_and_nothing_else() {
        let lines = read_report("\u{1b}[2J{\"line\":\"kernel\"}\r\nnoise\r\n{\"line\":\"end\"}\r\n{\"cut");
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[1]["line"], "end");
    }
}
