//! `weir daemon`

use std::path::PathBuf;

use clap::Args;

use super::{DEFAULT_CONFIG, privilege};
use crate::{
    config::effective,
    runtime::{daemon, privileges},
    telemetry::log::{self, LogFormat},
};

const EXAMPLES: &str = "\
Examples:
  weir daemon
  weir daemon --config weir.toml --log-format json

SIGTERM and SIGINT stop the daemon and leave forwarding as it is; the next daemon goes on with it. `weir detach` ends
forwarding. WEIR_LOG sets what is logged: error, warn, info (default), debug, trace; `weir log level` changes it for a while.";

/// Arguments of `weir daemon`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct DaemonArgs {
    /// The configuration: a file, or a folder of *.toml
    #[arg(long, env = "WEIR_CONFIG", default_value = DEFAULT_CONFIG, value_name = "PATH")]
    pub config: PathBuf,
    /// Form of the log: on standard error, or to systemd's journal
    #[arg(long, value_enum, default_value_t, value_name = "FORMAT")]
    pub log_format: LogFormat,
}

pub(super) fn run(args: &DaemonArgs) -> anyhow::Result<()> {
    log::init(args.log_format)?;
    privilege::require("daemon")?;
    let helper = privileges::Helper::start()?;
    privileges::reduce()?;
    let loaded = effective::load(&args.config)?;
    privileges::settle(&loaded.0)?;
    tracing::debug!(capabilities = privileges::held().join(" "), "the rest was given up");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(daemon::run(&args.config, loaded, helper))
}
