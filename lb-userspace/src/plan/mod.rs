//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod compile;
mod flow_map;
mod forwarding;
pub mod guard;
pub mod image;
mod index;
pub mod planner;
pub mod prefix;
pub mod shed;
pub mod state;
pub mod switches;
