//! `weir check`

use std::path::PathBuf;

use clap::Args;

use super::{DEFAULT_CONFIG, exit::ExitCode, output::Output};
use crate::config::{self, Config};
use crate::plan::compile::client_table_bytes;

const EXAMPLES: &str = "\
Examples:
  weir check
  weir check --config weir.toml
  weir check --config weir.toml -o json";

/// Arguments of `weir check`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CheckArgs {
    /// The configuration
    #[arg(long, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    pub config: PathBuf,
}

pub(super) fn run(args: &CheckArgs, out: &mut Output) -> anyhow::Result<ExitCode> {
    match Config::load(&args.config) {
        Ok(config) => {
            let summary = config::summary(&config);
            if out.is_json() {
                out.json(&serde_json::to_vec(&summary)?)?;
            } else {
                out.line(format_args!("{} is valid", args.config.display()))?;
                out.line(summary)?;
                if summary.client_prefixes > 0 {
                    let kib = client_table_bytes(&config)?.div_ceil(1024);
                    out.line(format_args!("{kib} KiB for the client prefixes"))?;
                }
            }
            Ok(ExitCode::Ok)
        }
        Err(error) if out.is_json() => {
            out.json(&serde_json::to_vec(&error)?)?;
            Ok(ExitCode::Config)
        }
        Err(error) => Err(error.into()),
    }
}
