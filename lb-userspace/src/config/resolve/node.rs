//! `[node]`: this edge host.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use lb_common::abi::limits::DEFAULT_ANSWERS_PER_SECOND;

use super::check_kinds;
use super::checks::{choice, parse_duration};
use super::names::check_name;
use super::plans::percent;
use super::{clients, protection, relay, topology};
use crate::config::domains::{Level, Topology};
use crate::config::fields::{At, Text, Texts};
use crate::config::ids::DomainId;
use crate::config::key;
use crate::config::limits::{
    DEFAULT_FLOW_IDLE, DEFAULT_TRANSITION, MAX_ANSWERS, MAX_FLOW_ENTRIES, MAX_FLOW_IDLE,
    MAX_INTERFACE_NAME_BYTES, MAX_INTERFACES, MAX_SOCKET_PATH_BYTES, MAX_TRANSITION, MIN_ANSWERS,
    MIN_FLOW_ENTRIES, MIN_FLOW_IDLE, MIN_TRANSITION,
};
use crate::config::model::{Announcement, HashKey, Node, XdpMode};
use crate::config::prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix};
use crate::config::raw::RawNode;
use crate::config::report::{Finding, Report, quote};

const DEFAULT_STATE_DIR: &str = "/var/lib/weir";
const DEFAULT_SOCKET: &str = "/run/weir/weir.sock";
const DEFAULT_BPFFS: &str = "/sys/fs/bpf/weir";
/// Shortest tunnel source prefixes: shorter ones would claim much of the address space.
const MIN_TUNNEL_LENGTH_V4: u8 = 8;
const MIN_TUNNEL_LENGTH_V6: u8 = 32;

/// Resolves the node.
pub(super) fn resolve(raw: &RawNode<'_>, topology: &Topology, report: &mut Report) -> Option<Node> {
    if let Some(name) = &raw.name {
        check_name("node", name.value, &name.span, report);
    }
    let region = raw
        .region
        .as_ref()
        .and_then(|text| topology::refer(topology, "[node]", text, Some(Level::Region), report));
    // Each line reports its own problems, so all of them run before any gives up.
    let zone = resolve_zone(raw, region, topology, report);
    let interfaces = raw.interfaces.as_ref().and_then(|texts| resolve_interfaces(texts, report));
    let modes = [("native", XdpMode::Native), ("generic", XdpMode::Generic)];
    let mode = match &raw.mode {
        None => Some(XdpMode::Native),
        Some(text) => choice("mode of [node]", text, &modes, report),
    };
    let hash_key = resolve_key(raw, report);
    let tunnel_source_v4 = tunnel_v4(raw.tunnel_source_v4.as_ref(), report);
    let tunnel_source_v6 = tunnel_v6(raw.tunnel_source_v6.as_ref(), report);
    let state_dir = path("state_dir", raw.state_dir.as_ref(), DEFAULT_STATE_DIR, report);
    let socket = path("socket", raw.socket.as_ref(), DEFAULT_SOCKET, report);
    let bpffs = path("bpffs", raw.bpffs.as_ref(), DEFAULT_BPFFS, report);
    let max_new_flows = protection::node_limit(raw.max_new_flows.as_ref(), report);
    let transition = long_duration("transition", raw.transition.as_ref(), TRANSITION, report);
    let flow_idle = long_duration("flow_idle", raw.flow_idle.as_ref(), FLOW_IDLE, report);
    let flow_entries = entries("flow_entries", raw.flow_entries.as_ref(), report);
    let opening_entries = entries("opening_entries", raw.opening_entries.as_ref(), report);
    let answers_per_second = answers(raw.answers_per_second.as_ref(), report);
    let relay = relay::resolve_node(raw, report);
    if raw.client_prefixes_file.is_some() {
        path("client_prefixes_file", raw.client_prefixes_file.as_ref(), "", report)?;
    }
    if let Some(text) = raw.socket.as_ref().filter(|text| text.value.len() > MAX_SOCKET_PATH_BYTES) {
        report.add(|| {
            Finding::new(&text.span, format!("the path of the socket is {} bytes long", text.value.len()))
                .help(format!("unix sockets allow {MAX_SOCKET_PATH_BYTES}; choose a shorter one"))
        });
    }
    let panic_threshold = percent("panic_threshold", raw.panic_threshold.as_ref(), 0..=100, 50, report);
    let target_utilisation =
        percent("target_utilisation", raw.target_utilisation.as_ref(), 1..=100, 80, report);
    let announcement = announcement(raw, report);
    let max_ejected = percent("max_ejected", raw.max_ejected.as_ref(), 0..=100, 100, report);
    Some(Node {
        name: raw.name.as_ref()?.value.to_owned(),
        region: region?,
        zone: zone?,
        interfaces: interfaces?,
        mode: mode?,
        hash_key: hash_key?,
        tunnel_source_v4: tunnel_source_v4?,
        tunnel_source_v6: tunnel_source_v6?,
        state_dir: state_dir?,
        socket: socket?,
        bpffs: bpffs?,
        max_new_flows: max_new_flows?,
        transition: transition?,
        flow_idle: flow_idle?,
        flow_entries: flow_entries?,
        opening_entries: opening_entries?,
        panic_threshold: panic_threshold?,
        target_utilisation: target_utilisation?,
        max_ejected: max_ejected?,
        announcement: announcement?,
        answers_per_second: answers_per_second?,
        relay: relay?,
    })
}

