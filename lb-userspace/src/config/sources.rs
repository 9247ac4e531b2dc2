//! The texts that a configuration is written in: one file, or all `*.toml` of a folder in the order of their names.
//!
//! The texts stand one behind the other, so that a place is one number; each is parsed by itself, so that no file goes on with the last
//! table of the one before. Arrays of tables are joined, `[topology]` and `[client_regions]` are merged; any other table stands in one file.

use std::fs;
use std::path::{Path, PathBuf};

use serde_spanned::Spanned;
use toml::de::{DeArray, DeTable, DeValue};

use super::error::{ConfigError, Place};
use super::limits::{MAX_CONFIG_BYTES, MAX_CONFIG_FILES};
use super::load::{parse_tree, read, too_large};
use super::report::{Finding, Report, Span, quote};

/// Tables whose entries may stand in several files.
const MERGED: [&str; 2] = ["topology", "client_regions"];

/// See the [module's description](self).
pub(super) struct Sources {
    /// How errors call the whole.
    pub(super) name: String,
    /// All texts, each ended by a line break if there are more.
    pub(super) text: String,
    files: Vec<File>,
}

struct File {
    name: String,
    start: usize,
    /// Lines of the texts before.
    lines: usize,
}

impl Sources {
    /// A text under this name.
    pub(super) fn one(text: String, name: &str) -> Self {
        let file = File { name: name.to_owned(), start: 0, lines: 0 };
        Self { name: name.to_owned(), text, files: vec![file] }
    }

    /// The file at `path`, or the files in the folder there.
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let name = path.display().to_string();
        if !fs::metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
            return Ok(Self::one(read(path, &name)?, &name));
        }
        let paths = listed(path, &name)?;
        let mut sources = Self { name, text: String::new(), files: Vec::new() };
        for path in paths {
            let name = path.display().to_string();
            let text = read(&path, &name)?;
            let (start, lines) = (sources.text.len(), sources.text.matches('\n').count());
            sources.text.push_str(&text);
            if !text.ends_with('\n') {
                sources.text.push('\n');
            }
            if sources.text.len() as u64 > MAX_CONFIG_BYTES {
                return Err(too_large(&sources.name));
            }
            sources.files.push(File { name, start, lines });
        }
        Ok(sources)
    }

    /// Names and texts of the files.
    pub(super) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.iter().enumerate().map(|(index, file)| {
            let end = self.files.get(index + 1).map_or(self.text.len(), |next| next.start);
            (file.name.as_str(), &self.text[file.start..end])
        })
    }

    /// The tree of all files; none if one of them is no TOML.
    pub(super) fn tree(&self, report: &mut Report) -> Option<DeTable<'_>> {
        let mut whole = None;
        let mut good = true;
        for (file, (_, text)) in self.files.iter().zip(self.files()) {
            let mut own = Report::default();
            let tree = parse_tree(text, &mut own);
            report.absorb(own, file.start);
            match (tree, &mut whole) {
                (None, _) => good = false,
                (Some(tree), None) => whole = Some(moved_table(&tree, file.start)),
                (Some(tree), Some(whole)) => merge(whole, &moved_table(&tree, file.start), report),
            }
        }
        whole.filter(|_| good)
    }

    /// The same without places, of texts that are known to be good.
    pub(super) fn plain(&self) -> toml::Table {
        let mut whole = toml::Table::new();
        for (_, text) in self.files() {
            for (key, value) in text.parse::<toml::Table>().unwrap_or_default() {
                match (whole.get_mut(&key), value) {
                    (Some(toml::Value::Array(there)), toml::Value::Array(more)) => there.extend(more),
                    (Some(toml::Value::Table(there)), toml::Value::Table(more)) => there.extend(more),
                    (_, value) => drop(whole.insert(key, value)),
                }
            }
        }
        whole
    }

    /// Puts places that count over all texts into their files.
    pub(super) fn blame(&self, mut error: ConfigError) -> ConfigError {
        if let [only] = &*self.files
            && only.name == self.name
        {
            return error;
        }
        let own = |place: &mut Place| {
            let at = self.files.partition_point(|file| file.start <= place.span.start).max(1) - 1;
            let Some(File { name, start, lines }) = self.files.get(at) else { return };
            place.line = place.line.saturating_sub(*lines);
            place.span = place.span.start - start..place.span.end.saturating_sub(*start);
            place.file = Some(name.clone());
        };
        for problem in &mut error.problems {
            problem.place.iter_mut().for_each(own);
            problem.related.iter_mut().for_each(|related| own(&mut related.place));
        }
        error
    }
}

