//! From a file to a [`Config`].

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::client_file;
use super::error::ConfigError;
use super::limits::MAX_CONFIG_BYTES;
use super::model::Config;
use super::raw::RawConfig;
use super::report::{Finding, Report, Span, quote};
use super::resolve::{expand, resolve};
use super::sources::Sources;

impl Config {
    /// Reads and checks the file at `path`, or all `*.toml` of the folder there as if they were one; and the files of its hash key and client prefixes if it names them.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        Self::of(&Sources::read(path)?)
    }

    /// Checks a file's text; `file_name` is how errors call it. Reads the files of its hash key and of
    /// client prefixes if it names them.
    ///
    /// # Errors
    /// All problems that were found.
    pub fn parse(text: &str, file_name: &str) -> Result<Self, ConfigError> {
        if text.len() as u64 > MAX_CONFIG_BYTES {
            return Err(too_large(file_name));
        }
        Self::of(&Sources::one(text.to_owned(), file_name))
    }

    /// Checks texts.
    pub(super) fn of(sources: &Sources) -> Result<Self, ConfigError> {
        let mut report = Report::default();
        let config = sources.tree(&mut report).and_then(|tree| {
            let raw = RawConfig::read(&tree, &mut report);
            let client_file = raw.node.as_ref().and_then(|node| node.client_prefixes_file.as_ref());
            let client_file = client_file.map(|text| PathBuf::from(text.value));
            expand(raw, &mut report, resolve).map(|config| (config, client_file))
        });
        match config {
            Some((mut config, client_file)) if report.is_clean() => {
                if let Some(path) = client_file {
                    client_file::extend(&mut config.client_regions, &path)?;
                }
                Ok(config)
            }
            _ => Err(sources.blame(report.into_error(&sources.name, &sources.text))),
        }
    }
}

/// The text of a regular file that is neither too large nor binary.
pub(super) fn read(path: &Path, name: &str) -> Result<String, ConfigError> {
    let unreadable = |error: std::io::Error| {
        let remedy = match error.kind() {
            ErrorKind::NotFound => {
                "name another file with --config, or create this one; examples/ has some to begin with"
            }
            ErrorKind::PermissionDenied => "run as a user who may read it (the daemon runs as root)",
            _ => "name another file with --config",
        };
        ConfigError::of_file(name, format!("cannot read the configuration: {error}"), remedy)
    };
    let kind = std::fs::metadata(path).map_err(unreadable)?.file_type();
    if kind.is_dir() {
        let message = "the configuration is a directory".to_owned();
        return Err(ConfigError::of_file(name, message, "name the file in it, such as weir.toml"));
    }
    if !kind.is_file() {
        let message = "the configuration is no regular file".to_owned();
        return Err(ConfigError::of_file(name, message, "name a file with --config"));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_CONFIG_BYTES {
        return Err(too_large(name));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..valid].iter().filter(|&&byte| byte == b'\n').count() + 1;
        let byte = error.as_bytes()[valid];
        let message =
            format!("the configuration is not UTF-8: byte 0x{byte:02x} on line {line} (offset {valid})");
        ConfigError::of_file(name, message, "save it as UTF-8, for example with `iconv -f latin1 -t utf-8`")
    })
}

pub(super) fn too_large(name: &str) -> ConfigError {
    let message = format!("the configuration is larger than {} MiB", MAX_CONFIG_BYTES >> 20);
    ConfigError::of_file(
        name,
        message,
        "MAX_CONFIG_BYTES is the limit; share services out to other edge hosts",
    )
}

/// The tree of a text. A parser that goes on after a mistake misreads what follows, so only the first mistake and
/// duplicate keys, which mislead nobody, are reported.
pub(super) fn parse_tree<'t>(text: &'t str, report: &mut Report) -> Option<DeTable<'t>> {
    let (tree, mut errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        return Some(tree.into_inner());
    }
    let place = |error: &toml::de::Error| error.span().unwrap_or(0..0);
    errors.sort_by_key(|error| place(error).start);
    let is_duplicate = |error: &toml::de::Error| error.message() == "duplicate key";
    let first = errors.iter().find(|error| !is_duplicate(error));
    let limit = first.map_or(usize::MAX, |error| place(error).start);
    for error in errors.iter().filter(|error| is_duplicate(error) && place(error).start < limit) {
        let span = place(error);
        report.add(|| {
            let name = quote(text.get(span.clone()).unwrap_or_default());
            let finding = Finding::new(&span, format!("{name} is there already"))
                .help("remove one, or write [[...]] with two pairs of brackets if the table repeats");
            match first_of_twins(text, &span) {
                Some(first) => finding.and(&first, "first written here"),
                None => finding,
            }
        });
    }
    if let Some(error) = first {
        report.add(|| {
            Finding::new(&place(error), format!("this is no TOML: {}", error.message()))
                .help("strings and addresses stand in quotes, each key on its own line: see https://toml.io/en/v1.0.0")
        });
    }
    None
}

/// Where the first of two equal keys or table headers stands; `again` is the second. The parser does not say, so this
/// reads the lines above, and finds nothing where tables are written inline.
fn first_of_twins(text: &str, again: &Span) -> Option<Span> {
    let key = text.get(again.clone())?;
    let line_start = text[..again.start].rfind('\n').map_or(0, |at| at + 1);
    let header = |line: &str| line.starts_with('[').then(|| line.trim_end().to_owned());
    let own_header = header(text[line_start..].lines().next()?);
    let mut start = line_start;
    for line in text[..line_start].split_inclusive('\n').rev() {
        start -= line.len();
        match (&own_header, header(line)) {
            (Some(own), Some(other)) if *own == other => {
                // The same line, so the key stands in the same column.
                let begin = start + (again.start - line_start);
                return Some(begin..begin + key.len());
            }
            (Some(_), _) => {}
            (None, Some(_)) => return None,
            (None, None) => {
                let indent = line.len() - line.trim_start().len();
                let value = line.trim_start().strip_prefix(key).map(str::trim_start);
                if value.is_some_and(|rest| rest.starts_with('=')) {
                    return Some(start + indent..start + indent + key.len());
                }
            }
        }
    }
    None
}
