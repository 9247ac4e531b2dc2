use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use super::*;
use crate::config::{BackendId, Config};
use crate::health::prober::gather::Gather;
use crate::health::round::Outcome;
use crate::health::testing::{address, check, config};

const DEADLINE: Duration = Duration::from_secs(30);

struct Scene {
    gather: Gather,
    thread: Option<Thread>,
    last: Vec<Outcome>,
    /// Results of each target.
    counts: Vec<u64>,
}

impl Scene {
    fn new(config: &Config) -> Self {
        let targets = Targets::new(config);
        let (gather, reporter) = Gather::new(&targets, monotonic_ns(), takes);
        let thread = spawn(&targets, reporter).expect("a thread");
        let count = targets.targets.len();
        Self { gather, thread, last: vec![Outcome::Unknown; count], counts: vec![0; count] }
    }

    /// Takes results until the condition holds.
    fn until(&mut self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + DEADLINE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what}: {:?} {:?}", self.last, self.counts);
            self.gather.drain();
            let due_ns = self.gather.next_ns().expect("targets are due");
            let round = self.gather.judge(due_ns).expect("due");
            for (index, outcome) in round.outcomes.iter().enumerate() {
                if *outcome != Outcome::Unknown {
                    self.last[index] = *outcome;
                    self.counts[index] += 1;
                }
            }
            std::thread::yield_now();
        }
    }
}

fn tcp(port: u16, backends: usize, timeout: Duration) -> Config {
    let mut config = config(&vec![vec![vec![backends]]], vec![check(CheckKind::Tcp { port }, 10)]);
    config.checks[0].timeout = timeout;
    config
}

fn listen() -> (TcpListener, u16) {
    let open = TcpListener::bind((address(BackendId(0)), 0)).expect("a loopback address");
    let port = open.local_addr().expect("bound").port();
    (open, port)
}

#[test]
fn connections_are_answered_refused_or_cannot_be_made() {
    let (_open, port) = listen();
    let mut config = tcp(port, 3, Duration::from_secs(10));
    // Broadcast is refused by TCP itself, whatever the machine's routes.
    config.backends[2].address = Ipv4Addr::BROADCAST.into();
    let mut scene = Scene::new(&config);
    scene.until("a result of each", |scene| scene.counts.iter().all(|&count| count > 1));
    assert!(matches!(scene.last[0], Outcome::Answered { rtt_ns, .. } if rtt_ns > 0), "{:?}", scene.last);
    assert!(matches!(scene.last[1], Outcome::Missed { how: Miss::Refused, .. }), "{:?}", scene.last);
    let broadcast = scene.last[2];
    assert!(
        matches!(broadcast, Outcome::Missed { how: Miss::Unreachable | Miss::Unsent, .. }),
        "{broadcast:?}"
    );
    assert_eq!(scene.gather.lost(), 0);
}

/// Listeners whose backlog is full: connections to them hang, as they do to a host that went away.
struct Full {
    _listener: TcpListener,
    _queued: Vec<OwnedFd>,
}

fn hang(ip: std::net::IpAddr, port: u16) -> Full {
    let to = SocketAddr::new(ip, port);
    let family = AddressFamily::Inet;
    let socket = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    setsockopt(&socket, sockopt::ReuseAddr, &true).expect("an option");
    nix::sys::socket::bind(socket.as_raw_fd(), &SockaddrStorage::from(to)).expect("the same port elsewhere");
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(0).expect("0")).expect("listening");
    // The kernel takes one more than the backlog; the second one shows that it is full by not getting through.
    let queued = (0..2).map(|_| begin_connect(to).expect("begun").0).collect();
    Full { _listener: socket.into(), _queued: queued }
}

