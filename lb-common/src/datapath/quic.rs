//! QUIC: whose connection is it? (draft-ietf-quic-load-balancers, plaintext connection ids)
//!
//! A server that takes part writes its server id into the connection ids that it gives to clients, behind a first byte whose
//! upper three bits name the configuration. So a connection stays with its backend when the client's address or port
//! changes. The lower five bits of the first byte may hold the connection id's length; nothing here needs it.
//!
//! | datagram | goes |
//! |---|---|
//! | Initial, 0-RTT, long header of an unknown version | by its tuple, as one that opens a flow: the client chose the connection id |
//! | other long header, short header, with the id of a server | to that server, if it may go there as an established flow |
//! | the same with any other connection id | by its tuple, as one of an established flow |
//!
//! 0-RTT packets count as opening, too: they belong where the Initial before them went, also while a drain makes that differ.
//!
//! A connection id cannot widen anything: the server must belong to a pool that the plan of the client's region names, and the
//! pool, the backend and the domains above it must admit the flow. Whoever makes up connection ids can choose among the backends
//! that serve him anyway.

use super::{
    hash::{pool_byte, share_limit},
    l2::Facts,
    ports::{Packet, Tables},
    select,
};
use crate::{
    abi::{
        limits::MAX_PLAN_STEPS,
        quic::{QuicConfigEntry, QuicServerKey},
        service::{SERVICE_MULTI_PLAN, ServiceEntry},
    },
    net::{AddressWords, address_words, mapped_words},
};

/// Length of a UDP header.
const UDP_LENGTH: usize = network_types::udp::UdpHdr::LEN;
/// Bit of the first byte of a packet with a long header (RFC 8999, section 5.1).
const LONG: u8 = 0x80;
/// Bytes of a long header up to the connection id: first byte, version, length of the connection id.
const LONG_LENGTH: usize = 6;
/// QUIC version 1 (RFC 9000).
const VERSION_1: u32 = 1;
/// QUIC version 2 (RFC 9369).
const VERSION_2: u32 = 0x6b33_43cf;
/// Bytes that are read of a connection id: its first one and the longest server id. Every datagram with a short header has
/// more behind its first byte, as header protection samples 16 bytes (RFC 9001, section 5.4.2).
const READ_LENGTH: usize = 16;

/// What a packet is placed by.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    /// The service.
    pub service: &'a ServiceEntry,
    /// Its index.
    pub index: u32,
    /// The packet.
    pub facts: Facts,
    /// The flow's hash.
    pub h: u64,
}

/// What was found, in one word.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Found(u64);

impl Found {
    const OPENING: u64 = 1 << 32;
    /// [`backend`](Self::backend) when the connection id names none.
    pub const NONE: u32 = u32::MAX;
    const OPENS: Self = Self(Self::NONE as u64 | Self::OPENING);
    /// No connection id names a backend, and the packet belongs to a flow that is there.
    pub(super) const BY_TUPLE: Self = Self(Self::NONE as u64);

    /// Whether the packet may open a flow.
    #[must_use]
    #[inline(always)]
    pub const fn opening(self) -> bool {
        self.0 & Self::OPENING != 0
    }

    /// The backend that the connection id names and that may take the packet, or [`NONE`](Self::NONE).
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> u32 {
        self.0 as u32
    }
}

