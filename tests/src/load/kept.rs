//! Connections that are opened once and then asked again and again, by source port.
use super::http;
use crate::lab::Lab;
use anyhow::{Context, Result, ensure};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

/// How long opening, and each answer, may take: a lost SYN is repeated by the kernel after 1 s and 3 s.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Open connections of one client to one VIP. Dropping them resets them.
#[derive(Debug, Default)]
pub struct KeptFlows(BTreeMap<u16, Kept>);

#[derive(Debug)]
struct Kept {
    stream: TcpStream,
    /// Who answered first.
    backend: String,
}

/// What came of asking once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// Connections on which the backend that had taken them answered.
    pub answered: usize,
    /// What went wrong on the others, by source port.
    pub broken: BTreeMap<u16, String>,
}

impl Lab {
    /// Opens a connection from each of these source ports of a client (1024..=49999) to a web VIP, and asks who answers.
    ///
    /// # Errors
    /// No such client, or one of them is not answered.
    pub fn keep_flows(
        &self,
        client: &str,
        vip: SocketAddr,
        ports: impl IntoIterator<Item = u16> + Send,
    ) -> Result<KeptFlows> {
        let of = self.topology().client(client)?;
        let open = |port: u16| -> Result<(u16, Kept)> {
            let mut stream = http::connect(http::source(of, vip, port), vip, TIMEOUT)?;
            let backend = http::ask(&mut stream)?;
            Ok((port, Kept { stream, backend }))
        };
        let open = |port| open(port).with_context(|| format!("port {port} of {client} to {vip}"));
        self.client_netns(client)?.run(|| ports.into_iter().map(open).collect::<Result<_>>()).map(KeptFlows)
    }
}

impl KeptFlows {
    /// The backend of each connection, in the order of source ports.
    pub fn backends(&self) -> impl Iterator<Item = &str> {
        self.0.values().map(|kept| kept.backend.as_str())
    }

    /// Sends a request on each connection whose backend is not in `gone`.
    pub fn ask(&mut self, gone: &BTreeSet<String>) -> Asked {
        let mut asked = Asked::default();
        for (&port, kept) in self.0.iter_mut().filter(|(_, kept)| !gone.contains(&kept.backend)) {
            match http::ask(&mut kept.stream).and_then(|name| kept.check(&name)) {
                Ok(()) => asked.answered += 1,
                Err(error) => drop(asked.broken.insert(port, format!("{}: {error:#}", kept.backend))),
            }
        }
        asked
    }

    /// Sends a last request on each connection and reads to its end; returns what went wrong, by source port.
    #[must_use]
    pub fn finish(self) -> BTreeMap<u16, String> {
        let mut broken = BTreeMap::new();
        for (port, mut kept) in self.0 {
            if let Err(error) = http::ask_last(&mut kept.stream).and_then(|name| kept.check(&name)) {
                broken.insert(port, format!("{}: {error:#}", kept.backend));
            }
        }
        broken
    }
}

impl Kept {
    fn check(&self, name: &str) -> Result<()> {
        ensure!(name == self.backend, "{name} answered");
        Ok(())
    }
}
