//! `[node]` and the topology.

use crate::base::{accepted, errors, refused, with};

#[test]
fn a_name_with_a_space() {
    refused(
        &with(&[("name = \"edge-1\"", "name = \"edge 1\"")]),
        r#"
error: "edge 1" is no name for a node
 --> weir.toml:2:8
  |
2 | name = "edge 1"
  |        ^^^^^^^^
  = help: a name begins with a letter or digit and goes on with letters, digits, "-", "_" and "." (ASCII)"#,
    );
}

#[test]
fn a_name_that_is_too_long() {
    refused(
        &with(&[(
            "name = \"edge-1\"",
            "name = \"eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee\"",
        )]),
        r#"
error: the name of this node is 64 bytes long
 --> weir.toml:2:8
  |
2 | name = "****************************************************************"
  |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: MAX_NAME_BYTES is 63"#,
    );
}

#[test]
fn a_region_that_is_unknown() {
    refused(
        &with(&[("region = \"west\"", "region = \"wset\"")]),
        r#"
error: [node] names region "wset", which the topology does not have
 --> weir.toml:3:10
  |
3 | region = "wset"
  |          ^^^^^^
  = help: did you mean "west"? known regions: "east", "west""#,
    );
}

#[test]
fn a_zone_that_is_unknown() {
    refused(
        &with(&[("region = \"west\"", "region = \"west\"\nzone = \"w1\"")]),
        r#"
error: [node] names zone "w1", which the topology does not have
 --> weir.toml:4:8
  |
4 | zone = "w1"
  |        ^^^^
  = help: did you mean "west/w1"? known zones: "east/e1", "west/w1", "west/w2""#,
    );
}

#[test]
fn a_zone_of_another_region() {
    refused(
        &with(&[("region = \"west\"", "region = \"west\"\nzone = \"east/e1\"")]),
        r#"
error: zone "east/e1" of [node] lies outside its region
 --> weir.toml:4:8
  |
4 | zone = "east/e1"
  |        ^^^^^^^^^
 ::: weir.toml:3:10
  |
3 | region = "west"
  |          ------ the node's region
  = help: the host stands in one place: correct the region or the zone"#,
    );
}

#[test]
fn a_rack_as_zone() {
    refused(
        &with(&[("region = \"west\"", "region = \"west\"\nzone = \"west/w1/r1\"")]),
        r#"
error: [node] names "west/w1/r1" as its zone, but that is a rack
 --> weir.toml:4:8
  |
4 | zone = "west/w1/r1"
  |        ^^^^^^^^^^^^
  = help: did you mean "west/w1"? known zones: "east/e1", "west/w1", "west/w2""#,
    );
}

#[test]
fn no_interface() {
    refused(
        &with(&[("[\"eth0\"]", "[]")]),
        "
error: [node] has 0 interfaces
 --> weir.toml:4:14
  |
4 | interfaces = []
  |              ^^
  = help: name 1 to 8 (MAX_INTERFACES)",
    );
}

#[test]
fn too_many_interfaces() {
    refused(
        &with(&[("[\"eth0\"]", "[\"e0\", \"e1\", \"e2\", \"e3\", \"e4\", \"e5\", \"e6\", \"e7\", \"e8\"]")]),
        r#"
error: [node] has 9 interfaces
 --> weir.toml:4:14
  |
4 | interfaces = ["e0", "e1", "e2", "e3", "e4", "e5", "e6", "e7", "e8"]
  |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: name 1 to 8 (MAX_INTERFACES)"#,
    );
}

#[test]
fn interfaces_that_cannot_be() {
    refused(
        &with(&[("[\"eth0\"]", "[\"eth0\", \"\", \"eth/0\", \"averylonginterface\"]")]),
        r#"
error: "" is no name for an interface
 --> weir.toml:4:23
  |
4 | interfaces = ["eth0", "", "eth/0", "averylonginterface"]
  |                       ^^
  = help: names have 1 to 15 bytes without white space, "/" and ":"; `ip link` lists them

error: "eth/0" is no name for an interface
 --> weir.toml:4:27
  |
4 | interfaces = ["eth0", "", "eth/0", "averylonginterface"]
  |                           ^^^^^^^
  = help: names have 1 to 15 bytes without white space, "/" and ":"; `ip link` lists them

error: "averylonginterface" is no name for an interface
 --> weir.toml:4:36
  |
4 | interfaces = ["eth0", "", "eth/0", "averylonginterface"]
  |                                    ^^^^^^^^^^^^^^^^^^^^
  = help: names have 1 to 15 bytes without white space, "/" and ":"; `ip link` lists them"#,
    );
}

