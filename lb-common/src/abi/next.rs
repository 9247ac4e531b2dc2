//! Elements of the `NEXT` map: programs that the edge's programs go on to by tail call. Empty where nothing needs them.

/// `weir_arrive`: packets for no VIP that may have been relayed to this host.
pub const NEXT_ARRIVE: u32 = 1;
/// `weir_relay`: relayed packets, out of their tunnel.
pub const NEXT_RELAY: u32 = 2;
/// Elements of the map.
pub const NEXT_PROGRAMS: u32 = 4;
