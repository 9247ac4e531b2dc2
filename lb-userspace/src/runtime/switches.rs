//! Emergency switches outlive the daemon as overrides do, until their time is over.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{clock::monotonic_ns, overrides::replace_file};
use crate::plan::switches::{MAX_SWITCHES, Switch, Thrown};

/// Name of the file in the state directory.
pub const SWITCHES_FILE: &str = "emergency.json";
/// Version of the file's form.
const VERSION: u32 = 1;
/// Size of the file: each switch has a reason of at most 512 characters.
const MAX_BYTES: u64 = 16 << 20;
const NS_PER_SECOND: i128 = 1_000_000_000;

/// What went wrong with the file of switches.
#[derive(Debug, thiserror::Error)]
pub enum SwitchesError {
    /// It cannot be read.
    #[error("cannot read the emergency switches in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not what a daemon wrote. Starting without it could let a flood back in.
    #[error("the emergency switches in {} are damaged: {detail}", path.display())]
    Corrupt {
        /// The file, which was left as it is.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// It cannot be written; what it said before still stands there.
    #[error("cannot save the emergency switches to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The switches that are on, by name.
#[derive(Debug)]
pub struct Switches {
    path: PathBuf,
    held: BTreeMap<String, Held>,
}

/// A switch that is on, with its end on this host's clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Held {
    /// The switch.
    pub thrown: Thrown,
    /// When it goes off, by CLOCK_MONOTONIC. A step of the wall clock does not move it.
    pub until_ns: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    switches: Vec<Thrown>,
}

impl Held {
    /// A switch whose end is as far from now on either clock.
    #[must_use]
    pub fn new(thrown: Thrown) -> Self {
        let left = thrown.until.as_nanosecond() - jiff::Timestamp::now().as_nanosecond();
        let until_ns = i128::from(monotonic_ns()) + left;
        Self { thrown, until_ns: u64::try_from(until_ns).unwrap_or(0) }
    }

    /// Seconds until it goes off, rounded up.
    #[must_use]
    pub fn left_s(&self) -> u64 {
        self.until_ns.saturating_sub(monotonic_ns()).div_ceil(NS_PER_SECOND as u64)
    }
}

impl Switches {
    /// Reads the switches of `state_dir`, those included whose time is over meanwhile; none if there is no file.
    ///
    /// # Errors
    /// [`SwitchesError::Corrupt`] and [`SwitchesError::Read`]; the file is left as it is.
    pub fn load(state_dir: &Path) -> Result<Self, SwitchesError> {
        let path = state_dir.join(SWITCHES_FILE);
        match read(&path) {
            Ok(bytes) => {
                let held =
                    parse(&bytes).map_err(|detail| SwitchesError::Corrupt { path: path.clone(), detail })?;
                Ok(Self { path, held })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self { path, held: BTreeMap::new() }),
            Err(source) => Err(SwitchesError::Read { path, source }),
        }
    }

    /// All switches in the order of their names.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &Held)> {
        self.held.iter()
    }

    /// The switch of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Held> {
        self.held.get(name)
    }

    /// Whether there is room for a switch of this name.
    #[must_use]
    pub fn has_room(&self, name: &str) -> bool {
        self.held.len() < MAX_SWITCHES || self.held.contains_key(name)
    }

    /// Prefixes that are blocked.
    #[must_use]
    pub fn blocks(&self) -> usize {
        self.held.values().filter(|held| matches!(held.thrown.switch, Switch::Block { .. })).count()
    }

    /// Throws a switch; it replaces one of the same name. In memory only: see [`save`](Self::save).
    pub fn insert(&mut self, held: Held) {
        self.held.insert(held.thrown.switch.name(), held);
    }

    /// Takes a switch back. In memory only: see [`save`](Self::save).
    pub fn remove(&mut self, name: &str) -> Option<Held> {
        self.held.remove(name)
    }

    /// The names of those whose time is over.
    #[must_use]
    pub fn expired(&self, now_ns: u64) -> Vec<String> {
        self.held.iter().filter(|(_, held)| held.until_ns <= now_ns).map(|(name, _)| name.clone()).collect()
    }

    /// Writes all switches down, as a whole.
    ///
    /// # Errors
    /// [`SwitchesError::Write`]; the file is as it was.
    pub fn save(&self) -> Result<(), SwitchesError> {
        let switches = self.held.values().map(|held| held.thrown.clone()).collect();
        let failed = |source| SwitchesError::Write { path: self.path.clone(), source };
        let mut bytes = serde_json::to_vec_pretty(&Document { version: VERSION, switches })
            .map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        replace_file(&self.path, &bytes).map_err(failed)
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(MAX_BYTES + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<String, Held>, String> {
    if bytes.len() as u64 > MAX_BYTES {
        return Err(format!("it is larger than {MAX_BYTES} bytes"));
    }
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    if document.version != VERSION {
        return Err(format!("its version is {}, this weir reads version {VERSION}", document.version));
    }
    if document.switches.len() > MAX_SWITCHES {
        return Err(format!("it holds more than {MAX_SWITCHES} switches"));
    }
    let mut held = BTreeMap::new();
    for thrown in document.switches {
        thrown.switch.check()?;
        let name = thrown.switch.name();
        if held.insert(name.clone(), Held::new(thrown)).is_some() {
            return Err(format!("{name} stands in it twice"));
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use jiff::{SignedDuration, Timestamp};

    fn thrown(service: &str, for_s: i64) -> Thrown {
        let since = Timestamp::now();
        Thrown {
            switch: Switch::Stop { service: service.to_owned() },
            reason: "flood".to_owned(),
            since,
            until: since + SignedDuration::from_secs(for_s),
        }
    }

    #[test]
    fn switches_outlive_the_process_with_their_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut switches = Switches::load(dir.path()).unwrap();
        switches.insert(Held::new(thrown("web", 3_600)));
        switches.insert(Held::new(thrown("mail", -5)));
        switches.save().unwrap();
        let again = Switches::load(dir.path()).unwrap();
        let left = again.get("stop:web").unwrap().left_s();
        assert!((3_000..=3_600).contains(&left), "{left}");
        assert_eq!(again.get("stop:mail").unwrap().left_s(), 0);
        assert_eq!(again.expired(monotonic_ns()), ["stop:mail"]);
    }

    #[test]
    fn damaged_file_is_refused_and_left_as_it_is() {
        for (text, expected) in [
            ("", "EOF"),
            ("{\"version\":2,\"switches\":[]}", "version is 2"),
            ("{\"version\":1,\"switches\":[],\"more\":1}", "unknown field"),
            (
                r#"{"version":1,"switches":[{"switch":{"kind":"shed","class":"P3","percent":200},"reason":"r","since":"2026-01-01T00:00:00Z","until":"2026-01-01T00:00:00Z"}]}"#,
                "200 %",
            ),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join(SWITCHES_FILE);
            fs::write(&path, text).unwrap();
            let error = Switches::load(dir.path()).expect_err(text);
            assert!(matches!(error, SwitchesError::Corrupt { .. }), "{text}: {error:?}");
            assert!(error.to_string().contains(expected), "{text}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
