//! The configuration of `weir daemon`: reading, checking and resolving `weir.toml`.
//!
//! [`Config::load`] is the way in. The text becomes a tree with places (`toml`), the tree becomes typed records with
//! places (`raw`), and those become the [`Config`] (`resolve`), in which every name is an index and every value is in
//! range. All three gather problems instead of stopping at the first; [`ConfigError`] shows them with their lines.

mod api_schema;
mod checks;
mod client_file;
mod domains;
pub mod effective;
mod endpoint;
mod error;
mod fields;
mod forwarding;
mod http;
mod ids;
mod key;
pub mod keys;
pub mod limits;
mod load;
mod model;
mod prefix;
mod protection;
mod raw;
mod raw_plan;
mod raw_protection;
mod raw_relay;
mod relay;
mod report;
mod resolve;
pub mod schema;
mod sources;
mod suggest;
mod summary;
pub(crate) mod tls_files;

pub use checks::{BfdCheck, Check, CheckKind, DnsCheck, ExecCheck, HttpCheck, TlsCheck, UdpCheck};
pub use domains::{Domain, Level, Topology};
pub use endpoint::{Ports, Vip, endpoint};
pub use error::{ConfigError, Place, Problem, Related};
pub use forwarding::{Forwarding, Quic, QuicConfig, Reach, Udp};
pub use http::{Clients, Http, Operator, Tls};
pub use ids::{BackendId, CheckId, ClientRegionId, DomainId, PoolIndex, ServiceId, SetId};
pub use model::{
    Announcement, Backend, ClientRegion, Config, HashKey, Node, OnAllDown, Plan, PlanMode, Pool, Protocol,
    Service, Set, SetShare, XdpMode,
};
pub use prefix::{IpPrefix, Ipv4Prefix, Ipv6Prefix, PrefixError};
pub use protection::{AccessList, Limits, Priority, Protection, Rate, SourceLimits};
pub use relay::Relay;
pub(crate) use resolve::smallest_share_fits;
pub use summary::{Summary, summary};
pub use tls_files::TlsFileError;
