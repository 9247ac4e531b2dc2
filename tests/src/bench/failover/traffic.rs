//! Steady traffic of many flows: datagrams that backends answer with their name. What is not answered, or by another backend than
//! the flow's own, is told.
use crate::{
    clock::monotonic_ns,
    lab::{Lab, echo_vips},
};
use anyhow::{Context, Result};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::UdpSocket,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

/// Flows.
pub(super) const FLOWS: u16 = 1_200;
/// Their first source port.
const FIRST_PORT: u16 = 22_000;
/// Requests a second of all flows together.
const RATE: u64 = 2_400;

/// What became of a request.
#[derive(Clone, Debug)]
pub(super) struct Record {
    /// The flow.
    pub(super) port: u16,
    /// Who answered; none if nobody did until the flow's next request.
    pub(super) server: Option<Arc<str>>,
    /// When that was known.
    pub(super) at_ns: u64,
}

/// Traffic that goes on until it is dropped.
pub(super) struct Steady {
    stop: Arc<AtomicBool>,
    records: Arc<Mutex<Vec<Record>>>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    /// Begins to send, from the client in the west to the v4 echo VIP.
    pub(super) fn start(lab: &Lab) -> Result<Self> {
        let vip = echo_vips()[0];
        let address = lab.topology().client("west")?.v4;
        let netns = lab.client_netns("west")?.clone();
        let sockets = netns.run(|| {
            let open = |port: u16| -> Result<UdpSocket> {
                let socket = UdpSocket::bind((address, port)).with_context(|| format!("port {port}"))?;
                socket.connect(vip)?;
                socket.set_nonblocking(true)?;
                Ok(socket)
            };
            (FIRST_PORT..FIRST_PORT + FLOWS).map(open).collect::<Result<Vec<_>>>()
        })?;
        let (stop, records) = (Arc::<AtomicBool>::default(), Arc::<Mutex<Vec<Record>>>::default());
        let thread = thread::spawn({
            let (stop, records) = (stop.clone(), records.clone());
            move || {
                if let Err(error) = send(&sockets, &stop, &records) {
                    eprintln!("bench failover: the traffic ended: {error:#}");
                }
            }
        });
        Ok(Self { stop, records, thread: Some(thread) })
    }

    /// Forgets what was recorded so far.
    pub(super) fn forget(&self) {
        lock(&self.records).clear();
    }

    /// What was recorded.
    pub(super) fn records(&self) -> Vec<Record> {
        lock(&self.records).clone()
    }

    /// The backend of each flow, while everything is well: until every flow was answered since this call.
    pub(super) fn homes(&self, timeout: Duration) -> Result<BTreeMap<u16, Arc<str>>> {
        self.forget();
        let mut homes = BTreeMap::new();
        super::wait("every flow is answered", timeout, || {
            let records = self.records();
            homes.extend(records.into_iter().filter_map(|record| Some((record.port, record.server?))));
            Ok((homes.len() == usize::from(FLOWS)).then_some(()))
        })?;
        Ok(homes)
    }
}

/// What a fault did to the traffic.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Harm {
    /// Requests that nobody answered.
    pub(super) lost: usize,
    /// Flows of backends that are well, and that another backend answered.
    pub(super) moved: usize,
}

/// Flows that moved from one backend to another.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Moved {
    pub(super) ports: BTreeSet<u16>,
    /// When the first one was answered there.
    pub(super) first_ns: u64,
}

/// Flows that moved though their backend is well, by that backend and the one that answered.
pub(super) type Moves = BTreeMap<(Arc<str>, Arc<str>), Moved>;

/// What a fault that took out the backends of `dead` did.
pub(super) fn harm(
    records: &[Record],
    homes: &BTreeMap<u16, Arc<str>>,
    dead: &BTreeSet<String>,
) -> (Harm, Moves) {
    let mut moves = Moves::new();
    let mut lost = 0;
    for record in records {
        let home = &homes[&record.port];
        match &record.server {
            None => lost += 1,
            Some(server) if server != home && !dead.contains(&**home) => {
                let first = Moved { ports: BTreeSet::new(), first_ns: record.at_ns };
                let moved = moves.entry((home.clone(), server.clone())).or_insert(first);
                moved.ports.insert(record.port);
            }
            Some(_) => {}
        }
    }
    let ports: BTreeSet<_> = moves.values().flat_map(|moved| &moved.ports).collect();
    (Harm { lost, moved: ports.len() }, moves)
}

