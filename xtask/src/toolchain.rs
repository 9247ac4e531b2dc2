//! The compiler and linker for the XDP programs: what is usable on this machine, and how to call it.
//!
//! Two kinds will do: Debian's own newer rustc with a ready-built `core` for BPF, or rustup's nightly with `rust-src`.
//! Either needs bpf-linker, whose LLVM must be at least as new as the compiler's, or it cannot read the bitcode.

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use crate::{
    shell::{Cmd, find_program, is_executable, path_with},
    workspace::tools_dir,
};

/// The bpf-linker release that the project is built and tested with.
pub(crate) const BPF_LINKER_VERSION: &str = "0.13.0";
/// The LLVM that Debian's rustc-web is built with, and bpf-linker with it.
pub(crate) const DEBIAN_LLVM_BIN: &str = "/usr/lib/llvm-22/bin";
/// The target of the XDP programs.
pub(crate) const BPF_TARGET: &str = "bpfel-unknown-none";

const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_BPF_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";
/// How much of a linker to read for the name of its LLVM library; the names of libraries stand near the start.
const DYNAMIC_NAMES_BYTES_MAX: u64 = 1 << 20;

/// A compiler that can produce BPF bitcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Compiler {
    /// `/usr/bin/rustc` with libstd-rust-web-dev-bpf.
    Debian,
    /// rustup's nightly, which compiles `core` itself.
    Nightly,
}

/// Everything needed to compile the XDP programs.
pub(crate) struct BpfToolchain {
    pub(crate) compiler: Compiler,
    pub(crate) linker: PathBuf,
}

impl BpfToolchain {
    /// The first complete toolchain on this machine, Debian's before nightly.
    pub(crate) fn find() -> Option<Self> {
        [Compiler::Debian, Compiler::Nightly].into_iter().find_map(|compiler| {
            let linker = find_linker(compiler.llvm_major()?)?;
            Some(Self { compiler, linker })
        })
    }

    /// A cargo command line that compiles for BPF with this toolchain; `extra_flags` go to rustc.
    pub(crate) fn cargo(&self, subcommand: &str, extra_flags: &str) -> Cmd {
        let rustflags = format!("-C link-arg=--btf -C debuginfo=2 -C target-cpu=v3 {extra_flags}");
        let cmd = match self.compiler {
            // aya-ebpf switches on a language feature that a stable compiler refuses without RUSTC_BOOTSTRAP.
            Compiler::Debian => {
                Cmd::new(DEBIAN_CARGO).env("RUSTC_BOOTSTRAP", "1").env("RUSTC", DEBIAN_RUSTC).arg(subcommand)
            }
            Compiler::Nightly => Cmd::new("rustup")
                .args(["run", "nightly", "cargo", subcommand])
                .args(["-Z", "build-std=core"]),
        };
        cmd.foreign_toolchain()
            .env("RUSTFLAGS", rustflags.trim_end())
            // Not `-C linker=` in RUSTFLAGS: those are split at blanks, which a path may contain.
            .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &self.linker)
            .args(["--package", "lb-ebpf", "--profile", "bpf", "--target", BPF_TARGET, "--locked"])
    }

    /// One line for people.
    pub(crate) fn describe(&self) -> String {
        let compiler = match self.compiler {
            Compiler::Debian => "Debian's rustc-web",
            Compiler::Nightly => "rustup's nightly with rust-src",
        };
        format!("{compiler}, bpf-linker {BPF_LINKER_VERSION} at {}", self.linker.display())
    }
}

impl Compiler {
    /// The major version of this compiler's LLVM, if the compiler is here and can compile for BPF.
    pub(crate) fn llvm_major(self) -> Option<u32> {
        let version = match self {
            Self::Debian => {
                let complete = is_executable(Path::new(DEBIAN_CARGO)) && has_core(Path::new(DEBIAN_BPF_CORE));
                complete.then(|| Cmd::new(DEBIAN_RUSTC).arg("-vV").foreign_toolchain().probe())?
            }
            Self::Nightly => {
                let sysroot = nightly("--print=sysroot")?;
                let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/src/lib.rs");
                core.exists().then(|| nightly("-vV"))?
            }
        };
        llvm_major_of_rustc(&version?)
    }
}

