//! From what the file says to what it means: names become indices, values are checked.
//!
//! Each stage goes on after a problem, so that one run finds as many as possible. A part with a problem resolves to
//! `None`, but its name stays known, so that nobody who refers to it is blamed.

mod addresses;
mod check_http;
mod check_kinds;
mod check_tunnel;
mod checks;
mod clients;
mod counts;
mod forwarding;
mod names;
mod node;
mod plans;
mod protection;
mod quic;
mod recovery;
mod relay;
mod services;
mod sets;
mod shares;
mod topology;

pub(crate) use shares::smallest_share_fits;

use super::model::Config;
use super::raw::RawConfig;
use super::report::Report;

/// Hands on `raw` with all groups of other regions' hosts entered among the sets.
pub(super) fn expand<T>(
    raw: RawConfig<'_>,
    report: &mut Report,
    then: impl FnOnce(&RawConfig<'_>, &mut Report) -> T,
) -> T {
    let paths = relay::Paths::of(&raw);
    let raw = relay::expand(raw, &paths, report);
    then(&raw, report)
}

/// The meaning of `raw`; `None` only if a problem was reported.
pub(super) fn resolve(raw: &RawConfig<'_>, report: &mut Report) -> Option<Config> {
    // Ids are narrow: nothing is numbered before it is known to fit.
    if !counts::within_limits(raw, report) {
        return None;
    }
    let topology = topology::resolve(&raw.regions, report);
    let node = raw.node.as_ref().and_then(|node| node::resolve(node, &topology, report));
    let clients = clients::resolve(&raw.client_regions, report);
    let checks = checks::resolve(&raw.checks, report);
    let sets = sets::resolve(&raw.sets, &topology, &checks.names, report);
    let places = plans::Places { topology: &topology, node: node.as_ref(), sets: &sets };
    let services = services::resolve(&raw.services, &clients.names, &places, report);
    let recovery = recovery::resolve(raw.recovery.as_ref(), report);
    forwarding::check_reach(&services.reached, report);
    quic::check(&services.services, &sets, report);
    let tunnels = forwarding::any_tunnels(&services.services);
    addresses::check(raw.node.as_ref(), node.as_ref(), &sets, &services.vips, tunnels, report);
    check_tunnel::check(&raw.checks, &services.vips, report);
    relay::check(raw.node.as_ref(), node.as_ref(), &sets, &services.vips, report);
    counts::within_tables(raw, &services.services, report);
    Some(Config {
        node: node?,
        topology,
        client_regions: clients.regions,
        checks: checks.names.arrange(checks.checks)?,
        sets: sets.names.arrange(sets.sets)?,
        backends: sets.backend_names.arrange(sets.backends)?,
        services: services.names.arrange(services.services)?,
        recovery: recovery?,
    })
}
