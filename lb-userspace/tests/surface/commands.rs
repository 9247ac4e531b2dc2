//! The command line as a process: exit codes, errors, pipes.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Output, Stdio},
    thread,
};

use lb_userspace::{api::types::ActionTerms, runtime::lock::Lock, telemetry::event::Event};

use crate::fake::{Daemon, weir};

#[track_caller]
fn fails(output: &Output, code: i32, texts: &[&str]) {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for text in texts {
        assert!(stderr.contains(text), "no {text:?} in: {stderr}");
    }
    assert!(!stderr.contains("panicked"), "{stderr}");
}

fn status_at(socket: &Path) -> Output {
    weir().arg("--socket").arg(socket).arg("status").output().unwrap()
}

#[test]
fn absent_and_dead_sockets_have_their_path_and_a_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("weir.sock");
    let path = socket.to_str().unwrap();
    fails(&status_at(&socket), 4, &[path, "there is no socket", "systemctl status weir", "weir daemon"]);
    drop(UnixListener::bind(&socket).unwrap());
    fails(&status_at(&socket), 4, &[path, "nobody listens", "systemctl status weir"]);
    // The environment names it as well.
    let output = weir().env("WEIR_SOCKET", &socket).arg("status").output().unwrap();
    fails(&output, 4, &[path]);
}

#[test]
fn what_is_no_daemon_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let body =
        r#"{"type":"urn:new:kind","title":"t","status":418,"detail":"no coffee","remedy":"drink tea"}"#;
    let newer = format!("HTTP/1.1 418 Tea\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for (index, (answer, code, text)) in [
        ("", 4, "connection to the daemon"),
        ("SSH-2.0-OpenSSH_9.2\r\n", 4, "connection to the daemon"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", 4, "connection to the daemon"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", 1, "cannot understand"),
        ("HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", 1, "status 500"),
        (&newer, 1, "no coffee"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = dir.path().join(index.to_string());
        let listener = UnixListener::bind(&socket).unwrap();
        let answer = answer.to_owned();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while reader.read_line(&mut line).unwrap() > 2 {
                line.clear();
            }
            stream.write_all(answer.as_bytes()).unwrap();
        });
        fails(&status_at(&socket), code, &[text]);
        server.join().unwrap();
    }
}

#[test]
fn problems_of_the_daemon_become_exit_codes_with_their_remedy() {
    let daemon = Daemon::start();
    fails(&daemon.weir(&["backend", "show", "nope"]), 5, &["no backend \"nope\"", "weir backend list"]);
    fails(
        &daemon.weir(&["domain", "drain", "west/w9", "--reason", "r"]),
        5,
        &["west/w9", "weir domain list"],
    );
    fails(&daemon.weir(&["bfd", "show", "e1r1b1"]), 5, &["no BFD session", "\"e1r1b1\"", "weir bfd list"]);
    fails(&daemon.weir(&["service", "show", "../status"]), 5, &["no service \"../status\""]);
    let conflict = daemon.weir(&["backend", "fail", "w1r1b1", "--reason", "conflict"]);
    fails(&conflict, 8, &["the daemon is stopping", "wait for the next one"]);
    fails(&daemon.weir(&["explain", "1.2.3.4:5", "192.0.2.1:1/tcp"]), 1, &["no tables", "restart"]);
    fails(&daemon.weir(&["explain", "1.2.3.4:5", "[::1]:80/tcp"]), 2, &["same family"]);
}

#[test]
fn json_is_the_answer_of_the_api_as_it_is() {
    let daemon = Daemon::start();
    daemon.record("west/w1");
    for (arguments, path) in [
        (&["status"][..], "/v1/status"),
        (&["service", "list"], "/v1/services"),
        (&["service", "show", "web"], "/v1/services/web"),
        (&["backend", "list"], "/v1/backends"),
        (&["backend", "show", "w1r1b1"], "/v1/backends/w1r1b1"),
        (&["domain", "list"], "/v1/domains"),
        (&["domain", "show", "west/w1/r2"], "/v1/domains/west/w1/r2"),
        (&["bfd", "list"], "/v1/bfd"),
        (&["bfd", "show", "w1r2b1"], "/v1/bfd/w1r2b1"),
        (&["events"], "/v1/events"),
        (
            &["explain", "1.2.3.4:5", "192.0.2.1:80/udp"],
            "/v1/explain?src=1.2.3.4:5&dst=192.0.2.1:80&protocol=udp",
        ),
    ] {
        let mut before = vec!["-o", "json"];
        before.extend(arguments);
        let mut after = arguments.to_vec();
        after.extend(["--output", "json"]);
        let (status, body) = daemon.get(path);
        assert_eq!(status, 200);
        assert_eq!(daemon.stdout(&before), format!("{body}\n"));
        assert_eq!(daemon.stdout(&after), format!("{body}\n"));
    }
    let acted = daemon.stdout(&["backend", "drain", "w1r2b1", "--reason", "r", "-o", "json"]);
    let acted: serde_json::Value = serde_json::from_str(&acted).unwrap();
    assert_eq!(acted["to"], "DRAINING");
    assert_eq!((&acted["kind"], &acted["name"]), (&"backend".into(), &"w1r2b1".into()));
}

