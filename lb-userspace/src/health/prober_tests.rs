use std::collections::HashMap;
use std::io::ErrorKind;
use std::time::{Duration, Instant};

use lb_common::abi::heartbeat::{REQUEST, STATUS_UNWELL};

use std::net::{IpAddr, UdpSocket};

use lb_common::abi::pod::Pod;

use super::*;
use crate::config::{BackendId, Config};
use crate::health::round::Miss;
use crate::health::testing::{address, check, config};

/// Far longer than any test takes, so that rounds are judged only when a test says that it is time.
const INTERVAL_MS: u64 = 100_000;
const INTERVAL_NS: u64 = INTERVAL_MS * 1_000_000;
const DEADLINE: Duration = Duration::from_secs(20);

/// Backends on loopback addresses that answer when they are told to.
struct Scene {
    prober: Prober,
    cpus: Cpus,
    backends: Vec<UdpSocket>,
    requests: HashMap<usize, (Heartbeat, SocketAddr)>,
    start_ns: u64,
}

fn open_backends(count: usize) -> (Vec<UdpSocket>, u16) {
    let ip = |index: usize| address(BackendId::from_index(index).expect("few"));
    let first = UdpSocket::bind((ip(0), 0)).expect("a loopback address");
    let port = first.local_addr().expect("bound").port();
    let others = (1..count).map(|index| UdpSocket::bind((ip(index), port)).expect("the same port elsewhere"));
    let all: Vec<_> = std::iter::once(first).chain(others).collect();
    for socket in &all {
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    }
    (all, port)
}

impl Scene {
    /// Sends the first round to `count` backends and takes the requests.
    fn new(count: usize) -> Self {
        let (backends, port) = open_backends(count);
        let targets = Targets::new(&heartbeat_config(count, port));
        let prober = Prober::new(&targets).expect("sockets");
        let start_ns = prober.next_ns().expect("heartbeats are due");
        let cpus = Cpus::none().expect("a descriptor");
        let mut scene = Self { prober, cpus, backends, requests: HashMap::new(), start_ns };
        scene.send(start_ns);
        scene
    }

    fn send(&mut self, now_ns: u64) {
        // A large round goes out in several turns.
        for _ in 0..=self.backends.len() / PROBES_PER_TURN {
            self.prober.send(now_ns);
        }
        for (index, backend) in self.backends.iter().enumerate() {
            let mut datagram = [0; 100];
            let (length, from) = backend.recv_from(&mut datagram).expect("a request before the deadline");
            let request = Heartbeat::from_bytes(&datagram[..length]).expect("the size of a heartbeat");
            assert_eq!((request.magic, request.version, request.kind), (MAGIC, VERSION, REQUEST));
            self.requests.insert(index, (request, from));
        }
    }

    fn reply(&self, backend: usize) -> Heartbeat {
        Heartbeat { kind: REPLY, ..self.requests[&backend].0 }
    }

    /// Sends a datagram from a backend, and waits until the prober has taken it.
    fn answer(&mut self, backend: usize, datagram: &[u8]) {
        let before = taken(&self.prober);
        self.backends[backend].send_to(datagram, self.requests[&backend].1).expect("sent");
        let deadline = Instant::now() + DEADLINE;
        while taken(&self.prober) == before {
            assert!(Instant::now() < deadline, "the answer did not arrive");
            self.prober.drain();
        }
    }

    /// Judges the round that was sent at this moment, when its answers are due.
    fn judge_sent(&mut self, sent_ns: u64) -> Vec<Outcome> {
        self.judge_at(sent_ns + INTERVAL_NS).expect("a round is due")
    }

    fn judge_at(&mut self, now_ns: u64) -> Option<Vec<Outcome>> {
        self.prober.judge(now_ns, &mut self.cpus).map(|round| round.outcomes.to_vec())
    }

    /// Judges the first round.
    fn judge(&mut self) -> Vec<Outcome> {
        self.judge_sent(self.start_ns)
    }
}

