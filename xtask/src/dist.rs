//! `cargo xtask dist`: the Debian package, and trying it in a clean root.

mod tree;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    libtest::Counts,
    setup,
    shell::{Cmd, find_program, require_root_or_sudo, step},
    workspace::{bpf_dir, root},
};

/// Where everything of this verb goes.
const FOLDER: &str = "target/dist";
/// What lintian finds and we mean: the package is not part of Debian, nobody is to be written to at its address, and its binary has what
/// Rust puts there.
const SUPPRESSED: &str = "bogus-mail-host,no-copyright-file,initial-upload-closes-no-bugs,\
                          unstripped-binary-or-object,hardening-no-fortify-functions,no-changelog,\
                          changelog-file-missing-in-native-package,embedded-library,dir-or-file-in-run";

/// Build the Debian package of weir.
///
/// It holds the binary (the XDP programs are in it), the units of daemon and agent, manual pages, completions, examples and the
/// schema of the file, and lies in target/dist afterwards. An upgrade restarts the daemon, and forwarding goes on meanwhile; nothing is
/// started that was not running, and removing the package detaches nothing.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  cargo xtask dist          builds target/dist/weir_VERSION_ARCH.deb\n  \
                        cargo xtask dist --try    and installs, upgrades and removes it in clean Debian roots")]
pub(crate) struct Args {
    /// Take the binary as it is built for development: quick to build, slow to run
    #[arg(long)]
    dev: bool,
    /// Let lintian look at it, if it is installed: takes a minute
    #[arg(long)]
    lint: bool,
    /// Take this binary, and build none
    #[arg(long, value_name = "FILE", conflicts_with = "dev")]
    binary: Option<PathBuf>,
    /// Install, upgrade and remove it in a clean Debian root, with a program attached; then once more under a real systemd and under load
    #[arg(long = "try")]
    try_it: bool,
    /// Release of Debian to try it in, if not this machine's: `trixie`
    #[arg(long, value_name = "CODENAME", requires = "try_it")]
    release: Option<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    if args.try_it {
        require_root_or_sudo()?;
    }
    let (weir, lab) = match &args.binary {
        Some(binary) => {
            let binary = std::path::absolute(binary)?;
            (binary.clone(), binary.with_file_name("lab"))
        }
        None => {
            let built = build::everything(!args.dev)?;
            (built.weir, built.lab)
        }
    };
    let folder = root().join(FOLDER);
    let package = step("build the package", || build_package(&weir, &folder, 1))?;
    println!("{:>12} bytes  {}", fs::metadata(&package)?.len(), package.display());
    let mut problems = check(&package)?;
    if args.lint {
        problems.extend(step("lintian", || lint(&package))?);
    }
    if !problems.is_empty() {
        bail!("the package is not as it should be: {}", problems.join("; "));
    }
    if args.try_it {
        let next = step("build the next one", || build_package(&weir, &folder.join("next"), 2))?;
        setup::ensure_clean_roots()?;
        let release = match &args.release {
            Some(release) => release.clone(),
            None => own_release()?,
        };
        let root = clean_root(&folder, &release, "")?;
        step("try both in a clean root", || try_in_root(&root, &package, &next))?;
        let root = clean_root(&folder, &release, "systemd,systemd-sysv,iproute2,procps,openssl")?;
        let trial = Cmd::new(&lab).arg("package").args([&root, &package, &next]);
        let trial = trial.env("WEIR_BIN", &weir).env("WEIR_BPF_DIR", bpf_dir()).root();
        step("try both under a real systemd, under load", || trial.run())?;
    }
    Ok(())
}

/// Builds the package and checks what is in it: the short part for `cargo xtask test`.
pub(crate) fn smoke(weir: &Path) -> Result<Counts> {
    let package = build_package(weir, &root().join(FOLDER).join("test"), 1)?;
    let problems = check(&package)?;
    problems.iter().for_each(|problem| eprintln!("    package: {problem}"));
    let failed = problems.len() as u64;
    Ok(Counts { passed: u64::from(failed == 0), failed, ignored: 0, failed_names: problems })
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
    Ok(problems)
}

/// What lintian, where it is installed, calls an error.
fn lint(package: &Path) -> Result<Vec<String>> {
    let mut problems = Vec::new();
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

/// The release of Debian that runs here: a binary that was built here needs no older C library.
fn own_release() -> Result<String> {
    let text = fs::read_to_string("/etc/os-release").context("cannot read /etc/os-release")?;
    let name = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    Ok(name.context("/etc/os-release names no release of Debian")?.to_owned())
}

/// A clean root of a release, with these packages more. It is made once.
fn clean_root(folder: &Path, release: &str, packages: &str) -> Result<PathBuf> {
    let kind = if packages.is_empty() { "plain" } else { "machine" };
    let clean = folder.join(format!("root-{release}-{kind}"));
    // Its last step leaves this behind.
    if !clean.join("etc/debian_version").exists() || clean.join("debootstrap").exists() {
        let debootstrap = find_program("debootstrap").context("there is no debootstrap")?;
        let more = (!packages.is_empty()).then(|| format!("--include={packages}"));
        let cmd = Cmd::new(debootstrap).arg("--variant=minbase").args(more).arg(release).arg(&clean).root();
        step(&format!("debootstrap {release}, {kind}"), || cmd.run())?;
    }
    Ok(clean)
}

/// Installs, upgrades and removes in a clean root, in namespaces of its own.
fn try_in_root(clean: &Path, first: &Path, second: &Path) -> Result<()> {
    let script = root().join("packaging/try.sh");
    Cmd::new("unshare")
        .args(["--mount", "--net", "--pid", "--fork", "--kill-child", "sh"])
        .arg(script)
        .args([clean, first, second])
        .root()
        .run()
}
