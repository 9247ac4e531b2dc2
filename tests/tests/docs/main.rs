//! What the documents say is true: every `weir` command parses, every block in TOML is a configuration or part of one, every link leads
//! somewhere, every reason has its section, every example is a configuration; and blocks marked `sh run` work in a lab.
//!
//! Marks stand behind a block's language:
//!
//! | mark | meaning |
//! |---|---|
//! | `sh run` | run by bash on the edge host of a lab, with `set -eu -o pipefail`, against a daemon with `two-regions.toml` |
//! | `with=NAME` | ... with this file of `examples/` in force |
//! | `exit=N` | ... ends with this code |
//! | `on=BACKEND` | ... on this backend host |
//! | `tls` | ... while the API is served with certificates |
//! | `brief` | ... where a drain that is waited for has a second: that flows are left then (code 9) is no failure |
//! | `absent=A,B` | ... but for these programs of a real host, which do nothing |
//! | `sh endless` | each command goes on until Ctrl-C, and has said something by then |
//! | `sh machine` | run by `cargo xtask dist --try` on a Debian with systemd (`tests/src/package.rs`) |
//! | `sh unrun=WHY` | not run, for one of the reasons in `UNRUN` |
//! | `toml frame=NAME` | a part, to be laid over this file of `examples/`; `two-regions.toml` if none is named |
//!
//! A block in TOML that has `[node]` and a service is a whole file.
mod frame;
mod markdown;
mod run;
mod shell;

use clap::{CommandFactory, Parser};
use lb_common::abi::reason::Reason;
use lb_userspace::cli::Cli;
use markdown::{Block, Document, documents};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::{Command, Stdio},
};

/// Languages of blocks. A block without one, or with another one, would escape all that is done here.
const LANGUAGES: [&str; 8] = ["sh", "toml", "text", "json", "yaml", "bird", "frr", "ini"];

/// Why a block for a shell is not run by any test.
const UNRUN: [(&str, &str); 3] = [
    ("cargo", "builds and tests all of it: CI runs these verbs one by one; that they are there is tested"),
    ("modules", "needs tunnel devices of the kernel, which CI's kernel does not have"),
    ("cards", "is about real network cards and routes"),
];

/// All problems at once: whoever writes wants to know them all.
#[track_caller]
fn none(problems: &[String]) {
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
}

fn blocks<'d>(documents: &'d [Document], language: &str) -> Vec<(&'d Document, &'d Block)> {
    let all =
        documents.iter().flat_map(|document| document.blocks.iter().map(move |block| (document, block)));
    all.filter(|(_, block)| block.language == language).collect()
}

#[test]
fn every_block_has_a_known_language() {
    let documents = documents();
    assert!(documents.len() > 15, "{} documents: were they moved?", documents.len());
    let all =
        documents.iter().flat_map(|document| document.blocks.iter().map(move |block| (document, block)));
    let unknown = all.filter(|(_, block)| !LANGUAGES.contains(&block.language.as_str()));
    let problems: Vec<_> = unknown
        .map(|(document, block)| format!("{}: language {:?}", document.at(block.line), block.language))
        .collect();
    none(&problems);
}

#[test]
fn every_block_for_a_shell_is_run_or_says_why_not() {
    let documents = documents();
    let (mut problems, mut unrun) = (Vec::new(), BTreeSet::new());
    for (document, block) in blocks(&documents, "sh") {
        let why = block.mark("unrun");
        let marks = ["run", "endless", "machine"].iter().filter(|mark| block.is(mark)).count();
        if marks + usize::from(why.is_some()) != 1 {
            problems.push(format!("{}: says not how it is run", document.at(block.line)));
        }
        if let Some(why) = why {
            if !UNRUN.iter().any(|(name, _)| *name == why) {
                problems.push(format!("{}: \"{why}\" is no reason", document.at(block.line)));
            }
            unrun.insert(why);
            if shell::commands(&block.text).iter().any(|command| shell::weir(&command.words).is_some()) {
                problems.push(format!("{}: a command of weir's is not run", document.at(block.line)));
            }
        }
    }
    none(&problems);
    assert_eq!(unrun.len(), UNRUN.len(), "a reason that nobody needs any more: only {unrun:?}");
}

