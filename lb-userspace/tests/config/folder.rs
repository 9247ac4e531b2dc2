//! A configuration in several files.

use std::{fs, path::Path};

use lb_userspace::config::{
    Config,
    limits::{MAX_CONFIG_BYTES, MAX_CONFIG_FILES},
};

use crate::base::BASE;

/// A folder with these files.
fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        fs::write(folder.path().join(name), text).unwrap();
    }
    folder
}

/// How the errors of a folder are shown, with FOLDER for its path.
fn shown(path: &Path) -> String {
    let error = Config::load(path).expect_err("this should have been refused");
    error.to_string().replace(path.to_str().unwrap(), "FOLDER")
}

/// The base in pieces: before, the checks and the sets, the rest.
fn pieces() -> [&'static str; 3] {
    let (node, rest) = BASE.split_at(BASE.find("[[check]]").unwrap());
    let (sets, services) = rest.split_at(rest.find("[[service]]").unwrap());
    [node, sets, services]
}

#[test]
fn files_in_the_order_of_their_names_are_one_configuration() {
    let [node, sets, services] = pieces();
    let whole = Config::parse(BASE, "weir.toml").unwrap();
    // The order of files means nothing, nor does a missing line break at an end; other files and hidden ones are not looked at.
    for names in [["10-node.toml", "20-sets.toml", "30-web.toml"], ["c.toml", "b.toml", "a.toml"]] {
        let files = [
            (names[0], node.trim_end()),
            (names[1], sets),
            (names[2], services),
            ("README", "no = toml ="),
            (".hidden.toml", "no = toml ="),
        ];
        assert_eq!(Config::load(folder(&files).path()).unwrap(), whole);
    }
    // Regions and client regions may be told of in any of them.
    let region = node.replace("[topology.east]\ne1 = [\"r1\"]\n", "");
    assert_ne!(region, node);
    let more = "[topology.east]\ne1 = [\"r1\"]\n[client_regions]\neast = [\"203.0.113.0/24\"]\n";
    let split = folder(&[("a.toml", &region), ("b.toml", more), ("c.toml", sets), ("d.toml", services)]);
    let config = Config::load(split.path()).unwrap();
    assert_eq!(config.topology, whole.topology);
    assert_eq!(config.client_regions.len(), whole.client_regions.len() + 1);
}

#[test]
fn errors_name_the_file_and_its_own_line() {
    let [node, sets, services] = pieces();
    let bad = services.replace("sets = [\"web-e1\"]", "sets = [\"web-e2\"]");
    let split = folder(&[("1.toml", node), ("2.toml", sets), ("3.toml", &format!("# a comment\n{bad}"))]);
    let error = shown(split.path());
    assert!(error.contains("3.toml:12:9\n") && error.contains("12 | sets = [\"web-e2\"]"), "{error}");
    // Two places in two files.
    let again = "[[set]]\nname = \"web-w1\"\ndomain = \"west/w1\"\n[[set.backend]]\nname = \"b9\"\nrack = \"west/w1/r1\"\n\
                 address = \"10.1.1.19\"\n";
    let split = folder(&[("1.toml", node), ("2.toml", sets), ("3.toml", services), ("4.toml", again)]);
    let error = shown(split.path());
    assert!(error.contains("--> FOLDER/4.toml:2:8") && error.contains("::: FOLDER/2.toml:6:8"), "{error}");
    // What is no TOML.
    let split = folder(&[("1.toml", node), ("2.toml", "\n\nthis is none"), ("3.toml", services)]);
    let error = shown(split.path());
    assert!(error.contains("--> FOLDER/2.toml:3:") && error.contains("this is no TOML"), "{error}");
    // As JSON.
    let error = Config::load(split.path()).unwrap_err();
    let json = serde_json::to_value(&error).unwrap();
    assert!(json["problems"][0]["file"].as_str().unwrap().ends_with("2.toml"), "{json}");
}

#[test]
fn no_file_goes_on_with_a_table_of_another() {
    let [node, sets, services] = pieces();
    let split = folder(&[("1.toml", node), ("2.toml", sets), ("3.toml", services), ("4.toml", node)]);
    let error = shown(split.path());
    assert!(error.contains("\"node\" stands in another file already"), "{error}");
    assert!(error.contains("--> FOLDER/4.toml:1:2") && error.contains("::: FOLDER/1.toml:1:2"), "{error}");
    assert!(error.contains("\"west\" stands in another file already"), "{error}");
    // Were texts only joined, this would be the plan of the service before.
    let plan = "[service.plan]\ndefault = [\"west\", \"east\"]\n";
    let without = services.replace(plan, "");
    let split = folder(&[("1.toml", node), ("2.toml", sets), ("3.toml", &without), ("4.toml", plan)]);
    let error = shown(split.path());
    assert!(error.contains("--> FOLDER/4.toml:1:"), "{error}");
}

#[test]
fn there_are_not_too_many_files_and_together_they_are_not_too_large() {
    let [node, sets, services] = pieces();
    let whole = [("1.toml", node), ("2.toml", sets), ("3.toml", services)];
    let full = folder(&whole);
    for number in whole.len()..MAX_CONFIG_FILES {
        fs::write(full.path().join(format!("{number:03}-more.toml")), "").unwrap();
    }
    assert!(Config::load(full.path()).is_ok());
    fs::write(full.path().join("one-more.toml"), "").unwrap();
    assert!(shown(full.path()).contains(&format!("MAX_CONFIG_FILES is {MAX_CONFIG_FILES}")));
    let large = folder(&whole);
    let comment = format!("#{}\n", "x".repeat(MAX_CONFIG_BYTES as usize / 2));
    fs::write(large.path().join("a.toml"), &comment).unwrap();
    assert!(Config::load(large.path()).is_ok());
    fs::write(large.path().join("b.toml"), &comment).unwrap();
    assert!(shown(large.path()).contains("MAX_CONFIG_BYTES"), "{}", shown(large.path()));
}

#[test]
fn a_hidden_key_stays_hidden_in_each_file() {
    let [node, sets, services] = pieces();
    let split = folder(&[("1.toml", sets), ("2.toml", node), ("3.toml", services)]);
    let files = lb_userspace::config::effective::redacted(split.path()).unwrap();
    let text = files.iter().map(|(_, text)| text.as_str()).collect::<String>();
    assert_eq!(files.len(), 3);
    assert!(!text.contains("00112233") && files[1].1.contains("hash_key = \"redacted\"\n"), "{text}");
}
