//! What the daemon says of itself and its host: its log, its configuration, what it finds.

use std::{sync::PoisonError, time::Duration};

use super::service::Service;
use crate::{
    api::{
        Control,
        problem::{Problem, ProblemKind},
        types::{LogChange, LogView},
    },
    cli::doctor::{self, Finding},
    telemetry::log::{self, LogError, MAX_FILTER_TIME},
};

impl Service {
    pub(super) fn log_now(change: LogChange) -> Result<LogView, Problem> {
        match change {
            LogChange::Show => {}
            LogChange::Reset => log::reset().map_err(|error| refused(&error))?,
            LogChange::Set(request) => {
                let time = Duration::from_secs(request.for_s);
                if time.is_zero() || time > MAX_FILTER_TIME {
                    let detail =
                        format!("for_s is {}; it must be 1 to {}", request.for_s, MAX_FILTER_TIME.as_secs());
                    return Err(Problem::new(ProblemKind::Invalid, detail, "see `weir log level --help`"));
                }
                log::set(&request.filter, time).map_err(|error| refused(&error))?;
                tracing::info!(
                    filter = request.filter,
                    for_s = request.for_s,
                    "the log's filter was changed"
                );
            }
        }
        let state = log::state().map_err(|error| refused(&error))?;
        Ok(LogView {
            filter: state.filter,
            base: state.base,
            format: state.format.name().to_owned(),
            left_s: state.left.map(|left| left.as_secs()),
        })
    }

    pub(super) fn effective_now(&self) -> serde_json::Value {
        let effective = self.effective.lock().unwrap_or_else(PoisonError::into_inner);
        // TOML has nothing that JSON has not, but for moments, which the file has none of.
        serde_json::to_value(&*effective).unwrap_or_default()
    }

    pub(super) async fn doctor_now(&self) -> Result<Vec<Finding>, Problem> {
        let (status, path) = (self.status().await, self.origin.config_path.clone());
        let found = tokio::task::spawn_blocking(move || doctor::of_daemon(&path, &status)).await;
        found.map_err(|error| {
            let detail = format!("looking failed: {error}");
            Problem::new(ProblemKind::Internal, detail, "run `weir doctor` on the host")
        })
    }
}

fn refused(error: &LogError) -> Problem {
    let kind = match error {
        LogError::NoFilter { .. } => ProblemKind::Invalid,
        _ => ProblemKind::Internal,
    };
    Problem::new(
        kind,
        error.to_string(),
        "give error, warn, info, debug, trace or off, or MODULE=LEVEL, with commas",
    )
}
