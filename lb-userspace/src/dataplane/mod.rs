//! BPF objects, maps and what is written into them.
//!
//! | file | what |
//! |---|---|
//! | [`loader`] | puts an image into the kernel: fresh, by adopting what runs, or by replacing it |
//! | `build` | what that takes: maps and programs of a generation, built or taken over |
//! | [`handles`] | what hands out the parts of a generation that others read and write |
//! | `handover` | what a generation hands on to the next one |
//! | [`upkeep`] | what is tidied up while programs run: tables of flows, marks, transitions |
//! | [`generation`] | one complete set of maps: created, filled, pinned, opened again |
//! | [`pins`] | where pins lie, what is refused, what a crash left behind; `weir detach` |
//! | `interrupted` | loads a program again where a signal interrupted the verifier |
//! | [`links`] | attaches programs to interfaces |
//! | [`maps`] | memory-mapped arrays |
//! | [`memory`](mod@memory) | how much memory the maps take |
//! | [`writer`] | the words that change while programs run: admission and next hops |
//! | [`steering`] | the words that change while programs run: what plans do about health and load |
//! | [`guard`] | the words that change while programs run: emergency switches and shedding |
//! | [`nexthop`] | keeps next hops: routes, neighbours and links by netlink |
//! | `announce` | tells a flat network where VIPs are |
//! | [`counters`] | reads counters |
//! | [`watch`] | the program that shows packets, in the place of the edge's while somebody watches |
//! | [`live`], [`explain`](mod@explain) | where a flow goes, by the decision code over the live maps |
//!
//! This is the only folder of the user side with `unsafe` code: the memory mapping and the bpf(2) calls that aya lacks.

mod announce;
pub(crate) mod build;
pub mod counters;
pub mod error;

pub mod explain;
mod flow_tables;
pub mod generation;
pub mod guard;
pub mod handles;
mod handover;
mod interrupted;
pub mod links;
pub mod live;
pub mod loader;
pub mod maps;
pub mod memory;
mod neighbour;
pub mod netlink;
pub mod nexthop;
pub mod object;
mod opening_table;
pub mod pins;
pub mod steering;
mod sys;
pub mod upkeep;
pub mod watch;
pub mod writer;

pub use error::{DataPlaneError, ErrorClass};
pub use loader::{DataPlane, Options, Start};
pub use pins::{Detached, detach};
