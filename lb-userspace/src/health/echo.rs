//! ICMP echo messages that carry a heartbeat (RFC 792, RFC 4443). Pure.

use lb_common::abi::heartbeat::Heartbeat;
use lb_common::abi::pod::Pod;

/// Bytes before the data: type, code, checksum, identifier, sequence number.
const HEADER_BYTES: usize = 8;
/// All of a message.
pub const ECHO_BYTES: usize = HEADER_BYTES + size_of::<Heartbeat>();

/// The messages of one family.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Family {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}

impl Family {
    const fn request(self) -> u8 {
        match self {
            Self::V4 => 8,
            Self::V6 => 128,
        }
    }

    const fn reply(self) -> u8 {
        match self {
            Self::V4 => 0,
            Self::V6 => 129,
        }
    }
}

/// An echo request. ICMPv6's checksum covers addresses, so the kernel fills it in.
#[must_use]
pub fn request(family: Family, id: u16, round: u64, heartbeat: &Heartbeat) -> [u8; ECHO_BYTES] {
    let mut message = [0; ECHO_BYTES];
    message[0] = family.request();
    message[4..6].copy_from_slice(&id.to_be_bytes());
    // Only for people who watch the wire: the data says which round it is.
    message[6..8].copy_from_slice(&(round as u16).to_be_bytes());
    message[HEADER_BYTES..].copy_from_slice(heartbeat.as_bytes());
    if family == Family::V4 {
        let sum = checksum(&message);
        message[2..4].copy_from_slice(&sum);
    }
    message
}

/// What an echo reply to a request of `id` carries; `None` if the message is none. With `ip_header`, an IPv4 header comes
/// first, as raw sockets give it.
#[must_use]
pub fn reply(family: Family, id: Option<u16>, ip_header: bool, datagram: &[u8]) -> Option<Heartbeat> {
    let message = if ip_header {
        let header_bytes = usize::from(datagram.first()? & 0x0f) * 4;
        datagram.get(header_bytes..)?
    } else {
        datagram
    };
    let header = message.get(..HEADER_BYTES)?;
    let is_ours = id.is_none_or(|id| header[4..6] == id.to_be_bytes());
    if header[0] != family.reply() || header[1] != 0 || !is_ours {
        return None;
    }
    Heartbeat::from_bytes(&message[HEADER_BYTES..])
}

/// The Internet checksum (RFC 1071) of an even number of bytes.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!(sum as u16)).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_sums_up_and_its_reply_is_recognised() {
        let heartbeat = Heartbeat::request(70_000, 2, 3);
        for family in [Family::V4, Family::V6] {
            let mut message = request(family, 0x1234, 70_000, &heartbeat);
            if family == Family::V4 {
                assert_eq!(checksum(&message), [0, 0]);
            }
            assert_eq!(message[6..8], [0x11, 0x70]);
            assert_eq!(reply(family, Some(0x1234), false, &message), None, "a request is no reply");
            message[0] = family.reply();
            assert_eq!(reply(family, Some(0x1234), false, &message), Some(heartbeat));
            assert_eq!(reply(family, None, false, &message), Some(heartbeat));
            assert_eq!(reply(family, Some(0x1235), false, &message), None);
            assert_eq!(reply(family, None, false, &message[..ECHO_BYTES - 1]), None);
            let mut framed = vec![0x46; 24];
            framed.extend_from_slice(&message);
            assert_eq!(reply(family, Some(0x1234), true, &framed), Some(heartbeat));
            for length in 0..framed.len() {
                assert_eq!(reply(family, None, true, &framed[..length]), None);
            }
        }
    }
}
