//! Addresses and tunnel sources.

use crate::base::{refused, with};

#[test]
fn tunnel_sources_that_cannot_be() {
    refused(
        &with(&[(
            "tunnel_source_v4 = \"10.255.0.0/16\"",
            "tunnel_source_v4 = \"10.255.0.1/16\"\ntunnel_source_v6 = \"fd00::/31\"",
        )]),
        r#"
error: tunnel_source_v4 "10.255.0.1/16" has bits set beyond its length
 --> weir.toml:6:20
  |
6 | tunnel_source_v4 = "10.255.0.1/16"
  |                    ^^^^^^^^^^^^^^^
  = help: write "10.255.0.0/16"

error: tunnel source "fd00::/31" is too large
 --> weir.toml:7:20
  |
7 | tunnel_source_v6 = "fd00::/31"
  |                    ^^^^^^^^^^^
  = help: the length must be at least /32"#,
    );
}

#[test]
fn tunnel_sources_of_the_wrong_family() {
    refused(
        &with(&[(
            "tunnel_source_v4 = \"10.255.0.0/16\"",
            "tunnel_source_v4 = \"fd00:ff::/64\"\ntunnel_source_v6 = \"10.255.0.0/16\"",
        )]),
        r#"
error: tunnel_source_v4 "fd00:ff::/64" is no IPv4 prefix
 --> weir.toml:6:20
  |
6 | tunnel_source_v4 = "fd00:ff::/64"
  |                    ^^^^^^^^^^^^^^
  = help: tunnel_source_v4 takes IPv4, tunnel_source_v6 takes IPv6

error: tunnel_source_v6 "10.255.0.0/16" is no IPv6 prefix
 --> weir.toml:7:20
  |
7 | tunnel_source_v6 = "10.255.0.0/16"
  |                    ^^^^^^^^^^^^^^^
  = help: tunnel_source_v4 takes IPv4, tunnel_source_v6 takes IPv6"#,
    );
}

#[test]
fn a_tunnel_source_that_is_multicast() {
    refused(
        &with(&[("10.255.0.0/16", "239.0.0.0/8")]),
        r#"
error: no host can send from "239.0.0.0/8"
 --> weir.toml:6:20
  |
6 | tunnel_source_v4 = "239.0.0.0/8"
  |                    ^^^^^^^^^^^^^
  = help: choose a private prefix without hosts, such as "10.255.0.0/16" or "fd00:ff::/64""#,
    );
}

#[test]
fn a_tunnel_source_that_is_missing() {
    refused(
        &with(&[
            ("tunnel_source_v4 = \"10.255.0.0/16\"\n", ""),
            ("address = \"10.9.1.13\"", "address = \"fd00:9:1::13\""),
        ]),
        r#"
error: [node] has no "tunnel_source_v4"
  --> weir.toml:1:1
   |
 1 | [node]
   | ^^^^^^
  ::: weir.toml:24:11
   |
24 | address = "10.1.1.11"
   |           ----------- a tunnel to here needs it
   = help: add tunnel_source_v4 = "10.255.0.0/16": the outer source of tunnelled packets, unused elsewhere

error: [node] has no "tunnel_source_v6"
  --> weir.toml:1:1
   |
 1 | [node]
   | ^^^^^^
  ::: weir.toml:35:11
   |
35 | address = "fd00:9:1::13"
   |           -------------- a tunnel to here needs it
   = help: add tunnel_source_v6 = "fd00:ff::/64": the outer source of tunnelled packets, unused elsewhere"#,
    );
}

#[test]
fn hosts_inside_the_tunnel_source() {
    refused(
        &with(&[("10.255.0.0/16", "10.1.0.0/16")]),
        r#"
error: 10.1.1.11 lies in the tunnel source 10.1.0.0/16
  --> weir.toml:25:11
   |
25 | address = "10.1.1.11"
   |           ^^^^^^^^^^^
   = help: every address of the tunnel source is used by this host: choose a prefix without hosts

error: 10.1.2.12 lies in the tunnel source 10.1.0.0/16
  --> weir.toml:29:11
   |
29 | address = "10.1.2.12"
   |           ^^^^^^^^^^^
   = help: every address of the tunnel source is used by this host: choose a prefix without hosts"#,
    );
}

#[test]
fn a_vip_that_cannot_be() {
    refused(
        &with(&[("192.0.2.10", "224.0.0.1")]),
        r#"
error: address of service "web" cannot be 224.0.0.1, a multicast address
  --> weir.toml:39:11
   |
39 | address = "224.0.0.1"
   |           ^^^^^^^^^^^
   = help: use an address that is routed to one host"#,
    );
}

