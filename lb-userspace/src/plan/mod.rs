//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod compile;
mod forwarding;
pub mod image;
mod index;
pub mod planner;
pub mod state;
