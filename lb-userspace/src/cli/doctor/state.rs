//! Pins, lock, socket and files.

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use lb_common::abi::ABI_VERSION;
use nix::{
    fcntl::{Flock, FlockArg},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

use super::Finding;
use crate::{
    api::https::Credentials,
    config::{Config, Tls, effective},
    runtime::lock::LOCK_FILE,
};

/// From when on a certificate that ends is pointed out.
const SOON: jiff::SignedDuration = jiff::SignedDuration::from_hours(14 * 24);

pub(super) fn examine(config: &Config, path: &Path) -> Vec<Finding> {
    let node = &config.node;
    let mut findings = vec![bpffs(&node.bpffs)];
    findings.extend(pins(&node.bpffs));
    findings.extend(lock(&node.state_dir));
    findings.extend(mode("state.mode", &node.state_dir, 0o077, "is for root alone"));
    findings.push(socket(&node.socket));
    findings.extend(secrets(path));
    findings.extend(config.http.tls.iter().flat_map(certificate));
    findings
}

fn bpffs(path: &Path) -> Finding {
    let existing = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let is_bpf = statfs(existing).is_ok_and(|kind| kind.filesystem_type() == BPF_FS_MAGIC);
    if is_bpf {
        return Finding::ok("pins.bpffs", path.display().to_string(), "lies on a bpffs");
    }
    Finding::error("pins.bpffs", path.display().to_string(), "does not lie on a bpffs")
        .help("mount -t bpf bpf /sys/fs/bpf, and in /etc/fstab for the next boot")
}

/// Pins of other versions, and of a switch that was not finished.
fn pins(bpffs: &Path) -> Vec<Finding> {
    let own = format!("v{ABI_VERSION}");
    let mut findings = Vec::new();
    for entry in fs::read_dir(bpffs).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = entry.path();
        if name != own {
            findings.push(
                Finding::warning("pins.leftover", path.display().to_string(), format!("is not of this version, {own}"))
                    .help(
                        "the next start of the daemon takes its links over and removes it; if it is no pin of weir's, move it away",
                    ),
            );
            continue;
        }
        for half in ["next", "old"] {
            if path.join(half).exists() {
                findings.push(
                    Finding::note(
                        "pins.leftover",
                        path.join(half).display().to_string(),
                        "a switch is under way, or was cut short",
                    )
                    .help("the next start of the daemon settles it"),
                );
            }
        }
    }
    if findings.is_empty() {
        findings.push(Finding::ok("pins.leftover", bpffs.display().to_string(), "nothing is left over"));
    }
    findings
}

/// Whether a process holds the lock; that it also answers, the daemon itself shows.
fn lock(state_dir: &Path) -> Option<Finding> {
    let path = state_dir.join(LOCK_FILE);
    let file = fs::File::open(&path).ok()?;
    let subject = path.display().to_string();
    Some(match Flock::lock(file, FlockArg::LockSharedNonblock) {
        Ok(_) => Finding::note("state.lock", subject, "nobody holds it: no daemon runs")
            .help("systemctl start weir; forwarding goes on as it was told last"),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Finding::ok("state.lock", subject, "a daemon holds it"),
        Err((_, error)) => Finding::note("state.lock", subject, format!("cannot be looked at: {error}"))
            .help("run it as root: sudo weir doctor"),
    })
}

/// Whether a file or folder has none of these bits and is root's.
fn mode(check: &'static str, path: &Path, bits: u32, good: &str) -> Option<Finding> {
    let metadata = fs::metadata(path).ok()?;
    let subject = path.display().to_string();
    let mode = metadata.mode() & 0o7777;
    if metadata.uid() != 0 {
        return Some(
            Finding::warning(check, &subject, format!("belongs to user {}", metadata.uid()))
                .help(format!("chown root: {subject}; the daemon gave up reading what is not its own")),
        );
    }
    if mode & bits != 0 {
        return Some(
            Finding::warning(check, &subject, format!("has mode {mode:04o}"))
                .help(format!("chmod {:04o} {subject}", mode & !bits)),
        );
    }
    Some(Finding::ok(check, subject, good))
}

fn socket(path: &Path) -> Finding {
    let subject = path.display().to_string();
    match fs::symlink_metadata(path) {
        Err(_) => {
            Finding::note("socket", subject, "is not there: no daemon runs").help("systemctl start weir")
        }
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Finding::error("socket", subject, "is no socket").help("move it away, or set another node.socket")
        }
        Ok(metadata) if metadata.mode() & 0o002 != 0 => {
            Finding::error("socket", &subject, "everybody may steer the daemon by it")
                .help(format!("chmod o-w {subject}"))
        }
        Ok(_) => Finding::ok("socket", subject, "is not for everybody"),
    }
}

/// How long the API's certificate is good, and its revocation lists. That its files can be used, reading the configuration has shown.
fn certificate(tls: &Tls) -> Vec<Finding> {
    const CHECK: &str = "http.certificate";
    let subject = tls.certificate.display().to_string();
    let now = jiff::Timestamp::now();
    let renew = "have it renewed by its authority, then weir reload";
    let credentials = match Credentials::read(tls) {
        Err(error) => return vec![Finding::error(CHECK, subject, error.to_string()).help(error.remedy())],
        Ok(credentials) => credentials,
    };
    let own = match credentials.check_time(now) {
        Err(error) => Finding::error(CHECK, subject, error.to_string()).help(error.remedy()),
        Ok(()) if credentials.expires().duration_since(now) < SOON => {
            Finding::warning(CHECK, subject, format!("expires on {}", credentials.expires())).help(renew)
        }
        Ok(()) => Finding::ok(CHECK, subject, format!("is good until {}", credentials.expires())),
    };
    let lists = tls.clients.as_ref().and_then(|clients| clients.crl.as_ref());
    let revocations = lists.zip(credentials.next_revocations()).map(|(path, next)| {
        let subject = path.display().to_string();
        if next > now {
            return Finding::ok("http.revocations", subject, format!("is to be replaced by {next}"));
        }
        Finding::warning("http.revocations", subject, format!("was to be replaced by {next}")).help(
            "fetch the authority's present list, then weir reload: what was revoked since is still accepted",
        )
    });
    std::iter::once(own).chain(revocations).collect()
}

/// Whether others can read the key.
fn secrets(path: &Path) -> Vec<Finding> {
    let Ok(root) = effective::effective(path) else { return Vec::new() };
    let node = root.get("node").and_then(toml::Value::as_table);
    let text = |key: &str| node.and_then(|node| node.get(key)).and_then(toml::Value::as_str);
    let file = match (text("hash_key_file"), text("hash_key")) {
        (Some(file), _) => Path::new(file),
        (None, Some(_)) => path,
        (None, None) => return Vec::new(),
    };
    let bits = if file.is_dir() { 0o007 } else { 0o077 };
    mode("secrets.mode", file, bits, "the hash key is for root alone").into_iter().collect()
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
