use proptest::prelude::*;

use super::*;

fn packet() -> Packet {
    Packet {
        diagnostic: Diagnostic::SIGNALED,
        state: State::Up,
        poll: true,
        is_final: false,
        demand: false,
        multiplier: 3,
        my_discriminator: 0x0102_0304,
        your_discriminator: 0x0506_0708,
        desired_min_tx_us: 1_000_000,
        required_min_rx_us: 10_000,
        required_min_echo_rx_us: 0,
    }
}

/// Session 9 has the discriminator of [`packet`]; session 8 is found by its source.
fn taken(bytes: &[u8]) -> Result<(u32, Packet), Discard> {
    admit(bytes, |number| (number == 0x0506_0708).then_some(9), || Some(8))
}

#[test]
fn the_bytes_are_those_of_section_4_1() {
    let expected =
        [0x23, 0xe0, 3, 24, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0x0f, 0x42, 0x40, 0, 0, 0x27, 0x10, 0, 0, 0, 0];
    assert_eq!(packet().to_bytes(), expected);
    assert_eq!(taken(&expected), Ok((9, packet())));
}

/// One row for each rule of section 6.8.6 up to authentication: the change, and what comes of it.
#[test]
fn each_rule_of_reception_has_its_reason() {
    let good = packet().to_bytes();
    let changed = |changes: &[(usize, u8)]| {
        let mut bytes = good.to_vec();
        for &(at, value) in changes {
            bytes[at] = value;
        }
        bytes
    };
    let unknown_to_peer = |state: u8| changed(&[(1, state << 6), (8, 0), (9, 0), (10, 0), (11, 0)]);
    let mut authenticated = changed(&[(1, 0xe0 | AUTHENTICATION), (3, 26)]);
    authenticated.extend_from_slice(&[1, 2]);
    let mut padded = good.to_vec();
    padded.extend_from_slice(&[0; 8]);
    let rows: [(&str, Vec<u8>, Result<u32, Discard>); 21] = [
        ("as it should be", good.to_vec(), Ok(9)),
        ("with bytes behind it", padded, Ok(9)),
        ("version 0", changed(&[(0, 0x03)]), Err(Discard::Version)),
        ("version 2", changed(&[(0, 0x43)]), Err(Discard::Version)),
        ("empty", Vec::new(), Err(Discard::Length)),
        ("one byte less", good[..23].to_vec(), Err(Discard::Length)),
        ("length 23", changed(&[(3, 23)]), Err(Discard::Length)),
        ("length beyond the datagram", changed(&[(3, 25)]), Err(Discard::Length)),
        ("authenticated and too short", changed(&[(1, 0xe4)]), Err(Discard::Length)),
        ("multiplier 0", changed(&[(2, 0)]), Err(Discard::Multiplier)),
        ("multipoint", changed(&[(1, 0xe1)]), Err(Discard::Multipoint)),
        ("no number of its own", changed(&[(4, 0), (5, 0), (6, 0), (7, 0)]), Err(Discard::MyDiscriminator)),
        ("an unknown session", changed(&[(8, 6)]), Err(Discard::NoSession)),
        ("no session known, AdminDown", unknown_to_peer(0), Ok(8)),
        ("no session known, Down", unknown_to_peer(1), Ok(8)),
        ("no session known, Init", unknown_to_peer(2), Err(Discard::State)),
        ("no session known, Up", unknown_to_peer(3), Err(Discard::State)),
        ("authenticated", authenticated, Err(Discard::Authentication)),
        // Two mistakes: the earlier rule speaks.
        ("version before length", vec![0x00], Err(Discard::Version)),
        ("length before multiplier", changed(&[(2, 0), (3, 0)]), Err(Discard::Length)),
        ("multiplier before multipoint", changed(&[(1, 0xe1), (2, 0)]), Err(Discard::Multiplier)),
    ];
    for (what, bytes, expected) in rows {
        assert_eq!(taken(&bytes).map(|(session, _)| session), expected, "{what}");
    }
    let nobody = admit(&unknown_to_peer(1), |_| Some(9), || None);
    assert_eq!(nobody.map(|(session, _)| session), Err(Discard::NoSession), "from an unknown place");
}

proptest! {
    /// What is written is read again, whatever it says.
    #[test]
    fn packets_survive_the_wire(
        diagnostic in 0u8..32, state in 0usize..4, flags: [bool; 3], multiplier in 1u8..,
        mine in 1u32.., tx: u32, rx: u32, echo: u32,
    ) {
        let packet = Packet {
            diagnostic: Diagnostic(diagnostic),
            state: State::ALL[state],
            poll: flags[0],
            is_final: flags[1],
            demand: flags[2],
            multiplier,
            my_discriminator: mine,
            your_discriminator: 0x0506_0708,
            desired_min_tx_us: tx,
            required_min_rx_us: rx,
            required_min_echo_rx_us: echo,
        };
        prop_assert_eq!(taken(&packet.to_bytes()), Ok((9, packet)));
    }

    /// Any bytes are taken or discarded; none are a reason to fail.
    #[test]
    fn any_datagram_has_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Ok((_, packet)) = taken(&bytes) {
            prop_assert!(packet.my_discriminator != 0 && packet.multiplier != 0);
        }
    }
}
