//! `docs/reference/`: made from the code, and current.
//!
//! `WEIR_BLESS=1 cargo test -p lb-userspace --test surface reference` writes it anew.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::CommandFactory;
use lb_common::abi::{counter::Note, reason::Reason};
use lb_userspace::{
    api::openapi::document,
    cli::{Cli, exit::ExitCode},
    config::keys::{Content, Fallback, Key, SECTIONS, Type},
};
use serde_json::Value;

use crate::fake::Daemon;

/// A file of the workspace.
fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// Compares a page with what is committed, or writes it.
#[track_caller]
fn current(name: &str, title: &str, body: &str) {
    let path = file("docs/reference").join(name);
    let text =
        format!("<!-- Generated: see README.md in this folder. -->\n\n# {title}\n\n{}\n", body.trim_end());
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/reference/{name} is not current: run this test with WEIR_BLESS=1");
}

/// A cell of a table.
fn cell(text: &str) -> String {
    text.replace('|', "\\|").replace('\n', " ").replace('<', "&lt;")
}

/// Code in a cell: nothing but what ends the cell means anything there.
fn code(text: &str) -> String {
    format!("`{}`", text.replace('|', "\\|"))
}

fn row(out: &mut String, cells: &[&str]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, names: &[&str]) {
    row(out, names);
    let _ = writeln!(out, "|{}", "---|".repeat(names.len()));
}

/// Documentation of items in a source: the lines `///` right above each line that `name` finds a name in.
fn documented(source: &str, name: impl Fn(&str) -> Option<&str>) -> BTreeMap<String, String> {
    let (mut found, mut doc) = (BTreeMap::new(), Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some(text) = line.strip_prefix("///") {
            doc.push(text.trim());
        } else {
            if let Some(name) = name(line) {
                // Names of items in brackets are for rustdoc.
                found.insert(name.to_owned(), doc.join(" ").replace("[`", "`").replace("`]", "`"));
            }
            doc.clear();
        }
    }
    found
}

/// The name in quotes of a line such as `AllDown = 8, "all_down";`.
fn quoted(line: &str) -> Option<&str> {
    let (_, rest) = line.strip_suffix("\";")?.split_once(", \"")?;
    Some(rest)
}

#[test]
fn exit_codes_are_current() {
    let mut out = String::from("What `weir` exits with.\n\n");
    head(&mut out, &["code", "meaning"]);
    for code in ExitCode::ALL {
        row(&mut out, &[&(*code as u8).to_string(), &cell(code.text())]);
    }
    current("exit-codes.md", "Exit codes", &out);
}

#[test]
fn reasons_are_current() {
    let mut out = String::from(
        "Every packet that is neither forwarded nor passed counts under exactly one reason. Numbers and names are append-only.\n\
         [What to do about each](../guide/troubleshooting.md).\n\n",
    );
    let known = documented(&fs::read_to_string(file("lb-common/src/abi/reason.rs")).unwrap(), quoted);
    head(&mut out, &["number", "reason", "meaning"]);
    for reason in Reason::ALL {
        let name = reason.name();
        row(
            &mut out,
            &[
                &(*reason as u32).to_string(),
                &format!("[`{name}`](../guide/troubleshooting.md#{name})"),
                &cell(&known[name]),
            ],
        );
    }
    out += "\n## Notes\n\nWhat happened beside the verdict; `weir_notes_total` counts them.\n\n";
    let known = documented(&fs::read_to_string(file("lb-common/src/abi/counter.rs")).unwrap(), quoted);
    head(&mut out, &["number", "note", "meaning"]);
    for note in Note::ALL {
        row(
            &mut out,
            &[&(*note as u32).to_string(), &format!("`{}`", note.name()), &cell(&known[note.name()])],
        );
    }
    current("reasons.md", "Reasons", &out);
}

