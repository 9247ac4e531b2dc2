//! What somebody wants to see of the packets: the language of filters, and what the data plane is told. Pure.
//!
//! A filter is a list of terms that must all hold, with or without `and` between them:
//!
//! | term | holds for |
//! |---|---|
//! | `host PREFIX`, `src PREFIX`, `dst PREFIX` | an address, or a prefix, at either end, of the client, of the VIP |
//! | `port N[-M]`, `src port N[-M]`, `dst port N[-M]` | ports likewise |
//! | `tcp`, `udp`, `sctp`, `icmp`, `icmp6`, `proto N` | a protocol |
//! | `service NAME` | a service |
//! | `reason NAME[,NAME]` | what is counted under one of these reasons |
//! | `verdict NAME[,NAME]` | `pass`, `drop`, `answer`, `forward` |

use std::fmt;
use std::net::IpAddr;

use lb_common::abi::{
    reason::Reason,
    watch::{AddressMatch, VERDICT_ANSWER, VERDICT_DROP, VERDICT_FORWARD, VERDICT_PASS, WatchFilter},
};
use lb_common::net::{address_bytes, address_words, protocol};

use super::ids::Ids;
use crate::config::{Config, IpPrefix, PrefixError};

/// Characters of a filter at most.
pub const MAX_FILTER_CHARS: usize = 1_024;

/// A filter that was read. Services are names still: which index one has, each generation says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Terms {
    filter: WatchFilter,
    service: Option<String>,
}

/// What is wrong with a filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("filter: {0}")]
pub struct FilterError(String);

impl Terms {
    /// Reads a filter. An empty one matches everything.
    ///
    /// # Errors
    /// What is wrong, with the word where.
    pub fn parse(text: &str) -> Result<Self, FilterError> {
        if text.len() > MAX_FILTER_CHARS {
            return Err(FilterError(format!("longer than {MAX_FILTER_CHARS} characters")));
        }
        let mut terms = Self { filter: WatchFilter::ALL, service: None };
        let mut words = text.split_whitespace();
        let mut said: Vec<&'static str> = Vec::new();
        while let Some(word) = words.next() {
            if word == "and" && !said.is_empty() {
                continue;
            }
            let term = terms.term(word, &mut words)?;
            if said.contains(&term) {
                return Err(FilterError(format!(
                    "`{term}` is there twice; all terms must hold, and several reasons or verdicts are written with commas"
                )));
            }
            said.push(term);
        }
        Ok(terms)
    }

    /// Reads one term and says which it is.
    fn term<'a>(
        &mut self,
        word: &str,
        words: &mut impl Iterator<Item = &'a str>,
    ) -> Result<&'static str, FilterError> {
        let mut next = |what: &str| {
            words.next().ok_or_else(|| FilterError(format!("{what} is missing behind `{word}`")))
        };
        let filter = &mut self.filter;
        match word {
            "host" => filter.host = prefix(next("an address or prefix")?)?,
            "port" => filter.ports = ports(next("a port")?)?,
            "src" | "dst" => {
                let is_source = word == "src";
                let value = next("an address, a prefix or `port`")?;
                if value == "port" {
                    let value = ports(next("a port")?)?;
                    let place =
                        if is_source { &mut filter.source_ports } else { &mut filter.destination_ports };
                    *place = value;
                    return Ok(if is_source { "src port" } else { "dst port" });
                }
                *(if is_source { &mut filter.source } else { &mut filter.destination }) = prefix(value)?;
            }
            "tcp" => filter.protocol = protocol::TCP.into(),
            "udp" => filter.protocol = protocol::UDP.into(),
            "sctp" => filter.protocol = protocol::SCTP.into(),
            "icmp" => filter.protocol = protocol::ICMP.into(),
            "icmp6" => filter.protocol = protocol::ICMPV6.into(),
            "proto" => {
                let value = next("a number")?;
                let number: u8 = value.parse().map_err(|_| {
                    FilterError(format!("{} is no protocol number (0 to 255)", quoted(value)))
                })?;
                filter.protocol = number.into();
            }
            "service" => self.service = Some(next("a name")?.to_owned()),
            "reason" => filter.reasons = each(next("a reason")?, reason_bit)?,
            "verdict" => filter.verdicts = each(next("a verdict")?, verdict_bit)? as u16,
            other => {
                return Err(FilterError(format!(
                    "{} is none of host, src, dst, port, tcp, udp, sctp, icmp, icmp6, proto, service, reason and verdict",
                    quoted(other)
                )));
            }
        }
        const NAMES: [&str; 7] = ["host", "port", "src", "dst", "service", "reason", "verdict"];
        // All ways to say a protocol are one term.
        Ok(NAMES.into_iter().find(|name| *name == word).unwrap_or("proto"))
    }

    /// What the data plane is told: one of `every` packets, of the configuration whose indices these are. `None` if it has no service of
    /// the name.
    #[must_use]
    pub fn filter(&self, config: &Config, ids: &Ids, every: u32) -> Option<WatchFilter> {
        let service = match &self.service {
            None => WatchFilter::ANY_SERVICE,
            Some(name) => ids.service(config.find_service(name)?).0,
        };
        Some(WatchFilter { service, sample: u32::MAX / every.max(1), ..self.filter })
    }

    /// Whether a term is about what became of a packet.
    #[must_use]
    pub const fn is_about_fate(&self) -> bool {
        self.filter.reasons != WatchFilter::ALL.reasons || self.filter.verdicts != WatchFilter::ALL.verdicts
    }

    /// Name of the service, if there must be one.
    #[must_use]
    pub fn service(&self) -> Option<&str> {
        self.service.as_deref()
    }
}

