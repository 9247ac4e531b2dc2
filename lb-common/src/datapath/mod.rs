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
//! [`agent`] is the other end: what a backend does with what arrives. [`echo`] answers pings to a VIP; [`hash`] holds all hash functions; [`trace`] lets `weir explain` watch.

pub mod admit;
pub mod agent;
#[cfg(any(test, feature = "alloc"))]
pub mod buffer;
pub mod classify;
pub mod echo;
pub mod encap;
pub mod filter;
pub mod flow;
pub mod gcra;
pub mod gue;
pub mod hash;
pub mod l2;
pub mod neighbour;
pub mod parse;
pub mod ports;
pub mod prefix;
pub mod quic;
pub mod select;
pub mod steer;
pub mod trace;
pub mod transition;
pub mod verdict;

use crate::abi::{reason::Reason, service::SERVICE_QUIC};
use l2::Facts;
use parse::{Parsed, Transport};
use ports::{Packet, Tables};
use quic::Found;
use steer::{Origin, Placement};
use trace::Trace;
use verdict::Outcome;

/// Everything that Weir does with one frame, the counting included.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, trace: &mut impl Trace) -> Outcome {
    let length = packet.length();
    let outcome = match parse::parse(packet) {
        Parsed::Transport(transport) => forward(packet, tables, &transport, trace),
        Parsed::Portless(portless) => match neighbour::answer(packet, tables) {
            Some(reason) => Outcome::answer(reason),
            None => echo::answer_or_refuse(packet, tables, &portless),
        },
        Parsed::NotIp => match neighbour::answer(packet, tables) {
            Some(reason) => Outcome::answer(reason),
            None => Outcome::pass(Reason::PassNotIp),
        },
    };
    verdict::count(tables, &outcome, length);
    outcome
}

/// The way of a TCP or UDP packet: from service to backend, then out.
#[inline(always)]
fn forward<P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    transport: &Transport,
    trace: &mut impl Trace,
) -> Outcome {
    let Some(root) = tables.root() else {
        return Outcome::pass(Reason::PassNotVip);
    };
    let tuple = &transport.tuple;
    let mut transport = *transport;
    let Some((index, service)) = classify::service(tables, root, tuple) else {
        return Outcome::pass(Reason::PassNotVip);
    };
    let h = hash::flow_hash(&root.hash_key, tuple);
    let mut by_id = Found::NONE;
    if service.flags & SERVICE_QUIC != 0 {
        let facts = Facts::new(&transport);
        let found = quic::find(packet, tables, &quic::Request { service, index, facts, h });
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
        Some(entry) if by_id != Found::NONE => Ok(Placement { backend: by_id, entry, home: false }),
        _ => steer::place(tables, service, transport, h, Origin::Client, trace),
    };
    match placed {
        Err(reason) => outcome.unplaced(reason),
        Ok(placement) => {
            let outcome = outcome.to_backend(placement.backend);
            match encap::encapsulate(packet, root, service, placement.entry, transport, h) {
                Err(reason) => outcome.drop(reason),
                Ok(egress) => outcome.forward(egress, packet.ingress_ifindex()),
            }
        }
    }
}
