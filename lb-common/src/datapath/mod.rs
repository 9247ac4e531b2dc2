//! What happens to a packet, decided by pure functions over a few [`ports`].
//!
//! The stages, one file each, in packet order:
//!
//! | stage | question |
//! |---|---|
//! | [`parse`] | what is this packet? |
//! | [`classify`] | which service is it for? |
//! | [`quic`] | does its connection id name a backend? |
//! | [`admit`] | may it come in? |
//! | [`steer`] | which plan applies, and which pools in which order? |
//! | [`filter`] | may the flow table know the flow? |
//! | [`flow`] | is the flow known to live away from home? |
//! | [`transition`] | was its home elsewhere before the last change of the configuration? |
//! | [`select`] | which member of a pool takes it? |
//! | [`encap`], [`gue`], [`l2`] | what does it look like on the way to the backend? |
//! | [`verdict`] | what is done with it, and how is it counted? |
//!
//! A packet for no VIP may have been relayed from another region to this host: [`relay`] takes it out of its tunnel, and it goes the
//! same way with another [`Origin`].
//!
//! [`unusual`] is the rest of [`parse`]: all but the ordinary TCP or UDP packet, with [`icmp`] and [`fragment`]. [`too_big`] and [`icmp`] answer, as
//! often as [`answers`] allows. [`agent`] is the other end: what a backend does with what arrives. [`hash`] holds all hash
//! functions; [`trace`] lets `weir explain` watch, [`watch`] `weir trace` and `weir capture`.

pub mod admit;
pub mod agent;
pub mod answers;
#[cfg(any(test, feature = "alloc"))]
pub mod buffer;
pub mod classify;
pub mod encap;
pub mod filter;
pub mod flow;
pub mod fragment;
pub mod gcra;
pub mod gue;
pub mod hash;
pub mod icmp;
pub mod l2;
pub mod neighbour;
pub mod openings;
pub mod parse;
pub mod ports;
pub mod prefix;
pub mod quic;
pub mod relay;
pub mod select;
pub mod steer;
pub mod too_big;
pub mod trace;
pub mod transition;
pub mod unusual;
pub mod verdict;
pub mod watch;

use crate::abi::{
    reason::Reason,
    service::{SERVICE_QUIC, SERVICE_STICKY_UDP},
};
use l2::Facts;
use parse::{Shape, Transport};
use ports::{Packet, Tables};
use quic::Found;
use steer::{Origin, Placement};
use too_big::TooBig;
use trace::Trace;
use unusual::Unusual;
use verdict::{Outcome, Verdict};

/// Everything that Weir does with one frame, the counting included.
///
/// The XDP programs do the same in three parts, of which each has a stack of its own: [`process_first`], [`relay::arrive`] and
/// [`process_relayed`].
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, trace: &mut impl Trace) -> Outcome {
    let outcome = process_first(packet, tables, trace);
    if outcome.verdict != Verdict::Arrival {
        return outcome;
    }
    match relay::arrive(packet, tables) {
        Some(outcome) => outcome,
        None => process_relayed(packet, tables, trace),
    }
}

/// What Weir does with a frame as it comes. An [arrival](Verdict::Arrival) is not counted.
#[inline(always)]
pub fn process_first<P: Packet, T: Tables>(packet: &mut P, tables: &T, trace: &mut impl Trace) -> Outcome {
    let length = packet.length();
    let transport = match parse::parse(packet) {
        Some(transport) => transport,
        None => match neighbour_or_sort_out(packet, tables) {
            Unusual::Transport(transport) => transport,
            Unusual::Done(outcome) => {
                let outcome = match outcome.reason {
                    Reason::PassNotVip => relay::or_pass(tables, Origin::Client),
                    _ => outcome,
                };
                trace.concluded(&outcome);
                verdict::count(tables, &outcome, length);
                return outcome;
            }
        },
    };
    let outcome = forward(packet, tables, &transport, Origin::Client, trace);
    trace.concluded(&outcome);
    verdict::count(tables, &outcome, length);
    outcome
}

