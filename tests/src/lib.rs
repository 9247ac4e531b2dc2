//! What Weir is tested with: the network-namespace lab, load generators and the demo.
pub mod clock;
pub mod demo;
pub mod golden;
pub mod lab;
pub mod load;
