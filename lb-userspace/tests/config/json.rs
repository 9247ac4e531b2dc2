//! Errors and summaries for machines.

use lb_userspace::config::summary;
use serde_json::json;

use crate::base::{BASE, accepted, errors, with};

/// What a serialised span cuts out of the text.
fn cut<'t>(text: &'t str, span: &serde_json::Value) -> &'t str {
    let offset = |end: &str| span[end].as_u64().expect("offsets are numbers") as usize;
    &text[offset("start")..offset("end")]
}

#[test]
fn errors_have_place_message_and_remedy() {
    let text =
        with(&[("rack = \"west/w1/r1\"", "rack = \"west/w1/r9\""), ("name = \"b3\"", "name = \"b2\"")]);
    let error = errors(&text);
    let expected = json!({
        "file": "weir.toml",
        "omitted": 0,
        "problems": [
            {
                "message": "backend \"b1\" names rack \"west/w1/r9\", which the topology does not have",
                "remedy": "did you mean \"west/w1/r1\"? known racks: \
                           \"east/e1/r1\", \"west/w1/r1\", \"west/w1/r2\", \"west/w2/r1\"",
                "line": 24, "column": 8,
                "related": null,
            },
            {
                "message": "backend \"b2\" is defined twice",
                "remedy": "give one of them another name, or remove it",
                "line": 34, "column": 8,
                "related": {
                    "message": "first defined here",
                    "line": 27, "column": 8,
                },
            },
        ],
    });
    let mut shown = serde_json::to_value(&error).expect("every error can be serialised");
    for problem in shown["problems"].as_array_mut().into_iter().flatten() {
        if let Some(related) = problem["related"].as_object_mut() {
            assert!(related.remove("span").is_some_and(|span| cut(&text, &span) == "\"b2\""));
        }
        let span = problem.as_object_mut().and_then(|problem| problem.remove("span"));
        assert!(span.is_some_and(|span| ["\"west/w1/r9\"", "\"b2\""].contains(&cut(&text, &span))));
    }
    assert_eq!(shown, expected);
}

#[test]
fn an_error_without_place_has_none() {
    let error =
        lb_userspace::config::Config::load("/nonexistent".as_ref()).expect_err("there is no such file");
    let shown = serde_json::to_value(&error).expect("every error can be serialised");
    assert!(shown["problems"][0].get("line").is_none(), "{shown}");
}

#[test]
fn the_summary_counts() {
    let shown = serde_json::to_value(summary(&accepted(BASE))).expect("the summary can be serialised");
    let expected = json!({
        "regions": 2, "zones": 3, "racks": 4, "client_regions": 2, "client_prefixes": 2, "checks": 1, "sets": 2,
        "backends": 3, "services": 1, "pools": 2, "table_bytes": 262_148,
        "answers_per_second": 1_000,
    });
    assert_eq!(shown, expected);
}
