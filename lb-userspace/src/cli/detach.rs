//! `weir detach`

use std::path::{Path, PathBuf};

use clap::Args;

use super::{DEFAULT_CONFIG, client::Client, output::Output, privilege};
use crate::{
    api::types::Status,
    config::Config,
    dataplane::loader,
    runtime::lock::Lock,
};

const EXAMPLES: &str = "\
Examples:
  weir detach
  weir detach --config weir.toml
  weir detach --bpffs /sys/fs/bpf/weir

Takes the program off all interfaces and removes the pins. From then on packets to the VIPs go to the kernel. The
daemon has to be stopped first; it would only notice that its data plane is gone.";

/// Arguments of `weir detach`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DetachArgs {
    /// The configuration that says where pins and lock are
    #[arg(long, default_value = DEFAULT_CONFIG, value_name = "FILE", conflicts_with = "bpffs")]
    pub config: PathBuf,
    /// Where the pins are, if there is no configuration any more
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
}

/// Why nothing was detached.
#[derive(Debug, thiserror::Error)]
pub enum DetachRefused {
    /// A daemon uses the pins.
    #[error("a daemon (pid {pid}) runs with the pins in {}", bpffs.display())]
    DaemonRuns {
        /// Its process.
        pid: u32,
        /// The pins.
        bpffs: PathBuf,
    },
}

pub(super) fn run(args: &DetachArgs, socket: &Path, out: &mut Output) -> anyhow::Result<()> {
    let (bpffs, state_dir) = match &args.bpffs {
        Some(bpffs) => (bpffs.clone(), None),
        None => {
            let node = Config::load(&args.config)?.node;
            (node.bpffs, Some(node.state_dir))
        }
    };
    privilege::require("detach")?;
    // Held until the end, so that no daemon starts meanwhile. Without a state directory there never was one.
    let _lock = match &state_dir {
        Some(state_dir) if state_dir.exists() => Some(Lock::acquire(state_dir)?),
        Some(_) => None,
        None => refuse_while_in_use(&bpffs, socket).map(|()| None)?,
    };
    loader::detach(&bpffs)?;
    if out.is_json() {
        return Ok(out.json(&serde_json::to_vec(&serde_json::json!({ "detached": bpffs }))?)?);
    }
    Ok(out.line(format_args!("detached; the pins in {} are gone", bpffs.display()))?)
}

/// Where no configuration says which lock to ask, the daemon itself is asked, if there is one.
fn refuse_while_in_use(bpffs: &Path, socket: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let status = runtime.block_on(async { Client::new(socket).get("/v1/status").await?.parse::<Status>() });
    match status {
        Ok(status) if status.xdp.bpffs == bpffs => {
            Err(DetachRefused::DaemonRuns { pid: status.daemon.pid, bpffs: bpffs.to_owned() }.into())
        }
        _ => Ok(()),
    }
}