#[test]
fn targets_that_hang_are_silent_and_delay_no_other() {
    let (_open, port) = listen();
    let hanging: Vec<_> = (1..40).map(|index| hang(address(BackendId(index)), port)).collect();
    let timeout = Duration::from_millis(2000);
    let mut scene = Scene::new(&tcp(port, 40, timeout));
    let begin = Instant::now();
    // The one that answers is probed every 10 ms; if it waited for a hanging one even once, it would take longer.
    scene.until("twenty answers", |scene| scene.counts[0] >= 20);
    assert!(begin.elapsed() < timeout, "answers waited for others' timeouts: {:?}", begin.elapsed());
    assert!(scene.counts[1..].iter().all(|&count| count == 0), "{:?}", scene.counts);
    scene.until("timeouts of all that hang", |scene| scene.counts[1..].iter().all(|&count| count > 0));
    for outcome in &scene.last[1..] {
        assert!(matches!(outcome, Outcome::Missed { how: Miss::Silent, .. }), "{outcome:?}");
    }
    drop(hanging);
}

#[test]
fn a_connection_is_reset_and_leaves_nothing_behind() {
    let (open, port) = listen();
    let mut scene = Scene::new(&tcp(port, 1, Duration::from_secs(10)));
    scene.until("an answer", |scene| scene.counts[0] > 0);
    let (mut connection, _) = open.accept().expect("a probe's connection");
    let read = std::io::Read::read(&mut connection, &mut [0; 1]);
    assert_eq!(read.expect_err("no orderly end").kind(), io::ErrorKind::ConnectionReset);
}

#[test]
fn the_thread_ends_when_it_is_dropped_and_when_nobody_listens() {
    let (_open, port) = listen();
    let mut scene = Scene::new(&tcp(port, 1, Duration::from_secs(10)));
    scene.until("an answer", |scene| scene.counts[0] > 0);
    drop(scene.thread.take().expect("a thread"));
    // The thread's end of the channel is gone once it has ended.
    let deadline = Instant::now() + DEADLINE;
    while !scene.gather.is_abandoned() {
        assert!(Instant::now() < deadline, "the thread goes on");
        std::thread::yield_now();
    }
}

#[test]
fn what_needs_no_socket_starts_no_thread() {
    let config = config(&vec![vec![vec![1]]], vec![check(CheckKind::Heartbeat { port: 6777 }, 10)]);
    let targets = Targets::new(&config);
    let (gather, reporter) = Gather::new(&targets, 0, takes);
    assert!(spawn(&targets, reporter).expect("nothing to start").is_none());
    assert_eq!(gather.next_ns(), None);
}

#[test]
fn more_targets_than_the_limit_are_refused_by_name() {
    let error = make_room(MAX_EXCHANGES + 1).expect_err("one too many");
    assert!(error.to_string().contains("MAX_EXCHANGES = 32768"), "{error}");
}

/// What a backend answers to a datagram; nothing if that is empty.
type Answers = fn(&[u8]) -> Vec<u8>;

/// A UDP service on a loopback address, which ends with the test's process.
fn answer(ip: std::net::IpAddr, port: u16, answers: Answers) {
    let socket = std::net::UdpSocket::bind((ip, port)).expect("the same port");
    std::thread::spawn(move || {
        let mut datagram = [0; 2048];
        while let Ok((length, from)) = socket.recv_from(&mut datagram) {
            let answer = answers(&datagram[..length]);
            if !answer.is_empty() {
                let _ = socket.send_to(&answer, from);
            }
        }
    });
}

fn outcomes(kind: CheckKind, services: &[(u16, Answers)], backends: usize) -> Vec<Option<Miss>> {
    let port = kind.port();
    for &(backend, answers) in services {
        answer(address(BackendId(backend)), port, answers);
    }
    let mut config = config(&vec![vec![vec![backends]]], vec![check(kind, 10)]);
    config.checks[0].timeout = Duration::from_millis(700);
    let mut scene = Scene::new(&config);
    scene.until("a result of each", |scene| scene.counts.iter().all(|&count| count > 1));
    let how = |outcome: &Outcome| match outcome {
        Outcome::Missed { how, .. } => Some(*how),
        _ => None,
    };
    scene.last.iter().map(how).collect()
}