fn nightly(rustc_arg: &str) -> Option<String> {
    Cmd::new("rustup")
        .args(["run", "nightly", "rustc", rustc_arg])
        .env("RUSTUP_AUTO_INSTALL", "0")
        .foreign_toolchain()
        .probe()
}

fn has_core(dir: &Path) -> bool {
    let is_core = |name: &str| name.starts_with("libcore-") && name.ends_with(".rlib");
    std::fs::read_dir(dir)
        .is_ok_and(|entries| entries.flatten().any(|entry| entry.file_name().to_str().is_some_and(is_core)))
}

/// `LLVM version: 22.1.8` in the output of `rustc -vV`.
fn llvm_major_of_rustc(version: &str) -> Option<u32> {
    let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// The project's own bpf-linker, or one in PATH, that runs, is the right release, and can read what an LLVM of
/// `llvm_major` writes.
pub(crate) fn find_linker(llvm_major: u32) -> Option<PathBuf> {
    let own = tools_dir().join("bin/bpf-linker");
    let candidates = [is_executable(&own).then_some(own), find_program("bpf-linker")];
    candidates.into_iter().flatten().find(|linker| {
        let version = Cmd::new(linker).arg("--version").foreign_toolchain().probe();
        version.is_some_and(|version| version.trim() == format!("bpf-linker {BPF_LINKER_VERSION}"))
            && linked_llvm_major(linker).is_none_or(|major| major >= llvm_major)
    })
}

/// The major version of the libLLVM that a linker loads; `None` if it carries LLVM inside.
fn linked_llvm_major(linker: &Path) -> Option<u32> {
    let mut start = Vec::new();
    std::fs::File::open(linker).ok()?.take(DYNAMIC_NAMES_BYTES_MAX).read_to_end(&mut start).ok()?;
    llvm_major_of_library_name(&start)
}

/// `libLLVM.so.22.1` (or `libLLVM-22.so`) among the bytes of a program.
fn llvm_major_of_library_name(bytes: &[u8]) -> Option<u32> {
    [b"libLLVM.so.".as_slice(), b"libLLVM-"].into_iter().find_map(|prefix| {
        let at = bytes.windows(prefix.len()).position(|window| window == prefix)?;
        let digits = bytes[at + prefix.len()..].iter().take_while(|byte| byte.is_ascii_digit());
        String::from_utf8(digits.copied().collect()).ok()?.parse().ok()
    })
}

/// The command that installs bpf-linker below target/tools, against Debian's LLVM.
pub(crate) fn install_linker_command() -> Cmd {
    let cmd = Cmd::new("cargo")
        .args(["install", &format!("bpf-linker@{BPF_LINKER_VERSION}")])
        .args(["--locked", "--no-default-features", "--features", "llvm-22", "--force"])
        .arg("--root")
        .arg(tools_dir())
        // None of the flags and folders that are meant for Weir's own code.
        .foreign_toolchain()
        // Not optimised, which takes a third of the time: the work is LLVM's, and the objects come out the same.
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("PATH", path_with(Path::new(DEBIAN_LLVM_BIN)));
    // The compiler, however, is the one that runs xtask: a rustup without a default toolchain has no other.
    match std::env::var_os("RUSTUP_TOOLCHAIN") {
        Some(toolchain) => cmd.env("RUSTUP_TOOLCHAIN", toolchain),
        None => cmd,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_llvm_version_of_a_compiler() {
        assert_eq!(llvm_major_of_rustc("rustc 1.96.0\nhost: x86_64\nLLVM version: 22.1.8\n"), Some(22));
        assert_eq!(llvm_major_of_rustc("rustc 1.96.0\n"), None);
    }

    #[test]
    fn reads_the_llvm_version_of_a_linker() {
        assert_eq!(llvm_major_of_library_name(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_major_of_library_name(b"\0libLLVM-19.so\0"), Some(19));
        assert_eq!(llvm_major_of_library_name(b"\0libc.so.6\0"), None);
    }
}
