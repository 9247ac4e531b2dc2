//! The API as an attacker sees it: requests in requests, slow and greedy clients, and those that never read.

use std::{
    io::{BufRead, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::net::UnixStream,
    time::Instant,
};

use lb_userspace::api::limits::{
    BODY_TIMEOUT, MAX_CONNECTIONS_PER_PEER, MAX_HEAD_BYTES, MAX_HEADERS, PEER_BURST,
};
use socket2::{Domain, Socket, Type};

use crate::fake::{Daemon, PATIENCE};

/// A connection to the daemon from another address of this host.
fn from(address: &str, daemon: &Daemon) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let own: SocketAddr = format!("{address}:0").parse().unwrap();
    socket.bind(&own.into()).unwrap();
    socket.connect(&daemon.http.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.into()
}

/// All that comes until the daemon closes.
fn raw(daemon: &Daemon, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_request_has_one_length_or_none() {
    let daemon = Daemon::start();
    let inner =
        "POST /v1/backends/w1r1b1/fail HTTP/1.1\r\nHost: x\r\nContent-Length: 14\r\n\r\n{\"reason\":\"r\"}";
    let to = "POST /v1/backends/w1r2b1/drain HTTP/1.1\r\nHost: x\r\n";
    let body = r#"{"reason":"r"}"#;
    // Two lengths that differ, lengths that are none, encodings that are none.
    for headers in [
        "Content-Length: 14\r\nContent-Length: 15\r\n",
        "Content-Length: +14\r\n",
        "Content-Length: 14, 14\r\n",
        "Content-Length: 0x0e\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Content-Length : 14\r\n",
        "Content-Length: 14\r\n folded: 1\r\n",
    ] {
        let answer = raw(&daemon, format!("{to}{headers}\r\n{body}{inner}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 400"), "{headers:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{headers:?}: {answer}");
    }
    // Chunks count where both are there, and what follows them is not looked at any more (RFC 9112, 6.1).
    for headers in [
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
    ] {
        let answer = raw(&daemon, format!("{to}{headers}\r\ne\r\n{body}\r\n0\r\n\r\n{inner}").as_bytes());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "a second request was taken: {answer}");
    }
    let untouched = daemon.get("/v1/backends/w1r1b1").1;
    assert!(untouched.contains("kernel upgrade") && !untouched.contains("\"reason\":\"r\""), "{untouched}");
    // HTTP/1.0 has no chunks.
    let old = to.replace("HTTP/1.1", "HTTP/1.0");
    let answer =
        raw(&daemon, format!("{old}Transfer-Encoding: chunked\r\n\r\ne\r\n{body}\r\n0\r\n\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.0 400") || answer.starts_with("HTTP/1.1 400"), "{answer}");
}

#[test]
fn heads_have_an_end() {
    let daemon = Daemon::start();
    let head = "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n";
    let many = |count: usize| (0..count).map(|n| format!("X-{n}: 1\r\n")).collect::<String>();
    assert!(
        raw(&daemon, format!("{head}{}\r\n", many(MAX_HEADERS - 2)).as_bytes()).starts_with("HTTP/1.1 200")
    );
    assert!(raw(&daemon, format!("{head}{}\r\n", many(MAX_HEADERS)).as_bytes()).starts_with("HTTP/1.1 431"));
    let long = format!("{head}X: {}\r\n\r\n", "a".repeat(2 * MAX_HEAD_BYTES));
    assert!(raw(&daemon, long.as_bytes()).starts_with("HTTP/1.1 431"));
    let endless = format!("GET /{} HTTP/1.1\r\n", "a".repeat(2 * MAX_HEAD_BYTES));
    let answer = raw(&daemon, endless.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert_eq!(daemon.get("/v1/status").0, 200);
}

#[test]
fn a_body_that_does_not_come_is_not_waited_for() {
    let daemon = Daemon::start();
    let begun = Instant::now();
    for key in ["", "Idempotency-Key: slow\r\n"] {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(
            stream,
            "POST /v1/backends/w1r2b1/drain HTTP/1.1\r\nHost: x\r\n{key}Content-Length: 14\r\n\r\n{{"
        )
        .unwrap();
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.starts_with("HTTP/1.1 504"), "{key}: {line}");
    }
    assert!(begun.elapsed() >= BODY_TIMEOUT, "there was no wait");
    // Nothing was done, and the key is not used up.
    assert_eq!(daemon.fake.journal.status().last_seq, 0);
    let body = r#"{"reason":"r"}"#;
    let again = format!(
        "POST /v1/backends/w1r2b1/drain HTTP/1.1\r\nHost: x\r\nIdempotency-Key: slow\r\nConnection: close\r\n\
         Content-Length: 14\r\n\r\n{body}"
    );
    assert!(raw(&daemon, again.as_bytes()).starts_with("HTTP/1.1 200"));
}

#[test]
fn one_address_does_not_keep_others_out() {
    let daemon = Daemon::start();
    let get = |mut stream: &TcpStream| {
        stream.write_all(b"GET /v1/services HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
        let mut answer = BufReader::new(stream);
        let mut line = String::new();
        answer.read_line(&mut line)?;
        Ok::<_, std::io::Error>(line)
    };
    let greedy: Vec<_> = (0..MAX_CONNECTIONS_PER_PEER).map(|_| from("127.0.0.2", &daemon)).collect();
    for stream in &greedy {
        assert!(get(stream).unwrap().starts_with("HTTP/1.1 200"));
    }
    let more = get(&from("127.0.0.2", &daemon));
    assert!(
        more.as_ref().map_or_else(
            |error| error.kind() == ErrorKind::ConnectionReset || error.kind() == ErrorKind::BrokenPipe,
            String::is_empty
        ),
        "{more:?}"
    );
    assert!(get(&from("127.0.0.3", &daemon)).unwrap().starts_with("HTTP/1.1 200"));
    let count = daemon.https.refused().iter().find(|(cause, _)| *cause == "connections").unwrap().1;
    assert_eq!(count, 1);
}

#[test]
fn who_asks_too_often_is_told_when_to_come_back() {
    let daemon = Daemon::start();
    let stream = from("127.0.0.4", &daemon);
    let count = PEER_BURST as usize + 50;
    let request = "GET /icon.svg HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(count - 1);
    let last = "GET /icon.svg HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    (&stream).write_all(format!("{request}{last}").as_bytes()).unwrap();
    let mut answers = Vec::new();
    (&stream).read_to_end(&mut answers).unwrap();
    let answers = String::from_utf8(answers).unwrap();
    let (good, refused) = (answers.matches("HTTP/1.1 200").count(), answers.matches("HTTP/1.1 429").count());
    assert_eq!(good + refused, count);
    assert!(refused > 0 && good >= PEER_BURST as usize - 1, "{good} good, {refused} refused");
    assert!(answers.contains("retry-after: 1") && answers.contains("urn:weir:problem:rate"), "no time");
    let mut other = from("127.0.0.5", &daemon);
    other.write_all(last.as_bytes()).unwrap();
    let mut answer = String::new();
    other.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[test]
fn those_who_never_read_cost_their_own_place_only() {
    let daemon = Daemon::start();
    let deaf: Vec<_> = (0..MAX_CONNECTIONS_PER_PEER)
        .map(|_| {
            let mut stream = from("127.0.0.6", &daemon);
            stream.write_all(b"GET /v1/events/stream?after=0 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
            stream
        })
        .collect();
    for _ in 0..5_000 {
        daemon.record("west/w1");
    }
    let mut other = from("127.0.0.7", &daemon);
    other.write_all(b"GET /v1/events/stream?after=4999 HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let last = BufReader::new(other).lines().map(Result::unwrap).find(|line| line.starts_with("id: "));
    assert_eq!(last.as_deref(), Some("id: 5000"));
    assert_eq!(daemon.get("/v1/status").0, 200);
    // They hold up no stop, either.
    let mut daemon = daemon;
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    drop(deaf);
}
