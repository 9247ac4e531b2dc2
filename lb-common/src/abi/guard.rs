//! Guards: what a service's protection takes in memory. Access lists, limits, priority classes, emergency switches.
//!
//! All shares are of 65,536: [`ALL`] lets nothing through. Moments until which something holds are in units of
//! 2^[`UNTIL_SHIFT`] ns of CLOCK_MONOTONIC (134 ms; 18 years fit), rounded up; 0 is off. The programs compare them with their own clock, so
//! that nothing of this outlives its time when the daemon is gone.

/// Priority classes. Class 0 (P0) is shed last.
pub const CLASSES: usize = 4;
/// The share that sheds everything.
pub const ALL: u32 = 1 << 16;
/// Nanoseconds of the unit of `*_until`, as a power of two.
pub const UNTIL_SHIFT: u32 = 27;
/// Time in buckets and limits is in units of 2^-[`FINE_SHIFT`] ns, so that a limit of 100 million a second is exact to 1 %. 2^60 ns, which
/// is what then fits, are 36 years.
pub const FINE_SHIFT: u32 = 4;
/// How far the programs' coarse clock may lag behind, in ns: one timer tick at 100 Hz. Every limit tolerates as much, so that a source
/// that keeps to it is never refused because of the clock.
pub const CLOCK_TICK_NS: u64 = 10_000_000;

/// [`GuardEntry::flags`]: there is an allow list: what no prefix of the access list matches is refused.
pub const GUARD_ALLOW_LIST: u32 = 1;
/// [`GuardEntry::flags`]: there is an access list.
pub const GUARD_ACCESS: u32 = 1 << 1;
/// [`GuardEntry::flags`]: one of the service's own limits is set.
pub const GUARD_SERVICE_LIMITS: u32 = 1 << 2;
/// [`GuardEntry::flags`]: one of the limits for each source prefix is set.
pub const GUARD_SOURCE_LIMITS: u32 = 1 << 3;

/// Value of an access list for a prefix that is allowed.
pub const ACCESS_ALLOW: u32 = 1;
/// Value of an access list for a prefix that is denied.
pub const ACCESS_DENY: u32 = 2;

/// Words in the map `BUCKETS` for one service: one cache line.
pub const SERVICE_BUCKETS: u32 = 8;
/// Word of a service's bucket of packets.
pub const BUCKET_PACKETS: u32 = 0;
/// Word of a service's bucket of new flows.
pub const BUCKET_NEW_FLOWS: u32 = 1;
/// Word of a service's bucket of packets under an emergency limit.
pub const BUCKET_EMERGENCY_PACKETS: u32 = 2;
/// Word of a service's bucket of new flows under an emergency limit.
pub const BUCKET_EMERGENCY_NEW_FLOWS: u32 = 3;
/// Words for one place of a row of source buckets: packets, then new flows.
pub const SOURCE_BUCKETS: u32 = 2;
/// Rows of source buckets. A source prefix has a place in each; it is refused only if all of them refuse.
pub const SOURCE_ROWS: u32 = 2;

/// A limit by the generic cell rate algorithm in its virtual scheduling form (ITU-T I.371, annex A). All zero: no limit.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Limit {
    /// Time between two packets at the limit, rounded up, in units of 2^-[`FINE_SHIFT`] ns.
    pub interval: u64,
    /// How far the theoretical arrival time may lie ahead, in the same unit: (burst - 1) intervals and [`CLOCK_TICK_NS`].
    pub tolerance: u64,
}

impl Limit {
    /// A limit of `rate` a second and `burst` at once; `None` for a rate or burst of 0 or for a time that does not fit.
    #[must_use]
    pub const fn new(rate: u64, burst: u64) -> Option<Self> {
        if rate == 0 || burst == 0 {
            return None;
        }
        let interval = (1_000_000_000_u64 << FINE_SHIFT).div_ceil(rate);
        match interval.checked_mul(burst - 1) {
            Some(ahead) => match ahead.checked_add(CLOCK_TICK_NS << FINE_SHIFT) {
                Some(tolerance) => Some(Self { interval, tolerance }),
                None => None,
            },
            None => None,
        }
    }

    /// Whether there is a limit.
    #[must_use]
    #[inline(always)]
    pub const fn is_set(&self) -> bool {
        self.interval != 0
    }
}

