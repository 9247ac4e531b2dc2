//! What the decisions need from their surroundings. The XDP program implements these over maps and the packet's memory,
//! tests over plain vectors, `weir explain` over the daemon's mapping of the live maps.

use super::{
    admit::{self, Request},
    answers::Budget,
    classify::{self, Lookup},
    filter::Allowance,
    fragment,
    openings::OpeningSet,
    parse::Transport,
    prefix::{self, PrefixNodes},
    select::{self, Probe, Probed},
    steer::{self, Away, Walk, Walked},
    too_big::{self, TooBig},
    trace::Trace,
    unusual::{self, Unusual},
};
use crate::abi::reason::Reason;
use crate::abi::{
    admission::AdmissionWords,
    agent::{AgentAddress, AgentReason, AgentRoot},
    backend::BackendEntry,
    flow::{FlowEntry, FlowWords, FragmentEntry, FragmentKey},
    guard::{GuardEntry, NodeGuard},
    plan::{PlanEntry, PoolEntry},
    quic::{QuicServer, QuicServerKey},
    root::Root,
    service::{PortRanges, ServiceBucket, ServiceEntry},
};
use crate::net::{AddressWords, ethernet};

/// A frame, from the first byte of its Ethernet header on.
pub trait Packet {
    /// Length of the frame in bytes.
    fn length(&self) -> usize;

    /// `N` bytes from offset `at`, or `None` where the frame is shorter.
    fn read<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// Overwrites `N` bytes from offset `at`; `None`, with nothing written, where the frame is shorter.
    fn write<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()>;

    /// [`read`](Self::read) for an offset that is not known at compile time.
    fn read_far<const N: usize>(&self, at: usize) -> Option<[u8; N]>;

    /// [`write`](Self::write) for an offset that is not known at compile time.
    fn write_far<const N: usize>(&mut self, at: usize, bytes: &[u8; N]) -> Option<()>;

    /// Enlarges the frame at its front by `by` bytes and overwrites its beginning with an Ethernet header and the `N` words
    /// of an IP header; `None` when there is no room. After a `None` the frame is to be dropped.
    fn push_front<const N: usize>(
        &mut self,
        by: usize,
        ethernet: &[u8; ethernet::LENGTH],
        header: &[u32; N],
    ) -> Option<()>;

    /// Shortens the frame at its front by `by` bytes and overwrites what are its first `N` bytes then; `None` when that is
    /// not possible. After a `None` the frame is to be dropped.
    fn pop_front<const N: usize>(&mut self, by: usize, bytes: &[u8; N]) -> Option<()>;

    /// Enlarges the frame at its front by `by` bytes, or shortens it there if `by` is negative. What comes to stand in front is
    /// undefined. `None` when there is no room, or too little frame; the frame is to be dropped then.
    fn resize_front(&mut self, by: i32) -> Option<()>;

    /// Overwrites `N` words, whose bytes in memory are in network order, from offset `at`; `None`, with nothing written, where
    /// the frame is shorter.
    fn write_words<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()>;

    /// [`write_words`](Self::write_words) for an offset that is not known at compile time.
    fn write_words_far<const N: usize>(&mut self, at: usize, words: &[u32; N]) -> Option<()>;
    /// Shortens the frame at its end to `length` bytes; `None` when that is not possible. After a `None` the frame is to be dropped.
    fn truncate(&mut self, length: usize) -> Option<()>;

    /// [`unusual::sort_out`]. A port so that the XDP program can make it a function of its own.
    #[inline(always)]
    fn sort_out<T: Tables>(&mut self, tables: &T) -> Unusual
    where
        Self: Sized,
    {
        unusual::sort_out(self, tables)
    }

    /// [`admit::is_frame_blocked`], for the same reason.
    #[inline(always)]
    fn is_blocked<T: Tables>(&self, tables: &T) -> bool
    where
        Self: Sized,
    {
        admit::is_frame_blocked(self, tables)
    }

