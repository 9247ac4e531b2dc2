//! Load generators: clients that say for every flow which backend answered it.
mod flows;
mod http;
mod kept;
mod live;
mod live_udp;
mod numbered;
mod stall;
mod steady;

pub use flows::{FlowMap, Moved};
pub use kept::{Asked, KeptFlows};
pub use live::{LiveFlows, LiveServers};
pub(crate) use live_udp::server_id as quic_server_id;
pub use live_udp::{LiveUdpFlows, LiveUdpServers, QUIC_CONFIG_ID, QUIC_SERVER_ID_BYTES, UdpKind};
pub use numbered::{Account, Numbered};
pub use stall::{cpus, stall};
pub use steady::{Request, SteadyLoad, Traffic};
