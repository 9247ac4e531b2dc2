use std::net::UdpSocket;
use std::time::Duration;

use super::*;
use crate::config::{BfdCheck, CheckKind, Config};
use crate::health::bfd::packet::{Diagnostic, State};
use crate::health::target::Targets;
use crate::health::testing::{check, config};

/// So many backends in one rack, with multihop sessions.
fn some(backends: usize, interval_ms: u64) -> Config {
    let bfd = BfdCheck {
        multihop: true,
        receive_interval: Duration::from_millis(interval_ms),
        multiplier: 3,
        passive: false,
        local: Vec::new(),
    };
    config(&vec![vec![vec![backends]]], vec![check(CheckKind::Bfd(bfd), interval_ms)])
}

fn prober(config: &Config) -> BfdProber {
    BfdProber::deaf(&Targets::new(config)).expect("sockets")
}

/// The session with the backend of this number comes up.
fn bring_up(prober: &mut BfdProber, index: usize) {
    let (address, number) =
        (prober.peers[index].to.ip(), prober.peers[index].session.settings().discriminator);
    let packet = Packet {
        diagnostic: Diagnostic::NONE,
        state: State::Init,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 70 + index as u32,
        your_discriminator: number,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 1_000_000,
        required_min_echo_rx_us: 0,
    };
    prober.take(&packet.to_bytes(), address, None, true);
    let up = Packet { state: State::Up, is_final: true, ..packet };
    prober.take(&up.to_bytes(), address, None, true);
    assert_eq!(prober.peers[index].session.state(), State::Up);
}

/// Where the packets to a peer arrive.
fn at_peer(prober: &BfdProber, index: usize) -> UdpSocket {
    let socket = UdpSocket::bind(prober.peers[index].to).expect("a loopback address");
    socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    socket
}

/// State, diagnostic and discriminator of the next packet there.
fn heard(socket: &UdpSocket) -> (State, u8, u32) {
    let mut bytes = [0; 64];
    socket.recv(&mut bytes).expect("a packet");
    let number = [bytes[4], bytes[5], bytes[6], bytes[7]];
    (State::ALL[usize::from(bytes[1] >> 6)], bytes[0] & 0x1f, u32::from_be_bytes(number))
}

#[test]
fn sessions_go_on_as_they_are_under_the_next_configuration() {
    let mut old = prober(&some(3, 1_000));
    bring_up(&mut old, 0);
    bring_up(&mut old, 2);
    old.peers[0].flaps = 5;
    let before: Vec<_> = old.reports(monotonic_ns()).collect();
    let ports: Vec<_> = old.peers.iter().map(|peer| peer.socket.local_addr().expect("bound")).collect();
    let taken = old.status().taken;
    let gone = at_peer(&old, 2);

    // One backend less, one interval less, and another order of numbers is not asked for: the peers know theirs.
    let mut next = prober(&some(2, 500));
    let now_ns = monotonic_ns();
    next.inherit(old.leave(), now_ns);
    let after: Vec<_> = next.reports(now_ns).collect();
    assert_eq!(after.len(), 2);
    for (before, after) in before.iter().zip(&after) {
        assert_eq!((after.state, after.since_ns, after.flaps), (before.state, before.since_ns, before.flaps));
        assert_eq!((after.heard_ns, after.remote), (before.heard_ns, before.remote));
        assert_eq!(after.settings.discriminator, before.settings.discriminator);
        assert_eq!(after.settings.desired_min_tx_us, 500_000);
    }
    assert_eq!(
        next.peers[0].socket.local_addr().expect("bound"),
        ports[0],
        "the source port is the session's"
    );
    assert_eq!(next.status().taken, taken);
    // Packets find it by its number, and it is told of the new interval by a poll.
    bring_up(&mut next, 1);
    assert!(next.peers[0].session.tick(u64::MAX / 2).send.is_none_or(|packet| packet.poll));
    assert_eq!(heard(&gone), (State::AdminDown, 7, before[2].settings.discriminator));
    drop(old);
}

#[test]
fn what_is_new_begins_at_the_handover_with_a_number_of_its_own() {
    let mut old = prober(&some(1, 1_000));
    bring_up(&mut old, 0);
    let number = old.peers[0].session.settings().discriminator;
    let mut next = prober(&some(3, 1_000));
    let now_ns = monotonic_ns() + 60_000_000_000;
    next.inherit(old.leave(), now_ns);
    let reports: Vec<_> = next.reports(now_ns).collect();
    assert_eq!(reports[0].state, State::Up);
    for report in &reports[1..] {
        assert_eq!((report.state, report.since_ns), (State::Down, now_ns));
        let awaited = report.awaited.expect("it is awaited from now on");
        assert_eq!(awaited.until_ns, now_ns + as_ns(FIRST_HANDSHAKE));
    }
    let mut numbers: Vec<_> = reports.iter().map(|report| report.settings.discriminator).collect();
    numbers.sort_unstable();
    numbers.dedup();
    assert!(numbers.len() == 3 && numbers.contains(&number), "{numbers:?}");
    assert!(next.next_ns().is_some_and(|next_ns| next_ns <= now_ns + 1_000_000_000));
}

#[test]
fn a_session_from_another_source_is_another_one() {
    let mut old = prober(&some(1, 1_000));
    bring_up(&mut old, 0);
    let peer = at_peer(&old, 0);
    old.peers[0].local = Some([127, 0, 0, 9].into());
    let number = old.peers[0].session.settings().discriminator;
    let mut next = prober(&some(1, 1_000));
    next.inherit(old.leave(), monotonic_ns());
    assert_eq!(next.peers[0].session.state(), State::Down);
    assert_eq!(heard(&peer), (State::AdminDown, 7, number));
}

#[test]
fn one_holds_and_the_others_wait_for_their_turn() {
    let left = || Left { status: BfdStatus { taken: 7, ..BfdStatus::default() }, ..Left::default() };
    let waiting = |number| Tenure::Waiting { number, look_ns: 0 };
    let mut estate = Estate::default();
    assert_eq!(estate.enter(Vec::new()), None, "the first one holds");
    let (second, third) =
        (estate.enter(Vec::new()).expect("waits"), estate.enter(Vec::new()).expect("waits"));
    assert!(estate.take(second, Vec::new()).is_none(), "it is held");
    assert!(estate.leave(Tenure::Holder, left()).is_none(), "somebody waits for it");
    assert!(estate.take(third, Vec::new()).is_none(), "it is another one's turn");
    assert_eq!(estate.enter(Vec::new()), Some(3), "who comes in between waits");
    assert_eq!(estate.take(second, Vec::new()).map(|left| left.status.taken), Some(7));
    // A reload that is given up.
    assert!(estate.leave(waiting(third), Left::default()).is_none());
    assert!(estate.leave(waiting(3), Left::default()).is_none());
    assert_eq!(estate.leave(Tenure::Holder, left()).map(|left| left.status.taken), Some(7), "nobody waits");
    // Who waits goes after the holder did: nobody is left to tell the peers but him.
    assert_eq!(estate.enter(Vec::new()), None);
    let heir = estate.enter(Vec::new()).expect("waits");
    assert!(estate.leave(Tenure::Holder, left()).is_none());
    assert_eq!(estate.leave(waiting(heir), Left::default()).map(|left| left.status.taken), Some(7));
    assert_eq!(estate.enter(Vec::new()), None);
    assert!(estate.leave(Tenure::Own, left()).is_some());
}
