//! The binary interface between the XDP programs and the daemon: what lies in BPF maps, byte for byte.
//!
//! All types are `repr(C)`, have no implicit padding and a size that is asserted at compile time. A change of any of
//! them is a change of [`ABI_VERSION`], which is part of the pin path, so that a daemon never writes into maps whose
//! layout it does not know.

pub mod admission;
pub mod agent;
pub mod backend;
pub mod bench;
pub mod counter;
pub mod flow;
pub mod guard;
pub mod heartbeat;
pub mod limits;
pub mod next;
pub mod plan;
pub mod pod;
pub mod prefix;
pub mod quic;
pub mod reason;
pub mod root;
pub mod service;
pub mod watch;

/// Version of everything in this module. Part of the pin path, and the first word of [`root::Root`].
pub const ABI_VERSION: u32 = 3;
