//! `cargo xtask dist`: the Debian package, and trying it in a clean root.

mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    libtest::Counts,
    shell::{Cmd, find_program, require_root_or_sudo, step},
    workspace::root,
};

/// Where everything of this verb goes.
const FOLDER: &str = "target/dist";
/// The root in which a package is tried.
const TRY_SUITE: &str = "bookworm";
/// What lintian finds and we mean: the package is not part of Debian, and its binary has what Rust puts there.
const SUPPRESSED: &str = "no-copyright-file,initial-upload-closes-no-bugs,\
                          unstripped-binary-or-object,hardening-no-fortify-functions,no-changelog,\
                          changelog-file-missing-in-native-package,embedded-library,dir-or-file-in-run";

/// Build the Debian package of weir.
///
/// It holds the binary (the XDP programs are in it), the units of daemon and agent, manual pages, completions, examples and the
/// schema of the file, and lies in target/dist afterwards. An upgrade restarts the daemon, and forwarding goes on meanwhile; nothing is
/// started that was not running, and removing the package detaches nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask dist          builds target/dist/weir_VERSION_ARCH.deb\n  \
                        cargo xtask dist --try    and installs, upgrades and removes it in a clean Debian root")]
pub(crate) struct Args {
    /// Take the binary as it is built for development: quick to build, slow to run
    #[arg(long)]
    dev: bool,
    /// Install, upgrade and remove it in a clean Debian root, with a program attached
    #[arg(long = "try")]
    try_it: bool,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.try_it {
        require_root_or_sudo()?;
    }
    let binaries = build::everything(!args.dev)?;
    let folder = root().join(FOLDER);
    let package = step("build the package", || build_package(&binaries.weir, &folder, 1))?;
    println!("{:>12} bytes  {}", fs::metadata(&package)?.len(), package.display());
    for problem in check(&package)? {
        bail!("the package is not as it should be: {problem}");
    }
    if args.try_it {
        let next = step("build the next one", || build_package(&binaries.weir, &folder.join("next"), 2))?;
        step("try both in a clean root", || try_in_root(&folder, &package, &next))?;
    }
    Ok(())
}

/// Builds the package, checks what is in it, and lets lintian look at it where that is installed: the short part for `cargo xtask
/// test`.
pub(crate) fn smoke(weir: &Path) -> Result<(Counts, Duration)> {
    let begin = Instant::now();
    let package = build_package(weir, &root().join(FOLDER).join("test"), 1)?;
    let problems = check(&package)?;
    problems.iter().for_each(|problem| eprintln!("    package: {problem}"));
    let failed = problems.len() as u64;
    let counts = Counts { passed: u64::from(failed == 0), failed, ignored: 0, failed_names: problems };
    Ok((counts, begin.elapsed()))
}

fn build_package(weir: &Path, folder: &Path, revision: u32) -> Result<PathBuf> {
    let architecture = Cmd::new("dpkg").arg("--print-architecture").read()?.trim().to_owned();
    let version = format!("{}-{revision}", env!("CARGO_PKG_VERSION"));
    let tree = folder.join("tree");
    if tree.exists() {
        fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
    }
    tree::lay_out(&tree, weir, &version, &architecture)?;
    let package = folder.join(format!("weir_{version}_{architecture}.deb"));
    Cmd::new("dpkg-deb")
        .args(["--root-owner-group", "-Zxz", "-z1", "--build"])
        .arg(&tree)
        .arg(&package)
        .read()?;
    Ok(package)
}

/// What is missing in a package, or too much.
fn check(package: &Path) -> Result<Vec<String>> {
    let list = Cmd::new("dpkg-deb").arg("--contents").arg(package).read()?;
    let mut problems = tree::problems(&list);
    let control = Cmd::new("dpkg-deb").args(["--field"]).arg(package).read()?;
    for field in ["Package: weir", "Depends: libc6 (>= 2.", "Maintainer: ", "Section: net"] {
        if !control.contains(field) {
            problems.push(format!("its control file has no {field:?}"));
        }
    }
    if let Some(lintian) = find_program("lintian") {
        let found = Cmd::new(lintian)
            .args([
                "--allow-root",
                "--no-cfg",
                "--fail-on",
                "none",
                "--tag-display-limit",
                "0",
                "--suppress-tags",
                SUPPRESSED,
            ])
            .arg(package)
            .read()?;
        problems.extend(found.lines().filter(|line| line.starts_with("E: ")).map(str::to_owned));
    }
    Ok(problems)
}

/// Installs, upgrades and removes in a root of its own, in namespaces of its own.
fn try_in_root(folder: &Path, first: &Path, second: &Path) -> Result<()> {
    let debootstrap =
        find_program("debootstrap").context("there is no debootstrap: sudo apt install debootstrap")?;
    let clean = folder.join("clean-root");
    // Its last step leaves this behind.
    if !clean.join("etc/debian_version").exists() || clean.join("debootstrap").exists() {
        Cmd::new(debootstrap).args(["--variant=minbase", TRY_SUITE]).arg(&clean).root().run()?;
    }
    let script = root().join("packaging/try.sh");
    Cmd::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"])
        .arg(script)
        .arg(&clean)
        .arg(first)
        .arg(second)
        .root()
        .run()
}
