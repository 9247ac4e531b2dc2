//! What a service is reached at: an address or a prefix, and its ports.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::model::Protocol;
use super::prefix::IpPrefix;

/// A virtual IP: one address, or all of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Vip(IpPrefix);

impl Vip {
    /// The address, or the first one of the prefix.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.0.address()
    }

    /// The prefix, if it is not one address.
    #[must_use]
    pub const fn prefix(self) -> Option<IpPrefix> {
        if self.0.length() == full_length(self.0.address()) { None } else { Some(self.0) }
    }

    /// Whether `address` is it, or lies in it.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Whether all of `other` lies in it.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        self.0.length() <= other.0.length() && self.0.contains(other.address())
    }
}

const fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

impl From<IpAddr> for Vip {
    fn from(address: IpAddr) -> Self {
        Self(IpPrefix::containing(address, full_length(address)))
    }
}

impl From<IpPrefix> for Vip {
    fn from(prefix: IpPrefix) -> Self {
        Self(prefix)
    }
}

impl fmt::Display for Vip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.prefix() {
            Some(prefix) => prefix.fmt(f),
            None => self.address().fmt(f),
        }
    }
}

impl FromStr for Vip {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = if text.contains('/') {
            IpPrefix::parse(text).ok().map(Self)
        } else {
            text.parse::<IpAddr>().ok().map(Self::from)
        };
        parsed.ok_or_else(|| format!("\"{}\" is neither an address nor a prefix", text.escape_debug()))
    }
}

impl Serialize for Vip {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Vip {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// The ports of a service: one, a range, or any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    first: u16,
    last: u16,
}

impl Ports {
    /// All ports.
    pub const ANY: Self = Self { first: 0, last: u16::MAX };

    /// One port.
    #[must_use]
    pub const fn one(port: u16) -> Self {
        Self { first: port, last: port }
    }

    /// From `first` to `last`, both included; `None` where that is not more than one port.
    #[must_use]
    pub const fn range(first: u16, last: u16) -> Option<Self> {
        if first < last { Some(Self { first, last }) } else { None }
    }

    /// Lowest port.
    #[must_use]
    pub const fn first(self) -> u16 {
        self.first
    }

    /// Highest port.
    #[must_use]
    pub const fn last(self) -> u16 {
        self.last
    }

    /// The port, if it is one.
    #[must_use]
    pub const fn single(self) -> Option<u16> {
        if self.first == self.last { Some(self.first) } else { None }
    }

    /// How many there are, minus one: less is more specific.
    #[must_use]
    pub const fn width(self) -> u16 {
        self.last - self.first
    }

    /// Whether `port` is one of them.
    #[must_use]
    pub const fn contain(self, port: u16) -> bool {
        self.first <= port && port <= self.last
    }

    /// Whether some port is in both while neither is more specific.
    #[must_use]
    pub const fn is_ambiguous_with(self, other: Self) -> bool {
        self.width() == other.width() && self.first <= other.last && other.first <= self.last
    }
}

impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.single(), *self) {
            (Some(port), _) => port.fmt(f),
            (None, Self::ANY) => f.write_str("any"),
            (None, Self { first, last }) => write!(f, "{first}-{last}"),
        }
    }
}

impl FromStr for Ports {
    type Err = String;

    /// Reads `any` or `8000-8099`.
    fn from_str(text: &str) -> Result<Self, String> {
        if text == "any" {
            return Ok(Self::ANY);
        }
        let number = |digits: &str| {
            let all_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            digits.parse::<u16>().ok().filter(|&port| all_digits && port != 0)
        };
        let range = text.split_once('-').and_then(|(first, last)| Self::range(number(first)?, number(last)?));
        range.ok_or_else(|| format!("\"{}\" is no range of ports", text.escape_debug()))
    }
}

impl Serialize for Ports {
    /// One port as a number, others as text.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.single() {
            Some(port) => serializer.serialize_u16(port),
            None => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Ports {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Port(u16),
            Text(String),
        }
        match Either::deserialize(deserializer)? {
            Either::Port(port) => Ok(Self::one(port)),
            Either::Text(text) => text.parse().map_err(de::Error::custom),
        }
    }
}

/// How an endpoint is written: `192.0.2.10:80/tcp`, `[2001:db8::/64]:8000-8099/udp`.
#[must_use]
pub fn endpoint(vip: Vip, ports: Ports, protocol: Protocol) -> String {
    if vip.address().is_ipv4() {
        format!("{vip}:{ports}/{protocol}")
    } else {
        format!("[{vip}]:{ports}/{protocol}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_written_as_they_are_read() {
        for text in ["any", "1-2", "8000-8099", "1-65535"] {
            assert_eq!(text.parse::<Ports>().unwrap().to_string(), text);
        }
        for bad in ["", "80", "80-80", "81-80", "0-80", "80-65536", "+1-2", "1-2-3", "ANY", "1 - 2", "-"] {
            assert!(bad.parse::<Ports>().is_err(), "{bad:?}");
        }
        let json = |ports| serde_json::to_string(&ports).unwrap();
        assert_eq!([json(Ports::one(80)), json(Ports::ANY)], ["80", "\"any\""]);
        assert_eq!(
            serde_json::from_str::<Ports>("\"8000-8099\"").unwrap(),
            Ports::range(8000, 8099).unwrap()
        );
        assert_eq!(serde_json::from_str::<Ports>("80").unwrap(), Ports::one(80));
    }

    #[test]
    fn a_vip_is_written_as_it_is_read() {
        for text in ["192.0.2.10", "192.0.2.0/24", "2001:db8::10", "2001:db8::/64"] {
            assert_eq!(text.parse::<Vip>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.10/32".parse::<Vip>().unwrap().to_string(), "192.0.2.10");
        assert!("192.0.2.1/24".parse::<Vip>().is_err());
    }

    #[test]
    fn only_overlaps_of_equal_width_are_ambiguous() {
        let range = |first, last| Ports::range(first, last).unwrap();
        assert!(range(10, 20).is_ambiguous_with(range(20, 30)));
        assert!(!range(10, 20).is_ambiguous_with(range(21, 31)));
        assert!(!range(10, 20).is_ambiguous_with(range(15, 30)));
        assert!(!range(10, 20).is_ambiguous_with(Ports::one(10)));
        assert!(Ports::ANY.is_ambiguous_with(Ports::ANY));
    }
}
