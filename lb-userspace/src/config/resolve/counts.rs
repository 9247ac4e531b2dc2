//! Limits on how many things a configuration may have.

use crate::config::limits::{
    MAX_BACKENDS, MAX_CHECKS, MAX_CLIENT_PREFIXES, MAX_CLIENT_REGIONS, MAX_DOMAINS, MAX_PLANS, MAX_POOLS,
    MAX_SERVICES, MAX_SETS, MAX_TABLE_SLOTS,
};
use crate::config::model::Service;
use crate::config::raw::RawConfig;
use crate::config::report::{Finding, Report, Span};
use crate::config::summary::table_slots;

/// Reports each kind of which there are more than its limit. Returns whether there is none.
pub(super) fn within_limits(raw: &RawConfig<'_>, report: &mut Report) -> bool {
    let zones = || raw.regions.iter().flat_map(|region| &region.zones);
    let racks: usize = zones().map(|(_, racks)| racks.value.len()).sum();
    let domains = raw.regions.len() + zones().count() + racks;
    let prefixes: usize = raw.client_regions.iter().map(|(_, prefixes)| prefixes.value.len()).sum();
    let backends: usize = raw.sets.iter().map(|set| set.backends.len()).sum();
    let pools: usize = raw.services.iter().map(|service| service.pools.len()).sum();

    let topology = raw.regions.first().map(|region| region.name.span.clone());
    let clients = raw.client_regions.first().map(|(name, _)| name.span.clone());
    let set = raw.sets.first().map(|set| set.span.clone());
    let service = raw.services.first().map(|service| service.span.clone());
    let check = raw.checks.first().map(|check| check.span.clone());
    let counts: [(usize, &str, &str, usize, &Option<Span>); 8] = [
        (domains, "regions, zones and racks", "MAX_DOMAINS", MAX_DOMAINS, &topology),
        // `default` is one of them.
        (raw.client_regions.len() + 1, "client regions", "MAX_CLIENT_REGIONS", MAX_CLIENT_REGIONS, &clients),
        (prefixes, "client prefixes", "MAX_CLIENT_PREFIXES", MAX_CLIENT_PREFIXES, &clients),
        (raw.checks.len(), "checks", "MAX_CHECKS", MAX_CHECKS, &check),
        (raw.sets.len(), "sets", "MAX_SETS", MAX_SETS, &set),
        (backends, "backends", "MAX_BACKENDS", MAX_BACKENDS, &set),
        (raw.services.len(), "services", "MAX_SERVICES", MAX_SERVICES, &service),
        (pools, "pools", "MAX_POOLS", MAX_POOLS, &service),
    ];
    let mut within = true;
    for (count, kind, limit, max, place) in counts {
        if count > max {
            within = false;
            report.add(|| {
                Finding::new(place.as_ref().unwrap_or(&(0..0)), format!("the file has {count} {kind}"))
                    .help(format!("{limit} is {max}; share the rest out to other edge hosts"))
            });
        }
    }
    within
}

/// Reports plans and tables that together need more room than there is.
pub(super) fn within_tables(raw: &RawConfig<'_>, services: &[Option<Service>], report: &mut Report) {
    let Some(place) = raw.services.first().map(|service| &service.span) else {
        return;
    };
    let services = || services.iter().flatten();
    let plans: usize = services().map(|service| service.distinct_plans().len()).sum();
    if plans > MAX_PLANS {
        report.add(|| {
            Finding::new(
                place,
                format!("the services need {plans} plans, one per client region where it matters"),
            )
            .help(format!(
                "MAX_PLANS is {MAX_PLANS}; name fewer client regions, or none in some [service.plan]"
            ))
        });
    }
    let slots = table_slots(services());
    if slots > MAX_TABLE_SLOTS {
        report.add(|| {
            Finding::new(place, format!("the tables of all pools have {slots} slots together"))
                .help(format!("MAX_TABLE_SLOTS is {MAX_TABLE_SLOTS}; give small pools a smaller table_size"))
        });
    }
}