fn kind(of: Type) -> String {
    match of {
        Type::Text => "string".to_owned(),
        Type::Duration => "duration".to_owned(),
        Type::Choice(choices) => {
            choices.iter().map(|choice| format!("`\"{choice}\"`")).collect::<Vec<_>>().join(", ")
        }
        Type::Texts => "list of strings".to_owned(),
        Type::Integer(first, last) => format!("{first} to {last}"),
        Type::Integers(all) => all.iter().map(i64::to_string).collect::<Vec<_>>().join(", "),
        Type::Flag => "`true`, `false`".to_owned(),
    }
}

fn fallback(key: &Key) -> String {
    let value = |value: &str| {
        value.strip_prefix('=').map_or_else(|| format!("`{value}`"), |key| format!("that of `{key}`"))
    };
    match key.default {
        Fallback::Required => "**required**".to_owned(),
        Fallback::Nothing => String::new(),
        Fallback::Is(it) => value(it),
        Fallback::Told(words) => words.to_owned(),
        Fallback::Same(other) => format!("that of `{other}`"),
        Fallback::ByKind(cases) => {
            let cases = cases.iter().map(|(kinds, it)| format!("{} for {}", value(it), kinds.join(", ")));
            cases.collect::<Vec<_>>().join("; ")
        }
    }
}

#[test]
fn keys_of_the_file_are_current() {
    let mut out = String::from(
        "The file is in TOML 1.0. Unknown keys and tables are errors. Durations are a whole number and a unit: us, ms, s, m or h.\n\
         A configuration may be a folder of files: see [Changing the configuration](../guide/configuration.md).\n",
    );
    for section in SECTIONS {
        let required = if section.required { " Required." } else { "" };
        let _ = writeln!(out, "\n## `{}`\n\n{}{required}\n", section.header(), section.text);
        match section.content {
            Content::Lists => out += "`NAME = [\"...\", \"...\"]` in each line.\n",
            Content::Tables => out += "`NAME` of a zone `= [\"...\", \"...\"]`, its racks, in each line.\n",
            Content::Keys(keys) => {
                head(&mut out, &["key", "value", "default", "meaning"]);
                for key in keys {
                    let only = key.only.map_or_else(String::new, |(other, values)| {
                        format!(" Only where `{other}` is {}.", values.join(", "))
                    });
                    let meaning = cell(&format!("{}{only}", key.text));
                    row(
                        &mut out,
                        &[&format!("`{}`", key.name), &cell(&kind(key.of)), &cell(&fallback(key)), &meaning],
                    );
                }
            }
        }
    }
    current("config.md", "Configuration", &out);
}

fn commands(command: &clap::Command, path: &str, out: &mut String) {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help")
    {
        let path = format!("{path} {}", below.get_name());
        let about = below.get_about().map(ToString::to_string).unwrap_or_default();
        let arguments = below.get_positionals().map(|argument| format!(" {argument}")).collect::<String>();
        let aliases: Vec<_> = below.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
        row(out, &[&code(&format!("{path}{arguments}")), &cell(&about), &aliases.join(", ")]);
        commands(below, &path, out);
    }
}

#[test]
fn commands_are_current() {
    let mut out = String::from(
        "Each has `--help` with its options and examples, and a manual page: `man weir-backend-drain`.\n\n",
    );
    head(&mut out, &["command", "what it does", "short"]);
    let mut root = Cli::command();
    root.build();
    commands(&root, "weir", &mut out);
    out += "\n## Options of every command\n\n";
    head(&mut out, &["option", "meaning"]);
    for option in root.get_arguments().filter(|option| option.is_global_set()) {
        let help = option.get_help().map(ToString::to_string).unwrap_or_default();
        row(&mut out, &[&code(&option.to_string()), &cell(&help)]);
    }
    current("commands.md", "Commands", &out);
}

