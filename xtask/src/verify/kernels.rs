//! Kernels to try: Debian's cloud images, fetched with apt's own checks from the mirror that this machine uses.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::{
    running_kernel::OLDEST,
    shell::{Cmd, find_program, is_root},
    workspace::root,
};

/// Where Debian's packages are if this machine has no mirror of its own, and where those of old releases go one day.
const MIRRORS: [&str; 2] = ["http://deb.debian.org/debian", "http://archive.debian.org/debian"];
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// The package that always depends on a release's current kernel for virtual machines.
const CURRENT: &str = "linux-image-cloud-amd64";
/// From 7.x on, what `linux-image-X` was contains no kernel any more but depends on `linux-binary-X`, which does.
const IMAGE: &str = "linux-image-";
const BINARY: &str = "linux-binary-";

/// A Debian release, by the kernel that it comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Release {
    /// Debian 11: Linux 5.10
    Bullseye,
    /// Debian 12: Linux 6.1
    Bookworm,
    /// Debian 13: Linux 6.12
    Trixie,
    /// Debian's development version: the newest Linux
    Sid,
}

impl Release {
    pub(crate) fn codename(self) -> &'static str {
        match self {
            Self::Bullseye => "bullseye",
            Self::Bookworm => "bookworm",
            Self::Trixie => "trixie",
            Self::Sid => "sid",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Bullseye => "Debian 11",
            Self::Bookworm => "Debian 12",
            Self::Trixie => "Debian 13",
            Self::Sid => "Debian sid",
        }
    }

    /// The version of its kernel; none of the newest.
    const fn version(self) -> Option<(u32, u32)> {
        match self {
            Self::Bullseye => Some((5, 10)),
            Self::Bookworm => Some((6, 1)),
            Self::Trixie => Some((6, 12)),
            Self::Sid => None,
        }
    }

    /// Whether its kernel is one that Weir supports. The others are tried to see how far they get.
    pub(super) fn is_supported(self) -> bool {
        self.version().is_none_or(|version| version >= OLDEST)
    }

    /// The kernel's file below target/kernels. Fetches it if it is not there, or if a newer one is asked for.
    pub(super) fn kernel(self, update: bool) -> Result<PathBuf> {
        let dir = root().join("target/kernels").join(self.codename());
        let kernel = dir.join("vmlinuz");
        if update || !kernel.is_file() {
            self.fetch(&dir, &kernel).with_context(|| {
                format!(
                    "cannot get the kernel of {} ({}).\nRemedy: see above; or put a kernel image with BTF there: {}",
                    self.title(),
                    self.codename(),
                    kernel.display()
                )
            })?;
        }
        Ok(kernel)
    }

    fn fetch(self, dir: &Path, kernel: &Path) -> Result<()> {
        for program in ["apt-get", "apt-cache", "dpkg-deb"] {
            if find_program(program).is_none() {
                bail!("there is no `{program}`: kernels are fetched on Debian only");
            }
        }
        let apt = Apt::new(dir)?;
        let mut mirrors = configured_mirror().into_iter().collect::<Vec<_>>();
        mirrors.extend(MIRRORS.map(str::to_owned));
        mirrors.dedup();
        if !mirrors.iter().any(|mirror| apt.update(mirror, self.codename()).is_ok()) {
            bail!("no mirror has the release: {}", mirrors.join(", "));
        }
        let about = apt.command("apt-cache").args(["show", "--no-all-versions", CURRENT]).read()?;
        let image =
            image_in_depends(&about).with_context(|| format!("{CURRENT} depends on no {IMAGE}..."))?;
        for package in [image.to_owned(), image.replacen(IMAGE, BINARY, 1)] {
            if let Some(found) = apt.unpack(&package)? {
                fs::rename(&found, kernel).with_context(|| format!("cannot write {}", kernel.display()))?;
                return apt.remove();
            }
        }
        bail!("package {image} contains no kernel")
    }
}

