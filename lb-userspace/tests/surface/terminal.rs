//! What the command line does on terminals and in pipes: forms of the output, short names, `--watch`, rates and flows.

use std::{
    io::{BufRead, BufReader, Read},
    process::{Child, Command, Stdio},
    time::Duration,
};

use lb_userspace::api::{
    problem::{Problem, ProblemKind},
    types::*,
};
use serde_json::{Value, json};

use crate::{
    fake::{Daemon, moment, weir},
    observe::over_tcp,
};

/// Flows that the fake remembers.
const FLOWS: usize = 1_500;

pub(crate) fn stats(by: StatsBy, over: Duration) -> Stats {
    let has_rates = !over.is_zero();
    let row = |name: &str, packets: u64, opening, dropped: Option<u64>| StatsRow {
        name: name.to_owned(),
        verdict: (by == StatsBy::Reason).then_some(VerdictKind::Drop),
        counts: StatsCounts { packets, bytes: packets * 100, opening, dropped },
        per_second: has_rates.then(|| StatsRates {
            packets: packets as f64 / 10.0,
            bytes: packets as f64 * 10.0,
            opening: opening.map(|opening: u64| opening as f64 / 10.0),
            dropped: dropped.map(|_| 0.5),
        }),
    };
    let rows = match by {
        StatsBy::Reason => vec![row("all_down", 17, None, None)],
        _ => vec![row("mail", 20, Some(2), Some(0)), row("web", 123_456, Some(400), Some(17))],
    };
    let total = row("total", 123_476, Some(402), Some(17));
    Stats { time: moment(), monotonic_ns: 1, by, over_s: over.as_secs_f64(), total, rows }
}

/// By the filter `none` there is nothing; `unknown` is refused.
pub(crate) fn flows(query: &FlowsQuery) -> Result<FlowsPage, Problem> {
    if query.filter == "service unknown" {
        return Err(Problem::not_found("service", "unknown"));
    }
    let begin: usize = query.cursor.as_deref().map_or(0, |cursor| cursor.parse().unwrap());
    let end = (begin + query.limit).min(FLOWS);
    let flow = |number: usize| FlowView {
        src: format!("198.51.100.7:{}", 10_000 + number).parse().unwrap(),
        dst: "192.0.2.10:80".parse().unwrap(),
        protocol: "tcp".to_owned(),
        service: Some("web".to_owned()),
        backend: "w1r1b1".to_owned(),
        home: Some(if number.is_multiple_of(2) { "w1r2b1" } else { "w1r1b1" }.to_owned()),
        away: number.is_multiple_of(2),
        state: FlowState::Established,
        idle_s: number as u64,
        relayed: false,
    };
    let cursor = (end < FLOWS).then(|| end.to_string());
    Ok(FlowsPage { flows: (begin..end).map(flow).collect(), scanned: (end - begin) as u64, cursor })
}

pub(crate) fn flush(request: &FlushRequest) -> Result<Flushed, Problem> {
    let complete = request.reason != "slowly";
    Ok(Flushed { removed: 12, away: 9, scanned: 340, complete, took_ns: 1_200_000 })
}

#[track_caller]
fn problem((status, body): (u16, String), kind: ProblemKind, detail: &str) {
    let problem: Problem = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
    assert_eq!((problem.kind, problem.status), (kind, status), "{body}");
    assert!(problem.detail.contains(detail), "{body}");
}

#[test]
fn rates_and_counters_by_what_is_asked_for() {
    let daemon = Daemon::start();
    let expected = "\
SERVICE  PACKETS/S  BIT/S  NEW/S  DROPPED/S  PACKETS  BYTES    NEW  DROPPED
web            12k   9.9M     40        0.5   123456  12.3 MB  400       17
mail           2.0   1.6k    0.2        0.5       20   2.0 kB    2        0
total          12k   9.9M     40        0.5   123476  12.3 MB  402       17
";
    assert_eq!(daemon.stdout(&["stats"]), expected);
    let first: Vec<_> = daemon.stdout(&["stats", "-n", "1"]).lines().map(str::to_owned).collect();
    assert!(first.len() == 3 && first[1].starts_with("web "), "{first:?}");
    let counted = daemon.stdout(&["stats", "--over", "0s", "--by", "reason"]);
    assert!(counted.starts_with("REASON    VERDICT  PACKETS  "), "{counted}");
    assert!(counted.contains("\nall_down  drop          17   1.7 kB"), "{counted}");
    for (query, detail) in [("over=31", "over is 31"), ("by=weather", "weather"), ("for=1", "for")] {
        problem(daemon.get(&format!("/v1/stats?{query}")), ProblemKind::Invalid, detail);
    }
}

