//! Tables: what a member that comes or goes moves.

use super::Finding;
use crate::config::{Config, Pool, limits::TABLE_SIZES};

/// Pools whose tables are small for their members.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let pools = config.services.iter().flat_map(|service| {
        service.pools.iter().map(move |pool| (format!("{}/{}", service.name, pool.name), pool))
    });
    pools.filter_map(|(name, pool)| of_pool(name, pool, members(config, pool))).collect()
}

fn members(config: &Config, pool: &Pool) -> u64 {
    pool.sets.iter().map(|set| config.sets[set.index()].backends.len() as u64).sum()
}

fn of_pool(name: String, pool: &Pool, members: u64) -> Option<Finding> {
    if is_calm(members, pool.table_size) {
        return None;
    }
    let seen = format!(
        "{members} members in {} slots: one that comes or goes moves more than twice the slots that it must",
        pool.table_size
    );
    let larger = TABLE_SIZES.into_iter().filter(|&size| size > pool.table_size);
    let better = larger.clone().find(|&size| is_calm(members, size)).or_else(|| larger.max());
    let finding = Finding::note("config.table_size", name, seen);
    Some(match better {
        Some(size) => finding.help(format!(
            "table_size = {size} of the pool moves fewer, and takes {} KiB; connections stay in any case",
            size / 512
        )),
        None => finding.help("connections stay in any case; pools of fewer members move fewer"),
    })
}

/// Whether the removal of a member of equal weight moves twice its slots at most. What it moves beside them grows with the square of the
/// members and falls with the slots: by measurement (documentation of [`lb_maglev`]) both are equal where members squared are three tenths of
/// the slots.
const fn is_calm(members: u64, slots: u32) -> bool {
    10 * members * members <= 3 * slots as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_maglev::{Member, Table, diff};

    fn pool(table_size: u32) -> Pool {
        Pool {
            name: "p".to_owned(),
            sets: Vec::new(),
            standby: Vec::new(),
            canary: None,
            table_size,
            capacity: None,
            relay: false,
        }
    }

    #[test]
    fn a_pool_is_noted_with_the_size_that_helps() {
        let of = |members, size| of_pool("web/p".to_owned(), &pool(size), members).map(|found| found.remedy);
        assert_eq!((of(140, 65537), of(443, 655_373), of(35, 4093)), (None, None, None));
        let remedy = of(141, 65537).unwrap();
        assert!(remedy.starts_with("table_size = 655373 ") && remedy.contains("1280 KiB"), "{remedy}");
        assert!(of(36, 4093).unwrap().starts_with("table_size = 16381 "));
        assert!(of(1000, 4093).unwrap().starts_with("table_size = 655373 "), "the best there is");
        assert!(of(444, 655_373).unwrap().contains("fewer members"));
    }

    /// The rule against tables themselves, on either side of where it turns.
    #[test]
    fn the_rule_is_what_tables_do() {
        for (members, slots) in
            [(35, 4093), (70, 16381), (130, 65537), (50, 4093), (100, 16381), (200, 65537)]
        {
            let names: Vec<String> = (0..members).map(|i| format!("member-{i}")).collect();
            let all: Vec<_> =
                names.iter().zip(0..).map(|(name, id)| Member { name, weight: 1, id }).collect();
            let table = |members: &[Member<'_>]| Table::build(members, slots).unwrap();
            let whole = table(&all);
            let moved = |gone: usize| {
                let mut rest = all.clone();
                rest.remove(gone);
                f64::from(diff(&whole, &table(&rest)).unwrap().changed)
            };
            let mean = (0..10).map(|i| moved(i * all.len() / 10)).sum::<f64>() / 10.0;
            let ideal = f64::from(slots) / all.len() as f64;
            assert_eq!(mean <= 2.0 * ideal, is_calm(all.len() as u64, slots), "{members}: {}", mean / ideal);
        }
    }
}
