//! The tree of regions, zones and racks.

use super::names::{check_name, defined_twice};
use crate::config::domains::{Domain, Level, Topology};
use crate::config::fields::Text;
use crate::config::ids::DomainId;
use crate::config::raw::RawRegion;
use crate::config::report::{Finding, Report, Span, quote};

/// Builds the tree. Domains with bad names are reported and kept, so that references to them are not blamed.
pub(super) fn resolve(regions: &[RawRegion<'_>], report: &mut Report) -> Topology {
    let mut paths: Vec<(String, Level, Span)> = Vec::new();
    for region in regions {
        check_name("region", region.name.value, &region.name.span, report);
        let region_path = region.name.value.to_owned();
        for (zone, racks) in &region.zones {
            check_name("zone", zone.value, &zone.span, report);
            let zone_path = format!("{region_path}/{}", zone.value);
            for rack in &racks.value {
                check_name("rack", rack.value, &rack.span, report);
                paths.push((format!("{zone_path}/{}", rack.value), Level::Rack, rack.span.clone()));
            }
            paths.push((zone_path, Level::Zone, zone.span.clone()));
        }
        paths.push((region_path, Level::Region, region.name.span.clone()));
    }
    paths.sort_by(|(a, _, a_span), (b, _, b_span)| (a, a_span.start).cmp(&(b, b_span.start)));
    paths.dedup_by(|(again, level, again_span), (first, _, first_span)| {
        let same = again == first;
        // Other levels can only meet if a name has a slash, and that is reported.
        if same && *level == Level::Rack {
            report.add(|| defined_twice("rack", first, first_span, again_span));
        }
        same
    });
    link(paths)
}

/// Connects each domain with the one above it.
fn link(paths: Vec<(String, Level, Span)>) -> Topology {
    let new = |(path, level, _)| Domain { path, level, parent: None, children: Vec::new() };
    let mut topology = Topology { domains: paths.into_iter().map(new).collect() };
    for id in topology.ids() {
        let Some((above, _)) = topology[id].path.rsplit_once('/') else {
            continue;
        };
        // What lies above sorts before what lies below: a parent is never its own descendant.
        let Some(parent) = topology.find(above) else {
            continue;
        };
        topology.domains[id.index()].parent = Some(parent);
        topology.domains[parent.index()].children.push(id);
    }
    topology
}

/// The domain that `who` refers to; reports it if there is none.
pub(super) fn refer(
    topology: &Topology,
    who: &str,
    text: &Text<'_>,
    level: Option<Level>,
    report: &mut Report,
) -> Option<DomainId> {
    let fits = |domain: &&Domain| level.is_none_or(|level| domain.level == level);
    let id = topology.find(text.value);
    if let Some(id) = id.filter(|&id| fits(&&topology[id])) {
        return Some(id);
    }
    report.add(|| {
        let (one, many) = match level {
            None => ("domain", "domains"),
            Some(Level::Region) => ("region", "regions"),
            Some(Level::Zone) => ("zone", "zones"),
            Some(Level::Rack) => ("rack", "racks"),
        };
        let given = quote(text.value);
        let message = match id {
            Some(id) => format!("{who} names {given} as its {one}, but that is a {}", topology[id].level),
            None => format!("{who} names {one} {given}, which the topology does not have"),
        };
        // The names below a zone are the likeliest meant, where a rack was wanted.
        let below = |domain: &&Domain| {
            id.is_none_or(|id| domain.path.starts_with(&format!("{}/", topology[id].path)))
        };
        let known = topology.domains.iter().filter(fits);
        let near: Vec<&str> = known.clone().filter(below).map(|domain| domain.path.as_str()).collect();
        let all = known.map(|domain| domain.path.as_str());
        let finding = Finding::new(&text.span, message);
        if id.is_some() && !near.is_empty() {
            finding.did_you_mean(text.value, &format!("{many} in {given}"), near.into_iter())
        } else {
            finding.did_you_mean(text.value, many, all)
        }
    });
    None
}
