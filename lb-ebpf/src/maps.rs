//! The edge's maps, and [`Tables`] over them.
//!
//! All arrays are memory-mapped by the daemon, which changes single words while programs run; see [`lb_common::abi`] for
//! which ones. Sizes here are the smallest; the daemon sets what the configuration takes when it creates the maps.

use core::arch::asm;
use core::borrow::Borrow;

use aya_ebpf::{
    helpers::{bpf_get_prandom_u32, bpf_get_smp_processor_id, generated::bpf_ktime_get_coarse_ns},
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, lpm_trie::Key},
};
use lb_common::{
    abi::{
        admission::AdmissionWords,
        backend::BackendEntry,
        counter::Counter,
        flow::{FlowEntry, FlowFilter, FlowWords, FragmentEntry, FragmentKey, OPENING_LINES, OpeningLine},
        guard::{GuardCounts, GuardEntry, NodeGuard},
        limits::{FLOW_FILTER_CHUNK, MAX_FRAGMENTED, MAX_INTERFACES, SLOTS_PER_CHUNK},
        next::NEXT_PROGRAMS,
        plan::{PlanEntry, PoolEntry},
        prefix::{ENTRIES_PER_LINE, PrefixEntries, PrefixNode, PrefixTable, PrefixValues, VALUES_PER_LINE},
        quic::{QuicServer, QuicServerKey},
        root::Root,
        service::{PortRanges, ServiceBucket, ServiceEntry},
    },
    datapath::{
        admit::Request,
        answers::{BUDGETS, Budget},
        classify::Lookup,
        filter::Allowance,
        openings::OpeningSet,
        parse::{TRANSPORT_WORDS, Transport},
        ports::{Buckets, Clock, FibLookup, Tables},
        prefix::PrefixNodes,
        select::{Probe, Probed},
        steer::{Away, Walk, Walked},
        trace::Trace,
    },
    net::AddressWords,
};

pub mod functions;

use functions::{
    weir_admit, weir_away, weir_find, weir_prefix, weir_probe, weir_remember_fragment, weir_settle,
    weir_traits, weir_walk, weir_wide,
};

/// `BPF_F_MMAPABLE`: user space may map the array.
const MMAPABLE: u32 = 1 << 10;
/// `BPF_F_NO_COMMON_LRU`: one LRU list per CPU, so that CPUs do not contend for it.
const NO_COMMON_LRU: u32 = 1 << 1;
/// `BPF_F_NO_PREALLOC`, which the kernel demands for a trie.
const NO_PREALLOC: u32 = 1;

#[map]
static ROOT: Array<Root> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SERVICE_INDEX: Array<ServiceBucket> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SERVICES: Array<ServiceEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PLANS: Array<PlanEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static POOLS: Array<PoolEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SLOTS: Array<[u16; SLOTS_PER_CHUNK]> = Array::with_max_entries(1, MMAPABLE);
#[map]
static BACKENDS: Array<BackendEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static ADMISSION: Array<AdmissionWords> = Array::with_max_entries(1, MMAPABLE);
#[map]
static COUNTERS: Array<Counter> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREFIX_TABLES: Array<PrefixTable> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREFIX_ENTRIES: Array<PrefixEntries> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREFIX_NODES: Array<PrefixNode> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREFIX_VALUES: Array<PrefixValues> = Array::with_max_entries(1, MMAPABLE);
#[map]
static GUARDS: Array<GuardEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static NODE_GUARD: Array<NodeGuard> = Array::with_max_entries(1, MMAPABLE);
#[map]
static BUCKETS: Array<u64> = Array::with_max_entries(1, MMAPABLE);
#[map]
static GUARD_COUNTS: Array<GuardCounts> = Array::with_max_entries(1, MMAPABLE);
#[map]
static BLOCKED: LpmTrie<[u32; 5], u32> = LpmTrie::with_max_entries(1, NO_PREALLOC);
#[map]
static FLOWS: LruHashMap<FlowWords, FlowEntry> = LruHashMap::with_max_entries(1024, NO_COMMON_LRU);
#[map]
static OPENINGS: Array<[OpeningLine; OPENING_LINES]> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PORT_RANGES: Array<PortRanges> = Array::with_max_entries(1, MMAPABLE);
/// One list for all CPUs: fragments of a datagram come to any of them, and are few.
#[map]
static FRAGMENTS: LruHashMap<FragmentKey, FragmentEntry> = LruHashMap::with_max_entries(MAX_FRAGMENTED, 0);
/// See [`Tables::answers_booked_ns`].
#[map]
static ANSWERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(BUDGETS as u32, 0);
/// A packed [`Transport`] on its way from one function to another.
#[map]
static HANDED_OVER: PerCpuArray<[u32; TRANSPORT_WORDS]> = PerCpuArray::with_max_entries(1, 0);

