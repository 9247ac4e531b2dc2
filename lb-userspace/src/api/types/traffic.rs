//! The traffic of the last hour.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Answer of `GET /v1/traffic`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct TrafficHistory {
    /// Seconds from one point to the next.
    pub period_s: u64,
    /// Oldest first; at most an hour, and nothing from before the daemon started.
    pub points: Vec<TrafficPoint>,
}

/// The traffic of one period. All numbers are per second.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TrafficPoint {
    /// The end of the period.
    pub time: jiff::Timestamp,
    /// Packets sent to backends.
    pub packets: f64,
    /// Their bytes as they arrived.
    pub bytes: f64,
    /// Those that may open a flow, of all services.
    pub new_flows: f64,
    /// Packets dropped.
    pub dropped: f64,
    /// Packets sent to each zone, by path; beyond 32 zones the rest is summed up as `others`.
    pub zones: BTreeMap<String, f64>,
}
