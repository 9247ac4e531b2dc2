//! Which backend serves each of thousands of flows, by source port.
use super::http;
use crate::lab::{Client, Lab, Netns};
use anyhow::{Context, Result};
use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

/// Flows that are asked at the same time.
const WORKERS: usize = 24;
/// One TCP flow: a SYN that was lost is repeated by the kernel after 1 s and 3 s.
const TCP_TIMEOUT: Duration = Duration::from_secs(5);
/// One UDP attempt.
const UDP_TIMEOUT: Duration = Duration::from_millis(500);
/// Attempts with a UDP flow.
const UDP_TRIES: u32 = 4;

/// What became of each flow, by source port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowMap {
    /// Name of the backend that answered.
    pub served: BTreeMap<u16, String>,
    /// Why nobody did.
    pub failed: BTreeMap<u16, String>,
}

/// A flow that another backend serves than before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Its source port.
    pub port: u16,
    /// Backend before.
    pub from: String,
    /// Backend after; `None` if nobody answers.
    pub to: Option<String>,
}

impl FlowMap {
    /// How many flows each backend serves.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for name in self.served.values() {
            *counts.entry(name.clone()).or_default() += 1;
        }
        counts
    }

    /// The flows that were served before (by `self`) and are served by another backend, or by none, `after`.
    pub fn moved(&self, after: &FlowMap) -> Vec<Moved> {
        let moved = |(&port, from): (&u16, &String)| {
            let to = after.served.get(&port);
            (to != Some(from)).then(|| Moved { port, from: from.clone(), to: to.cloned() })
        };
        self.served.iter().filter_map(moved).collect()
    }
}

impl Lab {
    /// Opens one TCP connection from each of these source ports of a client (1024..=49999) to a web VIP, and asks who
    /// answers. Each is reset when it has its answer, so the same ports can be used again at once.
    ///
    /// # Errors
    /// No such client, or its namespace cannot be entered. A flow that fails is no error: see [`FlowMap::failed`].
    pub fn flow_map(
        &self,
        client: &str,
        vip: SocketAddr,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<FlowMap> {
        self.map_flows(client, ports, |client, port| {
            http::ask(&mut http::connect(http::source(client, vip, port), vip, TCP_TIMEOUT)?)
        })
    }

    /// Sends a datagram from each of these source ports of a client (1024..=49999) to a UDP echo VIP, and asks who
    /// answers; a lost one is repeated.
    ///
    /// # Errors
    /// As [`Lab::flow_map`].
    pub fn udp_flow_map(
        &self,
        client: &str,
        vip: SocketAddr,
        ports: impl IntoIterator<Item = u16>,
    ) -> Result<FlowMap> {
        self.map_flows(client, ports, |client, port| ask_udp(http::source(client, vip, port), vip))
    }

    fn map_flows(
        &self,
        client: &str,
        ports: impl IntoIterator<Item = u16>,
        ask: impl Fn(&Client, u16) -> Result<String> + Sync,
    ) -> Result<FlowMap> {
        let netns: &Netns = self.client_netns(client)?;
        let client = self.topology().client(client)?;
        let ports: Vec<u16> = ports.into_iter().collect();
        let next = AtomicUsize::new(0);
        let map = Mutex::new(FlowMap::default());
        let work = || -> Result<()> {
            netns.enter()?;
            while let Some(&port) = ports.get(next.fetch_add(1, Ordering::Relaxed)) {
                let answer = ask(client, port);
                let mut map = map.lock().unwrap_or_else(PoisonError::into_inner);
                match answer {
                    Ok(name) => map.served.insert(port, name),
                    Err(error) => map.failed.insert(port, format!("{error:#}")),
                };
            }
            Ok(())
        };
        thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS).map(|_| scope.spawn(work)).collect();
            let join = |worker: thread::ScopedJoinHandle<'_, Result<()>>| {
                worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            workers.into_iter().try_for_each(join)
        })?;
        Ok(map.into_inner().unwrap_or_else(PoisonError::into_inner))
    }
}

fn ask_udp(source: SocketAddr, vip: SocketAddr) -> Result<String> {
    let socket = UdpSocket::bind(source).with_context(|| format!("cannot bind {source}"))?;
    socket.connect(vip)?;
    socket.set_read_timeout(Some(UDP_TIMEOUT))?;
    let mut answer = [0; 256];
    let mut result = Err(std::io::ErrorKind::TimedOut.into());
    for _ in 0..UDP_TRIES {
        result = socket.send(b"who?").and_then(|_| socket.recv(&mut answer));
        if let Ok(count) = result {
            return Ok(String::from_utf8_lossy(&answer[..count]).into_owned());
        }
    }
    Err(result.unwrap_err()).context("no answer")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(flows: &[(u16, &str)]) -> FlowMap {
        let served = flows.iter().map(|&(port, name)| (port, name.to_owned())).collect();
        FlowMap { served, failed: BTreeMap::new() }
    }

    #[test]
    fn moved_flows_are_those_that_changed_or_vanished() {
        let (before, after) = (map(&[(1, "a"), (2, "a"), (3, "b")]), map(&[(1, "a"), (2, "b"), (4, "b")]));
        let moved = before.moved(&after);
        assert_eq!(
            moved,
            [
                Moved { port: 2, from: "a".into(), to: Some("b".into()) },
                Moved { port: 3, from: "b".into(), to: None }
            ]
        );
        assert_eq!(before.moved(&before), []);
        assert_eq!(before.counts(), [("a".to_owned(), 2), ("b".to_owned(), 1)].into());
    }
}
