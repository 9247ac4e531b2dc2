//! What a service is protected by: access lists, limits, a priority class.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::prefix::IpPrefix;

/// How a service is protected. The default is not at all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Protection {
    /// Which services give way first when there are too many new flows.
    pub priority: Priority,
    /// Which sources may reach the service.
    pub access: AccessList,
    /// How much it takes.
    pub limits: Limits,
}

/// Priority class of a service: under overload new flows of P3 are shed first, those of P0 last.
#[derive(
    Clone,
    Copy,
    Debug,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    schemars::JsonSchema,
)]
pub enum Priority {
    /// What everything else needs.
    P0,
    /// Important.
    P1,
    /// Ordinary: the class of a service that does not say.
    #[default]
    P2,
    /// What can wait.
    P3,
}

impl Priority {
    /// All classes, P0 first.
    pub const ALL: [Self; 4] = [Self::P0, Self::P1, Self::P2, Self::P3];

    /// Name in configuration, CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::P0 => "P0",
            Self::P1 => "P1",
            Self::P2 => "P2",
            Self::P3 => "P3",
        }
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Source prefixes that may, and that may not, reach a service. The longest prefix that holds a source decides; where none does, it may
/// exactly if nothing is allowed in particular.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct AccessList {
    /// Sorted, each once, none of them in `deny`.
    pub allow: Vec<IpPrefix>,
    /// Sorted, each once.
    pub deny: Vec<IpPrefix>,
}

impl AccessList {
    /// Whether everybody may.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.allow.is_empty() && self.deny.is_empty()
    }
}

/// A limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Rate {
    /// How many a second in the long run.
    pub per_second: u64,
    /// How many at once.
    pub burst: u64,
}

/// How much a service takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Limits {
    /// Packets.
    pub packets: Option<Rate>,
    /// New flows.
    pub new_flows: Option<Rate>,
    /// New flows a second beyond which some are shed at random.
    pub max_new_flows: Option<u64>,
    /// For each source prefix.
    pub per_source: Option<SourceLimits>,
}

/// How much each source prefix may send to a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceLimits {
    /// Length of the source prefix of an IPv4 client, 1 to 32.
    pub v4: u8,
    /// Length of the source prefix of an IPv6 client, 1 to 64.
    pub v6: u8,
    /// Packets.
    pub packets: Option<Rate>,
    /// New flows.
    pub new_flows: Option<Rate>,
}

impl Protection {
    /// Whether the service takes a look at each of its packets: whether anything here is more than its class.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        !self.access.is_empty() || self.limits != Limits::default()
    }
}
