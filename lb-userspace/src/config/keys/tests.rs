//! The list has what the parser knows, and no more.

use std::collections::{BTreeMap, BTreeSet};

use super::{Content, SECTIONS, Section};
use crate::config::{Config, fields};

/// A text with every table, so that the parser asks for each of its keys.
fn every_table() -> String {
    let mut text = String::new();
    for section in SECTIONS {
        match section.content {
            Content::Tables => text.push_str("[topology.r]\n"),
            _ => text.push_str(&format!("{}\n", section.header())),
        }
    }
    text
}

#[test]
fn the_parser_knows_exactly_the_listed_keys() {
    let asked = fields::recorded(|| drop(Config::parse(&every_table(), "all")));
    let mut known: BTreeMap<String, BTreeSet<&str>> = BTreeMap::new();
    for (label, key) in asked {
        known.entry(label.to_owned()).or_default().insert(key);
    }
    for section in SECTIONS {
        if matches!(section.content, Content::Tables | Content::Lists) {
            continue;
        }
        let label = match section.path {
            ["service", "limits", "per_source"] => "per_source of [service.limits]".to_owned(),
            _ => section.header(),
        };
        let parser = known.remove(&label).unwrap_or_else(|| panic!("the parser reads no {label}"));
        let keys = section.keys().iter().map(|key| key.name);
        let tables = Section::children(section.path).map(|below| *below.path.last().unwrap());
        let listed: BTreeSet<&str> = keys.chain(tables).collect();
        assert_eq!(
            listed, parser,
            "{label}: left as listed in config/keys/list.rs, right as the parser asks"
        );
    }
    let root = known.remove("the file").expect("the root is read");
    assert_eq!(root, Section::children(&[]).map(|section| section.path[0]).collect());
    let unlisted: Vec<_> = known.iter().filter(|(_, keys)| !keys.is_empty()).collect();
    assert!(unlisted.is_empty(), "tables that config/keys/list.rs does not have: {unlisted:?}");
}
