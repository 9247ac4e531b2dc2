//! Routes of the tables of flows. They name clients, so they are on the unix socket only.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        Query, State,
        rejection::{BytesRejection, QueryRejection},
    },
    routing::{get, post},
};
use serde::Deserialize;

use super::{
    Control,
    limits::{DEFAULT_FLOWS, MAX_FLOWS},
    problem::{Problem, ProblemKind},
    router::{Answer, App, Shared, good_reason, parse_body, parse_query},
    types::{FlowsPage, FlowsQuery, FlushRequest, Flushed},
};

/// All of them; flushing may take longer than other requests.
pub(super) fn patient_routes<C: Control>() -> Router<std::sync::Arc<App<C>>> {
    Router::new().route("/v1/flows", get(flows::<C>)).route("/v1/flows/flush", post(flush::<C>))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsParameters {
    #[serde(default)]
    filter: String,
    limit: Option<usize>,
    cursor: Option<String>,
}

async fn flows<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<FlowsParameters>, QueryRejection>,
) -> Answer<FlowsPage> {
    let example = "/v1/flows?filter=service+web&limit=100";
    let FlowsParameters { filter, limit, cursor } = parse_query(query, example)?;
    let limit = limit.unwrap_or(DEFAULT_FLOWS);
    if limit == 0 || limit > MAX_FLOWS {
        let detail = format!("limit is {limit}; it must be 1 to {MAX_FLOWS}");
        return Err(Problem::new(ProblemKind::Invalid, detail, format!("ask for example for {example}")));
    }
    app.control.flows(FlowsQuery { filter, limit, cursor }).await.map(Json)
}

async fn flush<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<Flushed> {
    let example = r#"{"filter": "backend w1r1b1", "reason": "its state is gone"}"#;
    let request: FlushRequest = parse_body(body, example)?;
    let reason = good_reason(&request.reason)?;
    let detail = match (request.filter.trim().is_empty(), request.all) {
        (true, false) => "there is neither a filter nor \"all\": nothing was flushed",
        (false, true) => "there is a filter, and \"all\": nothing was flushed",
        _ => return app.control.flush(FlushRequest { reason, ..request }).await.map(Json),
    };
    Err(Problem::new(ProblemKind::Invalid, detail, format!("send for example {example}")))
}
