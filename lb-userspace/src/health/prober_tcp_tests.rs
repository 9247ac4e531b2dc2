use std::net::{Ipv4Addr, TcpListener};
use std::time::Instant;

use super::*;
use crate::config::BackendId;
use crate::health::testing::{address, check, config};

const DEADLINE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_are_answered_refused_or_cannot_be_made() {
    let open = TcpListener::bind((address(BackendId(0)), 0)).expect("a loopback address");
    let port = open.local_addr().expect("bound").port();
    let mut config = config(&vec![vec![vec![3]]], vec![check(CheckKind::Tcp { port }, 10)]);
    config.checks[0].timeout = Duration::from_secs(10);
    // Broadcast is refused by TCP itself, whatever the machine's routes.
    config.backends[2].address = Ipv4Addr::BROADCAST.into();
    let (mut gather, _tasks) = spawn(&Targets::new(&config)).expect("inside a runtime");
    let mut last = [Outcome::Unknown; 3];
    let deadline = Instant::now() + DEADLINE;
    while last.contains(&Outcome::Unknown) {
        assert!(Instant::now() < deadline, "no results: {last:?}");
        gather.drain();
        let due_ns = gather.next_ns().expect("TCP targets are due");
        let round = gather.judge(due_ns).expect("due");
        for (last, outcome) in last.iter_mut().zip(round.outcomes) {
            if *outcome != Outcome::Unknown {
                *last = *outcome;
            }
        }
        tokio::task::yield_now().await;
    }
    assert!(matches!(last[0], Outcome::Answered { .. }), "{last:?}");
    assert!(matches!(last[1], Outcome::Missed { how: Miss::Refused, .. }), "{last:?}");
    assert!(matches!(last[2], Outcome::Missed { how: Miss::Unreachable | Miss::Unsent, .. }), "{last:?}");
    assert_eq!(gather.lost(), 0);
}

#[test]
fn without_a_runtime_tcp_targets_cannot_be_probed_but_none_is_fine() {
    let tcp = config(&vec![vec![vec![1]]], vec![check(CheckKind::Tcp { port: 80 }, 100)]);
    assert!(spawn(&Targets::new(&tcp)).is_none());
    let none = config(&vec![vec![vec![1]]], Vec::new());
    let (gather, _) = spawn(&Targets::new(&none)).expect("nothing to probe");
    assert_eq!(gather.next_ns(), None);
}

#[tokio::test]
async fn ticks_that_were_missed_are_one_round() {
    let config = config(&vec![vec![vec![1]]], vec![check(CheckKind::Tcp { port: 80 }, 1000)]);
    let (mut gather, _tasks) = spawn(&Targets::new(&config)).expect("inside a runtime");
    let due_ns = gather.next_ns().expect("due");
    assert!(gather.judge(due_ns - 1).is_none());
    assert!(gather.judge(due_ns + 2_500_000_000).is_some());
    assert!(gather.judge(due_ns + 2_500_000_000).is_none());
    assert_eq!(gather.next_ns(), Some(due_ns + 3_000_000_000));
}
