//! Tables that were built, kept for the next configuration: a change of one pool builds one table.

use std::collections::HashMap;

use lb_maglev::{Error, Member, TableBuilder};
use sha2::{Digest, Sha256};

/// Slots of all tables that are kept, 64 MiB of them; what is more is built each time.
pub const MAX_CACHED_SLOTS: usize = 32 << 20;
/// Compilations after which a table that none of them used is dropped: a reload, and what was looked at before it (`weir diff`).
const KEPT_ROUNDS: u64 = 4;

/// Tables by what they are made of: names and weights of their members in order, and their size.
#[derive(Default)]
pub struct TableCache {
    tables: HashMap<[u8; 32], Kept>,
    slots: usize,
    round: u64,
    built: u64,
    builder: TableBuilder,
    /// A table that is not kept.
    passing: Vec<u16>,
}

/// A table whose slots hold the positions of members.
struct Kept {
    slots: Vec<u16>,
    used: u64,
}

impl std::fmt::Debug for TableCache {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableCache").field("tables", &self.tables.len()).field("slots", &self.slots).finish()
    }
}

impl TableCache {
    /// How many tables were built so far, and not found.
    #[must_use]
    pub const fn built(&self) -> u64 {
        self.built
    }

    /// Begins a compilation: drops what none of the last few needed.
    pub(super) fn begin(&mut self) {
        self.round += 1;
        let oldest = self.round.saturating_sub(KEPT_ROUNDS);
        self.tables.retain(|_, kept| kept.used >= oldest);
        self.slots = self.tables.values().map(|kept| kept.slots.len()).sum();
    }

    /// The table of members with these names and weights, whose slots hold their positions.
    ///
    /// # Errors
    /// As for [`TableBuilder::build`].
    pub(super) fn table(&mut self, members: &[(&str, u32)], size: u32) -> Result<&[u16], Error> {
        let key = digest(members, size);
        if !self.tables.contains_key(&key) {
            let members: Vec<_> =
                members.iter().zip(0..).map(|(&(name, weight), id)| Member { name, weight, id }).collect();
            self.builder.build(&members, size, &mut self.passing)?;
            self.built += 1;
            if self.slots + self.passing.len() > MAX_CACHED_SLOTS {
                return Ok(&self.passing);
            }
            self.slots += self.passing.len();
            self.tables.insert(key, Kept { slots: self.passing.clone(), used: self.round });
        }
        match self.tables.get_mut(&key) {
            Some(kept) => {
                kept.used = self.round;
                Ok(&kept.slots)
            }
            None => Ok(&self.passing),
        }
    }
}

fn digest(members: &[(&str, u32)], size: u32) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(size.to_le_bytes());
    for (name, weight) in members {
        hash.update((name.len() as u64).to_le_bytes());
        hash.update(name.as_bytes());
        hash.update(weight.to_le_bytes());
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(count: u32) -> Vec<(String, u32)> {
        (0..count).map(|i| (format!("b{i}"), 100 + i % 3)).collect()
    }

    fn borrowed(members: &[(String, u32)]) -> Vec<(&str, u32)> {
        members.iter().map(|(name, weight)| (name.as_str(), *weight)).collect()
    }

    #[test]
    fn a_table_is_built_once_for_what_it_is_made_of() {
        let all = members(9);
        let (all, fewer) = (borrowed(&all), borrowed(&all[..8]));
        let mut heavier = all.clone();
        heavier[3].1 += 1;
        let mut cache = TableCache::default();
        cache.begin();
        let first = cache.table(&all, 4093).unwrap().to_vec();
        assert_eq!(cache.table(&all, 4093).unwrap(), first);
        assert_eq!(cache.built(), 1);
        for (members, size) in [(&all, 16_381), (&fewer, 4093), (&heavier, 4093)] {
            assert_ne!(cache.table(members, size).unwrap(), first);
        }
        assert_eq!(cache.built(), 4);
        let direct: Vec<_> =
            all.iter().zip(0..).map(|(&(name, weight), id)| Member { name, weight, id }).collect();
        assert_eq!(lb_maglev::build(&direct, 4093).unwrap(), first);
    }

    #[test]
    fn what_nobody_used_for_a_while_goes() {
        let (a, b) = (members(3), members(4));
        let (a, b) = (borrowed(&a), borrowed(&b));
        let mut cache = TableCache::default();
        cache.begin();
        cache.table(&a, 4093).unwrap();
        for _ in 0..KEPT_ROUNDS {
            cache.begin();
            cache.table(&b, 4093).unwrap();
        }
        cache.table(&a, 4093).unwrap();
        assert_eq!((cache.built(), cache.slots), (2, 2 * 4093), "kept so far");
        for _ in 0..=KEPT_ROUNDS {
            cache.begin();
            cache.table(&b, 4093).unwrap();
        }
        assert_eq!((cache.tables.len(), cache.slots), (1, 4093));
        cache.table(&a, 4093).unwrap();
        assert_eq!(cache.built(), 3);
    }

    #[test]
    fn beyond_the_limit_tables_are_built_and_not_kept() {
        let all = members(5);
        let mut cache = TableCache { slots: MAX_CACHED_SLOTS - 4093, ..TableCache::default() };
        let few = borrowed(&all);
        let [first, second] = [&few[..4], &few[..5]].map(|m| cache.table(m, 4093).unwrap().to_vec());
        assert_eq!((cache.tables.len(), cache.built()), (1, 2));
        assert_eq!(cache.table(&few[..5], 4093).unwrap(), second);
        assert_eq!(cache.table(&few[..4], 4093).unwrap(), first);
        assert_eq!(cache.built(), 3, "the second one once more");
    }
}
