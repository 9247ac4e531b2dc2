//! `weir completions`, and completing itself: the shell asks this program, which asks the daemon for live names.

mod line;

use std::{
    ffi::{OsStr, OsString},
    io::Write,
    sync::Arc,
    time::Duration,
};

use clap::{Arg, Args, Command, CommandFactory, ValueEnum};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate,
    env::{CompleteEnv, EnvCompleter, Shells},
};
use serde_json::Value;

use lb_common::abi::reason::Reason;

use super::{Cli, output::Output};
use crate::api::types::FlowState;
use line::Line;

const EXAMPLES: &str = "\
Examples:
  weir completions bash
  weir completions zsh
  weir completions fish

The Debian package has them in place. Elsewhere write them to /etc/bash_completion.d/weir, /usr/local/share/zsh/site-functions/_weir
or /etc/fish/completions/weir.fish. Names of services, backends, domains and switches are the running daemon's, or that of
--server; where none answers at once, there are none.";
/// The variable by which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";
/// The variable in which shells say which word is being completed, from 0.
const INDEX: &str = "_CLAP_COMPLETE_INDEX";
/// What Bash is told once. It splits words at colons and equals signs, and hands over how: `Line` puts them together again.
const BASH: &str = r#"_weir() {
    local words=("${COMP_WORDS[@]}")
    [[ -z $2 && ${words[COMP_CWORD]} == [=:]* ]] || words[COMP_CWORD]=$2
    mapfile -t COMPREPLY < <(_CLAP_COMPLETE_INDEX=$COMP_CWORD COMPLETE=bash weir -- "${words[@]}" 2> /dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=/:] ]]; then compopt -o nospace; fi
}
complete -o bashdefault -o nosort -F _weir weir"#;
/// How long a daemon may take before a shell gets no names: nobody waits for a key longer.
const PATIENCE: Duration = Duration::from_millis(300);
/// The same for one on another host, to which a connection has to be made and encrypted.
const PATIENCE_REMOTE: Duration = Duration::from_secs(1);
/// Names that a shell gets at most.
const MAX_NAMES: usize = 1_000;

/// Arguments of `weir completions`.
#[derive(Clone, PartialEq, Eq, Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// A shell.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// What names are of.
#[derive(Clone, Copy)]
enum Names {
    Services,
    Backends,
    Domains,
    Switches,
    /// Words of a filter: terms, and behind `service` and `backend` their names.
    Terms,
    /// What may fail in a simulation.
    Failures,
}

/// Words with which a term begins, and those that a state can be.
const TERMS: [&str; 12] =
    ["host", "src", "dst", "port", "tcp", "udp", "sctp", "proto", "service", "reason", "verdict", "and"];
/// Those of flows, which have no reason and no verdict.
const FLOW_TERMS: [&str; 12] =
    ["host", "src", "dst", "port", "tcp", "udp", "sctp", "proto", "service", "backend", "state", "and"];
const VERDICTS: [&str; 4] = ["pass", "drop", "answer", "forward"];

impl Names {
    /// Where the API has them, and under which key.
    const fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Services => ("/v1/services", "name"),
            Self::Backends => ("/v1/backends", "name"),
            Self::Domains => ("/v1/domains", "path"),
            Self::Switches => ("/v1/emergency", "name"),
            Self::Terms | Self::Failures => ("", ""),
        }
    }

    /// Of which names an argument is one: its own name says, or the noun that it belongs to.
    fn of(path: &[String], argument: &Arg) -> Option<Self> {
        match argument.get_id().as_str() {
            "service" => return Some(Self::Services),
            "backend" => return Some(Self::Backends),
            "domain" => return Some(Self::Domains),
            "filter" => return Some(Self::Terms),
            "fail" => return Some(Self::Failures),
            _ if !argument.is_positional() => return None,
            _ => {}
        }
        let words: Vec<_> = path.iter().map(String::as_str).collect();
        match words[..] {
            ["service" | "guard", ..] => Some(Self::Services),
            ["backend", ..] => Some(Self::Backends),
            ["domain" | "shift", ..] => Some(Self::Domains),
            ["emergency", "clear"] => Some(Self::Switches),
            _ => None,
        }
    }
}

pub(super) fn run(args: &CompletionsArgs, out: &mut Output) -> anyhow::Result<()> {
    if args.shell == Shell::Bash {
        return Ok(out.line(BASH)?);
    }
    let shells = Shells::builtins();
    let name = args.shell.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
    let shell: &dyn EnvCompleter =
        shells.completer(&name).ok_or_else(|| anyhow::anyhow!("completions for {name} are not there"))?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, "weir", "weir", "weir", &mut script)?;
    Ok(out.line(String::from_utf8(script)?.trim_end())?)
}

