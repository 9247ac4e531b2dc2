//! `weir check`

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{DEFAULT_CONFIG, exit::ExitCode, output::Output};
use crate::config::{self, Config};
use crate::dataplane::{
    loader::possible_cpus,
    memory::{Memory, memory},
};

const EXAMPLES: &str = "\
Examples:
  weir check
  weir check --config weir.toml
  weir check --config weir.toml -o json

What a file can say stands in weir.toml(5); examples/checks.toml has every kind of check.";

/// Arguments of `weir check`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CheckArgs {
    /// The configuration: a file, or a folder of *.toml
    #[arg(long, env = "WEIR_CONFIG", default_value = DEFAULT_CONFIG, value_name = "PATH")]
    pub config: PathBuf,
}

/// What is told of a valid file.
#[derive(Serialize)]
struct Checked {
    #[serde(flatten)]
    summary: config::Summary,
    memory: Memory,
}

pub(super) fn run(args: &CheckArgs, out: &mut Output) -> anyhow::Result<ExitCode> {
    match Config::load(&args.config) {
        Ok(config) => {
            let checked =
                Checked { summary: config::summary(&config), memory: memory(&config, possible_cpus()?)? };
            if out.is_data() {
                out.json(&serde_json::to_vec(&checked)?)?;
            } else {
                out.line(format_args!("{} is valid", args.config.display()))?;
                out.line(checked.summary)?;
                out.line(checked.memory)?;
            }
            Ok(ExitCode::Ok)
        }
        Err(error) if out.is_data() => {
            out.json(&serde_json::to_vec(&error)?)?;
            Ok(ExitCode::Config)
        }
        Err(error) => Err(error.into()),
    }
}
