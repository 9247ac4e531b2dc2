//! Routes: requests are checked here, answered by a [`Control`].

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use axum::{
    Extension, Json, Router,
    body::Bytes,
    extract::{
        DefaultBodyLimit, Path, Query, Request, State,
        rejection::{BytesRejection, PathRejection, QueryRejection},
    },
    http::{
        HeaderName, HeaderValue, StatusCode,
        header::{CONTENT_TYPE, ETAG},
    },
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde::{Deserialize, de::DeserializeOwned};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::timeout,
};

use super::{
    Control, access, flows, host,
    limits::{
        DEFAULT_EVENTS, MAX_BODY_BYTES, MAX_EVENTS, MAX_REASON_CHARS, MAX_WAIT, MAX_WAITING, REQUEST_TIMEOUT,
    },
    observe, operations,
    problem::{Problem, ProblemKind},
    stats,
    types::{
        BackendView, BfdSessionView, ClearRequest, Differences, DomainView, ExplainQuery, Explanation,
        GuardView, Reloaded, ServiceView, SimulateRequest, Simulation, Status, SteeredPlan, SwitchView,
        ThrowRequest,
    },
    watch::{Lifetime, WatchParameters},
    writes::{self, Writes},
};
use crate::{config::Protocol, telemetry::event::Event};

pub(super) type Answer<T> = Result<Json<T>, Problem>;

/// What handlers share.
pub(super) struct App<C> {
    pub(super) control: Arc<C>,
    /// One permit for each request that may wait for events.
    pub(super) waiting: Arc<Semaphore>,
    /// Its sender is gone when the server stops.
    pub(super) stopping: watch::Receiver<()>,
}

/// Which routes there are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Surface {
    /// All of them: on the unix socket, which only its owner can connect to, and for those who have shown a certificate, as far as
    /// it goes ([`super::access`]).
    All,
    /// Those that only tell, and name no file: over TCP where nobody is asked who they are.
    ReadOnly,
}

pub(super) type Shared<C> = State<Arc<App<C>>>;

/// The routes of a surface. Streams end when the sender of `stopping` is gone.
pub fn router<C: Control>(control: Arc<C>, surface: Surface, stopping: watch::Receiver<()>) -> Router {
    let waiting = Arc::new(Semaphore::new(MAX_WAITING));
    let app = Arc::new(App { control, waiting, stopping });
    let telling = Router::new()
        .route("/v1/status", get(status::<C>))
        .route("/v1/services", get(services::<C>))
        .route("/v1/services/{name}", get(service::<C>))
        .route("/v1/backends", get(backends::<C>))
        .route("/v1/backends/{name}", get(backend::<C>))
        .route("/v1/domains", get(domains::<C>))
        .route("/v1/domains/{*path}", get(domain::<C>))
        .route("/v1/plans", get(plans::<C>))
        .route("/v1/plans/{service}", get(plans_of::<C>))
        .route("/v1/shifts", get(operations::shifts::<C>))
        .route("/v1/canaries", get(operations::canaries::<C>))
        .merge(observe::routes());
    let prompt = match surface {
        Surface::ReadOnly => telling,
        Surface::All => telling
            // Discriminators are all that tells a peer's packets over several hops from others': not for everybody.
            .route("/v1/bfd", get(bfd_sessions::<C>))
            .route("/v1/bfd/{backend}", get(bfd_sessions_of::<C>))
            .route("/v1/guards", get(guards::<C>))
            .route("/v1/guards/{service}", get(guard::<C>))
            // A service may have that name.
            .route("/v1/plans/simulate", get(plans_of_simulate::<C>).post(simulate::<C>))
            .route("/v1/emergency", get(switches::<C>).post(throw::<C>))
            .route("/v1/emergency/clear", post(clear::<C>))
            .route("/v1/explain", get(explain::<C>))
            .route("/v1/diff", get(diff::<C>))
            .merge(host::routes())
            .merge(operations::routes()),
    };
    let prompt = prompt.layer(middleware::from_fn(|request, next| within(REQUEST_TIMEOUT, request, next)));
    let patient =
        Router::new().route("/v1/events", get(events::<C>)).route("/v1/stats", get(stats::stats::<C>));
    let patient = match surface {
        Surface::ReadOnly => patient,
        Surface::All => patient
            .route("/v1/reload", post(reload::<C>))
            .route("/v1/watch", get(watch::<C>))
            .merge(operations::patient_routes())
            .merge(flows::patient_routes()),
    };
    let patient =
        patient.layer(middleware::from_fn(|request, next| within(REQUEST_TIMEOUT + MAX_WAIT, request, next)));
    let routes = prompt.merge(patient);
    let routes = match surface {
        Surface::ReadOnly => routes,
        Surface::All => routes.layer(middleware::from_fn_with_state(
            Arc::new(Writes::new(Arc::clone(&app.control))),
            writes::guard::<C>,
        )),
    };
    // What no route takes is told before anything else, so these come after the guard.
    let all = routes
        .fallback(no_route)
        .method_not_allowed_fallback(wrong_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES));
    all.with_state(app)
}

