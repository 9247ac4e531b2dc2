//! `weir support-bundle`: what somebody needs who is asked for help, in one file without secrets.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::Context as _;
use aya::maps::MapInfo;
use clap::Args;
use flate2::{Compression, write::GzEncoder};
use serde_json::{Value, json};

use super::{
    DEFAULT_CONFIG,
    client::Client,
    doctor::{self, DoctorArgs},
    output::Output,
};
use crate::{
    api::limits::MAX_EVENTS,
    config::{Config, effective},
};

const EXAMPLES: &str = "\
Examples:
  weir support-bundle
  weir support-bundle /tmp/weir.tar.gz

Gathers status, events, the configuration without its hash key, what `weir doctor` finds, sizes of maps, links, routes, neighbours,
log lines about Weir and BPF, and versions. It holds names and addresses of your network, but no key. Works without a daemon, too;
what could not be had is listed in missing.txt.";
/// Bytes of one member; more is cut off at the front, as the end of a log is what one looks for.
const MAX_MEMBER_BYTES: usize = 8 << 20;
/// Lines of the journal.
const JOURNAL_LINES: &str = "2000";
/// Maps that are listed.
const MAX_MAPS: usize = 1_000;

/// Arguments of `weir support-bundle`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct BundleArgs {
    /// The file to write, a gzipped tar; in this folder, named after host and time, if it is not said
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The configuration: a file, or a folder of *.toml
    #[arg(long, env = "WEIR_CONFIG", default_value = DEFAULT_CONFIG, value_name = "PATH")]
    pub config: PathBuf,
}

/// What was gathered.
struct Bundle {
    members: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
    /// What must not be in it.
    secrets: Vec<String>,
}

impl Bundle {
    fn add(&mut self, name: &str, content: anyhow::Result<Vec<u8>>) {
        match content {
            Ok(content) => {
                let content =
                    self.without_secrets(&content[content.len().saturating_sub(MAX_MEMBER_BYTES)..]);
                self.members.push((name.to_owned(), content));
            }
            Err(error) => self.missing.push(format!("{name}: {error:#}")),
        }
    }

    /// Nothing that is gathered has the key; that nothing ever will is made sure here.
    fn without_secrets(&self, content: &[u8]) -> Vec<u8> {
        let mut text = String::from_utf8_lossy(content).into_owned();
        for secret in &self.secrets {
            text = text.replace(secret, effective::REDACTED);
        }
        text.into_bytes()
    }

    fn write(self, folder: &str, to: impl Write) -> io::Result<()> {
        let mut archive = tar::Builder::new(GzEncoder::new(to, Compression::default()));
        let missing = self.missing.join("\n") + "\n";
        let last = (!self.missing.is_empty()).then(|| ("missing.txt".to_owned(), missing.into_bytes()));
        let now = u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or(0);
        for (name, content) in self.members.into_iter().chain(last) {
            let mut header = tar::Header::new_gnu();
            header.set_size(content.len() as u64);
            header.set_mode(0o600);
            header.set_mtime(now);
            header.set_cksum();
            archive.append_data(&mut header, format!("{folder}/{name}"), &*content)?;
        }
        archive.into_inner()?.finish()?.flush()
    }
}

