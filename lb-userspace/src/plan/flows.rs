//! What the tables of flows hold, as operators see it: a filter, and one entry in words. Pure.
//!
//! A filter is that of [`watch`](super::watch), without the terms that are about single packets (`reason`, `verdict`), and with two more:
//!
//! | term | holds for |
//! |---|---|
//! | `backend NAME` | flows that go to this backend |
//! | `state NAME` | `opening`, `established` or `closing` flows |

use std::net::{Ipv6Addr, SocketAddr};

use lb_common::abi::flow::{FLOW_CLOSING, FlowEntry, FlowKey, FlowWords};
use lb_common::abi::watch::{NO_INDEX, WatchFilter, WatchRecord};
use lb_common::datapath::flow::FlowTable;
use lb_common::datapath::parse::Tuple;
use lb_common::datapath::ports::Tables;
use lb_common::datapath::watch::matches;
use lb_common::datapath::{classify, hash};
use lb_common::net::protocol;

use super::ids::{BackendIndex, Ids, ServiceIndex};
use super::walker::{age, home};
use super::watch::Terms;
use crate::api::types::{FlowState, FlowView};
use crate::config::Config;

/// A filter that was read. Names are names still: which index one has, each generation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFilter {
    terms: Terms,
    backend: Option<String>,
    state: Option<FlowState>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlowFilterError {
    /// It cannot be read.
    #[error("{0}")]
    Invalid(String),
    /// It names something that is not there: of which kind, and the name.
    #[error("there is no {0} \"{1}\"")]
    Unknown(&'static str, String),
}

impl FlowFilter {
    /// Reads a filter. An empty one matches every flow.
    ///
    /// # Errors
    /// What is wrong, with the word where.
    pub fn parse(text: &str) -> Result<Self, FlowFilterError> {
        let invalid = |text: String| FlowFilterError::Invalid(text);
        let (mut backend, mut state) = (None, None);
        let mut rest: Vec<&str> = Vec::new();
        let mut words = text.split_whitespace();
        let mut is_first = true;
        while let Some(word) = words.next() {
            if word == "and" && !is_first {
                continue;
            }
            is_first = false;
            let twice = match word {
                "backend" | "state" => {
                    let value = words
                        .next()
                        .ok_or_else(|| invalid(format!("filter: a name is missing behind `{word}`")))?;
                    match word {
                        "backend" => backend.replace(value.to_owned()).is_some(),
                        _ => state.replace(flow_state(value).map_err(invalid)?).is_some(),
                    }
                }
                "service" => {
                    rest.push(word);
                    // A service may be called like a term.
                    rest.extend(words.next());
                    false
                }
                _ => {
                    rest.push(word);
                    false
                }
            };
            if twice {
                return Err(invalid(format!("filter: `{word}` is there twice; all terms must hold")));
            }
        }
        let terms = Terms::parse(&rest.join(" ")).map_err(|error| invalid(error.to_string()))?;
        if terms.is_about_fate() {
            return Err(invalid(
                "filter: `reason` and `verdict` are about packets, and flows have neither".to_owned(),
            ));
        }
        Ok(Self { terms, backend, state })
    }

    /// What to look for among the entries of a configuration.
    ///
    /// # Errors
    /// That it names a service or a backend that the configuration does not have.
    pub fn select(&self, config: &Config, ids: &Ids) -> Result<Selection, FlowFilterError> {
        let filter = self.terms.filter(config, ids, 1).ok_or_else(|| {
            FlowFilterError::Unknown("service", self.terms.service().unwrap_or_default().to_owned())
        })?;
        let backend = self.backend.as_ref().map(|name| {
            let id = config.find_backend(name);
            id.map(|id| ids.backend(id)).ok_or_else(|| FlowFilterError::Unknown("backend", name.clone()))
        });
        Ok(Selection { filter, backend: backend.transpose()?, state: self.state })
    }
}

fn flow_state(name: &str) -> Result<FlowState, String> {
    FlowState::ALL.into_iter().find(|state| state.name() == name).ok_or_else(|| {
        format!("filter: \"{}\" is none of opening, established and closing", name.escape_debug())
    })
}

/// What to look for, in the numbers of one generation.
#[derive(Clone, Copy, Debug)]
pub struct Selection {
    filter: WatchFilter,
    backend: Option<BackendIndex>,
    state: Option<FlowState>,
}

/// Reads entries of the tables of flows.
pub struct Reader<'a, T> {
    tables: &'a T,
    config: &'a Config,
    ids: &'a Ids,
    selection: Selection,
    now_ns: u64,
}

