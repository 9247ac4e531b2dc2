//! What the definition of the command line has beside what its types say: short names, and `--watch`. One place for both, so that they are the
//! same for every command.

use std::time::Duration;

use clap::{
    Arg, ArgMatches, Command, CommandFactory, FromArgMatches, Parser,
    error::{ContextKind, ContextValue, Error, ErrorKind},
};

use super::{Cli, Line};

/// Short names of commands. Words that are typed at night; all of them are in `weir --help`.
const SHORT: [(&str, &str); 16] = [
    ("status", "st"),
    ("service", "svc"),
    ("backend", "be"),
    ("domain", "dom"),
    ("shift", "sh"),
    ("canary", "can"),
    ("guard", "gd"),
    ("plan", "pl"),
    ("emergency", "em"),
    ("explain", "ex"),
    ("trace", "tr"),
    ("capture", "cap"),
    ("events", "ev"),
    ("report", "rep"),
    ("flows", "fl"),
    ("config", "cfg"),
];
/// Verbs that have a short name below each noun.
const SHORT_VERBS: [(&str, &str); 1] = [("list", "ls")];
/// Commands that show how things stand, and so may do so again and again: those of one word, and verbs below any noun but `config`.
const WATCHED: [&str; 4] = ["status", "stats", "explain", "report"];
const WATCHED_VERBS: [&str; 2] = ["list", "show"];
const WATCH: &str = "watch";
/// The period if nobody says which, in seconds.
const DEFAULT_PERIOD: &str = "2";
/// Shortest and longest period, in seconds.
const PERIODS: std::ops::RangeInclusive<f64> = 0.2..=3_600.0;

impl CommandFactory for Cli {
    fn command() -> Command {
        shape(Line::command())
    }

    fn command_for_update() -> Command {
        shape(Line::command_for_update())
    }
}