/// Reads a datagram of a QUIC service.
#[inline(never)]
pub fn find<P: Packet, T: Tables>(packet: &P, tables: &T, request: &Request<'_>) -> Found {
    let at = request.facts.payload_at() + UDP_LENGTH;
    let Some([first]) = packet.read_far::<1>(at) else {
        return Found::OPENS;
    };
    let mut id_at = at + 1;
    let mut id_length = READ_LENGTH;
    if first & LONG != 0 {
        let Some([_, a, b, c, d, length]) = packet.read_far::<LONG_LENGTH>(at) else {
            return Found::OPENS;
        };
        if is_opening(first, u32::from_be_bytes([a, b, c, d])) {
            return Found::OPENS;
        }
        id_at = at + LONG_LENGTH;
        id_length = length as usize;
    }
    let end = request.facts.ip_at() + request.facts.ip_length() as usize;
    if id_at + READ_LENGTH > end {
        return Found::BY_TUPLE;
    }
    let Some(id) = packet.read_far::<READ_LENGTH>(id_at) else {
        return Found::BY_TUPLE;
    };
    let [current, rotation] = request.service.quic;
    let config = if QuicConfigEntry(current).matches(id[0]) {
        QuicConfigEntry(current)
    } else {
        QuicConfigEntry(rotation)
    };
    if !config.matches(id[0]) || id_length < 1 + config.length() {
        return Found::BY_TUPLE;
    }
    let key = QuicServerKey {
        service: request.index,
        config: config.0,
        reserved: [0; 3],
        server_id: server_id(&id, config.length()),
    };
    admitted(packet, tables, request, &key)
}

/// Whether a packet with a long header has a connection id that the client chose.
#[inline(always)]
const fn is_opening(first: u8, version: u32) -> bool {
    // Types 0 (Initial) and 1 (0-RTT) in version 1 (RFC 9000, section 17.2), one more each in version 2 (RFC 9369, section 3.2).
    let kind = first >> 4 & 3;
    match version {
        VERSION_1 => kind <= 1,
        VERSION_2 => kind == 1 || kind == 2,
        _ => true,
    }
}

/// The `length` bytes behind the first one of a connection id, then zeroes, in words whose bytes are as in the packet.
#[inline(always)]
const fn server_id(id: &[u8; READ_LENGTH], length: usize) -> [u64; 2] {
    let low = u64::from_le_bytes([id[1], id[2], id[3], id[4], id[5], id[6], id[7], id[8]]);
    let high = u64::from_le_bytes([id[9], id[10], id[11], id[12], id[13], id[14], id[15], 0]);
    let [low_bits, high_bits] =
        if length >= 8 { [64, 8 * (length as u32 - 8)] } else { [8 * length as u32, 0] };
    [(low & bits(low_bits)).to_le(), (high & bits(high_bits)).to_le()]
}

/// A word of which the lowest `count` bits are set.
#[inline(always)]
const fn bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// Source of the packet, IPv4 as IPv4-mapped.
#[inline(always)]
fn source<P: Packet>(packet: &P, facts: Facts) -> Option<AddressWords> {
    if facts.is_ipv6() {
        return Some(address_words(&packet.read_far(facts.ip_at() + 8)?));
    }
    Some(mapped_words(u32::from_ne_bytes(packet.read_far(facts.ip_at() + 12)?)))
}

/// The server of a key, if a packet of an established flow may go there.
#[inline(always)]
fn admitted<P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    request: &Request<'_>,
    key: &QuicServerKey,
) -> Found {
    let Some(server) = tables.quic_server(key) else {
        return Found::BY_TUPLE;
    };
    let service = request.service;
    let mut plan = service.plan_base;
    if service.flags & SERVICE_MULTI_PLAN != 0 {
        let Some(client) = source(packet, request.facts) else {
            return Found::BY_TUPLE;
        };
        let region = tables.client_region(&client);
        plan += if region < service.plans { region } else { 0 };
    }
    let (Some(plan), Some(pool)) = (tables.plan(plan), tables.pool(server.pool)) else {
        return Found::BY_TUPLE;
    };
    let (Some(entry), Some(admissions)) = (tables.backend(server.backend), tables.admissions()) else {
        return Found::BY_TUPLE;
    };
    let mut named = 0;
    let mut i = 0;
    while i < MAX_PLAN_STEPS {
        named |= ((i as u32) < plan.steps && plan.pools[i] as u32 == server.pool) as u32;
        i += 1;
    }
    let pool_admits = pool_byte(request.h) < share_limit(admissions.get(pool.admission).share(false));
    if named != 0 && pool_admits && select::admits(admissions, entry, request.h, false) {
        return Found(server.backend as u64);
    }
    Found::BY_TUPLE
}
