//! A real shell completes commands and live names.

use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use crate::fake::{Daemon, weir};

/// What Bash offers for the last of these words.
fn offered(socket: &Path, words: &[&str]) -> Vec<String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_weir")).parent().unwrap();
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let (line, last) = (quoted.join(" "), words.len() - 1);
    let script = format!(
        "source <(weir completions bash); COMP_WORDS=({line}); COMP_CWORD={last}; COMP_TYPE=9; COMP_LINE=\"${{COMP_WORDS[*]}}\"\n\
         COMP_POINT=${{#COMP_LINE}}\n\
         f=$(complete -p weir | sed 's/.* -F \\([^ ]*\\) .*/\\1/'); $f weir \"${{COMP_WORDS[{last}]}}\" \"${{COMP_WORDS[$(({last} - 1))]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["--norc", "--noprofile", "-c", &script])
        .env("PATH", path)
        .env("WEIR_SOCKET", socket)
        .output()
        .unwrap();
    assert!(output.stderr.is_empty(), "{words:?}: {output:?}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

#[test]
fn bash_completes_commands_and_the_names_of_the_daemon_that_runs() {
    let daemon = Daemon::start();
    let of = |words: &[&str]| offered(&daemon.socket, words);
    let commands = of(&["weir", "back"]);
    assert_eq!(commands, ["backend"]);
    let (backends, domains): (Vec<_>, Vec<_>) = {
        let world = daemon.fake.world.lock().unwrap();
        (
            world.backends.iter().map(|backend| backend.name.clone()).collect(),
            world.domains.iter().map(|domain| domain.path.clone()).collect(),
        )
    };
    let mut found = of(&["weir", "backend", "drain", "w"]);
    found.sort();
    let mut expected: Vec<_> = backends.into_iter().filter(|name| name.starts_with('w')).collect();
    expected.sort();
    assert!(!expected.is_empty());
    assert_eq!(found, expected);
    let mut found = of(&["weir", "domain", "show", "west/"]);
    found.sort();
    let mut expected: Vec<_> = domains.into_iter().filter(|path| path.starts_with("west/")).collect();
    expected.sort();
    assert_eq!(found, expected);
    assert_eq!(of(&["weir", "service", "show", "we"]), ["web"]);
    assert!(of(&["weir", "service", "show", "nothing"]).is_empty());
    // What a value can be, the command line knows by itself.
    assert!(of(&["weir", "status", "-o", "j"]).contains(&"json".to_owned()));
}

#[test]
fn a_daemon_that_is_absent_or_hangs_costs_no_more_than_a_moment() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("weir.sock");
    assert!(offered(&socket, &["weir", "backend", "drain", "w"]).is_empty());
    // It takes connections, and says nothing.
    let _listener = UnixListener::bind(&socket).unwrap();
    let begin = Instant::now();
    assert!(offered(&socket, &["weir", "backend", "drain", "w"]).is_empty());
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
}

#[test]
fn every_shell_has_a_script() {
    for shell in ["bash", "zsh", "fish"] {
        let output = weir().args(["completions", shell]).output().unwrap();
        let script = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && script.contains("COMPLETE") && script.contains("weir"),
            "{shell}: {script}"
        );
    }
}
