//! Client regions and checks.

use crate::base::{refused, with};

#[test]
fn a_client_region_called_default() {
    refused(
        &with(&[(
            "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]",
            "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]\ndefault = [\"203.0.113.0/24\"]",
        )]),
        r#"
error: the client region "default" cannot have prefixes
  --> weir.toml:14:1
   |
14 | default = ["203.0.113.0/24"]
   | ^^^^^^^
   = help: it is where every client belongs that no prefix holds; remove it or name it otherwise"#,
    );
}

#[test]
fn prefixes_that_are_none() {
    refused(
        &with(&[(
            "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]",
            "west = [\"198.51.100.0\", \"198.51.100.0/33\", \"2001:db8::/129\", \"west/24\", \"198.51.100.0/\"]",
        )]),
        r#"
error: prefix "198.51.100.0" is no address with a length
  --> weir.toml:13:9
   |
13 | west = ["198.51.100.0", "198.51.100.0/33", "2001:db8::/129", "west/24", "198.51.100.0/"]
   |         ^^^^^^^^^^^^^^
   = help: write "198.51.100.0/24" or "2001:db8:a::/48"; a single host is /32 or /128

error: prefix "198.51.100.0/33" is longer than its address
  --> weir.toml:13:25
   |
13 | west = ["198.51.100.0", "198.51.100.0/33", "2001:db8::/129", "west/24", "198.51.100.0/"]
   |                         ^^^^^^^^^^^^^^^^^
   = help: the length goes from 0 to 32

error: prefix "2001:db8::/129" is longer than its address
  --> weir.toml:13:44
   |
13 | west = ["198.51.100.0", "198.51.100.0/33", "2001:db8::/129", "west/24", "198.51.100.0/"]
   |                                            ^^^^^^^^^^^^^^^^
   = help: the length goes from 0 to 128

error: prefix "west/24" is no address with a length
  --> weir.toml:13:62
   |
13 | west = ["198.51.100.0", "198.51.100.0/33", "2001:db8::/129", "west/24", "198.51.100.0/"]
   |                                                              ^^^^^^^^^
   = help: write "198.51.100.0/24" or "2001:db8:a::/48"; a single host is /32 or /128

error: prefix "198.51.100.0/" is no address with a length
  --> weir.toml:13:73
   |
13 | west = ["198.51.100.0", "198.51.100.0/33", "2001:db8::/129", "west/24", "198.51.100.0/"]
   |                                                                         ^^^^^^^^^^^^^^^
   = help: write "198.51.100.0/24" or "2001:db8:a::/48"; a single host is /32 or /128"#,
    );
}

#[test]
fn a_prefix_with_host_bits() {
    refused(
        &with(&[(
            "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]",
            "west = [\"198.51.100.7/24\", \"2001:db8:a::1/48\"]",
        )]),
        r#"
error: prefix "198.51.100.7/24" has bits set beyond its length
  --> weir.toml:13:9
   |
13 | west = ["198.51.100.7/24", "2001:db8:a::1/48"]
   |         ^^^^^^^^^^^^^^^^^
   = help: write "198.51.100.0/24"

error: prefix "2001:db8:a::1/48" has bits set beyond its length
  --> weir.toml:13:28
   |
13 | west = ["198.51.100.7/24", "2001:db8:a::1/48"]
   |                            ^^^^^^^^^^^^^^^^^^
   = help: write "2001:db8:a::/48""#,
    );
}

#[test]
fn a_prefix_twice() {
    refused(
        &with(&[(
            "west = [\"198.51.100.0/24\", \"2001:db8:a::/48\"]",
            "west = [\"198.51.100.0/24\"]\nnorth = [\"198.51.100.0/24\"]",
        )]),
        r#"
error: prefix 198.51.100.0/24 is listed twice
  --> weir.toml:14:10
   |
14 | north = ["198.51.100.0/24"]
   |          ^^^^^^^^^^^^^^^^^
  ::: weir.toml:13:9
   |
13 | west = ["198.51.100.0/24"]
   |         ----------------- first listed here
   = help: remove one; a prefix inside a longer or shorter one is fine, the longest match wins"#,
    );
}

