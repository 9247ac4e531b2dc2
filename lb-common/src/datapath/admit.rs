//! Stage 2b: may the packet come in?
//!
//! For services with access lists, limits or a share to shed, and for all of them while an emergency switch is on; any other packet does not come
//! here (one test of a flag). In this order, so that what is refused by one rule takes nothing from the limits behind it:
//!
//! 1. source prefixes that an operator blocked ([`Reason::Emergency`]), then the access list: every packet;
//! 2. shedding, by an operator ([`Reason::Emergency`]) or by the overload controller ([`Reason::Shed`]): packets that open a flow, at random;
//! 3. limits of the source prefix ([`Reason::SourceLimited`]), then of the service ([`Reason::ServiceLimited`]), then those of an operator's
//!    switch ([`Reason::Emergency`]): packets, and packets that open a flow.
//!
//! What is no ordinary packet, and may be for a VIP but for no service (pings and other ICMP), is judged by the first half of rule 1 before it is
//! sorted out: see [`is_frame_blocked`]. Access lists and limits are of a service; a ping is for none. Questions of neighbours (ARP, neighbour discovery) are answered whoever
//! asks: they come from the link, and what follows them is judged.
//!
//! Packets of established flows are never shed. With plain UDP every datagram may open a flow, so every one may be shed, unless the service says
//! that its datagrams belong to flows (`udp = "stick"`).

use super::{
    classify,
    gcra::{fine, take, take_either},
    hash::{finish, service_hash},
    l2,
    parse::Transport,
    ports::{Packet, Tables},
};
use crate::{
    abi::{
        backend::{ETHERTYPE_IPV4, ETHERTYPE_IPV6},
        guard::{
            ACCESS_ALLOW, ACCESS_DENY, BUCKET_EMERGENCY_NEW_FLOWS, BUCKET_EMERGENCY_PACKETS,
            BUCKET_NEW_FLOWS, BUCKET_PACKETS, CLASSES, FIRST_REASON, GUARD_ACCESS, GUARD_ALLOW_LIST,
            GUARD_REASONS, GUARD_SERVICE_LIMITS, GUARD_SOURCE_LIMITS, GuardEntry, NodeGuard, SCOPE_ALL,
            SERVICE_BUCKETS, SOURCE_BUCKETS, UNTIL_SHIFT,
        },
        reason::Reason,
        root::{FEATURE_EMERGENCY, Root},
        service::{SERVICE_GUARDED, SERVICE_STICKY_UDP, ServiceEntry},
    },
    net::{AddressWords, address_words, mapped_words, protocol, word},
};

// One test of both words' bits decides whether a packet is looked at here.
const _: () = assert!(SERVICE_GUARDED == FEATURE_EMERGENCY);

/// What a guard is asked. A function of its own in the XDP program takes it as four numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Request {
    /// The service's guard.
    pub guard: u32,
    /// `REQUEST_*`.
    pub flags: u32,
    /// Source address.
    pub source: AddressWords,
}

/// [`Request::flags`]: the packet may open a flow.
pub const REQUEST_OPENING: u32 = 1;
/// [`Request::flags`]: the packet is IPv6.
pub const REQUEST_IPV6: u32 = 2;
/// [`Request::flags`]: the service has a guard of its own.
pub const REQUEST_GUARDED: u32 = 4;
/// [`Request::flags`]: some emergency switch is on, or new flows of some class are shed.
pub const REQUEST_EMERGENCY: u32 = 8;

/// Whether a packet of `service` may come in. 0 that it may, else the number of the reason for which it is dropped.
#[inline(always)]
pub fn admit<T: Tables>(tables: &T, root: &Root, service: &ServiceEntry, transport: &Transport) -> u32 {
    if (service.flags | root.features) & SERVICE_GUARDED == 0 {
        return 0;
    }
    tables.admit(&request(root, service, transport))
}

/// What is asked about a packet.
#[inline(always)]
#[must_use]
pub fn request(root: &Root, service: &ServiceEntry, transport: &Transport) -> Request {
    let tuple = &transport.tuple;
    let sticky = service.flags & SERVICE_STICKY_UDP != 0 && tuple.protocol == protocol::UDP;
    let mut flags = 0;
    if transport.opening && !sticky {
        flags |= REQUEST_OPENING;
    }
    if tuple.is_ipv6 {
        flags |= REQUEST_IPV6;
    }
    if service.flags & SERVICE_GUARDED != 0 {
        flags |= REQUEST_GUARDED;
    }
    if root.features & FEATURE_EMERGENCY != 0 {
        flags |= REQUEST_EMERGENCY;
    }
    Request { guard: service.guard as u32, flags, source: tuple.source }
}

