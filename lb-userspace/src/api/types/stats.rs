//! Counters and rates.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::VerdictKind;

/// What counters are told apart by.
#[derive(
    Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize, JsonSchema, clap::ValueEnum,
)]
#[serde(rename_all = "lowercase")]
pub enum StatsBy {
    /// By service.
    #[default]
    Service,
    /// By backend.
    Backend,
    /// By rack.
    Rack,
    /// By zone.
    Zone,
    /// By region.
    Region,
    /// By what became of packets, and why.
    Reason,
}

impl StatsBy {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Service, Self::Backend, Self::Rack, Self::Zone, Self::Region, Self::Reason];

    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Backend => "backend",
            Self::Rack => "rack",
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Reason => "reason",
        }
    }
}

/// Answer of `GET /v1/stats`: counters at one moment, and what they grew by in the time before it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Stats {
    /// The moment.
    pub time: jiff::Timestamp,
    /// The same by `CLOCK_MONOTONIC`.
    pub monotonic_ns: u64,
    /// What they are told apart by.
    pub by: StatsBy,
    /// Seconds over which rates were measured; 0 where none were asked for.
    pub over_s: f64,
    /// All packets that were forwarded, and all that were dropped.
    pub total: StatsRow,
    /// By name; reasons in the order of their numbers, and only those that counted a packet.
    pub rows: Vec<StatsRow>,
}

/// One service, backend, domain or reason.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct StatsRow {
    /// Its name.
    pub name: String,
    /// What is done with the packets of a reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verdict: Option<VerdictKind>,
    /// The counters since the program was attached.
    #[serde(flatten)]
    pub counts: StatsCounts,
    /// What they grew by, per second; left out where no rates were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_second: Option<StatsRates>,
}

/// See [`StatsRow::counts`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StatsCounts {
    /// Packets that were forwarded; of a reason all of its packets.
    pub packets: u64,
    /// Their bytes as they arrived.
    pub bytes: u64,
    /// Those of them that may open a flow: TCP SYN, every UDP datagram. Not counted by reason.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<u64>,
    /// Packets that were dropped, of a service once it was known. Backends and domains do not have it: a packet that is dropped has
    /// none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<u64>,
}

/// See [`StatsRow::per_second`]; fields as in [`StatsCounts`].
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
pub struct StatsRates {
    /// Packets.
    pub packets: f64,
    /// Bytes.
    pub bytes: f64,
    /// Packets that may open a flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opening: Option<f64>,
    /// Packets dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dropped: Option<f64>,
}
