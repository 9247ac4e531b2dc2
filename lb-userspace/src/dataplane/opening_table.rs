//! `OPENINGS` seen from the user side: walked whole, copied, thinned out, while programs write into it.

use std::cell::Cell;

use lb_common::abi::flow::{FlowEntry, FlowKey, FlowWords, OPENING_LINES, OPENING_WAYS, OpeningLine};
use lb_common::abi::root::{FlowHashKey, Root};
use lb_common::datapath::hash::flow_hash;
use lb_common::datapath::openings::{self, OpeningSet, SET_WORDS};
use lb_common::datapath::parse::Tuple;

use super::generation::Generation;
use super::maps::MappedArray;
use super::upkeep::Page;

/// Sets of a page.
const PAGE_SETS: u32 = 128;

/// The table with what it takes to understand it.
pub(super) struct Openings<'g> {
    lines: &'g MappedArray<OpeningLine>,
    hash_key: FlowHashKey,
    sets: u32,
}

impl<'g> Openings<'g> {
    pub(super) fn of(generation: &'g Generation) -> Self {
        Self::with_root(generation, &generation.root())
    }

    /// That of a generation whose root is to become this one.
    pub(super) const fn with_root(generation: &'g Generation, root: &Root) -> Self {
        Self { lines: &generation.openings, hash_key: root.hash_key, sets: root.opening_sets }
    }

    /// A copy of a set.
    pub(super) fn set(&self, set: u32) -> Option<[u64; SET_WORDS]> {
        if set >= self.sets {
            return None;
        }
        let mut words = [0; SET_WORDS];
        for (line, chunk) in words.chunks_exact_mut(8).enumerate() {
            chunk.copy_from_slice(&self.lines.read(set as usize * OPENING_LINES + line)?.0);
        }
        Some(words)
    }

    fn hash(&self, key: &FlowWords) -> u64 {
        flow_hash(&self.hash_key, &Tuple::of(key))
    }

    /// The entries of a set. What is being written, or was found by another hash key, is not there.
    fn entries(&self, set: u32) -> impl Iterator<Item = (FlowKey, FlowEntry)> {
        // On a good day all sets are empty, and a line is all there is to see of one.
        let tags = self.lines.read(set as usize * OPENING_LINES).filter(|tags| tags.0 != [0; 8]);
        let words = tags.and_then(|_| self.set(set)).unwrap_or([0; SET_WORDS]);
        (0..OPENING_WAYS).filter_map(move |way| {
            let (key, entry) = openings::entry(&words, way, |key| self.hash(key))?;
            Some((key.key(), entry))
        })
    }

    /// Calls `each` for every entry.
    pub(super) fn walk(&self, mut each: impl FnMut(&FlowKey, &FlowEntry)) {
        (0..self.sets).flat_map(|set| self.entries(set)).for_each(|(key, entry)| each(&key, &entry));
    }

    /// The entries of some sets, and where to go on for more; from the beginning without `from`.
    pub(super) fn page(&self, from: Option<u32>) -> Page {
        let from = from.unwrap_or(0);
        let end = from.saturating_add(PAGE_SETS).min(self.sets);
        ((from..end).flat_map(|set| self.entries(set)).collect(), (end < self.sets).then_some(end))
    }

    /// The entry of a flow, if there is one.
    #[cfg(test)]
    fn find(&self, key: &FlowWords) -> Option<FlowEntry> {
        let h = self.hash(key);
        let words = self.set(openings::set_of(h, self.sets))?.map(Cell::new);
        openings::find(&words, h, key)
    }

    /// Removes a flow's entry, if there is one, and nothing that takes its place meanwhile.
    pub(super) fn remove(&self, key: &FlowKey) {
        self.change(key, |set, h, key| {
            let _ = openings::remove(set, h, key);
        });
    }

    /// Writes an entry down as a program would, unless the flow has one. Whether it did.
    fn insert_new(&self, key: &FlowKey, entry: FlowEntry, now_ns: u64) -> bool {
        let mut is_new = true;
        self.change(key, |set, h, key| {
            is_new = openings::find(set, h, key).is_none();
            if is_new {
                openings::write(set, h, now_ns, key, entry);
            }
        });
        is_new
    }