#[test]
fn all_that_is_said_of_an_action_reaches_the_daemon() {
    let daemon = Daemon::start();
    let day = Some(86_400);
    for (arguments, terms) in [
        (
            &["drain", "w1r2b1", "--for", "1d", "--deadline", "10m", "--quiet", "2m"][..],
            ActionTerms { for_s: day, deadline_s: Some(600), quiet_s: Some(120), ..ActionTerms::default() },
        ),
        (&["drain", "w1r2b1", "--no-expiry"], ActionTerms { no_expiry: true, ..ActionTerms::default() }),
        (&["fail", "w1r2b1", "--for", "1d"], ActionTerms { for_s: day, ..ActionTerms::default() }),
        (
            &["restore", "w1r2b1", "--forget-failures"],
            ActionTerms { forget_failures: true, ..ActionTerms::default() },
        ),
        (&["restore", "w1r2b1"], ActionTerms::default()),
    ] {
        daemon.stdout(&[&["backend"], arguments, &["--reason", "fans"]].concat());
        assert_eq!(*daemon.fake.terms.lock().unwrap(), terms, "{arguments:?}");
    }
}

#[test]
fn reader_that_goes_away_is_no_error() {
    let daemon = Daemon::start();
    for _ in 0..1_000 {
        daemon.record(&format!("west/w1/{}", "r".repeat(100)));
    }
    for arguments in
        [&["events", "-n", "1000"][..], &["events", "-n", "1000", "-o", "json"], &["events", "--follow"]]
    {
        let mut child = weir()
            .arg("--socket")
            .arg(&daemon.socket)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 10];
        child.stdout.take().unwrap().read_exact(&mut first).unwrap();
        // Its output is closed now; something more comes for the one that follows.
        daemon.record("west/w2");
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {output:?}");
        assert!(output.stderr.is_empty(), "{arguments:?}: {output:?}");
    }
    // Help, too.
    let mut child = weir().arg("--help").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(0));
}

#[test]
fn full_disk_below_the_output_is_an_error() {
    let daemon = Daemon::start();
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = weir().arg("--socket").arg(&daemon.socket).arg("status").stdout(full).output().unwrap();
    fails(&output, 1, &["No space left"]);
}

