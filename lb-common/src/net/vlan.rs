//! VLAN tags (IEEE 802.1Q): between the Ethernet addresses and the EtherType stand up to [`MAX_TAGS`] tags of [`TAG_LENGTH`]
//! bytes each: a TPID, which takes the EtherType's place, and a TCI (priority, drop eligibility, VLAN number).
//!
//! A frame's tags are the bytes from [`TAGS_AT`] to `Transport::ip_at - 2`; the EtherType of the IP header lies behind them.

use super::ethernet;

/// Offset of the first tag, or of the EtherType where there is none.
pub const TAGS_AT: usize = 12;
/// Length of one tag: TPID and TCI.
pub const TAG_LENGTH: usize = 4;
/// Tags that are looked behind: one of a customer (802.1Q) and one of a provider (802.1ad, "QinQ").
pub const MAX_TAGS: usize = 2;
/// TPID of an 802.1Q tag, as it stands in a frame.
pub const CUSTOMER: [u8; 2] = [0x81, 0x00];
/// TPID of an 802.1ad tag, as it stands in a frame.
pub const PROVIDER: [u8; 2] = [0x88, 0xa8];
/// Offset of the IP header behind one tag.
pub const IP_AT_ONE_TAG: usize = ethernet::LENGTH + TAG_LENGTH;
/// Offset of the IP header behind two tags.
pub const IP_AT_TWO_TAGS: usize = ethernet::LENGTH + 2 * TAG_LENGTH;

/// Whether an EtherType is the TPID of a tag.
#[must_use]
#[inline(always)]
pub const fn is_tag(ethertype: [u8; 2]) -> bool {
    matches!(ethertype, CUSTOMER | PROVIDER)
}

/// How many tags stand before an IP header at offset `ip_at`.
#[must_use]
#[inline(always)]
pub const fn tags_before(ip_at: usize) -> usize {
    ip_at.saturating_sub(ethernet::LENGTH) / TAG_LENGTH
}
