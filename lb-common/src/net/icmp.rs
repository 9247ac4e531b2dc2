//! ICMP (RFC 792) and ICMPv6 (RFC 4443): what echo needs.

/// Length of an echo header: type, code, checksum, identifier, sequence.
pub const ECHO_LENGTH: usize = 8;
/// ICMP echo request.
pub const ECHO_REQUEST_V4: u8 = 8;
/// ICMP echo reply.
pub const ECHO_REPLY_V4: u8 = 0;
/// ICMPv6 echo request.
pub const ECHO_REQUEST_V6: u8 = 128;
/// ICMPv6 echo reply.
pub const ECHO_REPLY_V6: u8 = 129;
