//! `weir completions`, and completing itself: the shell asks this program, which asks the daemon for live names.

use std::{ffi::OsStr, path::PathBuf, time::Duration};

use clap::{Arg, Args, Command, CommandFactory, ValueEnum};
use clap_complete::{
    ArgValueCompleter, CompletionCandidate,
    env::{CompleteEnv, EnvCompleter, Shells},
};
use serde_json::Value;

use lb_common::abi::reason::Reason;

use super::{Cli, DEFAULT_SOCKET, client::Client, output::Output};
use crate::api::types::FlowState;

const EXAMPLES: &str = "\
Examples:
  weir completions bash
  weir completions zsh
  weir completions fish

The Debian package has them in place. Elsewhere write them to /etc/bash_completion.d/weir, /usr/local/share/zsh/site-functions/_weir
or /etc/fish/completions/weir.fish. Names of services, backends, domains and switches are the running daemon's; where none answers
at once, there are none.";
/// The variable by which a shell asks for completions.
const VARIABLE: &str = "COMPLETE";
/// How long a daemon may take before a shell gets no names: nobody waits for a key longer.
const PATIENCE: Duration = Duration::from_millis(300);
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
            Self::Terms => ("", ""),
        }
    }

    /// Of which names an argument is one: its own name says, or the noun that it belongs to.
    fn of(path: &[String], argument: &Arg) -> Option<Self> {
        match argument.get_id().as_str() {
            "service" => return Some(Self::Services),
            "backend" => return Some(Self::Backends),
            "domain" => return Some(Self::Domains),
            "filter" => return Some(Self::Terms),
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
    if std::env::var_os(VARIABLE).is_none() {
        return false;
    }
    let current = std::env::current_dir().ok();
    let completer = CompleteEnv::with_factory(command).var(VARIABLE);
    completer.try_complete(std::env::args_os(), current.as_deref()).unwrap_or(true)
}

/// The command line, in which arguments that are live names know where these come from.
fn command() -> Command {
    with_names(Cli::command(), &mut Vec::new())
}

fn with_names(mut command: Command, path: &mut Vec<String>) -> Command {
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|argument| argument.get_possible_values().is_empty())
        .filter_map(|argument| Some((argument.get_id().clone(), Names::of(path, argument)?)))
        .collect();
    for (id, names) in arguments {
        command = command.mut_arg(id, |argument| {
            argument.add(ArgValueCompleter::new(move |current: &OsStr| candidates(names, current)))
        });
    }
    let below: Vec<_> = command.get_subcommands().map(|below| below.get_name().to_owned()).collect();
    for name in below {
        path.push(name.clone());
        command = command.mut_subcommand(name, |below| with_names(below, path));
        path.pop();
    }
    command
}

fn candidates(names: Names, current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let all = match names {
        Names::Terms => terms(&std::env::args().collect::<Vec<_>>()),
        names => live(names).unwrap_or_default(),
    };
    let found = all.into_iter().filter(|name| name.starts_with(&*current));
    found.take(MAX_NAMES).map(CompletionCandidate::new).collect()
}

/// What a filter may go on with, by the word before the one that is being completed. Shells say where that is: the words of the line come behind
/// `--`, and its number in a variable; the last word, where a shell does not say it.
fn terms(arguments: &[String]) -> Vec<String> {
    let begin = arguments.iter().position(|word| word == "--").map_or(0, |at| at + 1);
    let line = &arguments[begin..];
    let at = std::env::var("_CLAP_COMPLETE_INDEX").ok().and_then(|at| at.parse::<usize>().ok());
    let at = at.unwrap_or(line.len().saturating_sub(1)).min(line.len());
    let is_about_flows = line.iter().any(|word| word == "flows" || word == "fl");
    let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    match at.checked_sub(1).and_then(|before| line.get(before)).map(String::as_str) {
        Some("service") => live(Names::Services).unwrap_or_default(),
        Some("backend") => live(Names::Backends).unwrap_or_default(),
        Some("state") => FlowState::ALL.iter().map(|state| state.name().to_owned()).collect(),
        Some("verdict") => owned(&VERDICTS),
        Some("reason") => Reason::ALL.iter().map(|reason| reason.name().to_owned()).collect(),
        _ if is_about_flows => owned(&FLOW_TERMS),
        _ => owned(&TERMS),
    }
}

/// The names that the daemon knows now.
fn live(names: Names) -> Option<Vec<String>> {
    let (path, key) = names.place();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().ok()?;
    let client = Client::new(&socket(std::env::args().collect()));
    let answer =
        runtime.block_on(async { tokio::time::timeout(PATIENCE, client.get(path)).await.ok()?.ok() })?;
    let list: Vec<Value> = answer.parse().ok()?;
    Some(list.iter().filter_map(|item| item[key].as_str().map(str::to_owned)).collect())
}

/// The socket that the line being completed names, or the one that it would take.
fn socket(line: Vec<String>) -> PathBuf {
    let mut words = line.into_iter();
    while let Some(word) = words.next() {
        if let Some(path) = word.strip_prefix("--socket=") {
            return path.into();
        }
        if word == "--socket" {
            return words.next().unwrap_or_default().into();
        }
    }
    std::env::var_os("WEIR_SOCKET").map_or_else(|| DEFAULT_SOCKET.into(), PathBuf::from)
}
