//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod compile;
mod flow_map;
pub mod image;
mod index;
mod keys;
pub mod planner;
pub mod prefix;
pub mod state;
