//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod breaker;
pub mod compile;
mod flow_map;
pub mod guard;
pub mod image;
mod index;
pub mod planner;
pub mod prefix;
pub mod ramp;
pub mod shed;
pub mod state;
pub mod switches;
