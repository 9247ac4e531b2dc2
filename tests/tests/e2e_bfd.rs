//! BFD with BIRD and FRR: sessions come up; a daemon that is killed, one that is frozen and a link that is cut are each seen, over
//! one hop and over several; a reload goes on with the sessions as they are; packets that lie are discarded with a reason.
use lb_tests::{
    e2e,
    lab::{Check, ConfigOptions, Cut, Daemon, Lab, Running},
};
use lb_userspace::{
    api::types::{BackendView, BfdSessionView, Reloaded, Status},
    health::bfd::packet,
    plan::state::State,
    telemetry::event::{Event, EventKind},
};
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, UdpSocket},
};

/// Interval of all sessions in milliseconds: slow enough for a peer without real-time priority on a busy machine, unless
/// `WEIR_TEST_BFD_MS` says otherwise.
fn interval_ms() -> u32 {
    std::env::var("WEIR_TEST_BFD_MS").ok().and_then(|text| text.parse().ok()).unwrap_or(100)
}

/// Until a backend came into a state since a moment.
#[track_caller]
fn wait_backend(daemon: &Daemon<'_>, name: &str, to: State, since_ns: u64) -> Event {
    e2e::eventually(&format!("{name} is {}", to.name()), || {
        let events = e2e::events_since(daemon, since_ns);
        let is_it = |event: &&Event| {
            event.kind == EventKind::BackendState && event.subject == name && event.to == Some(to)
        };
        let found = events.iter().find(is_it).cloned();
        anyhow::ensure!(found.is_some(), "{events:#?}");
        Ok(found.expect("was just looked at"))
    })
}

#[track_caller]
fn wait_sessions_up(daemon: &Daemon<'_>, check: &str) {
    e2e::eventually("every session is up", || {
        let backends: Vec<BackendView> = e2e::ask(daemon, &["backend", "list"]);
        let checks = backends.iter().flat_map(|b| b.checks.iter().map(move |c| (&b.name, c)));
        for (name, check) in checks.filter(|(_, c)| c.name == check) {
            anyhow::ensure!(check.last == "answered", "{name}: {}", check.last);
        }
        Ok(())
    });
}

fn sessions(daemon: &Daemon<'_>) -> Vec<BfdSessionView> {
    e2e::ask(daemon, &["bfd", "list"])
}

/// A reload changes the intervals and takes one backend out: the other sessions go on, and neither side says that they were down.
fn a_reload_goes_on_with_its_sessions(lab: &Lab, daemon: &Daemon<'_>) {
    let (since_ns, before) = (e2e::now_ns(), sessions(daemon));
    assert_eq!(before.len(), 4);
    for session in &before {
        assert_eq!((session.state, session.flaps, &session.awaited), (packet::State::Up, 0, &None));
        assert_eq!((session.multihop, session.multiplier), (true, 3), "{session:?}");
        assert_eq!(session.remote.as_ref().map(|remote| remote.state), Some(packet::State::Up));
        assert_eq!(session.detection_us, Some(u64::from(3_000 * interval_ms())));
    }
    let slower = interval_ms() * 2;
    let text = format!("kind = \"bfd\"\nmultihop = true\ninterval = \"{slower}ms\"\nmultiplier = 3");
    let without = ["w1r1b2".to_owned()].into();
    lab.write_config(&ConfigOptions { check: Check::Text(text), without, ..e2e::calm() }).unwrap();
    assert!(e2e::ask::<Reloaded>(daemon, &["reload"]).changed);
    let after = e2e::eventually("the sessions are taken over, and peers know of the new interval", || {
        let after = sessions(daemon);
        let is_slower = |session: &BfdSessionView| session.tx_interval_us == slower * 1_000;
        anyhow::ensure!(after.len() == 3 && after.iter().all(is_slower), "{after:#?}");
        Ok(after)
    });
    for session in &after {
        let before = before.iter().find(|before| before.backends == session.backends).unwrap();
        assert_eq!((session.state, session.flaps), (packet::State::Up, 0), "{session:#?}");
        assert_eq!(session.discriminator, before.discriminator);
        assert_eq!(
            session.remote.as_ref().map(|remote| remote.discriminator),
            before.remote.as_ref().map(|remote| remote.discriminator)
        );
        // A moment that was computed from an age.
        assert!(session.since.duration_since(before.since).abs().as_millis() < 1_000);
    }
    // And back: the session that ended begins anew, the others never did.
    lab.write_config(&multihop()).unwrap();
    assert!(e2e::ask::<Reloaded>(daemon, &["reload"]).changed);
    wait_sessions_up(daemon, "alive");
    for session in sessions(daemon) {
        let was = after.iter().find(|before| before.backends == session.backends);
        assert_eq!((session.state, session.flaps), (packet::State::Up, 0), "{session:#?}");
        assert_eq!(was.is_some(), session.backends != ["w1r1b2"]);
        assert!(was.is_none_or(|was| was.discriminator == session.discriminator));
    }
    let events = e2e::events_since(daemon, since_ns);
    let is_state = |event: &&Event| matches!(event.kind, EventKind::BackendState | EventKind::DomainState);
    assert_eq!(events.iter().filter(is_state).count(), 0, "{events:#?}");
}