#[test]
fn metrics_are_current() {
    let daemon = Daemon::start();
    // So that what tells of a canary has a sample, and with it labels.
    let canary = r#"{"service":"web","set":"blue-2","permille":10,"reason":"for the reference"}"#;
    assert_eq!(daemon.post("/v1/canaries", canary).0, 200);
    let (status, text) = daemon.get("/metrics");
    assert_eq!(status, 200);
    let mut labels: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let Some((name, rest)) = line.split_once('{') else { continue };
        let names = rest.split("=\"").map(|part| part.rsplit([',', '"']).next().unwrap_or(part));
        let names = names
            .filter(|name| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
        let family =
            ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        labels.entry(family).or_default().extend(names);
    }
    let mut out = String::from(
        "`/metrics` on the unix socket, and over TCP where `[http] listen` says. Base units; names of counters end in `_total`; never a \
         client's address.\n\n",
    );
    head(&mut out, &["metric", "kind", "labels", "meaning"]);
    let mut families = text.lines().peekable();
    while let Some(line) = families.next() {
        let Some((name, help)) = line.strip_prefix("# HELP ").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let kind = families.peek().and_then(|next| next.rsplit(' ').next()).unwrap();
        let own = labels.get(name).into_iter().flatten().map(|label| format!("`{label}`"));
        row(&mut out, &[&format!("`{name}`"), kind, &own.collect::<Vec<_>>().join(", "), &cell(help)]);
    }
    assert!(out.lines().count() > 50, "{out}");
    current("metrics.md", "Metrics", &out);
}

fn text(value: &Value) -> String {
    cell(&value.as_str().unwrap_or_default().replace("[`", "`").replace("`]", "`"))
}

#[test]
fn events_are_current() {
    let document = document();
    let schemas = &document["components"]["schemas"];
    let mut out = String::from(
        "One line of JSON in the journal for each; `weir events -o json` shows them.\n\n## Kinds\n\n",
    );
    head(&mut out, &["kind", "when"]);
    for kind in schemas["EventKind"]["oneOf"].as_array().unwrap() {
        row(&mut out, &[&format!("`{}`", kind["const"].as_str().unwrap()), &text(&kind["description"])]);
    }
    out += "\n## Fields\n\nFields that end in `_ns` are readings of the monotonic clock; those that do not apply are left out.\n\n";
    head(&mut out, &["field", "meaning"]);
    for (name, field) in schemas["Event"]["properties"].as_object().unwrap() {
        row(&mut out, &[&format!("`{name}`"), &text(&field["description"])]);
    }
    out += "\n## States\n\n";
    head(&mut out, &["state", "meaning"]);
    for state in schemas["State"]["oneOf"].as_array().unwrap() {
        row(&mut out, &[&format!("`{}`", state["const"].as_str().unwrap()), &text(&state["description"])]);
    }
    current("events.md", "Events", &out);
}

#[test]
fn routes_are_current() {
    let document = document();
    let mut out = String::from(
        "All on the unix socket; what is tagged `look` also over TCP. Schemas are in [openapi.json](../openapi.json).\n\n",
    );
    head(&mut out, &["method", "route", "tag", "what it does"]);
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let tags: Vec<_> =
                operation["tags"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            row(
                &mut out,
                &[
                    &method.to_uppercase(),
                    &format!("`{path}`"),
                    &tags.join(", "),
                    &text(&operation["summary"]),
                ],
            );
        }
    }
    current("api.md", "API", &out);
}

/// A bound, as people read it.
trait Bound {
    fn shown(&self) -> String;
}

impl Bound for Duration {
    fn shown(&self) -> String {
        format!("{self:?}")
    }
}

macro_rules! whole {
    ($($type:ty)*) => { $(impl Bound for $type {
        fn shown(&self) -> String {
            let digits = self.to_string();
            let begin = |index: usize| index > 0 && (digits.len() - index).is_multiple_of(3);
            digits.chars().enumerate().flat_map(|(index, digit)| begin(index).then_some(',').into_iter().chain([digit])).collect()
        }
    })* };
}
whole!(u8 u16 u32 u64 usize i32);