/// Hands a packet's description over to the caller of a BPF function on this CPU.
#[inline(always)]
pub fn hand_over(transport: &Transport) -> Option<()> {
    let place = HANDED_OVER.get_ptr_mut(0)?;
    // SAFETY: a live per-CPU element, which only this program on this CPU writes and reads.
    let place = unsafe { &mut *place };
    for (to, word) in place.iter_mut().zip(transport.pack()) {
        *to = word;
    }
    Some(())
}

/// What was handed over, as it lies there; a word 10 of 0 says that nothing was since [`forget_handed_over`].
#[inline(always)]
pub fn handed_over() -> Option<&'static [u32; TRANSPORT_WORDS]> {
    HANDED_OVER.get(0)
}

/// Makes what was handed over last look like nothing: no protocol has the number 0 that is handed over.
#[inline(always)]
pub fn forget_handed_over() {
    if let Some(place) = HANDED_OVER.get_ptr_mut(0) {
        // SAFETY: as in `hand_over`.
        unsafe { (*place)[10] = 0 };
    }
}

/// What was handed over.
#[inline(always)]
pub fn take_over() -> Option<Transport> {
    HANDED_OVER.get(0).map(Transport::unpack)
}

#[map]
static FLOW_FILTER: Array<FlowFilter> = Array::with_max_entries(1, MMAPABLE);
#[map]
static PREVIOUS: Array<PoolEntry> = Array::with_max_entries(1, MMAPABLE);
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Programs to go on to; see [`lb_common::abi::next`].
#[map]
pub static NEXT: ProgramArray = ProgramArray::with_max_entries(NEXT_PROGRAMS, 0);

/// What a CPU keeps from one function, or packet, to the next.
#[repr(C)]
pub(crate) struct Scratch {
    /// What the kernel's routing table is asked and answers.
    pub(crate) fib: FibLookup,
    /// Input of [`weir_away`]: more than fits in registers.
    away: Away,
    /// What may still be written into the flow table.
    allowance: Allowance,
}

/// This CPU's scratch.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    // SAFETY: the pointer is to the live element of this CPU, on which no second XDP program interrupts this one. Nobody
    // holds two results at once: `away` is written before `weir_away` starts and only read by it, `allowance` is touched in
    // `insert_allowance` alone, and `fib` in `Frame::fib` alone.
    unsafe { SCRATCH.get_ptr_mut(0)?.as_mut() }
}

/// Server ids of QUIC services, filled when the generation is built.
#[map]
static QUIC_SERVERS: HashMap<QuicServerKey, QuicServer> = HashMap::with_max_entries(1, 0);
/// Ethernet addresses of the interfaces on which frames arrive, by index.
#[map]
static INTERFACES: HashMap<u32, [u8; 8]> = HashMap::with_max_entries(MAX_INTERFACES as u32, 0);

/// The maps above as the decisions see them.
pub struct Maps;

