//! `cargo xtask lint`: everything that can be said about the source without running it. All checks run, then it fails
//! if one of them did.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::CommandFactory;

use crate::{
    borders::{Breach, check_dependencies, check_source},
    build, setup,
    shell::{Cmd, step},
    source::Code,
    toolchain::BpfToolchain,
    workspace::{Metadata, host_cargo, root},
};

/// Longer files and functions are reported, as a reason to look again.
const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Documents whose `cargo xtask` commands must exist, and folders of such.
const DOCUMENTS: [&str; 2] = ["README.md", "ARCHITECTURE.md"];
const DOCUMENT_FOLDERS: [&str; 2] = ["docs", "docs/guide"];

pub(crate) fn run() -> Result<()> {
    let metadata = Metadata::load()?;
    let toolchain = setup::ensure(&setup::Args::default())?;
    let checks: [(&str, Result<()>); 5] = [
        ("borders", step("borders", || borders(&metadata))),
        ("documents", step("documents", documents)),
        ("rustfmt", step("rustfmt", rustfmt)),
        ("XDP programs", step("XDP programs without warnings", || bpf_without_warnings(&toolchain))),
        ("clippy", step("clippy", || clippy(&toolchain, &metadata))),
    ];
    let mut failed = Vec::new();
    for (name, result) in checks {
        if let Err(error) = result {
            eprintln!("{name}: {error:#}");
            failed.push(name);
        }
    }
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    println!("lint: all well");
    Ok(())
}

fn borders(metadata: &Metadata) -> Result<()> {
    let mut breaches: Vec<Breach> = Vec::new();
    let mut files_count = 0;
    for package in &metadata.packages {
        breaches.extend(check_dependencies(&package.name, &package.dependencies));
        for file in rust_files(&package.dir)? {
            let source =
                fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
            let below_root = file.strip_prefix(root()).unwrap_or(&file).to_string_lossy().into_owned();
            let code = Code::new(&source);
            breaches.extend(check_source(&below_root, &code));
            note_length(&below_root, &source, &code);
            files_count += 1;
        }
    }
    for breach in &breaches {
        println!("error: {breach}");
    }
    if !breaches.is_empty() {
        bail!("{} borders crossed", breaches.len());
    }
    eprintln!("    {files_count} files, {} packages: no border crossed", metadata.packages.len());
    Ok(())
}

fn note_length(file: &str, source: &str, code: &Code) {
    let lines = source.lines().count();
    if lines > FILE_LINES_MAX {
        println!("note: {file}: {lines} lines (more than {FILE_LINES_MAX}): two files?");
    }
    for function in code.functions().iter().filter(|function| function.lines > FUNCTION_LINES_MAX) {
        println!(
            "note: {file}:{}: function {} has {} lines (more than {FUNCTION_LINES_MAX})",
            function.line, function.name, function.lines
        );
    }
}

/// All Rust files below a package, sorted.
fn rust_files(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("cannot read {}", dir.display()))? {
            let entry = entry?;
            let path = entry.path();
            if entry.file_type()?.is_dir() {
                if entry.file_name() != "target" {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

/// Each `cargo xtask <verb>` that a document names must be a verb.
fn documents() -> Result<()> {
    let cli = crate::Cli::command();
    let verbs: BTreeSet<&str> = cli.get_subcommands().map(clap::Command::get_name).collect();
    let mut unknown = Vec::new();
    let mut documents: Vec<PathBuf> = DOCUMENTS.iter().map(PathBuf::from).collect();
    for folder in DOCUMENT_FOLDERS {
        for entry in fs::read_dir(root().join(folder)).with_context(|| format!("cannot list {folder}"))? {
            let path = Path::new(folder).join(entry?.file_name());
            documents.extend(
                Some(path).filter(|path| path.extension().is_some_and(|extension| extension == "md")),
            );
        }
    }
    documents.sort();
    for document in documents {
        let Ok(text) = fs::read_to_string(root().join(&document)) else {
            continue;
        };
        let document = document.display();
        let named = verbs_named_in(&text).into_iter().filter(|verb| !verbs.contains(verb.as_str()));
        unknown
            .extend(named.map(|verb| format!("{document} names `cargo xtask {verb}`, which does not exist")));
    }
    if !unknown.is_empty() {
        bail!("{}", unknown.join("\n"));
    }
    Ok(())
}

fn verbs_named_in(text: &str) -> BTreeSet<String> {
    let verb_of =
        |rest: &str| rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '-').collect::<String>();
    text.split("cargo xtask ").skip(1).map(verb_of).filter(|verb| !verb.is_empty()).collect()
}

fn rustfmt() -> Result<()> {
    let check = Cmd::new("cargo").args(["fmt", "--all", "--check"]).cwd(&root());
    check
        .run()
        .context("Remedy: `cargo fmt --all` (and `rustup component add rustfmt` if it is not installed)")
}

fn bpf_without_warnings(toolchain: &BpfToolchain) -> Result<()> {
    // A target directory of its own: other flags would rebuild everything in the usual one.
    let target_dir = root().join("target/bpf-lint");
    toolchain
        .cargo("check", "-D warnings")
        .arg("--bins")
        .arg("--target-dir")
        .arg(target_dir)
        .cwd(&root())
        .run()
}

fn clippy(toolchain: &BpfToolchain, metadata: &Metadata) -> Result<()> {
    build::bpf_objects(toolchain, metadata)?;
    let check = host_cargo("clippy").args(["--all-targets", "--", "-D", "warnings"]);
    check.run().context("Remedy: see above (and `rustup component add clippy` if it is not installed)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verbs_are_found_in_prose_and_in_blocks() {
        let verbs = verbs_named_in(
            "Run `cargo xtask demo`.\n```\ncargo xtask bench maglev\n```\n`cargo xtask <verb>`",
        );
        assert_eq!(verbs, BTreeSet::from(["demo".to_owned(), "bench".to_owned()]));
    }
}
