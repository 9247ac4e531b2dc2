//! The agent's maps, and [`AgentTables`] over them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LpmTrie, PerCpuArray, lpm_trie::Key},
};
use lb_common::{
    abi::{
        agent::{AGENT_REASONS, AgentAddress, AgentReason, AgentRoot},
        limits::{MAX_AGENT_ADDRESSES, MAX_AGENT_SOURCES},
    },
    datapath::ports::AgentTables,
};

#[map]
static AGENT_ROOT: Array<AgentRoot> = Array::with_max_entries(1, 0);
#[map]
static AGENT_ADDRESSES: HashMap<AgentAddress, u32> = HashMap::with_max_entries(MAX_AGENT_ADDRESSES as u32, 0);
#[map]
static AGENT_SOURCES: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(MAX_AGENT_SOURCES as u32, 1);
/// Packets and bytes by reason.
#[map]
static AGENT_COUNTERS: PerCpuArray<[u64; 2]> = PerCpuArray::with_max_entries(AGENT_REASONS.len() as u32, 0);

/// The maps above as the agent's decisions see them.
pub struct AgentMaps;

impl AgentTables for AgentMaps {
    #[inline(always)]
    fn root(&self) -> Option<&AgentRoot> {
        AGENT_ROOT.get(0)
    }

    #[inline(always)]
    fn is_local(&self, address: &AgentAddress) -> bool {
        // SAFETY: nothing of the value is read.
        unsafe { AGENT_ADDRESSES.get(address) }.is_some()
    }

    #[inline(always)]
    fn is_allowed_source(&self, address: &AgentAddress) -> bool {
        AGENT_SOURCES.get(Key::new(128, address.address)).is_some()
    }

    #[inline(always)]
    fn count(&self, reason: AgentReason, bytes: u64) {
        if let Some(counter) = AGENT_COUNTERS.get_ptr_mut(reason as u32) {
            // SAFETY: a live per-CPU element, which only this program on this CPU writes.
            let counter = unsafe { &mut *counter };
            counter[0] += 1;
            counter[1] += bytes;
        }
    }
}
