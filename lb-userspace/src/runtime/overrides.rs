//! Operators' words and shifts outlive the daemon: a drained rack stays drained over restarts, crashes and upgrades, until its time is
//! over.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use lb_common::abi::limits::{MAX_BACKENDS, MAX_DOMAINS};
use serde::{Deserialize, Serialize};

use crate::{
    api::types::{SubjectKind, SubjectName},
    plan::{
        shift::Shift,
        state::{Action, Override, Watch},
    },
};

/// Name of the file in the state directory.
pub const OVERRIDES_FILE: &str = "overrides.json";
/// Version of the file's form: 2 has ends and shifts.
const VERSION: u32 = 2;
/// The oldest version that is read. Its words have no end.
const OLDEST_VERSION: u32 = 1;
/// Words that stand at once: one for each backend and domain that a configuration can have.
const MAX_OVERRIDES: usize = MAX_BACKENDS + MAX_DOMAINS;
/// Size of the file: each word has a reason of at most 512 characters.
const MAX_BYTES: u64 = 128 << 20;

/// The words that stand, as they are in memory and on disk.
#[derive(Debug)]
pub struct Overrides {
    path: PathBuf,
    words: Words,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq)]
struct Words {
    overrides: BTreeMap<SubjectName, Override>,
    /// By the domain's path.
    shifts: BTreeMap<String, Shift>,
}