/// An entry that matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Match {
    service: Option<u32>,
    /// The backend at which the flow would be at home; none if no service takes it any more.
    home: Option<BackendIndex>,
    state: FlowState,
    /// Whether it goes elsewhere than home: without its entry it would go home.
    pub away: bool,
}

impl<'a, T: Tables> Reader<'a, T> {
    /// Reads entries of a generation, at a moment of the monotonic clock.
    pub const fn new(
        tables: &'a T,
        (config, ids): (&'a Config, &'a Ids),
        selection: Selection,
        now_ns: u64,
    ) -> Self {
        Self { tables, config, ids, selection, now_ns }
    }

    /// What an entry is, if it matches.
    pub fn look(&self, table: FlowTable, key: &FlowKey, entry: &FlowEntry) -> Option<Match> {
        let Selection { filter, backend, state: wanted } = &self.selection;
        let state = match table {
            FlowTable::Openings => FlowState::Opening,
            FlowTable::Flows if entry.seen & FLOW_CLOSING != 0 => FlowState::Closing,
            FlowTable::Flows => FlowState::Established,
        };
        if backend.is_some_and(|wanted| wanted.0 != entry.backend) || wanted.is_some_and(|w| w != state) {
            return None;
        }
        let tuple = Tuple::of(&FlowWords::of(key));
        let root = self.tables.root()?;
        let service = classify::service(self.tables, root, &tuple).map(|(index, _)| index);
        let record = WatchRecord {
            source: tuple.source,
            destination: tuple.destination,
            ports: tuple.ports,
            protocol: key.protocol,
            service: service.unwrap_or(NO_INDEX),
            ..WatchRecord::default()
        };
        if !matches(filter, &record, 0) {
            return None;
        }
        let home = home(self.tables, &tuple, hash::flow_hash(&root.hash_key, &tuple));
        let home = home.map(|home| BackendIndex(home.member));
        Some(Match { service, home, state, away: home.is_some_and(|home| home.0 != entry.backend) })
    }

    /// An entry that matches, in words.
    #[must_use]
    pub fn view(&self, key: &FlowKey, entry: &FlowEntry, found: &Match) -> FlowView {
        let service = found.service.map(|index| {
            let id = self.ids.service_id(ServiceIndex(index));
            id.map_or_else(|| format!("service {index}"), |id| self.config[id].name.clone())
        });
        let units = u64::from(age((self.now_ns >> 30) as u32, entry.seen).unwrap_or(0));
        FlowView {
            src: end(&key.source, key.source_port),
            dst: end(&key.destination, key.destination_port),
            protocol: protocol_name(key.protocol),
            service,
            backend: self.backend(BackendIndex(entry.backend)),
            home: found.home.map(|home| self.backend(home)),
            away: found.away,
            state: found.state,
            idle_s: (units << 30) / 1_000_000_000,
            relayed: key.origin != 0,
        }
    }

    fn backend(&self, index: BackendIndex) -> String {
        let id = self.ids.backend_id(index);
        id.map_or_else(|| format!("backend {}", index.0), |id| self.config[id].name.clone())
    }
}

fn end(address: &[u8; 16], port: [u8; 2]) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(*address).to_canonical(), u16::from_be_bytes(port))
}

