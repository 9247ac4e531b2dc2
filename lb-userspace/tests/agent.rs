//! The agent answers heartbeats and decapsulates, in the kernel. Needs root.

mod namespace;

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use lb_common::abi::agent::DEFAULT_GUE_PORT;
use lb_common::abi::heartbeat::{DEFAULT_PORT, Heartbeat, REPLY};
use lb_common::abi::pod::Pod;
use lb_userspace::config::{IpPrefix, XdpMode};
use lb_userspace::runtime::agent::{Agent, AgentOptions};
use namespace::{Namespace, run, with_namespace};

const OWN: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
const PEER: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);

fn options() -> AgentOptions {
    AgentOptions {
        interface: "e0".to_owned(),
        addresses: vec![IpAddr::V4(OWN)],
        heartbeat_port: DEFAULT_PORT,
        gue_port: DEFAULT_GUE_PORT,
        sources: Vec::new(),
        mode: XdpMode::Generic,
        stats_interval: None,
    }
}

fn network(namespace: &Namespace) {
    namespace.veth("e0", "p0", 0);
    run(&format!("ip addr add {OWN}/24 dev e0"));
    namespace.run(&format!("ip addr add {PEER}/24 dev p0"));
}

/// Sends a heartbeat from the peer and waits for the reply.
fn heartbeat() -> Option<Heartbeat> {
    let socket = UdpSocket::bind((PEER, 0)).unwrap();
    socket.connect((OWN, DEFAULT_PORT)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut reply = [0; size_of::<Heartbeat>()];
    // The first packet may wait for ARP longer than one timeout.
    for _ in 0..4 {
        socket.send(Heartbeat::request(7, 8, 9).as_bytes()).unwrap();
        if socket.recv(&mut reply).is_ok() {
            return Heartbeat::from_bytes(&reply);
        }
    }
    None
}

fn count(agent: &Agent, name: &str) -> u64 {
    let counters = agent.counters().unwrap();
    counters.iter().find(|(n, ..)| *n == name).map(|(_, packets, _)| *packets).unwrap()
}

#[test]
fn heartbeats_are_answered_until_the_agent_goes() {
    with_namespace(|namespace| {
        network(namespace);
        let agent = Agent::start(&options()).unwrap();
        let reply = namespace.in_peer(heartbeat).expect("a reply");
        assert_eq!(Heartbeat { kind: REPLY, ..Heartbeat::request(7, 8, 9) }, reply);
        assert!(count(&agent, "heartbeat_answered") >= 1);
        drop(agent);
        assert!(namespace.in_peer(heartbeat).is_none());
    });
}

#[test]
fn only_the_given_sources_are_answered() {
    with_namespace(|namespace| {
        network(namespace);
        let sources =
            |text: &str| AgentOptions { sources: vec![IpPrefix::parse(text).unwrap()], ..options() };
        let agent = Agent::start(&sources("10.2.0.0/16")).unwrap();
        assert!(namespace.in_peer(heartbeat).is_none());
        assert!(count(&agent, "source_refused") >= 1);
        drop(agent);
        let _agent = Agent::start(&sources("10.1.0.0/16")).unwrap();
        assert!(namespace.in_peer(heartbeat).is_some());
    });
}

#[test]
fn bad_options_are_refused() {
    with_namespace(|namespace| {
        network(namespace);
        let refused = |options: AgentOptions| match Agent::start(&options) {
            Ok(_) => panic!("started"),
            Err(error) => format!("{error:#}"),
        };
        assert!(refused(AgentOptions { addresses: Vec::new(), ..options() }).contains("--address"));
        let error = refused(AgentOptions { interface: "e9".to_owned(), ..options() });
        assert!(error.contains("`e9`") && error.contains("e0"), "{error}");
        let _agent = Agent::start(&options()).unwrap();
        assert!(refused(options()).contains("already runs another XDP program"));
    });
}

/// Whoever reads the counters may go away; the program must not.
#[test]
fn a_closed_standard_output_does_not_detach_the_agent() {
    with_namespace(|namespace| {
        network(namespace);
        let mut agent = Command::new(env!("CARGO_BIN_EXE_weir"))
            .args(["agent", "--interface", "e0", "--address", &OWN.to_string()])
            .args(["--mode", "generic", "--stats-interval", "100ms"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut counters = BufReader::new(agent.stdout.take().unwrap());
        let mut line = String::new();
        counters.read_line(&mut line).unwrap();
        assert!(line.contains("heartbeat_answered"), "{line}");
        drop(counters);
        let log = BufReader::new(agent.stderr.take().unwrap());
        let told = log.lines().map_while(Result::ok).any(|line| line.contains("cannot print the counters"));
        let reply = namespace.in_peer(heartbeat);
        let ended = agent.try_wait().unwrap();
        agent.kill().unwrap();
        agent.wait().unwrap();
        assert!(told, "the agent ended without a word");
        assert!(ended.is_none(), "the agent ended: {ended:?}");
        assert!(reply.is_some(), "no reply to a heartbeat");
    });
}
