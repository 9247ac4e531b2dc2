//! Plans, and the residency that they stay inside.

use std::ops::RangeInclusive;

use super::checks::choice;
use super::clients::DEFAULT;
use super::names::Names;
use super::sets::Sets;
use super::topology;
use crate::config::domains::{Level, Topology};
use crate::config::fields::{At, Text};
use crate::config::ids::{DomainId, PoolIndex};
use crate::config::limits::MAX_PLAN_STEPS;
use crate::config::model::{Node, Plan, PlanMode};
use crate::config::raw::{RawPool, RawService};
use crate::config::raw_plan::{RawEntry, RawPlan};
use crate::config::report::{Finding, Report, Span, quote, quoted};

/// `rho` where the file does not say: what is left takes no more than it would with [`OVERPROVISION`].
///
/// [`OVERPROVISION`]: crate::plan::steering::OVERPROVISION
const DEFAULT_RHO: f64 = 0.7;

/// What stands where.
pub(super) struct Places<'a> {
    pub(super) topology: &'a Topology,
    /// None if it has a problem of its own.
    pub(super) node: Option<&'a Node>,
    pub(super) sets: &'a Sets<'a>,
}

/// The regions that may serve each client region, `default` first.
type Residency = Vec<Option<Vec<DomainId>>>;

/// What one service says.
struct Scope<'a> {
    who: &'a str,
    raw: &'a RawService<'a>,
    pools: &'a Names<'a>,
    clients: &'a Names<'a>,
    places: &'a Places<'a>,
    residency: Residency,
}

/// The plan of each client region, in the order of their ids, and who may serve it.
pub(super) fn resolve(
    who: &str,
    raw: &RawService<'_>,
    pools: &Names<'_>,
    clients: &Names<'_>,
    places: &Places<'_>,
    report: &mut Report,
) -> Option<(Vec<Plan>, Residency)> {
    let residency = resolve_residency(who, raw, clients, places, report);
    let is_known = residency.is_some();
    let scope = Scope { who, raw, pools, clients, places, residency: residency.unwrap_or_default() };
    let plans = scope.plans(report);
    if is_known { Some((plans?, scope.residency)) } else { None }
}

/// Reads `[service.residency]`: who is not named there has the line `default`, and without it no bounds. Empty without the table.
fn resolve_residency(
    who: &str,
    raw: &RawService<'_>,
    clients: &Names<'_>,
    places: &Places<'_>,
    report: &mut Report,
) -> Option<Residency> {
    let Some(lines) = &raw.residency else { return Some(Vec::new()) };
    let mut good = true;
    let mut default = None;
    let mut others: Residency = vec![None; clients.iter().count()];
    for (client, texts) in &lines.value {
        let what = format!("the residency of {who} for client region {}", quote(client.value));
        let regions: Option<Vec<_>> = texts
            .value
            .iter()
            .map(|text| topology::refer(places.topology, &what, text, Some(Level::Region), report))
            .collect();
        if texts.value.is_empty() {
            good = false;
            report.add(|| {
                Finding::new(&texts.span, format!("{what} names no region"))
                    .help("name the regions that may serve these clients, or remove the line: then all may")
            });
        }
        good &= regions.is_some();
        if client.value == DEFAULT {
            default = regions;
        } else if let Some(id) = find_client(&format!("the residency of {who}"), client, clients, report) {
            others[id] = regions;
        } else {
            good = false;
        }
    }
    let others = others.into_iter().map(|regions| regions.or_else(|| default.clone()));
    good.then(|| std::iter::once(default.clone()).chain(others).collect())
}

