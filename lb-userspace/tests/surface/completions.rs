//! A real shell completes commands and live names.

use std::{
    os::unix::net::UnixListener,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use lb_userspace::api::https::Https;

use crate::{
    fake::{Daemon, weir},
    tls::Pki,
};

/// The words that Bash makes of a line: it splits at colons and equals signs, too, each run of which is a word.
fn split(line: &str) -> Vec<String> {
    let is_break = |c| c == ':' || c == '=';
    let mut words = Vec::new();
    for word in line.split(' ') {
        let mut parts = vec![String::new()];
        for c in word.chars() {
            let last = parts.last_mut().unwrap();
            match last.is_empty() || last.ends_with(is_break) == is_break(c) {
                true => last.push(c),
                false => parts.push(c.to_string()),
            }
        }
        words.extend(parts);
    }
    words
}

/// What Bash offers for the end of a line.
fn offered_with(line: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let bin = Path::new(env!("CARGO_BIN_EXE_weir")).parent().unwrap();
    let words = split(line);
    let quoted: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
    let (list, last) = (quoted.join(" "), words.len() - 1);
    // Behind a break nothing is written yet: that is what Bash hands over as the word before the cursor.
    let script = format!(
        "source <(weir completions bash); COMP_WORDS=({list}); COMP_CWORD={last}; COMP_TYPE=9; COMP_LINE='{line}'\n\
         COMP_POINT=${{#COMP_LINE}}; current=${{COMP_WORDS[{last}]}}; [[ $current != [=:]* ]] || current=\n\
         f=$(complete -p weir | sed 's/.* -F \\([^ ]*\\) .*/\\1/'); $f weir \"$current\" \"${{COMP_WORDS[$(({last} - 1))]}}\"\n\
         printf '%s\\n' \"${{COMPREPLY[@]}}\""
    );
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    command.args(["--norc", "--noprofile", "-c", &script]).env("PATH", path);
    command.env("WEIR_SOCKET", "/nonexistent/weir.sock").envs(variables.iter().copied());
    let output = command.output().unwrap();
    // Outside of a line being edited there are no options of a completion to change.
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(told.lines().all(|line| line.contains("compopt")), "{line}: {output:?}");
    let offered = String::from_utf8(output.stdout).unwrap();
    offered.lines().map(|word| word.trim().to_owned()).filter(|word| !word.is_empty()).collect()
}

fn offered(socket: &Path, words: &[&str]) -> Vec<String> {
    offered_with(&words.join(" "), &[("WEIR_SOCKET", socket.to_str().unwrap())])
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
fn terms_of_filters_and_what_may_fail_are_completed() {
    let daemon = Daemon::start();
    let of = |line: &str| offered_with(line, &[("WEIR_SOCKET", daemon.socket.to_str().unwrap())]);
    assert_eq!(of("weir flows list st"), ["state"]);
    assert_eq!(of("weir fl ls state es"), ["established"]);
    assert_eq!(of("weir flows list backend w1r2b"), ["w1r2b1"]);
    assert_eq!(of("weir flows flush tcp and service we"), ["web"]);
    // Flows have neither a reason nor a verdict; packets have no state.
    assert!(of("weir flows list rea").is_empty() && of("weir trace st").is_empty());
    assert_eq!(of("weir trace verdict dr"), ["drop"]);
    assert_eq!(of("weir tr service web reason all_"), ["all_down"]);
    assert_eq!(of("weir capture x.pcapng rea"), ["reason"]);
    // Bash replaces what stands behind the last break only.
    assert_eq!(of("weir plan simulate --fail rack=west/w1/"), ["west/w1/r2"]);
    assert!(of("weir plan simulate --fail zone=").contains(&"west/w1".to_owned()));
    assert_eq!(of("weir status --output=js"), ["json"]);
}

#[test]
fn names_are_those_of_the_server_that_the_line_or_the_environment_names() {
    let pki = Pki::new();
    let daemon = Daemon::start_with(Https::load(Some(&pki.tls(&[]))).unwrap());
    let file = |name: &str| pki.file(name).display().to_string();
    let (ca, cert, key) = (file("ca.pem"), file("reader.pem"), file("reader.key"));
    let server = format!("https://{}", daemon.http);
    let remote = format!("--server {server} --ca {ca} --cert {cert} --key {key}");
    assert_eq!(offered_with(&format!("weir {remote} backend drain w1r2"), &[]), ["w1r2b1"]);
    assert_eq!(offered_with(&format!("weir backend drain {remote} w1r2"), &[]), ["w1r2b1"]);
    let joined = remote.replace("--server ", "--server=").replace("--key ", "--key=");
    assert_eq!(offered_with(&format!("weir {joined} service show we"), &[]), ["web"]);
    let variables =
        [("WEIR_SERVER", &*server), ("WEIR_CA", &*ca), ("WEIR_CERT", &*cert), ("WEIR_KEY", &*key)];
    assert_eq!(offered_with("weir backend drain w1r2", &variables), ["w1r2b1"]);
    // Without a certificate nobody answers, and nobody waits long for it.
    assert!(offered_with("weir backend drain w1r2", &variables[..2]).is_empty());
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
