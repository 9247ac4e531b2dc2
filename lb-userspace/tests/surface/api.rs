//! Routes, errors and limits.

use std::{
    fs,
    io::{Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    sync::{atomic::Ordering, mpsc},
    thread,
    time::{Duration, Instant},
};

use lb_userspace::{
    api::{
        limits::{HEAD_TIMEOUT, MAX_BODY_BYTES, MAX_CONNECTIONS, MAX_EVENTS, MAX_WAITING},
        problem::{Problem, ProblemKind},
        server::{BindError, Server},
        types::*,
    },
    plan::state::{Action, State},
    telemetry::event::Event,
};
use serde::de::DeserializeOwned;

use crate::fake::{Daemon, PATIENCE};

fn good<T: DeserializeOwned>((status, body): (u16, String)) -> T {
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
}

#[track_caller]
fn problem((status, body): (u16, String), kind: ProblemKind, detail: &str) {
    let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!((problem.kind, problem.status), (kind, status), "{body}");
    assert!(problem.detail.contains(detail), "{body}");
    assert!(!problem.remedy.is_empty() && !problem.title.is_empty(), "{body}");
}

#[test]
fn what_is_shown_is_what_the_daemon_says_in_order() {
    let daemon = Daemon::start();
    let world = daemon.fake.world.lock().unwrap();
    let (status, backends, domains, services) =
        (world.status.clone(), world.backends.clone(), world.domains.clone(), world.services.clone());
    drop(world);
    assert_eq!(good::<Status>(daemon.get("/v1/status")), status);
    assert_eq!(good::<Vec<ServiceView>>(daemon.get("/v1/services")), services);
    assert_eq!(good::<ServiceView>(daemon.get("/v1/services/web")), services[0]);

    let listed: Vec<BackendView> = good(daemon.get("/v1/backends"));
    assert_eq!(listed.iter().map(|b| b.name.as_str()).collect::<Vec<_>>(), ["e1r1b1", "w1r1b1", "w1r2b1"]);
    assert_eq!(good::<BackendView>(daemon.get("/v1/backends/w1r2b1")), backends[0]);

    let listed: Vec<DomainView> = good(daemon.get("/v1/domains"));
    assert_eq!(listed.iter().map(|d| d.path.as_str()).collect::<Vec<_>>(), ["west", "west/w1", "west/w1/r2"]);
    for path in ["/v1/domains/west/w1/r2", "/v1/domains/west%2Fw1%2Fr2", "/v1/domains/west%2fw1/r2"] {
        assert_eq!(good::<DomainView>(daemon.get(path)), domains[0], "{path}");
    }
}

#[test]
fn actions_reach_the_daemon_with_their_reason() {
    let daemon = Daemon::start();
    let acted: Acted =
        good(daemon.post("/v1/backends/w1r2b1/drain", r#"{"reason":"  new fans \u2014 row 7 "}"#));
    assert_eq!((acted.from, acted.to, acted.changed), (State::Up, State::Draining, true));
    assert_eq!(acted.subject, SubjectName { kind: SubjectKind::Backend, name: "w1r2b1".to_owned() });
    let shown: BackendView = good(daemon.get("/v1/backends/w1r2b1"));
    assert_eq!(shown.health.word.unwrap().reason, "new fans \u{2014} row 7");

    let acted: Acted =
        good(daemon.post("/v1/domains/actions/fail", r#"{"domain":"west/w1","reason":"cooling failed"}"#));
    assert_eq!((acted.action, acted.to), (Action::Fail, State::Down));
    assert_eq!(acted.subject, SubjectName { kind: SubjectKind::Domain, name: "west/w1".to_owned() });
    let acted: Acted =
        good(daemon.post("/v1/domains/actions/restore", r#"{"domain":"west/w1","reason":"it works"}"#));
    assert_eq!((acted.from, acted.to), (State::Down, State::Up));
}

#[test]
fn wrong_names_and_addresses_are_told_apart() {
    let daemon = Daemon::start();
    let body = r#"{"reason":"r"}"#;
    problem(daemon.get("/v1/services/nope"), ProblemKind::NotFound, "no service \"nope\"");
    problem(daemon.get("/v1/backends/n%2Fo"), ProblemKind::NotFound, "no backend \"n/o\"");
    problem(daemon.get("/v1/domains/west/w9"), ProblemKind::NotFound, "no domain \"west/w9\"");
    problem(daemon.get("/v1/domains/a%1bb"), ProblemKind::NotFound, "a\\u{1b}b");
    problem(daemon.post("/v1/backends/nope/fail", body), ProblemKind::NotFound, "nope");
    let nowhere = r#"{"domain":"","reason":"r"}"#;
    problem(daemon.post("/v1/domains/actions/fail", nowhere), ProblemKind::NotFound, "no domain");
    problem(daemon.get("/v1/backends/%ff"), ProblemKind::Invalid, "");
    problem(daemon.get("/v2/status"), ProblemKind::NoRoute, "/v2/status");
    problem(daemon.get("/v1"), ProblemKind::NoRoute, "/v1");
    problem(daemon.post("/v1/backends/w1r1b1/explode", body), ProblemKind::NoRoute, "explode");
    problem(daemon.post("/v1/status", body), ProblemKind::Method, "POST");
    problem(daemon.get("/v1/backends/w1r1b1/drain"), ProblemKind::Method, "GET");
    problem(
        daemon.post("/v1/backends/w1r1b1/fail", r#"{"reason":"conflict"}"#),
        ProblemKind::Conflict,
        "stopping",
    );
}

#[test]
fn bodies_are_checked_before_anything_happens() {
    let daemon = Daemon::start();
    let drain = "/v1/backends/w1r2b1/drain";
    let reason = |text: &str| serde_json::json!({ "reason": text }).to_string();
    problem(daemon.post(drain, ""), ProblemKind::Invalid, "EOF");
    problem(daemon.post(drain, "{}"), ProblemKind::Invalid, "missing field `reason`");
    problem(daemon.post(drain, r#"{"reason":7}"#), ProblemKind::Invalid, "expected a string");
    problem(
        daemon.post(drain, r#"{"reason":"r","force":true}"#),
        ProblemKind::Invalid,
        "unknown field `force`",
    );
    problem(daemon.post(drain, "\u{0}\u{1}"), ProblemKind::Invalid, "");
    problem(daemon.post(drain, &"[".repeat(10_000)), ProblemKind::Invalid, "");
    for empty in ["", " \t "] {
        problem(daemon.post(drain, &reason(empty)), ProblemKind::Invalid, "empty");
    }
    problem(daemon.post(drain, &reason("two\nlines")), ProblemKind::Invalid, "control characters");
    problem(daemon.post(drain, &reason("\u{1b}[31m")), ProblemKind::Invalid, "control characters");
    problem(daemon.post(drain, &reason(&"\u{e9}".repeat(513))), ProblemKind::Invalid, "513 characters");
    problem(
        daemon.post("/v1/domains/actions/drain", &reason("r")),
        ProblemKind::Invalid,
        "missing field `domain`",
    );
    let shown: BackendView = good(daemon.get("/v1/backends/w1r2b1"));
    assert_eq!(shown.health.word, None, "something was done");
    let _: Acted = good(daemon.post(drain, &reason(&"\u{e9}".repeat(512))));
}

#[test]
fn large_bodies_are_refused_whether_announced_or_sent() {
    let daemon = Daemon::start();
    let drain = "/v1/backends/w1r2b1/drain";
    let padded = |bytes: usize| {
        let body = r#"{"reason":"r"}"#;
        format!("{body}{}", " ".repeat(bytes - body.len()))
    };
    let _: Acted = good(daemon.post(drain, &padded(MAX_BODY_BYTES)));
    problem(daemon.post(drain, &padded(MAX_BODY_BYTES + 1)), ProblemKind::TooLarge, "16384 bytes");
    problem(daemon.post(drain, &padded(10 << 20)), ProblemKind::TooLarge, "16384 bytes");
    let chunk = "x".repeat(MAX_BODY_BYTES + 1);
    let chunked = format!(
        "POST {drain} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{chunk}\r\n0\r\n\r\n",
        chunk.len()
    );
    problem(daemon.send(chunked.as_bytes()), ProblemKind::TooLarge, "16384 bytes");
}

#[test]
fn explain_checks_what_it_is_asked() {
    let daemon = Daemon::start();
    let told: Explanation = good(daemon.get("/v1/explain?src=%5B::1%5D:5&dst=[2001:db8::10]:80"));
    assert!(told.query.opening);
    assert_eq!(told.query.dst, "[2001:db8::10]:80".parse().unwrap());
    let told: Explanation =
        good(daemon.get("/v1/explain?src=1.2.3.4:5&dst=1.2.3.4:80&protocol=udp&opening=false"));
    assert_eq!((told.query.opening, told.query.protocol.name()), (false, "udp"));
    for (query, detail) in [
        ("", "src"),
        ("?src=1.2.3.4:5", "dst"),
        ("?src=1.2.3.4&dst=1.2.3.4:80", "\"1.2.3.4\" in src"),
        ("?src=1.2.3.4:5&dst=web:80", "\"web:80\" in dst"),
        ("?src=1.2.3.4:5&dst=[::1]:80", "same family"),
        ("?src=1.2.3.4:5&dst=1.2.3.4:80&protocol=gre", "sctp"),
        ("?src=1.2.3.4:5&dst=1.2.3.4:80&opening=maybe", "opening"),
        ("?src=1.2.3.4:5&dst=1.2.3.4:80&verbose=1", "verbose"),
    ] {
        problem(daemon.get(&format!("/v1/explain{query}")), ProblemKind::Invalid, detail);
    }
    problem(daemon.get("/v1/explain?src=1.2.3.4:5&dst=1.2.3.4:1"), ProblemKind::Internal, "no tables");
}

#[test]
fn events_come_in_order_and_can_be_waited_for() {
    let daemon = Daemon::start();
    let numbers = |path: &str| -> Vec<u64> {
        good::<Vec<Event>>(daemon.get(path)).iter().map(|event| event.seq).collect()
    };
    assert!(numbers("/v1/events").is_empty());
    assert!(numbers("/v1/events?after=0").is_empty());
    for _ in 0..5 {
        daemon.record("west/w1");
    }
    assert_eq!(numbers("/v1/events?limit=2"), [4, 5]);
    assert_eq!(numbers("/v1/events?after=1&limit=2"), [2, 3]);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| numbers("/v1/events?after=5&wait=30"));
        daemon.record("west/w2");
        assert_eq!(waiting.join().unwrap(), [6]);
    });
    let too_many = MAX_EVENTS + 1;
    for (query, detail) in [
        ("limit=0".to_owned(), "limit is 0"),
        (format!("limit={too_many}"), "limit is 1001"),
        ("limit=-1".to_owned(), "limit"),
        ("after=x".to_owned(), "after"),
        ("after=1&wait=31".to_owned(), "wait is 31"),
        ("wait=1".to_owned(), "without after"),
        ("since=1".to_owned(), "since"),
    ] {
        problem(daemon.get(&format!("/v1/events?{query}")), ProblemKind::Invalid, detail);
    }
}

/// Opens a connection, sends a request, reads nothing.
fn start(daemon: &Daemon, path: &str) -> UnixStream {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\n\r\n").unwrap();
    stream
}

#[test]
fn those_who_wait_do_not_keep_out_those_who_act() {
    const TOO_MANY: usize = 8;
    let daemon = Daemon::start();
    let (sender, answers) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..MAX_WAITING + TOO_MANY {
            let sender = sender.clone();
            let mut stream = start(&daemon, "/v1/events?after=0&wait=30");
            scope.spawn(move || {
                let mut answer = String::new();
                stream.read_to_string(&mut answer).unwrap();
                sender.send(answer).unwrap();
            });
        }
        let next = || answers.recv_timeout(PATIENCE).unwrap();
        // Nothing has happened yet, so only those are answered for whom there is no room.
        for _ in 0..TOO_MANY {
            let answer = next();
            assert!(
                answer.starts_with("HTTP/1.1 503") && answer.contains("urn:weir:problem:busy"),
                "{answer}"
            );
        }
        let _: Acted = good(daemon.post("/v1/backends/w1r2b1/drain", r#"{"reason":"now"}"#));
        // The action is an event, so all the others are answered.
        for _ in 0..MAX_WAITING {
            let answer = next();
            assert!(
                answer.starts_with("HTTP/1.1 200") && answer.contains("operator: drain: now"),
                "{answer}"
            );
        }
    });
}

#[test]
fn idle_connections_are_closed_and_make_room() {
    let daemon = Daemon::start();
    let begun = Instant::now();
    let idle: Vec<_> = (0..MAX_CONNECTIONS).map(|_| UnixStream::connect(&daemon.socket).unwrap()).collect();
    // Half of a request is not a request.
    for stream in idle.iter().take(5) {
        (&*stream).write_all(b"GET /v1/status HTTP/1.1\r\nHost:").unwrap();
    }
    let _: Status = good(daemon.get("/v1/status"));
    assert!(begun.elapsed() >= HEAD_TIMEOUT / 2, "there was no limit");
    for mut stream in idle {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(!rest.starts_with(b"HTTP/1.1 200"));
    }
}

#[test]
fn many_clients_at_once_are_all_served() {
    let daemon = Daemon::start();
    thread::scope(|scope| {
        let clients: Vec<_> = (0..200)
            .map(|client| {
                let daemon = &daemon;
                scope.spawn(move || {
                    let action = ["drain", "fail", "restore"][client % 3];
                    let reason = format!(r#"{{"reason":"client {client}"}}"#);
                    let _: Acted = good(daemon.post(&format!("/v1/backends/w1r2b1/{action}"), &reason));
                    let _: Vec<BackendView> = good(daemon.get("/v1/backends"));
                })
            })
            .collect();
        clients.into_iter().for_each(|client| client.join().unwrap());
    });
    let events: Vec<Event> = good(daemon.get("/v1/events?limit=1000"));
    assert_eq!(events.iter().map(|event| event.seq).collect::<Vec<_>>(), (1..=200).collect::<Vec<_>>());
    assert!(daemon.fake.most_acting.load(Ordering::SeqCst) <= MAX_CONNECTIONS);
}

#[test]
fn garbage_ends_its_own_connection_only() {
    let daemon = Daemon::start();
    for garbage in [&b"\x16\x03\x01\x02\x00"[..], b"GET\r\n\r\n", &[b'A'; 1 << 20], b"GET / HTTP/9.9\r\n\r\n"]
    {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let _ = stream.write_all(garbage);
        let _ = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(
            answer.is_empty() || answer.starts_with(b"HTTP/1.1 4"),
            "{:?}",
            String::from_utf8_lossy(&answer)
        );
    }
    let _: Status = good(daemon.get("/v1/status"));
}

#[test]
fn socket_is_for_its_owner_and_goes_with_the_server() {
    let mut daemon = Daemon::start();
    assert_eq!(fs::metadata(&daemon.socket).unwrap().permissions().mode() & 0o777, 0o600);
    let directory = daemon.socket.parent().unwrap();
    assert_eq!(fs::metadata(directory).unwrap().permissions().mode() & 0o022, 0);
    // Someone who waits does not keep the server from stopping.
    let mut waiting = start(&daemon, "/v1/events?after=0&wait=30");
    let begun = Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(20), "{:?}", begun.elapsed());
    assert!(!daemon.socket.exists());
    let _ = waiting.read_to_end(&mut Vec::new());
}

#[tokio::test]
async fn stale_socket_is_replaced_and_a_live_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.sock");
    drop(UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::bind(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(BindError::InUse { .. })));
    assert!(path.exists());
    drop(server);
    assert!(!path.exists());

    // A daemon that hangs, with its queue full, listens all the same.
    let hung = UnixListener::bind(&path).unwrap();
    let hung_backlog = nix::sys::socket::listen(&hung, nix::sys::socket::Backlog::new(0).unwrap());
    hung_backlog.unwrap();
    let _first = UnixStream::connect(&path).unwrap();
    assert!(matches!(Server::bind(&path), Err(BindError::InUse { .. })));

    let file = dir.path().join("file");
    fs::write(&file, "precious").unwrap();
    assert!(matches!(Server::bind(&file), Err(BindError::NotASocket { .. })));
    assert_eq!(fs::read_to_string(&file).unwrap(), "precious");

    let long = dir.path().join("x".repeat(120));
    assert!(matches!(Server::bind(&long), Err(BindError::Io { .. })));
}

#[tokio::test]
async fn socket_of_a_successor_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("weir.sock");
    let first = Server::bind(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let _second = Server::bind(&path).unwrap();
    drop(first);
    assert!(path.exists());
}