impl FromArgMatches for Cli {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let Line { global, command } = Line::from_arg_matches(matches)?;
        Ok(Self { global, command, watch: period(matches) })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

impl Parser for Cli {}

fn shape(root: Command) -> Command {
    root.mut_subcommands(|command| {
        let name = command.get_name().to_owned();
        let command = with_short_name(command, &SHORT);
        let command = if WATCHED.contains(&&*name) { command.arg(watch()) } else { command };
        command.mut_subcommands(|below| {
            let is_watched = name != "config" && WATCHED_VERBS.contains(&below.get_name());
            let below = with_short_name(below, &SHORT_VERBS);
            if is_watched { below.arg(watch()) } else { below }
        })
    })
}

fn with_short_name(command: Command, names: &[(&'static str, &'static str)]) -> Command {
    let short = names.iter().find(|(name, _)| *name == command.get_name());
    short.map_or(command.clone(), |(_, short)| command.visible_alias(*short))
}

fn watch() -> Arg {
    Arg::new(WATCH)
        .short('w')
        .long("watch")
        .value_name("SECONDS")
        .num_args(0..=1)
        .require_equals(true)
        .default_missing_value(DEFAULT_PERIOD)
        .value_parser(parse_period)
        .help("Show it again every 2 s, or as often as said")
        .long_help(
            "Show it again every 2 s, or as often as said (-w=0.5). On a terminal it is drawn anew, and Ctrl-C ends it. In a pipe, \
             and as JSON or YAML, it is written again whenever it has changed",
        )
}

/// Seconds from one look to the next.
///
/// # Errors
/// What is wrong, in words.
pub(super) fn parse_period(text: &str) -> Result<Duration, String> {
    let seconds: Option<f64> = text.parse().ok().filter(|seconds| PERIODS.contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| {
        format!("write seconds from {} to {}, such as 2 or 0.5", PERIODS.start(), PERIODS.end())
    })
}

fn period(matches: &ArgMatches) -> Option<Duration> {
    let mut last = matches;
    while let Some((_, below)) = last.subcommand() {
        last = below;
    }
    last.try_get_one(WATCH).ok().flatten().copied()
}

/// What to write instead, where somebody wrote a verb before its noun: `weir drain w1r1b1`.
pub(super) fn verb_first(error: &Error) -> Option<String> {
    if error.kind() != ErrorKind::InvalidSubcommand {
        return None;
    }
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidSubcommand) else { return None };
    let root = Cli::command();
    let nouns = root.get_subcommands().filter(|noun| noun.find_subcommand(word).is_some());
    let lines: Vec<_> = nouns.map(|noun| format!("weir {} {word}", noun.get_name())).collect();
    (!lines.is_empty()).then(|| format!("the noun comes first: {}", lines.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_command_that_lists_or_shows_can_be_watched() {
        let mut shown = 0;
        for noun in Cli::command().get_subcommands().filter(|noun| noun.get_name() != "config") {
            for verb in noun.get_subcommands().filter(|verb| WATCHED_VERBS.contains(&verb.get_name())) {
                let watched = verb.get_arguments().any(|argument| argument.get_id() == WATCH);
                assert!(watched, "{} {}", noun.get_name(), verb.get_name());
                shown += 1;
            }
        }
        assert!(shown >= 13, "{shown}");
        let watch = |words: &[&str]| Cli::try_parse_from(["weir"].iter().chain(words)).map(|cli| cli.watch);
        let seconds = |seconds| Some(Duration::from_secs_f64(seconds));
        assert_eq!(watch(&["status", "-w"]).unwrap(), seconds(2.0));
        assert_eq!(watch(&["be", "ls", "-w=0.5"]).unwrap(), seconds(0.5));
        assert_eq!(watch(&["backend", "show", "--watch=10", "b1"]).unwrap(), seconds(10.0));
        assert_eq!(watch(&["backend", "show", "-w", "b1"]).unwrap(), seconds(2.0));
        assert_eq!(watch(&["stats"]).unwrap(), None);
        for words in
            [&["explain", "1.2.3.4:5", "192.0.2.1:80/tcp", "-w"][..], &["report", "-w"], &["stats", "-w"]]
        {
            assert_eq!(watch(words).unwrap(), seconds(2.0), "{words:?}");
        }
        for bad in
            [&["status", "-w=0"][..], &["status", "-w=x"], &["reload", "-w"], &["backend", "drain", "-w"]]
        {
            assert!(watch(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_verb_before_its_noun_is_answered_by_where_it_belongs() {
        let tip = |words: &[&str]| {
            let error = Cli::try_parse_from(["weir"].iter().chain(words)).unwrap_err();
            verb_first(&error)
        };
        let told = "the noun comes first: weir backend drain, weir domain drain";
        assert_eq!(tip(&["drain", "w1r1b1"]).as_deref(), Some(told));
        assert!(tip(&["list"]).unwrap().contains("weir service list, "));
        assert_eq!(tip(&["frobnicate"]), None);
        assert_eq!(tip(&["backend", "list", "--frobnicate"]), None);
    }

    #[test]
    fn short_names_are_shown_and_no_two_are_the_same() {
        let root = Cli::command();
        let mut names = BTreeSet::new();
        for command in root.get_subcommands() {
            for name in std::iter::once(command.get_name()).chain(command.get_all_aliases()) {
                assert!(names.insert(name.to_owned()), "{name} is there twice");
            }
            assert_eq!(command.get_all_aliases().count(), command.get_visible_aliases().count());
        }
        for (name, short) in SHORT {
            let command = root.find_subcommand(name).unwrap_or_else(|| panic!("there is no {name}"));
            assert_eq!(command.get_visible_aliases().collect::<Vec<_>>(), [short]);
        }
        let long = Cli::try_parse_from(["weir", "backend", "list"]).unwrap();
        assert_eq!(Cli::try_parse_from(["weir", "be", "ls"]).unwrap(), long);
    }
}
