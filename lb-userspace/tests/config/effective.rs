//! What is shown of a configuration, and what editors are told of it.

use std::{fs, path::Path, path::PathBuf};

use lb_userspace::config::{Config, effective, schema};
use serde_json::Value;

fn examples() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let examples: Vec<_> = paths.filter(|path| path.extension().is_some_and(|e| e == "toml")).collect();
    assert!(examples.len() > 5);
    examples
}

#[test]
fn filled_in_defaults_are_those_that_hold_without_them() {
    for example in examples() {
        let root = effective::effective(&example).unwrap();
        let text = toml::to_string(&root).unwrap();
        let again = Config::parse(&text, "effective")
            .unwrap_or_else(|error| panic!("{}: {error}\n{text}", example.display()));
        assert!(
            again == Config::load(&example).unwrap(),
            "{} means something else:\n{text}",
            example.display()
        );
        for default in
            ["state_dir = ", "flow_idle = ", "answers_per_second = ", "weight = ", "on_all_down = "]
        {
            assert!(text.contains(default), "{}: no {default}\n{text}", example.display());
        }
    }
}

#[test]
fn the_key_is_never_shown() {
    for example in examples() {
        let mut root = effective::effective(&example).unwrap();
        let Some(key) = root["node"].get("hash_key").and_then(|key| key.as_str()).map(str::to_owned) else {
            continue;
        };
        effective::redact(&mut root);
        let files = effective::redacted(&example).unwrap();
        for text in [toml::to_string(&root).unwrap(), files[0].1.clone()] {
            assert!(!text.contains(&key) && text.contains("hash_key = \"redacted\""), "{text}");
        }
    }
}

fn as_json(path: &Path) -> Value {
    serde_json::to_value(fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap()).unwrap()
}

#[test]
fn the_schema_takes_every_example_and_refuses_mistakes() {
    let schema = schema::schema();
    assert!(jsonschema::meta::is_valid(&schema), "{schema:#}");
    let validator = jsonschema::validator_for(&schema).unwrap();
    for example in examples() {
        let errors: Vec<_> = validator.iter_errors(&as_json(&example)).map(|e| e.to_string()).collect();
        assert!(errors.is_empty(), "{}: {errors:?}", example.display());
    }
    let good = as_json(&examples()[0]);
    type Mistake = (&'static str, fn(&mut Value));
    let mistakes: [Mistake; 6] = [
        ("an unknown key", |v| v["node"]["nmae"] = "x".into()),
        ("a missing key", |v| drop(v["node"].as_object_mut().unwrap().remove("name"))),
        ("a missing table", |v| drop(v.as_object_mut().unwrap().remove("node"))),
        ("a string for a number", |v| v["service"][0]["port"] = "80".into()),
        ("a choice that there is not", |v| v["service"][0]["protocol"] = "icmp".into()),
        ("a time without a unit", |v| v["node"]["transition"] = "5".into()),
    ];
    for (what, mistake) in mistakes {
        let mut bad = good.clone();
        mistake(&mut bad);
        assert!(!validator.is_valid(&bad), "{what} is taken");
    }
}
