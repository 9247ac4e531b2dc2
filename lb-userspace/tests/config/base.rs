//! A small valid file, and what becomes of it with one thing changed.

use lb_userspace::config::{Config, ConfigError};

/// A valid file. Tests replace a part of it.
pub(crate) const BASE: &str = r#"[node]
name = "edge-1"
region = "west"
interfaces = ["eth0"]
hash_key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"
tunnel_source_v4 = "10.255.0.0/16"
[topology.west]
w1 = ["r1", "r2"]
w2 = ["r1"]
[topology.east]
e1 = ["r1"]
[client_regions]
west = ["198.51.100.0/24", "2001:db8:a::/48"]
[[check]]
name = "heartbeat"
kind = "heartbeat"
interval = "3ms"
[[set]]
name = "web-w1"
domain = "west/w1"
checks = ["heartbeat"]
[[set.backend]]
name = "b1"
rack = "west/w1/r1"
address = "10.1.1.11"
[[set.backend]]
name = "b2"
rack = "west/w1/r2"
address = "10.1.2.12"
[[set]]
name = "web-e1"
domain = "east/e1"
[[set.backend]]
name = "b3"
rack = "east/e1/r1"
address = "10.9.1.13"
[[service]]
name = "web"
address = "192.0.2.10"
port = 80
protocol = "tcp"
[[service.pool]]
name = "west"
sets = ["web-w1"]
[[service.pool]]
name = "east"
sets = ["web-e1"]
[service.plan]
default = ["west", "east"]
"#;

/// `BASE` with each `from` (which must stand in it exactly once) replaced by `to`.
pub(crate) fn with(changes: &[(&str, &str)]) -> String {
    let mut text = BASE.to_owned();
    for (from, to) in changes {
        assert_eq!(text.matches(from).count(), 1, "{from:?} must stand in the base exactly once");
        text = text.replacen(from, to, 1);
    }
    text
}

/// The errors of a text that must have some.
pub(crate) fn errors(text: &str) -> ConfigError {
    match Config::parse(text, "weir.toml") {
        Ok(_) => panic!("this should have been refused:\n{text}"),
        Err(error) => error,
    }
}

/// Asserts how the errors of a text are shown.
#[track_caller]
pub(crate) fn refused(text: &str, expected: &str) {
    let shown = errors(text).to_string();
    // The raw literal of the expectation begins with a line break, so that its columns stand below each other.
    let expected = expected.trim_start_matches('\n').trim_end();
    assert!(shown == expected, "expected:\n{expected}\n\nshown:\n{shown}\n");
}

/// Asserts that a text is valid.
#[track_caller]
pub(crate) fn accepted(text: &str) -> Config {
    Config::parse(text, "weir.toml")
        .unwrap_or_else(|error| panic!("this should have been accepted:\n{error}"))
}
