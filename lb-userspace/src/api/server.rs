//! The unix socket, the TCP listener, and the connections on them.

use std::{
    fs, io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, FileTypeExt, MetadataExt},
            net,
        },
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nix::{
    errno::Errno,
    sys::{
        socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, connect, listen, socket},
        stat::{Mode, fchmod},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    Control,
    https::Https,
    limits::{
        CONNECTION_LIFETIME, HEAD_TIMEOUT, LISTEN_BACKLOG, MAX_CONNECTIONS, MAX_HEAD_BYTES, MAX_HEADERS,
        STOP_TIMEOUT,
    },
    router::{Surface, router},
    tcp::Tcp,
    watch::Lifetime,
};

/// How long to wait after a connection could not be accepted: descriptors or memory are short.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A socket that listens; its file goes when this does.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    tcp: Option<(TcpListener, Arc<Https>)>,
    _file: SocketFile,
}

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Someone answers there.
    #[error("another daemon listens on {}", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// A file that is no socket is in the way; it was left alone.
    #[error("{} exists and is no socket", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("cannot listen on {}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The system refused the address of `[http]`.
    #[error("cannot listen on {address}")]
    Tcp {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

impl Server {
    /// Listens on `path` for its owner only. Makes the directory if it does not exist, and takes the place of a socket
    /// that nobody listens on. To be called within a tokio runtime.
    ///
    /// # Errors
    /// See [`BindError`].
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        if let Some(parent) = path.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent).map_err(failed)?;
        }
        remove_stale(path)?;
        let listener = listen_on(path).map_err(failed)?;
        let metadata = fs::symlink_metadata(path).map_err(failed)?;
        let file = SocketFile { path: path.to_owned(), id: (metadata.dev(), metadata.ino()) };
        let listener = UnixListener::from_std(listener).map_err(failed)?;
        Ok(Self { listener, tcp: None, _file: file })
    }

    /// Listens on a TCP address, too. What is served there, and to whom, `https` says.
    ///
    /// # Errors
    /// [`BindError::Tcp`].
    pub fn listen(&mut self, address: SocketAddr, https: Arc<Https>) -> Result<(), BindError> {
        let failed = |source| BindError::Tcp { address, source };
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(failed)?;
        // Connections of the daemon before may still be closing.
        socket.set_reuseaddr(true).map_err(failed)?;
        socket.bind(address).map_err(failed)?;
        let listener = socket.listen(LISTEN_BACKLOG as u32).map_err(failed)?;
        self.tcp = Some((listener, https));
        Ok(())
    }

    /// The TCP address, if it listens on one.
    #[must_use]
    pub fn http(&self) -> Option<SocketAddr> {
        self.tcp.as_ref()?.0.local_addr().ok()
    }

    /// Serves until `stop` is done, then finishes what is under way, for a short time.
    pub async fn serve<C: Control>(self, control: Arc<C>, stop: impl Future<Output = ()>) {
        let (stopped, stopping) = watch::channel(());
        let tcp = async {
            // Each has its own limits, so that those who look never keep out those who act.
            if let Some((listener, https)) = &self.tcp {
                let tcp = Arc::new(Tcp::new(&control, https, &stopping));
                let serve = |(stream, from)| Arc::clone(&tcp).serve(stream, from);
                accept_all(listener, serve, stopping.clone()).await;
            }
        };
        let router = router(Arc::clone(&control), Surface::All, stopping.clone());
        let serve = |stream| live(stream, router.clone(), stopping.clone());
        let unix = accept_all(&self.listener, serve, stopping.clone());
        let end = async {
            stop.await;
            drop(stopped);
        };
        tokio::join!(unix, tcp, end);
    }
}

/// What connections come from.
trait Listener {
    type Connection: Send + 'static;
    async fn next(&self) -> io::Result<Self::Connection>;
}

impl Listener for UnixListener {
    type Connection = UnixStream;
    async fn next(&self) -> io::Result<UnixStream> {
        Ok(self.accept().await?.0)
    }
}

impl Listener for TcpListener {
    type Connection = (TcpStream, SocketAddr);
    async fn next(&self) -> io::Result<Self::Connection> {
        let (stream, from) = self.accept().await?;
        stream.set_nodelay(true)?;
        Ok((stream, from))
    }
}

/// Serves connections until the sender of `stopping` is gone, then finishes what is under way, for a short time.
async fn accept_all<L: Listener, F: Future<Output = ()> + Send + 'static>(
    listener: &L,
    serve: impl Fn(L::Connection) -> F,
    mut stopping: watch::Receiver<()>,
) {
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accept = async {
            let permit = permits.clone().acquire_owned().await;
            (permit, listener.next().await)
        };
        tokio::select! {
            // An error: the sender is gone.
            _ = stopping.changed() => break,
            (permit, accepted) = accept => match accepted {
                Ok(connection) => {
                    let served = serve(connection);
                    connections.spawn(async move {
                        served.await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of the API");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
    let finished = timeout(STOP_TIMEOUT, async { while connections.join_next().await.is_some() {} });
    if finished.await.is_err() {
        tracing::debug!(connections = connections.len(), "closed connections that were still in use");
    }
}

/// Serves a connection for as long as it may live.
pub(super) async fn live(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    stopping: watch::Receiver<()>,
) {
    let lifetime = Lifetime::default();
    let connection = serve_connection(stream, router.layer(Extension(lifetime.clone())), stopping);
    tokio::pin!(connection);
    // A client that does not take its answer in time is left alone; an answer without end sees to that itself.
    if timeout(CONNECTION_LIFETIME, &mut connection).await.is_err() && lifetime.is_endless() {
        connection.await;
    }
}

async fn serve_connection(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    router: Router,
    mut stopping: watch::Receiver<()>,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_headers(MAX_HEADERS)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        // An error: the sender is gone.
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection of the API ended early");
    }
}

/// Removes a socket that nobody listens on; an error if someone does, or if it is none.
fn remove_stale(path: &Path) -> Result<(), BindError> {
    let failed = |source| BindError::Io { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(BindError::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match try_connect(path) {
        // EAGAIN: it listens, and its queue is full.
        Ok(()) | Err(Errno::EAGAIN) => Err(BindError::InUse { path: path.to_owned() }),
        Err(Errno::ECONNREFUSED) => fs::remove_file(path).map_err(failed),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn try_connect(path: &Path) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let probe = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(probe.as_raw_fd(), &UnixAddr::new(path)?)
}

fn listen_on(path: &Path) -> io::Result<net::UnixListener> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket: OwnedFd = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    // Linux gives the file the mode that the socket has when it is bound, so there is no moment at which others could
    // connect.
    fchmod(&socket, Mode::S_IRUSR | Mode::S_IWUSR)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    listen(&socket, Backlog::new(LISTEN_BACKLOG)?)?;
    Ok(socket.into())
}

/// Removes the socket's file, unless another one has taken its place.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|metadata| (metadata.dev(), metadata.ino()) == self.id)
        {
            let _ = fs::remove_file(&self.path);
        }
    }
}