    /// [`too_big::answer`], for the same reason.
    #[inline(always)]
    fn answer_too_big<T: Tables>(&mut self, tables: &T, request: &TooBig) -> Reason
    where
        Self: Sized,
    {
        too_big::answer(self, tables, request)
    }

    /// Interface on which the frame arrived.
    fn ingress_ifindex(&self) -> u32;

    /// Asks the kernel's routing and neighbour tables for the way of a packet that would be forwarded from where this frame
    /// arrived, lets `fill` write the question and shows the answer to `read`. A kernel that does not forward on that interface knows none.
    fn fib(&self, fill: impl FnOnce(&mut FibLookup), read: impl FnOnce(FibAnswer, &FibLookup));

    /// The MTU of the way that [`fib`](Self::fib) was last told of, also where it takes no packet of that length.
    fn fib_mtu(&self) -> u16;
}

/// What [`Packet::fib`] asks and is answered, as `struct bpf_fib_lookup` (`linux/bpf.h`) has it. Fields without a word about
/// answers keep what was asked.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct FibLookup {
    /// Address family: [`INET`](Self::INET) or [`INET6`](Self::INET6). Answer: that of the next hop.
    pub family: u8,
    /// IP protocol; 0 if that is all the same.
    pub protocol: u8,
    /// Source and destination port; 0 if they are all the same.
    pub ports: [u16; 2],
    /// Length of the IP packet in bytes. Answer: the MTU of the way; kernels before 5.12 leave it as it is.
    pub length: u16,
    /// Interface on which the packet would come. Answer: that by which it would leave.
    pub ifindex: u32,
    /// IPv4: DSCP and ECN in the first byte. IPv6: traffic class and flow label, network order.
    pub class: u32,
    /// Source; an IPv4 address in the first word.
    pub source: AddressWords,
    /// Destination; an IPv4 address in the first word. Answer: the next hop.
    pub destination: AddressWords,
    /// VLAN; not asked for.
    pub vlan: u32,
    /// Answer: Ethernet addresses of the egress interface, then of the next hop, in words whose bytes are in network order.
    pub macs: [u32; 3],
}

const _: () = assert!(size_of::<FibLookup>() == 64);

impl FibLookup {
    /// `AF_INET`.
    pub const INET: u8 = 2;
    /// `AF_INET6`.
    pub const INET6: u8 = 10;

    /// The addresses of the answer in the order in which a frame has them: the next hop's first.
    #[must_use]
    #[inline(always)]
    pub const fn addresses(&self) -> [u32; 3] {
        // The second word holds the end of one and the beginning of the other.
        let [a, b, c] = [u32::from_be(self.macs[0]), u32::from_be(self.macs[1]), u32::from_be(self.macs[2])];
        [(b << 16 | c >> 16).to_be(), (c << 16 | a >> 16).to_be(), (a << 16 | b >> 16).to_be()]
    }
}

/// What [`Packet::fib`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FibAnswer {
    /// The way is known.
    Known,
    /// It is known, but takes no packet of that length.
    TooBig,
    /// It is not known.
    Unknown,
}

/// Time and chance.
pub trait Clock {
    /// CLOCK_MONOTONIC in nanoseconds, as of the last timer tick: up to 10 ms old, but cheap.
    fn now_ns(&self) -> u64;
    /// A number that nobody outside can predict.
    fn random(&self) -> u32;
}

/// The buckets of limits: see [`super::gcra`].
pub trait Buckets {
    /// The theoretical arrival time in a bucket; `None` when there is no such bucket.
    fn arrival(&self, bucket: u32) -> Option<u64>;
    /// Sets the time in a bucket.
    fn set_arrival(&self, bucket: u32, at: u64);
    /// Moves the time in a bucket on, atomically.
    fn advance_arrival(&self, bucket: u32, by: u64);
}

