//! What runs: daemon, control thread, agent.

pub mod agent;
pub mod clock;
pub mod control;
pub mod daemon;
pub mod lock;
mod notify;
pub mod overrides;
mod program_log;
pub mod reload;
pub mod service;
mod tenure;
mod views;
mod walker;