/// Milliseconds from a fault to its store.
fn report(what: &str, fault_ns: u64, event: &Event) {
    let stored_ns = event.stored_ns.unwrap_or(event.monotonic_ns);
    eprintln!(
        "{what}: {:.1} ms to the store ({})",
        stored_ns.saturating_sub(fault_ns) as f64 / 1e6,
        event.cause
    );
}

fn multihop() -> ConfigOptions {
    let text = format!("kind = \"bfd\"\nmultihop = true\ninterval = \"{}ms\"\nmultiplier = 3", interval_ms());
    ConfigOptions { check: Check::Text(text), ..e2e::calm() }
}

/// BIRD on a backend, with a session over the router to the edge.
fn bird(lab: &Lab, name: &str) -> Running {
    let (backend, edge) = (lab.topology().backend(name).unwrap(), &lab.topology().edges[0]);
    start_bird(lab, name, backend.v4.into(), edge.v4.into())
}

fn start_bird(lab: &Lab, name: &str, local: IpAddr, edge: IpAddr) -> Running {
    lab.start_bird(lab.backend_netns(name).unwrap(), local, edge, true, interval_ms()).unwrap()
}

#[test]
fn over_ipv6_sessions_come_up_and_fail_too() {
    let lab = e2e::raise_rack(2);
    let edge = lab.topology().edges[0].v6;
    let start = |name: &str| {
        let backend = lab.topology().backend(name).unwrap();
        start_bird(&lab, name, backend.v6.into(), edge.into())
    };
    let (first, _second) = (start("w1r1b1"), start("w1r1b2"));
    let daemon = e2e::start(&lab, &ConfigOptions { v6_endpoints: true, ..multihop() });
    wait_sessions_up(&daemon, "alive");
    let fault_ns = e2e::now_ns();
    first.kill().unwrap();
    let down = wait_backend(&daemon, "w1r1b1", State::Down, fault_ns);
    report("killed, multihop, IPv6", fault_ns, &down);
    let again = start("w1r1b1");
    wait_backend(&daemon, "w1r1b1", State::Up, down.monotonic_ns);
    drop(again);
}

