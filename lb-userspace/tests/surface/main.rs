//! The API over a real socket, and the command line as a real process, against a daemon whose world is a table.

mod api;
mod attack;
mod commands;
mod completions;
mod doctor;
mod fake;
mod guard;
mod help;
mod observe;
mod openapi;
mod plan;
mod reference;
mod tables;
mod terminal;
mod tls;