impl Scope<'_> {
    fn plans(&self, report: &mut Report) -> Option<Vec<Plan>> {
        let entries = || self.raw.plan.iter().flat_map(|plan| &plan.entries);
        let mut good = true;
        let mut default = None;
        let mut others: Vec<Option<Plan>> = vec![None; self.clients.iter().count()];
        for (client, entry) in entries() {
            let what = format!("plan {} of {}", quote(client.value), self.who);
            let id = if client.value == DEFAULT {
                Some(0)
            } else {
                find_client(&format!("the plan of {}", self.who), client, self.clients, report)
                    .map(|id| id + 1)
            };
            let plan = self.plan(&what, client, entry, id, report);
            good &= plan.is_some() && id.is_some();
            match id {
                Some(0) => default = plan,
                Some(id) => others[id - 1] = plan,
                None => {}
            }
        }
        let names_default = entries().any(|(client, _)| client.value == DEFAULT);
        if !names_default {
            match (self.raw.pools.len(), &self.raw.plan) {
                // Without pools there is a problem already.
                (0, _) => good = false,
                _ if self.raw.mistyped => good = false,
                (1, _) => default = Some(Plan { pools: vec![PoolIndex(0)], mode: PlanMode::Nearest }),
                (_, None) => default = self.derived(report),
                (_, Some(plan)) => {
                    good = false;
                    self.missing_default(plan, report);
                }
            }
        }
        let default = default.filter(|_| good)?;
        // Who has no line of its own has what it may of the default.
        let own = others.into_iter().enumerate().map(|(at, plan)| match plan {
            Some(plan) => Some(plan),
            None => self.inside(&default, at + 1, report),
        });
        let own: Vec<Option<Plan>> = own.collect();
        let first = if names_default { Some(default) } else { self.inside(&default, 0, report) };
        std::iter::once(first).chain(own).collect()
    }

    /// The pools in the order of nearness: those of this host's zone, those of its region, the others; each in the order of the
    /// file.
    fn derived(&self, report: &mut Report) -> Option<Plan> {
        let node = self.places.node?;
        if self.raw.pools.len() > MAX_PLAN_STEPS {
            self.too_many(
                &self.raw.span,
                &format!("{} has no plan and", self.who),
                self.raw.pools.len(),
                report,
            );
            return None;
        }
        let mut ranked = Vec::new();
        for pool in &self.raw.pools {
            let index = pool.name.as_ref().and_then(|name| self.pools.find(name.value))?;
            let domains = self.domains(pool)?;
            let within = |outer: Option<DomainId>| {
                outer.is_some_and(|outer| {
                    !domains.is_empty()
                        && domains.iter().all(|&domain| self.places.topology.is_within(domain, outer))
                })
            };
            let rank = match (within(node.zone), within(Some(node.region))) {
                (true, _) => 0,
                (_, true) => 1,
                _ => 2,
            };
            ranked.push((rank, PoolIndex::from_index(index)?));
        }
        ranked.sort_by_key(|&(rank, _)| rank);
        Some(Plan { pools: ranked.into_iter().map(|(_, pool)| pool).collect(), mode: PlanMode::Nearest })
    }

    /// The domains of a pool's sets; none if one of them has a problem.
    fn domains(&self, pool: &RawPool<'_>) -> Option<Vec<DomainId>> {
        // What stands by counts: a canary may send flows there.
        let listed = pool.sets.iter().chain(&pool.standby).flat_map(|sets| &sets.value);
        let texts = listed.chain(&pool.relay);
        let sets = &self.places.sets;
        let domain = |text: &Text<'_>| {
            let set = sets.names.find(text.value)?;
            Some(sets.sets[sets.names.position(set)].as_ref()?.domain)
        };
        texts.map(domain).collect()
    }

    /// Whether a pool may serve a client region, by number; what has a problem of its own may.
    fn may_serve(&self, pool: PoolIndex, client: usize) -> bool {
        let Some(Some(regions)) = self.residency.get(client) else { return true };
        let raw = &self.raw.pools[self.pools.position(pool.index())];
        let domains = self.domains(raw).unwrap_or_default();
        domains
            .iter()
            .all(|&domain| regions.iter().any(|&region| self.places.topology.is_within(domain, region)))
    }

    /// What of a plan a client region may have; reports it if that is nothing.
    fn inside(&self, plan: &Plan, client: usize, report: &mut Report) -> Option<Plan> {
        let pools: Vec<_> = plan.iter().copied().filter(|&pool| self.may_serve(pool, client)).collect();
        if pools.is_empty() {
            let name = self.client_name(client);
            let span = self.raw.residency.as_ref().map_or(&self.raw.span, |residency| &residency.span);
            report.add(|| {
                Finding::new(span, format!("the residency of {} leaves client region {} no pool", self.who, quote(name)))
                    .help("name a region of one of the service's pools there, or add a pool that may serve these clients")
            });
            return None;
        }
        Some(Plan { pools, mode: plan.mode })
    }

    fn client_name(&self, client: usize) -> &str {
        client.checked_sub(1).and_then(|at| self.clients.iter().nth(at)).unwrap_or(DEFAULT)
    }

    fn missing_default(&self, plan: &RawPlan<'_>, report: &mut Report) {
        report.add(|| {
            let example = quoted(self.pools.iter().take(MAX_PLAN_STEPS));
            Finding::new(&plan.span, format!("the plan of {} has no \"default\"", self.who))
                .help(format!("add default = [{example}], the pools in the order in which they are tried"))
        });
    }

    fn too_many(&self, span: &Span, what: &str, count: usize, report: &mut Report) {
        report.add(|| {
            Finding::new(span, format!("{what} names {count} pools"))
                .help(format!("MAX_PLAN_STEPS is {MAX_PLAN_STEPS}; join sets into fewer pools"))
        });
    }

    /// One line of the plan, for a client region if it is known.
    fn plan(
        &self,
        what: &str,
        client: &Text<'_>,
        entry: &RawEntry<'_>,
        id: Option<usize>,
        report: &mut Report,
    ) -> Option<Plan> {
        let steps = &entry.pools;
        let mode = mode(what, entry, report);
        if steps.value.is_empty() {
            report.add(|| {
                Finding::new(&steps.span, format!("{what} names no pool"))
                    .help("name the pools in the order in which they are tried")
            });
            return None;
        }
        if steps.value.len() > MAX_PLAN_STEPS {
            self.too_many(&steps.span, what, steps.value.len(), report);
            return None;
        }
        let mut pools: Vec<PoolIndex> = Vec::new();
        let mut is_inside = true;
        for (step, text) in steps.value.iter().enumerate() {
            let pool = self.pools.refer(what, text, report).and_then(PoolIndex::from_index);
            let earlier = steps.value[..step].iter().find(|known| known.value == text.value);
            match (pool, earlier) {
                (Some(_), Some(first)) => report.add(|| {
                    Finding::new(&text.span, format!("{what} names pool {} twice", quote(text.value)))
                        .and(&first.span, "first named here")
                        .help("remove one: a pool that was tried is not tried again")
                }),
                (Some(pool), None) => {
                    is_inside &= self.check_residency(what, client, text, pool, id, report);
                    pools.push(pool);
                }
                (None, _) => {}
            }
        }
        (is_inside && pools.len() == steps.value.len()).then_some(Plan { pools, mode: mode? })
    }

    /// Reports a pool that may not serve the client region.
    fn check_residency(
        &self,
        what: &str,
        client: &Text<'_>,
        text: &Text<'_>,
        pool: PoolIndex,
        id: Option<usize>,
        report: &mut Report,
    ) -> bool {
        let Some(id) = id.filter(|&id| !self.may_serve(pool, id)) else { return true };
        let regions = self.residency[id].iter().flatten();
        let allowed = quoted(regions.map(|&region| self.places.topology[region].path.as_str()));
        let lines = self.raw.residency.iter().flat_map(|lines| &lines.value);
        let mut lines = lines.filter(|(name, _)| name.value == client.value || name.value == DEFAULT);
        let own = lines.clone().find(|(name, _)| name.value == client.value).or_else(|| lines.next());
        report.add(|| {
            let message = format!("{what} names pool {}, which its residency does not allow", quote(text.value));
            let finding = Finding::new(&text.span, message);
            let finding = match own {
                Some((_, regions)) => finding.and(&regions.span, "the regions that may serve these clients"),
                None => finding,
            };
            finding.help(format!(
                "remove it: a pool is allowed if all its sets lie in [{allowed}]; or allow its region in [service.residency]"
            ))
        });
        false
    }
}

