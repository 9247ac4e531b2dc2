//! Kernel, clock, limits.

use std::{fs, path::Path};

use super::Finding;
use crate::runtime::host;

/// The oldest kernel on which every test runs.
const OLDEST: (u32, u32) = include!("../../../../packaging/oldest-kernel.in");

pub(super) fn examine() -> Vec<Finding> {
    let mut findings = vec![kernel(), btf(), jit()];
    findings.push(match host::is_clock_synchronised() {
        Ok(true) => Finding::ok("host.clock", "clock", "is kept in step"),
        Ok(false) => Finding::warning(
            "host.clock",
            "clock",
            "nothing keeps it in step: events of several hosts do not compare",
        )
        .help("run a time service: apt install systemd-timesyncd or chrony"),
        Err(error) => Finding::note("host.clock", "clock", format!("cannot be asked: {error}"))
            .help("timedatectl shows whether it is kept in step"),
    });
    findings
}

fn kernel() -> Finding {
    of_release(read("/proc/sys/kernel/osrelease").unwrap_or_default())
}

fn of_release(release: String) -> Finding {
    match version(&release) {
        Some(version) if version >= OLDEST => Finding::ok("kernel.version", release, "is supported"),
        _ => Finding::warning("kernel.version", release, format!("is older than {}.{}", OLDEST.0, OLDEST.1))
            .help("take a newer kernel: the XDP program may be refused, and was not tried on this one"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn btf() -> Finding {
    if Path::new("/sys/kernel/btf/vmlinux").exists() {
        return Finding::ok("kernel.btf", "kernel", "has BTF");
    }
    Finding::warning("kernel.btf", "kernel", "has no BTF").help("take a kernel with CONFIG_DEBUG_INFO_BTF=y")
}

fn jit() -> Finding {
    match read("/proc/sys/net/core/bpf_jit_enable").as_deref() {
        Some("0") => Finding::error("kernel.jit", "kernel", "interprets BPF programs: several times slower")
            .help("sysctl -w net.core.bpf_jit_enable=1, and in /etc/sysctl.d for the next boot"),
        Some(_) => Finding::ok("kernel.jit", "kernel", "translates BPF programs"),
        // Only the first network namespace has it.
        None => Finding::note("kernel.jit", "kernel", "does not say here whether it translates BPF programs")
            .help("in the first network namespace: sysctl net.core.bpf_jit_enable; it has to be 1"),
    }
}

/// A file of /proc or /sys, without white space around it.
pub(super) fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert_eq!(version("6.12.48+deb13-amd64"), Some((6, 12)));
        assert_eq!(version("6.9-rc1"), Some((6, 9)));
        assert!(version("6.9.1").unwrap() < OLDEST && version("10.1").unwrap() > OLDEST);
        assert_eq!(version("unknown"), None);
        let is_ok = |release: &str| of_release(release.to_owned()).remedy.is_empty();
        assert_eq!(["6.12.0", "6.11.9", "7.0.1", "5.19", ""].map(is_ok), [true, false, true, false, false]);
    }
}
