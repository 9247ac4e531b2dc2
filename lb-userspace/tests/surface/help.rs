//! Every example in the help is a command line that parses.

use clap::{CommandFactory, Parser};
use lb_userspace::cli::{Cli, exit::ExitCode};

use crate::fake::weir;

/// Splits a line as a shell does, as far as the examples go: spaces and single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for c in line.chars() {
        match c {
            '\'' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            c => words.last_mut().unwrap().push(c),
        }
    }
    assert!(!quoted, "{line}");
    words.retain(|word| !word.is_empty());
    words
}

fn all_commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
    found.push((path.to_owned(), command.clone()));
    for below in command.get_subcommands().filter(|below| below.get_name() != "help") {
        all_commands(below, &format!("{path} {}", below.get_name()), found);
    }
}

#[test]
fn every_command_has_examples_of_itself_and_they_parse() {
    let mut commands = Vec::new();
    all_commands(&Cli::command(), "weir", &mut commands);
    assert!(commands.len() > 20, "{}", commands.len());
    for (path, command) in commands {
        let help = command.term_width(400).render_long_help().to_string();
        let (_, examples) =
            help.split_once("Examples:\n").unwrap_or_else(|| panic!("{path} has no examples"));
        let lines: Vec<_> = examples.lines().take_while(|line| !line.is_empty()).collect();
        assert!(!lines.is_empty(), "{path}");
        for line in lines {
            assert!(line.trim_start().starts_with(&path), "{path}: {line}");
            if let Err(error) = Cli::try_parse_from(words(line)) {
                panic!("{line}: {error}");
            }
        }
    }
}

#[test]
fn definition_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn exit_codes_are_in_the_help_and_never_change() {
    let output = weir().arg("--help").output().unwrap();
    assert!(output.status.success());
    let help = String::from_utf8(output.stdout).unwrap();
    for code in ExitCode::ALL {
        assert!(help.contains(&format!("  {:<2} {}", *code as u8, code.text())), "{code:?}\n{help}");
    }
    let numbers: Vec<u8> = ExitCode::ALL.iter().map(|code| *code as u8).collect();
    assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
    assert_eq!(ExitCode::Unreachable as u8, 4);
    assert_eq!(ExitCode::Refused as u8, 8);
}

#[test]
fn codes_that_a_command_tells_of_are_its_own() {
    let help = |words: &[&str]| String::from_utf8(weir().args(words).output().unwrap().stdout).unwrap();
    let doctor = help(&["doctor", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let told = format!("{} with warnings, {} with errors", ExitCode::Warnings as u8, ExitCode::Errors as u8);
    assert!(doctor.contains(&told), "{doctor}");
    let drain = help(&["backend", "drain", "--help"]).split_whitespace().collect::<Vec<_>>().join(" ");
    for code in [ExitCode::Deadline, ExitCode::Superseded] {
        assert!(drain.contains(&format!("(exit code {})", code as u8)), "{drain}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_a_usage_error() {
    for arguments in [
        &["backend", "drain", "b1"][..],
        &["backend", "drain", "b1", "--reason", ""],
        &["backend", "drain", "b1", "--reason", "two\nlines"],
        &["backend", "drain", "--reason", "r"],
        &["backend", "drain", "b1", "--reason", "r", "--for", "31d"],
        &["backend", "drain", "b1", "--reason", "r", "--for", "2h", "--no-expiry"],
        &["backend", "fail", "b1", "--reason", "r", "--deadline", "2h"],
        &["backend", "restore", "b1", "--reason", "r", "--for", "2h"],
        &["domain", "drain", "west", "--reason", "r", "--forget-failures"],
        &["shift", "zone", "west/w1", "--to", "50%", "--reason", "r"],
        &["shift", "zone", "west/w1", "--for", "2h", "--reason", "r"],
        &["shift", "zone", "west/w1", "--to", "50%", "--for", "2h"],
        &["shift", "zone", "west/w1", "--to", "100%", "--for", "2h", "--reason", "r"],
        &["shift", "zone", "west/w1", "--to", "50%", "--away", "50%", "--for", "2h", "--reason", "r"],
        &["shift", "zone", "west/w1", "--to", "50%", "--for", "8d", "--reason", "r"],
        &["shift", "pool", "west/w1", "--to", "50%", "--for", "2h", "--reason", "r"],
        &["canary", "set", "web", "--set", "blue-2", "--reason", "r"],
        &["canary", "set", "web", "--set", "blue-2", "--share", "101%", "--reason", "r"],
        &["canary", "step", "web"],
        &["domain", "show"],
        &["explain", "198.51.100.7", "192.0.2.10:80/tcp"],
        &["explain", "198.51.100.7:1", "192.0.2.10:80"],
        &["events", "-n", "1001"],
        &["events", "-n", "-1"],
        &["agent", "--interface", "eth0"],
        &["agent", "--interface", "eth0", "--address", "10.0.0.300"],
        &["agent", "--interface", "eth0", "--address", "10.0.0.1", "--source", "10.0.0.1/8"],
        &["agent", "--interface", "eth0", "--address", "10.0.0.1", "--heartbeat-port", "0"],
        &["detach", "--bpffs", "/x", "--config", "/y"],
        &["status", "-o", "xml"],
        &["reload", "--watch"],
        &["flows", "flush", "--reason", "r"],
        &["flows", "flush", "--all", "tcp", "--reason", "r"],
        &["flows", "flush", "tcp"],
        &["flows", "list", "--limit", "0"],
        &["stats", "--by", "weather"],
        &["stats", "--over", "31s"],
        &["frobnicate"],
        &[],
    ] {
        let line = std::iter::once("weir").chain(arguments.iter().copied());
        assert!(Cli::try_parse_from(line).is_err(), "{arguments:?}");
    }
    let output = weir().args(["explain", "1.2.3.4", "192.0.2.1:80/tcp"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("such as 198.51.100.7:40000"), "{output:?}");
    let output = weir().args(["drain", "b1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("weir backend drain, weir domain drain"));
    let output = weir().args(["backend", "drain", "b1"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--reason"));
    assert_eq!(weir().output().unwrap().status.code(), Some(2));
    assert_eq!(weir().arg("--version").output().unwrap().status.code(), Some(0));
}
