//! What is served to those who look: metrics, the stream of events, the page; what may be read over TCP; what keeps orders safe.

use std::{
    collections::BTreeSet,
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::net::UnixStream,
    sync::atomic::Ordering,
};

use lb_userspace::{
    api::{limits::MAX_IDEMPOTENCY_KEYS, problem::ProblemKind, types::*},
    plan::state::State,
    telemetry::event::Event,
};

use crate::fake::{Daemon, FAILS, PATIENCE};

/// Status, head in lower case, body.
fn ask(stream: &mut (impl Read + Write), request: &str) -> (u16, String, String) {
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_ascii_lowercase(), body.to_owned())
}

pub(crate) fn over_tcp(daemon: &Daemon, method: &str, path: &str, host: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(daemon.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    ask(&mut stream, &format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"))
}

fn post(daemon: &Daemon, path: &str, headers: &str, body: &str) -> (u16, String, String) {
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let length = body.len();
    let head =
        format!("POST {path} HTTP/1.1\r\nHost: weir\r\nConnection: close\r\nContent-Length: {length}\r\n");
    ask(&mut stream, &format!("{head}{headers}\r\n{body}"))
}

#[test]
fn metrics_tell_what_the_daemon_says() {
    let daemon = Daemon::start();
    daemon.record("west/w1");
    let (status, head, text) = over_tcp(&daemon, "GET", "/metrics", "127.0.0.1");
    assert!(status == 200 && head.contains("content-type: text/plain; version=0.0.4"), "{head}");
    for line in [
        "weir_build_info{version=\"0.1.0\",abi=\"1\"} 1",
        "weir_node_info{node=\"edge-1\",region=\"west\",zone=\"west/w1\"} 1",
        "weir_uptime_seconds 3725",
        "weir_forwarded_packets_total 2469134",
        "weir_dropped_packets_total{reason=\"all_down\"} 17",
        "weir_passed_bytes_total{reason=\"pass_not_vip\"} 300000",
        "weir_answered_packets_total{reason=\"echo_answered\"} 3",
        "weir_service_new_flows_total{service=\"web\"} 4321",
        "weir_service_refused_packets_total{service=\"web\",reason=\"source_denied\"} 7",
        "weir_service_shed_ratio{service=\"web\",by=\"overload\"} 0.125",
        "weir_pool_available_backends{service=\"web\",pool=\"west\"} 0",
        "weir_backend_info{backend=\"w1r1b1\",rack=\"west/w1/r1\",zone=\"west/w1\",region=\"west\",set=\"web-w1\",relay=\"no\"} 1",
        "weir_backend_bytes_total{backend=\"w1r1b1\"} 987654321",
        "weir_backend_spared{backend=\"w1r1b1\"} 0",
        "weir_relayed_in_packets_total 5",
        "weir_relayed_out_packets_total{backend=\"w1r2b1\"} 1234567",
        "weir_relayed_out_bytes_total{backend=\"w1r2b1\"} 987654321",
        "weir_backend_state{backend=\"w1r1b1\",state=\"DRAINING\"} 1",
        "weir_backend_state{backend=\"w1r1b1\",state=\"UP\"} 0",
        "weir_backend_effective_admission_ratio{backend=\"w1r1b1\",flows=\"established\"} 1",
        "weir_backend_next_hop_known{backend=\"w1r2b1\"} 0",
        "weir_domain_state{domain=\"west/w1/r2\",level=\"rack\",state=\"DOWN\"} 1",
        "weir_domain_admission_ratio{domain=\"west/w1/r2\",level=\"rack\",flows=\"new\"} 0",
        "weir_probes_total{backend=\"w1r1b1\",check=\"heartbeat\"} 12003",
        "weir_probes_missed_total{backend=\"w1r1b1\",check=\"heartbeat\"} 3",
        "weir_probe_last_round_trip_seconds{backend=\"w1r1b1\",check=\"heartbeat\"} 0.00006125",
        "weir_flow_table_entries{table=\"flows\"} 1234",
        "weir_walker_removed_entries 3",
        "weir_notes_total{note=\"flow_established\"} 12",
        "weir_config_reloads_total{result=\"ok\"} 1",
        "weir_plan_demand_flows_per_second{service=\"web\",client_region=\"default\"} 100",
        "weir_plan_healthy_ratio{service=\"web\",client_region=\"default\"} 0.75",
        "weir_plan_spilled_ratio{service=\"web\",client_region=\"default\"} 0.3",
        "weir_plan_panic{service=\"web\",client_region=\"default\"} 0",
        "weir_plan_pool_share_ratio{service=\"web\",client_region=\"default\",pool=\"west\"} 0.7",
        "weir_pool_healthy_ratio{service=\"web\",pool=\"west\"} 0.5",
        "weir_pool_capacity_flows_per_second{service=\"web\",pool=\"west\"} 900",
        "weir_pool_new_flows_per_second{service=\"web\",pool=\"east\"} 70",
        "weir_shift_kept_ratio{domain=\"west/w1\"} 0.25",
        "weir_shift_remaining_seconds{domain=\"west/w1\"} 5400",
        "weir_override_active{kind=\"domain\",subject=\"north/n1\",action=\"fail\"} 0",
        "weir_override_remaining_seconds{kind=\"backend\",subject=\"w1r1b1\",action=\"drain\"} 7140",
        "weir_api_refused_total{cause=\"rate\"} 0",
        "weir_events_lost_total 0",
        "weir_events_total{kind=\"domain-state\"} 1",
        "weir_reaction_seconds_bucket{phase=\"detect\",direction=\"out\",le=\"0.0025\"} 0",
        "weir_reaction_seconds_bucket{phase=\"detect\",direction=\"out\",le=\"0.005\"} 1",
        "weir_reaction_seconds_bucket{phase=\"program\",direction=\"out\",le=\"0.000005\"} 1",
        "weir_reaction_seconds_count{phase=\"total\",direction=\"back\"} 0",
    ] {
        assert!(text.lines().any(|have| have == line), "{line} is not in:\n{text}");
    }
    let mut seen = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').unwrap();
        assert!(seen.insert(series) && series.starts_with("weir_"), "{line}");
        value.parse::<f64>().unwrap();
    }
    assert!(!text.contains("weir_relayed_out_packets_total{backend=\"w1r1b1\"}"), "it is no relay");
    assert!(seen.len() > 150 && !text.contains("10.1."), "addresses in metrics:\n{text}");
}

#[test]
fn what_max_ejected_leaves_in_is_told() {
    let daemon = Daemon::start();
    let spared = |name: &str| {
        let (_, text) = daemon.get("/metrics");
        text.lines().any(|line| line == format!("weir_backend_spared{{backend=\"{name}\"}} 1"))
    };
    let told = || daemon.stdout(&["backend", "list"]).contains("stays in by max_ejected");
    assert!(!spared("w1r1b1") && !told());
    let at = |name: &str| daemon.fake.world.lock().unwrap().backends.iter().position(|b| b.name == name);
    let index = at("w1r1b1").unwrap();
    daemon.fake.world.lock().unwrap().backends[index].spared = true;
    assert!(spared("w1r1b1") && !spared("w1r2b1") && told());
}

#[test]
fn over_tcp_one_can_look_but_not_act_and_not_under_a_foreign_name() {
    let daemon = Daemon::start();
    for path in ["/", "/status.js", "/status.css", "/metrics", "/v1/status", "/v1/backends", "/v1/events"] {
        let (status, _, body) = over_tcp(&daemon, "GET", path, "localhost:9440");
        assert!(status == 200 && !body.is_empty(), "{path}: {status}");
    }
    for path in ["/v1/reload", "/v1/emergency", "/v1/backends/w1r2b1/fail", "/v1/shifts/cancel"] {
        let (status, _, body) = over_tcp(&daemon, "POST", path, "127.0.0.1");
        assert!(matches!(status, 404 | 405), "{path}: {status} {body}");
    }
    // A diff reads any file, as root; guards and explanations name clients' prefixes; sessions, what only their two ends know.
    for path in ["/v1/diff?file=/etc/shadow", "/v1/explain", "/v1/guards", "/v1/emergency", "/v1/bfd"] {
        assert_eq!(over_tcp(&daemon, "GET", path, "127.0.0.1").0, 404, "{path}");
    }
    assert_eq!(over_tcp(&daemon, "GET", "/metrics", "weir.example.net:9440").0, 200);
    let (status, _, body) = over_tcp(&daemon, "GET", "/v1/status", "weir.evil.example");
    assert!(status == 421 && body.contains("urn:weir:problem:host"), "{body}");
    let backends: Vec<BackendView> =
        serde_json::from_str(&over_tcp(&daemon, "GET", "/v1/backends", "[::1]").2).unwrap();
    assert!(backends.iter().all(|backend| backend.health.state != State::Down || backend.name == "e1r1b1"));
}

#[test]
fn the_page_is_one_of_its_own() {
    let daemon = Daemon::start();
    let (_, head, body) = over_tcp(&daemon, "GET", "/", "127.0.0.1");
    assert!(head.contains("content-type: text/html") && head.contains("x-content-type-options: nosniff"));
    assert!(
        head.contains("content-security-policy: default-src 'none'; script-src 'self'; style-src 'self'")
    );
    assert!(!head.contains("unsafe"), "{head}");
    let script = over_tcp(&daemon, "GET", "/status.js", "127.0.0.1").2;
    let style = over_tcp(&daemon, "GET", "/status.css", "127.0.0.1").2;
    for text in [&body, &script, &style] {
        let elsewhere = text.replace("http://www.w3.org/2000/svg", "");
        assert!(
            !elsewhere.contains("http://") && !elsewhere.contains("https://"),
            "something from elsewhere"
        );
        assert!(!text.contains("innerHTML") && !text.contains("eval("), "names must not become markup");
    }
    assert!(!body.contains("style=") && !body.contains("onclick") && !body.contains("<style"), "inline");
}

#[test]
fn events_are_streamed_as_they_come_and_from_where_one_was() {
    let daemon = Daemon::start();
    let first = daemon.record("one").seq;
    let open = |extra: &str| {
        let mut stream = TcpStream::connect(daemon.http).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\n{extra}\r\n").unwrap();
        BufReader::new(stream)
    };
    fn event(reader: &mut impl BufRead) -> (String, Event) {
        let mut id = String::new();
        for line in reader.lines().map(Result::unwrap) {
            if let Some(value) = line.strip_prefix("id: ") {
                id = value.to_owned();
            } else if let Some(data) = line.strip_prefix("data: ") {
                return (id, serde_json::from_str(data).unwrap());
            }
            assert!(!line.starts_with("HTTP/1.1 ") || line.contains("200"), "{line}");
        }
        panic!("the stream ended");
    }
    let mut later = open(&format!("Last-Event-ID: {first}\r\n"));
    let mut all = open("Last-Event-ID: 0\r\n");
    assert_eq!(event(&mut all).1.subject, "one");
    let second = daemon.record("two");
    assert_eq!(event(&mut later), (second.seq.to_string(), second.clone()));
    assert_eq!(event(&mut all).1, second);
    let mut bad = TcpStream::connect(daemon.http).unwrap();
    let request =
        "GET /v1/events/stream HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: x\r\nConnection: close\r\n\r\n";
    assert_eq!(ask(&mut bad, request).0, 400);
    // A stream holds up no stop.
    let mut daemon = daemon;
    let begun = std::time::Instant::now();
    daemon.stop();
    assert!(begun.elapsed() < lb_userspace::api::limits::STOP_TIMEOUT, "{:?}", begun.elapsed());
}

#[test]
fn an_order_with_a_key_is_done_once() {
    let daemon = Daemon::start();
    let (path, body) = ("/v1/backends/w1r2b1/drain", r#"{"reason":"fans"}"#);
    let seq = || daemon.fake.journal.status().last_seq;
    let first = post(&daemon, path, "Idempotency-Key: a-1\r\n", body);
    assert!(first.0 == 200 && !first.1.contains("replayed") && seq() == 1, "{first:?}");
    let again = post(&daemon, path, "Idempotency-Key: a-1\r\n", body);
    assert!(again.0 == 200 && again.1.contains("idempotency-replayed: true"), "{again:?}");
    assert!(again.2 == first.2 && again.1.contains("content-type: application/json") && seq() == 1);
    let other = post(&daemon, path, "Idempotency-Key: a-1\r\n", r#"{"reason":"other fans"}"#);
    assert!(other.0 == 422 && other.2.contains("urn:weir:problem:key-reused") && seq() == 1, "{other:?}");
    assert_eq!(post(&daemon, path, "Idempotency-Key: a-2\r\n", body).0, 200);
    assert_eq!(seq(), 2);
    // What was refused is refused again, without asking.
    for _ in 0..2 {
        assert_eq!(post(&daemon, "/v1/backends/nope/drain", "Idempotency-Key: a-3\r\n", body).0, 404);
    }
    for key in ["", "with space", &"k".repeat(129)] {
        assert_eq!(post(&daemon, path, &format!("Idempotency-Key: {key}\r\n"), body).0, 400, "{key:?}");
    }
    for n in 0..MAX_IDEMPOTENCY_KEYS {
        post(&daemon, "/v1/backends/nope/drain", &format!("Idempotency-Key: fill-{n}\r\n"), body);
    }
    assert_eq!(post(&daemon, path, "Idempotency-Key: a-1\r\n", body).0, 200);
    assert_eq!(seq(), 3, "the oldest key is forgotten first, and only beyond the limit");
    assert_eq!(daemon.fake.most_acting.load(Ordering::SeqCst), 1);
}

#[test]
fn what_failed_may_be_tried_again_with_its_key_and_a_key_is_of_one_order() {
    let daemon = Daemon::start();
    let (path, key) = ("/v1/backends/w1r2b1/drain", "Idempotency-Key: f\r\n");
    let failing = format!("{{\"reason\":\"{FAILS}\"}}");
    for _ in 0..2 {
        let (status, head, _) = post(&daemon, path, key, &failing);
        assert!(status == 500 && !head.contains("replayed"), "{head}");
    }
    // Nothing is remembered of it, not even what it was.
    let body = r#"{"reason":"fans"}"#;
    assert_eq!(post(&daemon, path, key, body).0, 200);
    // The same words about another backend are another order.
    assert_eq!(post(&daemon, "/v1/backends/w1r1b1/drain", key, body).0, 422);
    assert_eq!(daemon.fake.journal.status().last_seq, 1);
}

#[test]
fn an_order_may_be_for_one_configuration_only() {
    let daemon = Daemon::start();
    let (path, body) = ("/v1/backends/w1r2b1/drain", r#"{"reason":"fans"}"#);
    let mut stream = UnixStream::connect(&daemon.socket).unwrap();
    let (_, head, _) = ask(&mut stream, "GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    for bad in ["\"0123\"", "0123456789abcdef0123456789abcdef", "W/\"0123456789abcdef0123456789abcdef\""] {
        let (status, _, text) = post(&daemon, path, &format!("If-Match: {bad}\r\n"), body);
        assert!(status == 412 && text.contains(&tag.replace('"', "\\\"")), "{bad}: {status} {text}");
    }
    // What no route takes is told before either header is looked at.
    for method in ["TRACE", "PUT", "DELETE"] {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        let headers = "Host: x\r\nIf-Match: \"0\"\r\nIdempotency-Key: t\r\nConnection: close\r\n\r\n";
        let (status, head, _) = ask(&mut stream, &format!("{method} {path} HTTP/1.1\r\n{headers}"));
        assert!(status == 405 && head.contains("allow: post"), "{method}: {head}");
    }
    for (method, body) in [("DELETE", ""), ("PUT", r#"{"filter":"debug","for_s":60}"#)] {
        let mut stream = UnixStream::connect(&daemon.socket).unwrap();
        let headers = format!(
            "Host: x\r\nIf-Match: \"0\"\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        let (status, head, _) = ask(&mut stream, &format!("{method} /v1/log HTTP/1.1\r\n{headers}{body}"));
        assert_eq!(status, 412, "{method}: {head}");
    }
    assert_eq!(daemon.get("/v1/traffic?points=721").0, 400);
    let keyed = "If-Match: \"0\"\r\nIdempotency-Key: k\r\n";
    assert_eq!(post(&daemon, path, keyed, body).0, 412);
    assert_eq!(daemon.fake.journal.status().last_seq, 0);
    for good in [tag, "*", &format!("\"x\", {tag}")] {
        assert_eq!(post(&daemon, path, &format!("If-Match: {good}\r\n"), body).0, 200, "{good}");
    }
    let _ = ProblemKind::Precondition;
}
