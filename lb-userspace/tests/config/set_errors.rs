//! Sets and backends.

use crate::base::{refused, with};

#[test]
fn a_set_twice() {
    refused(
        &with(&[("name = \"web-e1\"", "name = \"web-w1\"")]),
        r#"
error: set "web-w1" is defined twice
  --> weir.toml:31:8
   |
31 | name = "web-w1"
   |        ^^^^^^^^
  ::: weir.toml:19:8
   |
19 | name = "web-w1"
   |        -------- first defined here
   = help: give one of them another name, or remove it

error: pool "east" of service "web" names set "web-e1", which is not defined
  --> weir.toml:47:9
   |
47 | sets = ["web-e1"]
   |         ^^^^^^^^
   = help: did you mean "web-w1"? known sets: "web-w1""#,
    );
}

#[test]
fn a_set_in_an_unknown_domain() {
    refused(
        &with(&[("domain = \"west/w1\"", "domain = \"west/w9\"")]),
        r#"
error: set "web-w1" names domain "west/w9", which the topology does not have
  --> weir.toml:20:10
   |
20 | domain = "west/w9"
   |          ^^^^^^^^^
   = help: did you mean "west/w1"? known domains: "east", "east/e1", "east/e1/r1", "west", "west/w1", "west/w1/r1", "west/w1/r2", "west/w2" and 1 more"#,
    );
}

#[test]
fn a_check_that_is_unknown() {
    refused(
        &with(&[("checks = [\"heartbeat\"]", "checks = [\"hearbeat\"]")]),
        r#"
error: set "web-w1" names check "hearbeat", which is not defined
  --> weir.toml:21:11
   |
21 | checks = ["hearbeat"]
   |           ^^^^^^^^^^
   = help: did you mean "heartbeat"? known checks: "heartbeat""#,
    );
}

#[test]
fn a_check_listed_twice() {
    refused(
        &with(&[("checks = [\"heartbeat\"]", "checks = [\"heartbeat\", \"heartbeat\"]")]),
        r#"
error: set "web-w1" lists check "heartbeat" twice
  --> weir.toml:21:24
   |
21 | checks = ["heartbeat", "heartbeat"]
   |                        ^^^^^^^^^^^
  ::: weir.toml:21:11
   |
21 | checks = ["heartbeat", "heartbeat"]
   |           ----------- first listed here
   = help: remove one"#,
    );
}

#[test]
fn a_set_without_backends() {
    refused(
        &with(&[("[[set.backend]]\nname = \"b3\"\nrack = \"east/e1/r1\"\naddress = \"10.9.1.13\"\n", "")]),
        r#"
error: set "web-e1" has no backends
  --> weir.toml:30:1
   |
30 | [[set]]
   | ^^^^^^^
   = help: add a [[set.backend]] below it, or remove the set"#,
    );
}

#[test]
fn a_backend_twice() {
    refused(
        &with(&[("name = \"b3\"", "name = \"b1\"")]),
        r#"
error: backend "b1" is defined twice
  --> weir.toml:34:8
   |
34 | name = "b1"
   |        ^^^^
  ::: weir.toml:23:8
   |
23 | name = "b1"
   |        ---- first defined here
   = help: give one of them another name, or remove it"#,
    );
}

#[test]
fn a_backend_without_a_rack() {
    refused(
        &with(&[("rack = \"west/w1/r1\"\n", "")]),
        r#"
error: [[set.backend]] has no "rack"
  --> weir.toml:22:1
   |
22 | [[set.backend]]
   | ^^^^^^^^^^^^^^^
   = help: add rack = "REGION/ZONE/RACK": a backend stands in one rack"#,
    );
}

#[test]
fn a_backend_in_an_unknown_rack() {
    refused(
        &with(&[("rack = \"west/w1/r1\"", "rack = \"west/w1/r9\"")]),
        r#"
error: backend "b1" names rack "west/w1/r9", which the topology does not have
  --> weir.toml:24:8
   |
24 | rack = "west/w1/r9"
   |        ^^^^^^^^^^^^
   = help: did you mean "west/w1/r1"? known racks: "east/e1/r1", "west/w1/r1", "west/w1/r2", "west/w2/r1""#,
    );
}

#[test]
fn a_backend_in_a_zone() {
    refused(
        &with(&[("rack = \"west/w1/r1\"", "rack = \"west/w1\"")]),
        r#"
error: backend "b1" names "west/w1" as its rack, but that is a zone
  --> weir.toml:24:8
   |
24 | rack = "west/w1"
   |        ^^^^^^^^^
   = help: known racks in "west/w1": "west/w1/r1", "west/w1/r2""#,
    );
}

#[test]
fn a_backend_outside_its_sets_domain() {
    refused(
        &with(&[("rack = \"west/w1/r1\"", "rack = \"west/w2/r1\"")]),
        r#"
error: rack "west/w2/r1" of backend "b1" lies outside its set's domain
  --> weir.toml:24:8
   |
24 | rack = "west/w2/r1"
   |        ^^^^^^^^^^^^
  ::: weir.toml:20:10
   |
20 | domain = "west/w1"
   |          --------- the set's domain
   = help: move the backend to a set of its own domain, or give the set a domain that holds both (now "west/w1")"#,
    );
}

#[test]
fn a_backend_of_weight_0() {
    refused(
        &with(&[("rack = \"west/w1/r1\"", "rack = \"west/w1/r1\"\nweight = 0")]),
        r#"
error: weight 0 of backend "b1" is out of range
  --> weir.toml:25:10
   |
25 | weight = 0
   |          ^
   = help: to take it out of service use `weir backend drain`, which leaves its connections alone"#,
    );
}

#[test]
fn a_backend_that_is_too_heavy() {
    refused(
        &with(&[("rack = \"west/w1/r1\"", "rack = \"west/w1/r1\"\nweight = 65536")]),
        r#"
error: weight 65536 of backend "b1" is out of range
  --> weir.toml:25:10
   |
25 | weight = 65536
   |          ^^^^^
   = help: weights are relative to the pool's other members and go from 1 to 65535"#,
    );
}
