//! What runs: daemon, control thread, agent.

pub mod clock;
pub mod control;
