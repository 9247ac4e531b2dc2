//! Over the loopback interface, where a raw socket stands for the backends. Only root may open one: for others there is nothing to test.

use super::*;
use crate::config::BackendId;
use crate::health::prober::gather::Gather;
use crate::health::target::Targets;
use crate::health::testing::{address, check, config};

const VIP: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 9, 9, 9));
const PORT: u16 = 80;
/// Of the outer and the inner IPv4 header.
const INNER_TCP: usize = 20 + 20;

struct Scene {
    probes: Probes,
    /// Results go there.
    _gather: Gather,
    /// Sees what arrives in a tunnel at any local address.
    backends: UdpSocket,
}

impl Scene {
    fn new() -> Self {
        let kind = CheckKind::TcpTunnel { vip: VIP, port: PORT };
        let mut config = config(&vec![vec![vec![2]]], vec![check(kind, 10)]);
        config.checks[0].timeout = std::time::Duration::from_secs(600);
        let targets = Targets::new(&config);
        let (gather, reporter) = Gather::new(&targets, monotonic_ns(), takes);
        let backends = open(0, IPV4_INSIDE).expect("a raw socket: root");
        backends.set_nonblocking(false).expect("blocking");
        backends.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
        let probes = Probes::new(&targets, reporter, monotonic_ns()).expect("raw sockets: root");
        Self { probes: probes.expect("targets"), _gather: gather, backends }
    }

    /// The next packet of these probes to this backend: sequence number and flags.
    fn sent_to(&self, backend: u16) -> (u32, u8) {
        loop {
            let mut packet = [0; 128];
            let (length, _) = self.backends.recv_from(&mut packet).expect("it is sent");
            let Some(tcp) = packet[..length].get(INNER_TCP..) else { continue };
            let to = IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).expect("four bytes"));
            if to == address(BackendId(backend)) && tcp[..2] == self.probes.port.to_be_bytes() {
                return (u32::from_be_bytes(tcp[4..8].try_into().expect("four bytes")), tcp[13]);
            }
        }
    }

    fn begin(&mut self, backend: u16) -> u32 {
        self.probes.begin(usize::from(backend)).expect("somebody wants results");
        let (sequence, flags) = self.sent_to(backend);
        assert_eq!(flags, syn::SYN);
        sequence
    }
}

#[test]
fn only_the_answer_to_this_very_probe_counts_and_a_reset_follows_it() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut scene = Scene::new();
    let sequence = scene.begin(0);
    let good = syn::Segment {
        from: PORT,
        to: scene.probes.port,
        acknowledged: sequence.wrapping_add(1),
        flags: syn::SYN | syn::ACK,
    };
    let others: [(IpAddr, syn::Segment); 7] = [
        (VIP, syn::Segment { to: good.to ^ 1, ..good }),
        (VIP, syn::Segment { from: PORT + 1, ..good }),
        (address(BackendId(0)), good),
        (VIP, syn::Segment { acknowledged: sequence, ..good }),
        (VIP, syn::Segment { acknowledged: sequence.wrapping_add(2), ..good }),
        (VIP, syn::Segment { flags: syn::ACK, ..good }),
        (VIP, syn::Segment { flags: syn::SYN, ..good }),
    ];
    for (from, segment) in others {
        scene.probes.answer(from, segment);
        assert_eq!(scene.probes.slots[0].flight, Some(sequence), "{from} {segment:?}");
    }
    scene.probes.answer(VIP, good);
    assert_eq!((scene.probes.slots[0].flight, scene.probes.flights.len()), (None, 0));
    assert_eq!(scene.sent_to(0), (good.acknowledged, syn::RST));
    // Once more is once too much; the next probe is another one.
    scene.probes.answer(VIP, good);
    let next = scene.begin(0);
    assert_ne!(next, sequence);
    scene.probes.answer(VIP, good);
    assert_eq!(scene.probes.slots[0].flight, Some(next));
}

#[test]
fn a_backend_is_known_by_its_own_number_which_nobody_foresees() {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let mut numbers = Vec::new();
    for _ in 0..2 {
        let mut scene = Scene::new();
        let sequences = [scene.begin(0), scene.begin(1)];
        numbers.extend(sequences);
        let refused = syn::Segment {
            from: PORT,
            to: scene.probes.port,
            acknowledged: sequences[1].wrapping_add(1),
            flags: syn::RST | syn::ACK,
        };
        scene.probes.answer(VIP, refused);
        let flights = [0, 1].map(|slot: usize| scene.probes.slots[slot].flight);
        assert_eq!(flights, [Some(sequences[0]), None]);
    }
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 4, "each is drawn anew: {numbers:?}");
}
