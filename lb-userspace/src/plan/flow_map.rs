//! A table of flows in this process's memory, as the kernel's LRU map behaves: what was not used for longest goes first.

use std::collections::{BTreeMap, HashMap};

use lb_common::abi::flow::{FlowEntry, FlowKey};

/// A bounded map of flows.
#[derive(Clone, Debug)]
pub(super) struct FlowMap {
    capacity: usize,
    entries: HashMap<FlowKey, (FlowEntry, u64)>,
    /// Keys by when they were last used.
    order: BTreeMap<u64, FlowKey>,
    used: u64,
}

impl FlowMap {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, entries: HashMap::new(), order: BTreeMap::new(), used: 0 }
    }

    pub(super) fn set_capacity(&mut self, capacity: usize) {
        self.capacity = capacity;
        self.shrink();
    }

    pub(super) fn get(&mut self, key: &FlowKey, touch: impl FnOnce(u32) -> u32) -> Option<FlowEntry> {
        let (entry, used) = self.entries.get_mut(key)?;
        let found = *entry;
        entry.seen = touch(entry.seen);
        self.order.remove(used);
        self.used += 1;
        *used = self.used;
        self.order.insert(self.used, *key);
        Some(found)
    }

    pub(super) fn insert(&mut self, key: FlowKey, entry: FlowEntry) {
        self.remove(&key);
        self.used += 1;
        self.entries.insert(key, (entry, self.used));
        self.order.insert(self.used, key);
        self.shrink();
    }

    pub(super) fn remove(&mut self, key: &FlowKey) -> bool {
        let removed = self.entries.remove(key);
        if let Some((_, used)) = removed {
            self.order.remove(&used);
        }
        removed.is_some()
    }

    /// All entries, sorted by key.
    pub(super) fn entries(&self) -> Vec<(FlowKey, FlowEntry)> {
        let mut all: Vec<_> = self.entries.iter().map(|(key, (entry, _))| (*key, *entry)).collect();
        all.sort_by_key(|(key, _)| *key);
        all
    }

    fn shrink(&mut self) {
        while self.entries.len() > self.capacity {
            let Some((_, oldest)) = self.order.pop_first() else { return };
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::pod::Pod as _;

    fn key(port: u8) -> FlowKey {
        FlowKey { source_port: [0, port], ..FlowKey::zeroed() }
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let mut map = FlowMap::new(2);
        let entry = |backend| FlowEntry { backend, seen: 0 };
        map.insert(key(1), entry(1));
        map.insert(key(2), entry(2));
        assert_eq!(map.get(&key(1), |_| 7), Some(entry(1)));
        map.insert(key(3), entry(3));
        let left: Vec<_> = map.entries().iter().map(|(_, entry)| entry.backend).collect();
        assert_eq!(left, [1, 3]);
        assert_eq!(map.get(&key(1), |seen| seen), Some(FlowEntry { backend: 1, seen: 7 }));
        assert!(map.remove(&key(1)) && !map.remove(&key(1)));
        map.set_capacity(0);
        assert!(map.entries().is_empty());
    }
}