/// Datagrams that the prober took out of its sockets.
fn taken(prober: &Prober) -> u64 {
    let status = prober.status();
    status.answers + status.late_answers + status.duplicate_answers + status.invalid_answers
}

fn heartbeat_config(count: usize, port: u16) -> Config {
    config(&vec![vec![vec![count]]], vec![check(CheckKind::Heartbeat { port }, INTERVAL_MS)])
}

fn how(outcome: Outcome) -> Option<Miss> {
    match outcome {
        Outcome::Missed { how, .. } => Some(how),
        Outcome::Answered { .. } => None,
        Outcome::Unknown => panic!("every probe of a round has an end"),
    }
}

#[test]
fn answers_are_taken_and_silence_and_unwellness_are_misses() {
    let mut scene = Scene::new(3);
    let answer = scene.reply(0);
    scene.answer(0, answer.as_bytes());
    let unwell = Heartbeat { status: STATUS_UNWELL, ..scene.reply(1) };
    scene.answer(1, unwell.as_bytes());
    let outcomes = scene.judge();
    assert_eq!(
        outcomes.iter().copied().map(how).collect::<Vec<_>>(),
        [None, Some(Miss::Unwell), Some(Miss::Silent)]
    );
    assert!(matches!(outcomes[0], Outcome::Answered { rtt_ns, .. } if rtt_ns > 0));
    assert!(scene.judge_at(scene.start_ns + 2 * INTERVAL_NS).is_none(), "a round is judged once");
    assert_eq!(scene.prober.status().sent, 3);
}

#[test]
fn what_is_no_answer_to_this_probe_is_refused() {
    let mut scene = Scene::new(2);
    let good = scene.reply(0);
    let foreign = [
        Heartbeat { nonce: [0; 8], ..good },
        Heartbeat { magic: *b"WEIB", ..good },
        Heartbeat { version: VERSION + 1, ..good },
        Heartbeat { kind: REQUEST, ..good },
        Heartbeat { target: 1u64.to_be_bytes(), ..good },
        Heartbeat { target: u64::MAX.to_be_bytes(), ..good },
        Heartbeat { round: 2u64.to_be_bytes(), ..good },
    ];
    for heartbeat in foreign {
        scene.answer(0, heartbeat.as_bytes());
    }
    scene.answer(0, &good.as_bytes()[..31]);
    scene.answer(0, &[good.as_bytes(), &[0]].concat());
    // The right answer from the wrong host.
    scene.requests.insert(1, scene.requests[&0]);
    scene.answer(1, good.as_bytes());
    assert_eq!(scene.prober.status().invalid_answers, foreign.len() as u64 + 3);
    assert_eq!(scene.judge().into_iter().map(how).collect::<Vec<_>>(), [Some(Miss::Silent); 2]);
}

#[test]
fn an_answer_after_judgement_is_late_and_one_that_comes_twice_counts_once() {
    let mut scene = Scene::new(2);
    let (first, second) = (scene.reply(0), scene.reply(1));
    scene.answer(0, first.as_bytes());
    scene.answer(0, first.as_bytes());
    assert_eq!(scene.prober.status().duplicate_answers, 1);
    scene.judge();
    scene.send(scene.start_ns + INTERVAL_NS);
    scene.answer(1, second.as_bytes());
    assert_eq!(scene.prober.status().late_answers, 1);
    let outcomes = scene.judge_sent(scene.start_ns + INTERVAL_NS);
    assert_eq!(outcomes.into_iter().map(how).collect::<Vec<_>>(), [Some(Miss::Silent); 2]);
}

