use proptest::prelude::*;

use super::*;
use State::{AdminDown, Down, Init, Up};

const MS: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MS;
/// What the peer calls the session.
const PEER: u32 = 77;
const OURS: u32 = 42;

fn settings() -> Settings {
    Settings {
        discriminator: OURS,
        desired_min_tx_us: 10_000,
        required_min_rx_us: 20_000,
        multiplier: 3,
        passive: false,
    }
}

/// A packet of the peer: 30 ms x 4, takes one packet each 15 ms.
fn said(state: State) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        poll: false,
        is_final: false,
        demand: false,
        multiplier: 4,
        my_discriminator: PEER,
        your_discriminator: OURS,
        desired_min_tx_us: 30_000,
        required_min_rx_us: 15_000,
        required_min_echo_rx_us: 0,
    }
}

/// A session in this state at one second, having heard the peer there.
fn in_state(state: State) -> Session {
    let mut session = Session::new(settings(), 0, 1);
    let steps: &[State] = match state {
        Down => &[],
        Init => &[Down],
        Up => &[Init],
        AdminDown => &[],
    };
    for &step in steps {
        session.receive(&said(step), SECOND);
    }
    if state == AdminDown {
        session.hold_down(true, SECOND);
    }
    assert_eq!(session.state(), state);
    session
}

/// A session that is up and whose first poll sequence has ended.
fn settled() -> Session {
    let mut session = in_state(Up);
    session.receive(&Packet { is_final: true, ..said(Up) }, SECOND);
    session
}

/// The next packets that go out by themselves, with their moments.
fn sent(session: &mut Session, count: usize) -> Vec<(u64, Packet)> {
    let mut packets = Vec::new();
    while packets.len() < count {
        let now_ns = session.next_ns();
        assert_ne!(now_ns, u64::MAX, "nothing more is sent");
        packets.extend(session.tick(now_ns).send.map(|packet| (now_ns, packet)));
    }
    packets
}

/// Section 6.2 and 6.8.6, row by row: state, what the peer says, and the state and diagnostic after.
#[test]
fn the_transition_table_of_the_rfc() {
    let kept = Diagnostic::NONE;
    let rows = [
        (AdminDown, AdminDown, AdminDown, Diagnostic::ADMIN),
        (AdminDown, Down, AdminDown, Diagnostic::ADMIN),
        (AdminDown, Init, AdminDown, Diagnostic::ADMIN),
        (AdminDown, Up, AdminDown, Diagnostic::ADMIN),
        (Down, AdminDown, Down, kept),
        (Down, Down, Init, kept),
        (Down, Init, Up, kept),
        (Down, Up, Down, kept),
        (Init, AdminDown, Down, Diagnostic::SIGNALED),
        (Init, Down, Init, kept),
        (Init, Init, Up, kept),
        (Init, Up, Up, kept),
        (Up, AdminDown, Down, Diagnostic::SIGNALED),
        (Up, Down, Down, Diagnostic::SIGNALED),
        (Up, Init, Up, kept),
        (Up, Up, Up, kept),
    ];
    for (before, remote, after, diagnostic) in rows {
        let mut session = in_state(before);
        let step = session.receive(&said(remote), SECOND + MS);
        assert_eq!((session.state(), session.diagnostic), (after, diagnostic), "{before:?}, {remote:?}");
        assert_eq!(step.changed, before != after, "{before:?}, {remote:?}");
        assert_eq!(step.send.is_some(), step.changed, "a change is told at once: {before:?}, {remote:?}");
        if let Some(packet) = step.send {
            assert_eq!(
                (packet.state, packet.diagnostic, packet.poll && packet.is_final),
                (after, diagnostic, false)
            );
        }
    }
}

#[test]
fn silence_for_the_detection_time_ends_init_and_up_and_nothing_else() {
    for state in State::ALL {
        let mut session = in_state(state);
        let before = session.state();
        let last_ns = if state == Down { 0 } else { SECOND };
        // 4 x max(20, 30) ms.
        let detection_ns = 120 * MS;
        if matches!(state, Init | Up) {
            assert_eq!(session.detection_ns(), Some(detection_ns));
            session.tick(last_ns + detection_ns - 1);
            assert_eq!(session.state(), before, "a nanosecond too early");
        }
        let step = session.tick(last_ns + detection_ns);
        if matches!(state, Init | Up) {
            let packet = step.send.expect("the change is told at once");
            assert_eq!((session.state(), session.cause()), (Down, Cause::Expired));
            assert_eq!((packet.state, packet.diagnostic), (Down, Diagnostic::EXPIRED));
            assert_eq!(packet.your_discriminator, 0, "what the peer called the session is forgotten");
            assert_eq!(packet.desired_min_tx_us, SLOW_TX_US);
        } else {
            assert_eq!((session.state(), step.changed), (before, false));
        }
    }
}

