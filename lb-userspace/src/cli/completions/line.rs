//! The line that a shell has completed: its words, put together again where the shell split them, and the daemon that they name. Pure.

use std::path::PathBuf;

use super::super::{
    DEFAULT_SOCKET,
    client::Client,
    remote::{Remote, ServerUrl},
};

/// Characters at which Bash splits words beside white space (`COMP_WORDBREAKS`), as far as they are in ours.
const BREAKS: [char; 2] = ['=', ':'];

/// A line under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub(super) words: Vec<String>,
    /// The word that is to be completed.
    pub(super) at: usize,
    /// What stands in front of the part that Bash replaces.
    pub(super) kept: String,
}

impl Line {
    /// A line as most shells tell it; its last word is being completed if they do not say which.
    pub(super) fn new(words: Vec<String>, at: Option<usize>) -> Self {
        let last = words.len().saturating_sub(1);
        Self { at: at.unwrap_or(last).min(words.len()), words, kept: String::new() }
    }

    /// A line as Bash tells it. It takes `--server https://edge-1:9440` for six words, and wants to know how the last one goes on.
    pub(super) fn joined(parts: &[String], at: usize) -> Self {
        let (mut words, mut place, mut kept) = (Vec::<String>::new(), 0, String::new());
        let is_break = |word: &str| !word.is_empty() && word.chars().all(|c| BREAKS.contains(&c));
        let mut goes_on = false;
        for (index, part) in parts.iter().enumerate() {
            // The word under the cursor may be empty; a break and it are one word all the same.
            let joins = goes_on || is_break(part);
            match words.last_mut() {
                Some(word) if joins => {
                    if index == at {
                        kept = if is_break(part) { format!("{word}{part}") } else { word.clone() };
                    }
                    word.push_str(part);
                }
                _ => words.push(part.clone()),
            }
            if index == at {
                place = words.len() - 1;
            }
            goes_on = is_break(part);
        }
        if at >= parts.len() {
            place = words.len();
        }
        Self { words, at: place, kept }
    }

    /// The word before the one that is being completed.
    pub(super) fn before(&self) -> Option<&str> {
        self.at.checked_sub(1).and_then(|before| self.words.get(before)).map(String::as_str)
    }

    /// The value of an option, if the line has it.
    fn option(&self, name: &str) -> Option<String> {
        let mut words = self.words.iter().enumerate().filter(|(index, _)| *index != self.at);
        while let Some((_, word)) = words.next() {
            match word.strip_prefix("--").and_then(|word| word.strip_prefix(name)) {
                Some("") => return words.next().map(|(_, value)| value.clone()),
                Some(rest) if rest.starts_with('=') => return Some(rest[1..].to_owned()),
                _ => {}
            }
        }
        None
    }

    /// A client of the daemon that the line or the environment names; none if what they say of it makes no sense.
    pub(super) fn client(&self, environment: impl Fn(&str) -> Option<String>) -> Option<Client> {
        let value = |option: &str| {
            let variable = format!("WEIR_{}", option.to_ascii_uppercase());
            self.option(option).or_else(|| environment(&variable).filter(|value| !value.is_empty()))
        };
        let path = |option| value(option).map(PathBuf::from);
        let server = value("server").map(|url| url.parse::<ServerUrl>()).transpose().ok()?;
        let remote = Remote { server, ca: path("ca"), cert: path("cert"), key: path("key") };
        remote.client(&path("socket").unwrap_or_else(|| DEFAULT_SOCKET.into())).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn what_bash_split_is_one_word_again() {
        for (parts, at, joined, place, kept) in [
            ("weir backend drain w", 3, "weir backend drain w", 3, ""),
            ("weir status --output = j", 4, "weir status --output=j", 2, "--output="),
            ("weir status --output =", 3, "weir status --output=", 2, "--output="),
            (
                "weir --server https : //edge-1 : 9440 backend show ",
                9,
                "weir --server https://edge-1:9440 backend show ",
                5,
                "",
            ),
            ("weir emergency clear block :", 4, "weir emergency clear block:", 3, "block:"),
            (
                "weir emergency clear block : 2001 : db",
                7,
                "weir emergency clear block:2001:db",
                3,
                "block:2001:",
            ),
            ("weir explain [2001 : db8 :: 5] : 40 1", 9, "weir explain [2001:db8::5]:40 1", 3, ""),
        ] {
            let line = Line::joined(&words(parts), at);
            let expected = Line { words: words(joined), at: place, kept: kept.to_owned() };
            assert_eq!(line, expected, "{parts}");
        }
        // A new word is begun behind the last one.
        assert_eq!(Line::joined(&words("weir backend"), 2).at, 2);
        assert_eq!(Line::new(words("weir be ls"), None).before(), Some("be"));
        assert_eq!(Line::new(Vec::new(), Some(7)).before(), None);
    }

    #[test]
    fn the_daemon_is_the_one_that_the_line_names_or_the_environment() {
        let nothing = |_: &str| None;
        let client = |text: &str| Line::new(words(text), None).client(nothing);
        assert!(!client("weir backend drain w").unwrap().is_remote());
        assert!(client("weir --server http://edge-1 backend drain w").unwrap().is_remote());
        assert!(client("weir backend drain --server=http://edge-1:9440 w").unwrap().is_remote());
        assert!(client("weir --server nonsense backend drain w").is_none());
        // What is being written is no server yet.
        assert!(!client("weir backend drain w --server http://ed").unwrap().is_remote());
        let set = |name: &str| (name == "WEIR_SERVER").then(|| "http://edge-2".to_owned());
        assert!(Line::new(words("weir backend drain w"), None).client(set).unwrap().is_remote());
        let empty = |_: &str| Some(String::new());
        assert!(!Line::new(words("weir backend drain w"), None).client(empty).unwrap().is_remote());
    }
}