/// How flows leave the first pool.
fn mode(what: &str, entry: &RawEntry<'_>, report: &mut Report) -> Option<PlanMode> {
    let modes = [("nearest", 0), ("zone-affine", 1), ("strict", 2)];
    let mode = match &entry.mode {
        None => 0,
        Some(text) => choice(&format!("mode of {what}"), text, &modes, report)?,
    };
    if let (Some(rho), 0 | 2) = (&entry.rho, mode) {
        report.add(|| {
            Finding::new(&rho.span, format!("{what} has \"rho\", which is for mode = \"zone-affine\""))
                .help("remove it, or write mode = \"zone-affine\"")
        });
        return None;
    }
    match mode {
        0 => Some(PlanMode::Nearest),
        1 => rho(what, entry.rho.as_ref(), report).map(|permille| PlanMode::ZoneAffine { permille }),
        _ if entry.pools.value.len() > 1 => {
            report.add(|| {
                Finding::new(
                    &entry.pools.span,
                    format!("{what} is strict and names {} pools", entry.pools.value.len()),
                )
                .help("leave the first one only: a strict plan never uses another; or choose another mode")
            });
            None
        }
        _ => Some(PlanMode::Strict),
    }
}

fn rho(what: &str, given: Option<&At<f64>>, report: &mut Report) -> Option<u16> {
    let value = given.map_or(DEFAULT_RHO, |given| given.value);
    let permille = (value * 1000.0).round();
    if !(1.0..=1000.0).contains(&permille) {
        let span = given.map(|given| given.span.clone()).unwrap_or_default();
        report.add(|| {
            Finding::new(&span, format!("rho of {what} is out of range")).help(
                "it is the healthy part of the first pool below which flows leave it, above 0 and at most 1, such as 0.7",
            )
        });
        return None;
    }
    // In range by the test.
    Some(permille as u16)
}

fn find_client(what: &str, region: &Text<'_>, clients: &Names<'_>, report: &mut Report) -> Option<usize> {
    let id = clients.find(region.value);
    if id.is_none() {
        report.add(|| {
            let message = format!("{what} names client region {}, which is not defined", quote(region.value));
            let known = std::iter::once(DEFAULT).chain(clients.iter());
            Finding::new(&region.span, message).did_you_mean(region.value, "client regions", known)
        });
    }
    id
}

/// A percentage with bounds.
pub(super) fn percent(
    key: &str,
    given: Option<&At<i64>>,
    range: RangeInclusive<u8>,
    default: u8,
    report: &mut Report,
) -> Option<u8> {
    let Some(given) = given else { return Some(default) };
    let percent = u8::try_from(given.value).ok().filter(|percent| range.contains(percent));
    if percent.is_none() {
        report.add(|| {
            Finding::new(&given.span, format!("{key} = {} is out of range", given.value)).help(format!(
                "it is a percentage, {} to {}",
                range.start(),
                range.end()
            ))
        });
    }
    percent
}
