//! What happens to a packet, decided by pure functions over a few [`ports`].
//!
//! The stages, one file each, in packet order:
//!
//! | stage | question |
//! |---|---|
//! | [`parse`] | what is this packet? |
//! | [`classify`] | which service is it for? |
//! | [`admit`] | may it come in? |
//! | [`steer`] | which plan applies, and which pools in which order? |
//! | [`filter`] | may the flow table know the flow? |
//! | [`flow`] | is the flow known to live away from home? |
//! | [`transition`] | was its home elsewhere before the last change of the configuration? |
//! | [`select`] | which member of a pool takes it? |
//! | [`encap`] | what does it look like on the way to the backend? |
//! | [`verdict`] | what is done with it, and how is it counted? |
//!
//! [`unusual`] is the rest of [`parse`]: all but the ordinary TCP or UDP packet, with [`icmp`] and [`fragment`]. [`too_big`] and [`icmp`] answer, as
//! often as [`answers`] allows. [`agent`] is the other end: what a backend does with what arrives. [`hash`] holds all hash
//! functions; [`trace`] lets `weir explain` watch.

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
pub mod hash;
pub mod icmp;
pub mod parse;
pub mod ports;
pub mod prefix;
pub mod select;
pub mod steer;
pub mod too_big;
pub mod trace;
pub mod transition;
pub mod unusual;
pub mod verdict;

use crate::abi::reason::Reason;
use parse::{Shape, Transport};
use ports::{Packet, Tables};
use steer::Origin;
use too_big::TooBig;
use trace::Trace;
use unusual::Unusual;
use verdict::Outcome;

/// Everything that Weir does with one frame, the counting included.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T, trace: &mut impl Trace) -> Outcome {
    let length = packet.length();
    let transport = match parse::parse(packet) {
        Some(transport) => transport,
        None => match packet.sort_out(tables) {
            Unusual::Transport(transport) => transport,
            Unusual::Done(outcome) => {
                verdict::count(tables, &outcome, length);
                return outcome;
            }
        },
    };
    let outcome = forward(packet, tables, &transport, trace);
    verdict::count(tables, &outcome, length);
    outcome
}

/// The way of a packet that belongs to a flow: from service to backend, then out.
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
    let Some((index, service)) = classify::service(tables, root, tuple) else {
        return unusual::no_service(transport);
    };
    let outcome = Outcome::for_service(index, transport.opening);
    let refused = admit::admit(tables, root, service, transport);
    if refused != 0 {
        return outcome.drop(admit::reason(refused));
    }
    let h = hash::flow_hash(&root.hash_key, tuple);
    let placed = if transport.shape == Shape::LaterFragment {
        fragment::place(tables, transport)
    } else {
        steer::place(tables, service, transport, h, Origin::Client, trace)
    };
    match placed {
        Err(reason) => outcome.unplaced(reason),
        Ok(placement) => {
            if transport.shape == Shape::FirstFragment {
                tables.remember_fragment(transport, placement.backend);
            }
            let outcome = outcome.to_backend(placement.backend);
            match encap::encapsulate(packet, root, placement.entry, transport, h) {
                Err(Reason::TooBig) if transport.shape != Shape::Error => {
                    let overhead = encap::overhead(service, placement.entry) as u16;
                    let mtu = placement.entry.mtu.saturating_sub(overhead);
                    let request = TooBig { ip_at: transport.ip_at, is_ipv6: tuple.is_ipv6, mtu };
                    outcome.refuse_or_answer(packet.answer_too_big(tables, &request))
                }
                Err(reason) => outcome.drop(reason),
                Ok(()) => outcome.forward(placement.entry.ifindex, packet.ingress_ifindex()),
            }
        }
    }
}
