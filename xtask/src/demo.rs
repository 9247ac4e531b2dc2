//! `cargo xtask demo`: builds everything and becomes the lab's demonstration.

use std::ffi::OsString;

use anyhow::Result;

use crate::{
    build, running_kernel,
    shell::{Cmd, require_root_or_sudo},
    workspace::bpf_dir,
};

/// Raise the lab in network namespaces, cut a rack and a zone, and watch traffic leave them.
///
/// Sets up and builds by itself. Needs root (uses sudo otherwise); everything happens in network namespaces of its own,
/// which are removed at the end and on Ctrl-C.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to the lab's own `demo` command; `-- --help` shows what it takes
    #[arg(last = true)]
    lab_args: Vec<OsString>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    require_root_or_sudo()?;
    running_kernel::require()?;
    // Not optimised: that takes minutes the first time, and what the demo shows happens in the XDP programs.
    let binaries = build::everything(false)?;
    Cmd::new(&binaries.lab)
        .arg("demo")
        .args(&args.lab_args)
        .env("WEIR_BIN", &binaries.weir)
        .env("WEIR_BPF_DIR", bpf_dir())
        .root()
        .exec()
}
