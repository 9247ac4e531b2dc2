//! Relays between regions: what this host takes from others. What it sends to others are [pools](super::Pool) whose sets are
//! groups of other regions' hosts.

use std::net::IpAddr;

use lb_common::abi::agent::DEFAULT_GUE_PORT;

use super::prefix::IpPrefix;

/// What this host takes from other regions' Weir hosts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Where tunnels of other regions end, ascending; none if this host takes nothing.
    pub addresses: Vec<IpAddr>,
    /// Outer sources that may send to them, ascending: the tunnel sources of the other regions' hosts, and their own addresses,
    /// which heartbeats have. None if and only if there are no addresses.
    pub peers: Vec<IpPrefix>,
    /// UDP port on which relayed packets in GUE are taken.
    pub gue_port: u16,
}

impl Default for Relay {
    /// Nothing is taken.
    fn default() -> Self {
        Self { addresses: Vec::new(), peers: Vec::new(), gue_port: DEFAULT_GUE_PORT }
    }
}
