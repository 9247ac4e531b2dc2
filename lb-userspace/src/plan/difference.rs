//! What is different between two configurations, and what that does to tables. Pure.

use std::collections::BTreeMap;

use lb_maglev::{Member, Table};

use crate::api::types::{Changes, Differences, MemberShare, TableChange};
use crate::config::{Backend, Config, DomainId, Pool, Service, Set};

/// Members that a table's change lists.
const LISTED_MEMBERS: usize = 20;

/// Compares two configurations.
#[must_use]
pub fn differences(old: &Config, new: &Config) -> Differences {
    let mut tables = Vec::new();
    let (old_pools, new_pools) = (pools(old), pools(new));
    for (name, (_, pool)) in &new_pools {
        if let Some((_, before)) = old_pools.get(name) {
            tables.extend(table_change(name, (old, before), (new, pool)));
        }
    }
    Differences {
        services: changes(&services(old), &services(new)),
        backends: changes(&backends(old), &backends(new)),
        pools: changes(&pool_texts(old, &old_pools), &pool_texts(new, &new_pools)),
        domains: changes(&domains(old), &domains(new)),
        tables,
        settings: settings(old, new),
        restart: restart(old, new),
        canaries: Vec::new(),
    }
}

/// Keys whose change a reload refuses, each with the reason.
fn restart(old: &Config, new: &Config) -> Vec<String> {
    let http =
        ("http.listen", old.http.listen != new.http.listen, "metrics and the status page are served there");
    let (old, new) = (&old.node, &new.node);
    let keys = [
        ("node.socket", old.socket != new.socket, "the API listens there"),
        (
            "node.state_dir",
            old.state_dir != new.state_dir,
            "the lock, the journal and the overrides lie there",
        ),
        ("node.bpffs", old.bpffs != new.bpffs, "the running data plane is pinned there"),
        (
            "node.hash_key",
            old.hash_key != new.hash_key,
            "every flow gets another place, and connections that the flow table does not know break",
        ),
    ];
    let keys = keys.into_iter().chain([http]);
    keys.filter(|&(_, differs, _)| differs).map(|(key, _, why)| format!("{key}: {why}")).collect()
}

fn settings(old: &Config, new: &Config) -> Vec<String> {
    let (a, b) = (&old.node, &new.node);
    let keys = [
        ("node.name", a.name != b.name),
        ("node.region", old.topology[a.region].path != new.topology[b.region].path),
        ("node.zone", a.zone.map(|id| &old.topology[id].path) != b.zone.map(|id| &new.topology[id].path)),
        ("node.interfaces", a.interfaces != b.interfaces),
        ("node.mode", a.mode != b.mode),
        ("node.tunnel_source_v4", a.tunnel_source_v4 != b.tunnel_source_v4),
        ("node.tunnel_source_v6", a.tunnel_source_v6 != b.tunnel_source_v6),
        ("node.transition", a.transition != b.transition),
        ("node.max_new_flows", a.max_new_flows != b.max_new_flows),
        ("node.flow_idle", a.flow_idle != b.flow_idle),
        ("node.flow_entries", a.flow_entries != b.flow_entries),
        ("node.opening_entries", a.opening_entries != b.opening_entries),
        ("node.panic_threshold", a.panic_threshold != b.panic_threshold),
        ("node.target_utilisation", a.target_utilisation != b.target_utilisation),
        ("node.max_ejected", a.max_ejected != b.max_ejected),
        ("node.withdraw_command", a.announcement != b.announcement),
        ("node.answers_per_second", a.answers_per_second != b.answers_per_second),
        ("client_regions", old.client_regions != new.client_regions),
        ("check", old.checks != new.checks),
        ("set", sets(old) != sets(new)),
        ("http", old.http.tls != new.http.tls),
    ];
    keys.into_iter().filter(|&(_, differs)| differs).map(|(key, _)| key.to_owned()).collect()
}

/// Sets by name, without their backends: with their domains and checks.
fn sets(config: &Config) -> BTreeMap<String, (String, Vec<String>)> {
    let checks = |set: &Set| set.checks.iter().map(|&id| config[id].name.clone()).collect();
    let entry = |set: &Set| (set.name.clone(), (config.topology[set.domain].path.clone(), checks(set)));
    config.sets.iter().map(entry).collect()
}

