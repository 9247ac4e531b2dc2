//! HTTP over the daemon's unix socket, or over TCP.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use serde::{Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    time::timeout,
};

use super::remote::Server;
use crate::api::{
    limits::{MAX_ANSWER_BYTES, REQUEST_TIMEOUT},
    problem::Problem,
};

/// How long the daemon may take: as long as it gives itself, and some more to tell of it.
const TIMEOUT: Duration = REQUEST_TIMEOUT.saturating_add(Duration::from_secs(2));

/// A client of the daemon; one connection for each request.
#[derive(Clone, Debug)]
pub struct Client {
    /// The socket's path, or what stands for it: the server's address.
    socket: PathBuf,
    /// The server, if it is not asked by the socket.
    server: Option<Server>,
}

/// What requests go over.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// The body of a good answer.
#[derive(Clone, Debug)]
pub struct Answer {
    socket: PathBuf,
    /// JSON, as it came.
    pub json: Bytes,
}

/// Why there is no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket.
    #[error("cannot reach the daemon: there is no socket {}", socket.display())]
    Absent {
        /// Its path.
        socket: PathBuf,
    },
    /// There is a socket that a dead daemon left.
    #[error("cannot reach the daemon: nobody listens on {}", socket.display())]
    NobodyListens {
        /// Its path.
        socket: PathBuf,
    },
    /// The socket is not for this user.
    #[error("cannot reach the daemon: no permission to use {}", socket.display())]
    Denied {
        /// Its path.
        socket: PathBuf,
    },
    /// No answer in time.
    #[error("the daemon on {} did not answer within {} s", socket.display(), after.as_secs())]
    TimedOut {
        /// Its path.
        socket: PathBuf,
        /// How long was waited.
        after: Duration,
    },
    /// The connection could not be made, or broke.
    #[error("the connection to the daemon on {} failed: {detail}", socket.display())]
    Connection {
        /// Its path.
        socket: PathBuf,
        /// How.
        detail: String,
    },
    /// The answer is longer than [`MAX_ANSWER_BYTES`].
    #[error("the answer on {} is longer than {} MiB", socket.display(), MAX_ANSWER_BYTES >> 20)]
    TooLarge {
        /// Its path.
        socket: PathBuf,
    },
    /// The answer is not what this version knows.
    #[error("cannot understand the answer on {}: {detail}", socket.display())]
    NotUnderstood {
        /// Its path.
        socket: PathBuf,
        /// How.
        detail: String,
    },
    /// The two sides do not trust each other.
    #[error("no trust between here and {}: {detail}", server.display())]
    Tls {
        /// The server's address.
        server: PathBuf,
        /// Who does not trust whom, and why.
        detail: String,
    },
    /// The daemon says that something is wrong.
    #[error(transparent)]
    Problem(#[from] Problem),
}