#[test]
fn all_that_waits_is_taken_before_a_round_is_judged() {
    let count = 2 * BATCH + 3;
    let mut scene = Scene::new(count);
    for backend in 0..count {
        // Over the loopback interface it lies in the socket when this returns.
        scene.backends[backend]
            .send_to(scene.reply(backend).as_bytes(), scene.requests[&backend].1)
            .expect("sent");
    }
    scene.prober.drain();
    assert_eq!(scene.prober.status().answers, count as u64);
    assert!(scene.judge().into_iter().all(|outcome| how(outcome).is_none()));
}

#[test]
fn nonces_differ_by_target_and_round_and_start() {
    let mut scene = Scene::new(2);
    let other = Scene::new(2);
    let mut nonces = vec![scene.requests[&0].0.nonce, scene.requests[&1].0.nonce, other.requests[&0].0.nonce];
    scene.send(scene.start_ns + INTERVAL_NS);
    nonces.push(scene.requests[&0].0.nonce);
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 4);
}

#[test]
fn a_prober_that_is_late_itself_waits_once_more() {
    let mut scene = Scene::new(2);
    let (first, second) = (scene.reply(0), scene.reply(1));
    scene.answer(0, first.as_bytes());
    let late_ns = scene.start_ns + 3 * INTERVAL_NS;
    assert_eq!(scene.judge_at(late_ns), None, "it blames nobody");
    scene.answer(1, second.as_bytes());
    let outcomes = scene.judge_at(late_ns).expect("all have answered");
    assert!(matches!(outcomes[..], [Outcome::Answered { .. }, Outcome::Answered { .. }]), "{outcomes:?}");
    let status = scene.prober.status();
    assert_eq!((status.late_rounds, status.stalled_rounds), (1, 1));
    // Nor does it send the rounds that it missed.
    scene.send(late_ns);
    assert_eq!(scene.prober.status().missed_ticks, 2);
    assert_eq!(scene.prober.status().sent, 4);
}

#[test]
fn rounds_overlap_when_the_timeout_is_longer_than_the_interval() {
    let (backends, port) = open_backends(1);
    let mut config = heartbeat_config(1, port);
    config.checks[0].timeout = Duration::from_millis(3 * INTERVAL_MS);
    let prober = Prober::new(&Targets::new(&config)).expect("sockets");
    let start_ns = prober.next_ns().expect("due");
    let cpus = Cpus::none().expect("a descriptor");
    let mut scene = Scene { prober, cpus, backends, requests: HashMap::new(), start_ns };
    scene.send(start_ns);
    let first = scene.reply(0);
    scene.send(start_ns + INTERVAL_NS);
    scene.send(start_ns + 2 * INTERVAL_NS);
    assert!(scene.judge_at(start_ns + 2 * INTERVAL_NS).is_none(), "the first answer is not due yet");
    scene.answer(0, first.as_bytes());
    let due_ns = start_ns + 3 * INTERVAL_NS + INTERVAL_NS / 2;
    let outcomes = scene.judge_at(due_ns).expect("the first round is due");
    assert!(matches!(outcomes[..], [Outcome::Answered { .. }]));
    assert!(scene.judge_at(due_ns).is_none());
}

#[test]
fn too_many_rounds_in_flight_are_refused() {
    let mut config = heartbeat_config(1, 6777);
    config.checks[0].timeout = Duration::from_millis(63 * INTERVAL_MS);
    let error = Prober::new(&Targets::new(&config)).expect_err("too many");
    assert!(error.to_string().contains("check6777"), "{error}");
}

#[test]
fn what_cannot_be_sent_is_a_miss() {
    let mut config = heartbeat_config(2, 6777);
    // Broadcast without SO_BROADCAST: refused on any machine, whatever its routes.
    config.backends[1].address = IpAddr::V4(Ipv4Addr::BROADCAST);
    let mut prober = Prober::new(&Targets::new(&config)).expect("sockets");
    let start_ns = prober.next_ns().expect("due");
    prober.send(start_ns);
    assert_eq!(prober.status().send_errors, 1);
    let mut cpus = Cpus::none().expect("a descriptor");
    let round = prober.judge(start_ns + INTERVAL_NS, &mut cpus).expect("due");
    assert_eq!(
        round.outcomes.iter().copied().map(how).collect::<Vec<_>>(),
        [Some(Miss::Silent), Some(Miss::Unsent)]
    );
}

