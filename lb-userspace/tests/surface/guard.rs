//! Guards and emergency switches over API and command line.

use serde_json::{Value, json};

use crate::fake::Daemon;

#[test]
fn a_switch_is_thrown_listed_and_taken_back() {
    let daemon = Daemon::start();
    let body = json!({
        "switch": {"kind": "block", "prefix": "203.0.113.0/24", "service": "web"},
        "for_s": 600,
        "reason": "  flood "
    });
    let (status, answer) = daemon.post("/v1/emergency", &body.to_string());
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer["name"], "block:203.0.113.0/24@web");
    assert_eq!(answer["reason"], "flood");
    assert_eq!(answer["switch"]["kind"], "block");
    let listed = daemon.stdout(&["emergency", "list"]);
    assert!(listed.contains("10 min 0 s") && listed.contains("from 203.0.113.0/24 to web"), "{listed}");
    let off = daemon.stdout(&["emergency", "clear", "block:203.0.113.0/24@web", "--reason", "over"]);
    assert_eq!(off, "block:203.0.113.0/24@web is off\n");
    assert_eq!(daemon.stdout(&["emergency", "list", "-o", "json"]), "[]\n");
}

#[test]
fn each_kind_can_be_thrown_from_the_command_line() {
    let daemon = Daemon::start();
    for (arguments, name) in [
        (&["block", "2001:db8:bad::/48"][..], "block:2001:db8:bad::/48"),
        (&["stop", "web"], "stop:web"),
        (&["shed", "p3", "--share", "50%"], "shed:P3"),
        (&["limit", "web", "--packets", "7"], "limit:web"),
    ] {
        let all = [&["emergency"], arguments, &["--for", "90s", "--reason", "try"]].concat();
        let said = daemon.stdout(&all);
        assert!(said.starts_with(&format!("{name} is on for 1 min 30 s: ")), "{said}");
    }
}

#[test]
fn requests_that_make_no_sense_are_refused_with_a_remedy() {
    let daemon = Daemon::start();
    let stop =
        |reason: &str| json!({"switch": {"kind": "stop", "service": "web"}, "for_s": 1, "reason": reason});
    for body in [
        stop(" "),
        stop(&"r".repeat(513)),
        json!({"switch": {"kind": "stop", "service": "web"}, "for_s": 1}),
        json!({"switch": {"kind": "stop"}, "for_s": 1, "reason": "r"}),
        json!({"switch": {"kind": "block", "prefix": "10.0.0.1/24"}, "for_s": 1, "reason": "r"}),
        json!({"switch": {"kind": "shed", "class": "P3", "percent": 101}, "for_s": 1, "reason": "r"}),
        json!({"switch": {"kind": "stop", "service": "web"}, "for_s": -1, "reason": "r"}),
    ] {
        let (status, answer) = daemon.post("/v1/emergency", &body.to_string());
        assert_eq!(status, 400, "{body}: {answer}");
        let problem: Value = serde_json::from_str(&answer).unwrap();
        assert!(!problem["remedy"].as_str().unwrap().is_empty(), "{answer}");
    }
    let (status, _) =
        daemon.post("/v1/emergency/clear", &json!({"name": "stop:web", "reason": "r"}).to_string());
    assert_eq!(status, 404);
}

#[test]
fn guards_are_listed_and_shown() {
    let daemon = Daemon::start();
    let listed = daemon.stdout(&["guard", "list"]);
    let (mail, web) = (listed.find("mail").unwrap(), listed.find("web").unwrap());
    assert!(mail < web && listed.contains("all but 2 prefixes") && listed.contains("12.5 %"), "{listed}");
    let shown = daemon.stdout(&["guard", "show", "web"]);
    for text in [
        "1000/s, 100 at once",
        "10/s, 1 at once for each /24",
        "500 new flows/s",
        "source_denied",
        "stop:web",
    ] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    assert_eq!(daemon.weir(&["guard", "show", "nobody"]).status.code(), Some(5));
}