/// Both commands, or neither: `Some(None)`.
fn announcement(raw: &RawNode<'_>, report: &mut Report) -> Option<Option<Announcement>> {
    let (withdraw, announce) = match (&raw.withdraw_command, &raw.announce_command) {
        (None, None) => return Some(None),
        (Some(withdraw), Some(announce)) => (withdraw, announce),
        (Some(one), None) | (None, Some(one)) => {
            report.add(|| {
                let remedy = "give both: what withdraws the routes, and what brings them back, such as \
                              [\"/usr/sbin/birdc\", \"enable\", \"vips\"]";
                Finding::new(&one.span, "withdraw_command and announce_command go together").help(remedy)
            });
            return None;
        }
    };
    let withdraw = check_kinds::program("withdraw_command", "[node]", withdraw, report);
    let announce = check_kinds::program("announce_command", "[node]", announce, report);
    Some(Some(Announcement { withdraw: withdraw?, announce: announce? }))
}

/// The zone, which may be absent: `Some(None)`.
fn resolve_zone(
    raw: &RawNode<'_>,
    region: Option<DomainId>,
    topology: &Topology,
    report: &mut Report,
) -> Option<Option<DomainId>> {
    let Some(text) = &raw.zone else { return Some(None) };
    let zone = topology::refer(topology, "[node]", text, Some(Level::Zone), report)?;
    if let (Some(region), Some(region_text)) = (region, &raw.region)
        && !topology.is_within(zone, region)
    {
        report.add(|| {
            Finding::new(&text.span, format!("zone {} of [node] lies outside its region", quote(text.value)))
                .and(&region_text.span, "the node's region")
                .help("the host stands in one place: correct the region or the zone")
        });
        return None;
    }
    Some(Some(zone))
}

fn resolve_interfaces(texts: &Texts<'_>, report: &mut Report) -> Option<Vec<String>> {
    let count = texts.value.len();
    if count == 0 || count > MAX_INTERFACES {
        report.add(|| {
            Finding::new(&texts.span, format!("[node] has {count} interfaces"))
                .help(format!("name 1 to {MAX_INTERFACES} (MAX_INTERFACES)"))
        });
        return None;
    }
    let mut good = true;
    for (position, text) in texts.value.iter().enumerate() {
        if !is_interface_name(text.value) {
            good = false;
            report.add(|| {
                Finding::new(
                    &text.span,
                    format!("{} is no name for an interface", quote(text.value)),
                )
                .help(format!(
                    "names have 1 to {MAX_INTERFACE_NAME_BYTES} bytes without white space, \"/\" and \":\"; \
                     `ip link` lists them"
                ))
            });
        }
        if let Some(first) = texts.value[..position].iter().find(|known| known.value == text.value) {
            good = false;
            report.add(|| {
                Finding::new(&text.span, format!("interface {} is listed twice", quote(text.value)))
                    .and(&first.span, "first listed here")
                    .help("remove one")
            });
        }
    }
    good.then(|| texts.value.iter().map(|text| text.value.to_owned()).collect())
}

