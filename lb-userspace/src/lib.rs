//! Weir's user side: the daemon that watches backends and tells the XDP program what is healthy, the agent on the
//! backends' side, and the command line.
//!
//! A failure reads as a path through these modules: [`health`] (probe, detector, domain) -> [`plan`] (planner) ->
//! [`dataplane`] (writer). [`plan`] and all of [`health`] but its probers are pure: they take `now` and events and return
//! values.

pub mod api;
pub mod cli;
pub mod config;
pub mod dataplane;
pub mod health;
pub mod plan;
pub mod runtime;
pub mod telemetry;
