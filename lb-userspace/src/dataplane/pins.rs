//! Where pins lie, and what may be done with them.
//!
//! ```text
//! <bpffs>/v<ABI>/current/<MAP>      the maps of the generation that runs
//! <bpffs>/v<ABI>/current/program    its program
//! <bpffs>/v<ABI>/links/<interface>  one link per interface ('.' and '%' as %2e and %25: bpffs takes no dots)
//! <bpffs>/v<ABI>/next/              a generation that is being built or switched to
//! <bpffs>/v<ABI>/old/               one that is being removed
//! ```
//!
//! A generation is switched in this order: `next` is filled completely, the links get its program, `current` becomes `old`,
//! `next` becomes `current`, `old` goes. What a crash leaves between two steps is settled by [`Pins::repair`] at the next
//! start: a `next` that some link already runs is the newer truth and is switched to for good, any other is dropped.
//!
//! Links of another version, in the folder beside, count as this version's own: they get its program by the same atomic update
//! and are moved here; only then that folder goes.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::programs::ProgramInfo;
use lb_common::abi::ABI_VERSION;
use nix::sys::statfs::statfs;
use serde::Serialize;

use super::error::DataPlaneError;
use super::generation::{Generation, map_names};
use super::sys::{self, LinkInfo};

const CURRENT: &str = "current";
const NEXT: &str = "next";
const OLD: &str = "old";
const LINKS: &str = "links";
/// Name of a generation's pinned program.
pub(super) const PROGRAM: &str = "program";
/// Name of a program that is to replace [`PROGRAM`].
pub(super) const PROGRAM_NEXT: &str = "program_next";
/// What reads as a version folder: this and a number.
const VERSION_PREFIX: &str = "v";

/// The pins of this ABI below one folder, locked for this process.
#[derive(Debug)]
pub(super) struct Pins {
    bpffs: PathBuf,
    folder: PathBuf,
    /// Pins of other versions, whose links are taken over.
    others: Vec<Other>,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

/// The pins of another ABI version.
#[derive(Debug)]
struct Other {
    version: u32,
    folder: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
}

/// A pinned link.
#[derive(Debug)]
pub(super) struct PinnedLink {
    /// The interface's name when it was pinned.
    pub(super) interface: String,
    pub(super) path: PathBuf,
    pub(super) fd: OwnedFd,
    pub(super) info: LinkInfo,
}

/// What [`detach`] removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Detached {
    /// Interfaces that no longer run the program.
    pub interfaces: Vec<String>,
    /// Folders of pins that were removed.
    pub removed: Vec<PathBuf>,
}

impl Pins {
    /// Opens the pins below `bpffs`, which is created if it is not there.
    pub(super) fn open(bpffs: &Path) -> Result<Self, DataPlaneError> {
        require_bpffs(bpffs)?;
        let others = find_others(bpffs)?;
        let folder = bpffs.join(format!("{VERSION_PREFIX}{ABI_VERSION}"));
        let links = folder.join(LINKS);
        fs::create_dir_all(&links).map_err(|error| DataPlaneError::io(&links, error))?;
        let lock = lock(&folder, bpffs)?;
        let pins = Self { bpffs: bpffs.to_owned(), folder, others, _lock: lock };
        pins.refuse_unknown()?;
        Ok(pins)
    }

    pub(super) fn current(&self) -> PathBuf {
        self.folder.join(CURRENT)
    }

    pub(super) fn next(&self) -> PathBuf {
        self.folder.join(NEXT)
    }

    /// Where the link of an interface is pinned.
    pub(super) fn link_path(&self, interface: &str) -> PathBuf {
        self.folder.join(LINKS).join(escape(interface))
    }

    pub(super) fn bad(&self, path: &Path, problem: impl Into<String>) -> DataPlaneError {
        DataPlaneError::BadPin { path: path.to_owned(), bpffs: self.bpffs.clone(), problem: problem.into() }
    }

    /// The version of the pins beside those of this version, if there are any with a link.
    pub(super) fn other_version(&self) -> Option<u32> {
        let has_links =
            |other: &&Other| entries(&other.folder.join(LINKS)).is_ok_and(|links| !links.is_empty());
        self.others.iter().find(has_links).map(|other| other.version)
    }

    /// Makes the links of other versions those of this one, once they run its program, and removes what else those versions had
    /// pinned.
    pub(super) fn take_over_links(&self) -> Result<(), DataPlaneError> {
        for other in &self.others {
            let links = other.folder.join(LINKS);
            for path in if links.exists() { entries(&links)? } else { Vec::new() } {
                let own = self.folder.join(LINKS).join(file_name(&path));
                fs::rename(&path, &own).map_err(|error| DataPlaneError::io(&path, error))?;
            }
            remove_folder(&other.folder)?;
        }
        Ok(())
    }