/// What went wrong with the file of overrides.
#[derive(Debug, thiserror::Error)]
pub enum OverridesError {
    /// It cannot be read.
    #[error("cannot read the operators' overrides in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a daemon wrote. Starting without it could put drained hosts back into service.
    #[error("the operators' overrides in {} are damaged: {detail}", path.display())]
    Corrupt {
        /// The file, which was left as it is.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It cannot be written; what it said before still stands there.
    #[error("cannot save the operators' overrides to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There are as many as there can be.
    #[error("{MAX_OVERRIDES} overrides stand already")]
    Full,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    overrides: Vec<Entry>,
    #[serde(default)]
    shifts: Vec<ShiftEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: SubjectKind,
    name: String,
    action: Action,
    reason: String,
    since: jiff::Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<jiff::Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    deadline: Option<jiff::Timestamp>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    quiet_s: Option<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ShiftEntry {
    domain: String,
    shift: Shift,
}

impl Overrides {
    /// Reads the words of `state_dir`; none if there is no file.
    ///
    /// # Errors
    /// [`OverridesError::Corrupt`] and [`OverridesError::Read`]; the file is left as it is.
    pub fn load(state_dir: &Path) -> Result<Self, OverridesError> {
        let path = state_dir.join(OVERRIDES_FILE);
        match read(&path) {
            Ok(bytes) => {
                let words =
                    parse(&bytes).map_err(|detail| OverridesError::Corrupt { path: path.clone(), detail })?;
                Ok(Self { path, words })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                Ok(Self { path, words: Words::default() })
            }
            Err(source) => Err(OverridesError::Read { path, source }),
        }
    }

    /// All words in the order of their subjects, whether the configuration names those or not.
    pub fn iter(&self) -> impl Iterator<Item = (&SubjectName, &Override)> {
        self.words.overrides.iter()
    }

    /// All shifts in the order of their domains, whether the configuration names those or not.
    pub fn shifts(&self) -> impl Iterator<Item = (&String, &Shift)> {
        self.words.shifts.iter()
    }

    /// The word on `subject`.
    #[must_use]
    pub fn get(&self, subject: &SubjectName) -> Option<&Override> {
        self.words.overrides.get(subject)
    }

    /// Lets `word` stand for `subject`, on disk first. It replaces an earlier one.
    ///
    /// # Errors
    /// If it cannot be saved, nothing changes.
    pub fn set(&mut self, subject: SubjectName, word: Override) -> Result<(), OverridesError> {
        let full =
            self.words.overrides.len() >= MAX_OVERRIDES && !self.words.overrides.contains_key(&subject);
        if full {
            return Err(OverridesError::Full);
        }
        let mut words = self.words.clone();
        words.overrides.insert(subject, word);
        self.replace(words)
    }

    /// Takes back the word on `subject`, on disk first. Says whether there was one.
    ///
    /// # Errors
    /// If that cannot be saved, nothing changes.
    pub fn clear(&mut self, subject: &SubjectName) -> Result<bool, OverridesError> {
        let mut words = self.words.clone();
        if words.overrides.remove(subject).is_none() {
            return Ok(false);
        }
        self.replace(words).map(|()| true)
    }

    /// Notes the shift of a domain, or that there is none, on disk first. Nothing is written if that is known.
    ///
    /// # Errors
    /// If it cannot be saved, nothing changes.
    pub fn set_shift(&mut self, domain: &str, shift: Option<Shift>) -> Result<(), OverridesError> {
        if self.words.shifts.get(domain) == shift.as_ref() {
            return Ok(());
        }
        let mut words = self.words.clone();
        if words.shifts.len() >= MAX_OVERRIDES && !words.shifts.contains_key(domain) && shift.is_some() {
            return Err(OverridesError::Full);
        }
        match shift {
            Some(shift) => words.shifts.insert(domain.to_owned(), shift),
            None => words.shifts.remove(domain),
        };
        self.replace(words)
    }

    /// Takes back all that is named, on disk at once.
    ///
    /// # Errors
    /// If that cannot be saved, nothing changes.
    pub fn clear_all(&mut self, subjects: &[SubjectName], shifts: &[String]) -> Result<(), OverridesError> {
        let mut words = self.words.clone();
        words.overrides.retain(|subject, _| !subjects.contains(subject));
        words.shifts.retain(|domain, _| !shifts.contains(domain));
        if words == self.words { Ok(()) } else { self.replace(words) }
    }

    fn replace(&mut self, words: Words) -> Result<(), OverridesError> {
        save(&self.path, &words)
            .map_err(|source| OverridesError::Write { path: self.path.clone(), source })?;
        self.words = words;
        Ok(())
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<Words, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let version = serde_json::from_slice::<Version>(bytes).map_err(|error| error.to_string())?.version;
    if !(OLDEST_VERSION..=VERSION).contains(&version) {
        return Err(format!(
            "its version is {version}, this weir reads versions {OLDEST_VERSION} to {VERSION}"
        ));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.overrides.len().max(document.shifts.len()) > MAX_OVERRIDES {
        return Err(format!("it holds more than {MAX_OVERRIDES} overrides or shifts"));
    }
    let mut words = Words::default();
    for Entry { kind, name, action, reason, since, until, deadline, quiet_s } in document.overrides {
        let subject = SubjectName { kind, name };
        if action == Action::Restore {
            return Err(format!("{subject} has the action \"restore\", which never stands"));
        }
        if words.overrides.contains_key(&subject) {
            return Err(format!("{subject} stands in it twice"));
        }
        let watch = Watch { deadline, quiet_s };
        words.overrides.insert(subject, Override { action, reason, since, until, watch });
    }
    for ShiftEntry { domain, shift } in document.shifts {
        if shift.keep_percent > 99 {
            return Err(format!("the shift of {domain} keeps {} %", shift.keep_percent));
        }
        if words.shifts.insert(domain.clone(), shift).is_some() {
            return Err(format!("the shift of {domain} stands in it twice"));
        }
    }
    Ok(words)
}

/// The one field that every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn save(path: &Path, words: &Words) -> io::Result<()> {
    let entries = words.overrides.iter().map(|(subject, word)| Entry {
        kind: subject.kind,
        name: subject.name.clone(),
        action: word.action,
        reason: word.reason.clone(),
        since: word.since,
        until: word.until,
        deadline: word.watch.deadline,
        quiet_s: word.watch.quiet_s,
    });
    let shifts = words.shifts.iter();
    let shifts = shifts.map(|(domain, shift)| ShiftEntry { domain: domain.clone(), shift: shift.clone() });
    let document = Document { version: VERSION, overrides: entries.collect(), shifts: shifts.collect() };
    let mut bytes = serde_json::to_vec_pretty(&document)?;
    bytes.push(b'\n');
    replace_file(path, &bytes)
}

/// Replaces the file as a whole: whoever reads it, also after a power failure, finds the old one or the new one.
pub(super) fn replace_file(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let staged = path.with_extension("json.tmp");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&staged, path)?;
    // The rename itself is durable only once the directory is.
    path.parent().map_or(Ok(()), |directory| File::open(directory)?.sync_all())
}

#[cfg(test)]
#[path = "overrides_tests.rs"]
mod tests;
