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
    /// Answered: echo request to a VIP.
    EchoAnswered = 3, "echo_answered";
    /// Dropped: for a VIP, but cut short or inconsistent in its lengths.
    Malformed = 4, "malformed";
    /// Dropped: a fragment for a VIP.
    Fragment = 5, "fragment";
    /// Dropped: for a VIP, with an IPv6 extension header that hides the ports.
    ExtensionHeader = 6, "extension_header";
    /// Dropped: ICMP for a VIP other than an echo request.
    IcmpUnsupported = 7, "icmp_unsupported";
    /// Dropped: every pool of the plan is down.
    AllDown = 8, "all_down";
    /// Dropped: came from another region and no local pool can take it.
    RelayRefused = 9, "relay_refused";
    /// Dropped: the daemon has no next hop for the backend.
    NoNextHop = 10, "no_next_hop";
    /// Dropped: larger than the way to the backend takes once encapsulated.
    TooBig = 11, "too_big";
    /// Dropped: the frame could not be enlarged or written.
    NoHeadroom = 12, "no_headroom";
    /// Dropped: maps contradict each other (an index out of range). A fault of the daemon.
    Inconsistent = 13, "inconsistent";
}

const _: () = assert!(Reason::ALL.len() <= super::limits::REASON_SLOTS);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_dense_so_that_a_counter_slot_names_its_reason() {
        for (number, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, number, "{reason:?}");
        }
    }
}