    /// All pinned links, those of other versions included.
    pub(super) fn links(&self) -> Result<Vec<PinnedLink>, DataPlaneError> {
        let mut links = self.links_in(&self.folder.join(LINKS))?;
        for other in &self.others {
            let folder = other.folder.join(LINKS);
            if folder.exists() {
                links.extend(self.links_in(&folder)?);
            }
        }
        Ok(links)
    }

    fn links_in(&self, folder: &Path) -> Result<Vec<PinnedLink>, DataPlaneError> {
        let mut links = Vec::new();
        for path in entries(folder)? {
            let opened = sys::open_pin(&path).and_then(|fd| Ok((sys::link_info(fd.as_fd())?, fd)));
            let (info, fd) = opened.map_err(|error| self.bad(&path, format!("is no XDP link: {error}")))?;
            links.push(PinnedLink { interface: unescape(&file_name(&path)), path, fd, info });
        }
        Ok(links)
    }

    /// The generation in `current`, or `None` when there is none.
    pub(super) fn open_current(&self) -> Result<Option<Generation>, DataPlaneError> {
        let current = self.current();
        if !current.exists() {
            return Ok(None);
        }
        let generation = Generation::open(&current).map_err(|problem| self.bad(&current, problem))?;
        Ok(Some(generation))
    }

    /// Makes `next` the current generation. The links must run its program already.
    pub(super) fn switch(&self) -> Result<(), DataPlaneError> {
        let (current, next, old) = (self.current(), self.next(), self.folder.join(OLD));
        if current.exists() {
            fs::rename(&current, &old).map_err(|error| DataPlaneError::io(&current, error))?;
        }
        fs::rename(&next, &current).map_err(|error| DataPlaneError::io(&next, error))?;
        remove_folder(&old)
    }

    /// Settles what an interrupted start left behind. See the [module](self).
    pub(super) fn repair(&self) -> Result<(), DataPlaneError> {
        let (current, next, old) = (self.current(), self.next(), self.folder.join(OLD));
        if next.exists() {
            if old.exists() && !current.exists() {
                // Between the two renames: the links run `next` already.
                self.switch()?;
            } else if let Some(program) = self.adopted_program(&next)? {
                for link in self.links()? {
                    sys::update_link(link.fd.as_fd(), program.as_fd())
                        .map_err(|error| DataPlaneError::io(&link.path, error))?;
                }
                self.switch()?;
            } else {
                remove_folder(&next)?;
            }
        }
        remove_folder(&old)?;
        remove_file(&current.join(PROGRAM_NEXT))
    }

    /// The program of the generation in `folder`, if that is complete and some link runs it.
    fn adopted_program(&self, folder: &Path) -> Result<Option<OwnedFd>, DataPlaneError> {
        let path = folder.join(PROGRAM);
        let Ok(program) = sys::open_program(&path) else { return Ok(None) };
        let Ok(info) = ProgramInfo::from_pin(&path) else { return Ok(None) };
        if Generation::open(folder).is_err() {
            return Ok(None);
        }
        if !self.links()?.iter().any(|link| link.info.program_id == info.id()) {
            return Ok(None);
        }
        Ok(Some(program))
    }

    /// Refuses what this version does not put into its folder.
    fn refuse_unknown(&self) -> Result<(), DataPlaneError> {
        let known = [CURRENT, NEXT, OLD, LINKS];
        for path in entries(&self.folder)? {
            if !known.contains(&file_name(&path).as_str()) {
                return Err(self.bad(&path, "is not known to this version"));
            }
        }
        let current = self.current();
        if current.exists() {
            for path in entries(&current)? {
                let name = file_name(&path);
                if name != PROGRAM && name != PROGRAM_NEXT && !map_names().any(|map| map == name) {
                    return Err(self.bad(&path, "is not known to this version"));
                }
            }
        }
        Ok(())
    }
}

