//! The live words of guards: emergency switches and the overload controller's shares. And what guards counted.

use std::collections::HashSet;
use std::mem::offset_of;
use std::sync::Arc;

use aya::maps::lpm_trie::Key;
use aya::maps::{LpmTrie, MapData};
use lb_common::abi::{
    counter::service_slot,
    guard::{CLASSES, GuardCounts, GuardEntry, Limit, NodeGuard},
    root::{FEATURE_EMERGENCY, Root},
};

use super::generation::{BLOCKED, Generation};
use crate::plan::ids::Ids;
use crate::plan::shed::Shares;
use crate::plan::switches::{ServiceWords, SwitchWords};

/// Writes the live words of guards by single stores, and reads what guards counted.
#[derive(Clone, Debug)]
pub struct GuardPort {
    generation: Arc<Generation>,
    ids: Arc<Ids>,
}

impl GuardPort {
    pub(super) const fn new(generation: Arc<Generation>, ids: Arc<Ids>) -> Self {
        Self { generation, ids }
    }

    /// Makes every packet look at its service's guard, or only those of guarded services.
    pub fn set_emergency(&self, on: bool) {
        let set = |features| if on { features | FEATURE_EMERGENCY } else { features & !FEATURE_EMERGENCY };
        let done = self.generation.root.update_u32(0, offset_of!(Root, features), set);
        debug_assert!(done.is_some(), "the root is there");
    }

    /// Puts the switches into the data plane as they are, and takes out what is no longer one. Only what differs is stored.
    ///
    /// # Errors
    /// In words: the map of blocked prefixes cannot be read or written.
    pub fn apply(&self, words: &SwitchWords) -> Result<(), String> {
        let node = &self.generation.node_guard;
        for class in 0..CLASSES {
            let (share, until) = words.shed[class];
            let at = |offset: usize| offset + 4 * class;
            node.store_u32(0, at(offset_of!(NodeGuard, switch_shed)), share);
            node.store_u32(0, at(offset_of!(NodeGuard, switch_shed_until)), until);
        }
        for (index, words) in words.services.iter().enumerate() {
            self.apply_service(index, words);
        }
        // Prefixes first: a word that says that there are some costs packets a look at them.
        self.apply_blocked(words).map_err(|error| format!("map {BLOCKED}: {error}"))?;
        node.store_u32(0, offset_of!(NodeGuard, blocks_until), words.blocks_until);
        for (index, words) in words.services.iter().enumerate() {
            self.generation.guards.store_u32(index, offset_of!(GuardEntry, blocks_until), words.blocks_until);
        }
        Ok(())
    }

    fn apply_service(&self, index: usize, words: &ServiceWords) {
        let guards = &self.generation.guards;
        let Some(entry) = guards.read(index) else { return };
        let (share, until) = words.shed;
        if (entry.switch_shed, entry.switch_shed_until) != (share, until) {
            guards.store_u32(index, offset_of!(GuardEntry, switch_shed), share);
            guards.store_u32(index, offset_of!(GuardEntry, switch_shed_until), until);
        }
        let limits = (words.limit_until, words.packets, words.new_flows);
        if (entry.switch_limit_until, entry.switch_packets, entry.switch_new_flows) != limits {
            let until_at = offset_of!(GuardEntry, switch_limit_until);
            guards.store_u32(index, until_at, 0);
            self.store_limit(index, offset_of!(GuardEntry, switch_packets), &words.packets);
            self.store_limit(index, offset_of!(GuardEntry, switch_new_flows), &words.new_flows);
            guards.store_u32(index, until_at, words.limit_until);
        }
    }

    /// Stores a limit half word by half word: only while it does not hold.
    fn store_limit(&self, index: usize, offset: usize, limit: &Limit) {
        for (word, value) in [limit.interval, limit.tolerance].into_iter().enumerate() {
            let at = offset + 8 * word;
            self.generation.guards.store_u32(index, at, value as u32);
            self.generation.guards.store_u32(index, at + 4, (value >> 32) as u32);
        }
    }

    fn apply_blocked(&self, words: &SwitchWords) -> Result<(), aya::maps::MapError> {
        let data = self.generation.blocked_data()?;
        let mut map: LpmTrie<MapData, [u32; 5], u32> = LpmTrie::try_from(aya::maps::Map::LpmTrie(data))?;
        let wanted: HashSet<_> = words.blocked.iter().map(crate::plan::guard::Blocked::key).collect();
        let there: Vec<Key<[u32; 5]>> = map.keys().collect::<Result<_, _>>()?;
        for key in there {
            if !wanted.contains(&(key.prefix_len(), key.data())) {
                map.remove(&key)?;
            }
        }
        for blocked in &words.blocked {
            let (length, key) = blocked.key();
            map.insert(&Key::new(length, key), blocked.until, 0)?;
        }
        Ok(())
    }

    /// Stores what the overload controller of the node sheds, until then.
    pub fn shed(&self, shares: Shares, until: u32) {
        let node = &self.generation.node_guard;
        for (class, share) in shares.into_iter().enumerate() {
            node.store_u32(0, offset_of!(NodeGuard, shed) + 4 * class, share);
        }
        node.store_u32(0, offset_of!(NodeGuard, shed_until), until);
    }

    /// Stores what the overload controller of one service sheds, until then.
    pub fn shed_service(&self, index: usize, share: u32, until: u32) {
        let guards = &self.generation.guards;
        guards.store_u32(index, offset_of!(GuardEntry, shed), share);
        guards.store_u32(index, offset_of!(GuardEntry, shed_until), until);
    }

    /// A guard as it stands.
    #[must_use]
    pub fn guard(&self, index: usize) -> Option<GuardEntry> {
        self.generation.guards.read(index)
    }

    /// The guard of all services as it stands.
    #[must_use]
    pub fn node(&self) -> Option<NodeGuard> {
        self.generation.node_guard.read(0)
    }

    /// Packets that a guard refused, by reason, on all CPUs.
    #[must_use]
    pub fn counts(&self, index: usize) -> GuardCounts {
        let root = self.generation.root();
        let mut sum = GuardCounts::default();
        for cpu in 0..root.counter_cpus {
            let of_cpu = self.generation.guard_counts.read((cpu * root.guards) as usize + index);
            for (sum, packets) in sum.packets.iter_mut().zip(of_cpu.unwrap_or_default().packets) {
                *sum = sum.wrapping_add(packets);
            }
        }
        sum
    }

    /// Packets that opened a flow of a service and were forwarded, on all CPUs.
    #[must_use]
    pub fn opened(&self, service: usize) -> u64 {
        let root = self.generation.root();
        let Some(index) = self.ids.services().get(service) else { return 0 };
        let slot = |cpu: u32| (cpu * root.counter_stride + service_slot(index.0)) as usize;
        let counters = (0..root.counter_cpus).filter_map(|cpu| self.generation.counters.read(slot(cpu)));
        counters.fold(0, |sum, counter| sum.wrapping_add(counter.opening))
    }
}