#[test]
fn backend_addresses_that_cannot_be() {
    refused(
        &with(&[
            ("10.1.1.11", "127.0.0.1"),
            ("10.1.2.12", "::ffff:10.1.2.12"),
            ("10.9.1.13", "10.9.1.13:80"),
        ]),
        r#"
error: address of backend "b1" cannot be 127.0.0.1, a loopback address
  --> weir.toml:25:11
   |
25 | address = "127.0.0.1"
   |           ^^^^^^^^^^^
   = help: use an address that is routed to one host

error: address of backend "b2" cannot be ::ffff:10.1.2.12, an IPv4-mapped address
  --> weir.toml:29:11
   |
29 | address = "::ffff:10.1.2.12"
   |           ^^^^^^^^^^^^^^^^^^
   = help: write "10.1.2.12"

error: address of backend "b3" cannot be "10.9.1.13:80"
  --> weir.toml:36:11
   |
36 | address = "10.9.1.13:80"
   |           ^^^^^^^^^^^^^^
   = help: write an IPv4 or IPv6 address without port, length or brackets"#,
    );
}

#[test]
fn more_addresses_that_cannot_be() {
    refused(
        &with(&[("10.1.1.11", "0.0.0.0"), ("10.1.2.12", "255.255.255.255"), ("10.9.1.13", "fe80::1")]),
        r#"
error: address of backend "b1" cannot be 0.0.0.0, the unspecified address
  --> weir.toml:25:11
   |
25 | address = "0.0.0.0"
   |           ^^^^^^^^^
   = help: use an address that is routed to one host

error: address of backend "b2" cannot be 255.255.255.255, the broadcast address
  --> weir.toml:29:11
   |
29 | address = "255.255.255.255"
   |           ^^^^^^^^^^^^^^^^^
   = help: use an address that is routed to one host

error: address of backend "b3" cannot be fe80::1, a link-local address, which is not routed
  --> weir.toml:36:11
   |
36 | address = "fe80::1"
   |           ^^^^^^^^^
   = help: use an address that is routed to one host"#,
    );
}

#[test]
fn a_service_address_twice() {
    refused(
        &with(&[(
            "[service.plan]\ndefault = [\"west\", \"east\"]\n",
            "[service.plan]\ndefault = [\"west\", \"east\"]\n[[service]]\nname = \"web2\"\naddress = \"192.0.2.10\"\nport = 80\nprotocol = \"tcp\"\n[[service.pool]]\nname = \"all\"\nsets = [\"web-w1\"]\n",
        )]),
        r#"
error: two services have the address 192.0.2.10:80/tcp
  --> weir.toml:52:11
   |
52 | address = "192.0.2.10"
   |           ^^^^^^^^^^^^
  ::: weir.toml:39:11
   |
39 | address = "192.0.2.10"
   |           ------------ first used here
   = help: give one of them another address, port or protocol, or merge their pools into one service"#,
    );
}

#[test]
fn a_backend_at_a_vip() {
    refused(
        &with(&[("10.1.1.11", "192.0.2.10")]),
        r#"
error: the address of backend "b1" is the VIP 192.0.2.10
  --> weir.toml:25:11
   |
25 | address = "192.0.2.10"
   |           ^^^^^^^^^^^^
  ::: weir.toml:39:11
   |
39 | address = "192.0.2.10"
   |           ------------ the service's address
   = help: give the host's own address: its tunnel ends there, and packets to the VIP come back here"#,
    );
}

#[test]
fn an_address_twice_in_a_set() {
    refused(
        &with(&[("10.1.2.12", "10.1.1.11")]),
        r#"
error: two backends of one set have the address 10.1.1.11
  --> weir.toml:29:11
   |
29 | address = "10.1.1.11"
   |           ^^^^^^^^^^^
  ::: weir.toml:25:11
   |
25 | address = "10.1.1.11"
   |           ----------- first used here
   = help: remove one; to give a host a larger share, raise its weight"#,
    );
}

#[test]
fn an_address_in_two_racks() {
    refused(
        &with(&[("10.9.1.13", "10.1.1.11")]),
        r#"
error: backend "b3" has the address of "b1", in another rack
  --> weir.toml:36:11
   |
36 | address = "10.1.1.11"
   |           ^^^^^^^^^^^
  ::: weir.toml:25:11
   |
25 | address = "10.1.1.11"
   |           ----------- first used here
   = help: one host stands in one rack: correct the address or the rack of one of them"#,
    );
}
