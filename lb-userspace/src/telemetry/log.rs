//! Logs: as text for people or as one JSON object per line on standard error, or to systemd's journal with their fields. What is
//! logged can be changed for a while without a restart.

use std::{
    env, io,
    io::IsTerminal,
    os::fd::AsFd,
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use nix::sys::stat::fstat;
use tracing_subscriber::{
    EnvFilter, Layer, Registry, fmt, layer::SubscriberExt, reload, util::SubscriberInitExt,
};

/// Environment variable with the filter: `info`, `debug`, `weir=debug,hyper=warn`.
pub const FILTER_VARIABLE: &str = "WEIR_LOG";
/// The filter when the variable is not set.
const DEFAULT_FILTER: &str = "info";
/// Characters of a filter that is set at run time.
pub const MAX_FILTER_CHARS: usize = 256;
/// How long such a filter may stand: a daemon that logs everything fills the disk.
pub const MAX_FILTER_TIME: Duration = Duration::from_secs(86_400);
/// What systemd says that standard error is (`systemd.exec(5)`): `device:inode`.
const JOURNAL_VARIABLE: &str = "JOURNAL_STREAM";
/// The name under which the journal keeps lines.
const IDENTIFIER: &str = "weir";

/// Form of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// To the journal under systemd, else as text.
    #[default]
    Auto,
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
    /// To systemd's journal, with each field as one of its own.
    Journal,
}

impl LogFormat {
    /// Name in CLI and API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Text => "text",
            Self::Json => "json",
            Self::Journal => "journal",
        }
    }
}

