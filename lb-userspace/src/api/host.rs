//! Routes about the daemon itself: its log, its configuration, what it finds on its host.

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{State, rejection::BytesRejection},
    routing::get,
};

use super::{
    Control,
    router::{Answer, App, Shared, parse_body},
    types::{LogChange, LogRequest, LogView},
};
use crate::cli::doctor::Finding;

/// All of them.
pub(super) fn routes<C: Control>() -> Router<Arc<App<C>>> {
    Router::new()
        .route("/v1/log", get(log::<C>).put(set_log::<C>).delete(reset_log::<C>))
        .route("/v1/config", get(config::<C>))
        .route("/v1/doctor", get(doctor::<C>))
}

async fn log<C: Control>(State(app): Shared<C>) -> Answer<LogView> {
    app.control.log(LogChange::Show).await.map(Json)
}

async fn set_log<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<LogView> {
    let request: LogRequest = parse_body(body, r#"{"filter": "debug", "for_s": 600}"#)?;
    app.control.log(LogChange::Set(request)).await.map(Json)
}

async fn reset_log<C: Control>(State(app): Shared<C>) -> Answer<LogView> {
    app.control.log(LogChange::Reset).await.map(Json)
}

async fn config<C: Control>(State(app): Shared<C>) -> Json<serde_json::Value> {
    Json(app.control.effective().await)
}

async fn doctor<C: Control>(State(app): Shared<C>) -> Answer<Vec<Finding>> {
    app.control.doctor().await.map(Json)
}
