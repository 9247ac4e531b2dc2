//! What runs: daemon, control thread, agent.

pub mod lock;
pub mod overrides;