/// Why logging could not be set up, or not be changed.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is not one.
    #[error("the environment variable {FILTER_VARIABLE} is no log filter: {0}")]
    Filter(String),
    /// The journal was asked for, and cannot be reached.
    #[error("systemd's journal cannot be reached")]
    Journal(#[source] io::Error),
    /// Something logs already.
    #[error("logging is set up already")]
    Twice,
    /// Nothing was set up.
    #[error("this process set no log up")]
    NotSetUp,
    /// A filter that is set at run time is none.
    #[error("\"{filter}\" is no log filter: {problem}")]
    NoFilter {
        /// The filter.
        filter: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// What is logged, and how.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogState {
    /// The filter in force.
    pub filter: String,
    /// The filter that the daemon was started with, and comes back to.
    pub base: String,
    /// Where the log goes.
    pub format: LogFormat,
    /// How much longer the filter stands, if it is not that of the start.
    pub left: Option<Duration>,
}

/// The log of this process.
struct Log {
    handle: reload::Handle<EnvFilter, Registry>,
    base: String,
    format: LogFormat,
    /// A filter for a while, and when it ends.
    passing: Mutex<Option<(String, Instant)>>,
}

static LOG: OnceLock<Log> = OnceLock::new();

/// Sets up logging of the whole process.
///
/// # Errors
/// If [`FILTER_VARIABLE`] cannot be understood, if the journal was asked for and is not there, or if it is called twice.
pub fn init(format: LogFormat) -> Result<(), LogError> {
    let filter = filter(env::var(FILTER_VARIABLE).ok().as_deref())?;
    let base = filter.to_string();
    let (filter, handle) = reload::Layer::new(filter);
    let (format, sink) = sink(format)?;
    tracing_subscriber::registry().with(filter).with(sink).try_init().map_err(|_| LogError::Twice)?;
    LOG.set(Log { handle, base, format, passing: Mutex::default() }).map_err(|_| LogError::Twice)
}

type Sink<S> = Box<dyn Layer<S> + Send + Sync>;

/// Where lines go, and what that is called.
fn sink<S>(format: LogFormat) -> Result<(LogFormat, Sink<S>), LogError>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
{
    let journal = || {
        let layer = tracing_journald::layer().map_err(LogError::Journal)?;
        let layer =
            layer.with_syslog_identifier(IDENTIFIER.to_owned()).with_field_prefix(Some("WEIR".to_owned()));
        Ok((LogFormat::Journal, layer.boxed()))
    };
    // A log that cannot be written must not end or flood a daemon, so what fails here is silent.
    let lines = || fmt::layer().with_writer(io::stderr).log_internal_errors(false).with_target(false);
    let text = || {
        let colour = io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Ok((LogFormat::Text, lines().with_ansi(colour).boxed()))
    };
    match format {
        LogFormat::Journal => journal(),
        LogFormat::Json => {
            Ok((LogFormat::Json, lines().json().flatten_event(true).with_current_span(false).boxed()))
        }
        LogFormat::Auto if is_journal() => journal().or_else(|_| text()),
        LogFormat::Auto | LogFormat::Text => text(),
    }
}

/// Whether standard error is the journal, as `systemd.exec(5)` has one find out.
fn is_journal() -> bool {
    let Ok(said) = env::var(JOURNAL_VARIABLE) else { return false };
    fstat(io::stderr().as_fd()).is_ok_and(|stat| said == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn filter(text: Option<&str>) -> Result<EnvFilter, LogError> {
    let text = text.filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(text).map_err(|error| LogError::Filter(format!("\"{text}\": {error}")))
}

/// What is logged now.
///
/// # Errors
/// [`LogError::NotSetUp`].
pub fn state() -> Result<LogState, LogError> {
    let log = LOG.get().ok_or(LogError::NotSetUp)?;
    let passing = log.passing.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let left = passing.as_ref().map(|(_, ends)| ends.saturating_duration_since(Instant::now()));
    let filter = passing.map_or_else(|| log.base.clone(), |(filter, _)| filter);
    Ok(LogState { filter, base: log.base.clone(), format: log.format, left })
}

/// Logs by this filter for so long; then by that of the start again, which [`expire`] sees to.
///
/// # Errors
/// [`LogError::NoFilter`]; then nothing changed.
pub fn set(text: &str, time: Duration) -> Result<(), LogError> {
    let log = LOG.get().ok_or(LogError::NotSetUp)?;
    let filter = parse(text)?;
    let shown = filter.to_string();
    let mut passing = log.passing.lock().unwrap_or_else(PoisonError::into_inner);
    log.handle.reload(filter).map_err(|_| LogError::NotSetUp)?;
    *passing = Some((shown, Instant::now() + time.min(MAX_FILTER_TIME)));
    Ok(())
}

/// Reads a filter that is set at run time.
fn parse(text: &str) -> Result<EnvFilter, LogError> {
    let refused = |problem: String| {
        let filter = text.chars().take(MAX_FILTER_CHARS).flat_map(char::escape_debug).collect();
        Err(LogError::NoFilter { filter, problem })
    };
    if text.trim().is_empty() {
        return refused("it is empty".to_owned());
    }
    if text.chars().count() > MAX_FILTER_CHARS {
        return refused(format!("it is longer than {MAX_FILTER_CHARS} characters"));
    }
    // `EnvFilter` takes any word for the name of a module: a misspelt level would log nothing.
    let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let text = text.split(',').map(str::trim).collect::<Vec<_>>().join(",");
    let bad = text.split(',').find(|part| match part.rsplit_once('=') {
        Some((_, level)) => !is_level(level.trim()),
        None => !is_level(part),
    });
    match (bad, EnvFilter::try_new(&text)) {
        (Some(bad), _) => refused(format!("\"{}\" is no level, and none of a module", bad.escape_debug())),
        (None, Ok(filter)) => Ok(filter),
        (None, Err(error)) => refused(error.to_string()),
    }
}

/// Logs as at the start again, if that is not so.
///
/// # Errors
/// [`LogError::NotSetUp`].
pub fn reset() -> Result<(), LogError> {
    let log = LOG.get().ok_or(LogError::NotSetUp)?;
    let mut passing = log.passing.lock().unwrap_or_else(PoisonError::into_inner);
    if passing.take().is_some() {
        let base = EnvFilter::try_new(&log.base).map_err(|error| LogError::Filter(error.to_string()))?;
        log.handle.reload(base).map_err(|_| LogError::NotSetUp)?;
    }
    Ok(())
}

/// Ends a filter whose time is over. To be called now and then.
pub fn expire() {
    let over = LOG.get().is_some_and(|log| {
        let passing = log.passing.lock().unwrap_or_else(PoisonError::into_inner);
        passing.as_ref().is_some_and(|(_, ends)| *ends <= Instant::now())
    });
    if over && reset().is_ok() {
        tracing::info!("the log's filter is that of the start again: its time is over");
    }
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

    #[test]
    fn filters_at_run_time_have_levels_and_bounds() {
        for good in ["debug", "info,hyper=debug", "lb_userspace::api=trace", "off", " warn , rustls=error"] {
            assert!(parse(good).is_ok(), "{good}");
        }
        for bad in ["", " ", "dbug", "info,hyper", "hyper=loud", "=", &"a=info,".repeat(64), "\u{1b}[2J"] {
            let error = parse(bad).map(drop).unwrap_err().to_string();
            assert!(error.contains("is no log filter") && !error.contains('\u{1b}'), "{error}");
        }
    }

    #[test]
    fn a_filter_for_a_while_ends_and_the_journal_is_known_by_its_file() {
        assert!(!is_journal(), "the tests' standard error is not the journal");
        init(LogFormat::Text).unwrap();
        assert!(matches!(init(LogFormat::Json), Err(LogError::Twice)));
        let base = state().unwrap();
        assert_eq!((base.left, base.format), (None, LogFormat::Text));
        set("lb_userspace=trace", Duration::from_secs(3600)).unwrap();
        expire();
        let now = state().unwrap();
        assert_eq!((now.filter.as_str(), &now.base), ("lb_userspace=trace", &base.filter));
        assert!(now.left.is_some() && tracing::enabled!(target: "lb_userspace", tracing::Level::TRACE));
        assert!(set("loud", Duration::from_secs(1)).is_err());
        assert_eq!(state().unwrap().filter, "lb_userspace=trace", "a bad filter changes nothing");
        set("lb_userspace=trace", Duration::ZERO).unwrap();
        expire();
        assert_eq!(state().unwrap(), base);
        assert!(!tracing::enabled!(target: "lb_userspace", tracing::Level::TRACE));
    }
}
