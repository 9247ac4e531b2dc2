//! What protects those who order something: idempotency keys, and orders for one configuration only.
//!
//! A POST (or PUT, or DELETE) with `Idempotency-Key` is done once: whoever sends it again, because the answer was lost, gets the first answer, with
//! `Idempotency-Replayed: true`. Answers of the kind "the daemon failed" are not remembered, so that such a request can be tried
//! again. A POST with `If-Match` is done only if that is the tag of the configuration in force (`ETag` of `GET /v1/status`).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    body::{Body, Bytes, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderValue, Method, StatusCode,
        header::{CONTENT_TYPE, IF_MATCH},
    },
    middleware::Next,
    response::{IntoResponse, Response},
};
use sha2::{Digest, Sha256};
use tokio::time::timeout;

use super::{
    Control,
    limits::{
        BODY_TIMEOUT, IDEMPOTENCY_TIME, MAX_BODY_BYTES, MAX_IDEMPOTENCY_KEY_CHARS, MAX_IDEMPOTENCY_KEYS,
        MAX_REMEMBERED_BYTES,
    },
    problem::{Problem, ProblemKind},
};

const KEY: &str = "idempotency-key";
const REPLAYED: &str = "idempotency-replayed";

/// The requests that came with a key.
pub(super) struct Writes<C> {
    control: Arc<C>,
    /// Oldest first.
    seen: Mutex<VecDeque<Seen>>,
}

struct Seen {
    key: String,
    /// Of method, address and body.
    request: [u8; 32],
    at: Instant,
    /// None while it is under way.
    answer: Option<Remembered>,
}

#[derive(Clone)]
struct Remembered {
    status: StatusCode,
    kind: Option<HeaderValue>,
    body: Bytes,
}

/// What a key means for a request.
enum Known {
    /// Not seen before; it is now.
    New,
    /// Answered before.
    Answered(Remembered),
    /// Refused.
    Refused(Problem),
}

/// The entity tag of a configuration.
pub(super) fn tag(digest: &str) -> String {
    format!("\"{digest}\"")
}

impl<C> Writes<C> {
    pub(super) fn new(control: Arc<C>) -> Self {
        Self { control, seen: Mutex::default() }
    }

    fn look(&self, key: &str, request: [u8; 32]) -> Known {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.retain(|seen| seen.answer.is_none() || seen.at.elapsed() < IDEMPOTENCY_TIME);
        match seen.iter().find(|seen| seen.key == key) {
            Some(found) if found.request != request => Known::Refused(Problem::new(
                ProblemKind::KeyReused,
                "this Idempotency-Key came before, with another request",
                "make a new key for each thing that is to be done",
            )),
            Some(Seen { answer: Some(answer), .. }) => Known::Answered(answer.clone()),
            Some(_) => Known::Refused(Problem::new(
                ProblemKind::Conflict,
                "the request with this Idempotency-Key is still being served",
                "ask again in a moment",
            )),
            None => {
                if seen.len() >= MAX_IDEMPOTENCY_KEYS {
                    let oldest = seen.iter().position(|seen| seen.answer.is_some());
                    // At most as many are under way as there are connections, which are fewer.
                    oldest.and_then(|oldest| seen.remove(oldest));
                }
                seen.push_back(Seen { key: key.to_owned(), request, at: Instant::now(), answer: None });
                Known::New
            }
        }
    }

    fn forget(&self, key: &str) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).retain(|seen| seen.key != key);
    }

    fn remember(&self, key: &str, answer: Remembered) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = seen.iter_mut().find(|seen| seen.key == key) {
            seen.answer = Some(answer);
        }
    }
}

/// A key whose request is under way; forgotten if that is given up.
struct UnderWay<'w, C> {
    writes: &'w Writes<C>,
    key: String,
    answered: bool,
}

impl<C> Drop for UnderWay<'_, C> {
    fn drop(&mut self) {
        if !self.answered {
            self.writes.forget(&self.key);
        }
    }
}