/// The files of a folder.
fn listed(path: &Path, name: &str) -> Result<Vec<PathBuf>, ConfigError> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot list the folder of the configuration: {error}");
        ConfigError::of_file(name, message, "run as a user who may read it (the daemon runs as root)")
    };
    let mut paths = Vec::new();
    for entry in fs::read_dir(path).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        let is_hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if path.extension().is_some_and(|extension| extension == "toml") && !is_hidden {
            paths.push(path);
        }
    }
    if paths.is_empty() {
        let message = "the configuration is a folder without any *.toml".to_owned();
        return Err(ConfigError::of_file(
            name,
            message,
            "put files into it, or name a file such as weir.toml",
        ));
    }
    if paths.len() > MAX_CONFIG_FILES {
        let message = format!("the configuration is a folder of {} files", paths.len());
        let remedy = format!("MAX_CONFIG_FILES is {MAX_CONFIG_FILES}; join some of them");
        return Err(ConfigError::of_file(name, message, &remedy));
    }
    paths.sort();
    Ok(paths)
}

fn moved(span: &Span, by: usize) -> Span {
    span.start + by..span.end + by
}

fn moved_table<'t>(table: &DeTable<'t>, by: usize) -> DeTable<'t> {
    let mut result = DeTable::new();
    for (key, value) in table {
        let key = Spanned::new(moved(&key.span(), by), key.get_ref().clone());
        result.insert(key, moved_value(value, by));
    }
    result
}

fn moved_value<'t>(value: &Spanned<DeValue<'t>>, by: usize) -> Spanned<DeValue<'t>> {
    let inner = match value.get_ref() {
        DeValue::Table(table) => DeValue::Table(moved_table(table, by)),
        DeValue::Array(items) => {
            let mut result = DeArray::new();
            items.iter().for_each(|item| result.push(moved_value(item, by)));
            DeValue::Array(result)
        }
        other => other.clone(),
    };
    Spanned::new(moved(&value.span(), by), inner)
}

/// Adds the tables of another file.
fn merge<'t>(whole: &mut DeTable<'t>, more: &DeTable<'t>, report: &mut Report) {
    for (key, value) in more {
        let name = key.get_ref().as_ref();
        let first = whole.get_key_value(name).map(|(key, _)| key.span());
        match (whole.get_mut(name).map(Spanned::get_mut), value.get_ref()) {
            (None, _) => drop(whole.insert(key.clone(), value.clone())),
            (Some(DeValue::Array(there)), DeValue::Array(more)) => {
                more.iter().for_each(|item| there.push(item.clone()));
            }
            (Some(DeValue::Table(there)), DeValue::Table(more)) if MERGED.contains(&name) => {
                for (key, value) in more {
                    let twin = there.get_key_value(key.get_ref().as_ref()).map(|(key, _)| key.span());
                    twice(key, twin, report);
                    there.insert(key.clone(), value.clone());
                }
            }
            (Some(_), _) => twice(key, first, report),
        }
    }
}

fn twice(key: &Spanned<impl AsRef<str>>, first: Option<Span>, report: &mut Report) {
    if let Some(first) = first {
        report.add(|| {
            let name = quote(key.get_ref().as_ref());
            Finding::new(&key.span(), format!("{name} stands in another file already"))
                .and(&first, "first written here")
                .help("write it in one of the files only")
        });
    }
}