    /// Copies entries of `from` that are not here, at a moment of `CLOCK_MONOTONIC`. Returns how many.
    pub(super) fn copy(&self, from: &Self, now_ns: u64) -> u64 {
        let mut copied = 0;
        from.walk(|key, entry| copied += u64::from(self.insert_new(key, *entry, now_ns)));
        copied
    }

    /// Changes the set of a flow: entries first, then tags, each by one store, and each tag only if it is still what was read.
    fn change(&self, key: &FlowKey, act: impl FnOnce(&OpeningSet, u64, &FlowWords)) {
        let key = FlowWords::of(key);
        let h = self.hash(&key);
        let set = openings::set_of(h, self.sets);
        let Some(before) = self.set(set) else { return };
        let after = before.map(Cell::new);
        act(&after, h, &key);
        let after = after.map(Cell::into_inner);
        let first = set as usize * OPENING_LINES;
        let lines = |words: &[u64; SET_WORDS], line: usize| -> Option<OpeningLine> {
            words[8 * line..][..8].try_into().ok().map(OpeningLine)
        };
        for line in 1..OPENING_LINES {
            if lines(&before, line) != lines(&after, line)
                && let Some(after) = lines(&after, line)
            {
                let _ = self.lines.write(first + line, &after);
            }
        }
        for way in (0..OPENING_WAYS).filter(|&way| before[way] != after[way]) {
            let _ = self.lines.replace_u64(first, 8 * way, (before[way], after[way]));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::pod::Pod as _;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::os::fd::AsFd as _;

    fn memory(sets: u32) -> MappedArray<OpeningLine> {
        let file = File::from(memfd_create(c"weir-openings-test", MFdFlags::empty()).unwrap());
        let lines = sets as usize * OPENING_LINES;
        file.set_len((lines * 64) as u64).unwrap();
        MappedArray::flat(file.as_fd(), lines).unwrap()
    }

    fn table(lines: &MappedArray<OpeningLine>, key: u8) -> Openings<'_> {
        let hash_key = FlowHashKey { words: [u32::from(key).wrapping_mul(0x9e37_79b9); 10], finish: 0 };
        let sets = (lines.len() / OPENING_LINES) as u32;
        Openings { lines, hash_key, sets }
    }

    fn key(number: u16) -> FlowKey {
        FlowKey { source_port: number.to_be_bytes(), protocol: 6, ..FlowKey::zeroed() }
    }

    fn all(table: &Openings<'_>) -> BTreeMap<FlowKey, u32> {
        let mut all = BTreeMap::new();
        table.walk(|key, entry| {
            all.insert(*key, entry.backend);
        });
        all
    }

    #[test]
    fn entries_are_copied_into_a_table_of_another_size_and_key_paged_and_removed() {
        let (old_lines, new_lines) = (memory(300), memory(500));
        let (old, new) = (table(&old_lines, 1), table(&new_lines, 2));
        for number in 0..500 {
            assert!(old.insert_new(&key(number), FlowEntry { backend: number.into(), seen: 3 }, 1));
        }
        assert!(!old.insert_new(&key(7), FlowEntry { backend: 9999, seen: 3 }, 1), "it is there already");
        let held = all(&old);
        assert!(
            held.len() > 490
                && held
                    .iter()
                    .all(|(key, &backend)| { backend == u32::from(u16::from_be_bytes(key.source_port)) })
        );
        assert_eq!(new.copy(&old, 2), held.len() as u64);
        assert_eq!(new.copy(&old, 2), 0, "all are there");
        assert!(all(&new).len() > 480);
        assert!(all(&table(&old_lines, 9)).is_empty(), "another hash key finds nothing");

        let (mut paged, mut from, mut pages) = (BTreeMap::new(), None, 0);
        loop {
            let (entries, next) = old.page(from);
            paged.extend(entries.into_iter().map(|(key, entry)| (key, entry.backend)));
            pages += 1;
            from = next;
            if from.is_none() {
                break;
            }
        }
        assert_eq!((paged, pages), (held.clone(), 3));

        let words = FlowWords::of;
        let first = *held.keys().next().unwrap();
        assert_eq!(old.find(&words(&first)).map(|entry| entry.backend), Some(held[&first]));
        old.remove(&first);
        assert_eq!((old.find(&words(&first)), all(&old).len()), (None, held.len() - 1));
    }
}
