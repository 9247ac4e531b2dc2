//! Fragments: the first one has the ports and places the datagram, the others follow it.
//!
//! The first fragment goes the way of a whole packet; the backend that took it is kept in FRAGMENTS under (addresses,
//! identification, protocol). A later fragment goes to that backend and nowhere else, whatever was stored about it meanwhile: half
//! a datagram is of no use to anyone. One that comes before its first fragment, or more than [`FRAGMENT_AGE_NS`] behind it, or
//! after the entry had to make room, is dropped as [`Reason::FragmentOrphan`]; clients' stacks send datagrams in order and at once.

use super::{
    parse::{Transport, Tuple},
    ports::Tables,
    steer::{Origin, Placement},
    unusual::Unusual,
    verdict::Outcome,
};
use crate::{
    abi::{
        flow::{FragmentEntry, FragmentKey},
        limits::FRAGMENT_AGE_NS,
        reason::Reason,
    },
    net::{AddressWords, ipv6, words_address},
};

/// The key of a datagram. In IPv6 only the first fragment's next header counts (RFC 8200, section 4.5), so the key has none.
#[inline(always)]
const fn key(
    source: &AddressWords,
    destination: &AddressWords,
    id: u32,
    protocol: u8,
    is_ipv6: bool,
) -> FragmentKey {
    FragmentKey {
        source: words_address(source),
        destination: words_address(destination),
        id,
        protocol: if is_ipv6 { ipv6::FRAGMENT } else { protocol },
        origin: Origin::Client as u8,
        reserved: [0; 2],
    }
}

/// What becomes of a fragment for a VIP whose first one is not known.
const ORPHAN: Unusual = Unusual::Done(Outcome::refuse(Reason::FragmentOrphan));

/// The packet that a later fragment for a VIP is, or what becomes of one whose first fragment is not known. Until now
/// [`Transport::fragment`] was its identification.
#[inline(always)]
pub fn follow<T: Tables>(tables: &T, later: &Transport) -> Unusual {
    let tuple = &later.tuple;
    let key = key(&tuple.source, &tuple.destination, later.fragment, tuple.protocol, tuple.is_ipv6);
    let Some(entry) = tables.fragment(&key) else {
        return ORPHAN;
    };
    if tables.now_ns().wrapping_sub(entry.seen_ns) > FRAGMENT_AGE_NS {
        return ORPHAN;
    }
    let tuple = Tuple { ports: entry.ports, protocol: entry.protocol as u8, ..*tuple };
    Unusual::Transport(Transport { tuple, fragment: entry.backend, ..*later })
}

/// Where a later fragment goes: where its first one went.
///
/// # Errors
/// [`Reason::Inconsistent`] when there is no such backend.
#[inline(always)]
pub fn place<'a, T: Tables>(tables: &'a T, transport: &Transport) -> Result<Placement<'a>, Reason> {
    let backend = transport.fragment;
    let entry = tables.backend(backend).ok_or(Reason::Inconsistent)?;
    Ok(Placement { backend, entry, home: false })
}

/// Keeps where a first fragment went.
#[inline(always)]
pub fn remember<T: Tables>(tables: &T, transport: &Transport, backend: u32) {
    let tuple = &transport.tuple;
    let key = key(&tuple.source, &tuple.destination, transport.fragment, tuple.protocol, tuple.is_ipv6);
    let protocol = tuple.protocol as u32;
    let entry =
        FragmentEntry { backend, ports: tuple.ports, seen_ns: tables.now_ns(), protocol, reserved: 0 };
    tables.keep_fragment(&key, entry);
}