impl Client {
    /// A client of the daemon on `socket`.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned(), server: None }
    }

    /// A client of a daemon over TCP.
    #[must_use]
    pub fn of_server(server: Server) -> Self {
        Self { socket: server.url.to_string().into(), server: Some(server) }
    }

    /// Whether the daemon may be another host's.
    #[must_use]
    pub const fn is_remote(&self) -> bool {
        self.server.is_some()
    }

    async fn connect(&self) -> Result<Box<dyn Io>, ClientError> {
        let Some(Server { url, tls }) = &self.server else {
            let stream =
                UnixStream::connect(&self.socket).await.map_err(|error| self.cannot_connect(&error))?;
            return Ok(Box::new(stream));
        };
        let stream = TcpStream::connect((url.host.as_str(), url.port)).await;
        let stream = stream.map_err(|error| self.broken(&error))?;
        // Only time is lost if it cannot be set.
        let _ = stream.set_nodelay(true);
        let Some((connector, name)) = tls else { return Ok(Box::new(stream)) };
        let stream = connector.connect(name.clone(), stream).await.map_err(|error| self.broken(&error))?;
        Ok(Box::new(stream))
    }

    /// What a request names as its host.
    fn host(&self) -> String {
        self.server.as_ref().map_or_else(|| "weir".to_owned(), |server| server.url.authority())
    }

    /// Looks at something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get(&self, path: &str) -> Result<Answer, ClientError> {
        self.get_patiently(path, Duration::ZERO).await
    }

    /// Looks at something that may come only after `wait`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn get_patiently(&self, path: &str, wait: Duration) -> Result<Answer, ClientError> {
        self.send(Method::GET, path, Bytes::new(), TIMEOUT + wait).await
    }

    /// Does something.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post(&self, path: &str, body: &impl Serialize) -> Result<Answer, ClientError> {
        self.post_patiently(path, body, Duration::ZERO).await
    }

    /// Does something that may take as much longer as `wait`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn post_patiently(
        &self,
        path: &str,
        body: &impl Serialize,
        wait: Duration,
    ) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| ClientError::Connection {
            socket: self.socket.clone(),
            detail: error.to_string(),
        })?;
        self.send(Method::POST, path, body.into(), TIMEOUT + wait).await
    }

    /// Puts something in the place of what there is.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn put(&self, path: &str, body: &impl Serialize) -> Result<Answer, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.not_understood(error.to_string()))?;
        self.send(Method::PUT, path, body.into(), TIMEOUT).await
    }

    /// Takes something away.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn delete(&self, path: &str) -> Result<Answer, ClientError> {
        self.send(Method::DELETE, path, Bytes::new(), TIMEOUT).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        limit: Duration,
    ) -> Result<Answer, ClientError> {
        let exchange = timeout(limit, self.exchange(method, path, body)).await;
        let timed_out = || ClientError::TimedOut { socket: self.socket.clone(), after: limit };
        let (status, json) = exchange.map_err(|_| timed_out())??;
        if status.is_success() {
            return Ok(Answer { socket: self.socket.clone(), json });
        }
        Err(match serde_json::from_slice::<Problem>(&json) {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => self.not_understood(format!("it has status {status} and is no problem report")),
        })
    }

    async fn exchange(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(StatusCode, Bytes), ClientError> {
        let stream = self.connect().await?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, self.host())
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|error| self.not_understood(error.to_string()))?;
        let answer = async {
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            self.read(response).await
        };
        tokio::pin!(answer, connection);
        // The connection has to be driven for the answer to come.
        tokio::select! {
            answer = &mut answer => answer,
            ended = &mut connection => match (answer.await, ended) {
                // A server that does not trust us says so after its handshake (RFC 8446, 4.4.2.4).
                (Err(_), Err(error)) if tls_error(&error).is_some() => Err(self.broken(&error)),
                (answer, _) => answer,
            },
        }
    }

    async fn read(&self, response: Response<Incoming>) -> Result<(StatusCode, Bytes), ClientError> {
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        match body {
            Ok(body) => Ok((status, body.to_bytes())),
            Err(error) if error.is::<LengthLimitError>() => {
                Err(ClientError::TooLarge { socket: self.socket.clone() })
            }
            Err(error) => Err(self.broken(&*error)),
        }
    }

    fn cannot_connect(&self, error: &io::Error) -> ClientError {
        let socket = self.socket.clone();
        match error.kind() {
            io::ErrorKind::NotFound => ClientError::Absent { socket },
            io::ErrorKind::ConnectionRefused => ClientError::NobodyListens { socket },
            io::ErrorKind::PermissionDenied => ClientError::Denied { socket },
            _ => ClientError::Connection { socket, detail: error.to_string() },
        }
    }

    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> ClientError {
        if let Some(detail) = tls_error(error) {
            return ClientError::Tls { server: self.socket.clone(), detail };
        }
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        ClientError::Connection { socket: self.socket.clone(), detail: format!("{error}{cause}") }
    }

    fn not_understood(&self, detail: String) -> ClientError {
        ClientError::NotUnderstood { socket: self.socket.clone(), detail }
    }
}

