//! Access lists, limits and priority classes.

use lb_userspace::config::{AccessList, IpPrefix, Limits, Priority, Rate, SourceLimits};

use crate::base::{accepted, errors, refused, with};

/// The base with these lines in its service.
fn service(lines: &str) -> String {
    with(&[("protocol = \"tcp\"\n", &format!("protocol = \"tcp\"\n{lines}\n"))])
}

fn prefixes(texts: &[&str]) -> Vec<IpPrefix> {
    texts.iter().map(|text| IpPrefix::parse(text).unwrap()).collect()
}

/// Asserts that each of these lines is refused with these words and a remedy.
#[track_caller]
fn each_refused(cases: &[(&str, &str)]) {
    for (lines, words) in cases {
        let shown = errors(&service(lines)).to_string();
        assert!(shown.contains(words) && shown.contains("= help:"), "{lines}: {shown}");
    }
}

#[test]
fn nothing_said_is_nothing_guarded() {
    let config = accepted(&with(&[]));
    let protection = &config.services[0].protection;
    assert!(!protection.is_guarded() && protection.priority == Priority::P2);
    assert!(!accepted(&service("priority = \"P3\"")).services[0].protection.is_guarded());
}

#[test]
fn lists_are_sorted_and_said_twice_is_said_once() {
    let lines = "access = { allow = [\"203.0.113.0/24\", \"198.51.100.0/24\", \"203.0.113.0/24\"], deny = [\"198.51.100.0/25\"] }";
    let config = accepted(&service(lines));
    let expected = AccessList {
        allow: prefixes(&["198.51.100.0/24", "203.0.113.0/24"]),
        deny: prefixes(&["198.51.100.0/25"]),
    };
    assert_eq!(config.services[0].protection.access, expected);
}

#[test]
fn limits_have_a_burst_of_a_tenth_of_a_second() {
    let lines = "limits = { packets_per_second = 1000, new_flows_per_second = 3, max_new_flows = 7, per_source = { packets_per_second = 50, burst = 1 } }";
    let limits = accepted(&service(lines)).services[0].protection.limits;
    let expected = Limits {
        packets: Some(Rate { per_second: 1_000, burst: 100 }),
        new_flows: Some(Rate { per_second: 3, burst: 1 }),
        max_new_flows: Some(7),
        per_source: Some(SourceLimits {
            v4: 24,
            v6: 56,
            packets: Some(Rate { per_second: 50, burst: 1 }),
            new_flows: None,
        }),
    };
    assert_eq!(limits, expected);
}

#[test]
fn what_makes_no_sense_is_refused() {
    each_refused(&[
        ("priority = \"P4\"", "cannot be \"P4\""),
        ("access = {}", "says nothing"),
        ("access = { allow = [] }", "is empty"),
        (
            "access = { allow = [\"10.0.0.0/8\"], deny = [\"10.0.0.0/8\"] }",
            "both allows and denies 10.0.0.0/8",
        ),
        ("access = { deny = [\"::ffff:10.0.0.0/104\"] }", "IPv4-mapped"),
        ("access = { deny_file = \"deny.txt\" }", "no absolute path"),
        ("access = { deny_file = \"/nonexistent/deny.txt\" }", "cannot be read"),
        ("access = { deny_file = \"/\" }", "is no regular file"),
        ("access = { deni = [] }", "unknown key \"deni\""),
        ("limits = {}", "says nothing"),
        ("limits = { burst = 5 }", "burst without packets_per_second"),
        ("limits = { packets_per_second = 0 }", "out of range"),
        ("limits = { packets_per_second = 100000001 }", "out of range"),
        ("limits = { packets_per_second = 1, burst = 100000001 }", "out of range"),
        ("limits = { max_new_flows = -1 }", "out of range"),
        ("limits = { per_source = { v4 = 24 } }", "limits nothing"),
        ("limits = { per_source = { v4 = 33, packets_per_second = 1 } }", "v4 = 33"),
        ("limits = { per_source = { v6 = 65, packets_per_second = 1 } }", "v6 = 65"),
        ("limits = { per_source = { v4 = 0, packets_per_second = 1 } }", "v4 = 0"),
    ]);
    let text = with(&[("region = \"west\"\n", "region = \"west\"\nmax_new_flows = 0\n")]);
    assert!(errors(&text).to_string().contains("max_new_flows = 0 of [node] is out of range"));
}

#[test]
fn a_prefix_has_its_place_and_its_remedy() {
    refused(
        &service("access = { deny = [\"198.51.100.1/24\"] }"),
        r#"
error: prefix "198.51.100.1/24" has bits set beyond its length
  --> weir.toml:42:20
   |
42 | access = { deny = ["198.51.100.1/24"] }
   |                    ^^^^^^^^^^^^^^^^^
   = help: write "198.51.100.0/24""#,
    );
}

#[test]
fn files_of_prefixes_have_comments_and_lines() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("deny.txt");
    let lines = format!("access = {{ deny = [\"192.0.2.0/24\"], deny_file = \"{}\" }}", path.display());
    std::fs::write(&path, "# those\n\n  203.0.113.0/24 # this one\n2001:db8:bad::/48\n203.0.113.0/24\n")
        .unwrap();
    let config = accepted(&service(&lines));
    let expected = prefixes(&["192.0.2.0/24", "203.0.113.0/24", "2001:db8:bad::/48"]);
    assert_eq!(config.services[0].protection.access.deny, expected);

    std::fs::write(&path, "203.0.113.0/24\n203.0.113.1/24\n").unwrap();
    let shown = errors(&service(&lines)).to_string();
    assert!(shown.contains("has no prefix in line 2: \"203.0.113.1/24\""), "{shown}");

    let many: String =
        (0..=102_400_u32).map(|i| format!("{}/32\n", std::net::Ipv4Addr::from_bits(i))).collect();
    std::fs::write(&path, many).unwrap();
    assert!(errors(&service(&lines)).to_string().contains("MAX_LIST_PREFIXES is 102400"));
}