/// What comes, goes and changes between two lists of names, each with all that there is to say in words of names.
fn changes(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Changes {
    let only = |a: &BTreeMap<String, String>, b: &BTreeMap<String, String>| {
        a.keys().filter(|name| !b.contains_key(*name)).cloned().collect()
    };
    let changed = new.iter().filter(|(name, text)| old.get(*name).is_some_and(|before| before != *text));
    Changes {
        added: only(new, old),
        removed: only(old, new),
        changed: changed.map(|(n, _)| n.clone()).collect(),
    }
}

fn services(config: &Config) -> BTreeMap<String, String> {
    let text = |service: &Service| {
        let plans: Vec<_> = service
            .plans
            .iter()
            .map(|plan| (plan.mode, plan.iter().map(|&pool| service[pool].name.as_str()).collect::<Vec<_>>()))
            .collect();
        // Indices and what pools consist of are told elsewhere; whatever else a service has counts.
        let other = Service {
            name: String::new(),
            pools: Vec::new(),
            plans: Vec::new(),
            residency: Vec::new(),
            ..service.clone()
        };
        let path = |&region: &DomainId| config.topology[region].path.as_str();
        let regions = |regions: &Option<Vec<DomainId>>| {
            regions.as_ref().map(|regions| regions.iter().map(path).collect::<Vec<_>>())
        };
        let residency: Vec<_> = service.residency.iter().map(regions).collect();
        format!("{other:?} {plans:?} {residency:?}")
    };
    config.services.iter().map(|service| (service.name.clone(), text(service))).collect()
}

fn backends(config: &Config) -> BTreeMap<String, String> {
    let text = |backend: &Backend| {
        let Backend { set, rack, address, weight, .. } = backend;
        format!("{} {} {address} {weight}", config[*set].name, config.topology[*rack].path)
    };
    config.backends.iter().map(|backend| (backend.name.clone(), text(backend))).collect()
}

fn domains(config: &Config) -> BTreeMap<String, String> {
    config.topology.domains.iter().map(|domain| (domain.path.clone(), domain.level.to_string())).collect()
}

type Pools<'c> = BTreeMap<String, (&'c Service, &'c Pool)>;

fn pools(config: &Config) -> Pools<'_> {
    let all =
        config.services.iter().flat_map(|service| service.pools.iter().map(move |pool| (service, pool)));
    all.map(|(service, pool)| (format!("{}/{}", service.name, pool.name), (service, pool))).collect()
}

fn pool_texts(config: &Config, pools: &Pools<'_>) -> BTreeMap<String, String> {
    let text = |pool: &Pool| {
        let sets: Vec<_> = pool.sets.iter().map(|&set| config[set].name.as_str()).collect();
        let standby: Vec<_> = pool.standby.iter().map(|&set| config[set].name.as_str()).collect();
        let canary = pool.canary.map(|share| (config[share.set].name.as_str(), share.permille));
        format!("{sets:?} {standby:?} {canary:?} {} {:?}", pool.table_size, pool.capacity)
    };
    pools.iter().map(|(name, (_, pool))| (name.clone(), text(pool))).collect()
}

/// What becomes of a pool's table; `None` if it stays as it is.
fn table_change(name: &str, old: (&Config, &Pool), new: (&Config, &Pool)) -> Option<TableChange> {
    let (before, now) = (members(old), members(new));
    let slots = new.1.table_size;
    if before == now && old.1.table_size == slots {
        return None;
    }
    let all = TableChange { pool: name.to_owned(), slots, moved: slots, members: Vec::new() };
    let table = |members: &[(&str, u32)], slots| {
        let list: Vec<_> =
            members.iter().zip(0..).map(|(&(name, weight), id)| Member { name, weight, id }).collect();
        Table::build(&list, slots)
    };
    // A table that cannot be built, or compared, is refused when it is to be put in force.
    let tables = table(&before, old.1.table_size).ok().zip(table(&now, slots).ok());
    let Some(diff) = tables.and_then(|(before, now)| lb_maglev::diff(&before, &now).ok()) else {
        return Some(all);
    };
    let mut members: Vec<_> = diff
        .members
        .into_iter()
        .filter(|member| member.gained + member.lost > 0)
        .map(|member| MemberShare { backend: member.name, gained: member.gained, lost: member.lost })
        .collect();
    members.sort_by_key(|member| std::cmp::Reverse(member.gained + member.lost));
    members.truncate(LISTED_MEMBERS);
    Some(TableChange { moved: diff.changed, members, ..all })
}

fn members<'c>((config, pool): (&'c Config, &Pool)) -> Vec<(&'c str, u32)> {
    config.weights(pool).into_iter().map(|(id, weight)| (config[id].name.as_str(), weight)).collect()
}
