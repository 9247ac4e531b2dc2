//! Where things are: the workspace root, cargo's target directory, and what `cargo metadata` says about the packages.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::shell::Cmd;

/// The root of the workspace that this xtask was started in.
pub(crate) fn root() -> PathBuf {
    // Set by `cargo run`; the compile-time value serves a binary that is started by path.
    let manifest_dir = std::env::var_os("CARGO_MANIFEST_DIR")
        .map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
    manifest_dir.parent().map(Path::to_owned).unwrap_or(manifest_dir)
}

/// The folder with the compiled XDP programs, which build scripts find through `WEIR_BPF_DIR`.
pub(crate) fn bpf_dir() -> PathBuf {
    root().join("target/bpf")
}

/// Where `setup` installs the tools that only this project uses.
pub(crate) fn tools_dir() -> PathBuf {
    root().join("target/tools")
}

/// The cargo that runs xtask, in the workspace root, told where the XDP programs are.
pub(crate) fn host_cargo(subcommand: &str) -> Cmd {
    Cmd::new("cargo").arg(subcommand).cwd(&root()).env("WEIR_BPF_DIR", bpf_dir())
}

/// A package of the workspace.
pub(crate) struct Package {
    pub(crate) name: String,
    /// Absolute path of the folder with its Cargo.toml.
    pub(crate) dir: PathBuf,
    /// Names of its binary targets.
    pub(crate) bins: Vec<String>,
    /// Names of the packages that it depends on, with the kind: "normal", "dev" or "build".
    pub(crate) dependencies: Vec<(String, String)>,
}

/// What `cargo metadata` says.
pub(crate) struct Metadata {
    pub(crate) target_dir: PathBuf,
    pub(crate) packages: Vec<Package>,
}

impl Metadata {
    pub(crate) fn load() -> Result<Self> {
        let text =
            Cmd::new("cargo").args(["metadata", "--no-deps", "--format-version", "1"]).cwd(&root()).read()?;
        let json: Value = serde_json::from_str(&text).context("`cargo metadata` did not print JSON")?;
        let packages = json["packages"].as_array().context("`cargo metadata` lists no packages")?;
        Ok(Self {
            target_dir: json["target_directory"]
                .as_str()
                .context("`cargo metadata` names no target directory")?
                .into(),
            packages: packages.iter().map(Package::from_json).collect::<Result<_>>()?,
        })
    }

    /// Folder of the host binaries: `target/debug` or `target/release`.
    pub(crate) fn profile_dir(&self, release: bool) -> PathBuf {
        self.target_dir.join(if release { "release" } else { "debug" })
    }
}

impl Package {
    fn from_json(json: &Value) -> Result<Self> {
        let string = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let manifest = PathBuf::from(string(&json["manifest_path"]));
        let is_bin = |target: &&Value| list(&target["kind"]).iter().any(|kind| kind == "bin");
        Ok(Self {
            name: string(&json["name"]),
            dir: manifest.parent().context("`cargo metadata` names a package without a manifest")?.to_owned(),
            bins: list(&json["targets"])
                .iter()
                .filter(is_bin)
                .map(|target| string(&target["name"]))
                .collect(),
            dependencies: list(&json["dependencies"])
                .iter()
                .map(|dep| (string(&dep["name"]), dep["kind"].as_str().unwrap_or("normal").to_owned()))
                .collect(),
        })
    }
}
