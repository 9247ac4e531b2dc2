//! No text makes the reader panic, hang or answer without a problem.

use lb_userspace::config::limits::MAX_PROBLEMS;
use lb_userspace::config::{Config, ConfigError};
use proptest::prelude::*;

use crate::base::{BASE, errors};

const EXAMPLE: &str = include_str!("../../../examples/two-regions.toml");

/// What every refusal must fulfil.
fn assert_sound(text: &str, error: &ConfigError) {
    assert!(!error.problems.is_empty(), "refused without a problem:\n{text}");
    assert!(error.problems.len() <= MAX_PROBLEMS);
    for problem in &error.problems {
        assert!(!problem.message.is_empty());
        for place in problem.place.iter().chain(problem.related.iter().map(|related| &related.place)) {
            assert!(place.line >= 1 && place.line <= text.split('\n').count(), "{problem:?}");
            assert!(place.column >= 1 && text.get(place.span.clone()).is_some(), "{problem:?}");
        }
    }
    let shown = error.to_string();
    assert!(!shown.contains(|c: char| c.is_control() && c != '\n'), "control characters reach the terminal");
    serde_json::to_string(error).expect("every error can be serialised");
}

fn parse(text: &str) {
    if let Err(error) = Config::parse(text, "weir.toml") {
        assert_sound(text, &error);
    }
}

/// Texts that are likely to matter when they replace a token.
fn token() -> impl Strategy<Value = String> {
    let words = [
        "",
        "\"\"",
        "0",
        "-1",
        "99999999999999999999",
        "1.5",
        "true",
        "1979-05-27",
        "[]",
        "[[]]",
        "{}",
        "\"west\"",
        "\"default\"",
        "[\"west\"]",
        "[node]",
        "[[set]]",
        "[service.plan]",
        "name",
        "=",
        "\n",
        "\"\\u001b[31m\"",
        "\"ü\u{202e}\"",
        "\t",
        "\"/\"",
        "\"west/w1\"",
        "\"10.1.1.11\"",
        "\"::\"",
        "\"0.0.0.0/0\"",
        "\"1s\"",
        "#",
    ];
    prop_oneof![4 => prop::sample::select(words.to_vec()).prop_map(str::to_owned), 1 => "\\PC{0,8}"]
}

/// Where tokens of a text begin and end.
fn tokens(text: &str) -> Vec<(usize, usize)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    for piece in text.split_inclusive([' ', '\n', ',', '[', ']', '.']) {
        tokens.push((at, at + piece.trim_end_matches([' ', '\n', ',', '[', ']', '.']).len()));
        at += piece.len();
    }
    tokens.retain(|(start, end)| start < end);
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn replaced_tokens(
        example in any::<bool>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), token()), 1..5),
    ) {
        let mut text = if example { EXAMPLE } else { BASE }.to_owned();
        for (index, token) in changes {
            let all = tokens(&text);
            if let Some(&(start, end)) = (!all.is_empty()).then(|| index.get(&all)) {
                text.replace_range(start..end, &token);
            }
        }
        parse(&text);
    }

    #[test]
    fn lines_removed_doubled_and_swapped(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0..3u8), 1..6),
    ) {
        let mut lines: Vec<&str> = BASE.lines().collect();
        for (a, b, edit) in edits {
            let (a, b) = (a.index(lines.len()), b.index(lines.len()));
            match edit {
                0 => drop(lines.remove(a)),
                1 => lines.insert(a, lines[b]),
                _ => lines.swap(a, b),
            }
        }
        parse(&lines.join("\n"));
    }

    #[test]
    fn cut_and_flipped_bytes(cut in 0..BASE.len(), at in 0..BASE.len(), byte in any::<u8>()) {
        parse(&BASE[..cut]);
        let mut bytes = BASE.as_bytes().to_vec();
        bytes[at] = byte;
        parse(&String::from_utf8_lossy(&bytes));
    }

    #[test]
    fn any_text(text in "(?s).{0,200}") {
        parse(&text);
    }
}

#[test]
fn many_problems_are_counted_and_not_kept() {
    let unknown: String = (0..200).map(|n| format!("unknown-{n} = 1\n")).collect();
    let error = errors(&(unknown + BASE));
    assert_eq!(error.problems.len(), MAX_PROBLEMS);
    assert_eq!(error.omitted, 200 - MAX_PROBLEMS);
    assert!(error.to_string().ends_with("error: 150 problems more not shown"), "{error}");
}

#[test]
fn deep_nesting_is_refused() {
    for (open, close) in [("[", "]"), ("{a=", "}")] {
        let text = format!("a = {}1{}", open.repeat(50_000), close.repeat(50_000));
        assert_sound(&text, &errors(&text));
    }
    let keys = format!("{}a = 1", "a.".repeat(50_000));
    assert_sound(&keys, &errors(&keys));
}

#[test]
fn long_lines_are_cut_around_the_place() {
    let padding = "x".repeat(10_000);
    let error = errors(&format!("{BASE}[{padding}]\nname = \"{padding}\"\n"));
    assert!(error.to_string().lines().all(|line| line.chars().count() < 250), "{error}");
}

#[test]
fn terminal_escapes_do_not_reach_the_terminal() {
    let text = BASE.replace("name = \"edge-1\"", "name = \"\\u001b[31m\" # \u{9b}31m");
    let error = errors(&text);
    assert_sound(&text, &error);
    assert!(error.to_string().contains(r#""\u{1b}[31m" is no name for a node"#), "{error}");
}
