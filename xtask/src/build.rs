//! `cargo xtask build`: the XDP programs first, because the host binaries embed them; then the host binaries.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{
    setup,
    shell::step,
    toolchain::{BPF_TARGET, BpfToolchain},
    workspace::{Metadata, bpf_dir, host_cargo, root},
};

/// Compile the XDP programs, then the `weir` binary and the lab.
///
/// The XDP programs go to target/bpf, which the build scripts of the host packages find through WEIR_BPF_DIR. Host
/// binaries go where cargo always puts them. Runs `setup` first, which does nothing when nothing is missing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimise the host binaries (the XDP programs always are)
    #[arg(long)]
    release: bool,
}

/// Where the host binaries are that other verbs run.
pub(crate) struct HostBinaries {
    pub(crate) weir: PathBuf,
    pub(crate) lab: PathBuf,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let binaries = everything(args.release)?;
    for binary in [&binaries.weir, &binaries.lab] {
        println!("{:>12} bytes  {}", size_bytes(binary)?, binary.display());
    }
    Ok(())
}

/// Sets up and builds all; what `demo` and `bench` start with.
pub(crate) fn everything(release: bool) -> Result<HostBinaries> {
    let metadata = set_up_and_build_bpf()?;
    let title = if release { "build host binaries (optimised)" } else { "build host binaries" };
    step(title, || {
        let cargo = host_cargo("build").args(["--package", "lb-userspace", "--package", "lb-tests"]);
        if release { cargo.arg("--release").run() } else { cargo.run() }
    })?;
    HostBinaries::in_dir(&metadata.profile_dir(release))
}

/// Sets up and builds the XDP programs, which all else needs.
pub(crate) fn set_up_and_build_bpf() -> Result<Metadata> {
    let toolchain = setup::ensure(&setup::Args::default())?;
    let metadata = Metadata::load()?;
    bpf_objects(&toolchain, &metadata)?;
    Ok(metadata)
}

/// Compiles the XDP programs and puts each object into target/bpf.
pub(crate) fn bpf_objects(toolchain: &BpfToolchain, metadata: &Metadata) -> Result<()> {
    let package = metadata.packages.iter().find(|package| package.name == "lb-ebpf");
    let names = &package.context("the workspace has no package lb-ebpf")?.bins;
    if names.is_empty() {
        bail!("package lb-ebpf has no binaries: there is no XDP program to build");
    }
    step("build XDP programs", || {
        let build_dir = root().join("target/bpf-build");
        toolchain.cargo("build", "").arg("--bins").arg("--target-dir").arg(&build_dir).cwd(&root()).run()?;
        fs::create_dir_all(bpf_dir()).with_context(|| format!("cannot create {}", bpf_dir().display()))?;
        for name in names {
            let object = build_dir.join(BPF_TARGET).join("bpf").join(name);
            let news = if copy_if_changed(&object, &bpf_dir().join(name))? { "new" } else { "unchanged" };
            eprintln!("{:>12} bytes  target/bpf/{name} ({news})", size_bytes(&object)?);
        }
        Ok(())
    })
}

impl HostBinaries {
    /// Those that a build has put into `dir`.
    pub(crate) fn in_dir(dir: &Path) -> Result<Self> {
        let binaries = Self { weir: dir.join("weir"), lab: dir.join("lab") };
        for binary in [&binaries.weir, &binaries.lab] {
            if !binary.is_file() {
                let path = binary.display();
                bail!("the build went well, but there is no {path}: does its package declare that binary?");
            }
        }
        Ok(binaries)
    }
}

/// Copies `from` to `to` unless they are equal, so that the host packages are rebuilt only for a new program. Replaces
/// `to` in one step: a build that runs at the same time sees the old or the new object.
fn copy_if_changed(from: &Path, to: &Path) -> Result<bool> {
    let new = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == new) {
        return Ok(false);
    }
    let temporary = to.with_extension(format!("{}.tmp", std::process::id()));
    fs::write(&temporary, &new).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::rename(&temporary, to).with_context(|| format!("cannot replace {}", to.display()))?;
    Ok(true)
}

fn size_bytes(file: &Path) -> Result<u64> {
    Ok(fs::metadata(file).with_context(|| format!("cannot read {}", file.display()))?.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unchanged_object_is_left_alone() {
        let dir = std::env::temp_dir().join(format!("xtask-copy-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (from, to) = (dir.join("from"), dir.join("to"));
        fs::write(&from, "one").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert!(!copy_if_changed(&from, &to).unwrap());
        fs::write(&from, "two").unwrap();
        assert!(copy_if_changed(&from, &to).unwrap());
        assert_eq!(fs::read_to_string(&to).unwrap(), "two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
