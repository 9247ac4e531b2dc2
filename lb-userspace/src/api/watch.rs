//! `GET /v1/watch`: an answer without end, one JSON object a line.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum::{
    body::Body,
    http::{HeaderValue, header::CONTENT_TYPE},
    response::Response,
};
use hyper::body::{Bytes, Frame};
use serde::Deserialize;
use tokio::sync::mpsc;

use super::types::WatchQuery;

/// Whether a connection has an answer without end on it, so that it may live longer than others.
#[derive(Clone, Debug, Default)]
pub struct Lifetime(Arc<AtomicBool>);

impl Lifetime {
    /// Whether it has.
    #[must_use]
    pub fn is_endless(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What is asked for.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WatchParameters {
    #[serde(default)]
    filter: String,
    sample: Option<u32>,
    snap: Option<u32>,
}

impl WatchParameters {
    pub(super) fn query(self) -> WatchQuery {
        WatchQuery { filter: self.filter, sample: self.sample.unwrap_or(1), snap: self.snap.unwrap_or(0) }
    }
}

/// The answer that these lines are. It ends when their sender goes; when the client goes, the receiver does.
pub(super) fn answer(lines: mpsc::Receiver<Bytes>, lifetime: Option<&Lifetime>) -> Response {
    if let Some(Lifetime(endless)) = lifetime {
        endless.store(true, Ordering::Relaxed);
    }
    let mut response = Response::new(Body::new(Lines(lines)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    response
}

struct Lines(mpsc::Receiver<Bytes>);

impl hyper::body::Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}
