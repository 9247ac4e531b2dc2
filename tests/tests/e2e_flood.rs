//! A SYN flood beside thousands of connections that live away from home: the flow table loses none of them, and new ones get in.
mod e2e_support;

use e2e_support::*;
use lb_tests::lab::{ConfigOptions, Lab, VIP_V4};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

const PORT: u16 = 9000;
/// Connections that live away from home, more than half of what the flow table holds.
const FLOWS: std::ops::Range<u16> = 20_000..21_000;
/// Forged SYNs a second: ten times what legitimate clients send here.
const RATE: u64 = 2_000;
/// Forged SYNs that are enough to turn a table of 2,048 entries over several times.
const ENOUGH: u64 = 12_000;

/// An IPv4 packet with a SYN from a forged address and port.
fn syn(source: Ipv4Addr, port: u16) -> [u8; 40] {
    let mut packet = [0; 40];
    packet[0] = 0x45;
    packet[3] = 40;
    packet[8] = 64;
    packet[9] = 6;
    packet[12..16].copy_from_slice(&source.octets());
    packet[16..20].copy_from_slice(&VIP_V4.octets());
    packet[20..22].copy_from_slice(&port.to_be_bytes());
    packet[22..24].copy_from_slice(&PORT.to_be_bytes());
    packet[32] = 5 << 4;
    packet[33] = 2;
    packet[34..36].copy_from_slice(&1024_u16.to_be_bytes());
    let mut sum = 6 + 20_u32;
    let words = packet[12..].chunks_exact(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    sum += words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    packet[36..38].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    packet
}

/// Sends forged SYNs from the client's network, at a bounded rate, until told to stop.
fn flood(lab: &Lab, stop: &Arc<AtomicBool>, sent: &Arc<AtomicU64>) -> thread::JoinHandle<()> {
    let netns = lab.client_netns("west").unwrap().clone();
    let (stop, sent) = (stop.clone(), sent.clone());
    let network = lab.topology().client("west").unwrap().v4.octets();
    thread::spawn(move || {
        netns.enter().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(255))).unwrap();
        let to = SockAddr::from(SocketAddr::V4(SocketAddrV4::new(VIP_V4, 0)));
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            for _ in 0..RATE / 100 {
                let mixed = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let host = 100 + (mixed >> 32) as u8 % 100;
                let source = Ipv4Addr::new(network[0], network[1], network[2], host);
                // What the kernel cannot send is not counted.
                if socket.send_to(&syn(source, (mixed >> 40) as u16 | 1024), &to).is_ok() {
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                number += 1;
            }
            thread::sleep(Duration::from_millis(10));
        }
    })
}

#[test]
fn a_syn_flood_does_not_drive_established_flows_out_of_the_flow_table() {
    let lab = raise(2);
    let extra = format!(
        "\n[[service]]\nname = \"live\"\naddress = \"{VIP_V4}\"\nport = {PORT}\nprotocol = \"tcp\"\n\
         [[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\ntable_size = 4093\n"
    );
    let path = lab.write_config(&ConfigOptions { extra, ..quiet() }).unwrap();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("mode =", "flow_entries = 8192\nopening_entries = 4096\nmode ="))
        .unwrap();
    let daemon = lab.start_daemon(&path).unwrap();
    daemon.wait_ready(PATIENCE).unwrap();
    let vip = SocketAddr::from((VIP_V4, PORT));
    let servers = lab.live_servers(vip).unwrap();
    // Three of four backends are drained: most connections open away from home.
    for name in ["w1r1b1", "w1r1b2", "w1r2b1"] {
        done(&daemon, &["backend", "drain", name, "--reason", "flood"]);
    }
    let flows = lab.live_flows("west", vip, FLOWS).unwrap();
    let lives = |round: u64| {
        until("connections exchange bytes", || flows.has_ended(round));
        assert!(flows.broken().is_empty(), "{:?}", flows.broken().iter().next());
        assert!(servers.wrong().is_empty(), "{:?}", servers.wrong());
    };
    lives(flows.next_round());
    let known: Vec<_> = flow_table(&lab).into_keys().collect();
    assert!(known.len() > 600, "{} connections are away from home", known.len());

    let (stop, sent) = (Arc::default(), Arc::default());
    let thread = flood(&lab, &stop, &sent);
    let mut next = FLOWS.end;
    until("the flood turned the openings over", || {
        // New connections get in all the while, one for ten forged ones.
        let forged = sent.load(Ordering::Relaxed);
        if u64::from(next + 5 - FLOWS.end) * 10 <= forged {
            drop(lab.live_flows("west", vip, next..next + 5).unwrap());
            next += 5;
        }
        forged > ENOUGH
    });
    assert!(next - FLOWS.end >= 50, "{} new connections", next - FLOWS.end);
    for name in ["w1r1b1", "w1r1b2", "w1r2b1"] {
        done(&daemon, &["backend", "restore", name, "--reason", "only the flow table keeps them now"]);
    }
    lives(flows.next_round() + 1);
    stop.store(true, Ordering::Relaxed);
    thread.join().unwrap();
    let after = flow_table(&lab);
    let lost = known.iter().filter(|key| !after.contains_key(key)).count();
    assert_eq!(lost, 0, "of {} entries", known.len());
}