#[test]
fn only_packets_that_are_taken_put_off_the_end() {
    let mut session = settled();
    for round in 1..10 {
        session.receive(&said(Up), SECOND + round * 100 * MS);
        assert!(!session.tick(SECOND + round * 100 * MS + 119 * MS).changed);
    }
    assert!(session.tick(SECOND + 900 * MS + 120 * MS).changed);
}

/// Section 6.8.2 and 6.8.4 as a table: what both sides want, and what follows.
#[test]
fn intervals_are_the_larger_of_what_one_wants_and_the_other_takes() {
    for (our_tx, our_rx, their_tx, their_rx, multiplier, tx, detection_us) in [
        (10_000, 20_000, 30_000, 15_000, 4, 15_000, 4 * 30_000),
        (10_000, 20_000, 5_000, 5_000, 3, 10_000, 3 * 20_000),
        (50_000, 50_000, 50_000, 50_000, 1, 50_000, 50_000),
        (1_000, 1_000, 1_000_000, 1_000_000, 255, 1_000_000, 255_000_000),
    ] {
        let own = Settings { desired_min_tx_us: our_tx, required_min_rx_us: our_rx, ..settings() };
        let mut session = Session::new(own, 0, 1);
        let packet =
            Packet { desired_min_tx_us: their_tx, required_min_rx_us: their_rx, multiplier, ..said(Init) };
        session.receive(&packet, SECOND);
        assert_eq!(session.state(), Up);
        assert_eq!(session.tx_interval_us(), tx);
        assert_eq!(session.detection_ns(), Some(detection_us * 1000));
    }
}

#[test]
fn a_session_that_is_not_up_is_slow_and_says_so() {
    let mut session = Session::new(settings(), 0, 9);
    let packets = sent(&mut session, 20);
    for pair in packets.windows(2) {
        let gap_ns = pair[1].0 - pair[0].0;
        assert!((750 * MS..=SECOND).contains(&gap_ns), "{gap_ns}");
    }
    assert!(packets.iter().all(|(_, packet)| packet.desired_min_tx_us == SLOW_TX_US && packet.poll));
    // A session that wants to be slower still is not made faster.
    let slow = Settings { desired_min_tx_us: 3 * SLOW_TX_US, ..settings() };
    let (_, packet) = sent(&mut Session::new(slow, 0, 9), 1)[0];
    assert_eq!(packet.desired_min_tx_us, 3 * SLOW_TX_US);
}

/// Section 6.8.7: 75 to 100 percent of the interval, with a multiplier of 1 at most 90.
#[test]
fn packets_are_jittered_as_the_rfc_says() {
    for (multiplier, least, most) in [(3, 75, 100), (2, 75, 100), (1, 75, 90)] {
        let mut session = Session::new(Settings { multiplier, ..settings() }, 0, 5);
        session.receive(&said(Init), SECOND);
        session.receive(&Packet { is_final: true, ..said(Up) }, SECOND);
        let (mut gaps, mut last_ns) = (Vec::new(), None);
        for _ in 0..500 {
            let now_ns = session.next_ns();
            session.receive(&said(Up), now_ns);
            assert!(session.tick(now_ns).send.is_some());
            gaps.extend(last_ns.map(|last_ns| (now_ns - last_ns) * 100 / (15 * MS)));
            last_ns = Some(now_ns);
        }
        gaps.sort_unstable();
        assert!(gaps[0] >= least && gaps[gaps.len() - 1] <= most, "{multiplier}: {gaps:?}");
        assert!(gaps[0] <= least + 2 && gaps[gaps.len() - 1] + 2 >= most, "not the whole range: {gaps:?}");
    }
}

#[test]
fn coming_up_polls_until_the_peer_has_heard_of_the_new_interval() {
    let mut session = in_state(Up);
    let polls = sent(&mut session, 3);
    assert!(polls.iter().all(|(_, packet)| packet.poll && packet.desired_min_tx_us == 10_000));
    session.receive(&said(Up), session.next_ns());
    assert!(sent(&mut session, 1)[0].1.poll, "only the final bit ends a poll sequence");
    session.receive(&Packet { is_final: true, ..said(Up) }, session.next_ns());
    assert!(!sent(&mut session, 1)[0].1.poll);
}

