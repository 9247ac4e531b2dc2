//! The checks of a configuration: what is sent to a backend, and what counts as an answer.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::limits::MAX_DATAGRAM_BYTES;

/// How backends of a set are probed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Unique.
    pub name: String,
    /// What is sent.
    pub kind: CheckKind,
    /// Time from one probe to the next.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Consecutive misses until DOWN.
    pub fall: u32,
    /// Consecutive successes until UP.
    pub rise: u32,
    /// Each probe is delayed by a random time of up to this share of the interval, in percent.
    pub jitter: u8,
}

/// What a check sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// A UDP heartbeat that `weir agent` answers.
    Heartbeat {
        /// UDP port of the agent.
        port: u16,
    },
    /// A TCP connection that is opened and closed.
    Tcp {
        /// TCP port of the backend.
        port: u16,
    },
    /// A SYN to the VIP, through the tunnel to the backend.
    TcpTunnel {
        /// The VIP.
        vip: IpAddr,
        /// TCP port of the service.
        port: u16,
    },
    /// A request over HTTP/1.1, with or without TLS.
    Http(Box<HttpCheck>),
    /// A datagram and its answer.
    Udp(UdpCheck),
    /// A DNS query over UDP.
    Dns(DnsCheck),
    /// An ICMP echo request.
    Icmp,
    /// A program on this host.
    Exec(ExecCheck),
    /// A BFD session (RFC 5880).
    Bfd(BfdCheck),
}

/// See [`CheckKind::Http`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// TCP port of the backend; through the tunnel, of the service.
    pub port: u16,
    /// The VIP, if the request goes to it through the tunnel to the backend.
    pub vip: Option<IpAddr>,
    /// How to use TLS; `None` for plain HTTP.
    pub tls: Option<TlsCheck>,
    /// `HEAD` instead of `GET`.
    pub head: bool,
    /// Path and query, from `/` on.
    pub path: String,
    /// The host header; the backend's address if it is not said.
    pub host: Option<String>,
    /// Ranges of status codes that count as an answer, both ends included.
    pub status: Vec<(u16, u16)>,
    /// What the body must hold.
    pub body: Option<String>,
    /// Bytes of the body that are looked at.
    pub body_limit: usize,
}

/// How an HTTPS check uses TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// The name that the certificate must hold, sent as SNI; the host header's if it is not said, else the address.
    pub server_name: Option<String>,
    /// PEM file of the authorities to trust; the host's own if it is not said.
    pub ca_file: Option<PathBuf>,
    /// Whether the certificate is verified.
    pub verify: bool,
}

/// See [`CheckKind::Udp`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UdpCheck {
    /// UDP port of the backend.
    pub port: u16,
    /// What is sent.
    pub send: Vec<u8>,
    /// What the answer must hold; none if any will do.
    pub expect: Option<Vec<u8>>,
    /// Whether the answer may hold it anywhere; else it must begin with it.
    pub anywhere: bool,
}

/// See [`CheckKind::Dns`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsCheck {
    /// UDP port of the backend.
    pub port: u16,
    /// The name that is asked for, without a final dot; empty for the root.
    pub query: String,
    /// The type of record that is asked for, as a number (RFC 1035 section 3.2.2).
    pub record: u16,
    /// The response code that the answer must have; none if any will do.
    pub rcode: Option<u8>,
}

/// See [`CheckKind::Exec`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecCheck {
    /// Absolute path of the program, and its arguments.
    pub command: Vec<String>,
    /// As whom it runs: user and group id; as the daemon if it is not said.
    pub user: Option<(u32, u32)>,
}

/// See [`CheckKind::Bfd`]. The desired interval of transmission is [`Check::interval`].
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BfdCheck {
    /// Over several hops (RFC 5883) instead of one (RFC 5881).
    pub multihop: bool,
    /// The shortest interval at which this host takes packets.
    pub receive_interval: Duration,
    /// Packets of this host that the peer may miss.
    pub multiplier: u8,
    /// Waits for the peer's first packet before it sends any.
    pub passive: bool,
    /// Source addresses, at most one of each family; where none is said the route decides.
    pub local: Vec<IpAddr>,
}

impl CheckKind {
    /// The port that is probed; 0 for what knows no ports.
    #[must_use]
    pub fn port(&self) -> u16 {
        match self {
            Self::Heartbeat { port } | Self::Tcp { port } | Self::TcpTunnel { port, .. } => *port,
            Self::Http(http) => http.port,
            Self::Udp(udp) => udp.port,
            Self::Dns(dns) => dns.port,
            Self::Bfd(BfdCheck { multihop: false, .. }) => 3784,
            Self::Bfd(BfdCheck { multihop: true, .. }) => 4784,
            Self::Icmp | Self::Exec(_) => 0,
        }
    }

    /// Name in the file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Heartbeat { .. } => "heartbeat",
            Self::Tcp { .. } | Self::TcpTunnel { .. } => "tcp",
            Self::Http(http) if http.tls.is_some() => "https",
            Self::Http(_) => "http",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Icmp => "icmp",
            Self::Exec(_) => "exec",
            Self::Bfd(_) => "bfd",
        }
    }
}

impl UdpCheck {
    /// Whether a datagram counts as the answer.
    #[must_use]
    pub fn is_answer(&self, datagram: &[u8]) -> bool {
        let Some(expect) = &self.expect else { return true };
        if self.anywhere {
            datagram.windows(expect.len()).any(|window| window == expect)
        } else {
            datagram.starts_with(expect)
        }
    }
}

/// Bytes written as pairs of hexadecimal digits, which white space and colons may part; `None` if they are not, or are
/// none, or more than a datagram holds.
pub(super) fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace() && *byte != b':').collect();
    if digits.is_empty() || !digits.len().is_multiple_of(2) || digits.len() / 2 > MAX_DATAGRAM_BYTES {
        return None;
    }
    let pairs = digits.chunks_exact(2).map(|pair| {
        let digit = |byte: u8| char::from(byte).to_digit(16);
        Some((digit(pair[0])? << 4 | digit(pair[1])?) as u8)
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_bytes_may_be_parted_and_must_be_whole() {
        assert_eq!(parse_hex("00ff 1A:2b"), Some(vec![0, 255, 0x1a, 0x2b]));
        for bad in ["", " ", "0", "0g", "123", "0x12", "é0"] {
            assert_eq!(parse_hex(bad), None, "{bad:?}");
        }
        assert_eq!(parse_hex(&"00".repeat(MAX_DATAGRAM_BYTES)), Some(vec![0; MAX_DATAGRAM_BYTES]));
        assert_eq!(parse_hex(&"00".repeat(MAX_DATAGRAM_BYTES + 1)), None);
    }

    #[test]
    fn an_answer_begins_with_what_is_expected_or_holds_it() {
        let check = |expect: Option<&[u8]>, anywhere| UdpCheck {
            port: 7,
            send: Vec::new(),
            expect: expect.map(<[u8]>::to_vec),
            anywhere,
        };
        assert!(check(None, false).is_answer(b""));
        assert!(check(Some(b"PO"), false).is_answer(b"PONG"));
        assert!(!check(Some(b"NG"), false).is_answer(b"PONG"));
        assert!(check(Some(b"NG"), true).is_answer(b"PONG"));
        assert!(!check(Some(b"PONGS"), true).is_answer(b"PONG"));
    }
}