#[test]
fn every_verb_of_cargo_xtask_is_there() {
    let program = markdown::root().join("target/debug/xtask");
    let (mut verbs, documents) = (BTreeSet::new(), documents());
    for (_, block) in blocks(&documents, "sh") {
        for command in shell::commands(&block.text) {
            if let [cargo, xtask, verb, ..] = &*command.words
                && (cargo.as_str(), xtask.as_str()) == ("cargo", "xtask")
            {
                verbs.insert(verb.clone());
            }
        }
    }
    assert!(verbs.len() > 5, "{verbs:?}");
    // It is there where these tests were started by it; cargo makes it where not.
    if !program.exists() {
        let cargo = option_env!("CARGO").unwrap_or("cargo");
        let built = Command::new(cargo).args(["build", "--quiet", "--package", "xtask"]).status().unwrap();
        assert!(built.success());
    }
    for verb in &verbs {
        let output = Command::new(&program).args([verb, "--help"]).output().unwrap();
        assert!(output.status.success(), "cargo xtask {verb}: {output:?}");
    }
}

#[test]
fn every_weir_command_in_a_block_parses() {
    let documents = documents();
    let (mut problems, mut seen) = (Vec::new(), 0);
    for (document, block) in blocks(&documents, "sh") {
        for command in shell::commands(&block.text) {
            let Some(words) = shell::weir(&command.words) else { continue };
            seen += 1;
            if let Err(error) = Cli::try_parse_from(words) {
                let text = error.to_string();
                let line = document.at(block.line + command.line);
                problems.push(format!(
                    "{line}: {}: {}",
                    words.join(" "),
                    text.lines().next().unwrap_or_default()
                ));
            }
        }
    }
    assert!(seen > 100, "only {seen} commands were found");
    none(&problems);
}

/// Whether the words that follow `weir` in running text begin with a command that exists; what does not look like one is not judged.
fn names_a_command(words: &[&str]) -> bool {
    let root = Cli::command();
    let mut command = &root;
    for word in words {
        if !command.has_subcommands()
            || !word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-')
            || word.starts_with('-')
        {
            return true;
        }
        match command.find_subcommand(word) {
            Some(below) => command = below,
            None => return false,
        }
    }
    true
}

#[test]
fn every_weir_command_in_running_text_exists() {
    let mut problems = Vec::new();
    for document in documents() {
        for (line, span) in &document.spans {
            let Some(rest) = span.strip_prefix("weir ") else { continue };
            if !names_a_command(&rest.split_whitespace().collect::<Vec<_>>()) {
                problems.push(format!("{}: `{span}`", document.at(*line)));
            }
        }
    }
    none(&problems);
}

#[test]
fn every_toml_block_is_a_configuration_or_a_part_of_one() {
    let documents = documents();
    let blocks = blocks(&documents, "toml");
    assert!(blocks.len() > 8, "{}", blocks.len());
    let mut problems = Vec::new();
    for (document, block) in blocks {
        if let Err(error) = frame::check(block) {
            problems.push(format!("{}:\n{error}", document.at(block.line)));
        }
    }
    none(&problems);
}

#[test]
fn every_example_is_in_the_guide_and_a_configuration() {
    let texts: String = documents().into_iter().map(|document| document.text).collect();
    let mut problems = Vec::new();
    for name in frame::examples() {
        if let Err(error) = frame::load(&name) {
            problems.push(format!("{name}:\n{error}"));
        }
        if !texts.contains(&format!("examples/{name}")) {
            problems.push(format!("examples/{name}: no document names it"));
        }
        let text = fs::read_to_string(markdown::root().join("examples").join(&name)).unwrap();
        if !text.starts_with("# ") {
            problems.push(format!("examples/{name}: does not begin by saying what it is for"));
        }
    }
    none(&problems);
}

