//! Why a packet was not forwarded. Every packet that is not forwarded counts under exactly one of these.

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $text:literal;)*) => {
        /// Reason for a packet's verdict. Numbers are append-only: a number is never given a new meaning.
        #[repr(u32)]
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// The reason with this number; [`Reason::Inconsistent`] if there is none.
            #[must_use]
            #[inline(always)]
            pub const fn from_number(number: u32) -> Self {
                match number { $($number => Reason::$name,)* _ => Reason::Inconsistent }
            }

            /// All reasons in the order of their numbers.
            pub const ALL: &'static [Reason] = &[$(Reason::$name,)*];

            /// Name in CLI, API and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Reason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// Sent to a backend; counted under service and backend, its reason slot stays 0.
    Forwarded = 0, "forwarded";
    /// Passed: neither IPv4 nor IPv6.
    PassNotIp = 1, "pass_not_ip";
    /// Passed: IP, but no service of ours.
    PassNotVip = 2, "pass_not_vip";
    /// Answered: echo request to a VIP, or heartbeat to a relay address.
    EchoAnswered = 3, "echo_answered";
    /// Dropped: for a VIP, but cut short or inconsistent in its lengths.
    Malformed = 4, "malformed";
    /// Dropped: a fragment for a VIP that has no ports to go by, of ICMP.
    Fragment = 5, "fragment";
    /// Dropped: for a VIP, with IPv6 extension headers that are too many, of another kind than are stepped over, or name another
    /// node as the packet's end.
    ExtensionHeader = 6, "extension_header";
    /// Dropped: ICMP for a VIP other than echo requests and errors.
    IcmpUnsupported = 7, "icmp_unsupported";
    /// Dropped: every pool of the plan is down.
    AllDown = 8, "all_down";
    /// Dropped: came from another region and no local pool can take it.
    RelayRefused = 9, "relay_refused";
    /// Dropped: the daemon has no next hop for the backend.
    NoNextHop = 10, "no_next_hop";
    /// Dropped: larger than the way to the backend takes once encapsulated, and the sender would not act on an answer.
    TooBig = 11, "too_big";
    /// Dropped: the frame could not be enlarged or written.
    NoHeadroom = 12, "no_headroom";
    /// Dropped: maps contradict each other (an index out of range). A fault of the daemon.
    Inconsistent = 13, "inconsistent";
    /// Dropped: a fragment whose datagram's first fragment was not seen, or too long ago.
    FragmentOrphan = 14, "fragment_orphan";
    /// Dropped: an ICMP error for a VIP that quotes no flow of a service.
    IcmpUnmatched = 15, "icmp_unmatched";
    /// Answered: too large once encapsulated; the sender was told which size fits.
    TooBigAnswered = 16, "too_big_answered";
    /// Dropped: would have been answered by Weir itself, but the limit of answers was reached.
    AnswerLimited = 17, "answer_limited";
    /// Answered: ARP request or neighbour solicitation for a VIP.
    NeighbourAnswered = 18, "neighbour_answered";
    /// Dropped: the service forwards by rewriting the Ethernet header, but the backend is not on the link.
    NotOnLink = 19, "not_on_link";
    /// Passed: would open a flow of a service that the configuration no longer has.
    PassLeaving = 20, "pass_leaving";
    /// Dropped: the source lies in a prefix that the service denies.
    SourceDenied = 21, "source_denied";
    /// Dropped: the service allows some source prefixes only, and the source lies in none of them.
    SourceNotAllowed = 22, "source_not_allowed";
    /// Dropped: over the service's limit.
    ServiceLimited = 23, "service_limited";
    /// Dropped: over the limit of its source prefix.
    SourceLimited = 24, "source_limited";
    /// Dropped: a new flow of a priority class that is being shed.
    Shed = 25, "shed";
    /// Dropped: an operator's emergency switch.
    Emergency = 26, "emergency";
    /// Dropped: tunnelled to this host's relay address, but from no relay peer, or for no service of this host.
    RelayNotForUs = 27, "relay_not_for_us";
    /// Dropped: relayed from another region, but in fragments, without a whole IP packet inside, or with congestion that the packet
    /// inside cannot tell of (RFC 6040, section 4.2).
    RelayMalformed = 28, "relay_malformed";
}

const _: () = assert!(Reason::ALL.len() <= super::limits::REASON_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_so_that_a_counter_slot_names_its_reason() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{reason:?}");
            assert_eq!(Reason::from_number(number as u32), *reason);
        }
    }
}