fn quoted(text: &str) -> impl fmt::Display {
    format!("\"{}\"", text.escape_debug())
}

fn prefix(text: &str) -> Result<AddressMatch, FilterError> {
    let bad =
        || FilterError(format!("{} is no address or prefix, as 198.51.100.7 or 2001:db8::/32", quoted(text)));
    let prefix = match text.parse::<IpAddr>() {
        Ok(address) => (address, 128),
        Err(_) => {
            let prefix = IpPrefix::parse(text).map_err(|error| match error {
                PrefixError::HostBits { corrected } => {
                    FilterError(format!("{text} has bits beyond its length; did you mean {corrected}?"))
                }
                _ => bad(),
            })?;
            let address = prefix.address();
            (address, u32::from(prefix.length()) + if address.is_ipv4() { 96 } else { 0 })
        }
    };
    let (address, bits) = prefix;
    let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
    let value = u128::from_be_bytes(address_bytes(address)) & mask;
    Ok(AddressMatch { mask: address_words(&mask.to_be_bytes()), value: address_words(&value.to_be_bytes()) })
}

fn ports(text: &str) -> Result<[u16; 2], FilterError> {
    let bad = || FilterError(format!("{} is no port or range of ports, as 443 or 8000-8099", quoted(text)));
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
    if first <= last { Ok([first, last]) } else { Err(bad()) }
}

/// The bits of a list with commas.
fn each(text: &str, bit: fn(&str) -> Result<u64, FilterError>) -> Result<u64, FilterError> {
    text.split(',').try_fold(0, |bits, name| Ok(bits | bit(name)?))
}

fn reason_bit(name: &str) -> Result<u64, FilterError> {
    let found = Reason::ALL.iter().find(|reason| reason.name() == name);
    found.map(|reason| 1 << *reason as u32).ok_or_else(|| {
        let names: Vec<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
        FilterError(format!("there is no reason {}; there are {}", quoted(name), names.join(", ")))
    })
}

