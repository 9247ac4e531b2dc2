//! `weir detach`

use std::path::PathBuf;

use clap::Args;

use super::{DEFAULT_CONFIG, output::Output, privilege};
use crate::{
    config::Config,
    dataplane::pins::{self, Detached},
    runtime::lock::Lock,
};

const EXAMPLES: &str = "\
Examples:
  weir detach
  weir detach --config weir.toml
  weir detach --bpffs /sys/fs/bpf/weir

Takes the program off all interfaces and removes the pins. From then on packets to the VIPs go to the kernel. Stop the
daemon first: while it runs, this is refused.";

/// Arguments of `weir detach`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DetachArgs {
    /// The configuration that says where pins and lock are; WEIR_CONFIG or /etc/weir/weir.toml if it is not named
    #[arg(long, value_name = "PATH", conflicts_with = "bpffs")]
    pub config: Option<PathBuf>,
    /// Where the pins are, if there is no configuration any more
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

pub(super) fn run(args: &DetachArgs, out: &mut Output) -> anyhow::Result<()> {
    let (bpffs, state_dir) = match &args.bpffs {
        Some(bpffs) => (bpffs.clone(), None),
        None => {
            let variable =
                || std::env::var_os("WEIR_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
            let config = args.config.clone().or_else(variable).unwrap_or_else(|| DEFAULT_CONFIG.into());
            let node = Config::load(&config)?.node;
            (node.bpffs, Some(node.state_dir))
        }
    };
    privilege::require("detach")?;
    // The pins have a lock of their own; this one tells who holds it. Without a directory there never was a daemon.
    let _lock = state_dir
        .filter(|directory| directory.exists())
        .map(|directory| Lock::acquire(&directory))
        .transpose()?;
    let detached = pins::detach(&bpffs)?;
    if out.is_data() {
        return Ok(out.json(&serde_json::to_vec(&detached)?)?);
    }
    let Detached { interfaces, removed } = detached;
    if interfaces.is_empty() && removed.is_empty() {
        return Ok(
            out.line(format_args!("nothing was attached: there are no pins below {}", bpffs.display()))?
        );
    }
    for interface in interfaces {
        out.line(format_args!("{interface}: detached"))?;
    }
    for folder in removed {
        out.line(format_args!("{}: removed", folder.display()))?;
    }
    Ok(())
}
