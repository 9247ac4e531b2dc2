//! A configuration as it is written, without its secret, and with everything filled in that holds without being written.

use std::path::Path;

use toml::{Table, Value};

use super::error::ConfigError;
use super::keys::Section;
use super::model::Config;
use super::report::Report;
use super::sources::Sources;

/// What stands in place of the hash key.
pub const REDACTED: &str = "redacted";

/// The file, or the files of a folder, as they are written, with the hash key redacted: names and texts.
///
/// # Errors
/// All problems that were found: what cannot be read whole may hide its key.
pub fn redacted(path: &Path) -> Result<Vec<(String, String)>, ConfigError> {
    let sources = Sources::read(path)?;
    Config::of(&sources)?;
    let mut report = Report::default();
    let tree = sources.tree(&mut report);
    let key = tree.as_ref().and_then(|tree| {
        let node = tree.get("node")?.get_ref().as_table()?;
        node.get("hash_key").map(|key| key.span())
    });
    let mut at = 0;
    let files = sources.files().map(|(name, text)| {
        let start = at;
        at += text.len();
        let mut text = text.to_owned();
        if let Some(key) = key.clone().filter(|key| (start..at).contains(&key.start)) {
            text.replace_range(key.start - start..key.end - start, &format!("\"{REDACTED}\""));
        }
        (name.to_owned(), text)
    });
    Ok(files.collect())
}

/// The whole configuration as one table with every default in it, and the hash key.
///
/// # Errors
/// All problems that were found.
pub fn effective(path: &Path) -> Result<Table, ConfigError> {
    let sources = Sources::read(path)?;
    Config::of(&sources)?;
    let mut root = sources.plain();
    fill(&mut root, &[]);
    Ok(root)
}

/// The configuration, and what [`effective`] says of it, redacted; both of one reading.
///
/// # Errors
/// All problems that were found.
pub fn load(path: &Path) -> Result<(Config, Table), ConfigError> {
    let sources = Sources::read(path)?;
    let config = Config::of(&sources)?;
    let mut root = sources.plain();
    fill(&mut root, &[]);
    redact(&mut root);
    Ok((config, root))
}

/// Takes the hash key out of a configuration.
pub fn redact(root: &mut Table) {
    let node = root.get_mut("node").and_then(Value::as_table_mut);
    if let Some(key) = node.and_then(|node| node.get_mut("hash_key")) {
        *key = Value::String(REDACTED.to_owned());
    }
}

fn fill(table: &mut Table, path: &'static [&'static str]) {
    for key in Section::find(path).map_or(&[][..], Section::keys) {
        let kind = table.get("kind").and_then(Value::as_str);
        let said = |other: &str| table.get(other).and_then(Value::as_str);
        if table.contains_key(key.name) || !key.applies(said) {
            continue;
        }
        let Some(fallback) = key.fallback(kind) else { continue };
        let value = match fallback.strip_prefix('=') {
            Some(other) => table.get(other).cloned(),
            None => literal(&fallback),
        };
        if let Some(value) = value {
            table.insert(key.name.to_owned(), value);
        }
    }
    for below in Section::children(path) {
        let name = below.path[below.path.len() - 1];
        match table.get_mut(name) {
            Some(Value::Table(table)) => fill(table, below.path),
            Some(Value::Array(items)) => {
                items.iter_mut().filter_map(Value::as_table_mut).for_each(|table| fill(table, below.path));
            }
            _ => {}
        }
    }
}

/// A value as TOML has it.
pub(super) fn literal(text: &str) -> Option<Value> {
    format!("value = {text}").parse::<Table>().ok()?.remove("value")
}