/// Detaches the programs of all ABI versions below `bpffs` and removes their pins. Traffic to VIPs is no longer forwarded
/// then.
///
/// # Errors
/// [`DataPlaneError::InUse`] while a daemon runs; [`DataPlaneError::NoBpffs`] when the folder is not on a BPF file system;
/// else what the kernel says.
pub fn detach(bpffs: &Path) -> Result<Detached, DataPlaneError> {
    let mut detached = Detached::default();
    if !bpffs.exists() {
        return Ok(detached);
    }
    require_bpffs(bpffs)?;
    let folders: Vec<_> = entries(bpffs)?.into_iter().filter(|path| version_of(path).is_some()).collect();
    let locks = folders.iter().map(|folder| lock(folder, bpffs)).collect::<Result<Vec<_>, _>>()?;
    for folder in &folders {
        let links = folder.join(LINKS);
        for path in if links.exists() { entries(&links)? } else { Vec::new() } {
            // What is no link is merely removed with the folder.
            let Ok(link) = sys::open_pin(&path) else { continue };
            let Ok(info) = sys::link_info(link.as_fd()) else { continue };
            if info.ifindex != 0 {
                sys::detach_link(link.as_fd()).map_err(|error| DataPlaneError::io(&path, error))?;
                detached.interfaces.push(unescape(&file_name(&path)));
            }
        }
        remove_folder(folder)?;
        detached.removed.push(folder.clone());
    }
    drop(locks);
    if entries(bpffs)?.is_empty() {
        // Best effort: the folder may be a mount point, which stays.
        let _ = fs::remove_dir(bpffs);
    }
    Ok(detached)
}

/// Refuses a folder whose nearest existing parent is not on a BPF file system.
fn require_bpffs(bpffs: &Path) -> Result<(), DataPlaneError> {
    let existing = bpffs.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).map_err(|error| DataPlaneError::io(existing, error.into()))?;
    if kind.filesystem_type().0 == sys::BPF_FS_MAGIC {
        return Ok(());
    }
    let usual = Path::new("/sys/fs/bpf");
    let mount = if bpffs.starts_with(usual) { usual } else { bpffs.parent().unwrap_or(bpffs) };
    Err(DataPlaneError::NoBpffs { path: bpffs.to_owned(), mount: mount.to_owned() })
}

/// The pins of other ABI versions, locked. Refuses what is no version folder.
fn find_others(bpffs: &Path) -> Result<Vec<Other>, DataPlaneError> {
    let mut others = Vec::new();
    for path in if bpffs.exists() { entries(bpffs)? } else { Vec::new() } {
        let version = version_of(&path).and_then(|version| version.parse::<u32>().ok());
        match version {
            Some(ABI_VERSION) => {}
            Some(version) => others.push(Other { version, _lock: lock(&path, bpffs)?, folder: path }),
            None => {
                return Err(DataPlaneError::BadPin {
                    path,
                    bpffs: bpffs.to_owned(),
                    problem: "is no pin of weir; set node.bpffs to a folder of its own".to_owned(),
                });
            }
        }
    }
    Ok(others)
}

/// The version in a folder's name `v<number>`.
fn version_of(path: &Path) -> Option<String> {
    let name = file_name(path);
    let version = name.strip_prefix(VERSION_PREFIX)?;
    let is_number = !version.is_empty() && version.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| version.to_owned())
}

/// Locks a folder of pins against other weir processes, until the result is dropped or the process ends.
fn lock(folder: &Path, bpffs: &Path) -> Result<File, DataPlaneError> {
    let file = File::open(folder).map_err(|error| DataPlaneError::io(folder, error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(DataPlaneError::InUse { path: bpffs.to_owned() }),
        Err(fs::TryLockError::Error(error)) => Err(DataPlaneError::io(folder, error)),
    }
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, DataPlaneError> {
    let read = || fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>();
    let mut paths = read().map_err(|error| DataPlaneError::io(folder, error))?;
    paths.sort();
    Ok(paths)
}

pub(super) fn remove_folder(folder: &Path) -> Result<(), DataPlaneError> {
    accept_absence(fs::remove_dir_all(folder)).map_err(|error| DataPlaneError::io(folder, error))
}

pub(super) fn remove_file(path: &Path) -> Result<(), DataPlaneError> {
    accept_absence(fs::remove_file(path)).map_err(|error| DataPlaneError::io(path, error))
}

fn accept_absence(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn escape(interface: &str) -> String {
    interface.replace('%', "%25").replace('.', "%2e")
}

fn unescape(pin: &str) -> String {
    pin.replace("%2e", ".").replace("%25", "%")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interface_names_survive_pinning() {
        for name in ["eth0", "eth0.100", "a%2eb", "%", "..%25"] {
            let pin = escape(name);
            assert!(!pin.contains('.'), "{pin}");
            assert_eq!(unescape(&pin), name);
        }
    }

    #[test]
    fn a_version_is_a_v_and_a_number() {
        assert_eq!(version_of(Path::new("/sys/fs/bpf/weir/v12")), Some("12".to_owned()));
        for other in ["v", "v1a", "w1", "1"] {
            assert_eq!(version_of(Path::new(other)), None, "{other}");
        }
    }

    #[test]
    fn a_folder_outside_a_bpf_file_system_is_refused_with_the_mount_to_make() {
        let error = Pins::open(Path::new("/proc/weir-test")).unwrap_err();
        assert!(error.to_string().contains("mount -t bpf bpf /proc"), "{error}");
    }
}