/// A peer as BIRD is: it answers polls at once, and keeps a change to Init until its next packet is due, up to a second later.
#[test]
fn a_session_that_went_down_is_up_again_without_waiting_for_a_slow_packet() {
    for (diagnostic, your_discriminator) in [(Diagnostic::EXPIRED, 0), (Diagnostic::SIGNALED, OURS)] {
        let mut session = settled();
        let now_ns = 2 * SECOND;
        let down = Packet { diagnostic, your_discriminator, ..said(Down) };
        let told = session.receive(&down, now_ns).send.expect("the change is told at once");
        assert_eq!((told.state, told.diagnostic, told.poll), (Down, Diagnostic::SIGNALED, true));
        assert_eq!((told.your_discriminator, told.desired_min_tx_us), (PEER, SLOW_TX_US));
        // That made the peer go to Init.
        let told = session.receive(&Packet { is_final: true, ..said(Init) }, now_ns).send.expect("as well");
        assert_eq!((session.state(), told.state, told.poll), (Up, Up, true));
        assert_eq!(
            told.desired_min_tx_us, 10_000,
            "a poll of its own, for the interval that it sends at now"
        );
    }
    // The other way round: this side did not hear the peer, and the peer's poll comes first.
    let mut session = settled();
    let told = session.tick(SECOND + 120 * MS).send.expect("the change is told at once");
    assert!(told.poll && told.your_discriminator == 0, "{told:?}");
    let told = session.receive(&Packet { poll: true, ..said(Down) }, 2 * SECOND).send.expect("an answer");
    assert_eq!((told.state, told.poll, told.is_final), (Init, false, true));
    assert_eq!(session.receive(&said(Up), 2 * SECOND).send.map(|packet| packet.state), Some(Up));
}

#[test]
fn an_answered_poll_is_over_and_the_next_state_has_one_of_its_own() {
    let mut session = in_state(Down);
    assert!(sent(&mut session, 1)[0].1.poll);
    session.receive(&Packet { is_final: true, ..said(Up) }, SECOND);
    assert_eq!(session.state(), Down, "Up proves nothing yet");
    assert!(!sent(&mut session, 1)[0].1.poll, "it was answered");
    session.receive(&said(Down), 3 * SECOND);
    assert_eq!(session.state(), Init);
    assert!(sent(&mut session, 1)[0].1.poll);
}

#[test]
fn a_session_that_flaps_comes_up_slowly() {
    let mut session = Session::new(settings(), 0, 1);
    let mut fail_at = |now_ns: u64| {
        session.receive(&said(Init), now_ns);
        assert_eq!(session.state(), Up);
        session.receive(&said(Down), now_ns + MS).send.expect("the change is told at once").poll
    };
    // The first handshake was one of the quick ones.
    let polls: Vec<bool> = (0..6).map(|round| fail_at(SECOND / 2 + round * 10 * MS)).collect();
    assert_eq!(polls, [true, true, true, false, false, false]);
    assert!(fail_at(SECOND + 2 * MS), "one more each second");
    assert!(!fail_at(SECOND + 20 * MS));
    // And all of them again, once it has been calm for long.
    let polls: Vec<bool> = (0..5).map(|round| fail_at(60 * SECOND + round * 10 * MS)).collect();
    assert_eq!(polls, [true, true, true, true, false]);
}

#[test]
fn a_poll_is_answered_at_once_with_final_and_without_poll() {
    for state in [Down, Init, Up] {
        let mut session = in_state(state);
        let remote = if state == Down { AdminDown } else { state };
        let step = session.receive(&Packet { poll: true, ..said(remote) }, SECOND);
        let packet = step.send.expect("an answer");
        assert!(packet.is_final && !packet.poll, "{state:?}: {packet:?}");
    }
    let mut session = in_state(AdminDown);
    assert_eq!(session.receive(&Packet { poll: true, ..said(Up) }, SECOND), Step::default());
}