fn verdict_bit(name: &str) -> Result<u64, FilterError> {
    let number = match name {
        "pass" => VERDICT_PASS,
        "drop" => VERDICT_DROP,
        "answer" => VERDICT_ANSWER,
        "forward" => VERDICT_FORWARD,
        _ => return Err(FilterError(format!("{} is none of pass, drop, answer and forward", quoted(name)))),
    };
    Ok(1 << number)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::abi::watch::WatchRecord;
    use lb_common::datapath::watch::matches;

    fn record(source: &str, destination: &str, ports: (u16, u16)) -> WatchRecord {
        let words = |text: &str| address_words(&address_bytes(text.parse().unwrap()));
        let ([a, b], [c, d]) = (ports.0.to_be_bytes(), ports.1.to_be_bytes());
        WatchRecord {
            source: words(source),
            destination: words(destination),
            ports: u32::from_ne_bytes([a, b, c, d]),
            protocol: protocol::TCP,
            verdict: VERDICT_FORWARD,
            reason: Reason::Forwarded as u32,
            ..WatchRecord::default()
        }
    }

    #[test]
    fn filters_mean_what_they_say() {
        let packet = record("198.51.100.7", "192.0.2.10", (40_000, 443));
        let v6 = record("2001:db8:a::7", "2001:db8::10", (40_000, 443));
        for (text, of_v4, of_v6) in [
            ("", true, true),
            ("host 198.51.100.7", true, false),
            ("host 192.0.2.0/24 and tcp", true, false),
            ("src 0.0.0.0/0", true, false),
            ("src ::/0", true, true),
            ("src 2001:db8:a::/48", false, true),
            ("dst 2001:db8::10", false, true),
            ("dst 198.51.100.7", false, false),
            ("port 443", true, true),
            ("src port 443", false, false),
            ("src port 40000 dst port 400-443", true, true),
            ("udp", false, false),
            ("proto 6", true, true),
            ("reason forwarded", true, true),
            ("reason all_down,malformed", false, false),
            ("verdict drop,forward", true, true),
            ("verdict drop", false, false),
        ] {
            let filter = Terms::parse(text).unwrap().filter;
            assert_eq!((matches(&filter, &packet, 0), matches(&filter, &v6, 0)), (of_v4, of_v6), "{text}");
        }
    }

    #[test]
    fn a_filter_is_for_a_service_and_a_sample_of_the_configuration_that_runs() {
        let text = "[node]\nname = \"e\"\nregion = \"r\"\ninterfaces = [\"eth0\"]\ntunnel_source_v4 = \"10.255.0.0/16\"\n\
                    hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n[topology.r]\nz = [\"k\"]\n\
                    [[set]]\nname = \"s\"\ndomain = \"r/z/k\"\nchecks = []\n[[set.backend]]\nname = \"b\"\nrack = \"r/z/k\"\n\
                    address = \"10.1.0.1\"\n"
            .to_owned();
        let service = |name: &str, port: u16| {
            format!(
                "[[service]]\nname = \"{name}\"\naddress = \"192.0.2.10\"\nport = {port}\nprotocol = \"tcp\"\n\
                 [[service.pool]]\nname = \"p\"\nsets = [\"s\"]\n"
            )
        };
        let config = Config::parse(&(text + &service("mail", 25) + &service("web", 80)), "t").unwrap();
        let ids = crate::plan::compile::compile(&config).unwrap().ids;
        let filter = |text: &str, every| Terms::parse(text).unwrap().filter(&config, &ids, every);
        let index = |name: &str| ids.service(config.find_service(name).unwrap()).0;
        assert_ne!(index("mail"), index("web"));
        for name in ["mail", "web"] {
            assert_eq!(filter(&format!("service {name}"), 1).unwrap().service, index(name));
        }
        assert_eq!(filter("tcp", 1).unwrap().service, WatchFilter::ANY_SERVICE);
        assert_eq!(
            filter("service gone", 1),
            None,
            "whose service is not there sees nothing, not everything"
        );
        for (every, most) in [(1, u32::MAX), (2, u32::MAX / 2), (1_000, u32::MAX / 1_000), (0, u32::MAX)] {
            assert_eq!(filter("", every).unwrap().sample, most, "one of {every}");
        }
    }

    #[test]
    fn mistakes_are_told_with_a_way_out() {
        for (text, hint) in [
            ("hots 1.2.3.4", "\"hots\" is none of host, src, dst"),
            ("and tcp", "\"and\" is none of"),
            ("host", "an address or prefix is missing behind `host`"),
            ("src port", "a port is missing behind `src`"),
            ("host 1.2.3.4/24", "did you mean 1.2.3.0/24?"),
            ("host 1.2.3", "is no address or prefix"),
            ("port 443-80", "is no port or range"),
            ("port http", "is no port or range"),
            ("proto 256", "is no protocol number"),
            ("tcp udp", "`proto` is there twice"),
            ("reason gone", "there are forwarded, pass_not_ip"),
            ("verdict no", "is none of pass, drop, answer and forward"),
        ] {
            let error = Terms::parse(text).unwrap_err().to_string();
            assert!(error.contains(hint), "{text}: {error}");
        }
        assert!(Terms::parse(&"a".repeat(2000)).is_err());
    }
}