/// An apt of our own for one release, so that the machine's own lists and cache stay as they are.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path) -> Result<Self> {
        let apt = Self { dir: dir.join("apt") };
        for folder in ["lists/partial", "cache/archives/partial", "unpacked"] {
            let folder = apt.dir.join(folder);
            fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        apt.write("status", "")?;
        Ok(apt)
    }

    fn write(&self, name: &str, text: &str) -> Result<()> {
        let file = self.dir.join(name);
        fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))
    }

    /// Reads a mirror's list of a release's packages, and checks its signature.
    fn update(&self, mirror: &str, codename: &str) -> Result<()> {
        let source = format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {codename} main\n");
        self.write("sources.list", &source)?;
        self.command("apt-get").args(["-q", "-o", "APT::Update::Error-Mode=any", "update"]).run()
    }

    /// Downloads a package and takes the kernel out of it, if there is one inside.
    fn unpack(&self, package: &str) -> Result<Option<PathBuf>> {
        let unpacked = self.dir.join("unpacked");
        self.command("apt-get").args(["-q", "download", package]).cwd(&unpacked).run()?;
        // Only the kernel: its modules are a hundred times as big. That tar finds none is seen below.
        let script =
            "dpkg-deb --fsys-tarfile ./*.deb | tar -x --wildcards '*/vmlinuz*' 2>/dev/null; rm -f ./*.deb";
        Cmd::new("sh").args(["-c", script]).cwd(&unpacked).run()?;
        Ok(find_kernel(&unpacked))
    }

    fn command(&self, program: &str) -> Cmd {
        let path = |name: &str| self.dir.join(name).display().to_string();
        let mut options = vec![
            format!("Dir::State={}", path("")),
            format!("Dir::State::Lists={}", path("lists")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Etc::sourcelist={}", path("sources.list")),
            "Dir::Etc::sourceparts=-".to_owned(),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // What Debian's old releases say about how long they hold is over.
            "Acquire::Check-Valid-Until=false".to_owned(),
        ];
        if is_root() {
            // Its usual user could not write into target/.
            options.push("APT::Sandbox::User=root".to_owned());
        }
        options.iter().fold(Cmd::new(program), |cmd, option| cmd.args(["-o", option]))
    }

    /// Packages' lists are ten times as big as the kernel.
    fn remove(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| format!("cannot remove {}", self.dir.display()))
    }
}

/// A file called vmlinuz-something, wherever it is.
fn find_kernel(dir: &Path) -> Option<PathBuf> {
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).ok()?.flatten() {
            let path = entry.path();
            if entry.file_type().ok()?.is_dir() {
                dirs.push(path);
            } else if entry.file_name().to_string_lossy().starts_with("vmlinuz") {
                return Some(path);
            }
        }
    }
    None
}

/// The mirror of Debian's main archive that this machine's apt uses.
fn configured_mirror() -> Option<String> {
    let listed = Cmd::new("apt-get").args(["indextargets", "--format", "$(SITE) $(REPO_URI)"]).probe()?;
    listed.lines().find_map(|line| {
        let uri = line.split_whitespace().next_back()?.trim_end_matches('/');
        (uri.starts_with("http") && uri.ends_with("/debian")).then(|| uri.to_owned())
    })
}

/// `Depends: linux-base (= 1), linux-image-6.1.0-50-cloud-amd64 (= 6.1.176-1)`
fn image_in_depends(about: &str) -> Option<&str> {
    let depends = about.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([',', '|', ' ']).find(|word| word.starts_with(IMAGE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_current_kernel_in_what_the_meta_package_depends_on() {
        let about = "Package: linux-image-cloud-amd64\nDepends: linux-base-cloud-amd64 (= 7.2.13-1), \
                     linux-image-7.2.13+deb14-cloud-amd64 (= 7.2.13-1)\nSize: 1\n";
        assert_eq!(image_in_depends(about), Some("linux-image-7.2.13+deb14-cloud-amd64"));
        assert_eq!(image_in_depends("Depends: linux-base\n"), None);
    }
}
