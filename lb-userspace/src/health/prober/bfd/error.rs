//! Why there are no sessions.

use std::{io, net::IpAddr};

use super::MAX_BFD_SESSIONS;

/// Why sessions cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum BfdError {
    /// The socket that packets arrive at.
    #[error(
        "cannot listen on UDP port {port} for BFD: {source}; if another BFD daemon (bird, bfdd) runs on this host, stop it or use other checks"
    )]
    Listen {
        /// 3784 or 4784.
        port: u16,
        /// Why.
        source: io::Error,
    },
    /// A socket that packets are sent from.
    #[error(
        "check {check}: cannot open a socket for the BFD session with {address}: {source}; is `local` an address of this host?"
    )]
    Send {
        /// Name of the check.
        check: String,
        /// The peer.
        address: IpAddr,
        /// Why.
        source: io::Error,
    },
    /// Two sessions that the peer could not tell apart.
    #[error(
        "checks {first} and {second} both want a BFD session with {address}, and it can have one: use the same check for both sets"
    )]
    Twice {
        /// Name of a check.
        first: String,
        /// Name of the other.
        second: String,
        /// The peer.
        address: IpAddr,
    },
    /// Too many.
    #[error(
        "{count} BFD sessions are more than MAX_BFD_SESSIONS = {MAX_BFD_SESSIONS}; take the check from some sets"
    )]
    TooMany {
        /// How many.
        count: usize,
    },
}
