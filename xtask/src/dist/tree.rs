//! The tree that becomes the package.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use anyhow::{Context, Result};

use crate::{shell::Cmd, workspace::root};

/// Files of the repository with their places in the package and their modes.
const FILES: [(&str, &str, u32); 11] = [
    ("packaging/weir.service", "usr/lib/systemd/system/weir.service", 0o644),
    ("packaging/weir-agent.service", "usr/lib/systemd/system/weir-agent.service", 0o644),
    ("packaging/before-253.conf", "usr/share/weir/before-253.conf", 0o644),
    ("packaging/weir.default", "etc/default/weir", 0o644),
    ("packaging/weir-agent.default", "etc/default/weir-agent", 0o644),
    ("packaging/copyright", "usr/share/doc/weir/copyright", 0o644),
    ("README.md", "usr/share/doc/weir/README.md", 0o644),
    ("CHANGELOG.md", "usr/share/doc/weir/changelog", 0o644),
    ("packaging/postinst", "DEBIAN/postinst", 0o755),
    ("packaging/prerm", "DEBIAN/prerm", 0o755),
    ("packaging/postrm", "DEBIAN/postrm", 0o755),
];
/// Folders of documents that README.md leads to.
const DOCUMENTS: [&str; 3] = ["docs", "docs/guide", "docs/reference"];
/// Files that dpkg does not overwrite once they were changed.
const CONFFILES: [&str; 2] = ["/etc/default/weir", "/etc/default/weir-agent"];
/// Shells and where they look for completions.
const COMPLETIONS: [(&str, &str); 3] = [
    ("bash", "usr/share/bash-completion/completions/weir"),
    ("zsh", "usr/share/zsh/vendor-completions/_weir"),
    ("fish", "usr/share/fish/vendor_completions.d/weir.fish"),
];
/// What a package must have, beside what is listed above.
const PRESENT: [&str; 7] = [
    "./usr/bin/weir",
    "./etc/weir/",
    "./usr/share/man/man8/weir.8.gz",
    "./usr/share/man/man8/weir-backend-drain.8.gz",
    "./usr/share/man/man5/weir.toml.5.gz",
    "./usr/share/doc/weir/examples/one-rack.toml",
    "./usr/share/weir/weir.schema.json",
];
/// What it must not have: it would be started, or overwritten.
const ABSENT: [&str; 2] = ["./etc/weir/weir.toml", "./var/"];

/// Lays the tree out.
pub(super) fn lay_out(tree: &Path, weir: &Path, version: &str, architecture: &str) -> Result<()> {
    for (from, to, mode) in FILES {
        copy(&root().join(from), &tree.join(to), mode)?;
    }
    let binary = tree.join("usr/bin/weir");
    copy(weir, &binary, 0o755)?;
    Cmd::new("strip").arg("--strip-debug").arg(&binary).read()?;
    make(&tree.join("etc/weir"))?;
    for entry in fs::read_dir(root().join("examples"))? {
        let path = entry?.path();
        let name = path.file_name().context("an example has a name")?;
        copy(&path, &tree.join("usr/share/doc/weir/examples").join(name), 0o644)?;
    }
    for folder in DOCUMENTS {
        for entry in fs::read_dir(root().join(folder))? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "md" || extension == "png") {
                let name = path.file_name().context("a document has a name")?;
                copy(&path, &tree.join("usr/share/doc/weir").join(folder).join(name), 0o644)?;
            }
        }
    }
    // The binary knows its own commands and keys best.
    let tell = |args: &[&str]| Cmd::new(weir).args(args).read();
    for (shell, place) in COMPLETIONS {
        write(&tree.join(place), &tell(&["completions", shell])?)?;
    }
    write(&tree.join("usr/share/weir/weir.schema.json"), &tell(&["config", "schema"])?)?;
    manual(tree, weir)?;
    for name in ["changelog", "README.md"] {
        compress(&tree.join("usr/share/doc/weir").join(name))?;
    }
    let depends = format!("libc6 (>= {}), libgcc-s1", newest_libc(&fs::read(&binary)?));
    let size = Cmd::new("du").args(["-sk", "--apparent-size"]).arg(tree).read()?;
    let size = size.split_whitespace().next().unwrap_or("0");
    let control = fs::read_to_string(root().join("packaging/control"))?
        .replace("@VERSION@", version)
        .replace("@ARCHITECTURE@", architecture)
        .replace("@DEPENDS@", &depends)
        .replace("@SIZE@", size);
    write(&tree.join("DEBIAN/control"), &control)?;
    write(&tree.join("DEBIAN/conffiles"), &(CONFFILES.join("\n") + "\n"))
}

