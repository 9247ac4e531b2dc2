//! `weir config`

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DEFAULT_CONFIG, client::Client, output::Output};
use crate::config::{effective, schema};

const EXAMPLES: &str = "\
Examples:
  weir config show
  weir config show --effective --config weir.toml
  weir config schema";
const SHOW_EXAMPLES: &str = "\
Examples:
  weir config show
  weir config show --effective --config weir.toml
  weir config show --effective -o json

With --server it is the configuration in force there, with its defaults. The hash key is never shown. What depends on more than the file, such as limits that grow with the CPUs, is not filled in:
weir.toml(5) has it.";
const SCHEMA_EXAMPLES: &str = "\
Examples:
  weir config schema

Write it to a file (weir config schema > weir.schema.json), and editors complete and check weir.toml with it: with Taplo, `#:schema ./weir.schema.json` in the first line of the file. It knows keys,
types and bounds; that names refer to something, only `weir check` knows.";

/// What to do with a configuration.
#[derive(Clone, PartialEq, Eq, Debug, Subcommand)]
#[command(after_long_help = EXAMPLES)]
pub enum ConfigCommand {
    /// Show a configuration without its secret
    Show(ShowArgs),
    /// Show the JSON Schema of the file, for editors
    #[command(after_long_help = SCHEMA_EXAMPLES)]
    Schema,
}

/// Arguments of `weir config show`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = SHOW_EXAMPLES)]
pub struct ShowArgs {
    /// The configuration: a file, or a folder of *.toml
    #[arg(long, env = "WEIR_CONFIG", default_value = DEFAULT_CONFIG, value_name = "PATH")]
    pub config: PathBuf,
    /// With every default filled in, as one file
    #[arg(long)]
    pub effective: bool,
}

pub(super) fn run(command: &ConfigCommand, client: &Client, out: &mut Output) -> anyhow::Result<()> {
    match command {
        ConfigCommand::Show(_) if client.is_remote() => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let answer = runtime.block_on(client.get("/v1/config"))?;
            if out.is_data() {
                return Ok(out.json(&answer.json)?);
            }
            Ok(out.line(toml::to_string(&answer.parse::<toml::Table>()?)?.trim_end())?)
        }
        ConfigCommand::Schema => Ok(out.line(serde_json::to_string_pretty(&schema::schema())?)?),
        ConfigCommand::Show(args) if args.effective || out.is_data() => {
            let mut root = effective::effective(&args.config)?;
            effective::redact(&mut root);
            if out.is_data() {
                return Ok(out.json(&serde_json::to_vec(&root)?)?);
            }
            Ok(out.line(toml::to_string(&root)?.trim_end())?)
        }
        ConfigCommand::Show(args) => {
            let files = effective::redacted(&args.config)?;
            let many = files.len() > 1;
            for (name, text) in files {
                if many {
                    out.line(format_args!("# {name}"))?;
                }
                out.line(text.trim_end())?;
            }
            Ok(())
        }
    }
}