impl PrefixNodes for Maps {
    #[inline(always)]
    fn prefix_table(&self, index: u32) -> Option<impl Borrow<PrefixTable>> {
        PREFIX_TABLES.get(index)
    }

    #[inline(always)]
    fn prefix_entry(&self, index: u32) -> Option<u32> {
        let line = PREFIX_ENTRIES.get(index / ENTRIES_PER_LINE as u32)?;
        Some(line.0[index as usize & (ENTRIES_PER_LINE - 1)])
    }

    #[inline(always)]
    fn prefix_node(&self, index: u32) -> Option<impl Borrow<PrefixNode>> {
        PREFIX_NODES.get(index)
    }

    #[inline(always)]
    fn prefix_value(&self, index: u32) -> Option<u16> {
        let line = PREFIX_VALUES.get(index / VALUES_PER_LINE as u32)?;
        Some(line.0[index as usize & (VALUES_PER_LINE - 1)])
    }
}

impl Clock for Maps {
    #[inline(always)]
    fn now_ns(&self) -> u64 {
        // SAFETY: reads a clock; no pointer is involved.
        unsafe { bpf_ktime_get_coarse_ns() }
    }

    #[inline(always)]
    fn random(&self) -> u32 {
        // SAFETY: advances the kernel's per-CPU generator; no pointer is involved.
        unsafe { bpf_get_prandom_u32() }
    }
}

impl Buckets for Maps {
    #[inline(always)]
    fn arrival(&self, bucket: u32) -> Option<u64> {
        BUCKETS.get(bucket).copied()
    }

    #[inline(always)]
    fn set_arrival(&self, bucket: u32, at: u64) {
        if let Some(arrival) = BUCKETS.get_ptr_mut(bucket) {
            // SAFETY: the pointer is to a live, aligned element of the array. Other CPUs may store to it at the same time: the word is
            // written whole.
            unsafe { *arrival = at };
        }
    }

    #[inline(always)]
    fn advance_arrival(&self, bucket: u32, by: u64) {
        if let Some(arrival) = BUCKETS.get_ptr_mut(bucket) {
            // The target has no `fetch_add`; this is the instruction for it, which every kernel knows.
            // SAFETY: the pointer is to a live, aligned element of the array, to which the instruction adds; it touches nothing else.
            unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) arrival, in(reg) by, options(nostack)) };
        }
    }
}

impl Tables for Maps {
    #[inline(always)]
    fn root(&self) -> Option<&Root> {
        ROOT.get(0)
    }

    #[inline(always)]
    fn bucket(&self, index: u32) -> Option<&ServiceBucket> {
        SERVICE_INDEX.get(index)
    }

    #[inline(always)]
    fn service(&self, index: u32) -> Option<&ServiceEntry> {
        SERVICES.get(index)
    }

    #[inline(always)]
    fn plan(&self, index: u32) -> Option<&PlanEntry> {
        PLANS.get(index)
    }

    #[inline(always)]
    fn pool(&self, index: u32) -> Option<&PoolEntry> {
        POOLS.get(index)
    }

    #[inline(always)]
    fn slot(&self, index: u32) -> Option<u16> {
        let chunk = SLOTS.get(index >> 16)?;
        Some(chunk[index as usize & (SLOTS_PER_CHUNK - 1)])
    }

    #[inline(always)]
    fn backend(&self, index: u32) -> Option<&BackendEntry> {
        BACKENDS.get(index)
    }

    #[inline(always)]
    fn admissions(&self) -> Option<&AdmissionWords> {
        ADMISSION.get(0)
    }

    #[inline(always)]
    fn prefix(&self, table: u32, address: &AddressWords) -> u32 {
        let [a, b, c, d] = *address;
        weir_prefix(table, a, b, c, d)
    }

    #[inline(always)]
    fn quic_server(&self, key: &QuicServerKey) -> Option<QuicServer> {
        // SAFETY: the entry is copied at once, and never changes while the program runs.
        unsafe { QUIC_SERVERS.get(key) }.copied()
    }