/// What Weir does with a frame that another region relayed, now out of its tunnel: it is served in this region, or dropped.
#[inline(always)]
pub fn process_relayed<P: Packet, T: Tables>(packet: &mut P, tables: &T, trace: &mut impl Trace) -> Outcome {
    let length = packet.length();
    let transport = match parse::parse(packet) {
        Some(transport) => transport,
        // It has no neighbours: a solicitation in a tunnel is none.
        None => match packet.sort_out(tables) {
            Unusual::Transport(transport) => transport,
            Unusual::Done(outcome) => {
                let outcome = relay::never_passed(outcome);
                trace.concluded(&outcome);
                verdict::count(tables, &outcome, length);
                return outcome;
            }
        },
    };
    let outcome = relay::never_passed(forward(packet, tables, &transport, Origin::Relay, trace));
    trace.concluded(&outcome);
    verdict::count(tables, &outcome, length);
    outcome
}

/// What becomes of a frame that is no ordinary packet: who asks for a VIP's link address is answered, the rest is sorted out.
#[inline(always)]
fn neighbour_or_sort_out<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Unusual {
    match neighbour::answer(packet, tables) {
        Some(Reason::NeighbourAnswered) => Unusual::Done(Outcome::answer(Reason::NeighbourAnswered)),
        Some(reason) => Unusual::Done(Outcome::refuse(reason)),
        None if admit::is_emergency(tables) && packet.is_blocked(tables) => {
            Unusual::Done(Outcome::refuse(Reason::Emergency))
        }
        None => packet.sort_out(tables),
    }
}

/// The way of a packet that belongs to a flow: from service to backend, then out.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    origin: Origin,
    trace: &mut impl Trace,
) -> Outcome {
    let Some(root) = tables.root() else {
        return Outcome::pass(Reason::PassNotVip);
    };
    let Some((index, service)) = classify::service(tables, root, &transport.tuple) else {
        return unusual::no_service(tables, transport, origin);
    };
    let mut transport = *transport;
    let h = hash::flow_hash(&root.hash_key, &transport.tuple);
    let mut by_id = Found::NONE;
    if service.flags & (SERVICE_QUIC | SERVICE_STICKY_UDP) != 0 {
        // The connection id stands at the beginning of what the client sends: neither in later fragments nor in ICMP errors. Those belong
        // to a flow that is there, as does every datagram of a sticky service.
        let is_beginning = matches!(transport.shape, Shape::Whole | Shape::FirstFragment);
        let found = if is_beginning && service.flags & SERVICE_QUIC != 0 {
            let facts = Facts::new(&transport);
            quic::find(packet, tables, &quic::Request { service, index, facts, h })
        } else {
            Found::BY_TUPLE
        };
        by_id = found.backend();
        transport.opening = found.opening();
    }
    let transport = &transport;
    let outcome = Outcome::for_service(index, transport.opening);
    let refused = admit::admit(tables, root, service, transport);
    if refused != 0 {
        return outcome.drop(admit::reason(refused));
    }
    let placed = match tables.backend(by_id) {
        Some(entry) if by_id != Found::NONE => {
            trace.by_connection_id();
            Ok(Placement { backend: by_id, entry, home: false })
        }
        _ if transport.shape == Shape::LaterFragment => fragment::place(tables, transport),
        _ => steer::place(tables, service, transport, h, origin, trace),
    };
    match placed {
        Err(reason) => outcome.unplaced(reason),
        Ok(placement) if relay::crosses_again(placement.entry, origin) => outcome.drop(Reason::RelayRefused),
        Ok(placement) => {
            if transport.shape == Shape::FirstFragment {
                tables.remember_fragment(transport, placement.backend);
            }
            let outcome = outcome.to_backend(placement.backend);
            match encap::encapsulate(packet, root, service, placement.entry, transport, h) {
                Err(Reason::TooBig) if transport.shape != Shape::Error => {
                    let overhead = encap::overhead(service, placement.entry) as u16;
                    let has_hop = placement.entry.ifindex != 0;
                    let mtu = if has_hop { placement.entry.mtu } else { packet.fib_mtu() };
                    let mtu = mtu.saturating_sub(overhead);
                    let request = TooBig { ip_at: transport.ip_at, is_ipv6: transport.tuple.is_ipv6, mtu };
                    outcome.refuse_or_answer(packet.answer_too_big(tables, &request))
                }
                Err(reason) => outcome.drop(reason),
                Ok(egress) => outcome.forward(egress, packet.ingress_ifindex()),
            }
        }
    }
}
