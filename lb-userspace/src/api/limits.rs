//! The limits of the API. Meeting one is an answer that names it.

use std::time::Duration;

/// Bytes of a request's body.
pub const MAX_BODY_BYTES: usize = 16 << 10;
/// Characters of an operator's reason.
pub const MAX_REASON_CHARS: usize = 512;
/// Connections that are served at once; more wait in the socket's queue.
pub const MAX_CONNECTIONS: usize = 64;
/// Requests that wait for events at once; more are answered [`Busy`](super::problem::ProblemKind::Busy), so that those
/// who wait never keep out those who act.
pub const MAX_WAITING: usize = 32;
/// Connections that wait in the socket's queue.
pub const LISTEN_BACKLOG: i32 = 128;
/// Events in one answer.
pub const MAX_EVENTS: usize = 1_000;
/// Events in one answer when the request does not say.
pub const DEFAULT_EVENTS: usize = 100;
/// Flows in one answer.
pub const MAX_FLOWS: usize = 1_000;
/// Flows in one answer when the request does not say.
pub const DEFAULT_FLOWS: usize = 100;
/// How long a request may wait for an event.
pub const MAX_WAIT: Duration = Duration::from_secs(30);
/// Connections of one address over TCP that are served at once; more are closed.
pub const MAX_CONNECTIONS_PER_PEER: usize = 16;
/// Addresses whose requests are counted; then the one that was silent for longest is forgotten.
pub const MAX_PEERS: usize = 1_024;
/// Requests a second that one address over TCP may make; more are answered [`Rate`](super::problem::ProblemKind::Rate).
pub const PEER_REQUESTS_PER_SECOND: f64 = 50.0;
/// Requests and connections that it may make at once after a pause.
pub const PEER_BURST: f64 = 200.0;
/// How long a TLS handshake may take.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Shortest time between two refused handshakes that the log tells; metrics count all.
pub const HANDSHAKE_LOG_GAP: Duration = Duration::from_secs(1);
/// Header fields of a request.
pub const MAX_HEADERS: usize = 64;
/// Bytes of a request's head.
pub const MAX_HEAD_BYTES: usize = 32 << 10;
/// How long the body of a request may take to arrive.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a request may take, besides the time it asks to wait.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the head of a request may take to arrive, the first one or one after another.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one connection may live, so that a client that does not read its answer does not hold it for ever.
pub const CONNECTION_LIFETIME: Duration = Duration::from_secs(120);
/// How long the server waits for answers under way when it stops.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an answer's body that a client takes.
pub const MAX_ANSWER_BYTES: usize = 64 << 20;
/// After how long a stream of events ends by itself; its reader asks again, from where it was.
pub const STREAM_LIFETIME: Duration = Duration::from_secs(100);
/// How long a stream is silent at most: a comment shows that both ends are there.
pub const STREAM_SILENCE: Duration = Duration::from_secs(15);
/// Idempotency keys that are remembered; then the oldest one goes.
pub const MAX_IDEMPOTENCY_KEYS: usize = 256;
/// Characters of an idempotency key.
pub const MAX_IDEMPOTENCY_KEY_CHARS: usize = 128;
/// How long an idempotency key is remembered.
pub const IDEMPOTENCY_TIME: Duration = Duration::from_secs(3600);
/// Bytes of an answer that is remembered with its key; of a longer one only its status is.
pub const MAX_REMEMBERED_BYTES: usize = 64 << 10;
