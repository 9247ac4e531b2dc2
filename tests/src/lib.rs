//! What Weir is tested with: the network-namespace lab, load generators, the demo and benchmarks.
pub mod bench;
pub mod clock;
pub mod demo;
pub mod e2e;
pub mod fuzz;
pub mod golden;
pub mod journal;
pub mod lab;
pub mod load;
pub mod package;
pub mod pcapng;
pub mod verify;
