//! TOML that is none, keys that are unknown, missing or of another type.

use crate::base::{refused, with};

#[test]
fn a_value_without_quotes() {
    refused(
        &with(&[("region = \"west\"", "region = west")]),
        "
error: this is no TOML: string values must be quoted, expected literal string
 --> weir.toml:3:10
  |
3 | region = west
  |          ^^^^
  = help: strings and addresses stand in quotes, each key on its own line: see https://toml.io/en/v1.0.0",
    );
}

#[test]
fn an_unclosed_string() {
    refused(
        &with(&[("name = \"edge-1\"", "name = \"edge-1")]),
        r#"
error: this is no TOML: invalid basic string, expected `"`
 --> weir.toml:2:15
  |
2 | name = "edge-1
  |               ^
  = help: strings and addresses stand in quotes, each key on its own line: see https://toml.io/en/v1.0.0"#,
    );
}

#[test]
fn a_key_twice() {
    refused(
        &with(&[("region = \"west\"", "region = \"west\"\nregion = \"east\"")]),
        r#"
error: "region" is there already
 --> weir.toml:4:1
  |
4 | region = "east"
  | ^^^^^^
 ::: weir.toml:3:1
  |
3 | region = "west"
  | ------ first written here
  = help: remove one, or write [[...]] with two pairs of brackets if the table repeats"#,
    );
}

#[test]
fn a_table_twice() {
    refused(
        &with(&[("[topology.east]", "[topology.west]")]),
        r#"
error: "west" is there already
  --> weir.toml:10:11
   |
10 | [topology.west]
   |           ^^^^
  ::: weir.toml:7:11
   |
 7 | [topology.west]
   |           ---- first written here
   = help: remove one, or write [[...]] with two pairs of brackets if the table repeats"#,
    );
}

#[test]
fn a_zone_twice() {
    refused(
        &with(&[("w2 = [\"r1\"]", "w1 = [\"r1\"]")]),
        r#"
error: "w1" is there already
 --> weir.toml:9:1
  |
9 | w1 = ["r1"]
  | ^^
 ::: weir.toml:8:1
  |
8 | w1 = ["r1", "r2"]
  | -- first written here
  = help: remove one, or write [[...]] with two pairs of brackets if the table repeats"#,
    );
}

#[test]
fn one_table_where_there_are_many() {
    refused(
        &with(&[("[[check]]", "[check]")]),
        r#"
error: "check" must be an array of tables, not a table
  --> weir.toml:14:1
   |
14 | [check]
   | ^^^^^^^
   = help: write [[check]], with two pairs of brackets, before each of them

error: set "web-w1" names check "heartbeat", which is not defined
  --> weir.toml:21:11
   |
21 | checks = ["heartbeat"]
   |           ^^^^^^^^^^^
   = help: there are no checks"#,
    );
}

#[test]
fn many_tables_where_there_is_one() {
    refused(
        &with(&[("[node]", "[[node]]")]),
        r#"
error: "node" must be one table, not an array
 --> weir.toml:1:1
  |
1 | [[node]]
  | ^^^^^^^^
  = help: write [node], with one pair of brackets"#,
    );
}

#[test]
fn an_unknown_table() {
    refused(
        &with(&[("[[check]]", "[[chekc]]"), ("checks = [\"heartbeat\"]", "checks = []")]),
        r#"
error: unknown key "chekc" in the file
  --> weir.toml:14:3
   |
14 | [[chekc]]
   |   ^^^^^
   = help: did you mean "check"? known keys: "node", "topology", "client_regions", "check", "set", "service", "relay", "recovery" and 1 more"#,
    );
}

#[test]
fn an_unknown_key() {
    refused(
        &with(&[("kind = \"heartbeat\"", "knid = \"heartbeat\"")]),
        r#"
error: [[check]] has no "kind"
  --> weir.toml:14:1
   |
14 | [[check]]
   | ^^^^^^^^^
   = help: add kind = "heartbeat", "tcp", "http", "bfd" or another

error: unknown key "knid" in [[check]]
  --> weir.toml:16:1
   |
16 | knid = "heartbeat"
   | ^^^^
   = help: did you mean "kind"? known keys: "name", "kind", "port", "interval", "timeout", "fall", "rise", "jitter" and 26 more"#,
    );
}

#[test]
fn an_unknown_key_that_is_like_no_other() {
    refused(
        &with(&[(
            "name = \"b1\"\nrack = \"west/w1/r1\"\naddress = \"10.1.1.11\"",
            "name = \"b1\"\nrack = \"west/w1/r1\"\naddress = \"10.1.1.11\"\ncolour = \"green\"",
        )]),
        r#"
error: unknown key "colour" in [[set.backend]]
  --> weir.toml:26:1
   |
26 | colour = "green"
   | ^^^^^^
   = help: known keys: "name", "rack", "address", "weight", "quic_server_id", "quic_rotation_id""#,
    );
}

