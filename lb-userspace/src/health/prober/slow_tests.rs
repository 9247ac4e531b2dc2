//! Against real servers: nginx, and programs of this host.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};

use super::*;
use crate::config::{HttpCheck, TlsCheck};
use crate::health::prober::gather::Gather;
use crate::health::testing::{check, config};

const PATIENCE: Duration = Duration::from_secs(30);

/// An nginx of its own, on one loopback address, with plain HTTP and with TLS.
struct Nginx {
    folder: tempfile::TempDir,
    child: Child,
    ip: Ipv4Addr,
    http: u16,
    https: u16,
}

fn free_port(ip: Ipv4Addr) -> u16 {
    TcpListener::bind((ip, 0)).expect("a loopback address").local_addr().expect("bound").port()
}

impl Nginx {
    fn start(last: u8) -> Self {
        let ip = Ipv4Addr::new(127, 7, 7, last);
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        write_certificates(path);
        let (http, https) = (free_port(ip), free_port(ip));
        fs::write(path.join("long"), "x".repeat(50_000) + "needle").expect("written");
        let servers = format!(
            "server {{ listen {ip}:{http}; listen {ip}:{https} ssl;
               ssl_certificate {0}/server.pem; ssl_certificate_key {0}/server.key;
               default_type text/plain;
               location = / {{ return 200 \"all is well\\n\"; }}
               location = /host {{ return 200 \"host $http_host $request_method\\n\"; }}
               location = /away {{ return 302 /; }}
               location = /ill {{ return 503; }}
               location = /long {{ root {0}; }}
             }}",
            path.display()
        );
        let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/{name};", path.display()))
            .concat();
        let config = format!(
            "daemon off; master_process off; worker_processes 1; pid /dev/null; user root; error_log /dev/null;
             events {{ worker_connections 256; }} http {{ access_log off; {paths} {servers} }}"
        );
        let file = path.join("nginx.conf");
        fs::write(&file, config).expect("written");
        let child = Command::new("nginx")
            .args(["-e", "/dev/null", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .spawn()
            .expect("nginx is installed");
        let nginx = Self { folder, child, ip, http, https };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect((ip, https)).is_err() {
            assert!(Instant::now() < deadline, "nginx does not listen");
            std::thread::sleep(Duration::from_millis(5));
        }
        nginx
    }

    fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.id() as i32), signal).expect("our own child");
    }

    fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    fn plain(&self, path: &str) -> HttpCheck {
        HttpCheck {
            port: self.http,
            vip: None,
            tls: None,
            head: false,
            path: path.to_owned(),
            host: None,
            status: vec![(200, 299)],
            body: None,
            body_limit: 16 << 10,
        }
    }

    fn tls(&self, server_name: Option<&str>, ca_file: Option<PathBuf>, verify: bool) -> HttpCheck {
        let server_name = server_name.map(str::to_owned);
        let tls = Some(TlsCheck { server_name, ca_file, verify });
        HttpCheck { port: self.https, tls, ..self.plain("/") }
    }

    async fn ask(&self, check: HttpCheck) -> Result<(), Miss> {
        let http = Http::new(&check).expect("authorities");
        timeout(PATIENCE, http.probe(self.ip.into())).await.expect("an end")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority and a certificate of it for `web.example` and 127.7.7.2.
fn write_certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let key = KeyPair::generate().expect("a key");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, key).expect("a certificate");
    let key = KeyPair::generate().expect("a key");
    let names = vec!["web.example".to_owned(), "127.7.7.2".to_owned()];
    let server = CertificateParams::new(names).expect("parameters").signed_by(&key, &authority);
    let files = [
        ("ca.pem", authority.pem()),
        ("server.pem", server.expect("a certificate").pem()),
        ("server.key", key.serialize_pem()),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("written");
    }
}

#[tokio::test]
async fn status_and_body_decide_over_http() {
    let nginx = Nginx::start(1);
    let expecting = |path: &str, body: &str| HttpCheck { body: Some(body.to_owned()), ..nginx.plain(path) };
    assert_eq!(nginx.ask(nginx.plain("/")).await, Ok(()));
    assert_eq!(nginx.ask(nginx.plain("/nothing")).await, Err(Miss::Status(404)));
    assert_eq!(nginx.ask(nginx.plain("/ill")).await, Err(Miss::Status(503)));
    assert_eq!(nginx.ask(nginx.plain("/away")).await, Err(Miss::Status(302)), "redirects are not followed");
    let accepting = HttpCheck { status: vec![(200, 200), (301, 302)], ..nginx.plain("/away") };
    assert_eq!(nginx.ask(accepting).await, Ok(()));
    assert_eq!(nginx.ask(expecting("/", "is well")).await, Ok(()));
    assert_eq!(nginx.ask(expecting("/", "is ill")).await, Err(Miss::Body));
    // What lies behind the limit is not looked at.
    let long = |body_limit| HttpCheck { body_limit, ..expecting("/long", "needle") };
    assert_eq!(nginx.ask(long(50_006)).await, Ok(()));
    assert_eq!(nginx.ask(long(50_005)).await, Err(Miss::Body));
    let to = format!("host {}:{} GET", nginx.ip, nginx.http);
    assert_eq!(nginx.ask(expecting("/host", &to)).await, Ok(()));
    let named =
        HttpCheck { host: Some("web.example".to_owned()), ..expecting("/host", "host web.example GET") };
    assert_eq!(nginx.ask(named).await, Ok(()));
    assert_eq!(nginx.ask(HttpCheck { head: true, ..nginx.plain("/") }).await, Ok(()));
    assert_eq!(nginx.ask(HttpCheck { head: true, ..nginx.plain("/ill") }).await, Err(Miss::Status(503)));
    assert_eq!(
        nginx.ask(HttpCheck { port: free_port(nginx.ip), ..nginx.plain("/") }).await,
        Err(Miss::Refused)
    );
}

#[tokio::test]
async fn certificates_are_verified_unless_that_is_switched_off() {
    let nginx = Nginx::start(2);
    let ca = || Some(nginx.ca());
    assert_eq!(nginx.ask(nginx.tls(Some("web.example"), ca(), true)).await, Ok(()));
    assert_eq!(nginx.ask(nginx.tls(None, ca(), true)).await, Ok(()), "the address stands in the certificate");
    assert_eq!(nginx.ask(nginx.tls(Some("other.example"), ca(), true)).await, Err(Miss::Tls));
    let host = HttpCheck { host: Some("other.example:1".to_owned()), ..nginx.tls(None, ca(), true) };
    assert_eq!(nginx.ask(host).await, Err(Miss::Tls), "the host header's name is not in the certificate");
    assert_eq!(
        nginx.ask(nginx.tls(Some("web.example"), None, true)).await,
        Err(Miss::Tls),
        "unknown authority"
    );
    assert_eq!(nginx.ask(nginx.tls(Some("other.example"), None, false)).await, Ok(()));
    let plain = HttpCheck { port: nginx.http, ..nginx.tls(None, ca(), true) };
    assert_eq!(nginx.ask(plain).await, Err(Miss::Tls), "a server that does not speak TLS");
    let spoken = HttpCheck { port: nginx.https, ..nginx.plain("/") };
    assert_eq!(nginx.ask(spoken).await, Err(Miss::Status(400)), "a server that speaks nothing but TLS");
}

#[test]
fn a_file_without_authorities_is_refused_with_its_name() {
    let nginx = Nginx::start(3);
    let key = nginx.folder.path().join("server.key");
    for (file, problem) in [(PathBuf::from("/nonexistent"), "No such file"), (key, "holds no certificate")] {
        let error = Http::new(&nginx.tls(None, Some(file.clone()), true)).err().expect("refused").to_string();
        assert!(error.contains(problem) && error.contains(&file.display().to_string()), "{error}");
    }
}

/// The last result of each target, when the condition on them holds.
async fn until(gather: &mut Gather, what: &str, condition: impl Fn(&[Outcome]) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    let mut last = Vec::new();
    while last.is_empty() || !condition(&last) {
        assert!(Instant::now() < deadline, "{what}: {last:?}");
        gather.drain();
        let round = gather.judge(gather.next_ns().expect("targets")).expect("due");
        last.resize(round.outcomes.len(), Outcome::Unknown);
        for (last, outcome) in last.iter_mut().zip(round.outcomes) {
            if *outcome != Outcome::Unknown {
                *last = *outcome;
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn how(outcome: Outcome) -> Option<Miss> {
    match outcome {
        Outcome::Missed { how, .. } => Some(how),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_frozen_is_silent_and_one_that_is_killed_refuses() {
    let mut nginx = Nginx::start(4);
    let mut checks = vec![check(CheckKind::Http(Box::new(nginx.plain("/"))), 50)];
    checks[0].timeout = Duration::from_millis(500);
    let mut config = config(&vec![vec![vec![1]]], checks);
    config.backends[0].address = nginx.ip.into();
    let targets = Targets::new(&config);
    let (mut gather, reporter) = Gather::new(&targets, monotonic_ns(), takes);
    let _tasks = spawn(&targets, &reporter).expect("tasks");
    let answered = |last: &[Outcome]| matches!(last[0], Outcome::Answered { .. });
    until(&mut gather, "an answer", answered).await;
    nginx.signal(Signal::SIGSTOP);
    until(&mut gather, "silence", |last| how(last[0]) == Some(Miss::Silent)).await;
    nginx.signal(Signal::SIGCONT);
    until(&mut gather, "an answer again", answered).await;
    nginx.child.kill().expect("our own child");
    until(&mut gather, "a refusal", |last| how(last[0]) == Some(Miss::Refused)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_that_hang_leave_the_lane_of_the_others_free() {
    // More programs that hang than the lane has room for, and one that does not.
    let hang = ExecCheck { command: vec!["/bin/sleep".into(), "1000".into()], user: None };
    let fine = ExecCheck { command: vec!["/bin/true".into()], user: None };
    let count = MAX_EXEC[0] + 20;
    let mut checks = vec![check(CheckKind::Exec(hang), 50), check(CheckKind::Exec(fine), 50)];
    checks[0].timeout = Duration::from_millis(1500);
    checks[1].timeout = PATIENCE;
    let config = config(&vec![vec![vec![count]]], checks);
    let mut targets = Targets::new(&config);
    // One address is enough for the program that does not hang.
    targets.groups[1].targets.truncate(1);
    let (mut gather, reporter) = Gather::new(&targets, monotonic_ns(), takes);
    let _tasks = spawn(&targets, &reporter).expect("tasks");
    let silent = |last: &[Outcome]| last.len() == count && last.iter().all(|&o| how(o) == Some(Miss::Silent));
    // Rounds of the two groups differ in length; the longer one is the hanging programs'.
    let deadline = Instant::now() + PATIENCE;
    let mut hanging = vec![Outcome::Unknown; count];
    while !silent(&hanging) {
        assert!(Instant::now() < deadline, "not all programs hung: {hanging:?}");
        gather.drain();
        let round = gather.judge(gather.next_ns().expect("targets")).expect("due");
        if round.group == 0 {
            for (last, outcome) in hanging.iter_mut().zip(round.outcomes) {
                if *outcome != Outcome::Unknown {
                    *last = *outcome;
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // From here on those that hang have a lane of their own.
    let begin = Instant::now();
    let mut answers = 0;
    while answers < 10 {
        assert!(begin.elapsed() < PATIENCE, "{answers} answers");
        gather.drain();
        let round = gather.judge(gather.next_ns().expect("targets")).expect("due");
        if round.group == 1 {
            answers += usize::from(matches!(round.outcomes[0], Outcome::Answered { .. }));
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    // Behind a hanging one each of the ten would have waited for a timeout.
    assert!(begin.elapsed() < 10 * Duration::from_millis(1500), "{:?}", begin.elapsed());
}

async fn run(command: &[&str], user: Option<(u32, u32)>, patience: Duration) -> Result<(), Miss> {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    let check = ExecCheck { command, user };
    let program = exec::probe(&check, "probe", "192.0.2.7".parse().expect("an address"), patience);
    timeout(patience, program).await.unwrap_or(Err(Miss::Silent))
}

#[tokio::test]
async fn the_exit_code_of_a_program_decides() {
    assert_eq!(run(&["/bin/true"], None, PATIENCE).await, Ok(()));
    assert_eq!(run(&["/bin/sh", "-c", "exit 3"], None, PATIENCE).await, Err(Miss::Exit(3)));
    assert_eq!(run(&["/bin/sh", "-c", "kill -9 $$"], None, PATIENCE).await, Err(Miss::Killed));
    assert_eq!(run(&["/nonexistent"], None, PATIENCE).await, Err(Miss::Unsent));
}

#[tokio::test]
async fn a_program_gets_three_variables_and_nothing_else() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("environment");
    let path = file.to_str().expect("plain text");
    assert_eq!(run(&["/bin/cp", "/proc/self/environ", path], None, PATIENCE).await, Ok(()));
    let text = fs::read_to_string(file).expect("written");
    let mut variables: Vec<_> = text.split_terminator('\0').collect();
    variables.sort_unstable();
    assert_eq!(variables, ["WEIR_ADDRESS=192.0.2.7", "WEIR_CHECK=probe", "WEIR_TIMEOUT_MS=30000"]);
}

#[tokio::test]
async fn a_program_that_hangs_is_killed_with_what_it_started() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("pids");
    let path = file.to_str().expect("plain text");
    let script = "sleep 1000 & echo $! $$ > \"$0.new\"; mv \"$0.new\" \"$0\"; wait";
    let ended = run(&["/bin/sh", "-c", script, path], None, Duration::from_millis(1500)).await;
    assert_eq!(ended, Err(Miss::Silent));
    let text = fs::read_to_string(file).expect("the program began in time");
    for pid in text.split_whitespace().map(|pid| pid.parse::<i32>().expect("a number")) {
        let deadline = Instant::now() + PATIENCE;
        let is_running = || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
            stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
        };
        while is_running() {
            assert!(Instant::now() < deadline, "{pid} goes on");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_program_can_run_without_privileges() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let nobody = User::from_name("nobody").expect("a user database").expect("nobody");
    let user = Some((nobody.uid.as_raw(), nobody.gid.as_raw()));
    let script = format!("[ $(id -u) = {} ] && [ \"$(id -G)\" = {} ]", nobody.uid, nobody.gid);
    assert_eq!(run(&["/bin/sh", "-c", &script], user, PATIENCE).await, Ok(()));
    assert_eq!(run(&["/bin/sh", "-c", &script], None, PATIENCE).await, Err(Miss::Exit(1)));
}

#[test]
fn without_a_runtime_these_checks_cannot_run_but_none_is_fine() {
    let program = ExecCheck { command: vec!["/bin/true".into()], user: None };
    let exec = config(&vec![vec![vec![1]]], vec![check(CheckKind::Exec(program), 100)]);
    let targets = Targets::new(&exec);
    let (_gather, reporter) = Gather::new(&targets, 0, takes);
    assert!(matches!(spawn(&targets, &reporter), Err(SlowError::NoRuntime)));
    let tcp = config(&vec![vec![vec![1]]], vec![check(CheckKind::Tcp { port: 80 }, 100)]);
    assert!(spawn(&Targets::new(&tcp), &reporter).expect("nothing to run").is_empty());
}
