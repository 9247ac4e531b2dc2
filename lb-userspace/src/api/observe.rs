//! Routes for those who look: metrics, traffic, the stream of events, the OpenAPI document, the status page.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    extract::{Query, Request, State, rejection::QueryRejection},
    http::{
        HeaderMap, HeaderValue,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, REFERRER_POLICY,
            X_CONTENT_TYPE_OPTIONS,
        },
    },
    middleware::Next,
    response::{
        IntoResponse, Response,
        sse::{self, KeepAlive, Sse},
    },
    routing::get,
};
use futures_util::stream::{self, Stream};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::{
    Control,
    limits::{DEFAULT_EVENTS, MAX_WAIT, STREAM_LIFETIME, STREAM_SILENCE},
    openapi,
    problem::{Problem, ProblemKind},
    router::{Answer, App, Shared, parse_query, permit_to_wait},
    types::TrafficHistory,
};
use crate::telemetry::{event::Event, history::MAX_POINTS, metrics::render, metrics_text};

/// What the page may load: its own script and style, and this API. Nothing inline, nothing from elsewhere.
pub(super) const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// After how many milliseconds a browser asks again when a stream has ended.
const RETRY: Duration = Duration::from_millis(500);

/// All of them.
pub(super) fn routes<C: Control>() -> Router<Arc<App<C>>> {
    Router::new()
        .route("/metrics", get(metrics::<C>))
        .route("/v1/traffic", get(traffic::<C>))
        .route("/v1/events/stream", get(events_stream::<C>))
        .route("/v1/openapi.json", get(|| async { Json(openapi::document()) }))
        .route("/", get(|| async { page("text/html; charset=utf-8", include_str!("page/index.html")) }))
        .route(
            "/status.css",
            get(|| async { page("text/css; charset=utf-8", include_str!("page/status.css")) }),
        )
        .route(
            "/status.js",
            get(|| async { page("text/javascript; charset=utf-8", include_str!("page/status.js")) }),
        )
        .route("/icon.svg", get(|| async { page("image/svg+xml", include_str!("page/icon.svg")) }))
}

async fn metrics<C: Control>(State(app): Shared<C>) -> impl IntoResponse {
    let snapshot = app.control.metrics().await;
    ([(CONTENT_TYPE, metrics_text::CONTENT_TYPE)], render(&snapshot))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct TrafficParameters {
    points: Option<usize>,
}

async fn traffic<C: Control>(
    State(app): Shared<C>,
    query: Result<Query<TrafficParameters>, QueryRejection>,
) -> Answer<TrafficHistory> {
    let example = "/v1/traffic?points=12";
    let points = parse_query::<TrafficParameters>(query, example)?.points.unwrap_or(MAX_POINTS);
    if points > MAX_POINTS {
        let detail = format!("points is {points}; it must be 0 to {MAX_POINTS}");
        return Err(Problem::new(ProblemKind::Invalid, detail, format!("ask for example for {example}")));
    }
    Ok(Json(app.control.traffic(points).await))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StreamParameters {
    after: Option<u64>,
}

/// A stream under way.
struct Streaming<C> {
    control: Arc<C>,
    after: u64,
    ready: VecDeque<Event>,
    ends: Instant,
    stopping: watch::Receiver<()>,
    _permit: OwnedSemaphorePermit,
}

async fn events_stream<C: Control>(
    State(app): Shared<C>,
    headers: HeaderMap,
    query: Result<Query<StreamParameters>, QueryRejection>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, Infallible>>>, Problem> {
    let StreamParameters { after } = parse_query(query, "/v1/events/stream?after=17")?;
    // A browser that asks again says what it has; the address is still that of its first time.
    let seen = headers.get("last-event-id").map(|id| id.to_str().ok().and_then(|id| id.parse().ok()));
    let after = match (seen, after) {
        (Some(None), _) => {
            let detail = "Last-Event-ID is no number of an event";
            return Err(Problem::new(
                ProblemKind::Invalid,
                detail,
                "leave it out, or give the id of an event",
            ));
        }
        (Some(Some(seen)), _) => seen,
        (None, Some(after)) => after,
        (None, None) => app.control.events(None, 1, Duration::ZERO).await.last().map_or(0, |event| event.seq),
    };
    let streaming = Streaming {
        control: Arc::clone(&app.control),
        after,
        ready: VecDeque::new(),
        ends: Instant::now() + STREAM_LIFETIME,
        stopping: app.stopping.clone(),
        _permit: permit_to_wait(&app)?,
    };
    let keep_alive = KeepAlive::new().interval(STREAM_SILENCE);
    Ok(Sse::new(stream::unfold(streaming, next)).keep_alive(keep_alive))
}

/// The next event of a stream; `None` when it is over.
async fn next<C: Control>(
    mut streaming: Streaming<C>,
) -> Option<(Result<sse::Event, Infallible>, Streaming<C>)> {
    while streaming.ready.is_empty() {
        let left = streaming.ends.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        let events = streaming.control.events(Some(streaming.after), DEFAULT_EVENTS, left.min(MAX_WAIT));
        tokio::select! {
            // An error: the server stops.
            _ = streaming.stopping.changed() => return None,
            events = events => streaming.ready.extend(events),
        }
    }
    let event = streaming.ready.pop_front()?;
    streaming.after = event.seq;
    let data = serde_json::to_string(&event).unwrap_or_default();
    let sent = sse::Event::default().id(event.seq.to_string()).retry(RETRY).data(data);
    Some((Ok(sent), streaming))
}

fn page(kind: &'static str, text: &'static str) -> Response {
    let headers = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, PAGE_POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // The binary may be another one tomorrow.
        (CACHE_CONTROL, "no-cache"),
    ];
    (headers, text).into_response()
}

/// Answers only who asks for an address, or for a name without dots (`localhost`, `edge-1`): a page from elsewhere whose name was made to
/// lead here (DNS rebinding) asks for its own name. Metrics are for whoever comes: Prometheus asks by the names that it was given.
pub(super) async fn known_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(HOST).map(HeaderValue::to_str);
    match host {
        Some(Ok(host)) if !is_known(host) && request.uri().path() != "/metrics" => {
            let detail = format!("\"{}\" is no address, and no name without dots", host.escape_debug());
            let remedy =
                "ask for the address of http.listen, or for a short name; a proxy in front may take others";
            Problem::new(ProblemKind::Host, detail, remedy).into_response()
        }
        _ => next.run(request).await,
    }
}

fn is_known(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_short = !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    is_short || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_and_short_names_are_asked_for() {
        for host in ["127.0.0.1:9440", "127.0.0.1", "[::1]:9440", "[2001:db8::1]", "localhost:9440", "edge-1"]
        {
            assert!(is_known(host), "{host}");
        }
        for host in
            ["evil.example", "evil.example:9440", "127.0.0.1.evil.example", "", "localhost.evil:80", ":80"]
        {
            assert!(!is_known(host), "{host}");
        }
    }
}