/// What TLS has to say about an error, if it is one of its own.
fn tls_error(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls.to_string());
        }
        next = match error.downcast_ref::<io::Error>() {
            Some(error) => error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
            None => error.source(),
        };
    }
    None
}

/// An answer that comes line by line and has no end of its own.
#[derive(Debug)]
pub struct Stream {
    client: Client,
    body: Incoming,
    /// What came and is no whole line yet.
    rest: Vec<u8>,
    /// Drives the connection.
    connection: tokio::task::JoinHandle<()>,
}

impl Client {
    /// Asks for an answer that has no end.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn stream(&self, path: &str) -> Result<Stream, ClientError> {
        let begin = async {
            let stream = self.connect().await?;
            let (mut sender, connection) =
                http1::handshake(TokioIo::new(stream)).await.map_err(|error| self.broken(&error))?;
            let connection = tokio::spawn(async move { drop(connection.await) });
            let request = Request::builder()
                .uri(path)
                .header(HOST, self.host())
                .body(Full::new(Bytes::new()))
                .map_err(|error| self.not_understood(error.to_string()))?;
            let response = sender.send_request(request).await.map_err(|error| self.broken(&error))?;
            Ok::<_, ClientError>((response, connection))
        };
        let timed_out = || ClientError::TimedOut { socket: self.socket.clone(), after: TIMEOUT };
        let (response, connection) = timeout(TIMEOUT, begin).await.map_err(|_| timed_out())??;
        if response.status().is_success() {
            let (client, body) = (self.clone(), response.into_body());
            return Ok(Stream { client, body, rest: Vec::new(), connection });
        }
        let (status, json) = timeout(TIMEOUT, self.read(response)).await.map_err(|_| timed_out())??;
        Err(match serde_json::from_slice::<Problem>(&json) {
            Ok(problem) => ClientError::Problem(problem),
            Err(_) => self.not_understood(format!("it has status {status} and is no problem report")),
        })
    }
}

impl Stream {
    /// The next line, without its end. May be dropped before it is done: nothing is lost by that.
    ///
    /// # Errors
    /// That the connection broke, or that a line is longer than [`MAX_ANSWER_BYTES`].
    pub async fn next(&mut self) -> Result<Vec<u8>, ClientError> {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let mut line: Vec<u8> = self.rest.drain(..=end).collect();
                line.pop();
                return Ok(line);
            }
            if self.rest.len() > MAX_ANSWER_BYTES {
                return Err(ClientError::TooLarge { socket: self.client.socket.clone() });
            }
            match self.body.frame().await {
                Some(Ok(frame)) => self.rest.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(error)) => return Err(self.client.broken(&error)),
                None => return Err(self.ended("it ended")),
            }
        }
    }

    /// A line as a value.
    ///
    /// # Errors
    /// If it is not one of this type.
    pub fn parse<T: DeserializeOwned>(&self, line: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(line).map_err(|error| self.client.not_understood(error.to_string()))
    }

    /// The error that the answer has come to an end.
    #[must_use]
    pub fn ended(&self, cause: &str) -> ClientError {
        ClientError::Connection { socket: self.client.socket.clone(), detail: cause.to_owned() }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    /// The answer as a value.
    ///
    /// # Errors
    /// If it is not one of this type.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.json).map_err(|error| ClientError::NotUnderstood {
            socket: self.socket.clone(),
            detail: error.to_string(),
        })
    }
}

/// Percent-encodes one segment of a path or a value of a query (RFC 3986: all but unreserved characters).
#[must_use]
pub fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_encoded_so_that_none_leaves_its_place() {
        assert_eq!(encode("w1r1-b.1_~"), "w1r1-b.1_~");
        assert_eq!(encode("west/w1"), "west%2Fw1");
        assert_eq!(encode("a?b#c d%\u{e9}"), "a%3Fb%23c%20d%25%C3%A9");
    }
}
