//! Services, pools and plans.

use crate::base::{refused, with};

#[test]
fn a_service_twice() {
    refused(
        &with(&[(
            "[service.plan]\ndefault = [\"west\", \"east\"]\n",
            "[service.plan]\ndefault = [\"west\", \"east\"]\n[[service]]\nname = \"web\"\naddress = \"192.0.2.10\"\nport = 81\nprotocol = \"tcp\"\n[[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\n",
        )]),
        r#"
error: service "web" is defined twice
  --> weir.toml:51:8
   |
51 | name = "web"
   |        ^^^^^
  ::: weir.toml:38:8
   |
38 | name = "web"
   |        ----- first defined here
   = help: give one of them another name, or remove it"#,
    );
}

#[test]
fn a_port_out_of_range() {
    refused(
        &with(&[("port = 80", "port = 65536")]),
        r#"
error: port 65536 of service "web" is out of range
  --> weir.toml:40:8
   |
40 | port = 65536
   |        ^^^^^
   = help: ports go from 1 to 65535"#,
    );
}

#[test]
fn words_that_are_unknown() {
    refused(
        &with(&[("protocol = \"tcp\"", "protocol = \"TCP\"\non_all_down = \"failopen\"")]),
        r#"
error: protocol of service "web" cannot be "TCP"
  --> weir.toml:41:12
   |
41 | protocol = "TCP"
   |            ^^^^^
   = help: did you mean "tcp"? known values: "tcp", "udp", "sctp"

error: on_all_down of service "web" cannot be "failopen"
  --> weir.toml:42:15
   |
42 | on_all_down = "failopen"
   |               ^^^^^^^^^^
   = help: did you mean "fail-open"? known values: "drop", "fail-open""#,
    );
}

#[test]
fn a_service_without_pools() {
    refused(
        &with(&[(
            "[[service.pool]]\nname = \"west\"\nsets = [\"web-w1\"]\n[[service.pool]]\nname = \"east\"\nsets = [\"web-e1\"]\n[service.plan]\ndefault = [\"west\", \"east\"]\n",
            "",
        )]),
        r#"
error: service "web" has no pools
  --> weir.toml:37:1
   |
37 | [[service]]
   | ^^^^^^^^^^^
   = help: add a [[service.pool]] below it with name and sets"#,
    );
}

#[test]
fn a_pool_twice() {
    refused(
        &with(&[("name = \"east\"", "name = \"west\"")]),
        r#"
error: pool "west" is defined twice
  --> weir.toml:46:8
   |
46 | name = "west"
   |        ^^^^^^
  ::: weir.toml:43:8
   |
43 | name = "west"
   |        ------ first defined here
   = help: give one of them another name, or remove it

error: plan "default" of service "web" names pool "east", which is not defined
  --> weir.toml:49:20
   |
49 | default = ["west", "east"]
   |                    ^^^^^^
   = help: known pools: "west""#,
    );
}

#[test]
fn a_pool_without_sets() {
    refused(
        &with(&[("sets = [\"web-w1\"]", "sets = []")]),
        r#"
error: pool "west" of service "web" has no sets
  --> weir.toml:44:8
   |
44 | sets = []
   |        ^^
   = help: name at least one set, or remove the pool"#,
    );
}

#[test]
fn a_set_that_is_unknown() {
    refused(
        &with(&[("sets = [\"web-w1\"]", "sets = [\"web-w7\"]")]),
        r#"
error: pool "west" of service "web" names set "web-w7", which is not defined
  --> weir.toml:44:9
   |
44 | sets = ["web-w7"]
   |         ^^^^^^^^
   = help: did you mean "web-w1"? known sets: "web-e1", "web-w1""#,
    );
}

#[test]
fn a_set_twice_in_a_pool() {
    refused(
        &with(&[("sets = [\"web-w1\"]", "sets = [\"web-w1\", \"web-w1\"]")]),
        r#"
error: service "web" lists set "web-w1" twice
  --> weir.toml:44:19
   |
44 | sets = ["web-w1", "web-w1"]
   |                   ^^^^^^^^
  ::: weir.toml:44:9
   |
44 | sets = ["web-w1", "web-w1"]
   |         -------- first listed here
   = help: remove one: within a service a set belongs to one pool"#,
    );
}

#[test]
fn a_set_in_two_pools() {
    refused(
        &with(&[("sets = [\"web-e1\"]", "sets = [\"web-e1\", \"web-w1\"]")]),
        r#"
error: service "web" lists set "web-w1" twice
  --> weir.toml:47:19
   |
47 | sets = ["web-e1", "web-w1"]
   |                   ^^^^^^^^
  ::: weir.toml:44:9
   |
44 | sets = ["web-w1"]
   |         -------- first listed here
   = help: remove one: within a service a set belongs to one pool"#,
    );
}