fn free_udp_port() -> u16 {
    let socket = std::net::UdpSocket::bind((address(BackendId(0)), 0)).expect("a loopback address");
    socket.local_addr().expect("bound").port()
}

#[test]
fn datagrams_are_answered_rightly_wrongly_not_at_all_or_refused() {
    let check = UdpCheck {
        port: free_udp_port(),
        send: b"PING\xff".to_vec(),
        expect: Some(b"PONG\xff".to_vec()),
        anywhere: false,
    };
    let services: [(u16, Answers); 3] = [
        (0, |asked| if asked == b"PING\xff" { b"PONG\xff!".to_vec() } else { b"?".to_vec() }),
        (1, |_| b"ERR".to_vec()),
        (2, |_| Vec::new()),
    ];
    assert_eq!(
        outcomes(CheckKind::Udp(check), &services, 4),
        [None, Some(Miss::Wrong), Some(Miss::Silent), Some(Miss::Refused)]
    );
}

#[test]
fn a_dns_answer_must_be_to_this_query_and_with_the_expected_code() {
    let check =
        DnsCheck { port: free_udp_port(), query: "www.example".to_owned(), record: 1, rcode: Some(0) };
    let services: [(u16, Answers); 4] = [
        (0, |asked| {
            let mut answer = asked.to_vec();
            answer[2] |= 0x80;
            answer
        }),
        (1, |asked| {
            let mut answer = asked.to_vec();
            answer[2] |= 0x80;
            answer[3] = 3;
            answer
        }),
        // Another id: not an answer to this query, so it is waited for the right one.
        (2, |asked| {
            let mut answer = asked.to_vec();
            answer[0] ^= 1;
            answer[2] |= 0x80;
            answer
        }),
        (3, |_| Vec::new()),
    ];
    assert_eq!(
        outcomes(CheckKind::Dns(check), &services, 4),
        [None, Some(Miss::Wrong), Some(Miss::Wrong), Some(Miss::Silent)]
    );
}

/// A process of a test, ended with it.
struct Server(std::process::Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_real_name_server_is_believed_by_its_code() {
    let ip = Ipv4Addr::new(127, 7, 8, 1);
    let socket = std::net::UdpSocket::bind((ip, 0)).expect("a loopback address");
    let port = socket.local_addr().expect("bound").port();
    drop(socket);
    let child = std::process::Command::new("dnsmasq")
        .args([
            "--no-daemon",
            "--conf-file=/dev/null",
            "--no-resolv",
            "--no-hosts",
            "--bind-interfaces",
            "--user=root",
        ])
        .args([format!("--port={port}"), format!("--listen-address={ip}")])
        .args(["--pid-file=", "--local=/example/", "--address=/web.example/192.0.2.80"])
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("dnsmasq is installed");
    let _server = Server(child);
    let ask = |query: &str, rcode| {
        let check = DnsCheck { port, query: query.to_owned(), record: 1, rcode };
        let mut config = config(&vec![vec![vec![1]]], vec![check_of(CheckKind::Dns(check))]);
        config.backends[0].address = ip.into();
        let mut scene = Scene::new(&config);
        // It may not listen yet.
        let is_settled = |scene: &Scene| match scene.last[0] {
            Outcome::Answered { .. } => true,
            Outcome::Missed { how, .. } => how == Miss::Wrong,
            Outcome::Unknown => false,
        };
        scene.until("an answer", is_settled);
        matches!(scene.last[0], Outcome::Answered { .. })
    };
    assert!(ask("web.example", Some(0)));
    assert!(ask("Nobody.Example", Some(3)), "NXDOMAIN is what is expected");
    assert!(!ask("nobody.example", Some(0)), "NXDOMAIN is not what is expected");
    assert!(ask("elsewhere.test", None), "whatever it says, it answers");
    assert!(ask("elsewhere.test", Some(5)), "a server without an upstream refuses");
}

fn check_of(kind: CheckKind) -> crate::config::Check {
    let mut check = check(kind, 10);
    check.timeout = Duration::from_secs(5);
    check
}