/// What of a listing by `dpkg-deb --contents` is missing or too much.
pub(super) fn problems(list: &str) -> Vec<String> {
    let paths: Vec<&str> = list.lines().filter_map(|line| line.split_whitespace().nth(5)).collect();
    let completions = COMPLETIONS.iter().map(|(_, place)| format!("./{place}"));
    let files = FILES.iter().map(|(_, place, _)| *place).filter(|place| !place.starts_with("DEBIAN/"));
    // Those two are compressed.
    let files = files.map(|place| match place.rsplit('/').next() {
        Some("changelog" | "README.md") => format!("./{place}.gz"),
        _ => format!("./{place}"),
    });
    let mut problems: Vec<_> = PRESENT
        .iter()
        .map(|path| (*path).to_owned())
        .chain(completions)
        .chain(files)
        .filter(|path| !paths.contains(&path.as_str()))
        .map(|path| format!("{path} is missing"))
        .collect();
    let unwanted = paths.iter().filter(|path| ABSENT.iter().any(|absent| path.starts_with(absent)));
    problems.extend(unwanted.map(|path| format!("{path} must not be there")));
    let foreign = list.lines().filter(|line| line.split_whitespace().nth(1) != Some("root/root"));
    problems.extend(foreign.map(|line| format!("not root's: {line}")));
    problems
}

fn manual(tree: &Path, weir: &Path) -> Result<()> {
    let pages = tree.join("pages");
    Cmd::new(weir).arg("manual").arg(&pages).read()?;
    for entry in fs::read_dir(&pages)? {
        let path = entry?.path();
        let section = path.extension().context("a page has a section")?.to_string_lossy().into_owned();
        let name = path.file_name().context("a page has a name")?;
        let place = tree.join("usr/share/man").join(format!("man{section}")).join(name);
        copy(&path, &place, 0o644)?;
        compress(&place)?;
    }
    fs::remove_dir_all(&pages).with_context(|| format!("cannot remove {}", pages.display()))
}

/// The newest version of the C library that a binary asks for, from the names of versions in it.
fn newest_libc(binary: &[u8]) -> String {
    const NAME: &[u8] = b"GLIBC_2.";
    let minor = |at: usize| {
        let digits = binary[at + NAME.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        digits.fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')))
    };
    let found = binary.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    let newest = found.map(|(at, _)| minor(at)).filter(|&minor| minor < 1_000).max().unwrap_or(0);
    format!("2.{newest}")
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn write(path: &Path, text: &str) -> Result<()> {
    make(path.parent().context("a file lies in a folder")?)?;
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    mode(path, 0o644)
}

fn copy(from: &Path, to: &Path, bits: u32) -> Result<()> {
    make(to.parent().context("a file lies in a folder")?)?;
    fs::copy(from, to).with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    mode(to, bits)
}

fn mode(path: &Path, bits: u32) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(bits))
        .with_context(|| format!("cannot change the mode of {}", path.display()))
}

fn compress(path: &Path) -> Result<()> {
    Cmd::new("gzip").args(["-9nf"]).arg(path).read().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_of_the_c_library_is_found() {
        assert_eq!(newest_libc(b"..GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.9\0GLIBCXX"), "2.34");
    }

    /// ProtectKernelTunables makes /sys/fs/bpf read-only, whatever ReadWritePaths says: the daemon could not pin anything.
    #[test]
    fn the_daemons_unit_may_write_where_it_pins() {
        let unit = fs::read_to_string(root().join("packaging/weir.service")).unwrap();
        let is_set = |line: &str| unit.lines().any(|of_unit| of_unit == line);
        assert!(is_set("ReadWritePaths=/sys/fs/bpf") && !is_set("ProtectKernelTunables=yes"));
    }

    #[test]
    fn what_is_missing_and_what_is_too_much_is_named() {
        let list = "-rw-r--r-- root/root 1 2026-01-01 00:00 ./etc/weir/weir.toml\n\
                    -rwxr-xr-x mason/mason 1 2026-01-01 00:00 ./usr/bin/weir\n";
        let problems = problems(list);
        assert!(problems.contains(&"./etc/weir/weir.toml must not be there".to_owned()), "{problems:?}");
        assert!(
            problems.contains(&"./usr/lib/systemd/system/weir.service is missing".to_owned()),
            "{problems:?}"
        );
        assert!(!problems.contains(&"./usr/bin/weir is missing".to_owned()), "{problems:?}");
        assert!(problems.iter().any(|problem| problem.starts_with("not root's")), "{problems:?}");
    }
}
