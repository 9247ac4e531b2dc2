//! The file system that a machine boots with: the check as its first process, its shared libraries, and the XDP programs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    shell::Cmd,
    workspace::{bpf_dir, root},
};

/// Mode bits of a folder, of a program and of a character device, with permissions.
const FOLDER: u32 = 0o040_755;
const FILE: u32 = 0o100_755;
const DEVICE: u32 = 0o020_600;
/// Device number of /dev/console, which the kernel opens for the first process.
const CONSOLE: (u32, u32) = (5, 1);
/// Folders that are mounted upon.
const MOUNT_POINTS: [&str; 4] = ["dev", "proc", "sys", "run"];

/// Builds the archive for a check program and returns where it is.
pub(super) fn build(guest: &Path, dir: &Path) -> Result<PathBuf> {
    let stripped = dir.join("init");
    // With symbols the program is three times as big, and so is what every boot has to unpack.
    Cmd::new("strip").arg("-o").arg(&stripped).arg(guest).run()?;
    let mut archive = Archive::default();
    for folder in MOUNT_POINTS {
        archive.folder(folder);
    }
    archive.entry("dev/console", DEVICE, CONSOLE, &[]);
    archive.file(Path::new("/init"), &read(&stripped)?);
    for library in libraries(guest)? {
        archive.file(&library, &read(&library)?);
    }
    let objects = fs::read_dir(bpf_dir()).with_context(|| format!("cannot read {}", bpf_dir().display()))?;
    let mut objects: Vec<PathBuf> = objects.flatten().map(|entry| entry.path()).collect();
    objects.sort();
    for object in objects.iter().filter(|path| path.is_file() && path.extension().is_none()) {
        let name = object.file_name().unwrap_or_default();
        archive.file(&Path::new("/bpf").join(name), &read(object)?);
    }
    let file = dir.join("initramfs.cpio");
    fs::write(&file, archive.finish()).with_context(|| format!("cannot write {}", file.display()))?;
    Ok(file)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Absolute paths of the shared libraries that a program loads, and of what loads them.
fn libraries(program: &Path) -> Result<Vec<PathBuf>> {
    let text = Cmd::new("ldd").arg(program).cwd(&root()).read()?;
    let found: Vec<PathBuf> = paths_in_ldd(&text).collect();
    if found.is_empty() {
        bail!("`ldd {}` names no library: {text}", program.display());
    }
    Ok(found)
}

/// `libc.so.6 => /lib/libc.so.6 (0x7f)` or `/lib64/ld-linux-x86-64.so.2 (0x7f)`; what the kernel maps has no path.
fn paths_in_ldd(text: &str) -> impl Iterator<Item = PathBuf> + '_ {
    text.lines().filter_map(|line| {
        let line = line.trim();
        let path = line.split_once(" => ").map_or(line, |(_, path)| path);
        let path = path.split_whitespace().next()?;
        path.starts_with('/').then(|| PathBuf::from(path))
    })
}

/// A cpio archive in the form "newc", as Linux's Documentation/driver-api/early-userspace/buffer-format.rst has it.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: BTreeSet<String>,
}

impl Archive {
    /// A file at an absolute path, with the folders above it.
    fn file(&mut self, path: &Path, content: &[u8]) {
        let name = path.to_string_lossy().trim_start_matches('/').to_owned();
        let above: Vec<&str> = name.match_indices('/').map(|(at, _)| &name[..at]).collect();
        for folder in above {
            self.folder(folder);
        }
        self.entry(&name, FILE, (0, 0), content);
    }

    fn folder(&mut self, name: &str) {
        if self.folders.insert(name.to_owned()) {
            self.entry(name, FOLDER, (0, 0), &[]);
        }
    }

    fn entry(&mut self, name: &str, mode: u32, (major, minor): (u32, u32), content: &[u8]) {
        self.entries += 1;
        let (size, name_size) = (content.len() as u32, name.len() as u32 + 1);
        // Inode, mode, owner, group, links, time, size, device, device of the node, length of the name, checksum.
        let fields = [self.entries, mode, 0, 0, 1, 0, size, 0, 0, major, minor, name_size, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_libraries_in_what_ldd_prints() {
        let text =
            "\tlinux-vdso.so.1 (0x7f)\n\tlibc.so.6 => /lib/libc.so.6 (0x7f)\n\t/lib64/ld.so.2 (0x7f)\n";
        let found: Vec<PathBuf> = paths_in_ldd(text).collect();
        assert_eq!(found, [PathBuf::from("/lib/libc.so.6"), PathBuf::from("/lib64/ld.so.2")]);
        assert_eq!(paths_in_ldd("\tnot a dynamic executable\n").count(), 0);
    }

    #[test]
    fn entries_start_at_multiples_of_four_and_folders_come_once() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/one"), b"12345");
        archive.file(Path::new("/a/b/two"), b"");
        assert_eq!(archive.entries, 4, "a, a/b, one, two");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let starts: Vec<usize> = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(b"070701")).collect();
        assert_eq!(starts.len(), 5);
        assert!(starts.iter().all(|at| at % 4 == 0), "{starts:?}");
    }
}
