//! What is served over TCP.

use crate::base::{BASE, accepted, refused};

#[test]
fn nothing_is_served_over_tcp_unless_the_file_says_so() {
    assert_eq!(accepted(BASE).http.listen, None);
    assert_eq!(accepted(&format!("{BASE}[http]\n")).http.listen, None);
    for address in ["127.0.0.1:9440", "[::1]:9440", "0.0.0.0:1"] {
        let config = accepted(&format!("{BASE}[http]\nlisten = \"{address}\"\n"));
        assert_eq!(config.http.listen, Some(address.parse().unwrap()));
    }
}

#[test]
fn addresses_that_cannot_be_are_refused_with_an_example() {
    refused(
        &format!("{BASE}[http]\nlisten = \"localhost:9440\"\nport = 1\n"),
        r#"
error: listen "localhost:9440" of [http] is no address with a port
  --> weir.toml:51:10
   |
51 | listen = "localhost:9440"
   |          ^^^^^^^^^^^^^^^^
   = help: write an address and a port, such as "127.0.0.1:9440" or "[2001:db8::5]:9440"

error: unknown key "port" in [http]
  --> weir.toml:52:1
   |
52 | port = 1
   | ^^^^
   = help: known keys: "listen""#,
    );
    for (address, problem) in [("127.0.0.1:0", "has port 0"), ("224.0.0.1:80", "is a multicast address")] {
        refused(
            &format!("{BASE}[http]\nlisten = \"{address}\"\n"),
            &format!(
                r#"
error: listen "{address}" of [http] {problem}
  --> weir.toml:51:10
   |
51 | listen = "{address}"
   |          {}
   = help: write an address and a port, such as "127.0.0.1:9440" or "[2001:db8::5]:9440""#,
                "^".repeat(address.len() + 2)
            ),
        );
    }
}
