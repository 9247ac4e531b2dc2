//! The daemon's log.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is logged: `GET /v1/log`, and the answer to `PUT` and `DELETE`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct LogView {
    /// The filter in force, as `info` or `info,hyper=debug`.
    pub filter: String,
    /// The filter that the daemon was started with, and comes back to.
    pub base: String,
    /// Where the log goes: `text` or `json` on standard error, or `journal`.
    pub format: String,
    /// Seconds that the filter stands; left out if it is that of the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_s: Option<u64>,
}

/// Body of `PUT /v1/log`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LogRequest {
    /// The filter: a level, or levels of modules, with commas between.
    #[schemars(length(min = 1, max = 256))]
    pub filter: String,
    /// For how many seconds, up to a day.
    #[schemars(range(min = 1, max = 86_400))]
    pub for_s: u64,
}

/// What is to be done about the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogChange {
    /// Nothing: tell.
    Show,
    /// Log by another filter for a while.
    Set(LogRequest),
    /// Log as at the start.
    Reset,
}
