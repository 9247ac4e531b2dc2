//! What Weir's kernel side and user side share.
//!
//! - [`abi`]: layouts of map keys and values, limits, reason codes, the heartbeat message.
//! - [`net`]: header fields as byte arrays, checksums.
//! - [`datapath`]: every decision about a packet, as pure functions over a few ports. The same source runs in the
//!   XDP program, in unit tests and behind `weir explain`.
#![no_std]
#[cfg(any(test, feature = "alloc"))]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod abi;
pub mod datapath;
pub mod net;