/// Does what the two headers ask for.
pub(super) async fn guard<C: Control>(
    State(writes): State<Arc<Writes<C>>>,
    request: Request,
    next: Next,
) -> Response {
    if !matches!(*request.method(), Method::POST | Method::PUT | Method::DELETE) {
        return next.run(request).await;
    }
    let answer = match key_of(request.headers()) {
        Err(problem) => Err(problem),
        Ok(None) => match expected(&*writes.control, request.headers()).await {
            Ok(()) => Ok(next.run(request).await),
            Err(problem) => Err(problem),
        },
        Ok(Some(key)) => once(&writes, key, request, next).await,
    };
    answer.unwrap_or_else(IntoResponse::into_response)
}

async fn once<C: Control>(
    writes: &Writes<C>,
    key: String,
    request: Request,
    next: Next,
) -> Result<Response, Problem> {
    let (parts, body) = request.into_parts();
    let body = timeout(BODY_TIMEOUT, to_bytes(body, MAX_BODY_BYTES)).await.map_err(|_| {
        let detail = format!("the body did not arrive within {} s; nothing was done", BODY_TIMEOUT.as_secs());
        Problem::new(ProblemKind::Timeout, detail, "send it at once")
    })?;
    let body = body.map_err(|_| {
        let detail = format!("the body is larger than {MAX_BODY_BYTES} bytes, or ended early");
        Problem::new(ProblemKind::TooLarge, detail, "send a smaller one")
    })?;
    let head = format!("{} {}\n", parts.method, parts.uri);
    let digest = Sha256::new().chain_update(head).chain_update(&body).finalize().into();
    match writes.look(&key, digest) {
        Known::Refused(problem) => return Err(problem),
        Known::Answered(answer) => return Ok(replay(answer)),
        Known::New => {}
    }
    let mut under_way = UnderWay { writes, key, answered: false };
    expected(&*writes.control, &parts.headers).await?;
    let answer = next.run(Request::from_parts(parts, Body::from(body))).await;
    if answer.status().is_server_error() {
        return Ok(answer);
    }
    let (parts, body) = answer.into_parts();
    let body = to_bytes(body, MAX_REMEMBERED_BYTES).await.map_err(|_| {
        let detail = "it is done, but the answer is too long to be remembered with its key";
        Problem::new(ProblemKind::Internal, detail, "look at `weir status`")
    })?;
    let kind = parts.headers.get(CONTENT_TYPE).cloned();
    writes.remember(&under_way.key, Remembered { status: parts.status, kind, body: body.clone() });
    under_way.answered = true;
    Ok(Response::from_parts(parts, Body::from(body)))
}

fn replay(Remembered { status, kind, body }: Remembered) -> Response {
    let mut response = (status, body).into_response();
    if let Some(kind) = kind {
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response.headers_mut().insert(REPLAYED, HeaderValue::from_static("true"));
    response
}

fn key_of(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(key) = headers.get(KEY) else { return Ok(None) };
    let good = |key: &&str| {
        (1..=MAX_IDEMPOTENCY_KEY_CHARS).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic())
    };
    key.to_str().ok().filter(good).map(|key| Some(key.to_owned())).ok_or_else(|| {
        let detail =
            format!("Idempotency-Key must have 1 to {MAX_IDEMPOTENCY_KEY_CHARS} visible ASCII characters");
        Problem::new(ProblemKind::Invalid, detail, "send a random one, such as a UUID")
    })
}

/// Whether the configuration in force is the one that the request expects, if it does.
async fn expected<C: Control>(control: &C, headers: &HeaderMap) -> Result<(), Problem> {
    let Some(wanted) = headers.get(IF_MATCH) else { return Ok(()) };
    let now = tag(&control.status().await.config.digest);
    let matches = wanted.to_str().is_ok_and(|w| w.trim() == "*" || w.split(',').any(|w| w.trim() == now));
    matches.then_some(()).ok_or_else(|| {
        let detail = format!("the configuration in force is {now}; nothing was done");
        Problem::new(ProblemKind::Precondition, detail, "look at `weir status`, then decide again")
    })
}

#[cfg(test)]
#[path = "writes_tests.rs"]
mod tests;