/// The reason with this number, which [`admit`] gave.
#[inline(always)]
#[must_use]
pub const fn reason(number: u32) -> Reason {
    match number.wrapping_sub(FIRST_REASON) {
        0 => Reason::SourceDenied,
        1 => Reason::SourceNotAllowed,
        2 => Reason::ServiceLimited,
        3 => Reason::SourceLimited,
        4 => Reason::Shed,
        _ => Reason::Emergency,
    }
}

const _: () = assert!(reason(FIRST_REASON + GUARD_REASONS - 1) as u32 == FIRST_REASON + GUARD_REASONS - 1);

/// Judges a packet and counts it under its service if it is refused: what [`Tables::admit`] does. A service without a guard is not protected.
#[inline(always)]
pub fn judge<T: Tables>(tables: &T, request: &Request) -> u32 {
    let (Some(guard), Some(node)) = (tables.guard(request.guard), tables.node_guard()) else {
        return 0;
    };
    let now_ns = tables.now_ns();
    let number = refusal(tables, request, guard, node, now_ns);
    if number != 0 {
        tables.count_guard(request.guard, number - FIRST_REASON);
    }
    number
}

#[inline(always)]
fn refusal<T: Tables>(
    tables: &T,
    request: &Request,
    guard: &GuardEntry,
    node: &NodeGuard,
    now_ns: u64,
) -> u32 {
    let moment = (now_ns >> UNTIL_SHIFT) as u32;
    let is_emergency = request.flags & REQUEST_EMERGENCY != 0;
    if is_emergency && is_blocked(tables, request, guard, node, moment) {
        return Reason::Emergency as u32;
    }
    if request.flags & REQUEST_GUARDED != 0 && guard.flags & GUARD_ACCESS != 0 {
        let number = access(tables, guard, &request.source);
        if number != 0 {
            return number;
        }
    }
    if request.flags & REQUEST_OPENING != 0 {
        let number = shed(tables, guard, node, is_emergency, moment);
        if number != 0 {
            return number;
        }
    }
    limits(tables, request, guard, node, is_emergency, now_ns)
}

/// Whether an emergency switch may be on.
#[inline(always)]
pub fn is_emergency<T: Tables>(tables: &T) -> bool {
    tables.root().is_some_and(|root| root.features & FEATURE_EMERGENCY != 0)
}

/// Whether a frame is an IP packet for a VIP from a source that an operator blocked for all services: what [`Packet::is_blocked`] says.
#[inline(always)]
pub fn is_frame_blocked<P: Packet, T: Tables>(packet: &P, tables: &T) -> bool {
    let moment = (tables.now_ns() >> UNTIL_SHIFT) as u32;
    if tables.node_guard().is_none_or(|node| node.blocks_until <= moment) {
        return false;
    }
    // One address at a time: the stack is short.
    let (ethertype, at) = l2::ethertype_of(packet);
    let is_ipv6 = ethertype == ETHERTYPE_IPV6;
    if !is_ipv6 && ethertype != ETHERTYPE_IPV4 {
        return false;
    }
    address(packet, is_ipv6, at + if is_ipv6 { 24 } else { 16 })
        .is_some_and(|destination| classify::is_vip(tables, &destination))
        && address(packet, is_ipv6, at + if is_ipv6 { 8 } else { 12 })
            .is_some_and(|source| tables.blocked_until(SCOPE_ALL, &source) > moment)
}

/// The address at an offset.
#[inline(always)]
fn address<P: Packet>(packet: &P, is_ipv6: bool, at: usize) -> Option<AddressWords> {
    if is_ipv6 {
        Some(address_words(&packet.read_far::<16>(at)?))
    } else {
        Some(mapped_words(word(&packet.read_far::<4>(at)?, 0)))
    }
}

/// Whether an operator blocked the source, for this service or for all.
#[inline(always)]
fn is_blocked<T: Tables>(
    tables: &T,
    request: &Request,
    guard: &GuardEntry,
    node: &NodeGuard,
    moment: u32,
) -> bool {
    (node.blocks_until > moment && tables.blocked_until(SCOPE_ALL, &request.source) > moment)
        || (guard.blocks_until > moment && tables.blocked_until(request.guard, &request.source) > moment)
}

