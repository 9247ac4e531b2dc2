//! Plans as they stand, and as they would come to stand.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// A plan: an element of `GET /v1/plans` and `GET /v1/plans/{service}`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SteeredPlan {
    /// Name of the service.
    pub service: String,
    /// The client region; `default` if client regions make no difference for the service.
    pub client_region: String,
    /// `nearest`, `zone-affine` or `strict`.
    pub mode: String,
    /// With `zone-affine`, the healthy part of the first pool below which flows leave it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rho: Option<f64>,
    /// The regions that may serve these clients; left out if all may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub residency: Option<Vec<String>>,
    /// Whether the plan has stopped believing health.
    pub panic: bool,
    /// Below which healthy percentage it does.
    pub panic_threshold_percent: f64,
    /// Healthy percentage of what operators let in, over all its pools.
    pub healthy_percent: f64,
    /// New flows a second that want to follow it: of a service with several plans an estimate.
    pub demand: f64,
    /// Percentage of new flows that do not come to the first pool.
    pub spilled_percent: f64,
    /// Percentage of new flows that no pool has room for.
    pub unfit_percent: f64,
    /// Its pools, in order.
    pub pools: Vec<SteeredPool>,
    /// Why it stands as it does, in words.
    pub why: Vec<String>,
}

/// See [`SteeredPlan::pools`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SteeredPool {
    /// Its name.
    pub pool: String,
    /// Its sets.
    pub sets: Vec<String>,
    /// Its members.
    pub members: u64,
    /// Members that take new flows.
    pub taking: u64,
    /// Percentage of its weight that takes new flows.
    pub healthy_percent: f64,
    /// New flows a second that all its members together take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<u64>,
    /// New flows a second that came to its members lately, whatever their plan.
    pub arrivals: f64,
    /// Percentage of the plan's new flows that come to it.
    pub share_percent: f64,
    /// Percentage of the plan's new flows that start with it.
    pub starts_percent: f64,
    /// Percentage of the flows whose own home there is shut that go on to the next pool at once.
    pub leaves_percent: f64,
}

/// Body of `POST /v1/plans/simulate`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SimulateRequest {
    /// What fails: `region=west`, `zone=west/w1`, `rack=west/w1/r1`, `backend=web-1`.
    #[schemars(length(max = 256))]
    pub fail: Vec<String>,
    /// Factor of the demand as it is; 1 if it is left out.
    #[schemars(range(min = 0, max = 1000))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub load: Option<f64>,
    /// Only this service.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
}

/// Answer to `POST /v1/plans/simulate`: how things would come to stand. Nothing is changed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Simulation {
    /// What fails.
    pub fail: Vec<String>,
    /// Factor of the demand as it is.
    pub load: f64,
    /// By service and client region.
    pub plans: Vec<SimulatedPlan>,
    /// By service and pool.
    pub pools: Vec<SimulatedPool>,
}

/// See [`Simulation::plans`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedPlan {
    /// Name of the service.
    pub service: String,
    /// The client region; `default` if client regions make no difference for the service.
    pub client_region: String,
    /// New flows a second.
    pub demand: f64,
    /// Whether it would stop believing health.
    pub panic: bool,
    /// Percentage of new flows that no pool would have room for.
    pub unfit_percent: f64,
    /// Its pools, in order.
    pub pools: Vec<SimulatedShare>,
}

/// See [`SimulatedPlan::pools`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedShare {
    /// Its name.
    pub pool: String,
    /// Percentage of the plan's new flows that come to it now.
    pub now_percent: f64,
    /// Percentage of them that would.
    pub then_percent: f64,
}

/// See [`Simulation::pools`].
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct SimulatedPool {
    /// Name of the service.
    pub service: String,
    /// Its name.
    pub pool: String,
    /// Healthy percentage of its weight now.
    pub healthy_now_percent: f64,
    /// Healthy percentage of its weight then.
    pub healthy_then_percent: f64,
    /// New flows a second that its healthy members would take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity: Option<f64>,
    /// New flows a second that would come to it if none were handed on for load.
    pub offered: f64,
    /// New flows a second that would come to it in the end.
    pub arrivals: f64,
    /// Whether what is offered exceeds the capacity.
    pub exceeds: bool,
}
