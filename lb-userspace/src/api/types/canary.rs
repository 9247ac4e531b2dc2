//! Canaries.

use serde::{Deserialize, Serialize};

use super::REASON_PATTERN;
use crate::plan::canary::{Canary, CanaryOrder};

/// The canary of a service: an element of `GET /v1/canaries`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
pub struct CanaryView {
    /// What it is: service, set, share in permille, steps, reason and since when.
    #[serde(flatten)]
    pub canary: Canary,
    /// The share of the next step; left out if there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_permille: Option<u32>,
}

/// Body of `POST /v1/canaries`: begin a canary, or go to a share.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanarySetRequest {
    /// The service.
    pub service: String,
    /// The set: one of a pool of the service, in `sets` or `standby`.
    pub set: String,
    /// Share of the pool's flows that it takes, in permille, 0 to 1000.
    #[schemars(range(min = 0, max = 1000))]
    pub permille: u32,
    /// The shares that `step` goes through, ascending, in permille; 10, 50, 100, 250, 500 and 1000 if none are said.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<Vec<u32>>,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
}

/// Body of `POST /v1/canaries/{step|promote|abort}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct CanaryRequest {
    /// The service.
    pub service: String,
    /// Why.
    #[schemars(length(min = 1, max = 512), regex(pattern = REASON_PATTERN))]
    pub reason: String,
    /// Of a step: to the one before.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub back: bool,
}

/// What is to be done about a canary.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CanaryChange {
    /// The service.
    pub service: String,
    /// What.
    pub order: CanaryOrder,
    /// Why.
    pub reason: String,
}