#[test]
fn over_several_hops_a_killed_and_a_frozen_peer_and_a_cut_rack_are_seen() {
    let lab = Lab::builder().regions(&["west"]).zones(1).raise().unwrap_or_else(|error| panic!("{error:#}"));
    lab.start_agents().unwrap();
    let mut birds: BTreeMap<_, _> =
        lab.topology().backend_names().into_iter().map(|name| (name.clone(), bird(&lab, &name))).collect();
    let daemon = e2e::start(&lab, &multihop());
    wait_sessions_up(&daemon, "alive");
    a_reload_goes_on_with_its_sessions(&lab, &daemon);

    let fault_ns = e2e::now_ns();
    birds["w1r1b1"].kill().unwrap();
    let down = wait_backend(&daemon, "w1r1b1", State::Down, fault_ns);
    assert!(down.cause.contains("BFD session down: detection time expired"), "{}", down.cause);
    report("killed, multihop", fault_ns, &down);
    birds.insert("w1r1b1".to_owned(), bird(&lab, "w1r1b1"));
    wait_backend(&daemon, "w1r1b1", State::Up, down.monotonic_ns);

    let fault_ns = e2e::now_ns();
    birds["w1r2b2"].freeze().unwrap();
    let down = wait_backend(&daemon, "w1r2b2", State::Down, fault_ns);
    assert!(down.cause.contains("BFD session down"), "{}", down.cause);
    report("frozen, multihop", fault_ns, &down);
    let shown: Vec<BfdSessionView> = e2e::ask(&daemon, &["bfd", "show", "w1r2b2"]);
    assert_eq!((shown.len(), shown[0].state, shown[0].flaps), (1, packet::State::Down, 1), "{shown:#?}");
    assert!(shown[0].cause.is_some() && shown[0].awaited.is_none(), "{shown:#?}");
    let counts = e2e::status(&daemon).control.bfd_sessions.expect("there are sessions");
    assert_eq!((counts.down, counts.total()), (1, 4));
    let thaw_ns = e2e::now_ns();
    birds["w1r2b2"].thaw().unwrap();
    let up = wait_backend(&daemon, "w1r2b2", State::Up, down.monotonic_ns);
    report("thawed, multihop", thaw_ns, &up);
    e2e::wait_all_up(&daemon);
    wait_sessions_up(&daemon, "alive");

    // A whole rack: its members miss together, so it is the rack that is suspect, and then down, with one store each.
    for cut in [Cut::Drop, Cut::Link] {
        let fault = lab.cut("west/w1/r2", cut).unwrap();
        let suspect = e2e::wait_for_domain(&daemon, "west/w1/r2", State::Suspect, fault.begin_ns);
        let down = e2e::wait_for_domain(&daemon, "west/w1/r2", State::Down, fault.begin_ns);
        report("rack cut, multihop, SUSPECT", fault.begin_ns, &suspect);
        report("rack cut, multihop, DOWN", fault.begin_ns, &down);
        assert_eq!(e2e::changed_domains(&daemon, fault.begin_ns).len(), 1);
        lab.restore("west/w1/r2").unwrap();
        e2e::wait_for_domain(&daemon, "west/w1/r2", State::Up, down.monotonic_ns);
        e2e::wait_all_up(&daemon);
        wait_sessions_up(&daemon, "alive");
    }
}

/// A link of its own between the edge and a backend, so that one hop is all there is.
const EDGE_END: Ipv4Addr = Ipv4Addr::new(172, 31, 7, 1);
const PEER_END: Ipv4Addr = Ipv4Addr::new(172, 31, 7, 2);

#[test]
fn over_one_hop_a_killed_and_a_frozen_peer_and_a_cut_link_are_seen() {
    let bird = |lab: &Lab| {
        let peer = lab.backend_netns("w1r1b1").unwrap();
        lab.start_bird(peer, PEER_END.into(), EDGE_END.into(), false, interval_ms()).unwrap()
    };
    over_one_hop(bird, lies_are_discarded);
}

#[test]
fn frr_is_a_peer_too() {
    let frr = |lab: &Lab| {
        let ends = (PEER_END.into(), EDGE_END.into());
        lab.start_frr(lab.backend_netns("w1r1b1").unwrap(), "hop0", ends, interval_ms()).unwrap()
    };
    // Lies are told beside BIRD's session.
    over_one_hop(frr, |_, _, _| {});
}