#[test]
fn every_link_leads_somewhere() {
    let all = documents();
    let anchors: BTreeMap<_, _> =
        all.iter().map(|document| (document.path.clone(), &document.anchors)).collect();
    let (mut problems, mut seen) = (Vec::new(), 0);
    for document in &all {
        for (line, link) in &document.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (file, anchor) =
                link.split_once('#').map_or((link.as_str(), None), |(file, anchor)| (file, Some(anchor)));
            let target = if file.is_empty() { document.path.clone() } else { document.folder().join(file) };
            let Ok(target) = target.canonicalize() else {
                problems.push(format!("{}: {link} is not there", document.at(*line)));
                continue;
            };
            if let Some(anchor) = anchor
                && !anchors.get(&target).is_some_and(|known| known.contains(anchor))
            {
                problems.push(format!("{}: {link}: no such heading", document.at(*line)));
            }
        }
    }
    assert!(seen > 60, "only {seen} links were found");
    none(&problems);
}

#[test]
fn every_page_of_the_guide_is_in_its_list() {
    let all = documents();
    let list = all.iter().find(|document| document.name == "docs/guide/README.md").unwrap();
    let listed: BTreeSet<_> = list.links.iter().map(|(_, link)| link.as_str()).collect();
    let pages = all.iter().filter_map(|document| document.name.strip_prefix("docs/guide/"));
    let missing: Vec<_> =
        pages.filter(|page| *page != "README.md" && !listed.contains(page)).map(str::to_owned).collect();
    none(&missing);
}

#[test]
fn every_reason_has_its_section_and_no_other_has() {
    let text = fs::read_to_string(markdown::root().join("docs/guide/troubleshooting.md")).unwrap();
    let sections = text.split("\n### `").skip(1).map(|section| section.split_once('`').unwrap());
    let sections: BTreeMap<&str, &str> =
        sections.map(|(name, rest)| (name, rest.split("\n#").next().unwrap())).collect();
    let named: BTreeSet<_> = sections.keys().copied().collect();
    let known: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.name()).collect();
    assert_eq!(named, known);
    let says = |section: &str| section.contains("**Usual cause**");
    let bare = sections
        .iter()
        .filter(|(name, text)| **name != "forwarded" && !says(text))
        .map(|(name, _)| (*name).to_owned());
    none(&bare.collect::<Vec<_>>());
}

/// What a checker that reads a file says of a text; `None` if the checker is not installed.
fn judged(program: &str, args: &[&str], text: &str) -> Option<Result<(), String>> {
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => return Some(Err(format!("cannot run {program}: {error}"))),
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        || format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Some(if output.status.success() { Ok(()) } else { Err(said()) })
}

#[test]
fn what_other_programs_read_is_well_formed() {
    let documents = documents();
    let (mut problems, mut seen) = (Vec::new(), BTreeSet::new());
    let checkers = [
        ("bird", "bird", &["-p", "-c", "/dev/stdin"][..]),
        ("yaml", "promtool", &["check", "config", "--syntax-only", "/dev/stdin"][..]),
        ("json", "jq", &["-e", "."][..]),
        ("sh", "bash", &["-n"][..]),
    ];
    for (language, program, args) in checkers {
        for (document, block) in blocks(&documents, language) {
            match judged(program, args, &block.text) {
                Some(Err(said)) => problems.push(format!("{}: {said}", document.at(block.line))),
                Some(Ok(())) => drop(seen.insert(language)),
                None => {}
            }
        }
    }
    none(&problems);
    // `cargo xtask setup` installs BIRD and Prometheus for other tests, too.
    assert!(
        ["bird", "yaml", "sh"].iter().all(|language| seen.contains(language)),
        "only {seen:?} were looked at"
    );
}
