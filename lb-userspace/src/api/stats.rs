//! `GET /v1/stats`: counters and rates.

use std::time::Duration;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;

use super::{
    Control,
    limits::MAX_WAIT,
    problem::{Problem, ProblemKind},
    router::{Answer, Shared, parse_query, permit_to_wait},
    types::{Stats, StatsBy},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StatsParameters {
    #[serde(default)]
    by: StatsBy,
    /// Seconds.
    over: Option<u64>,
}

pub(super) async fn stats<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<StatsParameters>, QueryRejection>,
) -> Answer<Stats> {
    let example = "/v1/stats?by=backend&over=1";
    let StatsParameters { by, over } = parse_query(query, example)?;
    let over = Duration::from_secs(over.unwrap_or(0));
    if over > MAX_WAIT {
        let detail = format!("over is {} s; it must be 0 to {}", over.as_secs(), MAX_WAIT.as_secs());
        return Err(Problem::new(ProblemKind::Invalid, detail, format!("ask for example for {example}")));
    }
    let _permit = if over.is_zero() { None } else { Some(permit_to_wait(&app)?) };
    Ok(Json(app.control.stats(by, over).await))
}