fn protocol_name(number: u8) -> String {
    match number {
        protocol::TCP => "tcp".to_owned(),
        protocol::UDP => "udp".to_owned(),
        protocol::SCTP => "sctp".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use lb_common::abi::pod::Pod;
    use lb_common::net::address_bytes;

    use super::super::compile::compile;
    use super::super::image::ImageTables;
    use super::super::walker::tests::TEXT;
    use super::*;

    const NOW_NS: u64 = 10_000 << 30;

    fn key(client: [u8; 4], port: u16) -> FlowKey {
        FlowKey {
            source: address_bytes(IpAddr::from(client)),
            destination: address_bytes(IpAddr::from([192, 0, 2, 10])),
            source_port: 40_000_u16.to_be_bytes(),
            destination_port: port.to_be_bytes(),
            protocol: 6,
            ..FlowKey::zeroed()
        }
    }

    /// What of three entries a filter finds: one that opens, one that is established, and one that is closing and of no service.
    fn found(filter: &str) -> Vec<FlowView> {
        let config = Config::parse(TEXT, "t").unwrap();
        let tables = ImageTables::new(compile(&config).unwrap());
        let ids = Ids::equal(2, 1);
        let selection = FlowFilter::parse(filter).unwrap().select(&config, &ids).unwrap();
        let reader = Reader::new(&tables, (&config, &ids), selection, NOW_NS);
        let entries = [
            (FlowTable::Openings, key([198, 51, 100, 7], 80), FlowEntry { backend: 0, seen: 10_000 }),
            (FlowTable::Flows, key([203, 0, 113, 9], 80), FlowEntry { backend: 1, seen: 9_000 }),
            (
                FlowTable::Flows,
                key([203, 0, 113, 9], 81),
                FlowEntry { backend: 7, seen: 9_999 | FLOW_CLOSING },
            ),
        ];
        let look = |(table, key, entry): &(_, _, _)| {
            reader.look(*table, key, entry).map(|found| reader.view(key, entry, &found))
        };
        entries.iter().filter_map(look).collect()
    }

    #[test]
    fn an_entry_says_who_where_and_for_how_long() {
        let all = found("");
        assert_eq!(all.len(), 3);
        assert_eq!(all[0].src, "198.51.100.7:40000".parse().unwrap());
        assert_eq!((all[0].dst, &*all[0].protocol), ("192.0.2.10:80".parse().unwrap(), "tcp"));
        assert_eq!((all[0].service.as_deref(), &*all[0].backend, all[0].idle_s), (Some("web"), "a", 0));
        assert_eq!((all[1].state, all[1].idle_s), (FlowState::Established, 1_073));
        assert_eq!(
            (all[2].state, all[2].service.as_deref(), &*all[2].backend),
            (FlowState::Closing, None, "backend 7")
        );
        for flow in &all[..2] {
            assert_eq!(flow.away, flow.home.as_deref() != Some(&*flow.backend), "{flow:?}");
        }
        assert_eq!((&all[2].home, all[2].away), (&None, false));
    }

    #[test]
    fn every_entry_is_away_or_at_home_by_its_backend_alone() {
        let config = Config::parse(TEXT, "t").unwrap();
        let tables = ImageTables::new(compile(&config).unwrap());
        let ids = Ids::equal(2, 1);
        let selection = FlowFilter::parse("").unwrap().select(&config, &ids).unwrap();
        let reader = Reader::new(&tables, (&config, &ids), selection, NOW_NS);
        let away = |backend| {
            let entry = FlowEntry { backend, seen: 10_000 };
            reader.look(FlowTable::Flows, &key([198, 51, 100, 7], 80), &entry).unwrap().away
        };
        assert_ne!(away(0), away(1));
    }

    #[test]
    fn all_terms_must_hold() {
        let ports = |filter: &str| -> Vec<(u16, FlowState)> {
            found(filter).iter().map(|flow| (flow.dst.port(), flow.state)).collect()
        };
        let (opening, established, closing) =
            ((80, FlowState::Opening), (80, FlowState::Established), (81, FlowState::Closing));
        for (filter, expected) in [
            ("src 203.0.113.0/24", vec![established, closing]),
            ("service web", vec![opening, established]),
            ("backend b", vec![established]),
            ("backend a and tcp", vec![opening]),
            ("tcp and backend a", vec![opening]),
            ("state closing", vec![closing]),
            ("dst port 80 and state established and tcp", vec![established]),
            ("udp", vec![]),
        ] {
            assert_eq!(ports(filter), expected, "{filter}");
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (filter, hint) in [
            ("backend", "a name is missing behind `backend`"),
            ("state open", "\"open\" is none of opening"),
            ("backend a backend b", "`backend` is there twice"),
            ("reason all_down", "about packets"),
            ("verdict drop", "about packets"),
            ("and tcp", "\"and\" is none of"),
            ("hots 1.2.3.4", "is none of host"),
        ] {
            let error = FlowFilter::parse(filter).unwrap_err().to_string();
            assert!(error.contains(hint), "{filter}: {error}");
        }
        let config = Config::parse(TEXT, "t").unwrap();
        let unknown = |filter: &str| {
            FlowFilter::parse(filter).unwrap().select(&config, &Ids::equal(2, 1)).unwrap_err().to_string()
        };
        assert_eq!(unknown("service nope"), "there is no service \"nope\"");
        assert_eq!(unknown("backend nope"), "there is no backend \"nope\"");
    }
}