/// One element of the `GUARDS` map, 192 bytes: three cache lines, of which the first is all that a service without limits takes.
///
/// Written once per generation, but for what is marked as live: those words are changed by single 32-bit stores while programs run.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GuardEntry {
    /// `GUARD_*` flags.
    pub flags: u32,
    /// Prefix table of the access list ([`ACCESS_ALLOW`], [`ACCESS_DENY`]); meant only with [`GUARD_ACCESS`].
    pub access: u32,
    /// Priority class, 0 to 3.
    pub class: u32,
    /// Live: share of new flows that the overload controller sheds, of 65,536.
    pub shed: u32,
    /// Live: until when `shed` holds.
    pub shed_until: u32,
    /// Live: share of new flows that an operator sheds, of 65,536. [`ALL`] stops new flows.
    pub switch_shed: u32,
    /// Live: until when `switch_shed` holds.
    pub switch_shed_until: u32,
    /// Live: until when some source prefix is blocked for this service.
    pub blocks_until: u32,
    /// Live: until when the switch's limits hold. The limits are written while it is 0.
    pub switch_limit_until: u32,
    /// Which bits of an IPv4 source make its source prefix, network order.
    pub source_mask_v4: u32,
    /// The same for IPv6.
    pub source_mask_v6: [u32; 4],
    /// Zero.
    pub reserved: [u32; 2],
    /// Packets of the service.
    pub packets: Limit,
    /// New flows of the service.
    pub new_flows: Limit,
    /// Packets of each source prefix.
    pub source_packets: Limit,
    /// New flows of each source prefix.
    pub source_new_flows: Limit,
    /// Live: packets of the service by an operator's switch.
    pub switch_packets: Limit,
    /// Live: new flows of the service by an operator's switch.
    pub switch_new_flows: Limit,
    /// Zero.
    pub reserved2: [u64; 4],
}

/// The single element of the `NODE_GUARD` map, 64 bytes: what holds for all services. Looked at only while
/// [`FEATURE_EMERGENCY`](super::root::FEATURE_EMERGENCY) is set, but for the two constants.
#[repr(C, align(64))]
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NodeGuard {
    /// Live: share of new flows of each class that the overload controller sheds, of 65,536.
    pub shed: [u32; CLASSES],
    /// Live: share of new flows of each class that an operator sheds, of 65,536.
    pub switch_shed: [u32; CLASSES],
    /// Live: until when `switch_shed` holds, for each class.
    pub switch_shed_until: [u32; CLASSES],
    /// Live: until when `shed` holds.
    pub shed_until: u32,
    /// Live: until when some source prefix is blocked for all services.
    pub blocks_until: u32,
    /// First word of the source buckets in the map `BUCKETS`.
    pub source_base: u32,
    /// Places of one row of source buckets minus one; their number is a power of two.
    pub source_mask: u32,
}

/// Scope of a blocked source prefix: all services.
pub const SCOPE_ALL: u32 = u32::MAX;

/// Key of the `BLOCKED` map (an LPM trie), behind its prefix length: the scope, all of whose 32 bits always count, then the address.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BlockedKey {
    /// [`SCOPE_ALL`] or a guard's index, in any byte order: all of its bits are compared.
    pub scope: u32,
    /// Source address; IPv4 as IPv4-mapped.
    pub address: [u32; 4],
}

/// Bits of [`BlockedKey::scope`] in the prefix length.
pub const SCOPE_BITS: u32 = 32;

/// Dropped packets of one service by reason, on one CPU: an element of the `GUARD_COUNTS` map, 64 bytes. The element's index is
/// `cpu * guards + guard`.
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct GuardCounts {
    /// Packets, in the order of the reasons from [`FIRST_REASON`] on.
    pub packets: [u64; 8],
}

/// The first reason that a guard gives: [`Reason::SourceDenied`](super::reason::Reason::SourceDenied).
pub const FIRST_REASON: u32 = super::reason::Reason::SourceDenied as u32;
/// How many reasons a guard gives.
pub const GUARD_REASONS: u32 = super::reason::Reason::Emergency as u32 - FIRST_REASON + 1;

const _: () = assert!(GUARD_REASONS == 6);

/// The moment `ns` of CLOCK_MONOTONIC in the unit of `*_until`, rounded up; never 0, which is off.
#[must_use]
pub const fn until(ns: u64) -> u32 {
    let units = ns.div_ceil(1 << UNTIL_SHIFT);
    match units {
        0 => 1,
        1..0xffff_ffff => units as u32,
        _ => u32::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_at_most_what_was_asked_for() {
        for rate in [1, 3, 1_000, 999_999, 100_000_000] {
            let limit = Limit::new(rate, 1).unwrap();
            let a_second = 1_000_000_000_u64 << FINE_SHIFT;
            assert!(a_second / limit.interval <= rate, "{rate}");
            assert!(limit.interval * rate <= a_second + a_second / 100, "{rate}: exact to 1 %");
        }
        assert_eq!(Limit::new(0, 1), None);
        assert_eq!(Limit::new(1, 0), None);
        assert_eq!(Limit::new(1, u64::MAX), None, "does not fit");
    }

    #[test]
    fn a_moment_is_never_early_and_never_off() {
        assert_eq!(until(0), 1);
        assert_eq!(until(1 << UNTIL_SHIFT), 1);
        assert_eq!(until((1 << UNTIL_SHIFT) + 1), 2);
        assert_eq!(until(u64::MAX), u32::MAX);
    }

    #[test]
    fn entries_have_no_holes() {
        assert_eq!(core::mem::offset_of!(GuardEntry, packets), 64);
        assert_eq!(core::mem::offset_of!(GuardEntry, switch_packets), 128);
        assert_eq!(size_of::<GuardEntry>(), 14 * 4 + 2 * 4 + 6 * 16 + 4 * 8);
        assert_eq!(size_of::<NodeGuard>(), 16 * 4);
    }
}