#[test]
fn wrong_types() {
    refused(
        &with(&[
            ("port = 80", "port = \"80\""),
            ("interfaces = [\"eth0\"]", "interfaces = \"eth0\""),
            ("interval = \"3ms\"", "interval = 3"),
            ("name = \"b1\"", "name = 1"),
            ("west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]", "west = [1.5]"),
        ]),
        r#"
error: "interfaces" must be a list of strings, not a string
 --> weir.toml:4:14
  |
4 | interfaces = "eth0"
  |              ^^^^^^
  = help: write ["eth0"]

error: each element of "west" must be a string, not a floating-point number
  --> weir.toml:13:9
   |
13 | west = [1.5]
   |         ^^^

error: "interval" needs a unit
  --> weir.toml:17:12
   |
17 | interval = 3
   |            ^
   = help: write interval = "3ms" if milliseconds are meant; units are us, ms, s and m

error: "name" must be a string, not an integer
  --> weir.toml:23:8
   |
23 | name = 1
   |        ^
   = help: put it in quotes: "1"

error: "port" must be an integer, not a string
  --> weir.toml:40:8
   |
40 | port = "80"
   |        ^^^^
   = help: write it without quotes: 80"#,
    );
}

#[test]
fn a_value_of_another_type_is_not_called_missing() {
    refused(
        &with(&[
            ("tunnel_source_v4 = \"10.255.0.0/16\"", "tunnel_source_v4 = 10"),
            ("kind = \"heartbeat\"", "kind = \"tcp\"\nport = \"eighty\""),
            ("3ms", "1s"),
            ("protocol = \"tcp\"", "protocol = \"tcp\"\nplan = [\"west\"]"),
            ("[service.plan]\ndefault = [\"west\", \"east\"]\n", ""),
        ]),
        r#"
error: "tunnel_source_v4" must be a string, not an integer
 --> weir.toml:6:20
  |
6 | tunnel_source_v4 = 10
  |                    ^^
  = help: put it in quotes: "10"

error: "port" must be an integer, not a string
  --> weir.toml:17:8
   |
17 | port = "eighty"
   |        ^^^^^^^^

error: "plan" must be one table, not an array
  --> weir.toml:43:8
   |
43 | plan = ["west"]
   |        ^^^^^^^^"#,
    );
}

#[test]
fn missing_keys_of_all_tables() {
    refused(
        &with(&[
            ("name = \"edge-1\"\nregion = \"west\"\ninterfaces = [\"eth0\"]\n", ""),
            ("kind = \"heartbeat\"\n", ""),
            ("domain = \"west/w1\"\n", ""),
            ("name = \"b1\"\n", ""),
            ("port = 80\n", ""),
            ("sets = [\"web-w1\"]\n", ""),
        ]),
        r#"
error: [node] has no "name"
 --> weir.toml:1:1
  |
1 | [node]
  | ^^^^^^
  = help: add name = "edge-1": how events and status call this host

error: [node] has no "region"
 --> weir.toml:1:1
  |
1 | [node]
  | ^^^^^^
  = help: add region = "...": the region this host stands in

error: [node] has no "interfaces"
 --> weir.toml:1:1
  |
1 | [node]
  | ^^^^^^
  = help: add interfaces = ["eth0"]: where packets for the services arrive

error: [[check]] has no "kind"
  --> weir.toml:11:1
   |
11 | [[check]]
   | ^^^^^^^^^
   = help: add kind = "heartbeat", "tcp", "http", "bfd" or another

error: [[set]] has no "domain"
  --> weir.toml:14:1
   |
14 | [[set]]
   | ^^^^^^^
   = help: add domain = "REGION/ZONE": the domain that holds all backends of the set

error: [[set.backend]] has no "name"
  --> weir.toml:17:1
   |
17 | [[set.backend]]
   | ^^^^^^^^^^^^^^^
   = help: add name = "...", unique over the whole file

error: [[service]] has no "port"
  --> weir.toml:31:1
   |
31 | [[service]]
   | ^^^^^^^^^^^
   = help: add port = 80, 1 to 65535

error: [[service.pool]] has no "sets"
  --> weir.toml:35:1
   |
35 | [[service.pool]]
   | ^^^^^^^^^^^^^^^^
   = help: add sets = ["..."]: the sets whose backends it has"#,
    );
}

#[test]
fn a_region_that_is_no_table() {
    refused(
        &with(&[
            ("[topology.east]\ne1 = [\"r1\"]\n", ""),
            ("[topology.west]", "[topology]\neast = \"e1\"\n[topology.west]"),
            ("name = \"web-e1\"\ndomain = \"east/e1\"", "name = \"web-e1\"\ndomain = \"west\""),
            ("rack = \"east/e1/r1\"", "rack = \"west/w2/r1\""),
        ]),
        r#"
error: region "east" must be a table of zones
 --> weir.toml:8:8
  |
8 | east = "e1"
  |        ^^^^
  = help: write [topology.REGION] and below it one line per zone, such as z1 = ["r1", "r2"]"#,
    );
}

#[test]
fn a_number_beyond_64_bits() {
    refused(
        &with(&[("port = 80", "port = 99999999999999999999")]),
        r#"
error: "port" does not fit into 64 bits
  --> weir.toml:40:8
   |
40 | port = 99999999999999999999
   |        ^^^^^^^^^^^^^^^^^^^^"#,
    );
}