/// Flows whose last record is not an answer of their home, or that have none.
pub(super) fn astray(records: &[Record], homes: &BTreeMap<u16, Arc<str>>) -> BTreeSet<u16> {
    let mut away: BTreeSet<u16> = homes.keys().copied().collect();
    for record in records {
        if record.server.as_ref() == homes.get(&record.port) {
            away.remove(&record.port);
        } else {
            away.insert(record.port);
        }
    }
    away
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has no result, and a panic of it was printed.
            let _ = thread.join();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn send(sockets: &[UdpSocket], stop: &AtomicBool, records: &Mutex<Vec<Record>>) -> Result<()> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (index, socket) in sockets.iter().enumerate() {
        epoll.add(socket, EpollEvent::new(EpollFlags::EPOLLIN, index as u64))?;
    }
    let port = |index: usize| FIRST_PORT + index as u16;
    let mut names: BTreeMap<Vec<u8>, Arc<str>> = BTreeMap::new();
    // Whether a flow's last request was not answered yet.
    let mut waiting = vec![false; sockets.len()];
    let mut events = [EpollEvent::empty(); 64];
    let period_ns = 1_000_000_000 / RATE;
    let (mut next_ns, mut next) = (monotonic_ns(), 0);
    while !stop.load(Ordering::Relaxed) {
        let now_ns = monotonic_ns();
        if now_ns >= next_ns {
            // What was missed is left out: it would come as a burst.
            next_ns = now_ns.max(next_ns) + period_ns;
            if std::mem::replace(&mut waiting[next], true) {
                lock(records).push(Record { port: port(next), server: None, at_ns: now_ns });
            }
            // An "unreachable" that came back to the socket is told as a request without an answer.
            let _ = sockets[next].send(b"who?");
            next = (next + 1) % sockets.len();
        }
        let count = epoll.wait(&mut events, EpollTimeout::ZERO)?;
        for event in &events[..count] {
            let index = event.data() as usize;
            let mut answer = [0; 64];
            while let Ok(length) = sockets[index].recv(&mut answer) {
                if !std::mem::replace(&mut waiting[index], false) {
                    continue;
                }
                let name = &answer[..length];
                let server =
                    names.entry(name.to_vec()).or_insert_with(|| String::from_utf8_lossy(name).into());
                let (port, server) = (port(index), Some(server.clone()));
                lock(records).push(Record { port, server, at_ns: monotonic_ns() });
            }
        }
        if count == 0 {
            thread::sleep(Duration::from_nanos(next_ns.saturating_sub(monotonic_ns()).min(period_ns)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn homes() -> BTreeMap<u16, Arc<str>> {
        [(1, "a"), (2, "b"), (3, "c")].map(|(port, name)| (port, Arc::from(name))).into()
    }

    fn record(port: u16, server: Option<&str>, at_ns: u64) -> Record {
        Record { port, server: server.map(Arc::from), at_ns }
    }

    #[test]
    fn harm_is_what_is_lost_and_who_moved_without_need() {
        let records = [
            record(1, None, 10),
            record(1, Some("b"), 11),
            record(2, Some("b"), 12),
            record(3, Some("b"), 13),
            record(3, Some("b"), 14),
            record(3, Some("a"), 15),
        ];
        let dead = BTreeSet::from(["a".to_owned()]);
        let (harm, moves) = harm(&records, &homes(), &dead);
        assert_eq!(harm, Harm { lost: 1, moved: 1 });
        let moved = |first_ns| Moved { ports: [3].into(), first_ns };
        let expected = [(("c".into(), "a".into()), moved(15)), (("c".into(), "b".into()), moved(13))];
        assert_eq!(moves, Moves::from(expected));
    }

    #[test]
    fn who_was_not_answered_by_his_home_last_is_astray() {
        let mut records = vec![record(1, Some("a"), 1), record(2, Some("c"), 2)];
        assert_eq!(astray(&records, &homes()), [2, 3].into());
        records.extend([record(2, Some("b"), 3), record(3, Some("c"), 4), record(1, None, 5)]);
        assert_eq!(astray(&records, &homes()), [1].into());
        records.push(record(1, Some("a"), 6));
        assert_eq!(astray(&records, &homes()), BTreeSet::new());
    }
}