/// The maps. Every index may be out of range: `None` then, never a panic.
pub trait Tables: Clock + Buckets + PrefixNodes {
    /// The root, or `None` before the first generation is in place.
    fn root(&self) -> Option<&Root>;
    /// A bucket of the service index.
    fn bucket(&self, index: u32) -> Option<&ServiceBucket>;
    /// A service.
    fn service(&self, index: u32) -> Option<&ServiceEntry>;
    /// A plan.
    fn plan(&self, index: u32) -> Option<&PlanEntry>;
    /// A pool.
    fn pool(&self, index: u32) -> Option<&PoolEntry>;
    /// A slot of the slot array, in which all tables lie.
    fn slot(&self, index: u32) -> Option<u16>;
    /// A backend.
    fn backend(&self, index: u32) -> Option<&BackendEntry>;
    /// The admission words of domains and pools.
    fn admissions(&self) -> Option<&AdmissionWords>;
    /// [`prefix::lookup`]: the value of the longest prefix of a table that holds an address, 0 if none does. A port for
    /// the same reason as [`walk`](Self::walk).
    #[inline(always)]
    fn prefix(&self, table: u32, address: &AddressWords) -> u32
    where
        Self: Sized,
    {
        prefix::lookup(self, table, address)
    }
    /// Whose server id it is that a QUIC connection id carries.
    fn quic_server(&self, key: &QuicServerKey) -> Option<QuicServer>;
    /// Ethernet address of an interface on which frames arrive.
    fn interface_address(&self, ifindex: u32) -> Option<[u8; 6]>;
    /// The client region of an address by longest matching prefix; 0, the default region, when none matches.
    #[inline(always)]
    fn client_region(&self, address: &AddressWords) -> u32
    where
        Self: Sized,
    {
        self.root().map_or(0, |root| self.prefix(root.clients, address))
    }
    /// A list of port ranges.
    fn port_ranges(&self, index: u32) -> Option<&PortRanges>;
    /// The entry of a datagram in fragments.
    fn fragment(&self, key: &FragmentKey) -> Option<FragmentEntry>;
    /// Writes a datagram in fragments down; when there are too many, the least recently used entry goes.
    fn keep_fragment(&self, key: &FragmentKey, entry: FragmentEntry);
    /// The time up to which this CPU's answers are booked, in nanoseconds; see [`answers`](super::answers).
    fn answers_booked_ns(&self, budget: Budget) -> u64;
    /// Books this CPU's answers up to a time.
    fn book_answers_ns(&self, budget: Budget, until: u64);
    /// [`classify::find`], for the reason of [`walk`](Self::walk).
    #[inline(always)]
    fn find(&self, lookup: &Lookup) -> Option<u32>
    where
        Self: Sized,
    {
        classify::find(self, lookup)
    }
    /// [`classify::wide`], for the same reason.
    #[inline(always)]
    fn wide(&self, address: &AddressWords, port: u16, protocol: u8) -> Option<u32>
    where
        Self: Sized,
    {
        classify::wide(self, address, port, protocol)
    }
    /// [`fragment::remember`], for the same reason.
    #[inline(always)]
    fn remember_fragment(&self, transport: &Transport, backend: u32)
    where
        Self: Sized,
    {
        fragment::remember(self, transport, backend);
    }
    /// The client region that an address had before the last change of the configuration.
    #[inline(always)]
    fn previous_client_region(&self, address: &AddressWords) -> u32
    where
        Self: Sized,
    {
        self.root().map_or(0, |root| self.prefix(root.previous_clients, address))
    }
    /// An element of `PREVIOUS`: the table of a service in which untracked flows found their home before the last change of
    /// the configuration. Of its fields only `table_base` and `table_slots` have a meaning.
    fn previous(&self, index: u32) -> Option<&PoolEntry>;
    /// A flow's entry in `FLOWS`, as it was found; its `seen` becomes what `touch` makes of it.
    fn flow(&self, key: &FlowWords, touch: impl FnOnce(u32) -> u32) -> Option<FlowEntry>;
    /// Writes a flow into `FLOWS`; when that is full, the least recently used entry goes.
    fn remember(&self, key: &FlowWords, entry: FlowEntry);
    /// Removes a flow from `FLOWS`; `false` when it was not there.
    fn forget(&self, key: &FlowWords) -> bool;
    /// Lets `act` look at and change a set of `OPENINGS`; `None` if there is no such set. See [`openings`](super::openings).
    fn opening_set<R>(&self, set: u32, act: impl FnOnce(&OpeningSet) -> R) -> Option<R>;
    /// A byte of the flow filter; not 0 where there is none, as then nothing is known.
    fn filter(&self, index: u32) -> u8;
    /// Stores a byte of the flow filter.
    fn set_filter(&self, index: u32, epoch: u8);
    /// Lets `spend` take from what this CPU may still write into the flow table.
    fn insert_allowance(&self, spend: impl FnOnce(&mut Allowance) -> bool) -> bool;
    /// [`steer::away`]. A port so that the XDP program can keep it out of the way of packets that go straight home.
    #[inline(always)]
    fn away(&self, request: &Away, trace: &mut impl Trace) -> Walked
    where
        Self: Sized,
    {
        steer::away(self, request, trace)
    }
    /// [`steer::settle`], for the same reason; of the packet that [`away`](Self::away) was last called for.
    #[inline(always)]
    fn settle(&self, request: &Away, walked: Walked, trace: &mut impl Trace) -> bool
    where
        Self: Sized,
    {
        steer::settle(self, request, walked, trace)
    }
    /// [`steer::walk`]. A port so that the XDP program can make it a function that the verifier checks once, on its own, and
    /// not again for each way that leads there.
    #[inline(always)]
    fn walk(&self, request: &Walk, trace: &mut impl Trace) -> Walked
    where
        Self: Sized,
    {
        steer::walk(self, request, trace)
    }
    /// [`steer::traits`], for the same reason.
    #[inline(always)]
    fn traits(&self, request: &Walk) -> u64
    where
        Self: Sized,
    {
        steer::traits(self, request)
    }
    /// [`select::probe`], for the same reason.
    #[inline(always)]
    fn probe(&self, request: &Probe, trace: &mut impl Trace) -> Probed
    where
        Self: Sized,
    {
        select::probe(self, request, trace)
    }
    /// The guard with this index: the protection of a service.
    fn guard(&self, index: u32) -> Option<&GuardEntry>;
    /// The guard of all services.
    fn node_guard(&self) -> Option<&NodeGuard>;
    /// Until when the longest matching one of the blocked source prefixes of a scope holds (see [`crate::abi::guard`]); 0 for none.
    fn blocked_until(&self, scope: u32, source: &AddressWords) -> u32;
    /// Counts a packet that a guard refused on this CPU, under reason [`FIRST_REASON`](crate::abi::guard::FIRST_REASON) + `reason`.
    fn count_guard(&self, guard: u32, reason: u32);
    /// [`admit::judge`], for the same reason as [`walk`](Self::walk).
    #[inline(always)]
    fn admit(&self, request: &Request) -> u32
    where
        Self: Sized,
    {
        admit::judge(self, request)
    }
    /// Adds to this CPU's counter in `slot`.
    fn count(&self, slot: u32, bytes: u64, opening: bool, dropped: bool);
}

/// The agent's maps.
pub trait AgentTables {
    /// The agent's root, or `None` before it is in place.
    fn root(&self) -> Option<&AgentRoot>;
    /// Whether an address is one of the agent's tunnel endpoints.
    fn is_local(&self, address: &AgentAddress) -> bool;
    /// Whether an address lies in one of the allowed source prefixes.
    fn is_allowed_source(&self, address: &AgentAddress) -> bool;
    /// Adds a packet to this CPU's counter of a reason.
    fn count(&self, reason: AgentReason, bytes: u64);
}
