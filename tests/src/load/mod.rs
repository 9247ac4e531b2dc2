//! Load generators: clients that say for every flow which backend answered it.
mod flows;
mod http;
mod steady;

pub use flows::{FlowMap, Moved};
pub use steady::{Request, SteadyLoad, Traffic};