#[test]
fn a_longer_interval_waits_for_the_end_of_the_poll_and_a_shorter_one_does_not() {
    let mut session = settled();
    // Sending more slowly: the peer must know first, or it would give this side up.
    session.change_intervals(200_000, 20_000);
    assert_eq!(session.tx_interval_us(), 15_000);
    let (_, packet) = sent(&mut session, 1)[0];
    assert!(packet.poll && packet.desired_min_tx_us == 200_000);
    session.receive(&Packet { is_final: true, ..said(Up) }, SECOND);
    assert_eq!(session.tx_interval_us(), 200_000);
    // Taking packets at a faster pace: until the peer knows, it sends at the old one.
    session.change_intervals(10_000, 5_000);
    assert_eq!(session.tx_interval_us(), 15_000, "a shorter one is in force at once");
    let fast = Packet { desired_min_tx_us: 1_000, ..said(Up) };
    session.receive(&fast, SECOND);
    assert_eq!(session.detection_ns(), Some(4 * 20 * MS));
    session.receive(&Packet { is_final: true, ..fast }, SECOND);
    assert_eq!(session.detection_ns(), Some(4 * 5 * MS));
    // What changes nothing polls for nothing.
    session.change_intervals(10_000, 5_000);
    session.receive(&fast, session.next_ns());
    assert!(!sent(&mut session, 1)[0].1.poll);
}

#[test]
fn a_passive_session_is_silent_until_it_is_spoken_to_and_again_after_the_peer_is_gone() {
    let mut session = Session::new(Settings { passive: true, ..settings() }, 0, 1);
    assert_eq!(session.next_ns(), u64::MAX);
    assert_eq!(session.tick(10 * SECOND), Step::default());
    let packet = session.receive(&said(Down), SECOND).send.expect("an answer");
    assert_eq!((packet.state, packet.your_discriminator), (Init, PEER));
    while session.next_ns() != u64::MAX {
        session.tick(session.next_ns());
    }
    assert_eq!(session.state(), Down);
}

#[test]
fn a_peer_that_takes_no_packets_or_asks_for_silence_gets_none() {
    let mut session = settled();
    session.receive(&Packet { required_min_rx_us: 0, ..said(Up) }, SECOND);
    assert_eq!(session.next_ns(), SECOND + 120 * MS, "nothing is due but the detection time");
    let step = session.receive(&Packet { required_min_rx_us: 0, poll: true, ..said(Up) }, SECOND);
    assert!(step.send.is_some_and(|packet| packet.is_final), "a poll is answered all the same");

    let mut session = settled();
    session.receive(&Packet { demand: true, ..said(Up) }, SECOND);
    assert_eq!(session.next_ns(), SECOND + 120 * MS);
    session.change_intervals(11_000, 20_000);
    assert!(sent(&mut session, 1)[0].1.poll, "a poll sequence is sent all the same (section 6.6)");
    session.receive(&Packet { demand: true, is_final: true, ..said(Up) }, SECOND);
    assert_eq!(session.next_ns(), SECOND + 120 * MS);
    session.receive(&said(Up), SECOND);
    assert!(session.next_ns() < SECOND + 120 * MS, "the peer takes its wish back");
}

#[test]
fn held_down_it_says_so_and_comes_back_when_it_is_let_go() {
    let mut session = settled();
    let step = session.hold_down(true, SECOND);
    let packet = step.send.expect("it is told at once");
    assert_eq!((packet.state, packet.diagnostic, step.changed), (AdminDown, Diagnostic::ADMIN, true));
    assert_eq!(session.hold_down(true, SECOND), Step::default());
    for (_, packet) in sent(&mut session, 3) {
        assert_eq!(packet.state, AdminDown);
    }
    assert!(session.hold_down(false, 9 * SECOND).changed);
    assert_eq!(session.receive(&said(Down), 9 * SECOND).send.map(|packet| packet.state), Some(Init));
    assert_eq!(session.receive(&said(Up), 9 * SECOND).send.map(|packet| packet.state), Some(Up));
}

/// Two sessions and a line between them that loses and delays packets.
struct Line {
    ends: [Session; 2],
    /// Arrival, receiver, packet.
    under_way: Vec<(u64, usize, Packet)>,
    now_ns: u64,
    dice: Dice,
    /// Of 100 packets, these arrive.
    arrive: u64,
}

impl Line {
    fn new(seed: u64, settings: [Settings; 2]) -> Self {
        let [a, b] = settings;
        let ends = [
            Session::new(Settings { discriminator: 1, ..a }, 0, seed),
            Session::new(Settings { discriminator: 2, ..b }, 0, !seed),
        ];
        Self { ends, under_way: Vec::new(), now_ns: 0, dice: Dice::new(seed), arrive: 100 }
    }

