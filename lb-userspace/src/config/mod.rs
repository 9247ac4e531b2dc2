//! The configuration of `weir daemon`: reading, checking and resolving `weir.toml`.
mod ids;
pub mod limits;
mod model;
mod prefix;

pub use ids::{BackendId, CheckId, ClientRegionId, DomainId, PoolIndex, ServiceId, SetId};
pub use model::*;
pub use prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix, PrefixError};
