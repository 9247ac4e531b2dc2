//! Connections over TCP: limits of their address, the handshake, what whom is served.

use std::{net::SocketAddr, sync::Arc, time::Instant};

use axum::{Extension, Router, middleware};
use tokio::{net::TcpStream, sync::watch, time::timeout};

use super::{
    Control,
    access::{self, Caller, Identity},
    https::{Https, Refused},
    limits::HANDSHAKE_TIMEOUT,
    observe,
    peers::{self, Other, Peers},
    router::{Surface, router},
    server::live,
};

/// What all connections share.
pub(super) struct Tcp {
    https: Arc<Https>,
    peers: Arc<Peers>,
    /// Not encrypted, nobody is asked who they are.
    plain: Router,
    /// Encrypted, nobody is asked who they are.
    open: Router,
    /// Encrypted, and clients have shown a certificate.
    known: Router,
    stopping: watch::Receiver<()>,
}

impl Tcp {
    pub(super) fn new<C: Control>(
        control: &Arc<C>,
        https: &Arc<Https>,
        stopping: &watch::Receiver<()>,
    ) -> Self {
        let router = |surface| router(Arc::clone(control), surface, stopping.clone());
        let limited = |router: Router| router.layer(middleware::from_fn(peers::limit));
        let open = router(Surface::ReadOnly);
        Self {
            https: Arc::clone(https),
            peers: Arc::default(),
            // A certificate has the name that a browser asks for; without one, a name may lead here that is not ours.
            plain: limited(open.clone().layer(middleware::from_fn(observe::known_host))),
            open: limited(open),
            known: limited(router(Surface::All).layer(middleware::from_fn(access::check))),
            stopping: stopping.clone(),
        }
    }

    /// Serves one connection to its end.
    pub(super) async fn serve(self: Arc<Self>, stream: TcpStream, from: SocketAddr) {
        let peer = peers::key(from.ip());
        let Some(_place) = self.peers.enter(peer, Instant::now()) else {
            self.https.count(Refused::Connections);
            tracing::debug!(%from, "refused: too many connections of this address");
            return;
        };
        let https = Arc::clone(&self.https);
        let other = Extension(Other { peer, peers: Arc::clone(&self.peers), https: Arc::clone(&https) });
        let Some(credentials) = https.current() else {
            return live(stream, self.plain.clone().layer(other), self.stopping.clone()).await;
        };
        let handshake = timeout(HANDSHAKE_TIMEOUT, credentials.acceptor.accept(stream)).await;
        let stream = match handshake {
            Ok(Ok(stream)) => stream,
            failed => {
                let why =
                    failed.map_or_else(|_| "it took too long".to_owned(), |failed| describe(failed.err()));
                return self.https.refuse_handshake(from, &why);
            }
        };
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let router = match certificate {
            Some(certificate) if credentials.asks_clients() => {
                let identity = Arc::new(Identity::of(certificate));
                self.known.clone().layer(Extension(Caller { identity, https }))
            }
            _ => self.open.clone(),
        };
        live(stream, router.layer(other), self.stopping.clone()).await;
    }
}

fn describe(error: Option<std::io::Error>) -> String {
    error.map_or_else(String::new, |error| error.to_string())
}
