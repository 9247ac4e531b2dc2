//! ICMP (RFC 792) and ICMPv6 (RFC 4443): echo and errors.

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
/// ICMP destination unreachable.
pub const UNREACHABLE_V4: u8 = 3;
/// Code of [`UNREACHABLE_V4`]: fragmentation needed, "don't fragment" set.
pub const FRAGMENTATION_NEEDED: u8 = 4;
/// ICMP time exceeded.
pub const TIME_EXCEEDED_V4: u8 = 11;
/// ICMP parameter problem.
pub const PARAMETER_PROBLEM_V4: u8 = 12;
/// ICMPv6 destination unreachable. The types from here to [`PARAMETER_PROBLEM_V6`] are all errors that RFC 4443 has.
pub const UNREACHABLE_V6: u8 = 1;
/// ICMPv6 packet too big.
pub const TOO_BIG_V6: u8 = 2;
/// ICMPv6 parameter problem.
pub const PARAMETER_PROBLEM_V6: u8 = 4;

/// Whether an ICMP type is an error that quotes the packet it is about.
#[must_use]
#[inline(always)]
pub const fn is_error_v4(kind: u8) -> bool {
    matches!(kind, UNREACHABLE_V4 | TIME_EXCEEDED_V4 | PARAMETER_PROBLEM_V4)
}

/// Whether an ICMPv6 type is an error that quotes the packet it is about.
#[must_use]
#[inline(always)]
pub const fn is_error_v6(kind: u8) -> bool {
    matches!(kind, UNREACHABLE_V6..=PARAMETER_PROBLEM_V6)
}