pub(super) fn run(args: &BundleArgs, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    let host = nix::sys::utsname::uname()
        .map_or_else(|_| "host".to_owned(), |u| u.nodename().to_string_lossy().into_owned());
    let folder = format!("weir-{host}-{}", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let path = args.file.clone().unwrap_or_else(|| format!("{folder}.tar.gz").into());
    // Before the work, so that a file that cannot be written is told at once.
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    let bundle = gather(args, client)?;
    let (members, missing) = (bundle.members.len(), bundle.missing.clone());
    bundle.write(&folder, file).with_context(|| format!("cannot write {}", path.display()))?;
    if out.is_data() {
        return Ok(
            out.json(&serde_json::to_vec(&json!({ "file": path, "members": members, "missing": missing }))?)?
        );
    }
    out.line(format_args!("{}: {members} files", path.display()))?;
    for missing in missing {
        out.line(format_args!("missing: {missing}"))?;
    }
    Ok(())
}

fn gather(args: &BundleArgs, client: &Client) -> anyhow::Result<Bundle> {
    let config = Config::load(&args.config);
    let key = config.as_ref().ok().map(|config| config.node.hash_key);
    let hex: String = key.iter().flat_map(|key| key.as_bytes()).map(|byte| format!("{byte:02x}")).collect();
    let secrets = if hex.is_empty() { Vec::new() } else { vec![hex.to_uppercase(), hex] };
    let mut bundle = Bundle { members: Vec::new(), missing: Vec::new(), secrets };
    bundle.add("versions.txt", Ok(versions().into_bytes()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let events = format!("/v1/events?limit={MAX_EVENTS}");
    for (name, path) in [
        ("status", "/v1/status"),
        ("events", &events),
        ("services", "/v1/services"),
        ("backends", "/v1/backends"),
        ("domains", "/v1/domains"),
        ("shifts", "/v1/shifts"),
        ("bfd", "/v1/bfd"),
        ("guards", "/v1/guards"),
        ("emergency", "/v1/emergency"),
        ("plans", "/v1/plans"),
        ("canaries", "/v1/canaries"),
        ("log", "/v1/log"),
    ] {
        let answer = runtime.block_on(client.get(path));
        bundle.add(&format!("{name}.json"), answer.map(|answer| answer.json.to_vec()).map_err(Into::into));
    }
    for (name, text) in configuration(&args.config) {
        bundle.add(&name, text);
    }
    let doctor = DoctorArgs { config: args.config.clone(), all: true };
    let findings = doctor::examine(&doctor, client);
    bundle.add("doctor.json", findings.and_then(|findings| Ok(serde_json::to_vec_pretty(&findings)?)));
    if let Ok(config) = &config {
        bundle.add(
            "maps.json",
            maps(&config.node.bpffs).and_then(|maps| Ok(serde_json::to_vec_pretty(&maps)?)),
        );
    }
    let interfaces = config.map(|config| config.node.interfaces).unwrap_or_default();
    programs(&mut bundle, &interfaces);
    Ok(bundle)
}

fn versions() -> String {
    let uname = nix::sys::utsname::uname();
    let kernel = uname
        .map_or_else(|_| "?".to_owned(), |u| format!("{} {}", u.release().display(), u.version().display()));
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    format!(
        "weir {}\nabi {}\nkernel {kernel}\n{system}",
        env!("CARGO_PKG_VERSION"),
        lb_common::abi::ABI_VERSION
    )
}

/// The files as they are written, and what they come to, without the key.
fn configuration(path: &Path) -> Vec<(String, anyhow::Result<Vec<u8>>)> {
    let filled = effective::effective(path).map_err(anyhow::Error::from).and_then(|mut root| {
        effective::redact(&mut root);
        Ok(toml::to_string(&root)?.into_bytes())
    });
    let mut members = vec![("config/effective.toml".to_owned(), filled)];
    match effective::redacted(path) {
        Ok(files) => members.extend(files.into_iter().map(|(name, text)| {
            let name =
                Path::new(&name).file_name().map_or_else(|| "file".into(), |name| name.to_string_lossy());
            (format!("config/{name}"), Ok(text.into_bytes()))
        })),
        // What is wrong says where; the file itself may have a key that cannot be found.
        Err(error) => members.push(("config/errors.txt".to_owned(), Ok(error.to_string().into_bytes()))),
    }
    members
}

/// Every pinned map with its size.
fn maps(bpffs: &Path) -> anyhow::Result<Vec<Value>> {
    let mut folders = vec![bpffs.to_owned()];
    let mut maps = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries =
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            } else if let Ok(info) = MapInfo::from_pin(&path)
                && maps.len() < MAX_MAPS
            {
                maps.push(json!({
                    "pin": path,
                    "kind": info.map_type().map_or_else(|_| "?".to_owned(), |kind| format!("{kind:?}")),
                    "key_bytes": info.key_size(),
                    "value_bytes": info.value_size(),
                    "entries": info.max_entries(),
                }));
            }
        }
    }
    Ok(maps)
}

/// What other programs of the host say.
fn programs(bundle: &mut Bundle, interfaces: &[String]) {
    for (name, line) in [
        ("links.txt", &["ip", "-d", "link"][..]),
        ("addresses.txt", &["ip", "address"]),
        ("rules.txt", &["ip", "rule"]),
        ("routes.txt", &["ip", "route", "show", "table", "all"]),
        ("neighbours.txt", &["ip", "neighbour"]),
        ("journal.txt", &["journalctl", "--no-pager", "-u", "weir", "-n", JOURNAL_LINES]),
    ] {
        bundle.add(name, output(line));
    }
    let ours = output(&["dmesg"]).map(|log| {
        let log = String::from_utf8_lossy(&log).into_owned();
        let is_ours = |line: &&str| {
            let lower = line.to_lowercase();
            ["weir", "xdp", "bpf"].iter().any(|word| lower.contains(word))
                || interfaces.iter().any(|name| line.contains(&format!("{name}:")))
        };
        log.lines().filter(is_ours).map(|line| format!("{line}\n")).collect::<String>().into_bytes()
    });
    bundle.add("kernel.txt", ours);
}

fn output(line: &[&str]) -> anyhow::Result<Vec<u8>> {
    let [program, arguments @ ..] = line else { anyhow::bail!("no program") };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("cannot run {program}"))?;
    if !output.status.success() {
        anyhow::bail!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}