/// What the kernel takes (`dev_valid_name`), without what no driver or script gives.
fn is_interface_name(name: &str) -> bool {
    let length_fits = (1..=MAX_INTERFACE_NAME_BYTES).contains(&name.len());
    length_fits
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && b != b'/' && b != b':')
}

fn resolve_key(raw: &RawNode<'_>, report: &mut Report) -> Option<HashKey> {
    match (&raw.hash_key, &raw.hash_key_file) {
        (Some(text), None) => {
            let key = key::parse(text.value);
            key.map_err(|problem| {
                report.add(|| Finding::new(&text.span, format!("hash_key {problem}")).help(key::REMEDY));
            })
            .ok()
        }
        (None, Some(text)) => {
            let path = path("hash_key_file", Some(text), "", report)?;
            key::read(&path)
                .map_err(|error| {
                    report.add(|| {
                        let message = format!("hash_key_file {} {}", quote(text.value), error.message);
                        Finding::new(&text.span, message).help(error.remedy)
                    });
                })
                .ok()
        }
        (Some(key), Some(file)) => {
            report.add(|| {
                Finding::new(&file.span, "[node] has both hash_key and hash_key_file")
                    .and(&key.span, "the other one")
                    .help("keep one: the file, if others may read this one")
            });
            None
        }
        (None, None) if raw.mistyped => None,
        (None, None) => {
            report.add(|| {
                Finding::new(&raw.span, "[node] has no \"hash_key\"").help(
                    "add hash_key = \"...\" or hash_key_file = \"/etc/weir/hash.key\": 64 hexadecimal digits, secret \
                     and the same on all hosts; `openssl rand -hex 32` makes one",
                )
            });
            None
        }
    }
}

fn tunnel_v4(text: Option<&Text<'_>>, report: &mut Report) -> Option<Ipv4Prefix> {
    let Some(text) = text else {
        return Some(Ipv4Prefix::UNSPECIFIED);
    };
    match clients::parse(text, "tunnel_source_v4", report)? {
        IpPrefix::V4(prefix) => {
            let address = prefix.address();
            let unusable = address.is_multicast() || address.is_loopback() || address.is_unspecified();
            tunnel_fits(text, prefix.length(), MIN_TUNNEL_LENGTH_V4, unusable, report).then_some(prefix)
        }
        IpPrefix::V6(_) => {
            wrong_family(text, "tunnel_source_v4", "IPv4", report);
            None
        }
    }
}

fn tunnel_v6(text: Option<&Text<'_>>, report: &mut Report) -> Option<Ipv6Prefix> {
    let Some(text) = text else {
        return Some(Ipv6Prefix::UNSPECIFIED);
    };
    match clients::parse(text, "tunnel_source_v6", report)? {
        IpPrefix::V6(prefix) => {
            let address = prefix.address();
            let unusable = address.is_multicast() || address.is_loopback() || address.is_unspecified();
            tunnel_fits(text, prefix.length(), MIN_TUNNEL_LENGTH_V6, unusable, report).then_some(prefix)
        }
        IpPrefix::V4(_) => {
            wrong_family(text, "tunnel_source_v6", "IPv6", report);
            None
        }
    }
}

fn wrong_family(text: &Text<'_>, key: &str, family: &str, report: &mut Report) {
    report.add(|| {
        Finding::new(&text.span, format!("{key} {} is no {family} prefix", quote(text.value)))
            .help("tunnel_source_v4 takes IPv4, tunnel_source_v6 takes IPv6")
    });
}

