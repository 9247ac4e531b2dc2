//! Logs go to standard error: as text for people or as one JSON object per line.

use std::{env, io, io::IsTerminal};

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt};

/// Environment variable with the filter: `info`, `debug`, `weir=debug,hyper=warn`.
pub const FILTER_VARIABLE: &str = "WEIR_LOG";
/// The filter when the variable is not set.
const DEFAULT_FILTER: &str = "info";

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("the environment variable {FILTER_VARIABLE} is no log filter: {0}")]
    Filter(String),
    /// Something logs already.
    #[error("logging is set up already")]
    Twice,
}

/// Sets up logging of the whole process.
///
/// # Errors
/// If [`FILTER_VARIABLE`] cannot be understood, or if it is called twice.
pub fn init(format: LogFormat) -> Result<(), LogError> {
    let filter = filter(env::var(FILTER_VARIABLE).ok().as_deref())?;
    // A log that cannot be written must not end or flood a daemon, so what fails here is silent.
    let logs =
        fmt().with_env_filter(filter).with_writer(io::stderr).log_internal_errors(false).with_target(false);
    let done = match format {
        LogFormat::Text => {
            let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            logs.with_ansi(colour).finish().try_init()
        }
        LogFormat::Json => logs.json().flatten_event(true).with_current_span(false).finish().try_init(),
    };
    done.map_err(|_| LogError::Twice)
}

fn filter(text: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(text).map_err(|error| LogError::Filter(format!("\"{text}\": {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_is_read_and_defaults_to_info() {
        assert_eq!(filter(None).unwrap().to_string(), "info");
        assert_eq!(filter(Some(" ")).unwrap().to_string(), "info");
        assert_eq!(filter(Some("debug")).unwrap().to_string(), "debug");
        let error = filter(Some("weir=loudly")).unwrap_err().to_string();
        assert!(error.contains("WEIR_LOG") && error.contains("weir=loudly"), "{error}");
    }
}