#[test]
fn follower_sees_each_event_once_and_ends_with_the_daemon() {
    let mut daemon = Daemon::start();
    for _ in 0..3 {
        daemon.record("west/w1");
    }
    let mut child = weir()
        .arg("--socket")
        .arg(&daemon.socket)
        .args(["events", "-n", "2", "--follow", "-o", "json"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = || serde_json::from_str::<Event>(&lines.next().unwrap().unwrap()).unwrap().seq;
    assert_eq!([next(), next()], [2, 3]);
    for seq in 4..8 {
        daemon.record("west/w1");
        assert_eq!(next(), seq);
    }
    daemon.stop();
    let output = child.wait_with_output().unwrap();
    fails(&output, 4, &["systemctl status weir"]);
}

#[test]
fn follower_that_wants_no_history_sees_what_comes() {
    let daemon = Daemon::start();
    daemon.record("west/w1");
    assert_eq!(daemon.stdout(&["events", "-n", "0", "-o", "json"]), "[]\n");
    let mut child = weir()
        .arg("--socket")
        .arg(&daemon.socket)
        .args(["events", "-n", "0", "--follow"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The header comes once the last number is known.
    assert!(lines.next().unwrap().unwrap().starts_with("TIME"));
    daemon.record("west/w2");
    let line = lines.next().unwrap().unwrap();
    assert!(line.contains("west/w2") && line.contains("  2  "), "{line}");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A configuration whose files are all below `dir`.
fn write_config(dir: &Path) -> std::path::PathBuf {
    let state = dir.join("state");
    let config = format!(
        r#"
[node]
name = "edge-1"
region = "west"
interfaces = ["lo"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
state_dir = "{}"
socket = "{}"
bpffs = "{}"

[topology.west]
w1 = ["r1"]

[[set]]
name = "web-w1"
domain = "west/w1"
checks = []
[[set.backend]]
name = "b1"
rack = "west/w1/r1"
address = "10.1.1.11"

[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "west"
sets = ["web-w1"]
"#,
        state.display(),
        dir.join("weir.sock").display(),
        dir.join("bpf").display()
    );
    let path = dir.join("weir.toml");
    fs::write(&path, config).unwrap();
    path
}

#[test]
fn check_tells_what_is_there_or_what_is_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let path = write_config(dir.path());
    let check = |path: &Path, format: &str| {
        weir().args(["check", "-o", format, "--config"]).arg(path).output().unwrap()
    };
    let output = check(&path, "table");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("is valid") && text.contains("1 service"), "{text}");
    let output = check(&path, "json");
    let summary: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(summary["backends"], 1);
    let memory =
        |what: &str| summary["memory"][what].as_u64().unwrap_or_else(|| panic!("no {what} in {summary}"));
    assert_eq!(memory("flow_entries"), memory("cpus") * 16_384);
    assert!(
        memory("counters") > memory("cpus") * 300 * 32
            && memory("total") > memory("flows") + memory("counters")
    );
    for line in
        ["KiB", "counters", "guards and limits", "prefixes of clients", "1000 answers a second on each CPU"]
    {
        assert!(text.contains(line), "no {line:?} in {text}");
    }

    let text = fs::read_to_string(&path).unwrap().replace("name = \"edge-1\"", "nmae = \"edge-1\"");
    fs::write(&path, text).unwrap();
    let output = check(&path, "table");
    fails(&output, 3, &["nmae", "weir.toml:3:1", "= help:"]);
    assert!(!String::from_utf8_lossy(&output.stderr).contains("error: error:"));
    let output = check(&path, "json");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(3), 0), "{output:?}");
    let problems: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines: Vec<_> =
        problems["problems"].as_array().unwrap().iter().map(|problem| &problem["line"]).collect();
    assert!(lines.contains(&&serde_json::json!(3)), "{problems}");
    fails(&check(&dir.path().join("absent.toml"), "table"), 3, &["absent.toml"]);
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn detach_is_refused_while_a_daemon_holds_the_lock() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = write_config(dir.path());
    let lock = Lock::acquire(&dir.path().join("state")).unwrap();
    let detach = || weir().args(["detach", "--config"]).arg(&path).output().unwrap();
    fails(&detach(), 8, &[&format!("pid {}", std::process::id()), "stop that daemon first"]);
    drop(lock);
    // There is nothing to detach, which is fine.
    let output = detach();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("nothing was attached"), "{output:?}");
}

#[test]
fn missing_privilege_is_named() {
    use std::os::unix::process::CommandExt;
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = write_config(dir.path());
    // Anyone may enter and read, so that privileges are all that is missing; and run a copy of the binary.
    let binary = dir.path().join("weir");
    fs::copy(env!("CARGO_BIN_EXE_weir"), &binary).unwrap();
    for (file, mode) in [(dir.path(), 0o755), (&path, 0o644), (&binary, 0o755)] {
        fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    let nobody = |arguments: &[&str]| {
        std::process::Command::new(&binary).args(arguments).uid(65_534).gid(65_534).output().unwrap()
    };
    let config = path.to_str().unwrap();
    fails(&nobody(&["daemon", "--config", config]), 6, &["CAP_NET_ADMIN", "sudo weir daemon"]);
    fails(&nobody(&["detach", "--config", config]), 6, &["CAP_BPF", "sudo weir detach"]);
    fails(&nobody(&["agent", "--interface", "lo", "--address", "127.0.0.1"]), 6, &["sudo weir agent"]);
    assert_eq!(nobody(&["check", "--config", config]).status.code(), Some(0));

    let daemon = Daemon::start();
    fs::set_permissions(daemon.dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    fails(
        &nobody(&["--socket", daemon.socket.to_str().unwrap(), "status"]),
        6,
        &["no permission", "sudo weir"],
    );
}

#[test]
fn log_filter_that_is_none_is_refused() {
    let output =
        weir().env("WEIR_LOG", "weir=loudly").args(["daemon", "--config", "/nonexistent"]).output().unwrap();
    fails(&output, 2, &["WEIR_LOG", "loudly"]);
}

#[test]
fn watching_fails_with_a_reason() {
    let daemon = Daemon::start();
    fails(&daemon.weir(&["trace", "bad"]), 2, &["filter: no", "weir trace --help"]);
    let unwritable = daemon.weir(&["capture", "-w", "/nowhere/f.pcapng"]);
    fails(&unwritable, 1, &["cannot write /nowhere/f.pcapng", "No such file"]);
    fails(&daemon.weir(&["capture", "-w", "f", "--snap", "1515"]), 2, &["--snap", "1514"]);
    fails(&daemon.weir(&["trace", "--sample", "10"]), 2, &["1/N"]);
    fails(&daemon.weir(&["trace", "-n", "0"]), 2, &["--count"]);
}

#[test]
fn watching_ends_when_the_daemon_or_the_reader_does() {
    let mut daemon = Daemon::start();
    let trace = || {
        let mut command = weir();
        command.arg("--socket").arg(&daemon.socket).arg("trace");
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        for _ in 0..3 {
            assert!(lines.read_line(&mut String::new()).unwrap() > 1);
        }
        (child, lines)
    };
    let (interrupted, _lines) = trace();
    let (left, _more) = trace();
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(interrupted.id().try_into().unwrap()),
        nix::sys::signal::Signal::SIGINT,
    )
    .unwrap();
    let output = interrupted.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    daemon.stop();
    fails(&left.wait_with_output().unwrap(), 4, &["connection to the daemon"]);
}