#[test]
fn an_interface_twice() {
    refused(
        &with(&[("[\"eth0\"]", "[\"eth0\", \"eth1\", \"eth0\"]")]),
        r#"
error: interface "eth0" is listed twice
 --> weir.toml:4:31
  |
4 | interfaces = ["eth0", "eth1", "eth0"]
  |                               ^^^^^^
 ::: weir.toml:4:15
  |
4 | interfaces = ["eth0", "eth1", "eth0"]
  |               ------ first listed here
  = help: remove one"#,
    );
}

#[test]
fn a_mode_that_is_unknown() {
    refused(
        &with(&[("[\"eth0\"]", "[\"eth0\"]\nmode = \"genric\"")]),
        r#"
error: mode of [node] cannot be "genric"
 --> weir.toml:5:8
  |
5 | mode = "genric"
  |        ^^^^^^^^
  = help: did you mean "generic"? known values: "native", "generic""#,
    );
}

#[test]
fn no_key() {
    refused(
        &with(&[("hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\n", "")]),
        r#"
error: [node] has no "hash_key"
 --> weir.toml:1:1
  |
1 | [node]
  | ^^^^^^
  = help: add hash_key = "..." or hash_key_file = "/etc/weir/hash.key": 64 hexadecimal digits, secret and the same on all hosts; `openssl rand -hex 32` makes one"#,
    );
}

#[test]
fn two_keys() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\nhash_key_file = \"/etc/weir/hash.key\"",
        )]),
        r#"
error: [node] has both hash_key and hash_key_file
 --> weir.toml:6:17
  |
6 | hash_key_file = "/etc/weir/hash.key"
  |                 ^^^^^^^^^^^^^^^^^^^^
 ::: weir.toml:5:12
  |
5 | hash_key = "****************************************************************"
  |            ------------------------------------------------------------------ the other one
  = help: keep one: the file, if others may read this one"#,
    );
}

#[test]
fn a_key_that_is_too_short() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"0011\"",
        )]),
        r#"
error: hash_key has 4 hexadecimal digits instead of 64
 --> weir.toml:5:12
  |
5 | hash_key = "0011"
  |            ^^^^^^
  = help: it is 64 hexadecimal digits (32 bytes); `openssl rand -hex 32` makes one"#,
    );
}

#[test]
fn a_key_that_is_not_hexadecimal() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeefg\"",
        )]),
        r#"
error: hash_key has a character at position 64 that is no hexadecimal digit
 --> weir.toml:5:12
  |
5 | hash_key = "***************************************************************g"
  |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: it is 64 hexadecimal digits (32 bytes); `openssl rand -hex 32` makes one"#,
    );
}

#[test]
fn a_key_without_quotes() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = 1000000000000000000000000000000000000000000000000000000000000000",
        )]),
        r#"
error: "hash_key" must be a string, not an integer
 --> weir.toml:5:12
  |
5 | hash_key = ****************************************************************
  |            ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^"#,
    );
}

#[test]
fn a_key_with_an_open_quote() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff",
        )]),
        r#"
error: this is no TOML: invalid basic string, expected `"`
 --> weir.toml:5:77
  |
5 | hash_key = "****************************************************************
  |                                                                             ^
  = help: strings and addresses stand in quotes, each key on its own line: see https://toml.io/en/v1.0.0"#,
    );
}

#[test]
fn a_key_under_another_name() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hashkey = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
        )]),
        r#"
error: [node] has no "hash_key"
 --> weir.toml:1:1
  |
1 | [node]
  | ^^^^^^
  = help: add hash_key = "..." or hash_key_file = "/etc/weir/hash.key": 64 hexadecimal digits, secret and the same on all hosts; `openssl rand -hex 32` makes one

error: unknown key "hashkey" in [node]
 --> weir.toml:5:1
  |
5 | hashkey = "****************************************************************"
  | ^^^^^^^
  = help: did you mean "hash_key"? known keys: "name", "region", "zone", "interfaces", "mode", "hash_key", "hash_key_file", "tunnel_source_v4" and 19 more"#,
    );
}

#[test]
fn a_key_file_that_is_relative() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key_file = \"hash.key\"",
        )]),
        r#"
error: hash_key_file "hash.key" is no absolute path
 --> weir.toml:5:17
  |
5 | hash_key_file = "hash.key"
  |                 ^^^^^^^^^^
  = help: begin it with "/": the daemon's working directory is not yours"#,
    );
}

#[test]
fn paths_that_are_relative() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\nstate_dir = \"state\"\nsocket = \"weir.sock\"\nbpffs = \"\"",
        )]),
        r#"
