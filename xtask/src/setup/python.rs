//! Schemathesis, which tests the API from its own document: from PyPI, in a virtual environment below target/tools.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Debian, Need, need};
use crate::{
    shell::{Cmd, is_executable, step},
    workspace::tools_dir,
};

/// The version that the test was written for: another one finds other things, or asks for other options.
const VERSION: &str = "4.32.5";
/// Debian has `venv` in a package of its own.
const NEED: Need =
    need("python3", &["python3", "python3-venv"], "schemathesis, which tests the API from its document");

fn folder() -> PathBuf {
    tools_dir().join("schemathesis")
}

/// Makes sure that it is there. Quick when it is.
pub(crate) fn ensure() -> Result<()> {
    let program = folder().join("bin/schemathesis");
    let is_there = is_executable(&program)
        && Cmd::new(&program).args(["--version"]).probe().is_some_and(|version| version.contains(VERSION));
    if is_there {
        return Ok(());
    }
    step("setup of schemathesis", || {
        if Cmd::new("python3").args(["-c", "import ensurepip, venv"]).probe().is_none() {
            Debian::find(&[&NEED], false)?.install(NEED.packages, false)?;
        }
        Cmd::new("python3").args(["-m", "venv", "--clear"]).arg(folder()).run()?;
        Cmd::new(folder().join("bin/pip"))
            .args(["install", "--quiet", "--disable-pip-version-check", &format!("schemathesis=={VERSION}")])
            .run()
            .context("schemathesis could not be installed from PyPI.\nRemedy: see pip's message above")
    })
}
