//! IP prefixes: an address and the number of its leading bits that count.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An IPv4 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv4Prefix {
    address: Ipv4Addr,
    length: u8,
}

/// An IPv6 prefix without host bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ipv6Prefix {
    address: Ipv6Addr,
    length: u8,
}

/// A prefix of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpPrefix {
    /// IPv4.
    V4(Ipv4Prefix),
    /// IPv6.
    V6(Ipv6Prefix),
}

/// Why a text is not a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefixError {
    /// Not `address/length`, or the address is none.
    Syntax,
    /// The length is longer than the address (32 or 128 bits).
    Length {
        /// The longest length of the family.
        max: u8,
    },
    /// Bits beyond the length are set.
    HostBits {
        /// The prefix without them.
        corrected: IpPrefix,
    },
}

impl Ipv4Prefix {
    /// `0.0.0.0/32`, the mark of "none".
    pub const UNSPECIFIED: Self = Self { address: Ipv4Addr::UNSPECIFIED, length: 32 };

    /// The prefix of `length` bits (at most 32) that holds `address`; host bits are cleared.
    #[must_use]
    pub fn containing(address: Ipv4Addr, length: u8) -> Self {
        let length = length.min(32);
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask_v4(length)), length }
    }

    /// The first address.
    #[must_use]
    pub const fn address(self) -> Ipv4Addr {
        self.address
    }

    /// How many leading bits count, 0 to 32.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the prefix.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask_v4(self.length) == self.address.to_bits()
    }
}

impl Ipv6Prefix {
    /// `::/128`, the mark of "none".
    pub const UNSPECIFIED: Self = Self { address: Ipv6Addr::UNSPECIFIED, length: 128 };

    /// The prefix of `length` bits (at most 128) that holds `address`; host bits are cleared.
    #[must_use]
    pub fn containing(address: Ipv6Addr, length: u8) -> Self {
        let length = length.min(128);
        Self { address: Ipv6Addr::from_bits(address.to_bits() & mask_v6(length)), length }
    }

    /// The first address.
    #[must_use]
    pub const fn address(self) -> Ipv6Addr {
        self.address
    }

    /// How many leading bits count, 0 to 128.
    #[must_use]
    pub const fn length(self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the prefix.
    #[must_use]
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask_v6(self.length) == self.address.to_bits()
    }
}

impl IpPrefix {
    /// Reads `address/length` as `198.51.100.0/24` or `2001:db8:a::/48`.
    ///
    /// # Errors
    /// See [`PrefixError`]; bits beyond the length are refused rather than cleared, because they usually mean that
    /// one of the two numbers is wrong.
    pub fn parse(text: &str) -> Result<Self, PrefixError> {
        let (address, length) = text.split_once('/').ok_or(PrefixError::Syntax)?;
        let address: IpAddr = address.parse().map_err(|_| PrefixError::Syntax)?;
        if length.is_empty() || length.len() > 3 || !length.bytes().all(|b| b.is_ascii_digit()) {
            return Err(PrefixError::Syntax);
        }
        let max = if address.is_ipv4() { 32 } else { 128 };
        let length = length.parse::<u8>().ok().filter(|&l| l <= max).ok_or(PrefixError::Length { max })?;
        let prefix = Self::containing(address, length);
        if prefix.address() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits { corrected: prefix })
        }
    }

    /// The prefix of `length` bits that holds `address`; host bits are cleared.
    #[must_use]
    pub fn containing(address: IpAddr, length: u8) -> Self {
        match address {
            IpAddr::V4(address) => Self::V4(Ipv4Prefix::containing(address, length)),
            IpAddr::V6(address) => Self::V6(Ipv6Prefix::containing(address, length)),
        }
    }

    /// The first address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        match self {
            Self::V4(prefix) => IpAddr::V4(prefix.address),
            Self::V6(prefix) => IpAddr::V6(prefix.address),
        }
    }

    /// How many leading bits count.
    #[must_use]
    pub const fn length(self) -> u8 {
        match self {
            Self::V4(prefix) => prefix.length,
            Self::V6(prefix) => prefix.length,
        }
    }

    /// Whether `address` is of the same family and lies in the prefix.
    #[must_use]
    pub fn contains(self, address: IpAddr) -> bool {
        match (self, address) {
            (Self::V4(prefix), IpAddr::V4(address)) => prefix.contains(address),
            (Self::V6(prefix), IpAddr::V6(address)) => prefix.contains(address),
            _ => false,
        }
    }
}

fn mask_v4(length: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0)
}

fn mask_v6(length: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0)
}

impl fmt::Display for Ipv4Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for Ipv6Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Display for IpPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V4(prefix) => prefix.fmt(f),
            Self::V6(prefix) => prefix.fmt(f),
        }
    }
}

impl Serialize for IpPrefix {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for IpPrefix {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(|error| {
            let text = text.escape_debug();
            serde::de::Error::custom(match error {
                PrefixError::Syntax => {
                    format!("\"{text}\" is no address with a length, such as 198.51.100.0/24")
                }
                PrefixError::Length { max } => format!("\"{text}\" has a length beyond {max}"),
                PrefixError::HostBits { corrected } => {
                    format!("\"{text}\" has bits set beyond its length; \"{corrected}\" would do")
                }
            })
        })
    }
}
