//! Routes of what operators order: drains, failures, restores, shifts, canaries.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{
        Path, Query, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    routing::{get, post},
};

use serde::Deserialize;

use super::{
    Control, ShiftChange,
    problem::{Problem, ProblemKind},
    router::{Answer, App, Shared, good_reason, parse_body, parse_query, segment},
    types::{
        Acted, ActionTerms, BackendActionRequest, CanaryChange, CanaryRequest, CanarySetRequest, CanaryView,
        DomainActionRequest, ShiftCancelRequest, ShiftExtendRequest, ShiftRequest, ShiftView, SubjectKind,
        SubjectName,
    },
};
use crate::{
    plan::{canary::CanaryOrder, state::Action},
    telemetry::report::Report,
};

/// How far back a report goes when the request does not say: a week, in seconds.
pub(crate) const DEFAULT_REPORT_S: u64 = 7 * 86_400;

/// The routes that are answered promptly.
pub(super) fn routes<C: Control>() -> Router<std::sync::Arc<App<C>>> {
    Router::new()
        .route("/v1/backends/{name}/{action}", post(act_on_backend::<C>))
        .route("/v1/domains/actions/{action}", post(act_on_domain::<C>))
        .route("/v1/shifts", post(shift::<C>))
        .route("/v1/shifts/extend", post(extend::<C>))
        .route("/v1/shifts/cancel", post(cancel::<C>))
}

/// Those that may take as long as a reload.
pub(super) fn patient_routes<C: Control>() -> Router<std::sync::Arc<App<C>>> {
    Router::new()
        .route("/v1/canaries", post(set_canary::<C>))
        .route("/v1/canaries/{action}", post(move_canary::<C>))
        .route("/v1/report", get(report::<C>))
}

async fn act_on_backend<C: Control>(
    State(app): Shared<C>,
    path: Result<Path<(String, String)>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Acted> {
    let (name, action) = segment(path)?;
    let action = parse_action(&action)?;
    let request: BackendActionRequest = parse_body(body, r#"{"reason": "replacing fans", "for_s": 7200}"#)?;
    let (subject, terms) = (SubjectName { kind: SubjectKind::Backend, name }, request.terms());
    act(&*app.control, subject, action, terms, &request.reason).await
}

async fn act_on_domain<C: Control>(
    State(app): Shared<C>,
    action: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Acted> {
    let action = parse_action(&segment(action)?)?;
    let example = r#"{"domain": "west/w1", "reason": "replacing fans", "for_s": 7200}"#;
    let request: DomainActionRequest = parse_body(body, example)?;
    let terms = request.terms();
    let subject = SubjectName { kind: SubjectKind::Domain, name: request.domain };
    act(&*app.control, subject, action, terms, &request.reason).await
}

async fn act<C: Control>(
    control: &C,
    subject: SubjectName,
    action: Action,
    terms: ActionTerms,
    reason: &str,
) -> Answer<Acted> {
    let reason = good_reason(reason)?;
    control.act(subject, action, terms, reason).await.map(Json)
}

pub(super) async fn shifts<C: Control>(State(app): Shared<C>) -> Json<Vec<ShiftView>> {
    let mut shifts = app.control.shifts().await;
    shifts.sort_by(|a, b| a.domain.cmp(&b.domain));
    Json(shifts)
}

async fn shift<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<ShiftView> {
    let example = r#"{"domain": "west/w1", "keep_percent": 50, "for_s": 7200, "reason": "cooling is weak"}"#;
    let request: ShiftRequest = parse_body(body, example)?;
    let reason = good_reason(&request.reason)?;
    app.control.shift(ShiftChange::Set(ShiftRequest { reason, ..request })).await.map(Json)
}

async fn extend<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<ShiftView> {
    let example = r#"{"domain": "west/w1", "for_s": 7200, "reason": "cooling is still weak"}"#;
    let request: ShiftExtendRequest = parse_body(body, example)?;
    let reason = good_reason(&request.reason)?;
    app.control.shift(ShiftChange::Extend(ShiftExtendRequest { reason, ..request })).await.map(Json)
}

async fn cancel<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<ShiftView> {
    let example = r#"{"domain": "west/w1", "reason": "cooling works again"}"#;
    let request: ShiftCancelRequest = parse_body(body, example)?;
    let reason = good_reason(&request.reason)?;
    app.control.shift(ShiftChange::Cancel(ShiftCancelRequest { reason, ..request })).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportParameters {
    /// Seconds.
    since_s: Option<u64>,
}

async fn report<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<ReportParameters>, QueryRejection>,
) -> Answer<Report> {
    let example = "/v1/report?since_s=604800";
    let since_s = parse_query::<ReportParameters>(query, example)?.since_s.unwrap_or(DEFAULT_REPORT_S);
    let now = jiff::Timestamp::now();
    let since = now.checked_sub(std::time::Duration::from_secs(since_s)).map_err(|error| {
        Problem::new(
            ProblemKind::Invalid,
            format!("since_s: {error}"),
            format!("ask for example for {example}"),
        )
    })?;
    app.control.report(since).await.map(Json)
}

pub(super) async fn canaries<C: Control>(State(app): Shared<C>) -> Json<Vec<CanaryView>> {
    let mut canaries = app.control.canaries().await;
    canaries.sort_by(|a, b| a.canary.service.cmp(&b.canary.service));
    Json(canaries)
}

async fn set_canary<C: Control>(
    State(app): Shared<C>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<CanaryView> {
    let example = r#"{"service": "web", "set": "blue-2", "permille": 50, "reason": "version 7"}"#;
    let CanarySetRequest { service, set, permille, steps, reason } = parse_body(body, example)?;
    let reason = good_reason(&reason)?;
    let order = CanaryOrder::Set { set, permille, steps };
    app.control.canary(CanaryChange { service, order, reason }).await.map(Json)
}

async fn move_canary<C: Control>(
    State(app): Shared<C>,
    action: Result<Path<String>, PathRejection>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<CanaryView> {
    let action = segment(action)?;
    let request: CanaryRequest = parse_body(body, r#"{"service": "web", "reason": "no errors in an hour"}"#)?;
    let CanaryRequest { service, reason, back } = request;
    let order = match action.as_str() {
        "step" => CanaryOrder::Step { back },
        "promote" if !back => CanaryOrder::Promote,
        "abort" if !back => CanaryOrder::Abort,
        _ => {
            let detail = format!("there is no action \"{}\", or none that goes back", action.escape_debug());
            return Err(Problem::new(
                ProblemKind::NoRoute,
                detail,
                "the actions are step, promote and abort",
            ));
        }
    };
    let reason = good_reason(&reason)?;
    app.control.canary(CanaryChange { service, order, reason }).await.map(Json)
}

fn parse_action(text: &str) -> Result<Action, Problem> {
    Action::ALL.into_iter().find(|action| action.name() == text).ok_or_else(|| {
        let detail = format!("there is no action \"{}\"", text.escape_debug());
        Problem::new(ProblemKind::NoRoute, detail, "the actions are drain, fail and restore")
    })
}