fn over_one_hop(start: impl Fn(&Lab) -> Running, and_then: impl Fn(&Lab, &Daemon<'_>, &UdpSocket)) {
    let lab = e2e::raise_rack(2);
    let start = || start(&lab);
    let (edge, peer) = (lab.edge_netns(0).unwrap(), lab.backend_netns("w1r1b1").unwrap());
    edge.ip(&[
        format!("link add hop0 type veth peer name hop0 netns {}", peer.name()),
        format!("address add {EDGE_END}/30 dev hop0"),
        "link set hop0 up".to_owned(),
    ])
    .unwrap();
    peer.ip(&[format!("address add {PEER_END}/30 dev hop0"), "link set hop0 up".to_owned()]).unwrap();
    let mut bird = start();
    // The others are watched by heartbeats, so that somebody testifies that the edge is connected.
    let extra = format!(
        "[[check]]\nname = \"hop\"\nkind = \"bfd\"\ninterval = \"{}ms\"\n\
         [[set]]\nname = \"hop\"\ndomain = \"west/w1\"\nchecks = [\"hop\"]\n\
         [[set.backend]]\nname = \"direct\"\nrack = \"west/w1/r1\"\naddress = \"{PEER_END}\"\n\
         [[service]]\nname = \"hop\"\naddress = \"192.0.2.77\"\nport = 80\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"hop\"\nsets = [\"hop\"]\n",
        interval_ms()
    );
    let daemon = e2e::start(&lab, &ConfigOptions { extra, ..e2e::calm() });
    wait_sessions_up(&daemon, "hop");

    let fault_ns = e2e::now_ns();
    bird.kill().unwrap();
    let down = wait_backend(&daemon, "direct", State::Down, fault_ns);
    report("killed, single hop", fault_ns, &down);
    assert!(down.cause.contains("check hop: BFD session down: detection time expired"), "{}", down.cause);
    bird = start();
    wait_backend(&daemon, "direct", State::Up, down.monotonic_ns);

    let fault_ns = e2e::now_ns();
    bird.freeze().unwrap();
    let down = wait_backend(&daemon, "direct", State::Down, fault_ns);
    report("frozen, single hop", fault_ns, &down);
    bird.thaw().unwrap();
    wait_backend(&daemon, "direct", State::Up, down.monotonic_ns);
    wait_sessions_up(&daemon, "hop");

    let fault_ns = e2e::now_ns();
    peer.ip(&["link set hop0 down"]).unwrap();
    let down = wait_backend(&daemon, "direct", State::Down, fault_ns);
    report("link cut, single hop", fault_ns, &down);
    peer.ip(&["link set hop0 up"]).unwrap();
    wait_backend(&daemon, "direct", State::Up, down.monotonic_ns);
    wait_sessions_up(&daemon, "hop");

    and_then(&lab, &daemon, &peer_socket(&lab));
}

/// A socket where the peer stands.
fn peer_socket(lab: &Lab) -> UdpSocket {
    lab.backend_netns("w1r1b1").unwrap().run(|| Ok(UdpSocket::bind((PEER_END, 0))?)).unwrap()
}

fn counter(daemon: &Daemon<'_>, name: &str) -> u64 {
    e2e::status(daemon).control.bfd.get(name).copied().unwrap_or(0)
}

/// Packets as from the peer, each with one thing wrong: each is counted, and the session stays up.
fn lies_are_discarded(lab: &Lab, daemon: &Daemon<'_>, socket: &UdpSocket) {
    let down =
        [0x20, 0x40, 3, 24, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0x0f, 0x42, 0x40, 0, 0x0f, 0x42, 0x40, 0, 0, 0, 0];
    let with = |at: usize, value: u8| {
        let mut bytes = down.to_vec();
        bytes[at] = value;
        bytes
    };
    let since_ns = e2e::now_ns();
    let lies: [(&str, u32, Vec<u8>); 8] = [
        ("ttl", 254, down.to_vec()),
        ("version", 255, with(0, 0x40)),
        ("length", 255, down[..20].to_vec()),
        ("multiplier", 255, with(2, 0)),
        ("multipoint", 255, with(1, 0x41)),
        ("my_discriminator", 255, with(7, 0)),
        ("no_session", 255, with(11, 9)),
        ("state", 255, with(1, 0xc0)),
    ];
    for (name, ttl, bytes) in lies {
        let before = counter(daemon, name);
        socket.set_ttl(ttl).unwrap();
        socket.send_to(&bytes, (IpAddr::from(EDGE_END), 3784)).unwrap();
        e2e::eventually(&format!("{name} is counted"), || {
            anyhow::ensure!(counter(daemon, name) > before);
            Ok(())
        });
    }
    // From elsewhere, where no session is: the backend's own address, over the router.
    let before = counter(daemon, "ttl");
    let elsewhere = lab.backend_netns("w1r1b2").unwrap();
    let send = || {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.set_ttl(255)?;
        Ok(socket.send_to(&down, (IpAddr::from(lab.topology().edges[0].v4), 3784))?)
    };
    elsewhere.run(send).unwrap();
    e2e::eventually("a packet that was routed is counted", || {
        anyhow::ensure!(counter(daemon, "ttl") > before);
        Ok(())
    });
    let status: Status = e2e::status(daemon);
    let events = e2e::events_since(daemon, since_ns);
    assert!(events.iter().all(|event| event.subject != "direct"), "{events:#?} {:?}", status.control.bfd);
}
