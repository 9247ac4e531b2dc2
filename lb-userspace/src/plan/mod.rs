//! Pure decisions: from states to admission words, from configuration to a data-plane image.

pub mod breaker;
pub mod compile;
pub mod image;
mod index;
pub mod planner;
pub mod ramp;
pub mod state;