/// Answers a problem if there is no answer within `limit`.
async fn within(limit: Duration, request: Request, next: Next) -> Response {
    timeout(limit, next.run(request)).await.unwrap_or_else(|_| {
        let detail =
            format!("there was no answer within {} s; what was asked for may still happen", limit.as_secs());
        Problem::new(ProblemKind::Timeout, detail, "look at `weir status`, then try again").into_response()
    })
}

async fn status<C: Control>(State(app): Shared<C>) -> ([(HeaderName, String); 1], Json<Status>) {
    let status = app.control.status().await;
    ([(ETAG, writes::tag(&status.config.digest))], Json(status))
}

async fn services<C: Control>(State(app): Shared<C>) -> Json<Vec<ServiceView>> {
    let mut services = app.control.services().await;
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Json(services)
}

async fn service<C: Control>(
    State(app): Shared<C>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<ServiceView> {
    let name = segment(name)?;
    let found = app.control.services().await.into_iter().find(|service| service.name == name);
    found.map(Json).ok_or_else(|| Problem::not_found("service", &name))
}

async fn backends<C: Control>(State(app): Shared<C>) -> Json<Vec<BackendView>> {
    let mut backends = app.control.backends().await;
    backends.sort_by(|a, b| a.name.cmp(&b.name));
    Json(backends)
}

async fn backend<C: Control>(
    State(app): Shared<C>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<BackendView> {
    let name = segment(name)?;
    let found = app.control.backends().await.into_iter().find(|backend| backend.name == name);
    found.map(Json).ok_or_else(|| Problem::not_found("backend", &name))
}

async fn domains<C: Control>(State(app): Shared<C>) -> Json<Vec<DomainView>> {
    let mut domains = app.control.domains().await;
    domains.sort_by(|a, b| a.path.cmp(&b.path));
    Json(domains)
}

async fn domain<C: Control>(
    State(app): Shared<C>,
    path: Result<Path<String>, PathRejection>,
) -> Answer<DomainView> {
    let path = segment(path)?;
    let found = app.control.domains().await.into_iter().find(|domain| domain.path == path);
    found.map(Json).ok_or_else(|| Problem::not_found("domain", &path))
}

async fn bfd_sessions<C: Control>(State(app): Shared<C>) -> Json<Vec<BfdSessionView>> {
    let mut sessions = app.control.bfd_sessions().await;
    sessions.sort_by(|a, b| (&a.backends, a.multihop).cmp(&(&b.backends, b.multihop)));
    Json(sessions)
}

async fn bfd_sessions_of<C: Control>(
    state: Shared<C>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<Vec<BfdSessionView>> {
    let name = segment(name)?;
    let Json(mut sessions) = bfd_sessions(state).await;
    sessions.retain(|session| session.backends.contains(&name));
    if sessions.is_empty() {
        let detail = format!("no BFD session watches a backend \"{}\"", name.escape_debug());
        return Err(Problem::new(ProblemKind::NotFound, detail, "`weir bfd list` shows all sessions"));
    }
    Ok(Json(sessions))
}

async fn guards<C: Control>(State(app): Shared<C>) -> Json<Vec<GuardView>> {
    let mut guards = app.control.guards().await;
    guards.sort_by(|a, b| a.service.cmp(&b.service));
    Json(guards)
}

async fn guard<C: Control>(
    State(app): Shared<C>,
    name: Result<Path<String>, PathRejection>,
) -> Answer<GuardView> {
    let name = segment(name)?;
    let found = app.control.guards().await.into_iter().find(|guard| guard.service == name);
    found.map(Json).ok_or_else(|| Problem::not_found("service", &name))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlansParameters {
    client: Option<String>,
}

const PLANS_EXAMPLE: &str = "/v1/plans?client=198.51.100.0/24";

async fn plans<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<PlansParameters>, QueryRejection>,
) -> Answer<Vec<SteeredPlan>> {
    let PlansParameters { client } = parse_query(query, PLANS_EXAMPLE)?;
    app.control.plans(None, client).await.map(Json)
}

async fn plans_of<C: Control>(
    State(app): Shared<C>,
    name: Result<Path<String>, PathRejection>,
    query: Result<Query<PlansParameters>, QueryRejection>,
) -> Answer<Vec<SteeredPlan>> {
    let (name, PlansParameters { client }) = (segment(name)?, parse_query(query, PLANS_EXAMPLE)?);
    app.control.plans(Some(name), client).await.map(Json)
}

async fn plans_of_simulate<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<PlansParameters>, QueryRejection>,
) -> Answer<Vec<SteeredPlan>> {
    let PlansParameters { client } = parse_query(query, PLANS_EXAMPLE)?;
    app.control.plans(Some("simulate".to_owned()), client).await.map(Json)
}

async fn simulate<C: Control>(
    State(app): Shared<C>,
    body: Result<Bytes, BytesRejection>,
) -> Answer<Simulation> {
    let request: SimulateRequest = parse_body(body, r#"{"fail": ["zone=west/w1"], "load": 1.5}"#)?;
    app.control.simulate(request).await.map(Json)
}

async fn switches<C: Control>(State(app): Shared<C>) -> Json<Vec<SwitchView>> {
    let mut switches = app.control.switches().await;
    switches.sort_by(|a, b| a.name.cmp(&b.name));
    Json(switches)
}

async fn throw<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<SwitchView> {
    let example = r#"{"switch": {"kind": "stop", "service": "web"}, "for_s": 600, "reason": "flood"}"#;
    let request: ThrowRequest = parse_body(body, example)?;
    let reason = good_reason(&request.reason)?;
    app.control.throw(ThrowRequest { reason, ..request }).await.map(Json)
}

async fn clear<C: Control>(State(app): Shared<C>, body: Result<Bytes, BytesRejection>) -> Answer<SwitchView> {
    let request: ClearRequest = parse_body(body, r#"{"name": "stop:web", "reason": "the flood is over"}"#)?;
    let reason = good_reason(&request.reason)?;
    app.control.clear(ClearRequest { reason, ..request }).await.map(Json)
}

pub(super) fn good_reason(text: &str) -> Result<String, Problem> {
    check_reason(text).map(access::signed).map_err(|detail| {
        Problem::new(ProblemKind::Invalid, detail, "say in one line why, for those who find it later")
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExplainParameters {
    src: String,
    dst: String,
    protocol: Option<String>,
    opening: Option<bool>,
    from_relay: Option<bool>,
}

async fn explain<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<ExplainParameters>, QueryRejection>,
) -> Answer<Explanation> {
    let example = "/v1/explain?src=198.51.100.7:40000&dst=192.0.2.10:80&protocol=tcp&opening=true";
    let ExplainParameters { src, dst, protocol, opening, from_relay } = parse_query(query, example)?;
    let invalid =
        |detail| Problem::new(ProblemKind::Invalid, detail, format!("ask for example for {example}"));
    let address = |name: &str, text: &str| {
        text.parse::<SocketAddr>()
            .map_err(|_| invalid(format!("\"{}\" in {name} is no address with a port", text.escape_debug())))
    };
    let (src, dst) = (address("src", &src)?, address("dst", &dst)?);
    if src.is_ipv4() != dst.is_ipv4() {
        return Err(invalid("src and dst are not of the same family".to_owned()));
    }
    let protocol = match protocol.as_deref() {
        None | Some("tcp") => Protocol::Tcp,
        Some("udp") => Protocol::Udp,
        Some("sctp") => Protocol::Sctp,
        Some(other) => {
            return Err(invalid(format!("\"{}\" is none of tcp, udp and sctp", other.escape_debug())));
        }
    };
    let (opening, from_relay) = (opening.unwrap_or(true), from_relay.unwrap_or(false));
    app.control.explain(ExplainQuery { src, dst, protocol, opening, from_relay }).await.map(Json)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsParameters {
    after: Option<u64>,
    limit: Option<usize>,
    /// Seconds.
    wait: Option<u64>,
}

async fn events<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<EventsParameters>, QueryRejection>,
) -> Answer<Vec<Event>> {
    let example = "/v1/events?after=0&limit=100&wait=10";
    let EventsParameters { after, limit, wait } = parse_query(query, example)?;
    let limit = limit.unwrap_or(DEFAULT_EVENTS);
    let wait = Duration::from_secs(wait.unwrap_or(0));
    let invalid =
        |detail: String| Problem::new(ProblemKind::Invalid, detail, format!("ask for example for {example}"));
    if limit == 0 || limit > MAX_EVENTS {
        return Err(invalid(format!("limit is {limit}; it must be 1 to {MAX_EVENTS}")));
    }
    if wait > MAX_WAIT {
        return Err(invalid(format!("wait is {} s; it must be 0 to {}", wait.as_secs(), MAX_WAIT.as_secs())));
    }
    if !wait.is_zero() && after.is_none() {
        return Err(invalid("wait without after: say which event is the last that you have".to_owned()));
    }
    let _permit = if wait.is_zero() { None } else { Some(permit_to_wait(&app)?) };
    Ok(Json(app.control.events(after, limit, wait).await))
}

/// Permission to hold a request for long.
pub(super) fn permit_to_wait<C>(app: &App<C>) -> Result<OwnedSemaphorePermit, Problem> {
    Arc::clone(&app.waiting).try_acquire_owned().map_err(|_| {
        let detail = format!("{MAX_WAITING} requests are waiting for events already");
        Problem::new(ProblemKind::Busy, detail, "ask without wait, or end another `weir events --follow`")
    })
}

async fn reload<C: Control>(State(app): Shared<C>) -> Answer<Reloaded> {
    app.control.reload().await.map(Json)
}

async fn watch<C: Control>(
    State(app): Shared<C>,
    lifetime: Option<Extension<Lifetime>>,
    query: Result<Query<WatchParameters>, QueryRejection>,
) -> Result<Response, Problem> {
    let query = parse_query(query, "/v1/watch?filter=port+443&sample=10&snap=0")?.query();
    let lines = app.control.watch(query).await?;
    Ok(super::watch::answer(lines, lifetime.as_deref()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DiffParameters {
    file: Option<PathBuf>,
}

async fn diff<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<DiffParameters>, QueryRejection>,
) -> Answer<Differences> {
    let DiffParameters { file } = parse_query(query, "/v1/diff?file=/etc/weir/weir.toml")?;
    app.control.diff(file).await.map(Json)
}

async fn no_route(request: Request) -> Problem {
    let detail = format!("there is no {}", request.uri().path().escape_debug());
    Problem::new(ProblemKind::NoRoute, detail, "the version of weir that asks may be newer than the daemon")
}

async fn wrong_method(request: Request) -> Problem {
    let detail = format!("{} does not take {}", request.uri().path().escape_debug(), request.method());
    Problem::new(ProblemKind::Method, detail, "use GET to look and POST to act")
}

/// Checks an operator's reason and returns it without the space around it.
///
/// # Errors
/// What is wrong with it, in words: empty, longer than [`MAX_REASON_CHARS`], control characters.
pub fn check_reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("the reason is empty".to_owned());
    }
    let chars = text.chars().count();
    if chars > MAX_REASON_CHARS {
        return Err(format!("the reason has {chars} characters; at most {MAX_REASON_CHARS} are kept"));
    }
    if text.chars().any(char::is_control) {
        return Err("the reason has control characters, such as line breaks".to_owned());
    }
    Ok(text.to_owned())
}

pub(super) fn segment<T>(path: Result<Path<T>, PathRejection>) -> Result<T, Problem> {
    path.map(|Path(value)| value).map_err(|rejection| {
        Problem::new(ProblemKind::Invalid, rejection.body_text(), "percent-encode the name as UTF-8")
    })
}

pub(super) fn parse_query<T>(query: Result<Query<T>, QueryRejection>, example: &str) -> Result<T, Problem> {
    query.map(|Query(value)| value).map_err(|rejection| {
        Problem::new(ProblemKind::Invalid, rejection.body_text(), format!("ask for example for {example}"))
    })
}

pub(super) fn parse_body<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    example: &str,
) -> Result<T, Problem> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => {
            let detail = format!("the body is larger than {MAX_BODY_BYTES} bytes");
            Problem::new(ProblemKind::TooLarge, detail, format!("send {example}"))
        }
        _ => Problem::new(ProblemKind::Invalid, rejection.body_text(), format!("send {example}")),
    })?;
    serde_json::from_slice(&body).map_err(|error| {
        Problem::new(
            ProblemKind::Invalid,
            format!("the body is not what is needed: {error}"),
            format!("send {example}"),
        )
    })
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(self)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        response
    }
}
