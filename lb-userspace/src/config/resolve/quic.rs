//! `[service.quic]`, and the server ids of backends.

use std::collections::HashMap;

use super::names::called;
use super::sets::Sets;
use crate::config::fields::{At, Text};
use crate::config::forwarding::{Quic, QuicConfig};
use crate::config::limits::{MAX_QUIC_CONFIG_ID, MAX_QUIC_SERVER_ID_BYTES};
use crate::config::model::{Protocol, Service};
use crate::config::raw::{RawBackend, RawQuic, RawService};
use crate::config::report::{Finding, Report, Span, quote};

/// The QUIC part of a service: `Some(None)` where there is none.
pub(super) fn resolve(
    who: &str,
    raw: &RawService<'_>,
    protocol: Option<Protocol>,
    report: &mut Report,
) -> Option<Option<Quic>> {
    let Some(quic) = &raw.quic else {
        return Some(None);
    };
    if protocol.is_some_and(|protocol| protocol != Protocol::Udp) {
        report.add(|| {
            Finding::new(&quic.span, format!("{who} has [service.quic], but QUIC runs over UDP"))
                .help("write protocol = \"udp\", or remove [service.quic]")
        });
        return None;
    }
    let current = config(who, quic, report);
    let rotation = quic.rotation.as_deref().map(|rotation| config(who, rotation, report));
    if let (Some(Some(first)), Some(Some(second))) = (Some(current), rotation)
        && first.id == second.id
        && let Some(other) = &quic.rotation
    {
        report.add(|| {
            Finding::new(
                &other.span,
                format!("both QUIC configurations of {who} have config_id {}", first.id),
            )
            .and(&quic.span, "the other one")
            .help("give them different ids: the id is how a connection id tells which one it follows")
        });
        return None;
    }
    let rotation = match rotation {
        None => None,
        Some(config) => Some(config?),
    };
    Some(Some(Quic { current: current?, rotation }))
}

fn config(who: &str, raw: &RawQuic, report: &mut Report) -> Option<QuicConfig> {
    let id = in_range(who, "config_id", raw.config_id.as_ref(), 0, MAX_QUIC_CONFIG_ID, report);
    let length = raw.server_id_length.as_ref();
    let length = in_range(who, "server_id_length", length, 1, MAX_QUIC_SERVER_ID_BYTES as u8, report);
    Some(QuicConfig { id: id?, server_id_length: length? })
}

fn in_range(
    who: &str,
    key: &str,
    given: Option<&At<i64>>,
    least: u8,
    most: u8,
    report: &mut Report,
) -> Option<u8> {
    let given = given?;
    let value = u8::try_from(given.value).ok().filter(|value| (least..=most).contains(value));
    if value.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} of {who} is out of range", given.value))
                .help(format!("it goes from {least} to {most}"))
        });
    }
    value
}

/// A backend's server ids as read, with the places for messages.
pub(super) struct ServerIds {
    /// How messages call the backend.
    who: String,
    current: Option<Vec<u8>>,
    rotation: Option<Vec<u8>>,
    /// Where the ids stand; the backend's name where they do not. `None` when neither does.
    current_span: Option<Span>,
    rotation_span: Option<Span>,
    /// Whether an id was given that cannot be read.
    bad: bool,
}

/// Reads the server ids of a backend.
pub(super) fn server_ids(raw: &RawBackend<'_>, report: &mut Report) -> ServerIds {
    let who = called("backend", raw.name.as_ref());
    let name = raw.name.as_ref().map(|name| name.span.clone());
    let current = raw.quic_server_id.as_ref().map(|text| parse(&who, "quic_server_id", text, report));
    let rotation = raw.quic_rotation_id.as_ref().map(|text| parse(&who, "quic_rotation_id", text, report));
    let span = |text: &Option<Text<'_>>| text.as_ref().map(|text| text.span.clone()).or_else(|| name.clone());
    ServerIds {
        who,
        bad: matches!(current, Some(None)) || matches!(rotation, Some(None)),
        current: current.flatten(),
        rotation: rotation.flatten(),
        current_span: span(&raw.quic_server_id),
        rotation_span: span(&raw.quic_rotation_id),
    }
}

impl ServerIds {
    /// The id of the configuration in use.
    pub(super) fn current(&self) -> Option<Vec<u8>> {
        self.current.clone()
    }

