//! `cargo xtask setup`: looks for what building, the lab and the tests need, and installs what is missing on Debian 12
//! and 13. Elsewhere it says exactly what to install.

pub(crate) mod python;

use std::fmt::Write as _;

use anyhow::{Context, Result, bail};

use crate::{
    shell::{Cmd, find_program, is_root, step},
    toolchain::{BPF_LINKER_VERSION, BpfToolchain, Compiler, find_linker, install_linker_command},
    workspace::root,
};

/// Install what building and testing need.
///
/// Looks first and installs only what is missing, printing each command that it runs. On Debian 12 and 13: packages by
/// apt (the compiler for XDP programs comes from Debian's security archive), and bpf-linker and schemathesis (from PyPI) below
/// target/tools.
/// Elsewhere: tells what to install.
#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Leave apt's sources as they are: fail where Debian's security archive is not among them, instead of adding it in
    /// /etc/apt/sources.list.d/weir-security.sources
    #[arg(long)]
    keep_apt_sources: bool,
}

/// A program of the lab, the tests or the build, and the Debian packages that bring it.
struct Need {
    program: &'static str,
    packages: &'static [&'static str],
    purpose: &'static str,
}

const fn need(program: &'static str, packages: &'static [&'static str], purpose: &'static str) -> Need {
    Need { program, packages, purpose }
}

const NEEDS: [Need; 18] = [
    need("cc", &["gcc", "libc6-dev"], "linking"),
    need("ip", &["iproute2"], "namespaces and veth pairs of the lab"),
    need("nginx", &["nginx"], "the lab's backends"),
    need("curl", &["curl"], "the lab's clients"),
    need("ethtool", &["ethtool"], "checksum offloads in the lab"),
    need("ping", &["iputils-ping"], "tests of the echo answer"),
    need("strace", &["strace"], "tests that count system calls"),
    need("sysctl", &["procps"], "settings inside the lab's namespaces"),
    need("nsenter", &["util-linux"], "entering the lab's namespaces"),
    need("bird", &["bird2"], "peers of BFD sessions in tests"),
    need("vtysh", &["frr"], "other peers of BFD sessions in tests"),
    need("dnsmasq", &["dnsmasq-base"], "a name server in tests"),
    need("prometheus", &["prometheus"], "a real Prometheus that scrapes the daemon in tests"),
    need("promtool", &["prometheus"], "checks of metrics and alert rules"),
    need("chromium", &["chromium"], "the status page in a real browser"),
    need("tmux", &["tmux"], "a real terminal for `weir top` in a test"),
    need("tcpdump", &["tcpdump"], "reading what `weir capture` writes, in a test"),
    need("jq", &["jq"], "commands of the documents that read JSON, in a test"),
];

/// What `verify` and the kernel test need besides. Only they ask for it: it is 40 MB.
const EMULATOR_NEEDS: [Need; 2] = [
    need("qemu-system-x86_64", &["qemu-system-x86"], "booting kernels"),
    need("strip", &["binutils"], "making what they boot small"),
];

/// What `fuzz` needs besides.
const FUZZER_NEEDS: [Need; 1] = [need("c++", &["g++"], "building libFuzzer")];

/// What `dist --try` needs besides.
const PACKAGE_NEEDS: [Need; 2] = [
    need("debootstrap", &["debootstrap"], "clean roots to try the package in"),
    need("systemd-nspawn", &["systemd-container"], "a real systemd to run the units"),
];

/// Debian's compiler with `core` for BPF, and what bpf-linker is built against.
const BPF_PACKAGES: [&str; 9] = [
    "rustc-web",
    "cargo-web",
    "libstd-rust-web-dev-bpf",
    "llvm-22-dev",
    "libpolly-22-dev",
    "zlib1g-dev",
    "libzstd-dev",
    "gcc",
    "libc6-dev",
];

/// Packages that bring a service, with its name.
const SERVICES: [(&str, &str); 4] =
    [("nginx", "nginx"), ("bird2", "bird"), ("frr", "frr"), ("prometheus", "prometheus")];
const SECURITY_SOURCES_FILE: &str = "/etc/apt/sources.list.d/weir-security.sources";

pub(crate) fn run(args: &Args) -> Result<()> {
    let toolchain = ensure(args)?;
    python::ensure()?;
    eprintln!("Ready. XDP programs: {}", toolchain.describe());
    Ok(())
}

/// Makes sure that everything is here and returns the toolchain for the XDP programs. Quick when nothing is missing.
pub(crate) fn ensure(args: &Args) -> Result<BpfToolchain> {
    let missing: Vec<&Need> = NEEDS.iter().filter(|need| find_program(need.program).is_none()).collect();
    let toolchain = BpfToolchain::find();
    if missing.is_empty()
        && let Some(toolchain) = toolchain
    {
        return Ok(toolchain);
    }
    step("setup", || {
        let debian = Debian::find(&missing, toolchain.is_none())?;
        let mut packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
        if toolchain.is_none() {
            packages.extend(BPF_PACKAGES);
        }
        packages.sort_unstable();
        packages.dedup();
        debian.install(&without_installed(&packages), args.keep_apt_sources)?;
        match toolchain {
            Some(toolchain) => Ok(toolchain),
            None => complete_toolchain(),
        }
    })
}

/// Makes sure that kernels can be booted.
pub(crate) fn ensure_emulator() -> Result<()> {
    ensure_programs("setup of the emulator", &EMULATOR_NEEDS)
}

/// Makes sure that libFuzzer can be built.
pub(crate) fn ensure_fuzzer() -> Result<()> {
    ensure_programs("setup of the fuzzer", &FUZZER_NEEDS)
}

/// Makes sure that the package can be tried.
pub(crate) fn ensure_clean_roots() -> Result<()> {
    ensure_programs("setup of clean roots", &PACKAGE_NEEDS)
}

fn ensure_programs(title: &str, needs: &[Need]) -> Result<()> {
    let missing: Vec<&Need> = needs.iter().filter(|need| find_program(need.program).is_none()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    step(title, || {
        let debian = Debian::find(&missing, false)?;
        let packages: Vec<&str> = missing.iter().flat_map(|need| need.packages).copied().collect();
        debian.install(&packages, false)
    })
}

/// With Debian's compiler in place: builds bpf-linker if there is none that fits.
fn complete_toolchain() -> Result<BpfToolchain> {
    let llvm_major = Compiler::Debian.llvm_major().context(
        "the packages are installed, but /usr/bin/rustc cannot compile for BPF.\n\
         Remedy: apt-get install --reinstall rustc-web cargo-web libstd-rust-web-dev-bpf",
    )?;
    if find_linker(llvm_major).is_none() {
        eprintln!("    building bpf-linker {BPF_LINKER_VERSION}: half a minute on two cores");
        install_linker_command().run().context(
            "bpf-linker could not be built.\n\
             Remedy: see cargo's message above; the LLVM it needs comes from llvm-22-dev and libpolly-22-dev",
        )?;
    }
    BpfToolchain::find().with_context(|| {
        format!("bpf-linker {BPF_LINKER_VERSION} is installed below target/tools but does not run; try it with --version")
    })
}

/// A Debian release whose archive has what Weir needs.
#[derive(Debug, PartialEq, Eq)]
struct Debian {
    codename: &'static str,
}

impl Debian {
    fn from_os_release(os_release: &str) -> Option<Self> {
        if os_release_value(os_release, "ID")? != "debian" {
            return None;
        }
        match os_release_value(os_release, "VERSION_ID")? {
            "12" => Some(Self { codename: "bookworm" }),
            "13" => Some(Self { codename: "trixie" }),
            _ => None,
        }
    }

    /// The release that runs here, or what to do by hand about what is missing.
    fn find(missing: &[&Need], is_toolchain_missing: bool) -> Result<Self> {
        let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        match Self::from_os_release(&os_release) {
            Some(debian) => Ok(debian),
            None => bail!(remedy_elsewhere(&os_name(&os_release), missing, is_toolchain_missing)),
        }
    }

    fn install(&self, packages: &[&str], keep_apt_sources: bool) -> Result<()> {
        if packages.is_empty() {
            return Ok(());
        }
        eprintln!("    missing packages: {}", packages.join(" "));
        apt_get().args(["update", "-q"]).run()?;
        let mut unknown = without_candidate(packages);
        // Installed systems and container images have it; a root that debootstrap made does not.
        if !unknown.is_empty() && !keep_apt_sources {
            eprintln!("    apt knows no package {}: adding Debian's security archive", unknown.join(", "));
            self.add_security_archive()?;
            apt_get().args(["update", "-q"]).run()?;
            unknown = without_candidate(packages);
        }
        match (unknown.is_empty(), keep_apt_sources) {
            (true, _) => install_packages(packages),
            (false, true) => bail!(self.remedy_for_unknown(&unknown)),
            (false, false) => bail!(
                "apt knows no package {}, with Debian's security archive ({SECURITY_SOURCES_FILE}) neither.\n\
                 Remedy: see apt's messages above; that archive must be reachable",
                unknown.join(", ")
            ),
        }
    }

    fn add_security_archive(&self) -> Result<()> {
        let script = format!("printf '%s\\n' \"$1\" > {SECURITY_SOURCES_FILE}");
        Cmd::new("sh").args(["-c", &script, "sh", &self.security_sources()]).root().run()
    }

    /// The security archive as a deb822 sources file.
    fn security_sources(&self) -> String {
        format!(
            "Types: deb\n\
             URIs: http://deb.debian.org/debian-security\n\
             Suites: {}-security\n\
             Components: main\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg",
            self.codename
        )
    }

    fn remedy_for_unknown(&self, unknown: &[&str]) -> String {
        format!(
            "apt knows no package {}.\n\
             The compiler for the XDP programs is in Debian's security archive, which this machine does not use.\n\
             Remedy: `cargo xtask setup` without --keep-apt-sources, or put this line into /etc/apt/sources.list and try again:\n  \
             deb http://deb.debian.org/debian-security {}-security main",
            unknown.join(", "),
            self.codename
        )
    }
}

fn apt_get() -> Cmd {
    Cmd::new("apt-get").env("DEBIAN_FRONTEND", "noninteractive").root()
}

/// Installs packages. A service among them is neither started nor enabled; one that was installed before is not
/// touched, for then its package is not among `packages`.
fn install_packages(packages: &[&str]) -> Result<()> {
    let remedy = || {
        format!(
            "apt could not install {}.\n\
             Remedy: see apt's message above. If it says that packages would have to be removed, Debian's own rustc or\n\
             rustup is in the way of rustc-web: remove it (apt-get remove rustc rustup) and use rustup from https://rustup.rs",
            packages.join(" ")
        )
    };
    let is_service = |package: &str| SERVICES.iter().any(|(name, _)| *name == package);
    let plain: Vec<&str> = packages.iter().copied().filter(|package| !is_service(package)).collect();
    if !plain.is_empty() {
        // --no-remove: rustc-web cannot stand beside Debian's own rustc or rustup, and what the user chose is not ours.
        let options = ["install", "-q", "-y", "--no-install-recommends", "--no-remove"];
        apt_get().args(options).args(&plain).run().with_context(remedy)?;
    }
    for (package, service) in SERVICES.iter().filter(|(package, _)| packages.contains(package)) {
        let script = root().join("xtask/install-service.sh");
        Cmd::new("sh")
            .arg(script)
            .args([package, service])
            .env("DEBIAN_FRONTEND", "noninteractive")
            .root()
            .run()
            .with_context(remedy)?;
    }
    Ok(())
}

/// Those packages that dpkg does not count as installed.
fn without_installed<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    packages
        .iter()
        .copied()
        .filter(|package| {
            let status = Cmd::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).probe();
            status.as_deref() != Some("installed")
        })
        .collect()
}