#[test]
fn flows_are_listed_page_by_page_and_flushed_by_filter_or_all() {
    let daemon = Daemon::start();
    let shown = daemon.stdout(&["flows", "list", "--limit", "2"]);
    let expected = "\
CLIENT              TO                 SERVICE  BACKEND  HOME    STATE        IDLE
198.51.100.7:10000  192.0.2.10:80/tcp  web      w1r1b1   w1r2b1  established   0 s
198.51.100.7:10001  192.0.2.10:80/tcp  web      w1r1b1           established   1 s

the first 2; --limit shows more
";
    assert_eq!(shown, expected);
    let all: FlowsPage =
        serde_json::from_str(&daemon.stdout(&["fl", "ls", "tcp", "-n", "5000", "-o", "json"])).unwrap();
    assert_eq!((all.flows.len(), all.scanned, all.cursor), (FLOWS, FLOWS as u64, None));
    let most: FlowsPage =
        serde_json::from_str(&daemon.stdout(&["flows", "list", "-n", "1200", "-o", "json"])).unwrap();
    assert_eq!((most.flows.len(), most.cursor.is_some()), (1_200, true));

    let flushed = daemon.stdout(&["flows", "flush", "backend", "w1r1b1", "--reason", "its state is gone"]);
    assert_eq!(flushed, "12 of 340 flows flushed, 9 of them away from home, in 1.2 ms\n");
    let slow = daemon.weir(&["flows", "flush", "--all", "--reason", "slowly"]);
    assert_eq!(slow.status.code(), Some(1), "{slow:?}");
    assert!(String::from_utf8_lossy(&slow.stderr).contains("give the command again"), "{slow:?}");
    assert_eq!(daemon.weir(&["flows", "list", "service", "unknown"]).status.code(), Some(5));

    let post = |body: &str| daemon.post("/v1/flows/flush", body);
    problem(post(r#"{"reason":"r"}"#), ProblemKind::Invalid, "neither a filter nor");
    problem(post(r#"{"reason":"r","filter":" "}"#), ProblemKind::Invalid, "neither a filter nor");
    problem(post(r#"{"reason":"r","filter":"tcp","all":true}"#), ProblemKind::Invalid, "a filter, and");
    problem(post(r#"{"reason":" ","all":true}"#), ProblemKind::Invalid, "empty");
    for (query, detail) in [("limit=0", "limit is 0"), ("limit=1001", "limit is 1001"), ("page=2", "page")] {
        problem(daemon.get(&format!("/v1/flows?{query}")), ProblemKind::Invalid, detail);
    }
    // Flows name clients: nothing of them is told over TCP.
    assert_eq!(over_tcp(&daemon, "GET", "/v1/flows", "localhost").0, 404);
    assert_eq!(over_tcp(&daemon, "GET", "/v1/stats", "localhost").0, 200);
}

#[test]
fn yaml_says_what_json_says() {
    let daemon = Daemon::start();
    for _ in 0..3 {
        daemon.record("west/w1");
    }
    for arguments in [
        &["status"][..],
        &["service", "list"],
        &["backend", "show", "w1r1b1"],
        &["domain", "list"],
        &["events"],
        &["stats"],
        &["flows", "list"],
        &["plan", "show", "web"],
        &["report"],
        &["diff"],
        &["shift", "list"],
        &["explain", "1.2.3.4:5", "192.0.2.1:80/udp"],
        &["backend", "list"],
        &["domain", "show", "west/w1"],
        &["service", "show", "web"],
        &["plan", "list"],
        &["canary", "list"],
        &["guard", "list"],
        &["guard", "show", "web"],
        &["emergency", "list"],
        &["log", "level"],
    ] {
        let of = |format: &'static str| daemon.stdout(&[arguments, &["-o", format]].concat());
        let (json, yaml): (Value, Value) =
            (serde_json::from_str(&of("json")).unwrap(), serde_saphyr::from_str(&of("yaml")).unwrap());
        assert_eq!(json, yaml, "{arguments:?}");
    }
}

#[test]
fn short_names_do_the_same() {
    let daemon = Daemon::start();
    for (short, long) in [
        (&["be", "ls"][..], &["backend", "list"][..]),
        (&["svc", "show", "web"], &["service", "show", "web"]),
        (&["st"], &["status"]),
        (&["dom", "ls"], &["domain", "list"]),
    ] {
        assert_eq!(daemon.stdout(short), daemon.stdout(long));
    }
    let help = String::from_utf8(weir().arg("--help").output().unwrap().stdout).unwrap();
    assert!(help.contains("backend") && help.contains("[alias: be]"), "{help}");
}

struct Watching(Child);

impl Watching {
    fn start(daemon: &Daemon, arguments: &[&str]) -> Self {
        let mut command = weir();
        command.arg("--socket").arg(&daemon.socket).args(arguments).stdin(Stdio::null());
        Self(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    fn ended(mut self) -> (Option<i32>, String) {
        let mut stderr = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (self.0.wait().unwrap().code(), stderr)
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_pipe_gets_a_document_for_each_change_and_its_end_is_no_error() {
    let daemon = Daemon::start();
    let mut json = Watching::start(&daemon, &["backend", "list", "-w=0.2", "-o", "json"]);
    let mut lines = BufReader::new(json.0.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Value>(&lines.next().unwrap().unwrap()).unwrap();
    let weights =
        |answer: &Value| answer.as_array().unwrap().iter().map(|b| b["weight"].clone()).collect::<Vec<_>>();
    assert_eq!(weights(&next())[2], json!(100));
    // Nothing comes while nothing changes: the next document is the next change.
    for weight in [7, 8] {
        daemon.fake.world.lock().unwrap().backends[0].weight = weight;
        assert_eq!(weights(&next())[2], json!(weight));
    }
    drop(lines);
    let (code, stderr) = json.ended();
    assert_eq!((code, stderr.as_str()), (Some(0), ""));

    // Tables are kept apart by an empty line, documents of YAML by three dashes.
    for (format, apart) in [("table", ""), ("yaml", "---")] {
        let mut watching = Watching::start(&daemon, &["backend", "show", "w1r2b1", "-w=0.2", "-o", format]);
        let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        // The first one is there: what changes from now on is a second one.
        let first = lines.next().unwrap();
        daemon.fake.world.lock().unwrap().backends[0].packets += 1;
        let second = lines.by_ref().skip_while(|line| line != apart).find(|line| *line == first);
        assert_eq!(second.as_ref(), Some(&first), "{format}");
        drop(lines);
        assert_eq!(watching.ended().0, Some(0));
    }
}

#[test]
fn who_watches_waits_for_a_daemon_that_goes_and_not_for_one_that_was_never_there() {
    let mut daemon = Daemon::start();
    let mut watching = Watching::start(&daemon, &["service", "list", "-w=0.2", "-o", "json"]);
    let mut lines = BufReader::new(watching.0.stdout.take().unwrap()).lines();
    assert!(lines.next().unwrap().unwrap().contains("\"web\""));
    daemon.stop();
    let mut told = String::new();
    BufReader::new(watching.0.stderr.as_mut().unwrap()).read_line(&mut told).unwrap();
    assert!(told.contains("; waiting for it"), "{told}");
    drop(lines);
    let absent = Watching::start(&daemon, &["service", "list", "-w"]).ended();
    assert_eq!(absent.0, Some(4), "{absent:?}");
    let wrong = Daemon::start();
    assert_eq!(Watching::start(&wrong, &["service", "show", "nope", "-w"]).ended().0, Some(5));
}

#[test]
fn no_command_minds_that_its_reader_goes_away() {
    let daemon = Daemon::start();
    for arguments in [
        &["status"][..],
        &["status", "-w"],
        &["stats", "--over", "0s"],
        &["flows", "list", "-n", "5000"],
        &["flows", "list", "-n", "5000", "-o", "yaml"],
        &["report"],
        &["plan", "list"],
        &["trace"],
        &["config", "schema"],
        &["completions", "bash"],
        &["shift", "list", "-o", "json"],
    ] {
        let mut child = Watching::start(&daemon, arguments);
        drop(child.0.stdout.take());
        let (code, stderr) = child.ended();
        assert!(code == Some(0) && !stderr.contains("panicked"), "{arguments:?}: {code:?} {stderr}");
    }
}

#[test]
fn colours_are_for_terminals_and_for_those_who_want_them() {
    let daemon = Daemon::start();
    // A pseudo-terminal around it.
    let on_terminal = |no_color: Option<&str>, arguments: &str| {
        let line = format!("{} {arguments}", env!("CARGO_BIN_EXE_weir"));
        let mut command = Command::new("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]).stdin(Stdio::null());
        command.env("WEIR_SOCKET", &daemon.socket).env("TERM", "xterm-256color").env_remove("NO_COLOR");
        let output = command.envs(no_color.map(|value| ("NO_COLOR", value))).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    for arguments in ["backend list", "status", "domain list", "plan list"] {
        let piped = daemon.stdout(&arguments.split(' ').collect::<Vec<_>>());
        assert!(!piped.contains('\u{1b}'), "{arguments}: {piped}");
        assert!(!on_terminal(Some("1"), arguments).contains('\u{1b}'), "{arguments}");
        let coloured = on_terminal(None, arguments);
        assert!(coloured.contains('\u{1b}'), "{arguments}: {coloured}");
        // As <https://no-color.org> has it: empty is as good as not set.
        assert!(on_terminal(Some(""), arguments).contains('\u{1b}'), "{arguments}");
    }
    for format in ["json", "yaml"] {
        assert!(!on_terminal(None, &format!("backend list -o {format}")).contains('\u{1b}'), "{format}");
    }
}

#[test]
fn top_needs_a_terminal_and_says_what_does_not() {
    let daemon = Daemon::start();
    let output = daemon.weir(&["top"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("needs a terminal") && stderr.contains("weir stats --watch"), "{stderr}");
}

#[test]
fn manual_pages_of_the_new_commands_render() {
    let folder = tempfile::tempdir().unwrap();
    let output = weir().arg("manual").arg(folder.path()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    for (page, words) in [
        ("weir-top.8", "interval"),
        ("weir-stats.8", "watch"),
        ("weir-flows-list.8", "backend NAME"),
        ("weir-flows-flush.8", "What it breaks"),
        ("weir-backend-list.8", "watch"),
    ] {
        let text = std::fs::read_to_string(folder.path().join(page)).unwrap();
        assert!(text.contains(words), "{page}: {text}");
    }
}