    /// The id of the other configuration: that of the one in use where none is given.
    pub(super) fn rotation(&self) -> Option<Vec<u8>> {
        self.rotation.clone().or_else(|| self.current())
    }
}

fn parse(who: &str, key: &str, text: &Text<'_>, report: &mut Report) -> Option<Vec<u8>> {
    let digits = text.value.as_bytes();
    let bytes: Option<Vec<u8>> = digits
        .chunks(2)
        .map(|pair| match pair {
            [a, b] if a.is_ascii_hexdigit() && b.is_ascii_hexdigit() => {
                u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
            }
            _ => None,
        })
        .collect();
    let bytes = bytes.filter(|bytes| (1..=MAX_QUIC_SERVER_ID_BYTES).contains(&bytes.len()));
    if bytes.is_none() {
        report.add(|| {
            Finding::new(&text.span, format!("{key} of {who} cannot be {}", quote(text.value))).help(format!(
                "write 1 to {MAX_QUIC_SERVER_ID_BYTES} bytes as hexadecimal digits, such as \"0a0b0c0d\""
            ))
        });
    }
    bytes
}

/// Reports backends of QUIC services whose server ids are missing, of another length than the service's, or not unique
/// within it.
pub(super) fn check(services: &[Option<Service>], sets: &Sets<'_>, report: &mut Report) {
    for service in services.iter().flatten() {
        let Some(quic) = service.quic else { continue };
        let of_service: Vec<&ServerIds> = members(service, sets);
        check_one(service, quic.current, &of_service, false, report);
        if let Some(rotation) = quic.rotation {
            check_one(service, rotation, &of_service, true, report);
        }
    }
}

/// The ids of all backends in the pools of a service.
fn members<'s>(service: &Service, sets: &'s Sets<'_>) -> Vec<&'s ServerIds> {
    let of_pools = service.pools.iter().flat_map(|pool| pool.sets.iter().chain(&pool.standby));
    let of_sets = of_pools.filter_map(|&set| sets.sets[sets.names.position(set.index())].as_ref());
    // Another region's hosts find the backend by the same id in their own configuration.
    let of_sets = of_sets.filter(|set| !set.relay);
    of_sets
        .flat_map(|set| &set.backends)
        .map(|backend| &sets.server_ids[sets.backend_names.position(backend.index())])
        .collect()
}

fn check_one(
    service: &Service,
    config: QuicConfig,
    members: &[&ServerIds],
    is_rotation: bool,
    report: &mut Report,
) {
    let mut seen: HashMap<Vec<u8>, &ServerIds> = HashMap::new();
    let key = if is_rotation { "quic_rotation_id" } else { "quic_server_id" };
    let length = usize::from(config.server_id_length);
    let name = quote(&service.name);
    for ids in members.iter().filter(|ids| !ids.bad) {
        let id = if is_rotation { ids.rotation() } else { ids.current() };
        let span = if is_rotation { &ids.rotation_span } else { &ids.current_span };
        let Some(span) = span else { continue };
        let example = "0a0b0c0d0e0f101112131415161718"[..2 * length.min(MAX_QUIC_SERVER_ID_BYTES)].to_owned();
        let Some(id) = id else {
            report.add(|| {
                Finding::new(span, format!("{} of QUIC service {name} has no \"{key}\"", ids.who))
                    .help(format!("add {key} = \"{example}\": the id that its connection ids carry"))
            });
            continue;
        };
        if id.len() != length {
            report.add(|| {
                let message = format!(
                    "the {key} of {} is {} bytes long, but service {name} has server_id_length = {length} for config_id {}",
                    ids.who,
                    id.len(),
                    config.id
                );
                Finding::new(span, message).help(format!("write {length} bytes, such as \"{example}\""))
            });
        } else if let Some(first) = seen.get(&id) {
            report.add(|| {
                let finding =
                    Finding::new(span, format!("two backends of service {name} have the same {key}"));
                let finding = match if is_rotation { &first.rotation_span } else { &first.current_span } {
                    Some(first) => finding.and(first, "first used here"),
                    None => finding,
                };
                finding.help("give one of them another: the id says to which backend a connection belongs")
            });
        } else {
            seen.insert(id, ids);
        }
    }
}