    #[inline(always)]
    fn interface_address(&self, ifindex: u32) -> Option<[u8; 6]> {
        // SAFETY: the entry is copied at once; the daemon replaces entries whole.
        let [a, b, c, d, e, f, _, _] = *unsafe { INTERFACES.get(&ifindex) }?;
        Some([a, b, c, d, e, f])
    }

    #[inline(always)]
    fn previous(&self, index: u32) -> Option<&PoolEntry> {
        PREVIOUS.get(index)
    }

    #[inline(always)]
    fn flow(&self, key: &FlowWords, touch: impl FnOnce(u32) -> u32) -> Option<FlowEntry> {
        let entry = FLOWS.get_ptr_mut(key)?;
        // SAFETY: a live element of the map. Another CPU may reuse it meanwhile: the copy may then be torn, and is only ever
        // used as an index that is checked; and another flow's entry may be said to have been seen now.
        unsafe {
            let found = *entry;
            let seen = touch(found.seen);
            if seen != found.seen {
                (*entry).seen = seen;
            }
            Some(found)
        }
    }

    #[inline(always)]
    fn remember(&self, key: &FlowWords, entry: FlowEntry) {
        // An LRU map makes room by itself; if even that fails, the flow is placed by its hash as long as shares stay.
        let _ = FLOWS.insert(key, entry, 0);
    }

    #[inline(always)]
    fn forget(&self, key: &FlowWords) -> bool {
        // Most often there is nothing, and looking takes no lock.
        FLOWS.get_ptr(key).is_some() && FLOWS.remove(key).is_ok()
    }

    #[inline(always)]
    fn opening_set<R>(&self, set: u32, act: impl FnOnce(&OpeningSet) -> R) -> Option<R> {
        let set = OPENINGS.get_ptr_mut(set)?;
        // SAFETY: a live element of the map, of as many words, which `Cell` lets change under the reader. Other CPUs do that at any
        // time: words are read and written whole, and what does not belong together is told by its proof.
        Some(act(unsafe { &*set.cast::<OpeningSet>() }))
    }

    #[inline(always)]
    fn filter(&self, index: u32) -> u8 {
        match FLOW_FILTER.get(index / FLOW_FILTER_CHUNK as u32) {
            Some(chunk) => chunk.0[index as usize & (FLOW_FILTER_CHUNK - 1)],
            None => u8::MAX,
        }
    }

    #[inline(always)]
    fn set_filter(&self, index: u32, epoch: u8) {
        let Some(chunk) = FLOW_FILTER.get_ptr_mut(index / FLOW_FILTER_CHUNK as u32) else { return };
        // SAFETY: a live element of the array; CPUs that store to one byte at once store the same.
        unsafe { (*chunk).0[index as usize & (FLOW_FILTER_CHUNK - 1)] = epoch };
    }

    #[inline(always)]
    fn insert_allowance(&self, spend: impl FnOnce(&mut Allowance) -> bool) -> bool {
        scratch().is_some_and(|scratch| spend(&mut scratch.allowance))
    }

    #[inline(always)]
    fn away(&self, request: &Away, _: &mut impl Trace) -> Walked {
        let Some(scratch) = scratch() else { return Walked::INCONSISTENT };
        scratch.away = *request;
        Walked(weir_away())
    }

    #[inline(always)]
    fn settle(&self, _: &Away, walked: Walked, _: &mut impl Trace) -> bool {
        weir_settle(walked.0) != 0
    }

    #[inline(always)]
    fn port_ranges(&self, index: u32) -> Option<&PortRanges> {
        PORT_RANGES.get(index)
    }

    #[inline(always)]
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry> {
        // SAFETY: as in `flow`; a torn copy names a backend that is checked.
        unsafe { FRAGMENTS.get(key) }.copied()
    }

