//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod breaker;
pub mod canary;
pub mod capacity;
pub mod compile;
pub mod difference;
pub mod facts;
mod flow_map;
mod forwarding;
pub mod guard;
pub mod ids;
pub mod image;
mod index;
mod keys;
pub mod planner;
pub mod prefix;
mod quic;
pub mod ramp;
pub mod shed;
pub mod shift;
pub mod state;
pub mod switches;
pub mod tables;
pub mod transition;
pub mod walker;
pub mod watch;
mod words;
