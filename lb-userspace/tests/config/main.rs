//! The configuration as its users meet it: examples that validate, meaning that does not depend on order, and errors
//! that say where and what to do.

mod address_errors;
mod base;
mod check_kinds;
mod client_file;
mod effective;
mod endpoints;
mod examples;
mod files;
mod folder;
mod forwarding_errors;
mod hostile;
mod json;
mod limits;
mod model;
mod network_errors;
mod node_errors;
mod protection_errors;
mod recovery;
mod relay_errors;
mod service_errors;
mod set_errors;
mod syntax_errors;