fn tunnel_fits(text: &Text<'_>, length: u8, shortest: u8, unusable: bool, report: &mut Report) -> bool {
    if length < shortest {
        report.add(|| {
            Finding::new(&text.span, format!("tunnel source {} is too large", quote(text.value)))
                .help(format!("the length must be at least /{shortest}"))
        });
    } else if unusable {
        report.add(|| {
            Finding::new(&text.span, format!("no host can send from {}", quote(text.value)))
                .help("choose a private prefix without hosts, such as \"10.255.0.0/16\" or \"fd00:ff::/64\"")
        });
    }
    length >= shortest && !unusable
}

/// A duration of `[node]`: default, shortest, longest.
type Bounds = (Duration, Duration, Duration);
const TRANSITION: Bounds = (DEFAULT_TRANSITION, MIN_TRANSITION, MAX_TRANSITION);
const FLOW_IDLE: Bounds = (DEFAULT_FLOW_IDLE, MIN_FLOW_IDLE, MAX_FLOW_IDLE);

fn long_duration(
    key: &str,
    text: Option<&Text<'_>>,
    (default, shortest, longest): Bounds,
    report: &mut Report,
) -> Option<Duration> {
    let Some(text) = text else { return Some(default) };
    let help = || {
        format!(
            "write a whole number and a unit (ms, s, m or h) from {shortest:?} to {longest:?}, such as \"5m\" or \"24h\""
        )
    };
    let duration = parse_duration(text.value);
    if duration.is_none() {
        report.add(|| {
            Finding::new(&text.span, format!("{key} {} of [node] is no duration", quote(text.value)))
                .help(help())
        });
    }
    let duration = duration?;
    if duration < shortest || duration > longest {
        report.add(|| {
            Finding::new(&text.span, format!("{key} {} of [node] is out of range", quote(text.value)))
                .help(help())
        });
        return None;
    }
    Some(duration)
}

/// Entries of a table of flows; `Some(None)` where the file leaves them to the host.
fn entries(key: &str, given: Option<&At<i64>>, report: &mut Report) -> Option<Option<u32>> {
    let Some(given) = given else { return Some(None) };
    let help = || {
        format!(
            "it goes from {MIN_FLOW_ENTRIES} to {MAX_FLOW_ENTRIES}; `weir check` shows what it takes in memory"
        )
    };
    in_range(key, given, MIN_FLOW_ENTRIES..=MAX_FLOW_ENTRIES, help, report).map(Some)
}

/// How many answers a CPU gives in a second.
fn answers(given: Option<&At<i64>>, report: &mut Report) -> Option<u32> {
    let Some(given) = given else { return Some(DEFAULT_ANSWERS_PER_SECOND) };
    let help = || {
        format!(
            "it goes from {MIN_ANSWERS} to {MAX_ANSWERS}: pings and packets that are too big, answered in a second on each CPU"
        )
    };
    in_range("answers_per_second", given, MIN_ANSWERS..=MAX_ANSWERS, help, report)
}

fn in_range(
    key: &str,
    given: &At<i64>,
    range: RangeInclusive<u32>,
    help: impl FnOnce() -> String,
    report: &mut Report,
) -> Option<u32> {
    let count = u32::try_from(given.value).ok().filter(|count| range.contains(count));
    if count.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} of [node] is out of range", given.value))
                .help(help())
        });
    }
    count
}

/// An absolute path.
pub(super) fn path(
    key: &str,
    text: Option<&Text<'_>>,
    default: &str,
    report: &mut Report,
) -> Option<PathBuf> {
    let Some(text) = text else {
        return Some(PathBuf::from(default));
    };
    if !text.value.starts_with('/') || text.value.contains('\0') {
        report.add(|| {
            Finding::new(&text.span, format!("{key} {} is no absolute path", quote(text.value)))
                .help("begin it with \"/\": the daemon's working directory is not yours")
        });
        return None;
    }
    Some(PathBuf::from(text.value))
}