    fn send(&mut self, from: usize, packet: Option<Packet>) {
        if let Some(packet) = packet
            && self.dice.below(100) < self.arrive
        {
            // Up to half a millisecond on the way: less than any interval that the tests use.
            self.under_way.push((self.now_ns + self.dice.below(MS / 2), 1 - from, packet));
        }
    }

    /// Until the moment. Returns the changes of either end.
    fn run(&mut self, until_ns: u64) -> [usize; 2] {
        let mut changes = [0; 2];
        loop {
            let arrival = self.under_way.iter().enumerate().min_by_key(|(_, (at_ns, ..))| *at_ns);
            let arrival = arrival.map(|(index, (at_ns, ..))| (*at_ns, index));
            let timer = self.ends.iter().map(Session::next_ns).min().unwrap_or(u64::MAX);
            let next_ns = timer.min(arrival.map_or(u64::MAX, |(at_ns, _)| at_ns));
            if next_ns > until_ns {
                self.now_ns = until_ns;
                return changes;
            }
            self.now_ns = next_ns;
            if let Some((_, index)) = arrival.filter(|(at_ns, _)| *at_ns == next_ns) {
                let (_, to, packet) = self.under_way.swap_remove(index);
                assert!(packet.your_discriminator == 0 || packet.your_discriminator == to as u32 + 1);
                let step = self.ends[to].receive(&packet, next_ns);
                changes[to] += usize::from(step.changed);
                self.send(to, step.send);
                continue;
            }
            for (end, changes) in changes.iter_mut().enumerate() {
                let step = self.ends[end].tick(next_ns);
                *changes += usize::from(step.changed);
                self.send(end, step.send);
            }
        }
    }

    fn states(&self) -> [State; 2] {
        [self.ends[0].state(), self.ends[1].state()]
    }
}

fn any_settings() -> impl Strategy<Value = Settings> {
    (1_000u32..300_000, 1_000u32..300_000, 2u8..6).prop_map(|(tx, rx, multiplier)| Settings {
        desired_min_tx_us: tx,
        required_min_rx_us: rx,
        multiplier,
        ..settings()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Two ends come up in a few seconds and stay up without one flap; when the line is cut both are down after their
    /// detection time, and up again when it is mended.
    #[test]
    fn two_ends_meet_stay_and_part(seed: u64, a in any_settings(), b in any_settings(), passive: bool) {
        let mut line = Line::new(seed, [a, Settings { passive, ..b }]);
        line.run(6 * SECOND);
        prop_assert_eq!(line.states(), [Up, Up]);
        prop_assert_eq!(line.run(20 * SECOND), [0, 0], "flaps");
        let detection_ns = line.ends.iter().filter_map(Session::detection_ns).max().expect("both were heard");
        line.arrive = 0;
        line.under_way.clear();
        prop_assert_eq!(line.run(20 * SECOND + detection_ns), [1, 1]);
        prop_assert_eq!(line.states(), [Down, Down]);
        line.arrive = 100;
        line.run(30 * SECOND + detection_ns);
        prop_assert_eq!(line.states(), [Up, Up]);
    }

    /// However many packets are lost, nobody gets stuck: once all arrive again, both come up.
    #[test]
    fn loss_leaves_nobody_stuck(seed: u64, a in any_settings(), b in any_settings(), arrive in 0u64..100) {
        let mut line = Line::new(seed, [a, b]);
        line.arrive = arrive;
        line.run(20 * SECOND);
        line.arrive = 100;
        line.run(32 * SECOND);
        prop_assert_eq!(line.states(), [Up, Up]);
    }

    /// Whatever a peer says: the session is up only after an Init or Up from it, and never sends faster than either allows.
    #[test]
    fn lies_bring_nobody_up(seed: u64, states in prop::collection::vec(0usize..4, 1..60)) {
        let mut session = Session::new(settings(), 0, seed);
        let mut now_ns = 0;
        for state in states {
            now_ns += 7 * MS;
            let before = session.state();
            session.receive(&said(State::ALL[state]), now_ns);
            if session.state() == Up && before != Up {
                prop_assert!(matches!(State::ALL[state], Init | Up));
            }
            let step = session.tick(now_ns);
            if step.send.is_some() && session.state() == Up {
                prop_assert!(session.next_ns() >= now_ns + 15 * MS * 3 / 4);
            }
        }
    }
}
