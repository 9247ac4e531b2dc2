//! Load generators: clients that say for every flow which backend answered it.
mod flows;
mod http;
mod kept;
mod live;
mod steady;

pub use flows::{FlowMap, Moved};
pub use kept::{Asked, KeptFlows};
pub use live::{LiveFlows, LiveServers};
pub use steady::{Request, SteadyLoad, Traffic};
