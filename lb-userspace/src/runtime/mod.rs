//! What runs: daemon, control thread, agent.

pub mod agent;
pub mod canaries;
pub mod clock;
pub mod control;
pub mod daemon;
mod drains;
mod flows;
mod guardian;
pub mod host;
mod host_views;
mod keeper;
pub mod lock;
mod measure;
mod notify;
pub mod overrides;
pub mod privileges;
mod program_log;
pub mod reload;
pub mod service;
mod shifts;
mod steering;
pub mod switches;
mod tenure;
mod views;
mod walker;
pub mod watch;
mod watchdog;
