//! Load generators: clients that say for every flow which backend answered it.
mod flows;
mod http;
mod kept;
mod steady;

pub use flows::{FlowMap, Moved};
pub use kept::{Asked, KeptFlows};
pub use steady::{Request, SteadyLoad, Traffic};
