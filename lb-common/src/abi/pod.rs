//! Plain old data: types that are nothing but their bytes.

/// A type that may be copied to and from BPF maps byte by byte.
///
/// # Safety
/// The type is `repr(C)` or `repr(transparent)`, has no padding, holds no references, and every bit pattern of its size
/// is a valid value.
pub unsafe trait Pod: Copy + 'static {
    /// All zero bytes, which every `Pod` accepts.
    fn zeroed() -> Self {
        // SAFETY: the trait's contract says that every bit pattern, so also all zeroes, is a valid value.
        unsafe { core::mem::zeroed() }
    }

    /// The value's bytes, in the order in which they lie in memory.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: a `Pod` has no padding, so all `size_of::<Self>()` bytes behind `self` are initialised, and the
        // slice borrows `self` for as long as it lives.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }

    /// The value that `bytes` hold, or `None` when their number is not the type's size.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != size_of::<Self>() {
            return None;
        }
        // SAFETY: the length was compared, `read_unaligned` asks for no alignment, and every bit pattern is valid.
        Some(unsafe { bytes.as_ptr().cast::<Self>().read_unaligned() })
    }
}

macro_rules! pod {
    ($($(#[$why:meta])* $type:ty = $size:literal;)*) => {$(
        // SAFETY: `repr(C)` or `repr(transparent)`, integers and integer arrays only, and the assertion below shows
        // that the fields fill the size, checked against the sum of its fields by the layout test beside the type.
        unsafe impl Pod for $type {}
        const _: () = assert!(size_of::<$type>() == $size);
    )*};
}

pod! {
    u8 = 1;
    u16 = 2;
    u32 = 4;
    u64 = 8;
    crate::abi::admission::Admission = 4;
    crate::abi::agent::AgentAddress = 16;
    crate::abi::agent::AgentRoot = 64;
    crate::abi::backend::BackendEntry = 64;
    crate::abi::bench::BenchRoot = 40;
    crate::abi::counter::Counter = 32;
    crate::abi::flow::FlowKey = 40;
    crate::abi::flow::FlowEntry = 8;
    crate::abi::flow::OpeningLine = 64;
    crate::abi::flow::FragmentKey = 40;
    crate::abi::flow::FragmentEntry = 24;
    crate::abi::guard::BlockedKey = 20;
    crate::abi::guard::GuardCounts = 64;
    crate::abi::guard::GuardEntry = 192;
    crate::abi::guard::NodeGuard = 64;
    crate::abi::heartbeat::Heartbeat = 32;
    crate::abi::plan::PlanEntry = 64;
    crate::abi::plan::PoolEntry = 16;
    crate::abi::quic::QuicServer = 8;
    crate::abi::quic::QuicServerKey = 24;
    crate::abi::prefix::PrefixEntries = 64;
    crate::abi::prefix::PrefixNode = 32;
    crate::abi::prefix::PrefixRoot = 32;
    crate::abi::prefix::PrefixTable = 64;
    crate::abi::prefix::PrefixValues = 64;
    crate::abi::root::Root = 256;
    crate::abi::service::ServiceBucket = 64;
    crate::abi::service::ServiceEntry = 64;
    crate::abi::service::PortRange = 8;
    crate::abi::service::PortRanges = 128;
    crate::abi::watch::WatchControl = 32;
    crate::abi::watch::WatchFilter = 128;
    crate::abi::watch::WatchLost = 64;
    crate::abi::watch::WatchRecord = 112;
}