/// Answers a shell, if it is one that asks. Whatever goes wrong, a shell gets nothing rather than an error in its line.
pub(super) fn answer_shell() -> bool {
    let Some(shell) = std::env::var_os(VARIABLE) else { return false };
    let arguments: Vec<_> = std::env::args_os().collect();
    let begin = arguments.iter().position(|word| word == "--").map_or(arguments.len(), |at| at + 1);
    let words: Vec<_> = arguments[begin..].iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let at = std::env::var(INDEX).ok().and_then(|at| at.parse::<usize>().ok());
    if shell == "bash" {
        let _ = match words.is_empty() {
            true => writeln!(std::io::stdout(), "{BASH}"),
            false => answer_bash(Line::joined(&words, at.unwrap_or_default())),
        };
        return true;
    }
    let line = Arc::new(Line::new(words, at));
    let current = std::env::current_dir().ok();
    let completer = CompleteEnv::with_factory(move || command(&line)).var(VARIABLE);
    completer.try_complete(arguments, current.as_deref()).unwrap_or(true)
}

/// One candidate a line: how the part that Bash replaces may go on.
fn answer_bash(line: Line) -> std::io::Result<()> {
    let line = Arc::new(line);
    let words = line.words.iter().map(OsString::from).collect();
    let current = std::env::current_dir().ok();
    let found = clap_complete::engine::complete(&mut command(&line), words, line.at, current.as_deref())?;
    let mut stdout = std::io::stdout().lock();
    for candidate in found {
        if let Some(rest) = candidate.get_value().to_string_lossy().strip_prefix(line.kept.as_str()) {
            writeln!(stdout, "{rest}")?;
        }
    }
    Ok(())
}

/// The command line, in which arguments that are live names know where these come from.
fn command(line: &Arc<Line>) -> Command {
    with_names(Cli::command(), &mut Vec::new(), line)
}

fn with_names(mut command: Command, path: &mut Vec<String>, line: &Arc<Line>) -> Command {
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|argument| argument.get_possible_values().is_empty())
        .filter_map(|argument| Some((argument.get_id().clone(), Names::of(path, argument)?)))
        .collect();
    for (id, names) in arguments {
        let line = Arc::clone(line);
        command = command.mut_arg(id, |argument| {
            argument.add(ArgValueCompleter::new(move |current: &OsStr| candidates(names, current, &line)))
        });
    }
    let below: Vec<_> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    for name in below {
        path.push(name.clone());
        command = command.mut_subcommand(name, |below| with_names(below, path, line));
        path.pop();
    }
    command
}

fn candidates(names: Names, current: &OsStr, line: &Line) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let all = match names {
        Names::Terms => terms(line),
        Names::Failures => failures(line),
        names => live(names, line),
    };
    let found = all.into_iter().filter(|name| name.starts_with(&*current));
    found.take(MAX_NAMES).map(CompletionCandidate::new).collect()
}

/// What a filter may go on with, by the word before the one that is being completed.
fn terms(line: &Line) -> Vec<String> {
    let is_about_flows = line.words.iter().any(|word| word == "flows" || word == "fl");
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match line.before() {
        Some("service") => live(Names::Services, line),
        Some("backend") => live(Names::Backends, line),
        Some("state") => FlowState::ALL.iter().map(|state| state.name().to_owned()).collect(),
        Some("verdict") => owned(&VERDICTS),
        Some("reason") => Reason::ALL.iter().map(|reason| reason.name().to_owned()).collect(),
        _ if is_about_flows => owned(&FLOW_TERMS),
        _ => owned(&TERMS),
    }
}

/// What may be said to fail in a simulation: `rack=west/w1/r1`.
fn failures(line: &Line) -> Vec<String> {
    let mut all: Vec<_> = asked(Names::Domains, line)
        .iter()
        .filter_map(|item| Some(format!("{}={}", item["level"].as_str()?, item["path"].as_str()?)))
        .collect();
    all.extend(live(Names::Backends, line).into_iter().map(|name| format!("backend={name}")));
    all
}

/// The names that the daemon knows now.
fn live(names: Names, line: &Line) -> Vec<String> {
    let (_, key) = names.place();
    let all = asked(names, line);
    all.iter().filter_map(|item| item[key].as_str().map(str::to_owned)).collect()
}

/// What the daemon says; nothing if it does not answer at once.
fn asked(names: Names, line: &Line) -> Vec<Value> {
    let (path, _) = names.place();
    let Some(client) = line.client(|name| std::env::var(name).ok()) else { return Vec::new() };
    let patience = if client.is_remote() { PATIENCE_REMOTE } else { PATIENCE };
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return Vec::new();
    };
    let answer = runtime.block_on(async { tokio::time::timeout(patience, client.get(path)).await });
    answer.ok().and_then(Result::ok).and_then(|answer| answer.parse().ok()).unwrap_or_default()
}
