//! What another region's Weir relayed to this host: packets in a tunnel that ends at one of the host's relay addresses.
//!
//! To the edge's program such a packet is one for no VIP. Where relays are configured it leaves those uncounted as
//! [`Verdict::Arrival`](super::verdict::Verdict::Arrival), and [`arrive`] looks at them again: what is for a relay address is taken
//! out of its tunnel, and then goes the way of any other packet, but with [`Origin::Relay`]. So it may enter local pools only,
//! and where there is none for it, it is dropped: it never crosses a second time.
//!
//! The tunnel's end is the agent's, with the same rules: IP in IP and GUE, congestion notification by RFC 6040, and heartbeats
//! answered, by which other regions know that this host is there.

use super::{
    agent,
    ports::{AgentTables, Packet, Tables},
    steer::Origin,
    verdict::{self, Outcome, Verdict},
};
use crate::{
    abi::{
        ABI_VERSION,
        agent::{AGENT_FILTER_SOURCES, AgentAddress, AgentReason, AgentRoot},
        backend::{BACKEND_RELAY, BackendEntry},
        counter::{Note, note_slot},
        heartbeat,
        reason::Reason,
        root::{FEATURE_RELAY, Root},
    },
    net::address_words,
};

/// What becomes of a packet for no VIP: where relays are configured it is looked at again, else it is passed.
#[inline(always)]
pub(super) fn or_pass<T: Tables>(tables: &T, origin: Origin) -> Outcome {
    match tables.root() {
        Some(root) if root.features & FEATURE_RELAY != 0 && origin as u8 == Origin::Client as u8 => {
            Outcome::arrival()
        }
        _ => Outcome::pass(Reason::PassNotVip),
    }
}

/// Whether a packet would cross a region border for a second time.
#[must_use]
#[inline(always)]
pub const fn crosses_again(entry: &BackendEntry, origin: Origin) -> bool {
    origin as u8 == Origin::Relay as u8 && entry.flags & BACKEND_RELAY != 0
}

/// What the outcome of a packet that was relayed comes to: it is never passed, as the kernel might send it on to where
/// clients' packets go.
#[inline(always)]
pub(super) const fn never_passed(outcome: Outcome) -> Outcome {
    match outcome.verdict {
        Verdict::Pass | Verdict::Arrival => Outcome::refuse(Reason::RelayNotForUs),
        _ => outcome,
    }
}

/// Takes a frame that is for no VIP out of its tunnel, if that ends at a relay address. `None` if it did: what the frame holds
/// now is to be processed as relayed. Else the frame is done with, and counted.
#[inline(always)]
pub fn arrive<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Option<Outcome> {
    let length = packet.length();
    let outcome = match tables.root() {
        None => Outcome::pass(Reason::PassNotVip),
        Some(root) => match agent::handle(packet, &Here::new(tables, root)) {
            AgentReason::Decapsulated => {
                tables.count(note_slot(Note::RelayArrived), 0, false, false);
                return None;
            }
            AgentReason::Passed => Outcome::pass(Reason::PassNotVip),
            AgentReason::HeartbeatAnswered => Outcome::answer(Reason::EchoAnswered),
            AgentReason::SourceRefused => Outcome::refuse(Reason::RelayNotForUs),
            AgentReason::InnerMalformed | AgentReason::OuterFragment | AgentReason::CongestionLost => {
                Outcome::refuse(Reason::RelayMalformed)
            }
            AgentReason::DecapsulationFailed => Outcome::refuse(Reason::NoHeadroom),
        },
    };
    verdict::count(tables, &outcome, length);
    Some(outcome)
}

/// This host as the end of tunnels.
struct Here<'a, T> {
    tables: &'a T,
    root: AgentRoot,
    addresses: u32,
    peers: u32,
}

impl<'a, T: Tables> Here<'a, T> {
    #[inline(always)]
    fn new(tables: &'a T, root: &Root) -> Self {
        Self {
            tables,
            root: AgentRoot {
                abi_version: ABI_VERSION,
                flags: AGENT_FILTER_SOURCES,
                heartbeat_port: heartbeat::DEFAULT_PORT.to_be_bytes(),
                status: heartbeat::STATUS_OK,
                reserved: 0,
                gue_port: root.relay_gue_port,
                reserved2: [0; 50],
            },
            addresses: root.relay_addresses,
            peers: root.relay_peers,
        }
    }
}

impl<T: Tables> AgentTables for Here<'_, T> {
    #[inline(always)]
    fn root(&self) -> Option<&AgentRoot> {
        Some(&self.root)
    }

    #[inline(always)]
    fn is_local(&self, address: &AgentAddress) -> bool {
        self.tables.prefix(self.addresses, &address_words(&address.address)) != 0
    }

    #[inline(always)]
    fn is_allowed_source(&self, address: &AgentAddress) -> bool {
        self.tables.prefix(self.peers, &address_words(&address.address)) != 0
    }

    #[inline(always)]
    fn count(&self, _: AgentReason, _: u64) {}
}
