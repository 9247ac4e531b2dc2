//! Plans and simulations over API and command line.

use serde_json::{Value, json};

use crate::fake::Daemon;

#[test]
fn plans_are_listed_shown_and_asked_for_by_client() {
    let daemon = Daemon::start();
    let listed = daemon.stdout(&["plan", "list"]);
    for text in ["zone-affine", "west, east", "75.0 %", "30.0 %"] {
        assert!(listed.contains(text), "{text}: {listed}");
    }
    let shown = daemon.stdout(&["plan", "show", "web", "--client", "198.51.100.0/24"]);
    for text in ["rho = 0.7", "below 50 % healthy", "west, east", "900", "70.0 %", "- 50 % of pool west"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let (status, answer) = daemon.get("/v1/plans/web");
    assert_eq!(status, 200, "{answer}");
    let answer: Value = serde_json::from_str(&answer).unwrap();
    assert_eq!(answer[0]["pools"][0]["pool"], "west");
    // A service may have the name of a verb.
    assert_eq!(daemon.get("/v1/plans/simulate").0, 200);
    assert_eq!(daemon.weir(&["plan", "show", "nobody"]).status.code(), Some(5));
    assert_eq!(daemon.weir(&["plan", "show", "web", "--client", "mars"]).status.code(), Some(2));
}

#[test]
fn a_simulation_says_what_would_be() {
    let daemon = Daemon::start();
    let shown = daemon.stdout(&["plan", "simulate", "--fail", "zone=west/w1", "--load", "1.5"]);
    for text in ["35.0 %", "EXCEEDED", "225", "300.5"] {
        assert!(shown.contains(text), "{text}: {shown}");
    }
    let json = daemon.stdout(&["plan", "simulate", "--fail", "zone=west/w1", "--load", "1.5", "-o", "json"]);
    let answer: Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&answer["load"], &answer["fail"]), (&json!(1.5), &json!(["zone=west/w1"])));
    assert_eq!(daemon.post("/v1/plans/simulate", "{}").0, 200);
    for body in [r#"{"loda": 2}"#, r#"{"fail": "zone=west"}"#] {
        assert_eq!(daemon.post("/v1/plans/simulate", body).0, 400, "{body}");
    }
    assert_eq!(daemon.weir(&["plan", "simulate", "--load", "-1"]).status.code(), Some(2));
}