/// Rows of a table: each constant with what its source says of it.
macro_rules! bounds {
    ($out:ident, $source:literal, $module:path: $($name:ident)*) => {{
        use $module as module;
        let known = documented(&fs::read_to_string(file($source)).unwrap(), constant);
        $(row(&mut $out, &[&format!("`{}`", stringify!($name)), &module::$name.shown(), &cell(&known[stringify!($name)])]);)*
    }};
}

/// The name in a line such as `pub const MAX: usize = 1;`.
fn constant(line: &str) -> Option<&str> {
    Some(line.strip_prefix("pub const ")?.split_once(':')?.0)
}

#[test]
fn limits_are_current() {
    let mut out =
        String::from("Meeting one is an error that names it, or a counted result.\n\n## Data plane\n\n");
    head(&mut out, &["limit", "value", "of"]);
    bounds!(out, "lb-common/src/abi/limits.rs", lb_common::abi::limits:
        MAX_BACKENDS MAX_DOMAINS MAX_POOLS MAX_SERVICES MAX_PLAN_STEPS MAX_PLANS MAX_CLIENT_REGIONS MAX_CLIENT_PREFIXES MAX_LIST_PREFIXES
        MAX_PREFIX_TABLES MAX_PORT_RANGES MAX_VIP_NESTING MAX_PROBES MAX_THOROUGH_PROBES MAX_CPUS MAX_EXTENSION_HEADERS MAX_FRAGMENTED
        FRAGMENT_AGE_NS DEFAULT_FLOW_ENTRIES_PER_CPU DEFAULT_OPENING_ENTRIES_PER_CPU DEFAULT_FLOW_INSERTS_PER_SECOND
        DEFAULT_ANSWERS_PER_SECOND MAX_WATCHERS WATCHED_PER_SECOND WATCH_RING_BYTES MAX_BLOCKED SOURCE_PLACES MAX_AGENT_ADDRESSES
        MAX_AGENT_SOURCES);
    out += "\n## Configuration\n\n";
    head(&mut out, &["limit", "value", "of"]);
    bounds!(out, "lb-userspace/src/config/limits.rs", lb_userspace::config::limits:
        MAX_CONFIG_BYTES MAX_CONFIG_FILES MAX_CLIENT_FILE_BYTES MAX_LIST_FILE_BYTES MAX_TABLE_SLOTS MAX_INTERFACES MAX_RELAY_ADDRESSES
        MAX_RELAY_PEERS MAX_CHECKS MAX_NAME_BYTES MAX_WEIGHT MAX_RATE MAX_BURST MAX_STREAK MIN_HEARTBEAT_INTERVAL MIN_TCP_INTERVAL
        MIN_SLOW_INTERVAL MAX_CHECK_TIME MAX_DATAGRAM_BYTES MAX_BODY_BYTES MAX_RECOVERY_TIME DEFAULT_TRANSITION MIN_TRANSITION
        MAX_TRANSITION DEFAULT_FLOW_IDLE MIN_FLOW_IDLE MAX_FLOW_IDLE MIN_FLOW_ENTRIES MAX_FLOW_ENTRIES MAX_ANSWERS MAX_PROBLEMS);
    out += "\n## API\n\n";
    head(&mut out, &["limit", "value", "of"]);
    bounds!(out, "lb-userspace/src/api/limits.rs", lb_userspace::api::limits:
        MAX_BODY_BYTES MAX_REASON_CHARS MAX_CONNECTIONS MAX_WAITING MAX_EVENTS MAX_WAIT REQUEST_TIMEOUT HEAD_TIMEOUT CONNECTION_LIFETIME
        STREAM_LIFETIME MAX_IDEMPOTENCY_KEYS IDEMPOTENCY_TIME);
    current("limits.md", "Limits", &out);
}