    #[inline(always)]
    fn keep_fragment(&self, key: &FragmentKey, entry: FragmentEntry) {
        // If even an LRU map makes no room, the later fragments are orphans.
        let _ = FRAGMENTS.insert(key, entry, 0);
    }

    #[inline(always)]
    fn remember_fragment(&self, _: &Transport, backend: u32) {
        // Only packets that were sorted out are fragments, and those were handed over.
        weir_remember_fragment(backend);
    }

    #[inline(always)]
    fn answers_booked_ns(&self, budget: Budget) -> u64 {
        ANSWERS.get(budget as u32).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn book_answers_ns(&self, budget: Budget, until: u64) {
        if let Some(booked) = ANSWERS.get_ptr_mut(budget as u32) {
            // SAFETY: a live per-CPU element, which only this program on this CPU writes.
            unsafe { *booked = until };
        }
    }

    #[inline(always)]
    fn find(&self, lookup: &Lookup) -> Option<u32> {
        let [a, b, c, d] = lookup.address;
        let rest = lookup.port | (lookup.protocol as u32) << 16 | (lookup.prefix as u32) << 24;
        weir_find(a, b, c, d, rest).checked_sub(1)
    }

    #[inline(always)]
    fn wide(&self, address: &AddressWords, port: u16, protocol: u8) -> Option<u32> {
        let [a, b, c, d] = *address;
        weir_wide(a, b, c, d, port as u32 | (protocol as u32) << 16).checked_sub(1)
    }

    #[inline(always)]
    fn walk(&self, _: &Walk, _: &mut impl Trace) -> Walked {
        Walked(weir_walk())
    }

    #[inline(always)]
    fn traits(&self, _: &Walk) -> u64 {
        weir_traits()
    }

    #[inline(always)]
    fn probe(&self, request: &Probe, _: &mut impl Trace) -> Probed {
        let flags = request.opening as u32 | request.eased << 16;
        Probed(weir_probe(request.pool, request.first, request.end, flags))
    }

    #[inline(always)]
    fn guard(&self, index: u32) -> Option<&GuardEntry> {
        GUARDS.get(index)
    }

    #[inline(always)]
    fn node_guard(&self) -> Option<&NodeGuard> {
        NODE_GUARD.get(0)
    }

    #[inline(always)]
    fn blocked_until(&self, scope: u32, source: &AddressWords) -> u32 {
        let [a, b, c, d] = *source;
        BLOCKED.get(Key::new(160, [scope, a, b, c, d])).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn count_guard(&self, guard: u32, reason: u32) {
        let Some(root) = self.root() else { return };
        // SAFETY: reads the number of the CPU that the program runs on; no pointer is involved.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        if let Some(counts) = GUARD_COUNTS.get_ptr_mut(cpu * root.guards + guard) {
            // SAFETY: as in `count`.
            unsafe { (*counts).packets[reason as usize & 7] += 1 };
        }
    }

    #[inline(always)]
    fn admit(&self, request: &Request) -> u32 {
        let [a, b, c, d] = request.source;
        let (high, low) = (a as u64 | (b as u64) << 32, c as u64 | (d as u64) << 32);
        weir_admit(request.guard, request.flags, high, low)
    }

    #[inline(always)]
    fn count(&self, slot: u32, bytes: u64, opening: bool, dropped: bool) {
        let Some(root) = self.root() else { return };
        // SAFETY: reads the number of the CPU that the program runs on; no pointer is involved.
        let cpu = unsafe { bpf_get_smp_processor_id() };
        let Some(counter) = COUNTERS.get_ptr_mut(cpu * root.counter_stride + slot) else {
            return;
        };
        // SAFETY: the pointer is to a live element of the array. The block belongs to this CPU, on which no second XDP
        // program interrupts this one; user space only reads.
        let counter = unsafe { &mut *counter };
        if dropped {
            counter.dropped += 1;
            return;
        }
        counter.packets += 1;
        counter.bytes += bytes;
        counter.opening += opening as u64;
    }
}