#[test]
fn ipv6_backends_are_probed_too() {
    let backend = match UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)) {
        Ok(backend) => backend,
        // A machine without IPv6 has nothing to test here.
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => return,
        Err(error) => panic!("{error}"),
    };
    backend.set_read_timeout(Some(DEADLINE)).expect("a timeout");
    let port = backend.local_addr().expect("bound").port();
    let mut config = heartbeat_config(1, port);
    config.backends[0].address = IpAddr::V6(Ipv6Addr::LOCALHOST);
    let prober = Prober::new(&Targets::new(&config)).expect("sockets");
    let start_ns = prober.next_ns().expect("due");
    let cpus = Cpus::none().expect("a descriptor");
    let mut scene = Scene { prober, cpus, backends: vec![backend], requests: HashMap::new(), start_ns };
    scene.send(start_ns);
    let answer = scene.reply(0);
    scene.answer(0, answer.as_bytes());
    assert_eq!(scene.judge().into_iter().map(how).collect::<Vec<_>>(), [None]);
}

/// Until the kernel has answered, which it does by itself: loopback addresses are hosts.
fn echo_outcomes(addresses: &[IpAddr]) -> Vec<Option<Miss>> {
    let mut config = config(&vec![vec![vec![addresses.len()]]], vec![check(CheckKind::Icmp, INTERVAL_MS)]);
    for (backend, address) in config.backends.iter_mut().zip(addresses) {
        backend.address = *address;
    }
    let mut prober = Prober::new(&Targets::new(&config)).expect("sockets");
    let start_ns = prober.next_ns().expect("due");
    prober.send(start_ns);
    let answering = addresses.iter().filter(|address| address.is_loopback()).count() as u64;
    let deadline = Instant::now() + DEADLINE;
    while prober.status().answers < answering {
        assert!(Instant::now() < deadline, "{:?}", prober.status());
        prober.drain();
    }
    assert_eq!(prober.status().invalid_answers, 0);
    let mut cpus = Cpus::none().expect("a descriptor");
    let round = prober.judge(start_ns + INTERVAL_NS, &mut cpus).expect("due");
    round.outcomes.iter().copied().map(how).collect()
}

#[test]
fn echo_requests_are_answered_by_hosts_and_by_nobody_else() {
    let v4 = |last| IpAddr::V4(Ipv4Addr::new(127, 9, 9, last));
    let broadcast = IpAddr::V4(Ipv4Addr::BROADCAST);
    assert_eq!(echo_outcomes(&[v4(1), broadcast, v4(2)]), [None, Some(Miss::Unsent), None]);
    let has_v6 = UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).is_ok();
    if has_v6 {
        assert_eq!(echo_outcomes(&[v4(1), Ipv6Addr::LOCALHOST.into()]), [None; 2]);
    }
}

#[test]
fn targets_are_shared_by_address_and_way_of_probing() {
    let mut config = heartbeat_config(3, 6777);
    config.backends[2].address = config.backends[0].address;
    let targets = Targets::new(&config);
    assert_eq!(targets.targets.len(), 2);
    assert_eq!(targets.of_backend, [vec![0], vec![1], vec![0]]);
    assert_eq!(targets.targets[0].backends, [BackendId(0), BackendId(2)]);
    // The same way of probing under another name is the same; another pace is not.
    config.checks.push(crate::config::Check { name: "again".to_owned(), ..config.checks[0].clone() });
    config.sets[0].checks.push(crate::config::CheckId(1));
    assert_eq!(Targets::new(&config).targets.len(), 2);
    config.checks[1].fall = 5;
    assert_eq!(Targets::new(&config).targets.len(), 4);
}