error: state_dir "state" is no absolute path
 --> weir.toml:6:13
  |
6 | state_dir = "state"
  |             ^^^^^^^
  = help: begin it with "/": the daemon's working directory is not yours

error: socket "weir.sock" is no absolute path
 --> weir.toml:7:10
  |
7 | socket = "weir.sock"
  |          ^^^^^^^^^^^
  = help: begin it with "/": the daemon's working directory is not yours

error: bpffs "" is no absolute path
 --> weir.toml:8:9
  |
8 | bpffs = ""
  |         ^^
  = help: begin it with "/": the daemon's working directory is not yours"#,
    );
}

#[test]
fn a_socket_path_that_is_too_long() {
    refused(
        &with(&[(
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"",
            "hash_key = \"00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\"\nsocket = \"/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss\"",
        )]),
        r#"
error: the path of the socket is 108 bytes long
 --> weir.toml:6:10
  |
6 | socket = "/sssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssssss…
  |          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
  = help: unix sockets allow 107; choose a shorter one"#,
    );
}

#[test]
fn a_rack_twice() {
    refused(
        &with(&[("w1 = [\"r1\", \"r2\"]", "w1 = [\"r1\", \"r2\", \"r1\"]")]),
        r#"
error: rack "west/w1/r1" is defined twice
 --> weir.toml:8:19
  |
8 | w1 = ["r1", "r2", "r1"]
  |                   ^^^^
 ::: weir.toml:8:7
  |
8 | w1 = ["r1", "r2", "r1"]
  |       ---- first defined here
  = help: give one of them another name, or remove it"#,
    );
}

#[test]
fn domains_with_bad_names() {
    refused(
        &with(&[("w2 = [\"r1\"]", "w2 = [\"r/1\"]\n\"w 3\" = []")]),
        r#"
error: "r/1" is no name for a rack
 --> weir.toml:9:7
  |
9 | w2 = ["r/1"]
  |       ^^^^^
  = help: a name begins with a letter or digit and goes on with letters, digits, "-", "_" and "." (ASCII)

error: "w 3" is no name for a zone
  --> weir.toml:10:1
   |
10 | "w 3" = []
   | ^^^^^
   = help: a name begins with a letter or digit and goes on with letters, digits, "-", "_" and "." (ASCII)"#,
    );
}

#[test]
fn answers_out_of_range() {
    for value in ["0", "10000001", "-1"] {
        let shown = errors(&with(&[(
            "region = \"west\"",
            &format!("region = \"west\"\nanswers_per_second = {value}"),
        )]));
        let expected =
            format!("error: answers_per_second = {value} of [node] is out of range\n --> weir.toml:4:22");
        let shown = shown.to_string();
        assert!(shown.contains(&expected) && shown.contains("from 1 to 10000000"), "{shown}");
    }
}

#[test]
fn what_is_remembered_grows_with_the_cpus_unless_the_file_says() {
    let node =
        |lines: &str| accepted(&with(&[("region = \"west\"", &format!("region = \"west\"\n{lines}"))])).node;
    let plain = node("");
    assert_eq!(plain.answers_per_second, 1_000);
    assert_eq!(plain.entries(1), (16_384, 32_768));
    assert_eq!(plain.entries(64), (1 << 20, 2 << 20));
    assert_eq!(plain.entries(u32::MAX), (16 << 20, 16 << 20), "bounded");
    let said = node("flow_entries = 2048\nanswers_per_second = 7");
    assert_eq!((said.entries(64), said.answers_per_second), ((2048, 2 << 20), 7));
}

#[test]
fn routes_that_would_go_and_not_come_back() {
    let name = "name = \"edge-1\"";
    let one = "withdraw_command = [\"/bin/true\"]";
    refused(
        &with(&[(name, &format!("{name}\n{one}"))]),
        r#"
error: withdraw_command and announce_command go together
 --> weir.toml:3:20
  |
3 | withdraw_command = ["/bin/true"]
  |                    ^^^^^^^^^^^^^
  = help: give both: what withdraws the routes, and what brings them back, such as ["/usr/sbin/birdc", "enable", "vips"]"#,
    );
    let shown =
        errors(&with(&[(name, &format!("{name}\n{one}\nannounce_command = [\"true\"]"))])).to_string();
    assert!(shown.contains("announce_command \"true\" of [node] is no absolute path"), "{shown}");
    accepted(&with(&[(name, &format!("{name}\n{one}\nannounce_command = [\"/bin/true\", \"x\"]"))]));
}
