//! Weir: daemon, agent and command line.

pub mod config;
