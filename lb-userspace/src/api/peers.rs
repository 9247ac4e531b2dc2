//! Limits of each address that connects over TCP: connections at once, and requests by a token bucket. An IPv6 host has a /64.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use axum::{
    Extension,
    extract::Request,
    http::{HeaderValue, header::RETRY_AFTER},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    https::{Https, Refused},
    limits::{MAX_CONNECTIONS_PER_PEER, MAX_PEERS, PEER_BURST, PEER_REQUESTS_PER_SECOND},
    problem::{Problem, ProblemKind},
};

/// What is known of those that connected lately.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<HashMap<IpAddr, Peer>>);

#[derive(Clone, Copy, Debug)]
struct Peer {
    connections: usize,
    /// Requests that it may make at once.
    tokens: f64,
    at: Instant,
}

impl Peer {
    const fn new(now: Instant) -> Self {
        Self { connections: 0, tokens: PEER_BURST, at: now }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * PEER_REQUESTS_PER_SECOND).min(PEER_BURST);
        self.at = now;
    }

    /// Takes a token, or says when there will be one.
    fn take(&mut self, now: Instant) -> Result<(), Duration> {
        self.fill(now);
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        Err(Duration::from_secs_f64((1.0 - self.tokens) / PEER_REQUESTS_PER_SECOND))
    }
}

/// A connection of a peer, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    peers: Arc<Peers>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(peer) = self.peers.lock().get_mut(&self.peer) {
            peer.connections = peer.connections.saturating_sub(1);
        }
    }
}

/// What counts as one: an address, or of IPv6 what one host is given.
pub(super) fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

impl Peers {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, Peer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a connection; none if the peer has all of its own, or has asked too much.
    pub(super) fn enter(self: &Arc<Self>, peer: IpAddr, now: Instant) -> Option<Place> {
        let mut peers = self.lock();
        if peers.len() >= MAX_PEERS && !peers.contains_key(&peer) {
            // Those that are not here: the one that was silent for longest. Connections are fewer than peers.
            let gone = peers.iter().filter(|(_, peer)| peer.connections == 0).min_by_key(|(_, peer)| peer.at);
            let gone = gone.map(|(&gone, _)| gone);
            peers.remove(&gone?);
        }
        let entry = peers.entry(peer).or_insert(Peer::new(now));
        // A handshake costs more than a request.
        if entry.connections >= MAX_CONNECTIONS_PER_PEER || entry.take(now).is_err() {
            return None;
        }
        entry.connections += 1;
        drop(peers);
        Some(Place { peers: Arc::clone(self), peer })
    }

    /// Whether the peer may ask, or after which time it may.
    fn ask(&self, peer: IpAddr, now: Instant) -> Result<(), Duration> {
        self.lock().entry(peer).or_insert(Peer::new(now)).take(now)
    }
}

/// Who is at the other end of a connection, and what counts that.
#[derive(Clone)]
pub(super) struct Other {
    pub(super) peer: IpAddr,
    pub(super) peers: Arc<Peers>,
    pub(super) https: Arc<Https>,
}

/// Answers those who ask too often that they do.
pub(super) async fn limit(Extension(other): Extension<Other>, request: Request, next: Next) -> Response {
    let Err(wait) = other.peers.ask(other.peer, Instant::now()) else { return next.run(request).await };
    other.https.count(Refused::Rate);
    let detail = format!(
        "more than {PEER_REQUESTS_PER_SECOND} requests a second came from this address, and more than {PEER_BURST} at once"
    );
    let problem =
        Problem::new(ProblemKind::Rate, detail, "ask less often; the unix socket has no such limit");
    let mut answer = problem.into_response();
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        key(text.parse().unwrap())
    }

    #[test]
    fn a_peer_is_an_address_or_what_a_host_is_given() {
        assert_eq!(address("192.0.2.1"), address("::ffff:192.0.2.1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(address("2001:db8:1:2::3"), address("2001:db8:1:2:ffff::"));
        assert_ne!(address("2001:db8:1:2::3"), address("2001:db8:1:3::3"));
    }

    #[test]
    fn each_peer_has_its_own_places_and_gives_them_back() {
        let (peers, now) = (Arc::new(Peers::default()), Instant::now());
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut places: Vec<_> =
            (0..MAX_CONNECTIONS_PER_PEER).map(|_| peers.enter(a, now).unwrap()).collect();
        assert!(peers.enter(a, now).is_none());
        assert!(peers.enter(b, now).is_some());
        places.pop();
        assert!(peers.enter(a, now).is_some());
    }

    #[test]
    fn requests_are_limited_and_allowed_again() {
        let (peers, now) = (Arc::new(Peers::default()), Instant::now());
        let (a, b) = (address("192.0.2.1"), address("192.0.2.2"));
        let burst = (0..1_000).take_while(|_| peers.ask(a, now).is_ok()).count();
        assert_eq!(burst, PEER_BURST as usize);
        let wait = peers.ask(a, now).unwrap_err();
        assert!(
            !wait.is_zero() && wait <= Duration::from_secs_f64(1.0 / PEER_REQUESTS_PER_SECOND),
            "{wait:?}"
        );
        assert!(peers.enter(a, now).is_none(), "connections are requests, too");
        assert_eq!(peers.ask(b, now), Ok(()));
        assert_eq!(peers.ask(a, now + wait), Ok(()));
        let later = now + Duration::from_secs(3600);
        assert_eq!((0..1_000).take_while(|_| peers.ask(a, later).is_ok()).count(), burst);
    }

    #[test]
    fn those_that_left_are_forgotten_first_and_there_is_an_end() {
        let (peers, begin) = (Arc::new(Peers::default()), Instant::now());
        let nth = |n: usize| IpAddr::from([10, (n >> 16) as u8, (n >> 8) as u8, n as u8]);
        let at = |n: usize| begin + Duration::from_millis(n as u64);
        let kept = peers.enter(nth(0), begin).unwrap();
        for n in 1..3 * MAX_PEERS {
            assert!(peers.enter(nth(n), at(n)).is_some());
        }
        let known = peers.lock();
        assert_eq!(known.len(), MAX_PEERS);
        assert!(known.contains_key(&nth(0)) && known.contains_key(&nth(3 * MAX_PEERS - 1)));
        drop(known);
        drop(kept);
    }
}
