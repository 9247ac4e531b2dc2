//! Operators' words outlive the daemon: a drained rack stays drained over restarts, crashes and upgrades.

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
    plan::state::{Action, Override},
};

/// Name of the file in the state directory.
pub const OVERRIDES_FILE: &str = "overrides.json";
/// Version of the file's form.
const VERSION: u32 = 1;
/// Words that stand at once: one for each backend and domain that a configuration can have.
const MAX_OVERRIDES: usize = MAX_BACKENDS + MAX_DOMAINS;
/// Size of the file: each word has a reason of at most 512 characters.
const MAX_BYTES: u64 = 128 << 20;

/// The words that stand, as they are in memory and on disk.
#[derive(Debug)]
pub struct Overrides {
    path: PathBuf,
    words: BTreeMap<SubjectName, Override>,
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
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: SubjectKind,
    name: String,
    action: Action,
    reason: String,
    since: jiff::Timestamp,
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
                Ok(Self { path, words: BTreeMap::new() })
            }
            Err(source) => Err(OverridesError::Read { path, source }),
        }
    }

    /// All words in the order of their subjects, whether the configuration names those or not.
    pub fn iter(&self) -> impl Iterator<Item = (&SubjectName, &Override)> {
        self.words.iter()
    }

    /// The word on `subject`.
    #[must_use]
    pub fn get(&self, subject: &SubjectName) -> Option<&Override> {
        self.words.get(subject)
    }

    /// Lets `word` stand for `subject`, on disk first. It replaces an earlier one.
    ///
    /// # Errors
    /// If it cannot be saved, nothing changes.
    pub fn set(&mut self, subject: SubjectName, word: Override) -> Result<(), OverridesError> {
        let full = self.words.len() >= MAX_OVERRIDES && !self.words.contains_key(&subject);
        if full {
            return Err(OverridesError::Full);
        }
        let mut words = self.words.clone();
        words.insert(subject, word);
        self.replace(words)
    }

    /// Takes back the word on `subject`, on disk first. Says whether there was one.
    ///
    /// # Errors
    /// If that cannot be saved, nothing changes.
    pub fn clear(&mut self, subject: &SubjectName) -> Result<bool, OverridesError> {
        let mut words = self.words.clone();
        if words.remove(subject).is_none() {
            return Ok(false);
        }
        self.replace(words).map(|()| true)
    }

    fn replace(&mut self, words: BTreeMap<SubjectName, Override>) -> Result<(), OverridesError> {
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

fn parse(bytes: &[u8]) -> Result<BTreeMap<SubjectName, Override>, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let version = serde_json::from_slice::<Version>(bytes).map_err(|error| error.to_string())?.version;
    if version != VERSION {
        return Err(format!("its version is {version}, this weir reads version {VERSION}"));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.overrides.len() > MAX_OVERRIDES {
        return Err(format!("it holds more than {MAX_OVERRIDES} overrides"));
    }
    let mut words = BTreeMap::new();
    for Entry { kind, name, action, reason, since } in document.overrides {
        let subject = SubjectName { kind, name };
        if action == Action::Restore {
            return Err(format!("{subject} has the action \"restore\", which never stands"));
        }
        if words.contains_key(&subject) {
            return Err(format!("{subject} stands in it twice"));
        }
        words.insert(subject, Override { action, reason, since });
    }
    Ok(words)
}

/// The one field that every version of the file has.
#[derive(Deserialize)]
struct Version {
    version: u32,
}

fn save(path: &Path, words: &BTreeMap<SubjectName, Override>) -> io::Result<()> {
    let entries = words.iter().map(|(subject, word)| Entry {
        kind: subject.kind,
        name: subject.name.clone(),
        action: word.action,
        reason: word.reason.clone(),
        since: word.since,
    });
    let document = Document { version: VERSION, overrides: entries.collect() };
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
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn subject(kind: SubjectKind, name: &str) -> SubjectName {
        SubjectName { kind, name: name.to_owned() }
    }

    fn word(action: Action) -> Override {
        Override {
            action,
            reason: "replacing fans \u{2014} \"row 7\"".to_owned(),
            since: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn words_outlive_the_process() {
        let dir = tempfile::tempdir().unwrap();
        let mut overrides = Overrides::load(dir.path()).unwrap();
        assert_eq!(overrides.iter().count(), 0);
        let rack = subject(SubjectKind::Domain, "west/w1/r1");
        let backend = subject(SubjectKind::Backend, "w1r1b1");
        overrides.set(rack.clone(), word(Action::Drain)).unwrap();
        overrides.set(backend.clone(), word(Action::Drain)).unwrap();
        overrides.set(backend.clone(), word(Action::Fail)).unwrap();

        let mut again = Overrides::load(dir.path()).unwrap();
        assert_eq!(again.get(&rack), Some(&word(Action::Drain)));
        assert_eq!(again.get(&backend), Some(&word(Action::Fail)));
        assert!(again.clear(&rack).unwrap());
        assert!(!again.clear(&rack).unwrap());

        let last = Overrides::load(dir.path()).unwrap();
        assert_eq!(last.iter().collect::<Vec<_>>(), [(&backend, &word(Action::Fail))]);
    }

    #[test]
    fn only_root_reads_the_file_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let mut overrides = Overrides::load(dir.path()).unwrap();
        overrides.set(subject(SubjectKind::Backend, "b"), word(Action::Drain)).unwrap();
        let mode = fs::metadata(dir.path().join(OVERRIDES_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert_eq!(names.collect::<Vec<_>>(), [OVERRIDES_FILE]);
    }

    #[test]
    fn damaged_file_is_refused_and_left_as_it_is() {
        let good =
            r#"{"kind":"domain","name":"west","action":"drain","reason":"r","since":"2026-01-01T00:00:00Z"}"#;
        let cases = [
            (String::new(), "EOF"),
            ("{\"version\":1,\"overr".to_owned(), "EOF"),
            ("\0\0\0\0".to_owned(), "expected value"),
            ("{\"version\":2,\"overrides\":[]}".to_owned(), "version is 2"),
            ("{\"version\":1,\"overrides\":[],\"more\":1}".to_owned(), "unknown field"),
            (format!("{{\"version\":1,\"overrides\":[{good},{good}]}}"), "domain west stands in it twice"),
            (
                format!("{{\"version\":1,\"overrides\":[{}]}}", good.replace("drain", "restore")),
                "never stands",
            ),
        ];
        for (text, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(OVERRIDES_FILE);
            fs::write(&path, &text).unwrap();
            let error = Overrides::load(dir.path()).expect_err(&text);
            assert!(matches!(error, OverridesError::Corrupt { .. }), "{text}: {error:?}");
            let message = error.to_string();
            assert!(
                message.contains(expected) && message.contains(path.to_str().unwrap()),
                "{text}: {message}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn word_that_cannot_be_saved_does_not_stand() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        let mut overrides = Overrides::load(&state).unwrap();
        let kept = subject(SubjectKind::Backend, "kept");
        overrides.set(kept.clone(), word(Action::Drain)).unwrap();
        // Root may write anywhere, so the directory itself has to go.
        let moved = dir.path().join("moved");
        fs::rename(&state, &moved).unwrap();
        let lost = subject(SubjectKind::Backend, "lost");
        assert!(matches!(overrides.set(lost.clone(), word(Action::Fail)), Err(OverridesError::Write { .. })));
        assert!(matches!(overrides.clear(&kept), Err(OverridesError::Write { .. })));
        assert_eq!(overrides.get(&lost), None);
        assert!(overrides.get(&kept).is_some());
        assert_eq!(Overrides::load(&moved).unwrap().iter().count(), 1);
    }

    #[test]
    fn half_written_successor_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let mut overrides = Overrides::load(dir.path()).unwrap();
        let rack = subject(SubjectKind::Domain, "west");
        overrides.set(rack.clone(), word(Action::Drain)).unwrap();
        fs::write(dir.path().join("overrides.json.tmp"), "{\"version\":1,\"ov").unwrap();
        let mut again = Overrides::load(dir.path()).unwrap();
        assert!(again.get(&rack).is_some());
        again.clear(&rack).unwrap();
        assert_eq!(Overrides::load(dir.path()).unwrap().iter().count(), 0);
    }
}