#[test]
fn a_table_size_that_is_no_choice() {
    refused(
        &with(&[("sets = [\"web-w1\"]", "sets = [\"web-w1\"]\ntable_size = 65536")]),
        r#"
error: table_size 65536 of pool "west" of service "web" is not one of the primes that Weir uses
  --> weir.toml:45:14
   |
45 | table_size = 65536
   |              ^^^^^
   = help: write table_size = 65537; possible are [4093, 16381, 65537, 655373]"#,
    );
}

#[test]
fn a_table_that_is_too_small() {
    refused(
        &with(&[
            ("address = \"10.1.1.11\"", "address = \"10.1.1.11\"\nweight = 5000"),
            ("address = \"10.1.2.12\"", "address = \"10.1.2.12\"\nweight = 1"),
            ("sets = [\"web-w1\"]", "sets = [\"web-w1\"]\ntable_size = 4093"),
        ]),
        r#"
error: table_size 4093 of pool "west" of service "web" is too small: backend "b2" (weight 1 of 5001) would get 1 slot instead of 0.81
  --> weir.toml:47:14
   |
47 | table_size = 4093
   |              ^^^^
   = help: write table_size = 16381, or bring the weights closer together"#,
    );
}

#[test]
fn weights_that_no_table_can_tell_apart() {
    refused(
        &with(&[
            ("address = \"10.1.1.11\"", "address = \"10.1.1.11\"\nweight = 65535"),
            (
                "address = \"10.1.2.12\"",
                "address = \"10.1.2.12\"\nweight = 1\n[[set.backend]]\nname = \"b4\"\nrack = \"west/w1/r2\"\naddress = \"10.1.2.13\"\nweight = 65535\n[[set.backend]]\nname = \"b5\"\nrack = \"west/w1/r2\"\naddress = \"10.1.2.14\"\nweight = 65535",
            ),
        ]),
        r#"
error: table_size 65537 of pool "west" of service "web" is too small: backend "b2" (weight 1 of 196606) would get 1 slot instead of 0.33
  --> weir.toml:54:1
   |
54 | [[service.pool]]
   | ^^^^^^^^^^^^^^^^
   = help: no table size would do: bring the weights closer together, or split the pool"#,
    );
}

#[test]
fn a_plan_without_default() {
    refused(
        &with(&[("default = [\"west\", \"east\"]", "west = [\"west\"]")]),
        r#"
error: the plan of service "web" has no "default"
  --> weir.toml:48:1
   |
48 | [service.plan]
   | ^^^^^^^^^^^^^^
   = help: add default = ["east", "west"], the pools in the order in which they are tried"#,
    );
}

#[test]
fn a_plan_that_names_no_pool() {
    refused(
        &with(&[("default = [\"west\", \"east\"]", "default = []")]),
        r#"
error: plan "default" of service "web" names no pool
  --> weir.toml:49:11
   |
49 | default = []
   |           ^^
   = help: name the pools in the order in which they are tried"#,
    );
}

#[test]
fn a_plan_for_an_unknown_client_region() {
    refused(
        &with(&[("default = [\"west\", \"east\"]", "default = [\"west\", \"east\"]\nwets = [\"west\"]")]),
        r#"
error: the plan of service "web" names client region "wets", which is not defined
  --> weir.toml:50:1
   |
50 | wets = ["west"]
   | ^^^^
   = help: did you mean "west"? known client regions: "default", "west""#,
    );
}

#[test]
fn a_plan_with_an_unknown_pool() {
    refused(
        &with(&[("default = [\"west\", \"east\"]", "default = [\"west\", \"eats\"]")]),
        r#"
error: plan "default" of service "web" names pool "eats", which is not defined
  --> weir.toml:49:20
   |
49 | default = ["west", "eats"]
   |                    ^^^^^^
   = help: did you mean "east"? known pools: "east", "west""#,
    );
}

#[test]
fn a_plan_with_a_pool_twice() {
    refused(
        &with(&[("default = [\"west\", \"east\"]", "default = [\"west\", \"east\", \"west\"]")]),
        r#"
error: plan "default" of service "web" names pool "west" twice
  --> weir.toml:49:28
   |
49 | default = ["west", "east", "west"]
   |                            ^^^^^^
  ::: weir.toml:49:12
   |
49 | default = ["west", "east", "west"]
   |            ------ first named here
   = help: remove one: a pool that was tried is not tried again"#,
    );
}

#[test]
fn a_plan_that_is_too_long() {
    refused(
        &with(&[(
            "default = [\"west\", \"east\"]",
            "default = [\"1\", \"2\", \"3\", \"4\", \"5\", \"6\", \"7\", \"8\", \"9\"]",
        )]),
        r#"
error: plan "default" of service "web" names 9 pools
  --> weir.toml:49:11
   |
49 | default = ["1", "2", "3", "4", "5", "6", "7", "8", "9"]
   |           ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
   = help: MAX_PLAN_STEPS is 8; join sets into fewer pools"#,
    );
}
