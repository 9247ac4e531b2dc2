//! How services are protected, and emergency switches.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::REASON_PATTERN;
use crate::{
    config::{Priority, Rate},
    plan::switches::{Switch, Thrown},
};

/// The protection of one service: an element of `GET /v1/guards`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct GuardView {
    /// Name of the service.
    pub service: String,
    /// Priority class.
    pub priority: Priority,
    /// Prefixes of its access list that are allowed; 0 if everybody is who is not denied.
    pub allowed_prefixes: u64,
    /// Prefixes of its access list that are denied.
    pub denied_prefixes: u64,
    /// Its limit on packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<Rate>,
    /// Its limit on new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flows: Option<Rate>,
    /// New flows a second beyond which some are shed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_new_flows: Option<u64>,
    /// Its limits for each source prefix.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_source: Option<PerSourceView>,
    /// Percentage of its new flows that the overload controller sheds now, for itself or for its class.
    pub shed_percent: f64,
    /// The same by emergency switches.
    pub switch_shed_percent: f64,
    /// Names of the emergency switches that are about it.
    pub switches: Vec<String>,
    /// Packets that its guard refused, by reason; those of which there were none included.
    pub refused: BTreeMap<String, u64>,
}

/// See [`GuardView::per_source`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct PerSourceView {
    /// Length of the source prefix of an IPv4 client.
    pub v4: u8,
    /// Length of the source prefix of an IPv6 client.
    pub v6: u8,
    /// The limit on packets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub packets: Option<Rate>,
    /// The limit on new flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_flows: Option<Rate>,
}

/// An emergency switch that is on: an element of `GET /v1/emergency`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SwitchView {
    /// What it is called, to take it back.
    pub name: String,
    /// What it does, in words.
    pub effect: String,
    /// The switch, its reason, its beginning and its end.
    #[serde(flatten)]
    pub thrown: Thrown,
    /// Seconds until it goes off by itself.
    pub left_s: u64,
    /// Whether the configuration has the service that it is about. If not, it waits until it does.
    pub active: bool,
}

/// Body of `POST /v1/emergency`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ThrowRequest {
    /// The switch. One of the same name that is on is replaced.
    pub switch: Switch,
    /// For how many seconds.
    #[schemars(range(min = 1, max = 604_800))]
    pub for_s: u64,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
}

/// Body of `POST /v1/emergency/clear`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClearRequest {
    /// Name of the switch.
    pub name: String,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
}