#[inline(always)]
fn access<T: Tables>(tables: &T, guard: &GuardEntry, source: &AddressWords) -> u32 {
    match tables.prefix(guard.access, source) {
        ACCESS_ALLOW => 0,
        ACCESS_DENY => Reason::SourceDenied as u32,
        _ if guard.flags & GUARD_ALLOW_LIST != 0 => Reason::SourceNotAllowed as u32,
        _ => 0,
    }
}

/// Sheds a new flow at random. One number for all shares: what passes the largest passes all of them.
#[inline(always)]
fn shed<T: Tables>(tables: &T, guard: &GuardEntry, node: &NodeGuard, is_emergency: bool, moment: u32) -> u32 {
    let mut by_operator = 0;
    let mut by_controller = 0;
    if guard.shed_until > moment {
        by_controller = guard.shed;
    }
    if is_emergency {
        let class = guard.class as usize & (CLASSES - 1);
        if node.shed_until > moment && node.shed[class] > by_controller {
            by_controller = node.shed[class];
        }
        if guard.switch_shed_until > moment {
            by_operator = guard.switch_shed;
        }
        if node.switch_shed_until[class] > moment && node.switch_shed[class] > by_operator {
            by_operator = node.switch_shed[class];
        }
    }
    if by_operator | by_controller == 0 {
        return 0;
    }
    let drawn = tables.random() >> 16;
    if drawn < by_operator {
        Reason::Emergency as u32
    } else if drawn < by_controller {
        Reason::Shed as u32
    } else {
        0
    }
}

#[inline(always)]
fn limits<T: Tables>(
    tables: &T,
    request: &Request,
    guard: &GuardEntry,
    node: &NodeGuard,
    is_emergency: bool,
    now_ns: u64,
) -> u32 {
    let now = fine(now_ns);
    let is_opening = request.flags & REQUEST_OPENING != 0;
    if guard.flags & GUARD_SOURCE_LIMITS != 0 && request.flags & REQUEST_GUARDED != 0 {
        let (first, second) = source_places(tables, request, guard, node);
        if guard.source_packets.is_set() && !take_either(tables, first, second, now, &guard.source_packets) {
            return Reason::SourceLimited as u32;
        }
        if is_opening
            && guard.source_new_flows.is_set()
            && !take_either(tables, first + 1, second + 1, now, &guard.source_new_flows)
        {
            return Reason::SourceLimited as u32;
        }
    }
    let base = request.guard * SERVICE_BUCKETS;
    if guard.flags & GUARD_SERVICE_LIMITS != 0 && request.flags & REQUEST_GUARDED != 0 {
        if guard.packets.is_set() && !take(tables, base + BUCKET_PACKETS, now, &guard.packets) {
            return Reason::ServiceLimited as u32;
        }
        if is_opening
            && guard.new_flows.is_set()
            && !take(tables, base + BUCKET_NEW_FLOWS, now, &guard.new_flows)
        {
            return Reason::ServiceLimited as u32;
        }
    }
    if is_emergency && guard.switch_limit_until > (now_ns >> UNTIL_SHIFT) as u32 {
        let packets = &guard.switch_packets;
        if packets.is_set() && !take(tables, base + BUCKET_EMERGENCY_PACKETS, now, packets) {
            return Reason::Emergency as u32;
        }
        let flows = &guard.switch_new_flows;
        if is_opening && flows.is_set() && !take(tables, base + BUCKET_EMERGENCY_NEW_FLOWS, now, flows) {
            return Reason::Emergency as u32;
        }
    }
    0
}

/// Where the buckets of packets of a source prefix lie, in either row; those of new flows follow each. Keyed, so that nobody outside can choose
/// sources that share their places with others.
#[inline(always)]
fn source_places<T: Tables>(
    tables: &T,
    request: &Request,
    guard: &GuardEntry,
    node: &NodeGuard,
) -> (u32, u32) {
    let mut prefix = request.source;
    if request.flags & REQUEST_IPV6 == 0 {
        prefix[3] &= guard.source_mask_v4;
    } else {
        let mask = &guard.source_mask_v6;
        prefix = [prefix[0] & mask[0], prefix[1] & mask[1], prefix[2] & mask[2], prefix[3] & mask[3]];
    }
    let seed = match tables.root() {
        Some(root) => root.hash_key.finish,
        None => 0,
    };
    let h =
        finish(service_hash(seed, &prefix, 0, 0, 0) ^ (request.guard as u64) << 32 ^ seed.rotate_left(17));
    let place = |h: u32, row: u32| {
        node.source_base + (row * (node.source_mask + 1) + (h & node.source_mask)) * SOURCE_BUCKETS
    };
    (place(h as u32, 0), place((h >> 32) as u32, 1))
}