#[test]
fn a_check_twice() {
    refused(
        &with(&[(
            "[[check]]\nname = \"heartbeat\"\nkind = \"heartbeat\"\ninterval = \"3ms\"",
            "[[check]]\nname = \"heartbeat\"\nkind = \"heartbeat\"\ninterval = \"3ms\"\n[[check]]\nname = \"heartbeat\"\nkind = \"heartbeat\"\ninterval = \"3ms\"",
        )]),
        r#"
error: check "heartbeat" is defined twice
  --> weir.toml:19:8
   |
19 | name = "heartbeat"
   |        ^^^^^^^^^^^
  ::: weir.toml:15:8
   |
15 | name = "heartbeat"
   |        ----------- first defined here
   = help: give one of them another name, or remove it"#,
    );
}

#[test]
fn a_kind_that_is_unknown() {
    refused(
        &with(&[("kind = \"heartbeat\"", "kind = \"htp\"")]),
        r#"
error: kind of check "heartbeat" cannot be "htp"
  --> weir.toml:16:8
   |
16 | kind = "htp"
   |        ^^^^^
   = help: did you mean "http"? known values: "heartbeat", "tcp", "http", "https", "udp", "dns", "icmp", "exec" and 1 more"#,
    );
}

#[test]
fn a_tcp_check_without_a_port() {
    refused(
        &with(&[("kind = \"heartbeat\"", "kind = \"tcp\""), ("3ms", "1s")]),
        r#"
error: check "heartbeat" has no "port"
  --> weir.toml:14:1
   |
14 | [[check]]
   | ^^^^^^^^^
   = help: add port = 80: the TCP port to connect to"#,
    );
}

#[test]
fn a_check_with_port_0() {
    refused(
        &with(&[("interval = \"3ms\"", "interval = \"3ms\"\nport = 0")]),
        r#"
error: port 0 of check "heartbeat" is out of range
  --> weir.toml:18:8
   |
18 | port = 0
   |        ^
   = help: ports go from 1 to 65535"#,
    );
}

#[test]
fn a_duration_that_is_none() {
    refused(
        &with(&[("interval = \"3ms\"", "interval = \"3 ms\"")]),
        r#"
error: interval "3 ms" of check "heartbeat" is no duration
  --> weir.toml:17:12
   |
17 | interval = "3 ms"
   |            ^^^^^^
   = help: write a whole number and a unit (us, ms, s or m), such as "250us", "3ms" or "1s""#,
    );
}

#[test]
fn a_heartbeat_that_is_too_fast() {
    refused(
        &with(&[("interval = \"3ms\"", "interval = \"999us\"")]),
        r#"
error: interval "999us" of check "heartbeat" is out of range
  --> weir.toml:17:12
   |
17 | interval = "999us"
   |            ^^^^^^^
   = help: it goes from 1ms to 60s for a check of this kind"#,
    );
}

#[test]
fn a_tcp_check_that_is_too_fast() {
    refused(
        &with(&[(
            "kind = \"heartbeat\"\ninterval = \"3ms\"",
            "kind = \"tcp\"\nport = 80\ninterval = \"9ms\"",
        )]),
        r#"
error: interval "9ms" of check "heartbeat" is out of range
  --> weir.toml:18:12
   |
18 | interval = "9ms"
   |            ^^^^^
   = help: it goes from 10ms to 60s for a check of this kind"#,
    );
}

#[test]
fn a_check_that_is_too_slow() {
    refused(
        &with(&[("interval = \"3ms\"", "interval = \"2m\"\ntimeout = \"0s\"")]),
        r#"
error: interval "2m" of check "heartbeat" is out of range
  --> weir.toml:17:12
   |
17 | interval = "2m"
   |            ^^^^
   = help: it goes from 1ms to 60s for a check of this kind

error: timeout "0s" of check "heartbeat" is out of range
  --> weir.toml:18:11
   |
18 | timeout = "0s"
   |           ^^^^
   = help: it goes from 1µs to 60s for a check of this kind"#,
    );
}

#[test]
fn fall_and_rise_out_of_range() {
    refused(
        &with(&[("interval = \"3ms\"", "interval = \"3ms\"\nfall = 0\nrise = 101")]),
        r#"
error: fall = 0 of check "heartbeat" is out of range
  --> weir.toml:18:8
   |
18 | fall = 0
   |        ^
   = help: it counts consecutive probes, 1 to 100

error: rise = 101 of check "heartbeat" is out of range
  --> weir.toml:19:8
   |
19 | rise = 101
   |        ^^^
   = help: it counts consecutive probes, 1 to 100"#,
    );
}
