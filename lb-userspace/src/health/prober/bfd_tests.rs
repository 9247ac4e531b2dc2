use super::*;
use crate::health::testing::{check, config};

const SECOND_US: u32 = 1_000_000;
/// What a peer says of itself after it heard nothing.
const EXPIRED: Packet = Packet { diagnostic: Diagnostic::EXPIRED, ..said(State::Down) };

/// A packet of the peer, which takes so few that this side need not send for seconds.
const fn said(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 77,
        your_discriminator: 0,
        desired_min_tx_us: 0,
        required_min_rx_us: 5 * SECOND_US,
        required_min_echo_rx_us: 0,
    }
}

/// One session, and its peer.
struct Scene {
    prober: BfdProber,
    peer: IpAddr,
    number: u32,
    /// The interval at which the peer sends.
    interval_us: u32,
}

impl Scene {
    /// A session that was never heard.
    fn make(interval_us: u32) -> Self {
        let bfd = BfdCheck {
            multihop: true,
            receive_interval: Duration::from_millis(1),
            multiplier: 3,
            passive: false,
            local: Vec::new(),
        };
        let targets = Targets::new(&config(&vec![vec![vec![1]]], vec![check(CheckKind::Bfd(bfd), 1_000)]));
        let prober = BfdProber::deaf(&targets).expect("a socket");
        let number = *prober.by_discriminator.keys().next().expect("a session");
        Self { peer: targets.targets[0].address, prober, number, interval_us }
    }

    /// A session that is up.
    fn new(interval_us: u32) -> Self {
        let mut scene = Self::make(interval_us);
        scene.hear(said(State::Down));
        scene.hear(said(State::Init));
        scene.hear(said(State::Up));
        assert_eq!(scene.prober.peers[0].session.state(), State::Up);
        // It has been up for long.
        scene.prober.peers[0].heard_again_ns = 0;
        scene
    }

    fn hear(&mut self, packet: Packet) {
        let your_discriminator = if packet.state == State::Down { 0 } else { self.number };
        let packet = Packet { your_discriminator, desired_min_tx_us: self.interval_us, ..packet };
        self.prober.take(&packet.to_bytes(), self.peer, None, true);
    }

    fn outcome(&self) -> Outcome {
        self.prober.peers[0].outcome(monotonic_ns())
    }

    /// What is told of it so long from now.
    fn report(&self, later_ns: u64) -> Report {
        self.prober.reports(monotonic_ns() + later_ns).next().expect("a session")
    }

    /// Sessions that ended for somebody's silence: this side's, the peer's.
    fn excused(&self) -> (u64, u64) {
        (self.prober.status.own_silence, self.prober.status.peer_silence)
    }
}

#[test]
fn a_peer_that_heard_nothing_is_believed() {
    let mut scene = Scene::new(60 * SECOND_US);
    scene.hear(EXPIRED);
    assert_eq!(scene.prober.peers[0].session.state(), State::Down);
    assert!(matches!(scene.outcome(), Outcome::Missed { .. }), "{:?}", scene.outcome());
    assert_eq!(scene.excused(), (0, 0));
}

#[test]
fn a_peer_that_stood_still_itself_and_heard_nothing_has_to_say_so_twice() {
    let mut scene = Scene::new(SECOND_US / 1000);
    // Longer than two of its intervals: that is what the test is about, not something to wait for.
    std::thread::sleep(Duration::from_millis(5));
    // What it sends first as it runs again says that all is well.
    scene.hear(said(State::Up));
    scene.hear(EXPIRED);
    assert_eq!(scene.prober.peers[0].session.state(), State::Down);
    assert_eq!(scene.outcome(), Outcome::Unknown, "it is no evidence yet");
    assert_eq!(scene.excused(), (0, 1));
    // Unless it says nothing any more.
    let later_ns = |ms: u64| monotonic_ns() + as_ns(HANDSHAKE_SILENCE) - 1_000_000_000 + ms * 1_000_000;
    assert_eq!(scene.prober.peers[0].outcome(later_ns(0)), Outcome::Unknown);
    assert!(matches!(scene.prober.peers[0].outcome(later_ns(1_000)), Outcome::Missed { .. }));
    // It is back at once; what it says then without having been silent is believed.
    scene.hear(said(State::Init));
    scene.hear(said(State::Up));
    assert!(!matches!(scene.outcome(), Outcome::Missed { how: Miss::Bfd(_), .. }), "{:?}", scene.outcome());
    scene.interval_us = 60 * SECOND_US;
    scene.hear(said(State::Up));
    scene.prober.peers[0].heard_again_ns = 0;
    scene.hear(EXPIRED);
    assert!(matches!(scene.outcome(), Outcome::Missed { .. }), "{:?}", scene.outcome());
}