/// Those packages that apt could not install because it knows no version of them.
fn without_candidate<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    let has_candidate = |package: &str| {
        let policy =
            Cmd::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").probe().unwrap_or_default();
        policy
            .lines()
            .any(|line| line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)"))
    };
    packages.iter().copied().filter(|package| !has_candidate(package)).collect()
}

fn os_release_value<'a>(os_release: &'a str, key: &str) -> Option<&'a str> {
    let line = os_release.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))?;
    Some(line.trim_matches('"'))
}

fn os_name(os_release: &str) -> String {
    os_release_value(os_release, "PRETTY_NAME").unwrap_or("this system").to_owned()
}

/// What to do by hand where there is no apt that we know.
fn remedy_elsewhere(os: &str, missing: &[&Need], toolchain_missing: bool) -> String {
    let mut text =
        format!("`cargo xtask setup` installs packages on Debian 12 and 13 only, and this is {os}.\nRemedy:");
    for need in missing {
        write!(text, "\n  install `{}` (for {})", need.program, need.purpose).expect("writing to a string");
    }
    if toolchain_missing {
        write!(
            text,
            "\n  rustup toolchain install nightly --component rust-src\n  \
             cargo install bpf-linker@{BPF_LINKER_VERSION}   (its LLVM must be at least as new as that of \
             `rustc +nightly -vV`; see https://github.com/aya-rs/bpf-linker)"
        )
        .expect("writing to a string");
    }
    if !is_root() && find_program("sudo").is_none() {
        text.push_str("\n  install sudo or become root: the lab and the tests need it");
    }
    text.push_str("\nThen run the same command again.");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn knows_the_two_debians_and_nothing_else() {
        let debian = |text| Debian::from_os_release(text).map(|debian| debian.codename);
        assert_eq!(debian("ID=debian\nVERSION_ID=\"12\"\n"), Some("bookworm"));
        assert_eq!(debian("VERSION_ID=\"13\"\nID=debian\n"), Some("trixie"));
        assert_eq!(debian("ID=debian\nVERSION_ID=\"11\"\n"), None);
        assert_eq!(debian("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"12\"\n"), None);
        assert_eq!(debian(""), None);
    }

    #[test]
    fn the_remedy_elsewhere_names_what_is_missing_and_nothing_more() {
        let text = remedy_elsewhere("Fedora Linux 44", &[&NEEDS[2]], true);
        assert!(
            text.contains("Fedora Linux 44") && text.contains("`nginx`") && text.contains("rust-src"),
            "{text}"
        );
        assert!(!text.contains("`curl`"), "{text}");
        assert!(!remedy_elsewhere("Fedora", &[], false).contains("nightly"));
    }

    #[test]
    fn a_missing_security_archive_is_named_for_the_release() {
        let debian = Debian { codename: "trixie" };
        let text = debian.remedy_for_unknown(&["libstd-rust-web-dev-bpf"]);
        assert!(text.contains("deb http://deb.debian.org/debian-security trixie-security main"), "{text}");
        assert!(debian.security_sources().contains("Suites: trixie-security"));
    }
}
