//! The fake as a daemon that listens, and `weir` as its client.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Arc, Mutex, atomic::AtomicUsize},
    thread,
};

use lb_userspace::{
    api::{https::Https, server::Server},
    plan::state::State,
    telemetry::{
        event::{Event, EventKind, NewEvent},
        journal::Journal,
    },
};
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::{Fake, PATIENCE, world::world};

/// A running fake; it stops when it is dropped.
pub(crate) struct Daemon {
    pub(crate) fake: Arc<Fake>,
    pub(crate) socket: PathBuf,
    /// Where it listens over TCP.
    pub(crate) http: std::net::SocketAddr,
    /// What it knows of TLS.
    pub(crate) https: Arc<Https>,
    pub(crate) dir: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Daemon {
    pub(crate) fn start() -> Self {
        Self::start_with(Https::default())
    }

    /// With these certificates on its TCP listener.
    pub(crate) fn start_with(https: Https) -> Self {
        let https = Arc::new(https);
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("run/weir.sock");
        let journal = Journal::open(dir.path()).unwrap();
        let acting = AtomicUsize::new(0);
        let fake = Arc::new(Fake {
            world: Mutex::new(world()),
            journal,
            https: https.clone(),
            acting,
            most_acting: AtomicUsize::new(0),
            terms: Mutex::default(),
        });
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, is_ready) = std::sync::mpsc::channel();
        let thread = {
            let (fake, socket, https) = (fake.clone(), socket.clone(), Arc::clone(&https));
            thread::spawn(move || {
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
                runtime.unwrap().block_on(async {
                    let mut server = Server::bind(&socket).unwrap();
                    server.listen("127.0.0.1:0".parse().unwrap(), https).unwrap();
                    ready.send(server.http().unwrap()).unwrap();
                    server
                        .serve(fake, async {
                            let _ = stopped.await;
                        })
                        .await;
                });
            })
        };
        let http = is_ready.recv_timeout(PATIENCE).unwrap();
        Self { fake, socket, http, https, dir, stop: Some(stop), thread: Some(thread) }
    }

    /// Sends bytes and returns the status code and the body of the answer.
    pub(crate) fn send(&self, request: &[u8]) -> (u16, String) {
        exchange(&self.socket, request)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").as_bytes())
    }

    pub(crate) fn post(&self, path: &str, body: &str) -> (u16, String) {
        self.order("POST", path, body)
    }

    pub(crate) fn order(&self, method: &str, path: &str, body: &str) -> (u16, String) {
        let (length, method) = (body.len(), method.to_uppercase());
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n"
        );
        self.send(format!("{head}{body}").as_bytes())
    }

    /// Runs `weir` with these arguments against this daemon.
    pub(crate) fn weir(&self, arguments: &[&str]) -> Output {
        weir().arg("--socket").arg(&self.socket).args(arguments).output().unwrap()
    }

    /// Standard output of `weir`, which must succeed.
    pub(crate) fn stdout(&self, arguments: &[&str]) -> String {
        let output = self.weir(arguments);
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    pub(crate) fn record(&self, subject: &str) -> Event {
        self.fake.journal.record(NewEvent {
            monotonic_ns: 1,
            kind: EventKind::DomainState,
            subject: subject.to_owned(),
            from: Some(State::Up),
            to: Some(State::Suspect),
            cause: "5 of 5 backends missed round 81".to_owned(),
            evidence_ns: Some(1_000_000),
            decided_ns: Some(4_100_000),
            stored_ns: Some(4_104_200),
        })
    }

    /// Stops the server and waits for its end.
    pub(crate) fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The binary, without anything of our own environment that it would listen to.
pub(crate) fn weir() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.env_remove("WEIR_SOCKET").env_remove("WEIR_LOG").env("COLUMNS", "100");
    command
}

fn exchange(socket: &Path, request: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // A refused request may be answered before all of it is sent.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    let is_problem = head.to_ascii_lowercase().contains("content-type: application/problem+json");
    assert_eq!(is_problem, status >= 400, "{answer}");
    (status, body.to_owned())
}