#[test]
fn a_peer_that_is_shut_down_is_believed_whatever_was_before() {
    let mut scene = Scene::new(SECOND_US / 1000);
    std::thread::sleep(Duration::from_millis(5));
    scene.hear(Packet { diagnostic: Diagnostic::NONE, ..EXPIRED });
    assert!(matches!(scene.outcome(), Outcome::Missed { .. }), "{:?}", scene.outcome());
    assert_eq!(scene.excused(), (0, 0));
}

#[test]
fn a_session_that_this_side_let_expire_is_no_evidence() {
    let mut scene = Scene::new(60 * SECOND_US);
    let peer = &mut scene.prober.peers[0];
    peer.last_sent_ns = monotonic_ns().saturating_sub(peer.session.patience_ns() + 1_000_000);
    scene.hear(EXPIRED);
    assert_eq!(scene.outcome(), Outcome::Unknown);
    assert_eq!(scene.excused(), (1, 0));
    let report = scene.report(0);
    assert_eq!((report.state, report.flaps), (State::Down, 1));
    let awaited = report.awaited.expect("it is awaited");
    assert_eq!(awaited.excuse, Excuse::OwnSilence);
    assert_eq!(awaited.until_ns, report.heard_ns + as_ns(HANDSHAKE_SILENCE), "if nothing more is heard");
    assert_eq!(scene.report(as_ns(HANDSHAKE_SILENCE)).awaited, None, "it was not");
}

#[test]
fn what_is_told_of_a_session_is_what_both_sides_said() {
    let mut scene = Scene::new(20_000);
    let report = scene.report(0);
    assert_eq!((report.state, report.multihop, report.address), (State::Up, true, scene.peer));
    assert_eq!((report.cause, report.flaps, report.awaited), (Cause::Never, 0, None));
    assert_eq!(report.settings.discriminator, scene.number);
    let remote = report.remote.expect("the peer was heard");
    assert_eq!((remote.discriminator, remote.state, remote.multiplier), (77, State::Up, 3));
    // The peer takes a packet each five seconds, this side one each millisecond.
    assert_eq!((report.tx_interval_us, report.rx_interval_us), (5 * SECOND_US, 20_000));
    assert_eq!((report.detection_ns, report.patience_ns), (Some(60_000_000), 15_000_000_000));
    let up_since_ns = report.since_ns;
    assert!(up_since_ns > 0 && report.heard_ns >= up_since_ns);
    // Down, and to Init and up again: it left Up once.
    for state in [State::Down, State::Down, State::Init] {
        scene.hear(said(state));
    }
    let report = scene.report(0);
    assert_eq!((report.state, report.cause, report.flaps), (State::Up, Cause::Signaled, 1));
    assert!(report.since_ns > up_since_ns);
}

#[test]
fn a_session_that_never_was_up_is_awaited_for_so_long() {
    let scene = Scene::make(SECOND_US);
    let awaited = scene.report(0).awaited.expect("it is awaited");
    assert_eq!(awaited.excuse, Excuse::First);
    assert_eq!(scene.report(as_ns(FIRST_HANDSHAKE)).awaited, None);
    assert_eq!((scene.report(0).remote, scene.report(0).heard_ns), (None, 0));
}
